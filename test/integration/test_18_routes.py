"""route: which Kafka topic a message goes to."""

from __future__ import annotations

import pytest

from conftest import MakeBroker
from harness import mqtt
from harness.consumer import read_topic, wait_records
from harness.kafka import Cluster

# MQTT topic, and the name of the Kafka topic it belongs to, None: not carried.
_MESSAGES: list[tuple[str, str | None]] = [
    ("plant/1/alarm", "alarms"),
    ("plant/1/temperature", "plant"),
    ("office/alarm", "alarms"),
    ("office/temperature", "default"),
    ("plant/quiet/alarm", "alarms"),
    ("plant/quiet/x", "default"),
    ("plant", "plant"),
    ("$own/x", "plant"),
    ("$own", None),
    ("garden/x", None),
    ("plant/2/alarm", "alarms"),
    ("plant/2/alarm/x", "plant"),
]


@pytest.mark.parametrize("workers", [1, 3])
def test_first_match_decides(kafka: Cluster, make_broker: MakeBroker, workers: int) -> None:
    """Two routes and a default into three Kafka topics: the first route that matches decides, a route may lead to
    kafka_topic, and what a route matches is carried though mqtt_topic does not match it. Each message is in one Kafka
    topic, once, and each MQTT topic in its order."""
    topics = {name: kafka.new_topic() for name in ("default", "alarms", "plant")}
    broker = make_broker(
        [
            ("kafka_broker", kafka.bootstrap),
            ("kafka_topic", topics["default"]),
            ("kafka_workers", workers),
            ("mqtt_topic", "office/#"),
            ("route", f"plant/+/alarm, office/alarm {topics['alarms']}"),
            ("route", f"plant/quiet/# {topics['default']}"),
            ("route", f"plant/#;$own/+ {topics['plant']}"),
        ]
    ).start()
    rounds = 5
    mqtt.publish_all(broker.port, [(topic, b"%d" % i) for i in range(rounds) for topic, _ in _MESSAGES])
    carried = [topic for topic, name in _MESSAGES if name is not None]
    metrics = broker.health.wait_drained(20)
    assert metrics.received == metrics.delivered == rounds * len(carried)
    for name, kafka_topic in topics.items():
        expected = [topic for topic, wanted in _MESSAGES if wanted == name]
        wait_records(kafka.bootstrap, kafka_topic, rounds * len(expected))
        records = read_topic(kafka.bootstrap, kafka_topic)
        assert len(records) == rounds * len(expected), name
        for topic in expected:
            found = [record.payload for record in records if record.mqtt_topic == topic]
            assert found == [b"%d" % i for i in range(rounds)], f"{topic} in {name}"


def test_routes_of_the_environment(kafka: Cluster, make_broker: MakeBroker) -> None:
    """ROUTE holds several routes, separated by '|' or by the end of a line."""
    topics = [kafka.new_topic() for _ in range(3)]
    broker = make_broker(
        {"kafka_broker": kafka.bootstrap, "kafka_topic": topics[0]},
        env={"ROUTE": f"a {topics[1]} | b/# {topics[2]}\nc {topics[1]}\n"},
    ).start()
    mqtt.publish_all(broker.port, [(topic, topic.encode()) for topic in ("a", "b", "b/1", "c", "d")])
    broker.health.wait_drained(20)
    found = [sorted(record.mqtt_topic for record in read_topic(kafka.bootstrap, topic)) for topic in topics]
    assert found == [["d"], ["a", "c"], ["b", "b/1"]]
