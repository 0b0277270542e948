"""What stands there to be measured: what a load costs it, and the proof that nothing was lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from arrivals import Arrivals
from harness import ports
from harness.broker import Broker, plugin_file
from harness.consumer import count_records
from harness.kafka import Cluster
from harness.metrics import PREFIX, Metrics
from plan import Case, Kind, Load, Plan

ROOT = Path(__file__).resolve().parents[1]
WINDOW = 100  # unacknowledged messages of a connection
SPOOL_MAX_BYTES = 4 << 30
RECORD_OVERHEAD = 200  # bytes of a record in the spool beside its payload, more than it has

_DRAIN_TIMEOUT = 60.0
_DRAIN_RATE = 10000  # messages a second, less than any machine does

Sample = dict[str, float]


class BrokenRun(Exception):
    """Messages are missing, or the plugin says something that cannot be: no figure of this build counts."""


def built(name: str) -> Path:
    """What the benchmarks have built: of the release preset, or where the plugin lies (the suite under a sanitizer)."""
    places = [ROOT / "build" / "release" / name, plugin_file().parent.parent / name]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise BrokenRun(f"there is no {places[0]}: build it (bench/run does)")
    return found


class Running:
    """One of the programs at work; it prints one line of JSON."""

    def __init__(self, name: str, *arguments: object) -> None:
        self._name = name
        argv = ["setpriv", "--pdeathsig", "KILL", "--", built(f"bin/{name}"), *arguments]
        self._process = subprocess.Popen(
            [str(part) for part in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def report(self) -> dict[str, Any]:
        """Wait for its end."""
        out, err = self._process.communicate()
        if self._process.returncode != 0:
            raise BrokenRun(f"{self._name} failed: {err}")
        report: dict[str, Any] = json.loads(out)
        return report


def start_loadgen(port: int, load: Load, watch: int = 0) -> Running:
    """watch: a process whose CPU time is to be told."""
    arguments = ["--port", port, "--messages", load.n, "--qos", load.qos, "--size", load.size]
    arguments += ["--topics", load.topics, "--connections", load.connections, "--rate", load.rate]
    return Running("loadgen", *arguments, "--window", WINDOW, "--prefix", load.prefix, "--watch", watch)


def others_ns(pid: int) -> int:
    """CPU time of all threads of a process but the first one, since its start."""
    main = int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])
    # The process's clock (man 3 clock_getcpuclockid), which holds the threads that have ended, too.
    return time.clock_gettime_ns((~pid << 3) | 2) - main


def callback_quantile(before: Metrics, after: Metrics, quantile: float) -> float:
    """The upper bound, in ns, of the bucket of the plugin's callback histogram that holds the quantile."""
    name = PREFIX + "callback_duration_seconds_bucket"
    old = before.labelled(name, "le")
    counts = sorted((float(le), count - old[le]) for le, count in after.labelled(name, "le").items())
    n = counts[-1][1]
    return next((le * 1e9 for le, count in counts if n and count >= quantile * n), 0.0)


