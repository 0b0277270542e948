"""The broker under test: what a load costs it, and the proof that nothing was lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from harness import ports
from harness.broker import Broker
from harness.consumer import Follower, Record, count_records
from harness.kafka import Cluster
from harness.metrics import PREFIX, Metrics

ROOT = Path(__file__).resolve().parents[1]
WINDOW = 100
CONNECTIONS = 4
SPOOL_MAX_BYTES = 2 << 30
STAMP_LEN = 20  # digits at the beginning of each payload
RECORD_OVERHEAD = 200  # bytes of a record in the spool beside its payload, more than it has

_DRAIN_TIMEOUT = 60.0
_DRAIN_RATE = 10000  # messages a second, less than any machine does
_WARM_UP = 5000  # messages

Sample = dict[str, float]


class Variant(Enum):
    BARE = "bare"
    FLOOR = "a thread alone"  # bench/floor.c
    KAFKA = "into Kafka"
    AWAY = "Kafka away"


@dataclass(frozen=True)
class Load:
    """What loadgen is told."""

    qos: int
    size: int
    n: int = 0  # messages; 0: not known yet
    topics: int = 1
    connections: int = CONNECTIONS
    rate: int = 0
    prefix: str = "bench/t"


@dataclass(frozen=True)
class Case:
    """One line of the report."""

    row: str
    variant: Variant
    load: Load
    options: dict[str, str] = field(default_factory=dict)  # of the plugin

    def __str__(self) -> str:
        return f"{self.row}, {self.variant.value}"


class BrokenRun(Exception):
    """Messages are missing, or the plugin says something that cannot be: no figure of this build counts."""


def loadgen(port: int, load: Load) -> dict[str, Any]:
    binary = os.environ.get("MM_BENCH_LOADGEN") or ROOT / "build" / "release" / "bin" / "loadgen"
    argv = [binary, "--port", port, "--messages", load.n, "--qos", load.qos, "--size", load.size]
    argv += ["--topics", load.topics, "--connections", load.connections, "--rate", load.rate]
    argv += ["--window", WINDOW, "--prefix", load.prefix]
    done = subprocess.run([str(arg) for arg in argv], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BrokenRun(f"loadgen failed: {done.stderr}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@dataclass(frozen=True)
class Cpu:
    """CPU time since the start of a process, ns."""

    main: int
    process: int

    @staticmethod
    def of(pid: int) -> Cpu:
        # The scheduler's own account, to the ns: utime and stime of .../stat are in steps of 10 ms. The process's
        # clock (man 3 clock_getcpuclockid) holds the threads that have ended, too.
        main = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]
        return Cpu(int(main), time.clock_gettime_ns((~pid << 3) | 2))


def callback_quantile(before: Metrics, after: Metrics, quantile: float) -> float:
    """The upper bound, in ns, of the bucket of the plugin's callback histogram that holds the quantile."""
    name = PREFIX + "callback_duration_seconds_bucket"
    old = before.labelled(name, "le")
    counts = sorted((float(le), count - old[le]) for le, count in after.labelled(name, "le").items())
    n = counts[-1][1]
    return next((le * 1e9 for le, count in counts if n and count >= quantile * n), 0.0)


