"""The Kafka topic does not exist yet."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from conftest import MakeBroker, MakeKafka
from harness import mqtt
from harness.consumer import check_delivery, read_topic, wait_records
from harness.kafka import Cluster, unique
from harness.publisher import Ledger, ReliableClient
from harness.wait import stays_true


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    "more",
    [{}, {"rdkafka.topic.metadata.propagation.max.ms": 500}],
    ids=["while the client waits for it", "after the client has given it up"],
)
def test_delivered_once_the_topic_is_there(
    kafka: Cluster,
    make_broker: MakeBroker,
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
    more: dict[str, int],
    workers: int,
) -> None:
    """auto.create.topics.enable=false and no such topic: messages wait, nothing is lost or dead-lettered, and when
    somebody makes the topic all are delivered in order. The Kafka client itself gives a topic up after
    topic.metadata.propagation.max.ms, so the test is made on both sides of that."""
    topic = unique("later")
    broker = make_broker(
        {
            "kafka_broker": kafka.bootstrap,
            "kafka_topic": topic,
            "kafka_retry_interval": 1,
            "kafka_workers": workers,
            **more,
        }
    ).start()
    ledger = Ledger()
    topics = [f"t/{n}" for n in range(10)]
    ReliableClient(broker.port, "c", topics, ledger, n_messages=300).start().finish(20)
    if more:
        broker.wait_log(f"Kafka topic {topic} refuses messages: .*UNKNOWN_TOPIC", 10)
    stays_true(
        lambda: broker.health.scrape().in_spool == 300, seconds(2, 40), "all messages wait while there is no topic"
    )
    assert broker.health.status("/readyz") == 200

    kafka.create_topic(topic, 2)
    made = time.monotonic()
    metrics = broker.health.wait_drained(20)
    figure(f"all delivered {time.monotonic() - made:.1f} s after the topic was made")
    assert metrics.delivered == 300
    assert metrics.dead_lettered == 0
    check_delivery(ledger, read_topic(kafka.bootstrap, topic), repeated_payloads=0)


def test_made_by_kafka_itself(make_kafka: MakeKafka, make_broker: MakeBroker) -> None:
    """auto.create.topics.enable=true: the first messages make the topic, none is lost on the way."""
    kafka = make_kafka({"auto.create.topics.enable": "true"})
    kafka.start()
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": "made-by-kafka"}).start()
    mqtt.publish_all(broker.port, [("a", str(n).encode()) for n in range(20)])
    broker.health.wait_drained(20)
    records = wait_records(kafka.bootstrap, "made-by-kafka", 20)
    assert [record.payload for record in records] == [str(n).encode() for n in range(20)]
