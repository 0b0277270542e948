"""deploy/monitoring against the real thing: a Prometheus that scrapes a broker."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import MakeBroker
from harness import mqtt, ports
from harness.processes import Child
from harness.wait import wait_until

_MONITORING = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
_ALERTS = (_MONITORING / "alerts.yaml").read_text()
_DASHBOARD = json.loads((_MONITORING / "dashboard.json").read_text())

# Empty while all is well: what only grows, or only waits, at times.
_MAY_BE_EMPTY = {"Nearly full in", "Waiting for a parked topic", "Starts"}


def _queries() -> Iterator[tuple[str, str]]:
    """What the dashboard asks, by panel, with Grafana's variables replaced."""
    panels = [(panel["title"], target["expr"]) for panel in _DASHBOARD["panels"] for target in panel.get("targets", [])]
    notes = [(note["name"], note["expr"]) for note in _DASHBOARD["annotations"]["list"]]
    for title, text in panels + notes:
        yield title, text.replace("$__rate_interval", "30s").replace("$job", ".*").replace("$instance", ".*")


class _Prometheus:
    """A Prometheus with the example's configuration, faster, for one broker."""

    def __init__(self, directory: Path, health_port: int) -> None:
        self._port = ports.free_port()
        config = (_MONITORING / "prometheus.yml").read_text()
        for old, new in (("127.0.0.1:8080", f"127.0.0.1:{health_port}"), ("interval: 15s", "interval: 500ms")):
            assert old in config
            config = config.replace(old, new)
        (directory / "prometheus.yml").write_text(config)
        (directory / "alerts.yaml").write_text(_ALERTS)
        self.child = Child(
            "prometheus",
            [
                "prometheus",
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            directory / "prometheus.log",
        )

    def get(self, path: str, **arguments: str) -> dict:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        return found["data"]

    def query(self, text: str) -> list[dict]:
        return self.get("query", query=text)["result"]

    def scraped(self, n: int) -> bool:
        """Has the broker been scraped so often?"""
        try:
            return any(int(row["value"][1]) >= n for row in self.query("count_over_time(metamorphosis_live[1m])"))
        except OSError:
            return False


@pytest.fixture
def make_prometheus(tmp_path: Path) -> Iterator[type]:
    started: list[_Prometheus] = []

    def make(health_port: int) -> _Prometheus:
        (tmp_path / "prometheus").mkdir()
        started.append(_Prometheus(tmp_path / "prometheus", health_port))
        return started[-1]

    yield make
    for prometheus in started:
        prometheus.child.terminate(20)


def test_rules_and_dashboard_ask_for_what_is_there(
    make_broker: MakeBroker, make_prometheus: type, kafka_port_of_nobody: int, tmp_path: Path
) -> None:
    """Each metric that the alerts and the dashboard name is in a scrape. A real Prometheus evaluates every alert and
    every query without an error, and each query that cannot be empty finds something. With Kafka away, it is about to
    say so, and nothing else."""
    broker = make_broker({"kafka_broker": f"127.0.0.1:{kafka_port_of_nobody}", "spool_dir": tmp_path / "spool"}).start()
    mqtt.publish_all(broker.port, [("a", b"x")] * 20)
    families = set(broker.health.scrape().types)
    text = _ALERTS + json.dumps([query for _, query in _queries()])
    named = {re.sub(r"_bucket$", "", name) for name in re.findall(r"\bmetamorphosis_\w+", text)}
    assert len(named) > 30
    assert named <= families, f"nobody has {sorted(named - families)}"

    prometheus = make_prometheus(broker.health_port)
    wait_until(lambda: prometheus.scraped(5), 30, lambda: f"five scrapes\n{prometheus.child.tail()}")
    for title, query in _queries():
        found = prometheus.query(query)
        assert found or title in _MAY_BE_EMPTY, f"{title}: nothing is found by {query}"

    def rules() -> list[dict]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] == "ok" for rule in rules()), 10, lambda: f"rules are evaluated: {rules()}")
    assert {rule["name"] for rule in rules()} == set(re.findall(r"^ +- alert: (\w+)$", _ALERTS, re.MULTILINE))
    told = {rule["name"] for rule in rules() if rule["state"] != "inactive"}
    assert told == {"MetamorphosisKafkaUnreachable"}
