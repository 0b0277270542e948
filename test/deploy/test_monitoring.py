"""deploy/monitoring: the alerts fire when they should, their runbooks are there, the dashboard is sound."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from tools import DEPLOY, ROOT, succeed

_MONITORING = DEPLOY / "monitoring"
_ALERTS = _MONITORING / "alerts.yaml"
_TESTS = _MONITORING / "alerts.test.yaml"
_DASHBOARD = _MONITORING / "dashboard.json"
_OPERATIONS = ROOT / "docs" / "operations.md"


def _rules() -> list[dict]:
    return [rule for group in yaml.safe_load(_ALERTS.read_text())["groups"] for rule in group["rules"]]


def test_promtool_takes_the_configuration() -> None:
    """Prometheus reads the example and, with it, the alerts."""
    succeed("promtool", "check", "config", _MONITORING / "prometheus.yml")
    found = succeed("promtool", "check", "rules", _ALERTS)
    assert f"{len(_rules())} rules found" in found


def test_alerts_fire_when_they_should() -> None:
    """promtool's unit tests pass; each alert is seen to fire in one, and is quiet in the first, where all is well."""
    succeed("promtool", "test", "rules", _TESTS, cwd=_MONITORING)
    tests = yaml.safe_load(_TESTS.read_text())["tests"]
    names = {rule["alert"] for rule in _rules()}
    fired = {check["alertname"] for test in tests for check in test["alert_rule_test"] if check.get("exp_alerts")}
    quiet = {check["alertname"] for check in tests[0]["alert_rule_test"] if not check.get("exp_alerts")}
    assert fired == names
    assert quiet == names


def test_each_alert_has_a_runbook() -> None:
    """Each alert has what a person needs, and a section of docs/operations.md of its name, which says what to do; there
    is no such section without an alert."""
    sections = dict(re.findall(r"^### (Metamorphosis\w+)\n(.*?)(?=^##|\Z)", _OPERATIONS.read_text(), re.M | re.S))
    for rule in _rules():
        name = rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, name
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        assert name in sections, f"{_OPERATIONS.name} has no section {name}"
        for part in ("**It means**", "**Look**", "**Do**"):
            assert part in sections[name], f"the section {name} lacks {part}"
    assert set(sections) == {rule["alert"] for rule in _rules()}


def test_the_chart_has_the_same_alerts() -> None:
    """A chart can only hold files of its own."""
    copy = DEPLOY / "helm" / "metamorphosis" / "files" / "alerts.yaml"
    assert copy.read_text() == _ALERTS.read_text(), f"cp {_ALERTS.relative_to(ROOT)} {copy.relative_to(ROOT)}"


# --- the dashboard ---


def _dashboard() -> dict:
    return json.loads(_DASHBOARD.read_text())


def _expressions() -> Iterator[tuple[str, str]]:
    """Each expression with the title of its panel, Grafana's variables replaced."""
    for panel in _dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for annotation in _dashboard()["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def _without_variables(expression: str) -> str:
    return expression.replace("$__rate_interval", "5m").replace('"$job"', '".*"').replace('"$instance"', '".*"')


def test_dashboard_queries_are_promql(tmp_path: Path) -> None:
    """Each query is understood by Prometheus, once Grafana has put its variables in."""
    rules = []
    for i, (_, expression) in enumerate(_expressions()):
        query = _without_variables(expression)
        assert "$" not in query, query
        rules.append({"record": f"q{i}", "expr": query})
    assert len(rules) > 40
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    succeed("promtool", "check", "rules", file)


def test_dashboard_is_whole() -> None:
    """What Grafana asks of a dashboard: numbers that are unique, a place for each panel with no other in it, a data
    source that the user chooses, and a title and a legend for everybody to see."""
    board = _dashboard()
    assert board["uid"] and board["title"] and board["schemaVersion"] >= 36
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "job", "instance"}
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    titles = [panel["title"] for panel in panels]
    assert all(titles) and len(set(titles)) == len(titles)
    places = [panel["gridPos"] for panel in panels]
    for place in places:
        assert 0 <= place["x"] and place["x"] + place["w"] <= 24 and place["h"] > 0
    for a, b in itertools.combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or below, f"{a} and {b} are in one place"
    for panel in panels:
        assert panel["type"] in ("row", "stat", "timeseries", "state-timeline", "table")
        if panel["type"] == "row":
            continue
        assert panel["description"], f"{panel['title']} has no description"
        letters = [target["refId"] for target in panel["targets"]]
        assert letters and len(set(letters)) == len(letters)
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert 'job=~"$job"' in target["expr"] and 'instance=~"$instance"' in target["expr"]
