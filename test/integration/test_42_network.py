"""The network between the plugin and Kafka fails in all its ways: nothing is lost, and order is kept."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import MakeBroker, long_form
from harness import mqtt
from harness.arrival import check_arrived
from harness.consumer import read_topic
from harness.kafka import Kafka
from harness.load import Load, streams
from harness.metrics import PREFIX
from harness.toxic import Toxin, ToxicProxy

_RATE = 400.0
_PARTITIONS = 2
_WAITING = 50  # messages, at least, where a fault makes them wait; otherwise some few are under way
_RECOVERY = 2.0  # seconds within which delivery goes on


@dataclass(frozen=True)
class _Fault:
    toxin: Toxin = Toxin()
    once: Callable[[ToxicProxy], None] | None = None  # when it begins
    again: Callable[[ToxicProxy], None] | None = None  # 5 times a second as long as it lasts
    shows: str = "stops"  # by which it is seen that it happened: delivery "stops"; messages "wait"; "connections"


_FAULTS = {
    "black hole": _Fault(Toxin(up=False, down=False, hold=True)),
    "requests do not come through": _Fault(Toxin(up=False)),
    "answers do not come through": _Fault(Toxin(down=False)),
    "reset, and refused": _Fault(Toxin(refuse=True), once=ToxicProxy.reset),
    "reset again and again": _Fault(again=ToxicProxy.reset, shows="connections"),
    "closed again and again": _Fault(again=ToxicProxy.close, shows="connections"),
    "20 kB/s": _Fault(Toxin(rate=20_000), shows="wait"),
    "200 ms more": _Fault(Toxin(latency=0.2), shows="wait"),
    "byte by byte": _Fault(Toxin(piece=1, rate=40_000), shows="wait"),
    "slow, in pieces, and late": _Fault(Toxin(piece=100, rate=50_000, latency=0.1), shows="wait"),
}


class _Line:
    """A Kafka that is reached by clients of the proxy only over the proxy, and by the tests directly."""

    def __init__(self, directory: Path) -> None:
        self.proxy = ToxicProxy()
        self.kafka = Kafka(directory)
        self.proxy.server_port = self.kafka.add_way(lambda _: self.address)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.proxy.port}"


@pytest.fixture(scope="module")
def _far_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Line]:
    line = _Line(tmp_path_factory.mktemp("far-kafka"))
    try:
        with line.proxy:
            line.kafka.start()
            yield line
    finally:
        line.kafka.close()


@pytest.fixture
def line(_far_kafka: _Line) -> Iterator[_Line]:
    try:
        yield _far_kafka
    finally:
        _far_kafka.proxy.toxin = Toxin()


class _Run:
    """A broker that writes over the line, and publishers."""

    def __init__(self, line: _Line, make_broker: MakeBroker, **options: str | int) -> None:
        self.line = line
        # The time of appending, by the same clock as ours, tells when delivery went on.
        self.topic = line.kafka.new_topic(_PARTITIONS, {"message.timestamp.type": "LogAppendTime"})
        self.broker = make_broker({"kafka_broker": line.address, "kafka_topic": self.topic, **options}).start()
        kinds = [*streams(2, "one", rate=_RATE / 4), *streams(2, "two", qos=2, version=mqtt.V5, rate=_RATE / 4)]
        self.load = Load(self.broker.port, kinds).start()
        self.wait_flowing(10)

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.load.abandon()

    def wait_flowing(self, timeout: float) -> None:
        """Wait until no more waits than is under way, and messages are delivered."""
        health, before = self.broker.health, self.broker.health.scrape().delivered
        health.wait_for(lambda m: m.in_spool < _RATE / 2 and m.delivered > before, timeout, "messages flow")

    def suffer(self, fault: _Fault, seconds: float) -> float:
        """Returns the moment of the end, seconds since the epoch."""
        proxy = self.line.proxy
        before = proxy.n_connections
        proxy.toxin = fault.toxin
        if fault.once is not None:
            fault.once(proxy)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if fault.again is not None:
                fault.again(proxy)
            time.sleep(0.2)
        self._check_shown(fault, before, seconds)
        ended = time.time()
        proxy.toxin = Toxin()
        return ended

    def _check_shown(self, fault: _Fault, n_connections: int, seconds: float) -> None:
        if fault.shows == "connections":
            n = self.line.proxy.n_connections - n_connections
            due = max(1, seconds / 2)  # there is up to 1 s between two tries, and more on a busy machine
            assert n >= due, f"{n} new connections in {seconds:.1f} s: {fault}"
        else:
            n_waiting = self.broker.health.scrape().in_spool
            due = _RATE * seconds / 2 if fault.shows == "stops" else _WAITING
            assert n_waiting >= due, f"{n_waiting:.0f} messages wait after {seconds:.1f} s: {fault}"

    def finish(self) -> str:
        """All is there, in order."""
        audit, metrics = check_arrived(self.broker, self.load, self.line.kafka.bootstrap, self.topic, 60)
        restarts = metrics.total(PREFIX + "producer_restarts_total")
        return f"{audit}, {restarts:.0f} producers replaced"

    def appended(self) -> list[float]:
        """When each record was appended, in order; seconds since the epoch."""
        return sorted(record.timestamp_ms / 1000 for record in read_topic(self.line.kafka.bootstrap, self.topic))


def _first_after(appended: list[float], moment: float) -> float:
    # The clock of the stamps has milliseconds.
    return next(t for t in appended if t >= moment - 0.001) - moment


@pytest.mark.parametrize(("workers", "spool"), [(1, "memory"), (3, "disk")] if long_form() else [(3, "disk")])
def test_each_fault(
    line: _Line,
    make_broker: MakeBroker,
    tmp_path: Path,
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
    workers: int,
    spool: str,
) -> None:
    """Each fault befalls the line while messages are published, in an order by chance; the long form has each four
    times, for other times. What had stopped goes on within 2 s."""
    seed = int(os.environ.get("MM_TEST_SEED", "0")) or random.randrange(1, 10**9)
    print(f"MM_TEST_SEED={seed}")
    dice = random.Random(seed)
    faults = list(_FAULTS) * int(seconds(1, 4))
    dice.shuffle(faults)
    more = {"spool_dir": str(tmp_path / "spool")} if spool == "disk" else {}
    ends: list[tuple[str, float]] = []
    with _Run(line, make_broker, kafka_workers=workers, **more) as run:
        for name in faults:
            ended = run.suffer(_FAULTS[name], seconds(1.5, dice.uniform(0.5, 12)))
            if _FAULTS[name].shows == "stops":
                ends.append((name, ended))
            run.wait_flowing(30)
        text = run.finish()
        appended = run.appended()
    waits = [(_first_after(appended, ended), name) for name, ended in ends]
    average, (longest, name) = sum(wait for wait, _ in waits) / len(waits), max(waits)
    figure(
        f"{len(faults)} faults, seed {seed}: {text}; delivery went on {average:.2f} s after the end of one on average, "
        f"{longest:.2f} s ({name}) at most"
    )
    assert longest <= _RECOVERY


def test_half_open(
    line: _Line,
    make_broker: MakeBroker,
    tmp_path: Path,
    seconds: Callable[[float, float], float],
    figure: Callable[[str], None],
) -> None:
    """Kafka's host is gone and is back, as after a crash, and what stood between has forgotten the connections: nobody
    tells the plugin that they are dead. It finds out when its requests time out, after 30 s (in the short form it is
    set to 2 s), and goes on with new connections."""
    patience = seconds(2, 30)
    more: dict[str, str | int] = {"spool_dir": str(tmp_path / "spool")}
    if not long_form():
        more["rdkafka.socket.timeout.ms"] = int(patience * 1000)
    with _Run(line, make_broker, **more) as run:
        waits = []
        for _ in range(int(seconds(2, 5))):
            begin = time.time()
            run.line.proxy.abandon()
            run.broker.health.wait_for(lambda m: m.in_spool > _RATE, 10, "messages wait")
            run.wait_flowing(patience + 10)
            waits.append(begin)
        text = run.finish()
        appended = run.appended()
    gaps = [_first_after(appended, begin + 0.5) + 0.5 for begin in waits]
    figure(f"{len(gaps)} times half-open: {text}; went on after {', '.join(f'{gap:.1f}' for gap in gaps)} s")
    assert max(gaps) <= patience + 2 + 1  # librdkafka looks for late requests once a second
    assert min(gaps) > patience / 2, "the connections were not dead"
