"""The tables that people read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import plan
from plan import AWAY, BARE, DRAIN, IDLE, KAFKA, PRODUCER
from results import Cell, Results, Spread


@dataclass(frozen=True)
class Table:
    """The first two columns, row and variant, to the left, the others to the right."""

    head: Sequence[str]
    lines: Sequence[Sequence[str]]

    def text(self) -> str:
        """Columns as wide as they need."""
        all_lines = [self.head, *self.lines]
        widths = [max(len(line[i]) for line in all_lines) for i in range(len(self.head))]

        def render(line: Sequence[str]) -> str:
            cells = [
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            return "  ".join(cells).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([render(self.head), rule, *(render(line) for line in self.lines)])

    def markdown(self) -> str:
        """Without columns that have nothing."""
        used = [i for i in range(len(self.head)) if self.head[i] or any(line[i] for line in self.lines)]
        rule = ["---" if i < 2 else "---:" for i in used]
        rows = [[line[i] for i in used] for line in (self.head, *self.lines)]
        return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]])


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    return Table(list(head), [list(line) for line in lines])


def shown(spread: Spread | None, digits: int, scale: float = 1.0, sign: bool = False) -> str:
    return "" if spread is None else spread.scaled(scale).text(digits, sign)


_TURN_HEAD = ["rate, k/s", "rate / bare", "delivered / bare", "main us", "main / bare"]
_TURN_HEAD += ["process us", "process - bare", "RSS MiB"]


def _turn_columns(results: Results, key: Cell, bare: Cell) -> list[str]:
    """A case that took turns with the bare broker."""
    rss, spool = results.spread(key, "rss_mib"), results.spread(key, "spool_mib")
    memory = f"{rss.median:.0f}" if rss is not None else ""
    if spool is not None and spool.median >= 1:
        memory += f" (spool {spool.median:.0f})"
    other = key != bare
    return [
        shown(results.spread(key, "rate"), 1, 1e-3),
        shown(results.ratio(key, bare, "rate"), 2) if other else "",
        shown(results.ratio(key, bare, "delivered_rate", "rate"), 2) if other else "",
        shown(results.spread(key, "main_us"), 2),
        shown(results.ratio(key, bare, "main_us"), 2) if other else "",
        shown(results.spread(key, "process_us"), 2),
        shown(results.difference(key, bare, "process_us"), 2, sign=True) if other else "",
        memory,
    ]


def _turn_lines(results: Results, rows: Iterable[str]) -> list[list[str]]:
    """Without the bare producer, which has a table of its own."""
    lines = []
    for row in rows:
        title = row
        for variant in (name for name in results.variants(row) if name != PRODUCER):
            lines.append([title, variant, *_turn_columns(results, (row, variant), (row, BARE))])
            title = ""
    return lines


def speed_table(results: Results) -> Table:
    rows = [row for row in plan.SPEED_LOADS if results.variants(row)]
    return table(["payload, QoS", "", *_TURN_HEAD], _turn_lines(results, rows))


def end_table(results: Results) -> Table:
    """Against the bare producer. Its CPU is to be set against what the plugin adds to the bare broker's."""
    lines = []
    for row in plan.SPEED_LOADS:
        kafka, bare, producer = ((row, variant) for variant in (KAFKA, BARE, PRODUCER))
        if producer in results.cells:
            lines.append(
                [
                    row,
                    "",
                    shown(results.spread(producer, "delivered_rate"), 1, 1e-3),
                    shown(results.spread(kafka, "delivered_rate"), 1, 1e-3),
                    shown(results.ratio(kafka, producer, "delivered_rate"), 2),
                    shown(results.spread(producer, "process_us"), 2),
                    shown(results.difference(kafka, bare, "process_us"), 2),
                ]
            )
    head = ["MQTT to Kafka", "", "bare producer, k/s", "broker and plugin, k/s", "ratio"]
    return table([*head, "producer's CPU us", "plugin's CPU us"], lines)


def scale_table(results: Results) -> Table:
    lines = []
    for rows in scale_axes():
        first = rows[0]
        for row in rows:
            if (row, KAFKA) not in results.cells:
                continue
            key, bare = (row, KAFKA), (plan.scale_base(row), BARE)
            first_key, first_bare = (first, KAFKA), (plan.scale_base(first), BARE)
            lines.append(
                [
                    row,
                    "",
                    shown(results.ratio(key, bare, "rate"), 2),
                    shown(results.spread(bare, "main_us"), 2),
                    shown(results.spread(key, "main_us"), 2),
                    shown(results.ratio(key, bare, "main_us"), 2),
                    shown(results.double_ratio(key, bare, first_key, first_bare, "main_us"), 2),
                    shown(results.ratio(key, bare, "process_us"), 2),
                    shown(results.double_ratio(key, bare, first_key, first_bare, "process_us"), 2),
                    shown(results.spread(key, "rss_mib"), 0),
                ]
            )
    head = ["into Kafka", "", "rate / bare", "bare main us", "main us", "main / bare", "/ first"]
    return table([*head, "process / bare", "/ first", "RSS MiB"], lines)


