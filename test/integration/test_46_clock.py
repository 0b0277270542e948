"""The clock of the broker's host is set, by hours, while messages flow: all waits go by the monotonic clock, and time
stamps hold nothing up."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import MakeBroker, MakeKafka
from harness import mqtt
from harness.arrival import check_arrived
from harness.broker import Broker
from harness.consumer import read_topic
from harness.kafka import Cluster
from harness.load import Load, streams
from harness.world import World

_RATE = 400.0
_HOURS = 3600.0
_AT_ONCE = 2.0  # seconds within which messages flow again


def _load(port: int) -> Load:
    return Load(port, [*streams(2, "one", rate=_RATE / 4), *streams(2, "two", qos=2, version=mqtt.V5, rate=_RATE / 4)])


def _wait_flowing(broker: Broker, timeout: float) -> float:
    """Wait until messages flow: no more waits than is under way. Returns the seconds."""
    begin = time.monotonic()
    before = broker.health.scrape().delivered
    broker.health.wait_for(
        lambda m: m.in_spool < _RATE / 4 and m.delivered > before + _RATE / 4, timeout, "messages flow"
    )
    return time.monotonic() - begin


def _check(broker: Broker, load: Load, cluster: Cluster, topic: str) -> str:
    audit, metrics = check_arrived(broker, load, cluster.bootstrap, topic)
    assert metrics.dead_lettered == 0
    return str(audit)


@pytest.mark.parametrize(("workers", "spool"), [(1, "memory"), (3, "disk")])
def test_set_back_and_forth_under_load(
    kafka: Cluster,
    make_broker: MakeBroker,
    tmp_path: Path,
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
    workers: int,
    spool: str,
) -> None:
    """The clock jumps by two hours, forth and back, again and again. Kafka takes any time stamp here, as its topic goes
    by Kafka's own clock. Messages flow within 2 s of each jump, and a producer that waits by the old clock is replaced
    without loss. Then the publishers fall silent, the clock is set back, and the next message is delivered at once."""
    topic = kafka.new_topic(2, {"message.timestamp.type": "LogAppendTime"})
    world = World(tmp_path / "world")
    options = {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_workers": workers}
    if spool == "disk":
        options["spool_dir"] = str(tmp_path / "spool")
    broker = make_broker(options, **world.around()).start()
    longest = 0.0
    with _load(broker.port) as load:
        _wait_flowing(broker, 10)
        for _ in range(int(seconds(2, 20))):
            for ahead in (2, 0, -2, 0):
                world.set_clock(ahead * _HOURS)
                longest = max(longest, _wait_flowing(broker, 10))
                time.sleep(0.3)
        text = _check(broker, load, kafka, topic)
    for ahead in (0, -2, -4):
        world.set_clock(ahead * _HOURS)
        time.sleep(0.5)
        n, begin = broker.health.scrape().delivered, time.monotonic()
        mqtt.publish_all(broker.port, [(f"silence/{-ahead}/{k}", b"x") for k in range(20)])
        broker.health.wait_for(lambda m, n=n: m.delivered == n + 20, 10, "they are delivered")  # type: ignore[misc]
        longest = max(longest, time.monotonic() - begin)
    figure(f"{text}; messages flowed {longest:.1f} s after a jump at the latest")
    assert longest <= _AT_ONCE + 0.5
    assert broker.wait_log("CLOCK_SET_BACK")


def test_ahead_of_kafka(
    apache_kafka: Cluster, make_broker: MakeBroker, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """The clock is two hours ahead of Kafka's, which takes one hour at most: messages wait, and the log says
    INVALID_TIMESTAMP. When the clock is right they all arrive in order, with the time of their delivery where theirs
    was in the future, and no message is taken for one that can never be stored."""
    kafka = apache_kafka
    topic = kafka.new_topic(config={"message.timestamp.after.max.ms": "3600000"})  # as is the rule since Kafka 4
    world = World(tmp_path / "world")
    broker = make_broker(
        {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "kafka_retry_interval": 1}, **world.around()
    ).start()
    with _load(broker.port) as load:
        _wait_flowing(broker, 10)
        world.set_clock(2 * _HOURS)
        broker.health.wait_for(lambda m: m.in_spool > 2 * _RATE, 10, "messages wait")
        (line, *_) = broker.wait_log("INVALID_TIMESTAMP", 5)
        world.set_clock(0)
        mended = time.monotonic()
        _wait_flowing(broker, 10)
        took = time.monotonic() - mended
        text = _check(broker, load, kafka, topic)
    now = time.time() * 1000
    assert all(record.timestamp_ms <= now for record in read_topic(kafka.bootstrap, topic))
    figure(f"{text}; flowed {took:.1f} s after the clock was right; {line.split(': ', 2)[-1]}")


def test_set_back_while_kafka_is_away(
    make_kafka: MakeKafka, make_broker: MakeBroker, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """Kafka is killed, the clock is set back by two hours, Kafka comes back: delivery goes on within 2 s."""
    kafka = make_kafka()
    kafka.start()
    topic = kafka.new_topic(2, {"message.timestamp.type": "LogAppendTime"})
    world = World(tmp_path / "world")
    options = {"kafka_broker": kafka.bootstrap, "kafka_topic": topic, "spool_dir": str(tmp_path / "spool")}
    broker = make_broker(options, **world.around()).start()
    with _load(broker.port) as load:
        _wait_flowing(broker, 10)
        kafka.kill()
        killed_at = time.time()
        time.sleep(1)
        world.set_clock(-2 * _HOURS)
        time.sleep(1)
        returned = kafka.start()
        _wait_flowing(broker, 15)
        text = _check(broker, load, kafka, topic)
    first = min(r.timestamp_ms / 1000 for r in read_topic(kafka.bootstrap, topic) if r.timestamp_ms / 1000 > killed_at)
    figure(f"{text}; first record {first - returned:+.2f} s from Kafka's return")
    assert first - returned <= _AT_ONCE
