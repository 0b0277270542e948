"""The Kafka value is, byte for byte, what the Go program writes."""

from __future__ import annotations

from collections import defaultdict

import pytest

from conftest import MakeBroker
from harness import mqtt
from harness.consumer import wait_records
from harness.golden import vectors
from harness.kafka import Cluster

# Of the vectors with a topic that mosquitto takes. A number of its own, so that none goes missing in silence.
_N_CARRIED = 34


@pytest.mark.parametrize("names", ["Topic,Content", "topic,content"])
def test_values_are_those_of_the_go_program(kafka: Cluster, make_broker: MakeBroker, names: str) -> None:
    """Every vector whose topic mosquitto lets through, published to a real broker and read back from a real Kafka, has
    the value recorded from the Go program, with both sets of field names; the key is the MQTT topic. The other vectors
    (topics that mosquitto refuses) are the unit tests' matter."""
    carried = [vector for vector in vectors() if vector.carried]
    assert len(carried) == _N_CARRIED
    dollar = {vector.topic.split(b"/")[0].decode() for vector in carried if vector.topic.startswith(b"$")}
    filters = ",".join(["#", *(f"{level}/#" for level in sorted(dollar))])
    topic = kafka.new_topic()
    broker = make_broker(
        {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "json_field_names": names, "mqtt_topic": filters}
    ).start()

    with mqtt.Client(broker.port) as client:
        for number, vector in enumerate(carried):
            client.publish(vector.topic, vector.payload, number % 3)
        client.ping()

    records = wait_records(kafka.bootstrap, topic, len(carried))
    assert len(records) == len(carried)
    # In order per MQTT topic, which is the key.
    expected, found = defaultdict(list), defaultdict(list)
    for vector in carried:
        expected[vector.topic].append(vector.values[names])
    for record in records:
        found[record.key].append(record.value)
    assert dict(found) == dict(expected)
    broker.health.wait_drained(10)


def test_default_field_names(kafka: Cluster, make_broker: MakeBroker) -> None:
    """Without json_field_names the names are those of the Go program's releases 0.1."""
    topic = kafka.new_topic()
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic}).start()
    mqtt.publish_all(broker.port, [("test/a", b"hello")])
    (record,) = wait_records(kafka.bootstrap, topic, 1)
    assert record.value == b'{"Topic":"test/a","Content":"aGVsbG8="}'
