"""A message that Kafka will never take does not hold up its neighbours."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

import pytest

from conftest import MakeBroker
from harness import mqtt
from harness.consumer import numbers_by_topic, read_topic
from harness.kafka import Cluster

# What refuses: Kafka, by the topic's limit; or librdkafka in the plugin, by message.max.bytes (1,000,000 bytes).
_POISONS = {
    "refused by Kafka": ({"max.message.bytes": "3000"}, os.urandom(5000)),
    "refused by the client": ({}, os.urandom(1_100_000)),
}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kind", _POISONS)
def test_its_hundred_neighbours_are_delivered(
    kafka: Cluster, make_broker: MakeBroker, figure: Callable[[str], None], kind: str, workers: int
) -> None:
    """One message too large for Kafka between 100 good ones, on their own MQTT topics and on its own: the 100 arrive
    in order, none twice; it alone is a dead letter: counted, logged, and to be fetched by HTTP with its payload."""
    config, poison = _POISONS[kind]
    topic = kafka.new_topic(config=config)
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_workers": workers}).start()
    topics = ["poisoned", "good/1", "good/2", "good/3"]
    messages: list[tuple[bytes | str, bytes]] = [(topics[n % 4], str(n).encode()) for n in range(100)]
    messages.insert(50, ("poisoned", poison))
    mqtt.publish_all(broker.port, messages)

    metrics = broker.health.wait_drained(20)
    assert metrics.received == 101
    assert metrics.delivered == 100
    assert metrics.labelled("metamorphosis_messages_dead_lettered_total", "reason")["too_large"] == 1
    assert metrics.dead_lettered == 1
    records = read_topic(kafka.bootstrap, topic)
    assert numbers_by_topic(records) == {t: list(range(n, 100, 4)) for n, t in enumerate(topics)}
    figure(f"{len(records) - 100} duplicates")
    assert len(records) == 100 or broker.admits_repeats()

    (line,) = broker.wait_log("dead letter")
    assert "poisoned" in line and "MSG_SIZE_TOO_LARGE" in line
    (letter,) = json.loads(broker.health.request("/dead").text)
    assert letter["mqtt_topic"] == "poisoned"
    assert letter["payload_bytes"] == len(poison)
    assert letter["kafka_topic"] == topic
    assert letter["error"] == "MSG_SIZE_TOO_LARGE"
    assert broker.health.request(f"/dead/{letter['id']}").body == poison
    assert letter["id"] not in {record.mm_id for record in records}


def test_many_poisons_among_many(kafka: Cluster, make_broker: MakeBroker, figure: Callable[[str], None]) -> None:
    """One in fifty of 2,000 messages is too large: all others arrive in order, the poison is dead-lettered, no loop."""
    topic = kafka.new_topic(config={"max.message.bytes": "3000"})
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic}).start()
    n, each = 2000, 50
    messages: list[tuple[bytes | str, bytes]] = [
        (f"t/{number % 7}", os.urandom(4000) if number % each == 0 else str(number).encode()) for number in range(n)
    ]
    mqtt.publish_all(broker.port, messages)
    metrics = broker.health.wait_drained(60)
    assert metrics.dead_lettered == n / each
    assert metrics.delivered == n - n / each
    records = read_topic(kafka.bootstrap, topic)
    expected = {f"t/{t}": [i for i in range(t, n, 7) if i % each] for t in range(7)}
    assert numbers_by_topic(records) == expected
    figure(f"{metrics.dead_lettered:.0f} dead letters, {len(records) - len({r.mm_id for r in records})} duplicates")
    assert len(records) == metrics.delivered or broker.admits_repeats()


def test_a_whole_batch_refused_is_not_dead(kafka: Cluster, make_broker: MakeBroker) -> None:
    """Good messages whose batch is larger than the topic takes, though each alone is not: all arrive, none is a dead
    letter."""
    topic = kafka.new_topic(config={"max.message.bytes": "3000"})
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "rdkafka.linger.ms": 200}).start()
    payloads = [f"{n} ".encode().ljust(200, b".") for n in range(500)]
    mqtt.publish_all(broker.port, [("t", payload) for payload in payloads])
    metrics = broker.health.wait_drained(30)
    assert metrics.dead_lettered == 0
    records = {record.mm_id: record for record in read_topic(kafka.bootstrap, topic)}
    assert [record.payload for record in records.values()] == payloads


def test_poisons_in_a_row(kafka: Cluster, make_broker: MakeBroker, figure: Callable[[str], None]) -> None:
    """Nothing but poison, then one good message: each letter does not cost a new producer each, nor a growing pause."""
    topic = kafka.new_topic(config={"max.message.bytes": "3000"})
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic}).start()
    n = 100
    mqtt.publish_all(broker.port, [(f"bad/{number}", os.urandom(4000)) for number in range(n)] + [("good", b"1")])
    begin = time.monotonic()
    metrics = broker.health.wait_drained(40)
    assert metrics.dead_lettered == n
    assert metrics.delivered == 1
    figure(f"{n} dead letters in {time.monotonic() - begin:.1f} s")
