"""received = delivered + dead_lettered + refused + dropped + in_spool, whatever happens."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import MakeBroker, MakeKafka
from harness import mqtt
from harness.consumer import check_delivery, count_records, read_topic
from harness.kafka import Kafka
from harness.load import Load, streams
from harness.publisher import Ledger, PahoLoad, ReliableClient, flood


@pytest.mark.parametrize(("when_full", "workers"), [("reject", 1), ("drop_newest", 5), ("drop_oldest", 3)])
def test_it_adds_up_through_everything(
    make_kafka: MakeKafka, make_broker: MakeBroker, figure: Callable[[str], None], when_full: str, workers: int
) -> None:
    """Every QoS, both protocols, poison, an outage, a full spool: at every quiet moment the counters add up, agree with
    the publishers' own count and with the number of records in Kafka."""
    kafka = make_kafka()
    kafka.start()
    topic = kafka.new_topic(2, {"max.message.bytes": "20000"})
    broker = make_broker(
        {
            "kafka_broker": kafka.bootstrap,
            "kafka_topic": topic,
            "kafka_workers": workers,
            "spool_max_bytes": "512k",
            "when_full": when_full,
        }
    ).start()
    metrics = broker.health.check_ledger_quiet()
    assert metrics.received == 0

    def publish(name: str, n_messages: int, size: int) -> int:
        ledger = Ledger()
        for qos in range(3):
            version = mqtt.V5 if qos == 1 else mqtt.V311
            topics = [f"{name}/{qos}/{n}" for n in range(7)]
            ReliableClient(
                broker.port, name, topics, ledger, qos=qos, version=version, n_messages=n_messages, size=size
            ).start().finish(30)
        return ledger.n_sent

    n = publish("calm", 300, 100)
    metrics = broker.health.wait_drained(20)
    assert metrics.received == metrics.delivered == n

    mqtt.publish_all(broker.port, [(f"poison/{i}", os.urandom(30_000)) for i in range(3)])
    n += publish("between", 100, 100)
    metrics = broker.health.wait_drained(30)
    assert metrics.received == n + 3
    assert metrics.dead_lettered == 3
    assert metrics.delivered == n

    kafka.kill()
    n_sent = publish("outage", 200, 100)
    metrics = broker.health.check_ledger_quiet()
    assert metrics.in_spool == n_sent
    flood(broker.port, "flood", 3000, 400)
    metrics = broker.health.check_ledger_quiet()
    assert metrics.dropped > 0
    assert metrics.received == n + 3 + n_sent + 3000
    figure(f"full: {metrics.ledger()}")

    kafka.start()
    metrics = broker.health.wait_drained(30)
    figure(f"drained: {metrics.ledger()}")
    assert count_records(kafka.bootstrap, topic) == metrics.delivered + broker.health.scrape().get(
        "metamorphosis_messages_maybe_duplicated_total"
    )


def test_it_is_near_while_messages_flow(make_kafka: MakeKafka, make_broker: MakeBroker) -> None:
    """Under load, scrape after scrape: the difference is never more than what can move during one scrape, counters
    never go down."""
    kafka = make_kafka()
    kafka.start()
    topic = kafka.new_topic()
    broker = make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_workers": 3}).start()
    ledger = Ledger()
    load = PahoLoad(broker.port, ledger, rate=2000).start()
    end = time.monotonic() + 2
    pages = [broker.health.scrape()]
    while time.monotonic() < end:
        pages.append(broker.health.scrape())
    load.finish(10)
    for last, page in itertools.pairwise(pages):
        for key, value in page.samples.items():
            if page.types.get(key[0]) == "counter":
                assert value >= last.samples[key], key
    for before, page, after in zip(pages, pages[1:], pages[2:], strict=False):
        # All that came and left between its neighbours: however long the machine takes for a scrape.
        moved = after.received - before.received + after.delivered - before.delivered
        assert abs(page.get("metamorphosis_ledger_difference")) <= 500 + moved
    broker.health.wait_drained(10)
    check_delivery(ledger, read_topic(kafka.bootstrap, topic), repeated_payloads=0)


def test_a_kill_forgets_nothing_that_made_room(
    pausable: Kafka, make_broker: MakeBroker, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """Messages that are in the Kafka client when drop_oldest takes their place in the spool are dropped for who is
    killed before Kafka has answered: all that was received is still accounted for."""
    topic = pausable.new_topic(2)
    options = {"spool_dir": tmp_path / "spool", "spool_max_bytes": "1M", "when_full": "drop_oldest"}
    broker = make_broker({"kafka_broker": pausable.bootstrap, "kafka_topic": topic} | options).start()
    with Load(broker.port, streams(4, "t", rate=1000, size=300)) as load:
        broker.health.wait_for(lambda m: m.delivered > 500, 30, "messages are delivered")
        pausable.pause()
        broker.health.wait_for(lambda m: m.dropped > 1000, 30, "messages are dropped")
        load.finish(20)
    before = broker.health.check_ledger_quiet()
    broker.kill()
    broker.start()
    after = broker.health.check_ledger_quiet()
    figure(f"before: {before.ledger()}; after: {after.ledger()}")
    assert after.received >= before.received >= load.n_acked
    pausable.resume()
    broker.health.wait_drained(30)
