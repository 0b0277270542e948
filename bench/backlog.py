"""A backlog: how it drains when Kafka comes back, and how long the broker takes to start with it."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from harness import mqtt
from harness.broker import Broker
from harness.metrics import Metrics
from harness.spool import add_sealed, segments
from harness.wait import wait_until
from measure import (
    Bench,
    BrokenRun,
    Producer,
    Sample,
    Subject,
    puback_sample,
    start_loadgen,
)
from plan import DRAIN_RATE, MIB, NO_BACKLOG, Case, Contest, Kind, Load

_SEGMENT = 8 * MIB
# Messages that are really there before segments are made up: more than the plugin reads ahead while Kafka is away.
_REAL = Load(qos=0, size=1000, n=120_000)
_RECORDS_OF_A_SEGMENT = 8000
_START_TIMEOUT = 60.0
# Messages a second, less than any machine does.
_SLOWEST_RATE = 2000
# What comes in meanwhile goes on for as long as a backlog would take at this rate: it is rather too
# high, so that the backlog lasts longer.
_EXPECTED_RATE = {100: 200_000, 1024: 80_000}


# --- drain -------------------------------------------------------------------------------------------------------
#
# One broker takes DRAIN_RATE messages a second all the while, whose PUBACKs are timed. "bare, alone" is the bare broker
# by itself, "bare producer" the bare broker beside a bare producer that writes as much as the backlog holds, and
# "backlog drained" the broker whose plugin drains it.


def _meanwhile(case: Case, seconds: float) -> Load:
    """What comes in: QoS 1, whatever the backlog was collected by."""
    return replace(case.load, qos=1, size=100, n=max(20, int(DRAIN_RATE * seconds)), rate=DRAIN_RATE)


def _beside(bench: Bench, case: Case, load: Load, other: Producer | None) -> Sample:
    """A bare broker under the load, with a bare producer at work or nobody."""
    with Subject(bench, replace(case, kind=Kind.BARE, load=load)) as subject:
        subject.start()
        at_work = other.launch() if other is not None else None
        sample = puback_sample(subject.publish(load))
        if at_work is not None:
            report = at_work.report()
            sample |= {
                "drained_rate": report["rate"],
                "process_us": report["cpu_seconds"] / report["messages"] * 1e6,
            }
    return sample


class _Backlog(Subject):
    """A broker that collects the messages of the case while Kafka is away, and then delivers them."""

    def __init__(self, bench: Bench, case: Case) -> None:
        self._config = Path(tempfile.mkdtemp(prefix="config-", dir=bench.work)) / "options"
        self._point_to(bench.nobody)
        super().__init__(bench, case, self._config)

    def _point_to(self, address: str) -> None:
        fresh = self._config.with_suffix(".new")
        fresh.write_text(f"kafka_broker {address}\n")
        os.replace(fresh, self._config)

    def collect(self) -> None:
        self.publish(replace(self.case.load, rate=0))
        self.settle()

    def drain(self, meanwhile: Load) -> Sample:
        """Kafka is there. The clock runs from the first deliveries on, as that of the bare producer does from the end
        of its warm-up on; how long they took to come is told by itself."""
        n, rss = self.n_sent, self.broker.rss()
        self._point_to(self._bench.kafka.bootstrap)
        told = time.monotonic()
        self.broker.child.signal(signal.SIGHUP)
        first = self._first_deliveries()
        begin = time.monotonic()
        at_work = start_loadgen(self.broker.port, meanwhile)
        self.n_sent += meanwhile.n
        end, most = self._wait_drained(begin, first.delivered, n)
        sample = puback_sample(at_work.report())
        self.delivers = True
        self.settle()
        return sample | {
            "drained_rate": (n - first.delivered) / (end - begin),
            "first_delivery_ms": (begin - told) * 1e3,
            "rss_growth_mib": (most - rss) / MIB,
        }

    def _first_deliveries(self) -> Metrics:
        def delivered() -> Metrics | None:
            metrics = self.broker.health.scrape()
            return metrics if metrics.delivered > 0 else None

        return wait_until(delivered, 60, "the first message is delivered", interval=0.01)

    def _wait_drained(self, begin: float, delivered: float, n: float) -> tuple[float, int]:
        """Wait for the n-th delivery. Returns its time, drawn between two looks, and the most memory meanwhile."""
        most, seen = self.broker.rss(), (begin, delivered)
        deadline = begin + 60 + n / _SLOWEST_RATE
        while True:
            time.sleep(0.05)
            metrics, now = self.broker.health.scrape(), time.monotonic()
            most = max(most, self.broker.rss())
            if metrics.delivered >= n:
                past, had = seen
                return past + (now - past) * (n - had) / (metrics.delivered - had), most
            if now > deadline:
                raise BrokenRun(f"{self.case}: the backlog of {n:.0f} does not drain: {metrics.ledger()}")
            seen = (now, metrics.delivered)



def drain_round(bench: Bench, contest: Contest, order: list[int]) -> list[Sample]:
    """A sample for each case; order: by which they are measured."""
    samples: list[Sample] = [{} for _ in contest.cases]
    seconds = contest.cases[0].load.n / _EXPECTED_RATE[contest.cases[0].load.size]
    for i in order:
        case = contest.cases[i]
        load = _meanwhile(case, seconds)
        if case.kind is Kind.BARE:
            samples[i] = _beside(bench, case, load, None)
        elif case.kind is Kind.PRODUCER:
            with Producer(bench, case) as producer:
                samples[i] = _beside(bench, case, load, producer)
                producer.finish()
        else:
            with _Backlog(bench, replace(case, load=replace(case.load, rate=DRAIN_RATE))) as backlog:
                backlog.start()
                backlog.collect()
                samples[i] = backlog.drain(load)
                backlog.check_kafka()
    return samples


# --- start -------------------------------------------------------------------------------------------------------


def _start_ms(broker: Broker) -> float:
    """From the start of the process to when the broker has answered a client."""
    begin = time.monotonic()
    broker.launch()
    wait_until(lambda: mqtt.is_served(broker.port), _START_TIMEOUT, lambda: f"it serves\n{broker.logs()}", 0.001)
    return (time.monotonic() - begin) * 1e3


def _checked(broker: Broker, n: int, what: str) -> None:
    """After its start the broker has to say that it holds n messages."""
    metrics = broker.health.check_ledger_quiet()
    if metrics.in_spool != n:
        raise BrokenRun(f"start with {what}: the spool has to hold {n} messages: {metrics.ledger()}")


def start_round(bench: Bench, contest: Contest, sizes: tuple[int, ...]) -> list[Sample]:
    """The cases stand in this order: without plugin, no backlog, the sizes."""
    samples: list[Sample] = []
    spool_case = contest.cases[1]
    with Subject(bench, contest.cases[0]) as bare, Subject(bench, spool_case) as subject:
        samples.append({"start_ms": _start_ms(bare.broker)} | bare.memory())
        samples.append({"start_ms": _start_ms(subject.broker)})
        subject.broker.wait_ready()
        samples[-1] |= subject.memory()
        _checked(subject.broker, 0, NO_BACKLOG)
        subject.publish(_REAL)
        subject.settle()
        subject.broker.abandon()
        spool, n = subject.directory / "spool", _REAL.n
        for case, size in zip(contest.cases[2:], sizes, strict=True):
            n_missing = -(-(size - sum(path.stat().st_size for path in segments(spool))) // _SEGMENT)
            if n_missing > 0:
                add_sealed(spool, n_missing, _RECORDS_OF_A_SEGMENT)
                n += n_missing * _RECORDS_OF_A_SEGMENT
            samples.append({"start_ms": _start_ms(subject.broker)})
            subject.broker.wait_ready()
            samples[-1] |= subject.memory()
            _checked(subject.broker, n, case.variant)
            subject.broker.abandon()
    return samples
