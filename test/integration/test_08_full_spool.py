"""A full spool: what was acknowledged is delivered, what is not stored is not acknowledged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import pytest

from conftest import MakeBroker, MakeKafka
from harness import mqtt
from harness.broker import Broker
from harness.consumer import check_delivery, judge, read_topic
from harness.kafka import Kafka
from harness.metrics import PREFIX
from harness.publisher import Ledger, ReliableClient, flood
from harness.wait import stays_true, wait_until

_LIMIT = 1024 * 1024
_SIZE = 500

VERSIONS = pytest.mark.parametrize("version", [mqtt.V311, mqtt.V5], ids=["3.1.1", "5"])
QOS = pytest.mark.parametrize("qos", [1, 2])


@pytest.fixture
def away(make_kafka: MakeKafka) -> Kafka:
    """A Kafka that has a topic `t`, and is stopped."""
    kafka = make_kafka()
    kafka.start()
    kafka.create_topic("t")
    kafka.stop()
    return kafka


def _broker(make_broker: MakeBroker, kafka: Kafka, **more: str | int) -> Broker:
    return make_broker({"kafka_broker": kafka.bootstrap, "kafka_topic": "t", "spool_max_bytes": "1M", **more}).start()


def _reason(broker: Broker, name: str, reason: str) -> float:
    return broker.health.scrape().get(f"{PREFIX}{name}_total", reason=reason)


def _fill(broker: Broker) -> None:
    """Until nothing fits any more. QoS 0 alone does not fill the spool: it leaves the last segment to QoS 1 and 2."""
    flood(broker.port, "fill", 3000, _SIZE)
    with mqtt.Client(broker.port) as client, contextlib.suppress(mqtt.Closed):
        for _ in range(10_000):
            client.publish("fill", b"x" * _SIZE, 1)
        raise AssertionError("the spool is never full")


@VERSIONS
@QOS
def test_reject_loses_nothing_acknowledged(
    away: Kafka, make_broker: MakeBroker, figure: Callable[[str], None], version: int, qos: int
) -> None:
    """when_full=reject (the default), Kafka stopped: several publishers fill 1 MiB and are refused without an
    acknowledgement, again and again, as good clients send again what was not acknowledged. QoS 0 is dropped, counted,
    and costs its publisher nothing. The limit holds. When Kafka is back everything that was ever acknowledged is there,
    in order, and everything that was published is acknowledged in the end."""
    broker = _broker(make_broker, away, kafka_workers=2)
    ledger = Ledger()
    clients = [
        ReliableClient(
            broker.port,
            f"c{n}",
            [f"{n}/{t}" for t in range(3)],
            ledger,
            qos=qos,
            version=version,
            n_messages=1500,
            size=_SIZE,
        ).start()
        for n in range(3)
    ]
    wait_until(lambda: _reason(broker, "messages_refused", "spool_full") > 20, 20, "publishers are refused")
    assert sum(client.n_closed for client in clients) > 0, "a client was refused, but not by a closed connection"
    assert broker.health.status("/readyz") == 503
    assert broker.health.status("/livez") == 200

    with mqtt.Client(broker.port, version=version) as fire_and_forget:
        for _ in range(50):
            fire_and_forget.publish("0/qos0", b"x" * _SIZE, 0)
        fire_and_forget.ping()
    assert _reason(broker, "messages_dropped", "qos0_spool_full") > 0

    def inside_limit() -> bool:
        metrics = broker.health.scrape()
        assert metrics.get(PREFIX + "spool_limit_bytes") == _LIMIT
        return max(metrics.get(PREFIX + "spool_bytes"), metrics.get(PREFIX + "spool_allocated_bytes")) <= _LIMIT

    stays_true(inside_limit, 1, "the spool keeps to its limit")
    assert any(not client.done for client in clients)
    n_stored = ledger.n_acked

    away.start()
    for client in clients:
        client.finish(60)
    metrics = broker.health.wait_drained(30)
    assert broker.health.status("/readyz") == 200
    assert not ledger.ended(), "a message was ended by a reason code; the default is a closed connection"
    assert ledger.n_acked == ledger.n_sent == 4500
    records = [r for r in read_topic(away.bootstrap, "t") if r.mqtt_topic != "0/qos0"]
    delivery = check_delivery(ledger, records)
    n_resent = sum(client.n_resent for client in clients)
    figure(f"{n_stored} acknowledged when full, {metrics.refused:.0f} refused, {n_resent} sent again, {delivery}")
    assert delivery.repeated_payloads <= n_resent
    broker.wait_log("the spool in memory is full")


@VERSIONS
@QOS
def test_no_acknowledgement_for_what_is_not_kept(away: Kafka, make_broker: MakeBroker, version: int, qos: int) -> None:
    """Seen packet by packet: a publish that is not stored is answered by no PUBACK and no PUBREC; the connection is
    closed, so that the client sends again. (A PUBACK of MQTT 3.1.1 cannot say no.)"""
    broker = _broker(make_broker, away)
    _fill(broker)
    assert _reason(broker, "messages_dropped", "qos0_spool_full") > 0
    refused = broker.health.scrape().refused
    with mqtt.Client(broker.port, version=version) as client:
        client.send(mqtt.publish("a", b"x" * _SIZE, qos, 1, version))
        packets = client.wait_closed(5)
    assert all(packet.type == mqtt.Type.DISCONNECT for packet in packets), packets
    assert broker.health.scrape().refused == refused + 1
    broker.health.check_ledger_quiet()
    broker.abandon()


def test_subscribers_do_not_get_what_is_refused(away: Kafka, make_broker: MakeBroker) -> None:
    """A refused publish goes to no MQTT subscriber either, so that its repetition is not a duplicate for them, and a
    dropped QoS 0 message does: the plugin is no filter for the broker's own clients."""
    broker = _broker(make_broker, away)
    _fill(broker)
    with mqtt.Client(broker.port) as subscriber:
        subscriber.subscribe("a/#")
        with mqtt.Client(broker.port) as client:
            client.send(mqtt.publish("a/1", b"x" * _SIZE, 1, 1))
            client.wait_closed(5)
        with mqtt.Client(broker.port) as other:
            other.publish("a/0", b"x" * _SIZE, 0)
        packet = subscriber.expect(mqtt.Type.PUBLISH)
        assert b"a/0" in packet.body
    broker.abandon()


