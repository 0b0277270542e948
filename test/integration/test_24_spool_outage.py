"""Kafka is away for long: the backlog lies on the disk, memory stays flat, and all of it is delivered in order."""

from __future__ import annotations

import base64
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, TopicPartition

from conftest import MakeBroker, MakeKafka, long_form
from harness import mqtt
from harness.audit import audit_topics
from harness.beside import Beside
from harness.broker import Broker, sanitized
from harness.consumer import end_offsets, make_consumer
from harness.load import Load, streams
from harness.loadgen import loadgen, report_of, start_loadgen
from harness.metrics import PREFIX
from harness.spool import add_sealed, segments
from harness.wait import wait_until

_MIB = 1024 * 1024
_GIB = 1024 * _MIB
_TOPICS = 64
_LATENCY_TOPICS = "calm/"


class _Rss(Beside):
    """The most memory that the broker had resident."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(every=0.05)
        self.most = broker.rss()
        self._broker = broker

    def once(self) -> None:
        self.most = max(self.most, self._broker.rss())


def _check_all(bootstrap: str, topic: str, n_expected: int) -> None:
    """Every record of the spool is in Kafka, once; within an MQTT topic in the order of the spool and of the times at
    which they were published. (The payloads are loadgen's, which begin with that time.)"""
    consumer = make_consumer(bootstrap)
    seen = bytearray(n_expected + 1)
    last: dict[bytes, tuple[int, bytes]] = {}
    try:
        ends = end_offsets(consumer, topic)
        assert sum(ends.values()) == n_expected
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        left = n_expected
        deadline = time.monotonic() + 60 + n_expected / 50_000
        while left:
            assert time.monotonic() < deadline, f"{left} of {n_expected} are not read"
            messages = consumer.consume(10_000, 0.5)
            left -= len(messages)
            for message in messages:
                problem = message.error()
                if problem is not None:
                    raise KafkaException(problem)
                ((_, mm_id),) = message.headers()  # type: ignore[misc, str-unpack]
                key, seq = message.key(), int(mm_id[37:])  # type: ignore[index]
                stamp = base64.b64decode(message.value().split(b'"')[7][:28])[:20]  # type: ignore[union-attr]
                assert seq <= n_expected and not seen[seq], f"{mm_id!r} is there twice, or is not of these"
                seen[seq] = 1
                assert key is not None
                before = last.get(key, (0, b""))
                assert seq > before[0] and stamp >= before[1], f"{key!r}: {seq} {stamp!r} after {before}"
                last[key] = (seq, stamp)
        assert seen.count(1) == n_expected
    finally:
        consumer.close()


@pytest.mark.limit(long=2400)
def test_large_backlog(
    make_kafka: MakeKafka, make_broker: MakeBroker, figure: Callable[[str], None], tmp_path: Path
) -> None:
    """Kafka goes away, and 200 MB (long: 10 million messages, more than 2 GiB) come in meanwhile: they lie on the disk,
    and resident memory grows by 64 MiB at most, in the outage and when it is over. All is delivered, in order, none
    twice, and MQTT clients are served meanwhile as before."""
    n_messages, size = (10_000_000, 200) if long_form() else (200_000, 1000)
    kafka = make_kafka()
    kafka.start()
    topic = kafka.new_topic(4)
    broker = make_broker(
        {
            "kafka_broker": kafka.bootstrap,
            "kafka_topic": topic,
            "spool_dir": tmp_path / "spool",
            "spool_max_bytes": "8G",
        }
    ).start()
    n_first = 20_000
    loadgen(broker.port, messages=n_first, qos=1, size=size, topics=_TOPICS)
    broker.health.wait_drained(20)
    rss_before = broker.rss()
    kafka.kill()
    with _Rss(broker) as rss:
        report = loadgen(broker.port, messages=n_messages, qos=1, size=size, topics=_TOPICS, window=1000)
        metrics = broker.health.check_ledger_quiet()
        assert metrics.in_spool == n_messages
        on_disk = sum(path.stat().st_blocks * 512 for path in segments(tmp_path / "spool"))
        assert on_disk >= n_messages * size
        n_calm, rate = (20_000, 2000) if long_form() else (2000, 2000)
        calm: dict[str, int | str] = {
            "messages": n_calm,
            "rate": rate,
            "qos": 1,
            "topics": _TOPICS,
            "prefix": _LATENCY_TOPICS,
        }
        away = loadgen(broker.port, **calm)["latency_us"]
        rss_away = rss.most

        kafka.start()
        begin = time.monotonic()
        broker.health.wait_for(lambda m: m.delivered > n_first, 20, "the first messages are delivered")
        process = start_loadgen(broker.port, **calm)
        draining = report_of(process)["latency_us"]
        assert broker.health.scrape().in_spool > 0, "the backlog was gone before the latency was measured"
        broker.health.wait_for(lambda m: m.in_spool == 0, 1200 if long_form() else 100, "all is delivered")
        took = time.monotonic() - begin
        rss_after = rss.most
    metrics = broker.health.wait_drained(1)
    n_all = n_first + n_messages + 2 * n_calm
    assert metrics.delivered == metrics.received == n_all
    figure(
        f"{n_messages} messages of {size} bytes came at {report['rate']:.0f}/s, {on_disk // _MIB} MiB of files;"
        f" drained in {took:.1f} s, {n_messages / took:.0f} a second; RSS {rss_before // _MIB} MiB, most while away "
        f"{rss_away // _MIB}, most at all {rss_after // _MIB}; PUBACK p50, p99, p99.9 while away "
        f"{away['p50']}, {away['p99']}, {away['p99.9']} us, while draining "
        f"{draining['p50']}, {draining['p99']}, {draining['p99.9']} us"
    )
    _check_all(kafka.bootstrap, topic, n_all)
    if not sanitized():
        assert rss_after - rss_before <= 64 * _MIB
        # The machine is Kafka's, too, while the backlog is drained.
        assert draining["p99"] <= max(250_000, 3 * away["p99"])


def test_start_with_10_gib(
    make_broker: MakeBroker, kafka_port_of_nobody: int, figure: Callable[[str], None], tmp_path: Path
) -> None:
    """A backlog of 10 GiB in 1,300 segments: the broker serves within 1 s of its start, and says how much it found.
    (All but the first segments take no room on the disk: only what a start reads is there.)"""
    spool = tmp_path / "spool"
    options = {
        "kafka_broker": f"127.0.0.1:{kafka_port_of_nobody}",
        "kafka_topic": "t",
        "spool_dir": spool,
        "spool_max_bytes": "16G",
    }
    broker = make_broker(options)
    begin = time.monotonic()
    broker.start()
    empty = time.monotonic() - begin
    loadgen(broker.port, messages=100_000, qos=1, size=1000, topics=_TOPICS)
    broker.kill()
    n_segments, n_records = 1270, 8000
    add_sealed(spool, n_segments, n_records)
    assert sum(path.stat().st_size for path in segments(spool)) >= 10 * _GIB
    begin = time.monotonic()
    broker.start()
    took = time.monotonic() - begin
    metrics = broker.health.check_ledger_quiet()
    figure(
        f"started in {took:.2f} s with {len(segments(spool))} segments, in {empty:.2f} s with none; {metrics.ledger()}"
    )
    assert metrics.in_spool == 100_000 + n_segments * n_records
    broker.wait_log(f"found {100_000 + n_segments * n_records} messages")
    mqtt.publish_all(broker.port, [("a", b"x")])
    assert took <= 1.0 or sanitized()
    broker.abandon()


def test_sigterm_and_sighup_in_an_outage(
    make_kafka: MakeKafka,
    make_broker: MakeBroker,
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
    tmp_path: Path,
) -> None:
    """Kafka is frozen, or killed, under load; SIGHUP, and SIGTERM twice: the broker ends within 10 s and says how many
    messages wait on the disk; it starts again, several times, and when Kafka is back nothing is missing, all is in
    order, and no more than what was under way is there twice."""
    kafka = make_kafka()
    kafka.start()
    topic = kafka.new_topic(2)
    broker = make_broker(
        {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_workers": 3, "spool_dir": tmp_path / "spool"}
    ).start()
    slowest, under_way = 0.0, 0.0
    with Load(broker.port, streams(4, "a", rate=500)) as load:
        for trouble in ["frozen"] if not long_form() else ["killed", "frozen"] * 5:
            wait_until(lambda: broker.health.scrape().delivered > 0, 10, "messages are delivered")
            if trouble == "killed":
                kafka.kill()
            else:
                kafka.pause()
            for _ in range(int(seconds(1, 3))):
                n = load.n_acked
                wait_until(lambda n=n: load.n_acked > n + 200, 10, "messages come in")  # type: ignore[misc]
                broker.reload()
                under_way += broker.health.scrape().total(PREFIX + "kafka_in_flight_messages")
                broker.child.signal(signal.SIGTERM)
                time.sleep(0.1)
                slowest = max(slowest, broker.stop().seconds + 0.1)
                broker.wait_log(r"metamorphosis: stopped: .*spool")
                broker.start()
            if trouble == "killed":
                kafka.start()
            else:
                kafka.resume()
        load.finish(10)
    metrics = broker.health.wait_drained(30)
    audit = audit_topics(kafka.bootstrap, topic, load.books)
    figure(f"slowest stop {slowest:.2f} s; {audit}; {under_way:.0f} under way")
    audit.check(repeated_ids=int(under_way) + 500)
    assert audit.repeated_payloads <= load.n_resent
    assert metrics.delivered == audit.n_distinct
    assert slowest <= 10
