"""Key, headers, time stamp and partition of the Kafka records."""

from __future__ import annotations

import re
import time
from collections import defaultdict

import pytest

from conftest import MakeBroker
from harness import mqtt
from harness.consumer import wait_records
from harness.kafka import Cluster
from harness.murmur2 import murmur2, partition

_MM_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}-[1-9][0-9]*")


def test_our_murmur2_is_kafkas() -> None:
    """The reference that the next test relies on gives the values of the Java client's own unit test."""
    assert murmur2(b"21") == -973932308 & 0xFFFFFFFF
    assert murmur2(b"foobar") == -790332482 & 0xFFFFFFFF
    assert murmur2(b"a-little-bit-long-string") == -985981536 & 0xFFFFFFFF
    assert murmur2(b"a-little-bit-longer-string") == -1486304829 & 0xFFFFFFFF


@pytest.mark.parametrize("workers", [1, 3])
def test_key_headers_time_stamp_partition(kafka: Cluster, make_broker: MakeBroker, workers: int) -> None:
    """The key is the MQTT topic; the one header is mm-id, `<uuid>-<seq>`, with a new seq for each message in the order
    of receipt; the time stamp is the time of receipt in ms; the partition is where the Java client would put the key,
    so that an MQTT topic has one partition, and its records are in order there."""
    n_partitions = 4
    topic = kafka.new_topic(n_partitions)
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_workers": workers}).start()
    mqtt_topics = [f"plant/{n}/temperature" for n in range(40)] + ["æøå", "/", "a b"]
    n_rounds = 5
    times: dict[tuple[str, int], tuple[float, float]] = {}
    with mqtt.Client(broker.port) as client:
        for number in range(n_rounds):
            for mqtt_topic in mqtt_topics:
                before = time.time()
                client.publish(mqtt_topic, str(number).encode(), 1)
                times[mqtt_topic, number] = before, time.time()

    n = n_rounds * len(mqtt_topics)
    records = wait_records(kafka.bootstrap, topic, n)
    assert len(records) == n
    rounds: dict[str, list[int]] = defaultdict(list)
    for record in records:
        mqtt_topic, number = record.mqtt_topic, int(record.payload)
        rounds[mqtt_topic].append(number)
        assert record.key == mqtt_topic.encode()
        assert record.partition == partition(record.key, n_partitions)
        assert [name for name, _ in record.headers] == ["mm-id"]
        assert _MM_ID.fullmatch(record.mm_id), record.mm_id
        before, after = times[mqtt_topic, number]
        assert before - 0.005 <= record.timestamp_ms / 1000 <= after + 0.005
    assert all(numbers == list(range(n_rounds)) for numbers in rounds.values()), rounds
    assert len({record.partition for record in records}) == n_partitions

    assert len({record.mm_id.rpartition("-")[0] for record in records}) == 1
    in_order = sorted(records, key=lambda r: r.seq)
    assert [r.seq for r in in_order] == list(range(1, n + 1))
    assert [(r.mqtt_topic, int(r.payload)) for r in in_order] == list(times)


def test_another_process_has_another_uuid(kafka: Cluster, make_broker: MakeBroker) -> None:
    """A spool in memory begins anew with each process, so its ids must not repeat those of the last one."""
    topic = kafka.new_topic()
    for number in range(2):
        broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic}).start()
        mqtt.publish_all(broker.port, [("a", b"x")])
        wait_records(kafka.bootstrap, topic, number + 1)
        broker.stop()
    records = wait_records(kafka.bootstrap, topic, 2)
    assert len({record.mm_id for record in records}) == 2
    assert [record.seq for record in records] == [1, 1]


@pytest.mark.parametrize("version", [mqtt.V311, mqtt.V5])
def test_each_qos_is_acknowledged_and_carried_once(kafka: Cluster, make_broker: MakeBroker, version: int) -> None:
    """QoS 0, 1 and 2 of both protocols arrive once each; retained messages and the empty one that clears them, too."""
    topic = kafka.new_topic()
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic}).start()
    with mqtt.Client(broker.port, version=version) as client:
        for qos in range(3):
            answer = client.publish("q", f"qos {qos}".encode(), qos)
            assert answer is None or answer.reason < mqtt.FAILURE
        client.publish("q", b"kept", 1, retain=True)
        client.publish("q", b"", 1, retain=True)
    records = wait_records(kafka.bootstrap, topic, 5)
    assert [record.payload for record in records] == [b"qos 0", b"qos 1", b"qos 2", b"kept", b""]
    metrics = broker.health.wait_drained(10)
    received = metrics.labelled("metamorphosis_messages_received_total", "qos")
    assert received == {"0": 1, "1": 3, "2": 1}
    assert metrics.delivered == 5


def test_large_payload(kafka: Cluster, make_broker: MakeBroker) -> None:
    """A payload just below what Kafka takes (786,000 bytes, 1,048,000 in base64) arrives whole, after
    max_message_bytes was raised for it."""
    topic = kafka.new_topic(config={"max.message.bytes": "2000000"})
    broker = make_broker(
        {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "max_message_bytes": 2000000}
    ).start()
    payload = bytes(range(256)) * 3070
    mqtt.publish_all(broker.port, [("large", payload)])
    (record,) = wait_records(kafka.bootstrap, topic, 1)
    assert record.payload == payload
