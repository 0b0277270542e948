"""The run: rounds of contests, each with fresh brokers."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from backlog import drain_round, start_round
from harness import processes
from harness.broker import mosquitto_binary, plugin_file, sanitized
from harness.kafka import Cluster, Kafka, installed
from harness.mosquitto21 import mosquitto21_binary
from measure import ROOT, Bench, BrokenRun, Sample, Subject, entrant, room
from plan import BARE, KAFKA, Case, Contest, Kind, Load, Plan, Way
from results import Results

T = TypeVar("T")
Keep = Callable[[Results], None]  # is given what there is, after each round

_KAFKA_PROPERTIES = {"log.segment.delete.delay.ms": "1000"}
_WARM_UP = Load(qos=0, n=300_000)  # of Kafka


def rotated(items: Sequence[T], by: int) -> list[T]:
    by %= len(items)
    return [*items[by:], *items[:by]]


def tell(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


# --- rounds ------------------------------------------------------------------------------------------------------


def full_speed(bench: Bench, case: Case) -> Sample:
    """One turn of one broker."""
    with Subject(bench, case) as subject:
        subject.start()
        sample = subject.full_speed()
        subject.check_kafka()
    return sample


def full_speed_round(bench: Bench, cases: list[Case]) -> list[list[Sample]]:
    """They stand side by side and take turns: whatever the machine does, it does to all of them."""
    samples: list[list[Sample]] = [[] for _ in cases]
    with contextlib.ExitStack() as stack:
        entrants = [stack.enter_context(entrant(bench, case)) for case in cases]
        for one in entrants:
            one.start()
        for turn in range(bench.plan.turns):
            for i in rotated(range(len(cases)), turn):
                samples[i].append(entrants[i].full_speed())
        for i, one in enumerate(entrants):
            samples[i][-1] |= one.finish()
    return samples


def paced_round(bench: Bench, cases: list[Case]) -> list[list[Sample]]:
    """One broker after the other."""
    samples = []
    for case in cases:
        with Subject(bench, case) as subject:
            subject.start()
            samples.append([subject.paced() | subject.finish()])
    return samples


def contest_round(bench: Bench, contest: Contest, number: int) -> list[tuple[Case, list[Sample]]]:
    """The number of the round says who begins."""
    cases = rotated(contest.cases, number)
    if contest.way is Way.FULL_SPEED:
        return list(zip(cases, full_speed_round(bench, cases), strict=True))
    if contest.way is Way.PACED:
        return list(zip(cases, paced_round(bench, cases), strict=True))
    if contest.way is Way.BACKLOG:
        singles = drain_round(bench, contest, rotated(range(len(cases)), number))
    else:
        singles = start_round(bench, contest, bench.plan.start_sizes)
    return [(case, [sample]) for case, sample in zip(contest.cases, singles, strict=True)]


def calibrated(bench: Bench, contests: list[Contest]) -> list[Contest]:
    """Give each load its number of messages: what the bare broker takes in the plan's time, the same for all."""
    counts: dict[tuple[int, int], int] = {}

    def count(load: Load) -> int:
        key = (load.qos, load.size)
        if bench.plan.n:
            return bench.plan.n
        if key not in counts:
            rate = full_speed(bench, Case("calibration", BARE, Kind.BARE, Load(load.qos, load.size, n=30000)))["rate"]
            counts[key] = int(min(max(2000, round(rate * bench.plan.seconds, -3)), room(load, bench.plan.turns)))
        return counts[key]

    def with_count(case: Case) -> Case:
        return case if case.load.n else replace(case, load=replace(case.load, n=count(case.load)))

    return [
        replace(contest, cases=[with_count(case) for case in contest.cases])
        if contest.way is Way.FULL_SPEED
        else contest
        for contest in contests
    ]


