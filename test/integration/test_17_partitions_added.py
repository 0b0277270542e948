"""A Kafka topic that grows while the plugin runs."""

from __future__ import annotations

from confluent_kafka.admin import NewPartitions

from conftest import MakeBroker, MakeKafka
from harness import mqtt, murmur2
from harness.consumer import read_topic
from harness.wait import stays_true


def _partition(topic: bytes, n: int) -> int:
    return (murmur2.murmur2(topic) & 0x7FFFFFFF) % n


def test_new_partitions_are_found_and_nothing_stalls(make_kafka: MakeKafka, make_broker: MakeBroker) -> None:
    """After the topic has grown, a message whose key led to one partition before and leads to another now does not
    hold back those that lead to the first."""
    kafka = make_kafka()
    kafka.start()
    topic = kafka.new_topic(3)
    names = [b"s/%d" % i for i in range(1000)]
    used = next(n for n in names if _partition(n, 3) == 0 and _partition(n, 6) == 0)
    moved = next(n for n in names if _partition(n, 3) == 1 and _partition(n, 6) == 4)
    left_behind = next(n for n in names if _partition(n, 3) == 1 and _partition(n, 6) == 1)
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic}).start()
    mqtt.publish_all(broker.port, [(used, b"1")] * 3)
    broker.health.wait_drained(10)
    kafka._admin().create_partitions([NewPartitions(topic, 6)])[topic].result(30)

    # The client looks for new partitions every 10 s. Until then nothing may be sent to the old ones, so that what
    # follows is the first message there.
    stays_true(lambda: broker.health.status("/healthz") == 200, 12, "a topic that grows is no failure")
    mqtt.publish_all(broker.port, [(moved, b"2")])
    broker.health.wait_drained(10)
    mqtt.publish_all(broker.port, [(left_behind, b"3")])
    mqtt.publish_all(broker.port, [(used, b"4")] * 20)
    broker.health.wait_drained(10)
    assert {r.partition for r in read_topic(kafka.bootstrap, topic)} == {0, 1, 4}
    broker.health.check_ledger_quiet()
