"""The status page and /status, in a real browser: what a person sees when all is well, and when it is not."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import MakeBroker, MakeKafka
from harness import mqtt
from harness.broker import Broker
from harness.browser import Browser
from harness.kafka import Kafka, unique
from harness.wait import wait_until

# A topic and a client that no page may name.
_SECRET = "secret-line-7"

# For each element with text of its own: the contrast of that text with what is behind it (WCAG 2).
_CONTRASTS = """(() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (c) => {
    const [r, g, b] = c.slice(0, 3).map((v) => {
      v /= 255;
      return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = parts(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  return [...document.body.querySelectorAll("*")]
    .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .map((e) => {
      const [a, b] = [light(parts(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
      return [e.innerText, (a + 0.05) / (b + 0.05)];
    });
})()"""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Asked for before the broker, it outlives it."""
    found = Browser(tmp_path / "browser")
    yield found
    found.close()


def _status(broker: Broker) -> dict[str, Any]:
    answer = broker.health.request("/status")
    assert answer.status == 200 and answer.headers["content-type"] == "application/json"
    assert _SECRET not in answer.text
    return json.loads(answer.text)


def _wait_status(broker: Broker, title: str, timeout: float = 20) -> dict[str, Any]:
    """Ask until /status has this title."""
    last: list[dict[str, Any]] = []

    def has() -> dict[str, Any] | None:
        last[:] = [_status(broker)]
        return last[0] if re.fullmatch(title, last[0]["title"]) else None

    return wait_until(has, timeout, lambda: f"/status says {title!r}; it says {last}")


def _problems(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {problem["id"]: problem for problem in status["problems"]}


def _see(browser: Browser, broker: Broker, title: str, level: str) -> dict[str, Any]:
    """Wait until the page says the same as /status, without having been loaded again."""
    status = _wait_status(broker, title)
    assert status["level"] == level
    wait_until(lambda: browser.text("h1") == status["title"], 10, lambda: f"{title}; it says {browser.text('h1')!r}")
    assert browser.run("document.body.dataset.level") == level
    assert browser.run("window.loadedOnce") is True
    assert re.fullmatch(r"(For .+, since|Just now, at) \d\d:\d\d:\d\d\.", browser.text("#since"))
    assert browser.complaints == []
    assert _SECRET not in browser.text("body")
    return status


def _look(browser: Browser, name: str, directory: Path) -> None:
    """The page as people have it: light, dark, on a phone. Readable in all of them, and nothing is cut off. Pictures go
    to MM_TEST_SCREENSHOTS, if that is set."""
    pictures = Path(os.environ.get("MM_TEST_SCREENSHOTS") or directory)
    for kind, width, dark in (("light", 1100, False), ("dark", 1100, True), ("phone", 360, False)):
        browser.look_like(width, dark=dark)
        time.sleep(0.5)  # the bar moves to its place
        assert browser.run("document.documentElement.scrollWidth") <= width
        poor = [(text, round(ratio, 2)) for text, ratio in browser.run(_CONTRASTS) if ratio < 4.5]
        assert not poor, f"{name}, {kind}: hard to read: {poor}"
        browser.screenshot(pictures / f"{name}-{kind}.png")


@dataclass
class _Stage:
    """A page that stays open, and what it tells of."""

    browser: Browser
    kafka: Kafka
    broker: Broker
    topic: str
    missing: str  # a Kafka topic that is not there
    pictures: Path


def _all_is_well(s: _Stage) -> None:
    """All is well."""
    with mqtt.Client(s.broker.port, f"client-{_SECRET}") as client:
        for _ in range(200):
            client.publish(f"plant/{_SECRET}", b"x" * 100, 1)
    s.broker.health.wait_drained(10)
    status = _see(s.browser, s.broker, "All is well", "ok")
    assert status["healthy"] and status["ready"] and status["live"] and status["problems"] == []
    assert status["flow"]["received"] == status["flow"]["delivered"] == 200
    assert status["flow"]["difference"] == 0
    assert [(t["kafka_topic"], t["delivered"]) for t in status["topics"]] == [(s.topic, 200), (s.missing, 0)]
    assert s.browser.text("#problems") == ""
    wait_until(lambda: s.browser.text("#out-more") == "200 in all", 10, "the page counts")
    _look(s.browser, "healthy", s.pictures)


def _is_accessible(s: _Stage) -> None:
    """The headings tell the order; what changes is told to those who listen; the keyboard reaches what can be used."""
    levels = s.browser.run("[...document.querySelectorAll('h1, h2')].filter((e) => e.checkVisibility()).map((e) => e.tagName)")
    assert levels[0] == "H1" and set(levels[1:]) == {"H2"}
    assert s.browser.run("document.querySelectorAll('[aria-live]').length") == 1
    reached = set()
    for _ in range(8):
        s.browser.press("Tab")
        reached.add(s.browser.run("document.activeElement.getAttribute('href') ?? document.activeElement.className"))
    assert {"table", "status", "metrics", "dead"} <= reached


def _topic_refused(s: _Stage) -> None:
    """One topic is refused; the others go on."""
    mqtt.publish_all(s.broker.port, [(f"alarm/{_SECRET}", b"x")] * 30 + [("plant/a", b"x")] * 10)
    status = _see(s.browser, s.broker, f"Kafka refuses the topic {s.missing}", "warning")
    (parked,) = [t for t in status["topics"] if t["parked"]]
    assert parked["kafka_topic"] == s.missing and parked["messages"] == 30
    assert parked["error"] in ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC") and parked["reason"] == "it is not there"
    problem = _problems(status)["parked"]
    assert "30 messages wait" in problem["text"] and parked["error"] in problem["text"]
    assert s.browser.text("#problems .do") == problem["advice"] == "Make the topic in Kafka, or change the route."
    row = rf"{s.missing}\s+parked: it is not there\s+0\s+0\s+30\s+(under )?\d+ s\s+(soon|now|in (under )?\d+ s)\b"
    assert re.search(row, s.browser.text("#topics")), s.browser.text("#topics")
    _look(s.browser, "parked", s.pictures)
    s.kafka.create_topic(s.missing)
    status = _see(s.browser, s.broker, "All is well", "ok")
    assert [(e["id"], e["title"]) for e in status["events"]] == [("parked", "Kafka refused a topic")]
    assert {t["kafka_topic"]: t["delivered"] for t in status["topics"]} == {s.topic: 210, s.missing: 30}
    assert status["events"][0]["ended"] > status["events"][0]["began"] >= status["started"]


def _kafka_gone(s: _Stage) -> None:
    """Kafka is gone."""
    s.kafka.kill()
    mqtt.publish_all(s.broker.port, [("plant/a", b"x" * 1000)] * 20)
    status = _see(s.browser, s.broker, "Kafka is not reached", "warning")
    assert not status["healthy"] and status["ready"]
    assert not any(w["kafka_reached"] for w in status["workers"])
    # Before it has tried again, it knows only that the connection is gone.
    wait_until(
        lambda: "Reason: nobody answers." in _problems(_wait_status(s.broker, "Kafka is not reached"))["kafka"]["text"],
        10,
        "the reason is told",
    )
    assert "kept in the spool" in s.browser.text("#text")
    assert "waiting for Kafka" in s.browser.text("#workers")
    _look(s.browser, "kafka-down", s.pictures)


def _spool_fills(s: _Stage) -> None:
    """The spool fills; the page says how long it will last."""
    for _ in range(8):
        mqtt.publish_all(s.broker.port, [("plant/a", b"x" * 1000)] * 400)
        if _status(s.broker)["spool"]["bytes"] > 0.76 * 4 * 1024 * 1024:
            break
        time.sleep(0.2)
    status = _see(s.browser, s.broker, "The spool is nearly full", "critical")
    assert list(_problems(status)) == ["nearly_full", "kafka"]
    wait_until(lambda: _status(s.broker)["spool"]["seconds_to_full"] is not None, 10, "the time to full is known")
    wait_until(lambda: s.browser.text("#spool-left").startswith("full in about"), 10, "the page says so")
    used = "Number(document.getElementById('bar').getAttribute('aria-valuenow'))"
    wait_until(lambda: 75 <= s.browser.run(used) < 100, 10, "the bar is where it should be")
    assert re.fullmatch(r"Spool \d\d % used", s.browser.text("#spool-label"))
    _look(s.browser, "nearly-full", s.pictures)


def _turned_away(s: _Stage) -> None:
    """Publishers are turned away."""
    with mqtt.Client(s.broker.port) as client, pytest.raises(mqtt.Closed):
        for _ in range(2000):
            client.publish("plant/a", b"x" * 1000, 1)
    status = _see(s.browser, s.broker, "Publishers are turned away", "critical")
    assert status["flow"]["refused"] >= 1 and status["flow"]["refused_by_reason"]["spool_full"] >= 1
    assert s.browser.text("#refused") == str(status["flow"]["refused"])
    assert s.browser.text("#dropped") == "0"


def _broker_gone(s: _Stage) -> None:
    """The broker is gone, and the page says that it does not know any more. That the browser does not reach it is the
    browser's own complaint."""
    s.browser.look_like(1100, dark=False)
    s.broker.kill()
    wait_until(lambda: s.browser.text("h1") == "The plugin does not answer", 20, "the page misses the plugin")
    assert "What is below is old." in s.browser.text("#text")
    assert s.browser.run("document.body.dataset.level") == "none"
    _look(s.browser, "no-answer", s.pictures)


def _all_back(s: _Stage) -> None:
    """And both are back."""
    s.kafka.start()
    s.broker.start()
    wait_until(lambda: s.browser.text("h1") != "The plugin does not answer", 20, "the page is answered again")
    assert all(c.startswith("network error: Failed to load resource: net::ERR_CONNECTION") for c in s.browser.complaints)
    s.browser.complaints.clear()
    status = _see(s.browser, s.broker, "All is well", "ok")
    s.broker.health.wait_drained(20)
    own = {f"http://127.0.0.1:{s.broker.health_port}/{path}" for path in ("", "status", "page.css", "page.js", "page.svg")}
    assert {url for url in s.browser.requests if not url.startswith("about:")} == own


def test_four_states(browser: Browser, make_kafka: MakeKafka, make_broker: MakeBroker, tmp_path: Path) -> None:
    """A page that stays open sees, one after the other: all is well; a Kafka topic that is refused, and is mended; Kafka
    gone; a spool that is nearly full; publishers turned away; Kafka back; the broker gone. Each time in words, with what
    to do, and without an error or a forbidden request in the browser."""
    kafka = make_kafka()
    kafka.start()
    topic = kafka.new_topic()
    missing = unique("missing")
    broker = make_broker(
        [
            ("kafka_broker", kafka.bootstrap),
            ("kafka_topic", topic),
            ("route", f"alarm/# {missing}"),
            ("kafka_retry_interval", 1),
            ("spool_dir", tmp_path / "spool"),
            ("spool_max_bytes", "4M"),
            ("rdkafka.topic.metadata.propagation.max.ms", 300),
        ]
    ).start()
    browser.open(f"http://127.0.0.1:{broker.health_port}/")
    browser.run("window.loadedOnce = true")
    stage = _Stage(browser, kafka, broker, topic, missing, tmp_path)
    _all_is_well(stage)
    _is_accessible(stage)
    _topic_refused(stage)
    _kafka_gone(stage)
    _spool_fills(stage)
    _turned_away(stage)
    _broker_gone(stage)
    _all_back(stage)


def _paths(value: Any, path: str = "") -> set[str]:
    """The fields of a document, as docs/status.md names them. Reasons are values there."""
    if isinstance(value, dict) and not path.endswith("_by_reason"):
        return set().union(*(_paths(member, f"{path}.{name}".lstrip(".")) for name, member in value.items()))
    if isinstance(value, list):
        return {f"{path}[]"}.union(*(_paths(member, f"{path}[]") for member in value))
    return {path}


def test_each_field_is_documented(make_broker: MakeBroker, kafka_port_of_nobody: int) -> None:
    """docs/status.md has each field of /status, and no other."""
    broker = make_broker({"kafka_broker": f"127.0.0.1:{kafka_port_of_nobody}"}).start()
    status = _wait_status(broker, "Kafka has not been reached yet")
    assert status["events"] and status["topics"] and status["workers"]
    text = (Path(__file__).resolve().parents[2] / "docs" / "status.md").read_text()
    cells = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    documented = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    # A list of things is itself no field but where it is described.
    assert {path for path in _paths(status) if path != "workers[]"} == documented
