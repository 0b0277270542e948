"""The broker starts without Kafka, takes messages, and delivers them when Kafka comes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from conftest import MakeBroker, MakeKafka
from harness import mqtt
from harness.consumer import check_delivery, read_topic, wait_records
from harness.kafka import Cluster
from harness.publisher import Ledger, ReliableClient


@pytest.mark.parametrize("workers", [1, 5])
def test_delivered_when_kafka_comes(
    make_kafka: MakeKafka, make_broker: MakeBroker, figure: Callable[[str], None], workers: int
) -> None:
    """Nobody listens on kafka_broker at start: the broker comes up, acknowledges, counts what it keeps, says that
    it is ready but not healthy; when Kafka is there all is delivered in order, with the time of receipt as time
    stamp."""
    kafka = make_kafka()
    kafka.start()
    topic = kafka.new_topic(3)
    kafka.stop()

    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_workers": workers}).start()
    begin = time.time()
    ledger = Ledger()
    topics = [f"t/{n}" for n in range(20)]
    ReliableClient(broker.port, "c", topics, ledger, qos=2, version=mqtt.V5, n_messages=1000).start().finish(20)
    end = time.time()
    metrics = broker.health.check_ledger_quiet()
    assert metrics.in_spool == metrics.received == 1000
    assert metrics.get("kafka_state") == 1
    assert broker.health.status("/readyz") == 200
    assert broker.health.status("/livez") == 200
    assert broker.health.status("/healthz") == 423
    broker.wait_log("metamorphosis: .*Kafka")

    kafka.start()
    came = time.monotonic()
    metrics = broker.health.wait_for(lambda m: m.delivered > 0, 5, "delivery begins")
    began = time.monotonic() - came
    figure(f"first delivery seen {began:.2f} s after Kafka's start")
    assert began <= 2.0
    broker.health.wait_drained(10)
    broker.health.wait_status("/healthz", 200, 5)
    records = read_topic(kafka.bootstrap, topic)
    check_delivery(ledger, records, repeated_payloads=0)
    assert all(begin - 0.01 <= r.timestamp_ms / 1000 <= end + 0.01 for r in records)


def test_unknown_host(kafka_port_of_nobody: int, make_broker: MakeBroker) -> None:
    """A host name that does not resolve is an outage like any other, not a failed start, and the stop stays short."""
    broker = make_broker({"kafka_broker": f"no-such-host.invalid:{kafka_port_of_nobody}", "kafka_topic": "t"}).start()
    mqtt.publish_all(broker.port, [("a", b"x")])
    metrics = broker.health.check_ledger_quiet()
    assert metrics.in_spool == 1
    assert broker.stop().seconds <= 10


def test_one_of_several_addresses_is_enough(kafka_port_of_nobody: int, kafka: Cluster, make_broker: MakeBroker) -> None:
    """kafka_broker takes several addresses separated by commas; one that answers is enough."""
    topic = kafka.new_topic()
    broker = make_broker(
        {"kafka_broker": f"127.0.0.1:{kafka_port_of_nobody}, {kafka.bootstrap}", "kafka_topic": topic}
    ).start()
    mqtt.publish_all(broker.port, [("a", b"x")])
    wait_records(kafka.bootstrap, topic, 1)


def test_host_and_port_apart(kafka: Cluster, make_broker: MakeBroker) -> None:
    """kafka_broker and kafka_port as the Go program had them."""
    topic = kafka.new_topic()
    host, _, port = kafka.bootstrap.rpartition(":")
    broker = make_broker({"kafka_broker": host, "kafka_port": port, "kafka_topic": topic}).start()
    mqtt.publish_all(broker.port, [("a", b"x")])
    wait_records(kafka.bootstrap, topic, 1)