class Subject:
    """A broker under test, with a Kafka topic of its own when it has a Kafka."""

    def __init__(self, bench: Bench, case: Case) -> None:
        self.case = case
        self._bench = bench
        self._n_sent = 0
        self._first: Metrics | None = None
        self._last: Metrics | None = None
        self._topic = bench.kafka.new_topic() if case.variant is Variant.KAFKA else None
        self._directory = Path(tempfile.mkdtemp(prefix="broker-", dir=bench.work))
        # More than 20 QoS 2 messages on their way would be refused otherwise.
        lines = ["max_inflight_messages 0"]
        if case.load.rate:
            # Without TCP_NODELAY the broker's TCP holds each PUBACK back until the client's next packet has
            # acknowledged the one before: the figure would be the time between two messages.
            lines.append("set_tcp_nodelay true")
        if case.variant is Variant.FLOOR:
            lines.append(f"plugin {ROOT / 'build' / 'release' / 'lib' / 'bench_floor.so'}")
        ours = case.variant in (Variant.KAFKA, Variant.AWAY)
        options = bench.plugin_options(case, self._topic, self._directory) if ours else ()
        self._broker = Broker(self._directory, options, plugin=ours, config_lines=lines)

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            print(f"--- the log of {self.case} ---\n{self._broker.logs()[-4000:]}", file=sys.stderr, flush=True)
        try:
            self._end(orderly=kind is None)
        finally:
            if self._topic is not None:
                self._bench.kafka.delete_topic(self._topic)
            shutil.rmtree(self._directory, ignore_errors=True)

    def _end(self, *, orderly: bool) -> None:
        if not self._broker.running:
            return
        if orderly and self.case.variant is not Variant.AWAY:
            self._broker.stop()
        else:
            self._broker.kill()  # with Kafka away it would wait for Kafka at its stop

    def start(self) -> None:
        """Start, and send what makes the rest alike: topics known, connections there, pages touched."""
        self._broker.start()
        if self.case.variant is Variant.KAFKA:
            self._broker.health.wait_for(
                lambda m: min(m.labelled(PREFIX + "kafka_up", "worker").values()) == 1, 20, "Kafka is reached"
            )
        self._publish(replace(self.case.load, n=_WARM_UP))
        self._first = self._settle()

    def full_speed(self) -> Sample:
        """The load once, as fast as it goes."""
        n = self.case.load.n
        before = Cpu.of(self._broker.pid)
        report = self._publish(self.case.load)
        loaded = Cpu.of(self._broker.pid)
        self._last = self._settle()
        settled = Cpu.of(self._broker.pid)
        sample = {
            "rate": report["rate"],
            "main_us": (loaded.main - before.main) / n / 1e3,
            "process_us": (settled.process - before.process) / n / 1e3,
            "loadgen_us": report["cpu_seconds"] / n * 1e6,
        }
        if self.case.variant is Variant.KAFKA and self._last is not None:
            end = self._last.get(PREFIX + "kafka_last_delivery_timestamp_seconds") - _clock_offset()
            sample["delivered_rate"] = n / (end - report["start_ns"] / 1e9)
        return sample

    def paced(self) -> Sample:
        """The load at its rate: from when a message is due to its PUBACK, and to a consumer of Kafka."""
        if self._topic is None:
            return _pubacks(self._publish(self.case.load))
        with Follower(self._bench.kafka.bootstrap, self._topic) as follower:
            n_before = self._n_sent
            follower.wait_for(n_before, 30)
            sample = _pubacks(self._publish(self.case.load))
            records = follower.wait_for(self._n_sent, 30)
        self._last = self._settle()
        return sample | _delays(records[n_before:])

    def finish(self) -> Sample:
        """What is measured once, at the end; and the proof that Kafka has what the plugin says that it has."""
        if self._topic is not None:
            found = count_records(self._bench.kafka.bootstrap, self._topic)
            if found != self._n_sent:
                raise BrokenRun(f"{self.case}: {self._n_sent} messages were sent, Kafka holds {found}")
        sample = {"rss_mib": self._broker.rss() / 2**20}
        if self._first is not None and self._last is not None:
            sample["spool_mib"] = self._last.get(PREFIX + "spool_bytes") / 2**20
            sample["callback_p50_ns"] = callback_quantile(self._first, self._last, 0.5)
            sample["callback_p999_ns"] = callback_quantile(self._first, self._last, 0.999)
        return sample

    def _publish(self, load: Load) -> dict[str, Any]:
        self._n_sent += load.n
        return loadgen(self._broker.port, load)

    def _settle(self) -> Metrics | None:
        """Wait until all that was sent is where it belongs."""
        if self.case.variant in (Variant.BARE, Variant.FLOOR):
            return None
        health, n = self._broker.health, self._n_sent
        if self.case.variant is Variant.KAFKA:
            timeout = _DRAIN_TIMEOUT + n / _DRAIN_RATE
            metrics = health.wait_for(lambda m: m.in_spool == 0, timeout, "the spool is empty")
            lost = metrics.delivered != n
        else:
            # A worker that takes records from the log at this moment may make a single scrape look wrong.
            metrics = health.wait_for(lambda m: m.in_spool == n, 10, f"the spool holds {n} messages")
            lost = False
        if lost or metrics.received != n:
            raise BrokenRun(f"{self.case}: {n} messages were sent: {metrics.ledger()}")
        self._bench.note_build(metrics)
        return metrics


class Bench:
    """What the subjects share."""

    def __init__(self, kafka: Cluster, work: Path, options: list[tuple[str, str]]) -> None:
        """options: of the plugin, in all measurements; {dir} in a value is the directory of the broker."""
        self.kafka = kafka
        self.work = work
        self.build_info: dict[str, str] = {}
        self._options = options
        self._port_of_nobody = ports.free_port()

    def plugin_options(self, case: Case, topic: str | None, directory: Path) -> list[tuple[str, str | int]]:
        away = f"127.0.0.1:{self._port_of_nobody}"
        options: dict[str, str | int] = {
            "kafka_broker": self.kafka.bootstrap if topic else away,
            "kafka_topic": topic or "away",
            "spool_max_bytes": SPOOL_MAX_BYTES,
        }
        given = {name: value.replace("{dir}", str(directory)) for name, value in self._options}
        return list((options | case.options | given).items())

    def note_build(self, metrics: Metrics) -> None:
        if not self.build_info:
            found = [labels for name, labels in metrics.samples if name == PREFIX + "build_info"]
            self.build_info = dict(found[0])


def _clock_offset() -> float:
    """From CLOCK_MONOTONIC to the time since the epoch."""
    return time.time() - time.monotonic()


def _pubacks(report: dict[str, Any]) -> Sample:
    return {f"puback_{name}_ms": us / 1e3 for name, us in report["latency_us"].items()}


def _delays(records: list[Record]) -> Sample:
    """From when each message was due to when the consumer had it."""
    offset = _clock_offset()
    delays = sorted(r.arrived - offset - int(r.payload[:STAMP_LEN]) / 1e9 for r in records)
    quantiles = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {f"kafka_{name}_ms": delays[max(0, -int(-q * len(delays) // 1) - 1)] * 1e3 for name, q in quantiles.items()}
