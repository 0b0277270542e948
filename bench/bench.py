"""The benchmarks: mosquitto with the plugin against the same mosquitto without it.

What is compared takes turns, and each ratio is made of two turns next to each other, so that a machine whose speed
drifts bends both sides alike.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT / "test" / "integration"))

from harness import processes  # noqa: E402
from harness.broker import mosquitto_binary, plugin_file, sanitized  # noqa: E402
from harness.kafka import Kafka  # noqa: E402
from measure import RECORD_OVERHEAD, SPOOL_MAX_BYTES, Bench, BrokenRun, Case, Load, Sample, Subject, Variant  # noqa: E402
from report import Results, Spread, shown, table  # noqa: E402

T = TypeVar("T")

BARE, KAFKA, AWAY = Variant.BARE, Variant.KAFKA, Variant.AWAY

_KAFKA_PROPERTIES = {"log.segment.delete.delay.ms": "1000"}

_MANY = 1000  # filters, and the topics that they take
_LATENCY_RATE = 2000


@dataclass(frozen=True)
class Plan:
    rounds: int  # with fresh brokers
    turns: int  # of each broker in a round
    seconds: float  # of a turn, at the bare broker's full speed
    latency_seconds: int  # of a round
    clients: bool  # measure 1,000 clients, too


QUICK = Plan(rounds=3, turns=3, seconds=0.3, latency_seconds=3, clients=False)
FULL = Plan(rounds=5, turns=6, seconds=0.7, latency_seconds=10, clients=True)


def speed_row(size: int, qos: int) -> str:
    return f"{'1 KiB' if size == 1024 else f'{size} B'} QoS {qos}"


SPEED_LOADS = {speed_row(size, qos): Load(qos, size) for size in (100, 1024) for qos in (0, 1)}
SCALE_LOAD = Load(qos=1, size=100)
TOPICS = (1, 100, 10000)
CLIENTS = 1000
LATENCY_ROW = f"{_LATENCY_RATE:,} msg/s, 100 B QoS 1"


def speed_cases(floor: bool) -> list[list[Case]]:
    variants = [variant for variant in Variant if floor or variant is not Variant.FLOOR]
    return [[Case(row, variant, load) for variant in variants] for row, load in SPEED_LOADS.items()]


def latency_cases(plan: Plan) -> list[list[Case]]:
    load = Load(1, 100, n=_LATENCY_RATE * plan.latency_seconds, rate=_LATENCY_RATE)
    return [[Case(LATENCY_ROW, variant, load) for variant in (BARE, KAFKA)]]


def topics_row(n: int) -> str:
    return f"{n:,} topic{'s' if n > 1 else ''}"


def filters_row(n: int) -> str:
    return f"{_MANY:,} topics, {n:,} filter{'s' if n > 1 else ''}"


def clients_row(n: int) -> str:
    return f"{n:,} clients"


def scale_cases(plan: Plan) -> list[list[Case]]:
    topics = [Case(topics_row(n), variant, replace(SCALE_LOAD, topics=n)) for n in TOPICS for variant in (BARE, KAFKA)]
    load = replace(SCALE_LOAD, topics=_MANY)
    filters = [
        Case(filters_row(1), BARE, load),
        Case(filters_row(1), KAFKA, load, {"mqtt_topic": "bench/#"}),
        Case(filters_row(_MANY), KAFKA, load, {"mqtt_topic": ",".join(f"bench/t{i:06}/#" for i in range(_MANY))}),
    ]
    load = replace(SCALE_LOAD, connections=CLIENTS)
    clients = [Case(clients_row(CLIENTS), variant, load) for variant in (BARE, KAFKA)]
    return [topics, filters] + ([clients] if plan.clients else [])


def rotated(items: Sequence[T], by: int) -> list[T]:
    by %= len(items)
    return [*items[by:], *items[:by]]


def room(load: Load) -> int:
    """The most messages that spool and memory have room for."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    return int(min(SPOOL_MAX_BYTES * 0.8, available / 3) / (load.size + RECORD_OVERHEAD))


def calibrated(bench: Bench, plan: Plan, groups: list[list[Case]]) -> list[list[Case]]:
    """Give each load its number of messages: what the bare broker takes in the plan's time, the same for all."""
    counts: dict[tuple[int, int], int] = {}

    def count(load: Load) -> int:
        key = (load.qos, load.size)
        if key not in counts:
            rate = full_speed(bench, Case("calibration", BARE, Load(load.qos, load.size, n=50000)))["rate"]
            counts[key] = int(min(max(20000, round(rate * plan.seconds, -3)), room(load) / plan.turns))
        return counts[key]

    return [
        [case if case.load.n else replace(case, load=replace(case.load, n=count(case.load))) for case in group]
        for group in groups
    ]