def scale_axes() -> list[list[str]]:
    return [
        [plan.count_text(n, what) for n in values]
        for values, what in ((plan.CLIENTS, "client"), (plan.TOPICS, "topic"), (plan.FILTERS, "filter"))
    ]


def spool_table(results: Results) -> Table:
    rows = [row for row in (plan.SPOOL_ROW, plan.ALWAYS_ROW) if results.variants(row)]
    return table(["100 B QoS 1", "", *_TURN_HEAD], _turn_lines(results, rows))


_PARTS = ("p50", "p99", "p99.9")


def latency_table(results: Results) -> Table:
    lines = []
    for rate in plan.LATENCY_RATES:
        row = plan.latency_row(rate)
        for variant in results.variants(row):
            figures = [f"{name}_{part}_ms" for name in ("puback", "kafka") for part in _PARTS]
            values = [shown(results.spread((row, variant), name), 2) for name in figures]
            lines.append([row if variant == BARE else "", variant, *values])
    head = ["100 B QoS 1", "", "PUBACK p50", "p99", "p99.9 ms", "to a Kafka consumer p50", "p99", "p99.9 ms"]
    return table(head, lines)


def drain_table(results: Results) -> Table:
    lines = []
    for size in plan.DRAIN_SIZES:
        row = plan.drain_row(size)
        for variant in results.variants(row):
            key = (row, variant)
            lines.append(
                [
                    row if variant == IDLE else "",
                    variant,
                    shown(results.spread(key, "drained_rate"), 1, 1e-3),
                    shown(results.ratio(key, (row, PRODUCER), "drained_rate"), 2) if variant == DRAIN else "",
                    shown(results.spread(key, "first_delivery_ms"), 0),
                    shown(results.spread(key, "rss_growth_mib"), 0),
                    *(shown(results.spread(key, f"puback_{part}_ms"), 2) for part in _PARTS),
                ]
            )
    head = ["Kafka is back", "", "k/s", "/ bare producer", "first after ms", "RSS growth MiB"]
    return table([*head, "meanwhile: PUBACK p50", "p99", "p99.9 ms"], lines)


def start_table(results: Results) -> Table:
    lines = [
        ["", variant]
        + [shown(results.spread((plan.START_ROW, variant), name), digits) for name, digits in _START_FIGURES]
        for variant in results.variants(plan.START_ROW)
    ]
    return table(["start", "", "until a client is served, ms", "RSS MiB", "of it not mapped files"], lines)


_START_FIGURES = [("start_ms", 0), ("rss_mib", 1), ("rss_anon_mib", 1)]


# --- targets -----------------------------------------------------------------------------------------------------


