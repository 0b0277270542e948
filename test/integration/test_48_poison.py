"""What a Kafka topic refuses by its own settings: one message among many, or all that are old."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import MakeBroker, MakeKafka
from harness import mqtt
from harness.consumer import numbers_by_topic, read_topic
from harness.kafka import Cluster
from harness.metrics import Metrics


def _dead(metrics: Metrics) -> dict[str, float]:
    letters = metrics.labelled("metamorphosis_messages_dead_lettered_total", "reason")
    return {reason: n for reason, n in letters.items() if n}


@pytest.mark.parametrize(("workers", "spool"), [(1, "memory"), (3, "disk")])
def test_one_in_ten_thousand(
    kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, figure: Callable[[str], None], workers: int, spool: str
) -> None:
    """One of 10,000 messages is too large for its Kafka topic (max.message.bytes): 9,999 are delivered in order, and it
    alone is a dead letter."""
    topic = kafka.new_topic(3, {"max.message.bytes": "3000"})
    options = {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_workers": workers}
    if spool == "disk":
        options["spool_dir"] = str(tmp_path / "spool")
    broker = make_broker(options).start()
    n, n_topics, poison = 10_000, 20, 5_003
    messages: list[tuple[bytes | str, bytes]] = [
        (f"t/{k % n_topics}", os.urandom(4000) if k == poison else str(k).encode()) for k in range(n)
    ]
    mqtt.publish_all(broker.port, messages)
    metrics = broker.health.wait_drained(30)
    assert metrics.delivered == n - 1
    assert _dead(metrics) == {"too_large": 1}
    expected = {f"t/{t}": [k for k in range(t, n, n_topics) if k != poison] for t in range(n_topics)}
    records = read_topic(kafka.bootstrap, topic)
    assert numbers_by_topic(records) == expected
    figure(f"{metrics.delivered:.0f} delivered, 1 dead letter, {len(records) - n + 1} repeats")


@pytest.mark.parametrize("workers", [1, 3])
def test_no_key_for_a_compacted_topic(apache_kafka: Cluster, make_broker: MakeBroker, workers: int) -> None:
    """A compacted topic takes no message without a key; Kafka refuses the whole batch for one (INVALID_RECORD). One
    route has no key: its message alone is a dead letter."""
    kafka = apache_kafka
    topic = kafka.new_topic(config={"cleanup.policy": "compact"})
    options: list[tuple[str, str | int]] = [
        ("kafka_broker", kafka.bootstrap),
        ("kafka_topic", topic),
        ("kafka_workers", workers),
        ("route", f"nameless/# {topic} key=none"),
    ]
    broker = make_broker(options).start()
    n, at = 200, 77
    messages: list[tuple[bytes | str, bytes]] = [
        ("nameless/x" if k == at else f"t/{k % 5}", str(k).encode()) for k in range(n)
    ]
    mqtt.publish_all(broker.port, messages)
    metrics = broker.health.wait_drained(30)
    assert metrics.delivered == n - 1
    assert _dead(metrics) == {"invalid": 1}
    expected = {f"t/{t}": [k for k in range(t, n, 5) if k != at] for t in range(5)}
    assert numbers_by_topic(read_topic(kafka.bootstrap, topic)) == expected
    assert broker.wait_log("dead letter.*nameless/x.*INVALID_RECORD")


def test_older_than_the_topic_takes(make_kafka: MakeKafka, make_broker: MakeBroker, tmp_path: Path) -> None:
    """The topic takes no time stamp that is older than a second (message.timestamp.before.max.ms), and Kafka was away
    for longer: the backlog is delivered all the same, in order, with the time of its delivery."""
    kafka = make_kafka()
    kafka.start()
    topic = kafka.new_topic(config={"message.timestamp.before.max.ms": "1000"})
    broker = make_broker(
        {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_retry_interval": 1, "kafka_workers": 2}
    ).start()
    n, n_topics = 2000, 10
    messages: list[tuple[bytes | str, bytes]] = [(f"t/{k % n_topics}", str(k).encode()) for k in range(n)]
    mqtt.publish_all(broker.port, messages[: n // 2])
    broker.health.wait_for(lambda m: m.delivered == n // 2, 20, "half is delivered")
    kafka.kill()
    mqtt.publish_all(broker.port, messages[n // 2 :])
    time.sleep(3)
    returned = kafka.start()
    metrics = broker.health.wait_drained(20)
    assert metrics.delivered == n
    assert not _dead(metrics)
    records = read_topic(kafka.bootstrap, topic)
    assert numbers_by_topic(records) == {f"t/{t}": list(range(t, n, n_topics)) for t in range(n_topics)}
    late = [record for record in records if int(record.payload) >= n // 2]
    assert all(record.timestamp_ms / 1000 >= returned - 1.5 for record in late)
    assert broker.wait_log("INVALID_TIMESTAMP")
