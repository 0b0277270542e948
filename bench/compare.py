"""Is it slower than it was? Two files of results, figure by figure.

A figure is *worse* when the medians of the two runs differ by more than what is noise: its margin, and on top of it half
of what each run's own rounds are apart. With fewer than three rounds nothing is known of that, and nothing is judged;
nor is what depends on who gets a core, rates and times, when other work ran on the machine. Most figures are ratios to
the bare broker of the same turns, which a slower day bends on both sides alike; the others are judged only between runs
of the same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import plan
from plan import BARE, PRODUCER
from report import table
from results import Cell, Results, Spread

_MIN_ROUNDS = 3
# What stands there to be compared with says nothing of the plugin.
_OTHERS = (BARE, PRODUCER, plan.IDLE, plan.NO_PLUGIN, plan.FLOOR)
# What has to be the same for figures that are no ratios.
_MACHINE = ("cpu", "cpus", "kernel", "mosquitto", "disk")


@dataclass(frozen=True)
class Figure:
    title: str
    digits: int
    higher_is_better: bool
    margin: float  # of the smaller median
    floor: float  # the least difference that counts, in the figure's unit
    of: Callable[[Results, Cell], Spread | None]
    is_ratio: bool
    of_time: bool  # it says how long things took, so waits for a core are in it


def _base(cell: Cell) -> Cell:
    """The bare broker that took turns with it."""
    return (plan.scale_base(cell[0]), BARE)


def _to_bare(name: str, title: str, higher: bool, margin: float, base_name: str = "") -> Figure:
    def of(results: Results, cell: Cell) -> Spread | None:
        return results.ratio(cell, _base(cell), name, base_name) if cell[1] not in _OTHERS else None

    return Figure(f"{title} / bare", 2, higher, margin, 0.02, of, True, higher)


def _to_producer(name: str, title: str) -> Figure:
    def of(results: Results, cell: Cell) -> Spread | None:
        return results.ratio(cell, (cell[0], PRODUCER), name) if cell[1] not in _OTHERS else None

    return Figure(f"{title} / bare producer", 2, True, 0.1, 0.02, of, True, True)


def _plain(name: str, title: str, digits: int, margin: float, floor: float) -> Figure:
    """Less is better."""

    def of(results: Results, cell: Cell) -> Spread | None:
        return results.spread(cell, name) if cell[1] not in _OTHERS else None

    return Figure(title, digits, False, margin, floor, of, False, name.endswith("_ms"))


FIGURES = [
    _to_bare("main_us", "CPU of the broker's thread", False, 0.05),
    _to_bare("process_us", "CPU of all threads", False, 0.05),
    _to_bare("rate", "publisher's rate", True, 0.1),
    _to_bare("delivered_rate", "delivered", True, 0.1, "rate"),
    _to_producer("delivered_rate", "delivered"),
    _to_producer("drained_rate", "drained"),
    # By buckets, each two to two and a half times the one before: one bucket is no difference. Of the slowest of a
    # thousand the scheduler decides.
    _plain("callback_p50_ns", "callback p50, ns", 0, 1.6, 60),
    _plain("puback_p50_ms", "PUBACK p50, ms", 3, 0.25, 0.05),
    _plain("puback_p99_ms", "PUBACK p99, ms", 3, 0.5, 0.5),
    _plain("kafka_p50_ms", "to Kafka's consumer p50, ms", 2, 0.15, 0.3),
    _plain("kafka_p99_ms", "to Kafka's consumer p99, ms", 2, 0.5, 1),
    _plain("first_delivery_ms", "first delivery after, ms", 0, 0.5, 200),
    _plain("rss_growth_mib", "RSS growth, MiB", 0, 0.25, 8),
    _plain("rss_anon_mib", "RSS without mapped files, MiB", 1, 0.15, 4),
    _plain("start_ms", "start, ms", 0, 0.25, 30),
]


@dataclass(frozen=True)
class Verdict:
    cell: Cell
    figure: Figure
    old: Spread
    new: Spread
    noise: float  # by so much the medians may differ
    busy: bool  # other work ran on the machine

    @property
    def better_by(self) -> float:
        change = self.new.median - self.old.median
        return change if self.figure.higher_is_better else -change

    @property
    def judged(self) -> bool:
        return min(self.old.n, self.new.n) >= _MIN_ROUNDS and not (self.busy and self.figure.of_time)

    @property
    def worse(self) -> bool:
        return self.judged and self.better_by < -self.noise

    @property
    def better(self) -> bool:
        return self.judged and self.better_by > self.noise

    def line(self) -> list[str]:
        digits = self.figure.digits
        change = f"{(self.new.median / self.old.median - 1) * 100:+.1f} %" if self.old.median else ""
        word = "WORSE" if self.worse else "better" if self.better else ""
        noise = f"{self.noise / self.old.median * 100:.1f} %" if self.old.median else f"{self.noise:.{digits}f}"
        return [*self.cell, self.figure.title, self.old.text(digits), self.new.text(digits), change, noise, word]


def judge(old: Spread, new: Spread, figure: Figure, margin: float) -> float:
    """The noise of a figure; margin: at least so much. Which of the two is the old one does not matter."""
    apart = (old.high - old.low + new.high - new.low) / 2
    return max(max(figure.margin, margin) * min(abs(old.median), abs(new.median)) + apart, figure.floor)


def verdicts(old: Results, new: Results, margin: float = 0.0) -> list[Verdict]:
    """Of all figures that both have and that can be compared."""
    found = []
    any_busy = busy(old) or busy(new)
    for cell in new.cells:
        for figure in FIGURES:
            before, after = figure.of(old, cell), figure.of(new, cell)
            if before is not None and after is not None and (figure.is_ratio or same_machine(old, new)):
                found.append(Verdict(cell, figure, before, after, judge(before, after, figure, margin), any_busy))
    return found


def busy(results: Results) -> bool:
    """Did others want more than all cores just before it began? (What was built for the run counts a little, too.)"""
    return bool(results.about["load_at_start"] > results.about["cpus"])


def same_machine(old: Results, new: Results) -> bool:
    return not differences(old, new)


def differences(old: Results, new: Results) -> list[str]:
    """What of machine and broker is not the same."""
    return [
        f"{name}: {old.about.get(name)}, now {new.about.get(name)}"
        for name in _MACHINE
        if old.about.get(name) != new.about.get(name)
    ]


def verdict_table(found: Iterable[Verdict]) -> str:
    head = ["row", "variant", "figure", "old", "new", "change", "noise", ""]
    return table(head, [verdict.line() for verdict in found]).text()