def run_rounds(bench: Bench, contests: list[Contest], results: Results, keep: Keep) -> None:
    begin = time.monotonic()
    for number in range(bench.plan.rounds):
        for contest in contests:
            for case, samples in contest_round(bench, contest, number):
                results.add((case.row, case.variant), samples)
            tell(
                f"round {number + 1} of {bench.plan.rounds}, {time.monotonic() - begin:.0f} s: "
                f"{contest.group}, {contest.cases[0].row} ..."
            )
        # In the order of the plan, whoever began.
        order = [(case.row, case.variant) for contest in contests for case in contest.cases]
        results.cells = {cell: results.cells[cell] for cell in order}
        results.about["rounds"] = number + 1
        _note_build(bench, results)
        keep(results)


def _note_build(bench: Bench, results: Results) -> None:
    info = bench.build_info
    results.about["plugin"] = f"{info.get('version')} (librdkafka {info.get('librdkafka')})"


# --- what it is measured on --------------------------------------------------------------------------------------


def _first_match(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return "unknown"


def _output_of(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.stdout.strip()


def describe(plan: Plan, arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    version = _output_of(mosquitto_binary(), "-h").partition("\n")[0]
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "revision": _output_of("git", "-C", str(ROOT), "describe", "--always", "--dirty") or "no revision",
        "mosquitto": version.removeprefix("mosquitto version "),
        "kafka": arguments.kafka or installed().version,
        "kernel": platform.release(),
        "cpu": _first_match("/proc/cpuinfo", "model name"),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(_first_match("/proc/meminfo", "MemTotal").split()[0]) / 2**20),
        "disk": _output_of("stat", "--file-system", "--format=%T", str(work)),
        "load_at_start": os.getloadavg()[0],
        "rounds": plan.rounds,
        "turns": plan.turns,
        "form": "tiny" if arguments.tiny else "quick" if arguments.quick else "full",
        "options": arguments.option,
    }


def _warn_of_company() -> None:
    load = os.getloadavg()[0]
    if load > 0.5:
        tell(f"this machine is not quiet (load average {load:.1f}): the figures will be poor")


@contextlib.contextmanager
def _kafka(address: str | None, work: Path) -> Iterator[Cluster]:
    if address is not None:
        yield Cluster(address)
        return
    node = Kafka(work / "kafka", _KAFKA_PROPERTIES)
    try:
        node.start()
        yield node
    finally:
        node.close()


def _measure(
    arguments: argparse.Namespace, plan: Plan, contests: list[Contest], keep: Keep, work: Path
) -> Results:
    options = [(name, value) for name, _, value in (option.partition("=") for option in arguments.option)]
    results = Results(describe(plan, arguments, work))
    with _kafka(arguments.kafka, work) as kafka:
        bench = Bench(kafka, plan, work, options)
        contests = calibrated(bench, contests)
        if not arguments.tiny:
            # Let the JVM compile what it will need, or the first round pays for it.
            full_speed(bench, Case("warm-up", KAFKA, Kind.KAFKA, _WARM_UP))
        run_rounds(bench, contests, results, keep)
    return results


def run(arguments: argparse.Namespace, plan: Plan, contests: list[Contest], keep: Keep) -> Results | None:
    """All of it. None: no figure of this build counts, and why is told."""
    if arguments.mosquitto21:
        os.environ["MM_TEST_MOSQUITTO"] = mosquitto21_binary()
    if sanitized() and not arguments.tiny:
        tell("MM_TEST_PRELOAD names a sanitizer, whose speed says nothing")
        return None
    plugin_file()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and clean up
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for the broker, which inherits it
    if not arguments.tiny:
        _warn_of_company()
    with tempfile.TemporaryDirectory(prefix="metamorphosis-bench-", dir=arguments.work) as work:
        try:
            return _measure(arguments, plan, contests, keep, Path(work))
        except (BrokenRun, AssertionError) as problem:
            tell(f"FAILED: {problem}")
            return None
        finally:
            processes.kill_all()