def test_too_large_for_the_spool_ever(away: Kafka, make_broker: MakeBroker) -> None:
    """A message larger than the whole spool can never be stored: refused and counted as such (QoS 1), dropped and
    counted (QoS 0); others go on."""
    broker = _broker(make_broker, away)
    huge = b"x" * (_LIMIT + _LIMIT // 2)  # Mosquitto 2.1 takes packets of up to 2,000,000 bytes, if not told otherwise
    with mqtt.Client(broker.port) as client:
        client.send(mqtt.publish("a", huge, 1, 1))
        assert client.wait_closed(5) == []
    with mqtt.Client(broker.port) as other:
        other.publish("a", huge, 0)
        other.publish("a", b"small", 1)
    metrics = broker.health.check_ledger_quiet()
    assert metrics.get(PREFIX + "messages_refused_total", reason="too_large") == 1
    assert metrics.get(PREFIX + "messages_dropped_total", reason="too_large") == 1
    assert metrics.in_spool == 1
    broker.abandon()


@VERSIONS
def test_drop_newest(away: Kafka, make_broker: MakeBroker, version: int) -> None:
    """when_full=drop_newest: every publish is acknowledged at once and nobody is disconnected; what came while there
    was no room is dropped and counted, what was kept arrives, in order."""
    broker = _broker(make_broker, away, when_full="drop_newest")
    ledger = Ledger()
    client = ReliableClient(broker.port, "c", ["a", "b"], ledger, version=version, n_messages=4000, size=_SIZE).start()
    client.finish(20)
    assert client.n_closed == 0
    assert ledger.n_acked == 4000
    metrics = broker.health.check_ledger_quiet()
    dropped = metrics.get(PREFIX + "messages_dropped_total", reason="drop_newest")
    assert dropped > 1000
    assert metrics.refused == 0
    away.start()
    broker.health.wait_drained(20)
    delivery = judge(ledger, read_topic(away.bootstrap, "t"))
    assert len(delivery.missing) == dropped
    assert delivery.n_records == 4000 - dropped
    assert not (delivery.unknown or delivery.inversions or delivery.repeated_ids or delivery.repeated_payloads)
    assert ("a", 0) not in delivery.missing, "the oldest is not what is dropped"


@VERSIONS
@pytest.mark.parametrize("burst", [False, True], ids=["steady", "burst"])
def test_drop_oldest(
    away: Kafka, make_broker: MakeBroker, figure: Callable[[str], None], version: int, burst: bool
) -> None:
    """when_full=drop_oldest: every publish is acknowledged and nobody is disconnected; old messages make room and are
    counted; the newest arrive, in order. What the Kafka client holds already need not be dropped: it may arrive in
    spite of it, and counts as dropped only if it does not. In a burst (40 MB/s into 4 MiB) a publish may be refused for
    a moment, as with reject: it is sent again, so that everything is acknowledged in the end all the same."""
    limit, n_messages, size, rate = (4 * _LIMIT, 45_000, 2000, 20_000) if burst else (_LIMIT, 6000, _SIZE, 3000)
    broker = _broker(make_broker, away, when_full="drop_oldest", spool_max_bytes=limit)
    ledger = Ledger()
    topics = ["a", "b"]
    client = ReliableClient(
        broker.port, "c", topics, ledger, version=version, n_messages=n_messages, size=size, rate=rate
    ).start()
    client.finish(60)
    assert ledger.n_acked == n_messages
    metrics = broker.health.check_ledger_quiet()
    assert client.n_closed == metrics.refused
    assert client.n_closed <= (50 if burst else 0)
    assert metrics.get(PREFIX + "spool_allocated_bytes") <= limit
    away.start()
    metrics = broker.health.wait_drained(30)
    dropped = metrics.get(PREFIX + "messages_dropped_total", reason="drop_oldest")
    delivery = judge(ledger, read_topic(away.bootstrap, "t"))
    figure(f"{dropped:.0f} dropped, {metrics.refused:.0f} refused, {delivery}")
    assert dropped >= (5000 if burst else 0)
    assert len(delivery.missing) <= dropped <= len(delivery.missing) + client.n_resent
    assert not (delivery.unknown or delivery.inversions or delivery.repeated_ids)
    assert delivery.repeated_payloads <= client.n_resent
    newest = {(topic, n_messages // 2 - 1 - n) for topic in topics for n in range(10)}
    assert not newest & set(delivery.missing), "the newest are not what is dropped"


def test_memory_is_given_back(away: Kafka, make_broker: MakeBroker, figure: Callable[[str], None]) -> None:
    """After an outage that filled 32 MiB of the spool the memory goes back to the system, and after another one soon
    behind it too."""
    broker = make_broker({"kafka_broker": away.bootstrap, "kafka_topic": "t", "spool_max_bytes": "64M"}).start()
    texts = []
    most = 0
    for _ in range(2):
        flood(broker.port, "fill", 32_000, 1000)
        full = broker.health.check_ledger_quiet()
        rss_full = broker.rss()
        most = most or rss_full - 12 * _LIMIT
        assert full.get(PREFIX + "spool_allocated_bytes") >= 30 * _LIMIT
        away.start()
        broker.health.wait_drained(30)
        metrics = broker.health.wait_for(
            lambda m: m.get(PREFIX + "spool_allocated_bytes") <= 8 * _LIMIT, 10, "segments are given back"
        )
        if not os.environ.get("MM_TEST_PRELOAD"):  # the allocators of the sanitizers keep what is freed
            wait_until(lambda limit=most: broker.rss() < limit, 10, "memory goes back to the system")  # type: ignore[misc]
        away.stop()
        texts.append(
            f"allocated {full.get(PREFIX + 'spool_allocated_bytes') / _LIMIT:.0f} -> "
            f"{metrics.get(PREFIX + 'spool_allocated_bytes') / _LIMIT:.0f} MiB, "
            f"RSS {rss_full // _LIMIT} -> {broker.rss() // _LIMIT} MiB"
        )
    figure("; ".join(texts))