def quantiles(values: list[float]) -> dict[str, float]:
    """p50, p99, p99.9 and the greatest."""
    ordered = sorted(values)
    parts = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: ordered[max(0, -int(-part * len(ordered) // 1) - 1)] for name, part in parts.items()}


def puback_sample(report: dict[str, Any]) -> Sample:
    return {f"puback_{name}_ms": us / 1e3 for name, us in report["latency_us"].items()}


def clock_offset() -> float:
    """From CLOCK_MONOTONIC to the time since the epoch, seconds."""
    return time.time() - time.monotonic()


class Bench:
    """What those that are measured share."""

    def __init__(self, kafka: Cluster, plan: Plan, work: Path, options: list[tuple[str, str]]) -> None:
        """options: of the plugin, in all measurements; {dir} in a value is the directory of the broker."""
        self.kafka = kafka
        self.plan = plan
        self.work = work
        self.build_info: dict[str, str] = {}
        self._options = options
        self.nobody = f"127.0.0.1:{ports.free_port()}"

    def plugin_options(self, case: Case, topic: str | None, directory: Path) -> dict[str, str | int]:
        options: dict[str, str | int] = {
            "kafka_broker": self.kafka.bootstrap if case.kind is Kind.KAFKA else self.nobody,
            "kafka_topic": topic or "away",
            "mqtt_topic": "bench/#",
            "spool_max_bytes": SPOOL_MAX_BYTES,
        }
        given = case.options | dict(self._options)
        return options | {name: value.replace("{dir}", str(directory)) for name, value in given.items()}

    def client_options(self) -> list[str]:
        """Those of the plugin that the bare producer has to have, too."""
        return [f"{name}={value}" for name, value in self._options if name.startswith(("kafka_", "rdkafka."))]

    def note_build(self, metrics: Metrics) -> None:
        if not self.build_info:
            found = [labels for name, labels in metrics.samples if name == PREFIX + "build_info"]
            self.build_info = dict(found[0])


class Subject:
    """A broker under test, with a Kafka topic of its own when it has a Kafka."""

    def __init__(self, bench: Bench, case: Case, config_file: Path | None = None) -> None:
        """config_file: what the address of Kafka stands in, so that it can change while the broker runs."""
        self.case = case
        self._bench = bench
        self.n_sent = 0
        self._first: Metrics | None = None
        self._last: Metrics | None = None
        self.ours = case.kind in (Kind.KAFKA, Kind.AWAY)
        self.delivers = case.kind is Kind.KAFKA
        self.topic = bench.kafka.new_topic() if self.delivers or config_file is not None else None
        self.directory = Path(tempfile.mkdtemp(prefix="broker-", dir=bench.work))
        # More than 20 QoS 2 messages on their way would be refused otherwise.
        lines = ["max_inflight_messages 0"]
        if case.load.rate:
            # Without TCP_NODELAY the broker's TCP holds each PUBACK back until the client's next packet has
            # acknowledged the one before: the figure would be the time between two messages.
            lines.append("set_tcp_nodelay true")
        if case.kind is Kind.FLOOR:
            lines.append(f"plugin {built('lib/bench_floor.so')}")
        options = bench.plugin_options(case, self.topic, self.directory) if self.ours else {}
        if config_file is not None:
            del options["kafka_broker"]  # in two places it would be a contradiction
            options["config_file"] = str(config_file)
        self.broker = Broker(self.directory, options, plugin=self.ours, config_lines=lines)

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if kind is not None:
            print(f"--- the log of {self.case} ---\n{self.broker.logs()[-4000:]}", file=sys.stderr, flush=True)
        if self.broker.running:
            self.broker.abandon()
        if self.topic is not None:
            self._bench.kafka.delete_topic(self.topic)
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> None:
        """Start, and send what makes the rest alike: topics known, connections there, pages touched."""
        self.broker.start()
        load = self.case.load
        # At full speed even when the case is paced.
        n = min(load.n or self._bench.plan.warm_up, self._bench.plan.warm_up)
        self.publish(replace(load, n=n, rate=0))
        self._first = self.settle()

    def full_speed(self) -> Sample:
        """The load once, as fast as it goes."""
        n = self.case.load.n
        report = self.publish(self.case.load)
        self._last = self.settle()
        start, end = report["watched"]["start"], report["watched"]["end"]
        # The broker's own thread is through when the publishers are; the others, when Kafka has the last message.
        main = end["main_ns"] - start["main_ns"]
        others = others_ns(self.broker.pid) - (start["process_ns"] - start["main_ns"])
        sample = {
            "rate": report["rate"],
            "main_us": main / n / 1e3,
            "process_us": (main + others) / n / 1e3,
            "loadgen_us": report["cpu_seconds"] / n * 1e6,
        }
        if self.case.kind is Kind.KAFKA and self._last is not None:
            sample["delivered_rate"] = n / (last_delivery(self._last) - report["start_ns"] / 1e9)
        return sample

    def paced(self) -> Sample:
        """The load at its rate: from when a message is due to its PUBACK, and to a consumer of Kafka."""
        if self.topic is None:
            return puback_sample(self.publish(self.case.load))
        with Arrivals(self._bench.kafka.bootstrap, self.topic) as arrivals:
            n_before = self.n_sent
            arrivals.wait_for(n_before, 30)
            sample = puback_sample(self.publish(self.case.load))
            arrivals.wait_for(self.n_sent, 30)
            delays = arrivals.delays_ms(n_before)
        self._last = self.settle()
        return sample | {f"kafka_{name}_ms": ms for name, ms in quantiles(delays).items()}

    def finish(self) -> Sample:
        """What is measured once, at the end; and the proof that Kafka has what the plugin says that it has."""
        self.check_kafka()
        sample = self.memory()
        if self._first is not None and self._last is not None:
            sample["spool_mib"] = self._last.get(PREFIX + "spool_bytes") / 2**20
            sample["callback_p50_ns"] = callback_quantile(self._first, self._last, 0.5)
            sample["callback_p999_ns"] = callback_quantile(self._first, self._last, 0.999)
        return sample

    def check_kafka(self) -> None:
        if self.topic is not None:
            found = count_records(self._bench.kafka.bootstrap, self.topic)
            if found != self.n_sent:
                raise BrokenRun(f"{self.case}: {self.n_sent} messages were sent, Kafka holds {found}")

    def memory(self) -> Sample:
        """rss_anon: without what is mapped from files, as the spool's segments are."""
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{self.broker.pid}/status").read_text().splitlines()
        )
        return {
            name: int(fields[field].split()[0]) / 1024
            for name, field in (("rss_mib", "VmRSS"), ("rss_anon_mib", "RssAnon"))
        }

    def publish(self, load: Load) -> dict[str, Any]:
        self.n_sent += load.n
        return start_loadgen(self.broker.port, load, self.broker.pid).report()

    def settle(self) -> Metrics | None:
        """Wait until all that was sent is where it belongs."""
        if not self.ours:
            return None
        health, n = self.broker.health, self.n_sent
        if self.delivers:
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


def last_delivery(metrics: Metrics) -> float:
    """When Kafka acknowledged the last message, CLOCK_MONOTONIC in seconds."""
    return metrics.get(PREFIX + "kafka_last_delivery_timestamp_seconds") - clock_offset()


class Producer:
    """The bare producer, with a Kafka topic of its own. Takes turns like a Subject."""

    def __init__(self, bench: Bench, case: Case) -> None:
        self.case = case
        self._bench = bench
        self._n_sent = 0
        self.topic = bench.kafka.new_topic()

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *_: object) -> None:
        self._bench.kafka.delete_topic(self.topic)

    def start(self) -> None:
        """Nothing: each turn is a process of its own, which warms up by itself."""

    def launch(self) -> Running:
        """To be ended by report()."""
        load, n_warm_up = self.case.load, self._bench.plan.warm_up
        self._n_sent += load.n + n_warm_up
        arguments = ["--kafka", self._bench.kafka.bootstrap, "--topic", self.topic, "--messages", load.n]
        arguments += ["--warm-up", n_warm_up, "--size", load.size, "--topics", load.topics]
        for option in self._bench.client_options():
            arguments += ["--option", option]
        return Running("bench_producer", *arguments)

    def full_speed(self) -> Sample:
        report = self.launch().report()
        return {"delivered_rate": report["rate"], "process_us": report["cpu_seconds"] / report["messages"] * 1e6}

    def finish(self) -> Sample:
        found = count_records(self._bench.kafka.bootstrap, self.topic)
        if found != self._n_sent:
            raise BrokenRun(f"{self.case}: {self._n_sent} messages were sent, Kafka holds {found}")
        return {}


def entrant(bench: Bench, case: Case) -> Subject | Producer:
    return Producer(bench, case) if case.kind is Kind.PRODUCER else Subject(bench, case)


def room(load: Load, turns: int) -> int:
    """The most messages of a turn that spool and memory have room for."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    # The spools of a contest stand side by side, and each may be in memory.
    return int(min(SPOOL_MAX_BYTES * 0.8, available / 8) / (load.size + RECORD_OVERHEAD) / turns)


