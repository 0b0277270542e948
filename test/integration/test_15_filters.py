"""mqtt_topic: which messages are carried."""

from __future__ import annotations

import pytest

from conftest import MakeBroker
from harness import mqtt
from harness.consumer import wait_records
from harness.kafka import Cluster

_TOPICS = [
    "a",
    "a/b",
    "a/b/c",
    "a/x/c",
    "/a",
    "a/",
    "b",
    "b/1",
    "b/1/2/3",
    "c",
    "æ/ø",
    "$own/x",
    "$own/x/y",
    # A client may publish to this one; only the broker's own $SYS messages make no event.
    "$SYS/broker/connection/x/state",
]

_CASES = {
    "#": [t for t in _TOPICS if not t.startswith("$")],
    "+": ["a", "b", "c"],
    "a/+": ["a/b", "a/"],
    "a/#": ["a", "a/b", "a/b/c", "a/x/c", "a/"],
    "a/+/c,b/#": ["a/b/c", "a/x/c", "b", "b/1", "b/1/2/3"],
    "b/1;c , /a": ["/a", "b/1", "c"],
    "+/+": ["a/b", "/a", "a/", "b/1", "æ/ø"],
    "æ/#": ["æ/ø"],
    "$own/#": ["$own/x", "$own/x/y"],
    "#,$own/+": [t for t in _TOPICS if not t.startswith("$")] + ["$own/x"],
    "$SYS/#": ["$SYS/broker/connection/x/state"],
    "nothing": [],
}


@pytest.mark.parametrize(("filters", "expected"), _CASES.items())
def test_only_what_matches(kafka: Cluster, make_broker: MakeBroker, filters: str, expected: list[str]) -> None:
    """Filters by MQTT 5.0 section 4.7, several separated by ',' or ';': exactly the matching topics are carried,
    once each however many filters match, and only they are counted as received."""
    topic = kafka.new_topic()
    broker = make_broker(
        {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "mqtt_topic": filters},
        config_lines=["sys_interval 1"],
    ).start()
    mqtt.publish_all(broker.port, [(t, b"x") for t in _TOPICS])
    metrics = broker.health.wait_drained(10)
    assert metrics.received == metrics.delivered == len(expected)
    records = wait_records(kafka.bootstrap, topic, len(expected))
    assert [record.mqtt_topic for record in records] == expected


def test_overlapping_filters_carry_once(kafka: Cluster, make_broker: MakeBroker) -> None:
    """A message that matches three filters is one record."""
    topic = kafka.new_topic()
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "mqtt_topic": "a/b,a/+,#"}).start()
    mqtt.publish_all(broker.port, [("a/b", b"x")])
    broker.health.wait_drained(10)
    assert len(wait_records(kafka.bootstrap, topic, 1)) == 1