def full_speed(bench: Bench, case: Case) -> Sample:
    """One turn of one broker."""
    with Subject(bench, case) as subject:
        subject.start()
        sample = subject.full_speed()
        subject.finish()
    return sample


def full_speed_round(bench: Bench, cases: list[Case], turns: int) -> list[list[Sample]]:
    """The brokers stand side by side and take turns: whatever the machine does, it does to all of them."""
    samples: list[list[Sample]] = [[] for _ in cases]
    with contextlib.ExitStack() as stack:
        subjects = [stack.enter_context(Subject(bench, case)) for case in cases]
        for subject in subjects:
            subject.start()
        for turn in range(turns):
            for i in rotated(range(len(cases)), turn):
                samples[i].append(subjects[i].full_speed())
        for i, subject in enumerate(subjects):
            samples[i][-1] |= subject.finish()
    return samples


def paced_round(bench: Bench, cases: list[Case]) -> list[list[Sample]]:
    """One broker after the other."""
    samples = []
    for case in cases:
        with Subject(bench, case) as subject:
            subject.start()
            samples.append([subject.paced() | subject.finish()])
    return samples


def run_rounds(bench: Bench, plan: Plan, groups: list[list[Case]], results: Results) -> None:
    begin = time.monotonic()
    for round_ in range(plan.rounds):
        for group in groups:
            cases = rotated(group, round_)
            paced = cases[0].load.rate > 0
            turns = paced_round(bench, cases) if paced else full_speed_round(bench, cases, plan.turns)
            for case, samples in zip(cases, turns, strict=True):
                results.add((case.row, case.variant.value), samples)
            tell(f"round {round_ + 1} of {plan.rounds}, {time.monotonic() - begin:.0f} s: {group[0].row} ...")


