"""Compression, partitioner, linger: what is set is what Kafka gets."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import MakeBroker, MakeKafka
from harness import mqtt, murmur2
from harness.consumer import check_delivery, read_topic, wait_records
from harness.kafka import Cluster, Kafka
from harness.publisher import Ledger, ReliableClient

_CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def _codecs_on_disk(kafka: Kafka, topic: str) -> set[int]:
    """The codecs of the batches in the node's own files: the low bits of each batch's attributes (KIP-98)."""
    log = Path(kafka.data / f"{topic}-0" / "00000000000000000000.log").read_bytes()
    found = set()
    at = 0
    while at + 61 <= len(log):
        (length,) = struct.unpack_from(">i", log, at + 8)
        if length <= 0:
            break
        (attributes,) = struct.unpack_from(">h", log, at + 21)
        found.add(attributes & 7)
        at += 12 + length
    return found


def test_every_codec(make_kafka: MakeKafka, make_broker: MakeBroker) -> None:
    """The batches are compressed as it is set, and what is read is what was published, long payloads too."""
    kafka = make_kafka()
    kafka.start()
    for name, number in _CODECS.items():
        topic = kafka.new_topic()
        broker = make_broker(
            {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_compression": name, "kafka_linger_ms": 50}
        ).start()
        ledger = Ledger()
        ReliableClient(broker.port, "c", ["a", "b"], ledger, n_messages=100, size=20_000).start().finish(
            30
        )
        broker.health.wait_drained(20)
        check_delivery(ledger, read_topic(kafka.bootstrap, topic), repeated_payloads=0)
        assert _codecs_on_disk(kafka, topic) == {number}, name
        broker.stop()


def _fnv1a(key: bytes) -> int:
    """As librdkafka (and Sarama): 32 bits, its absolute value as a signed number."""
    h = 0x811C9DC5
    for byte in key:
        h = (h ^ byte) * 0x01000193 & 0xFFFFFFFF
    return h if h < 0x80000000 else 0x100000000 - h


_PARTITIONERS: dict[str, Callable[[bytes, int], int]] = {
    "murmur2_random": murmur2.partition,
    "murmur2": murmur2.partition,
    "consistent_random": lambda key, n: zlib.crc32(key) % n,
    "consistent": lambda key, n: zlib.crc32(key) % n,
    "fnv1a_random": lambda key, n: _fnv1a(key) % n,
    "fnv1a": lambda key, n: _fnv1a(key) % n,
}


@pytest.mark.parametrize("name", _PARTITIONERS)
def test_every_partitioner(kafka: Cluster, make_broker: MakeBroker, name: str) -> None:
    """Each key goes where another implementation of the same function says; murmur2 is Java's."""
    topic = kafka.new_topic(7)
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_partitioner": name}).start()
    topics = [f"plant/{n}/é{n * 7919}" for n in range(60)]
    mqtt.publish_all(broker.port, [(t, b"x") for t in topics])
    records = wait_records(kafka.bootstrap, topic, len(topics))
    assert {record.mqtt_topic for record in records} == set(topics)
    for record in records:
        assert record.key is not None
        assert record.partition == _PARTITIONERS[name](record.key, 7), record.mqtt_topic
    assert len({record.partition for record in records}) == 7


def _time_alone(kafka: Cluster, make_broker: MakeBroker, options: dict[str, str | int]) -> float:
    """Seconds until a message on its own is delivered."""
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": kafka.new_topic(), **options}).start()
    mqtt.publish_all(broker.port, [("warm", b"up")])
    broker.health.wait_drained(10)
    begin = time.monotonic()
    mqtt.publish_all(broker.port, [("a", b"x")])
    broker.health.wait_drained(10)
    took = time.monotonic() - begin
    broker.stop()
    return took


def test_a_message_on_its_own_waits_for_nobody(kafka: Cluster, make_broker: MakeBroker) -> None:
    """However long it might wait for others. By librdkafka's own name the time is a fixed one."""
    alone = _time_alone(kafka, make_broker, {"kafka_linger_ms": 1000})
    fixed = _time_alone(kafka, make_broker, {"rdkafka.linger.ms": 1000})
    assert fixed > 0.9
    assert alone < fixed - 0.3


def test_many_wait_for_each_other(kafka: Cluster, make_broker: MakeBroker) -> None:
    """Where many come, they go together, as often as kafka_linger_ms says; without it, as they come."""
    n, seconds = 300, 3.0
    batches = {}
    for linger in (0, 500):
        # All of a batch have one time of appending.
        topic = kafka.new_topic(config={"message.timestamp.type": "LogAppendTime"})
        broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_linger_ms": linger}).start()
        ledger = Ledger()
        client = ReliableClient(broker.port, "c", ["a"], ledger, n_messages=n, rate=n / seconds).start()
        client.finish(30)
        broker.health.wait_drained(20)
        records = read_topic(kafka.bootstrap, topic)
        check_delivery(ledger, records, repeated_payloads=0)
        batches[linger] = len({record.timestamp_ms for record in records})
        broker.stop()
    assert batches[500] < seconds / 0.5 * 4, batches
    assert batches[0] > n / 4, batches