class _Targets:
    """The figures that the project has set itself, by the medians."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.lines: list[list[str]] = []
        self.is_20 = str(results.about.get("mosquitto", "2.0")).startswith("2.0")

    def at_most(self, what: str, spread: Spread | None, limit: float, digits: int = 2) -> None:
        if spread is not None:
            verdict = "met" if spread.median <= limit else "MISSED"
            self.lines.append([what, shown(spread, digits), f"<= {limit:g}", verdict])

    def at_least(self, what: str, spread: Spread | None, limit: float) -> None:
        if spread is not None:
            verdict = "met" if spread.median >= limit else "MISSED"
            self.lines.append([what, shown(spread, 2), f">= {limit:g}", verdict])

    def speed(self) -> None:
        r = self.results
        for row, load in plan.SPEED_LOADS.items():
            if load.size > 1024 or load.qos > 1:
                continue
            bare, kafka, away = ((row, variant) for variant in (BARE, KAFKA, AWAY))
            for key, name in ((away, AWAY), (kafka, KAFKA)):
                if self.is_20:
                    limit = 1.05 if load.size == 100 else 1.10
                    self.at_most(f"{row}: broker thread's CPU / bare, {name}", r.ratio(key, bare, "main_us"), limit)
                else:
                    what = f"{row}: broker thread's CPU - bare, {name}, us"
                    self.at_most(what, r.difference(key, bare, "main_us"), 0.3)
            what = f"{row}: publisher's rate / bare, {AWAY}"
            self.at_least(what, r.ratio(away, bare, "rate"), 0.95 if self.is_20 else 0.90)
            limit = 0.75 if load.qos == 0 else 0.85 if load.size == 100 else 0.80
            self.at_least(f"{row}: publisher's rate / bare, {KAFKA}", r.ratio(kafka, bare, "rate"), limit)
            what = f"{row}: CPU of all threads - bare, {KAFKA}, us"
            self.at_most(what, r.difference(kafka, bare, "process_us"), 2.0)
            if load.size == 100:
                self.at_most(f"{row}: callback p50, {AWAY}, ns", r.spread(away, "callback_p50_ns"), 100, 0)
                self.at_most(f"{row}: callback p99.9, {AWAY}, ns", r.spread(away, "callback_p999_ns"), 5000, 0)

    def rest(self) -> None:
        r = self.results
        key = (plan.latency_row(2000), KAFKA)
        self.at_most("2,000 msg/s: publish to Kafka's consumer p50, ms", r.spread(key, "kafka_p50_ms"), 3)
        self.at_most("2,000 msg/s: publish to Kafka's consumer p99, ms", r.spread(key, "kafka_p99_ms"), 6)
        self.at_most("RSS of an idle broker, MiB", r.spread((plan.START_ROW, plan.NO_BACKLOG), "rss_mib"), 25, 1)
        for size in plan.DRAIN_SIZES:
            row = plan.drain_row(size)
            drain, producer = (row, DRAIN), (row, PRODUCER)
            self.at_least(f"{row}: drained / bare producer", r.ratio(drain, producer, "drained_rate"), 0.9)
            self.at_most(f"{row}: RSS growth, MiB", r.spread(drain, "rss_growth_mib"), 64, 0)
            what = f"{row}: PUBACK p50 meanwhile / beside a bare producer"
            self.at_most(what, r.ratio(drain, producer, "puback_p50_ms"), 1.1)
        start = (plan.START_ROW, plan.start_variant(10 * plan.GIB))
        self.at_most("start with 10 GiB of backlog, ms", r.spread(start, "start_ms"), 1000, 0)
        for rows in scale_axes():
            first, last = rows[0], rows[-1]
            cells = [(row, KAFKA) for row in (last, first)]
            bares = [(plan.scale_base(row), BARE) for row in (last, first)]
            for name, text in (("main_us", "broker thread's CPU"), ("process_us", "CPU of all threads")):
                grown = r.double_ratio(cells[0], bares[0], cells[1], bares[1], name)
                self.at_most(f"{last}: {text} / bare, against {first}", grown, 1.2)


def targets_table(results: Results) -> Table:
    targets = _Targets(results)
    targets.speed()
    targets.rest()
    return table(["target", "measured", "", ""], targets.lines)


# --- all ---------------------------------------------------------------------------------------------------------

_EXPLANATION = """\
median (min..max) over {rounds} rounds with fresh brokers; within a round the brokers of a row take {turns} turns,
ratios and differences are made turn by turn, and the median of the turns counts.
main: CPU of the broker's own thread for a message; process: of all its threads. Load, broker and Kafka share
{cpus} CPUs, so the rates are noisy; the figure to trust is main."""

TABLES: dict[str, Callable[[Results], Table]] = {
    "Payload and QoS": speed_table,
    "End to end": end_table,
    "Clients, topics, filters": scale_table,
    "Where the spool is": spool_table,
    "Latency": latency_table,
    "A backlog drains": drain_table,
    "Start": start_table,
    "Against the targets": targets_table,
}


def about_text(results: Results) -> str:
    about = results.about
    lines = [
        f"{about['date']}, {about['revision']}: mosquitto {about['mosquitto']}, plugin {about['plugin']}, "
        f"Kafka {about['kafka']}",
        f"{about['cpus']} x {about['cpu']}, {about['memory_gib']} GiB, {about['disk']}, Linux {about['kernel']}, "
        f"load average at start {about['load_at_start']:.1f}",
    ]
    return "\n".join(lines + ([f"options: {' '.join(about['options'])}"] if about["options"] else []))


def report(results: Results, markdown: bool = False) -> str:
    """All tables that have a line. A tiny run meets no target and misses none."""
    head = about_text(results), _EXPLANATION.format(**results.about)
    parts = ["\n\n".join(head) if markdown else "\n".join(head)]
    for title, make in TABLES.items():
        made = make(results)
        if made.lines and not (make is targets_table and results.about["form"] == "tiny"):
            parts.append(f"## {title}\n\n{made.markdown()}" if markdown else made.text())
    return "\n\n".join(parts)
