"""The broker is killed by SIGKILL, again and again, at random moments under load: what it had acknowledged reaches
Kafka."""

from __future__ import annotations

import http.client
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import MakeBroker, MakeKafka, long_form
from harness import mqtt
from harness.audit import audit_topics
from harness.beside import Beside
from harness.broker import Broker
from harness.kafka import Cluster, Kafka
from harness.load import Load, Stream, streams
from harness.metrics import PREFIX
from harness.wait import wait_until


@dataclass
class _Kind:
    short: int  # kills
    long: int
    qos: int = 1
    trouble: bool = False  # Kafka is paused and killed, too
    small: bool = False  # segments of 512 KiB, by either writer


_KINDS = {
    "QoS 1": _Kind(15, 1000),
    "QoS 1, Kafka in trouble": _Kind(8, 100, trouble=True),
    "QoS 1, small segments": _Kind(10, 100, small=True),
    "QoS 2": _Kind(10, 100, qos=2),
}
_LONGEST_LIFE = 0.8, 1.3  # seconds from the first acknowledgement to the kill, short and long form


class _Watch(Beside):
    """Looks at the metrics ten times a second, to know how much is usually under way. (Not more often: a page that was
    shown is written down first, and with it what was delivered.)"""

    def __init__(self, broker: Broker) -> None:
        super().__init__(every=0.1)
        self._in_flight: list[float] = []
        self._per_tenth: list[float] = []
        self._broker = broker
        self._last: tuple[float, float, float] | None = None  # start of the process, moment, delivered

    @property
    def in_flight(self) -> float:
        """Messages in the Kafka clients, on average."""
        return sum(self._in_flight) / max(1, len(self._in_flight))

    @property
    def per_tenth(self) -> float:
        """Messages delivered within 100 ms, on average."""
        return sum(self._per_tenth) / max(1, len(self._per_tenth))

    def once(self) -> None:
        last, self._last = self._last, None
        try:
            text = self._broker.health.request("/metrics", timeout=1).text
        except (OSError, http.client.HTTPException):
            return
        now = time.monotonic()
        self._in_flight.append(_sum(text, "kafka_in_flight_messages"))
        started = _sum(text, "start_time_seconds")
        delivered = _sum(text, "messages_delivered_total") + _sum(text, "messages_repeated_total")
        if last is not None and last[0] == started and now > last[1] + 0.01:
            self._per_tenth.append((delivered - last[2]) * 0.1 / (now - last[1]))
        self._last = (started, now, delivered)


def _sum(text: str, name: str) -> float:
    return sum(float(v) for v in re.findall(rf"^{PREFIX}{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


def _load(port: int, qos: int) -> Load:
    """Ten connections, forty MQTT topics, at most 12,000 messages a second."""
    kinds: list[Stream] = [
        *streams(7, "old", qos=qos, rate=1200, size=100),
        *streams(2, "new", qos=qos, version=mqtt.V5, rate=1200, size=300),
        *streams(1, "large", qos=qos, rate=200, size=20_000),
    ]
    return Load(port, kinds, backoff=0.01)


def _disturb(kafka: Kafka, dice: random.Random, paused: bool) -> bool:
    """Now and then something befalls Kafka. Returns whether it is paused now."""
    if paused:
        kafka.resume()
        return False
    fate = dice.random()
    if fate < 0.25:
        kafka.pause()
        return True
    if fate < 0.35:
        kafka.kill()
        kafka.start()
    return False


def _kill_at_a_random_moment(broker: Broker, load: Load, dice: random.Random) -> bool:
    """Of the process that was just started. Returns whether it had acknowledged anything."""
    n_before = load.n_acked
    if dice.random() < 0.15:
        time.sleep(dice.uniform(0, 0.15))  # perhaps before it serves anybody
    else:

        def serves() -> bool:
            assert broker.running, f"the broker ended by itself with {broker.child.returncode}\n{broker.logs()}"
            load.alive()
            return load.n_acked > n_before

        wait_until(serves, 20, lambda: f"a message is acknowledged\n{broker.logs()}", interval=0.002)
        time.sleep(dice.uniform(0, _LONGEST_LIFE[long_form()]))
    assert broker.running, f"the broker ended by itself with {broker.child.returncode}\n{broker.logs()}"
    broker.kill()
    return load.n_acked > n_before


@pytest.mark.limit(long=3600)
@pytest.mark.parametrize("name", _KINDS)
def test_killed_again_and_again(
    kafka: Cluster,
    make_kafka: MakeKafka,
    make_broker: MakeBroker,
    figure: Callable[[str], None],
    tmp_path: Path,
    name: str,
) -> None:
    """N random SIGKILLs of the broker, which is started again at once on the same directory with another number of
    workers; publishers send again what was not acknowledged. Every message that was sent is in Kafka in the end, in
    order per MQTT topic, and the plugin repeats no more than what was under way at each kill: what Kafka's client held,
    and what was delivered in the 100 ms between two writes of STATE. The counters come through all of it."""
    kind = _KINDS[name]
    n_kills = kind.long if long_form() else kind.short
    seed = int(os.environ.get("MM_TEST_SEED", "0")) or random.randrange(1, 10**9)
    dice = random.Random(seed)
    node = make_kafka() if kind.trouble else None
    if node is not None:
        node.start()
        kafka = node
    topic = kafka.new_topic(3)
    broker = make_broker(
        {
            "kafka_broker": kafka.bootstrap,
            "kafka_topic": topic,
            "spool_dir": tmp_path / "spool",
            "kafka_workers": 1,
            **({"spool_max_bytes": "4M"} if kind.small else {}),
        },
        config_lines=["max_inflight_messages 0", "connection_messages false"],
    )
    broker.launch()
    begin, n_serving, paused = time.monotonic(), 0, False
    with _load(broker.port, kind.qos) as load, _Watch(broker) as watch:
        for _ in range(n_kills):
            if node is not None:
                paused = _disturb(node, dice, paused)
            n_serving += _kill_at_a_random_moment(broker, load, dice)
            broker.change(kafka_workers=dice.randint(1, 4))
            if kind.small:
                broker.change(spool_writer=dice.choice(["mmap", "pwrite"]))
            broker.launch()
        if node is not None:
            node.resume()
        n_resent = load.n_resent
        broker.wait_ready()
        load.finish(30)
        metrics = broker.health.wait_drained(60)
    took = time.monotonic() - begin
    audit = audit_topics(kafka.bootstrap, topic, load.books, timeout=600 if long_form() else 60)
    # Three times what is usual: a machine that is busy writes STATE later, and delivers in bursts.
    bound = int(3 * n_kills * (watch.in_flight + watch.per_tenth + 100))
    figure(
        f"seed {seed}: {n_kills} kills in {took:.0f} s, {n_serving} after the first acknowledgement;"
        f" {load.n_acked} acknowledged, {load.n_resent} sent again by publishers; {audit}; bound {bound}, 3 * {n_kills}"
        f" * ({watch.in_flight:.0f} in flight + {watch.per_tenth:.0f} in 100 ms + 100)"
    )
    audit.check(repeated_ids=bound)
    assert load.n_acked == load.n_sent
    assert audit.repeated_payloads <= load.n_resent
    # What was killed was a broker at work, with messages on the way.
    assert n_serving >= n_kills * 0.6
    assert n_resent >= n_kills
    # No delivery is forgotten, and none is counted twice but those that were made twice.
    assert audit.n_distinct <= metrics.delivered <= audit.n_records, metrics.ledger()