def tell(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


# --- what is printed ---------------------------------------------------------------------------------------------


def speed_table(results: Results) -> str:
    head = ["", "", "rate, k/s", "rate / bare", "delivered / bare", "main us", "main - bare", "main / bare"]
    head += ["process - bare", "RSS MiB"]
    lines = []
    for row in SPEED_LOADS:
        base = (row, BARE.value)
        for variant in Variant:
            key = (row, variant.value)
            if key not in results.cells:
                continue
            line = [row if variant is BARE else "", variant.value]
            line += [shown(results.spread(key, "rate"), 0, 1e-3)]
            line += (
                _against_bare(results, key, base) if variant is not BARE else ["", "", _main(results, key), *[""] * 3]
            )
            lines.append([*line, _memory(results, key)])
    return table(head, lines)


def _main(results: Results, key: tuple[str, str]) -> str:
    return shown(results.spread(key, "main_us"), 2)


def _memory(results: Results, key: tuple[str, str]) -> str:
    """Of the last turn, and how much of it is messages that wait for Kafka."""
    rss, spool = results.spread(key, "rss_mib"), results.spread(key, "spool_mib")
    text = f"{rss.median:.0f}" if rss is not None else ""
    return f"{text} (spool {spool.median:.0f})" if spool is not None and spool.median >= 1 else text


def _against_bare(results: Results, key: tuple[str, str], base: tuple[str, str]) -> list[str]:
    return [
        shown(results.ratio(key, base, "rate"), 2),
        shown(results.ratio(key, base, "delivered_rate", "rate"), 2),
        _main(results, key),
        shown(results.difference(key, base, "main_us"), 2, sign=True),
        shown(results.ratio(key, base, "main_us"), 2),
        shown(results.difference(key, base, "process_us"), 2, sign=True),
    ]


def latency_table(results: Results) -> str:
    names = ["puback_p50_ms", "puback_p99_ms", "puback_p99.9_ms", "kafka_p50_ms", "kafka_p99_ms", "kafka_p99.9_ms"]
    titles = ["PUBACK p50", "p99", "p99.9 ms", "to a Kafka consumer p50", "p99", "p99.9 ms"]
    lines = [
        [LATENCY_ROW if variant is BARE else "", variant.value]
        + [shown(results.spread((LATENCY_ROW, variant.value), name), 2) for name in names]
        for variant in (BARE, KAFKA)
    ]
    return table(["", "", *titles], lines)


def scale_table(results: Results) -> str:
    head = [
        "100 B QoS 1, into Kafka",
        "",
        "main us, bare",
        "main us",
        "main - bare",
        "/ first",
        "process us",
        "/ first",
    ]
    first = (topics_row(1), KAFKA.value)
    groups = [
        ([topics_row(n) for n in TOPICS], first),
        ([filters_row(1), filters_row(_MANY)], (filters_row(1), KAFKA.value)),
        ([clients_row(CLIENTS)], first),
    ]
    lines = []
    for rows, base in groups:
        for row in rows:
            key = (row, KAFKA.value)
            if key not in results.cells:
                continue
            bare = (row, BARE.value) if (row, BARE.value) in results.cells else (base[0], BARE.value)
            lines.append(
                [row, "", _main(results, bare), _main(results, key)]
                + [shown(results.difference(key, bare, "main_us"), 2, sign=True)]
                + [shown(results.ratio(key, base, "main_us"), 2)]
                + [shown(results.spread(key, "process_us"), 2), shown(results.ratio(key, base, "process_us"), 2)]
            )
    return table(head, lines)


def targets_table(results: Results) -> str:
    """The figures that the project has set itself, by the medians."""
    lines: list[list[str]] = []

    def at_most(what: str, spread: Spread | None, limit: float, digits: int = 2) -> None:
        if spread is not None:
            lines.append([what, shown(spread, digits), f"<= {limit:g}", "met" if spread.median <= limit else "MISSED"])

    def at_least(what: str, spread: Spread | None, limit: float) -> None:
        if spread is not None:
            lines.append([what, shown(spread, 2), f">= {limit:g}", "met" if spread.median >= limit else "MISSED"])

    for row, load in SPEED_LOADS.items():
        bare, kafka, away = ((row, variant.value) for variant in (BARE, KAFKA, AWAY))
        main_limit = 1.05 if load.size == 100 else 1.10
        at_most(f"{row}: broker thread's CPU / bare, Kafka away", results.ratio(away, bare, "main_us"), main_limit)
        at_most(f"{row}: broker thread's CPU / bare, into Kafka", results.ratio(kafka, bare, "main_us"), main_limit)
        at_least(f"{row}: publisher's rate / bare, Kafka away", results.ratio(away, bare, "rate"), 0.95)
        rate_limit = 0.75 if load.qos == 0 else 0.85 if load.size == 100 else 0.80
        at_least(f"{row}: publisher's rate / bare, into Kafka", results.ratio(kafka, bare, "rate"), rate_limit)
        at_most(f"{row}: process's CPU - bare, into Kafka, us", results.difference(kafka, bare, "process_us"), 2.0)
        for variant in (kafka, away):
            name = "Kafka away" if variant is away else "into Kafka"
            if load.size == 100:
                at_most(f"{row}: callback p50, {name}, ns", results.spread(variant, "callback_p50_ns"), 100, 0)
                at_most(f"{row}: callback p99.9, {name}, ns", results.spread(variant, "callback_p999_ns"), 5000, 0)
    at_most("publish to Kafka's consumer p50, ms", results.spread((LATENCY_ROW, KAFKA.value), "kafka_p50_ms"), 3)
    at_most("publish to Kafka's consumer p99, ms", results.spread((LATENCY_ROW, KAFKA.value), "kafka_p99_ms"), 6)
    for row, base in [(topics_row(TOPICS[-1]), topics_row(1)), (filters_row(_MANY), filters_row(1))]:
        cells = (row, KAFKA.value), (base, KAFKA.value)
        at_most(f"{row} / {base}: broker thread's CPU", results.ratio(*cells, "main_us"), 1.2)
        at_most(f"{row} / {base}: process's CPU", results.ratio(*cells, "process_us"), 1.2)
    return table(["target", "measured", "", ""], lines) if lines else ""


EXPLANATION = """\
median (min..max) over {rounds} rounds with fresh brokers; within a round the brokers of a row take {turns} turns,
ratios and differences are made turn by turn, and the median of the turns counts.
main: CPU of the broker's own thread for a message; process: of all its threads. Load, broker and Kafka share
{cpus} CPUs, so the rates are noisy; the figure to trust is main."""


def print_report(results: Results, groups: set[str]) -> None:
    about = results.about
    print(f"\nmosquitto {about['mosquitto']}, plugin {about['plugin']}, {about['cpus']} x {about['cpu']}")
    print(EXPLANATION.format(**about))
    tables: dict[str, Callable[[Results], str]] = {"speed": speed_table, "latency": latency_table, "scale": scale_table}
    for name, make in tables.items():
        if name in groups:
            print(f"\n{make(results)}")
    targets = targets_table(results)
    if targets:
        print(f"\n{targets}")


# --- the run -----------------------------------------------------------------------------------------------------


def first_match(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return "unknown"


def output_of(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.stdout.strip()


def describe(plan: Plan, arguments: argparse.Namespace) -> dict[str, Any]:
    version = output_of(mosquitto_binary(), "-h").partition("\n")[0]
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "revision": output_of("git", "-C", str(_ROOT), "describe", "--always", "--dirty") or "no revision",
        "mosquitto": version.removeprefix("mosquitto version "),
        "kernel": platform.release(),
        "cpu": first_match("/proc/cpuinfo", "model name"),
        "cpus": len(os.sched_getaffinity(0)),
        "load_at_start": os.getloadavg()[0],
        "rounds": plan.rounds,
        "turns": plan.turns,
        "quick": arguments.quick,
        "options": arguments.option,
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run", description="Mosquitto with the plugin against without it.")
    parser.add_argument("--quick", action="store_true", help="about 3 minutes instead of a quarter of an hour")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, for bench/compare")
    parser.add_argument("--rounds", type=int, help=f"instead of {FULL.rounds}, or {QUICK.rounds} with --quick")
    parser.add_argument("--only", action="append", choices=["speed", "latency", "scale"], help="a part of it")
    parser.add_argument("--row", action="append", metavar="TEXT", help="only rows whose name holds this")
    parser.add_argument("--floor", action="store_true", help="measure a plugin that does nothing but own a thread, too")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the plugin, in all measurements, such as kafka_workers=2; {dir} is the broker's directory",
    )
    parser.add_argument(
        "--work", type=Path, help="where Kafka and the brokers keep their files (the temporary directory)"
    )
    arguments = parser.parse_args()
    if any("=" not in option for option in arguments.option):
        parser.error("--option takes NAME=VALUE")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds takes a number from 1")
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json {arguments.json}: there is no such directory")
    return arguments


def warn_of_company() -> None:
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"bench: this machine is not quiet (load average {load:.1f}): the figures will be poor", file=sys.stderr)


def select(arguments: argparse.Namespace, plan: Plan) -> tuple[set[str], list[list[Case]]]:
    names = set(arguments.only or ["speed", "latency", "scale"])
    groups: list[list[Case]] = []
    groups += speed_cases(arguments.floor) if "speed" in names else []
    groups += latency_cases(plan) if "latency" in names else []
    groups += scale_cases(plan) if "scale" in names else []
    if arguments.row:
        groups = [[case for case in group if any(text in case.row for text in arguments.row)] for group in groups]
        groups = [group for group in groups if group]
    return names, groups


def measure_all(arguments: argparse.Namespace, plan: Plan, groups: list[list[Case]], work: Path) -> Results:
    options = [tuple(option.split("=", 1)) for option in arguments.option]
    kafka = Kafka(work / "kafka", _KAFKA_PROPERTIES)
    results = Results(describe(plan, arguments))
    try:
        kafka.start()
        bench = Bench(kafka, work, options)
        groups = calibrated(bench, plan, groups)
        # Let the JVM compile what it will need, or the first round pays for it.
        full_speed(bench, Case("warm-up", KAFKA, Load(0, 100, n=300000)))
        run_rounds(bench, plan, groups, results)
    finally:
        kafka.close()
    info = bench.build_info
    results.about["plugin"] = f"{info.get('version')} (librdkafka {info.get('librdkafka')})"
    return results


def main() -> int:
    arguments = parse_arguments()
    if sanitized():
        print("bench: MM_TEST_PRELOAD names a sanitizer, whose speed says nothing", file=sys.stderr)
        return 2
    plugin_file()
    plan = QUICK if arguments.quick else FULL
    plan = replace(plan, rounds=arguments.rounds or plan.rounds)
    names, groups = select(arguments, plan)
    if not groups:
        print("bench: --row leaves nothing to measure", file=sys.stderr)
        return 2
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for the broker, which inherits it
    warn_of_company()
    with tempfile.TemporaryDirectory(prefix="metamorphosis-bench-", dir=arguments.work) as work:
        try:
            results = measure_all(arguments, plan, groups, Path(work))
        except (BrokenRun, AssertionError) as problem:
            print(f"bench: FAILED: {problem}", file=sys.stderr)
            return 1
        finally:
            processes.kill_all()
    print_report(results, names)
    if arguments.json:
        results.write(arguments.json)
        print(f"\nall figures: {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
