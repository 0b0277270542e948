"""Figures over the rounds, the tables, and the comparison of two result files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    low: float
    median: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        return Spread(min(values), statistics.median(values), max(values))

    def text(self, digits: int, sign: bool = False) -> str:
        plus = "+" if sign else ""
        low, median, high = (f"{value:{plus}.{digits}f}" for value in (self.low, self.median, self.high))
        return f"{median} ({low}..{high})"


Cell = tuple[str, str]  # row and variant


@dataclass
class Results:
    """The samples by row and variant: of each round a list, one for each turn.

    All cells of a row take turns within a round, so that turn t of one is of the same minute as turn t of another."""

    about: dict[str, Any] = field(default_factory=dict)
    cells: dict[Cell, list[list[dict[str, float]]]] = field(default_factory=dict)

    def add(self, cell: Cell, turns: list[dict[str, float]]) -> None:
        """A round."""
        self.cells.setdefault(cell, []).append(turns)

    def spread(self, cell: Cell, name: str) -> Spread | None:
        """A figure: the median of each round's turns, over the rounds."""
        return _spread([[turn[name] for turn in turns if name in turn] for turns in self.cells.get(cell, [])])

    def ratio(self, cell: Cell, base: Cell, name: str, base_name: str = "") -> Spread | None:
        """The same of a figure divided by another cell's, turn by turn."""
        return _spread([[a / b for a, b in pairs] for pairs in self._pairs(cell, base, name, base_name or name)])

    def difference(self, cell: Cell, base: Cell, name: str) -> Spread | None:
        """The same of a figure less another cell's."""
        return _spread([[a - b for a, b in pairs] for pairs in self._pairs(cell, base, name, name)])

    def _pairs(self, cell: Cell, base: Cell, name: str, base_name: str) -> list[list[tuple[float, float]]]:
        if cell not in self.cells or base not in self.cells:
            return []
        rounds = zip(self.cells[cell], self.cells[base], strict=True)
        return [
            [(a[name], b[base_name]) for a, b in zip(*turns, strict=True) if name in a and base_name in b]
            for turns in rounds
        ]

    def write(self, path: Path) -> None:
        rows = [{"row": row, "variant": variant, "rounds": rounds} for (row, variant), rounds in self.cells.items()]
        path.write_text(json.dumps({"schema": SCHEMA, "about": self.about, "results": rows}, indent=1) + "\n")

    @staticmethod
    def read(path: Path) -> Results:
        content = json.loads(path.read_text())
        if content.get("schema") != SCHEMA:
            raise ValueError(f"{path}: schema {content.get('schema')}, expected {SCHEMA}")
        cells = {(entry["row"], entry["variant"]): entry["rounds"] for entry in content["results"]}
        return Results(content["about"], cells)


def _spread(rounds: list[list[float]]) -> Spread | None:
    medians = [statistics.median(values) for values in rounds if values]
    return Spread.of(medians) if medians else None


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need, the first two to the left."""
    all_lines = [list(head), *(list(line) for line in lines)]
    widths = [max(len(line[i]) for line in all_lines) for i in range(len(head))]

    def render(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([render(all_lines[0]), rule, *(render(line) for line in all_lines[1:])])


def shown(spread: Spread | None, digits: int, scale: float = 1.0, sign: bool = False) -> str:
    if spread is None:
        return ""
    return Spread(spread.low * scale, spread.median * scale, spread.high * scale).text(digits, sign)


# What a comparison shows: figure, unit, digits. Ratios to the bare broker of the same file are made here, since two
# files may be of two days with different weather.
_PLAIN = [
    ("rate", "msg/s", 0),
    ("delivered_rate", "msg/s", 0),
    ("main_us", "us", 2),
    ("process_us", "us", 2),
    ("rss_mib", "MiB", 1),
    ("puback_p50_ms", "ms", 3),
    ("puback_p99_ms", "ms", 3),
    ("puback_p99.9_ms", "ms", 3),
    ("kafka_p50_ms", "ms", 2),
    ("kafka_p99_ms", "ms", 2),
]
_RATIOS = [("rate", "rate / bare"), ("main_us", "main thread CPU / bare")]


def compare(old: Results, new: Results, bare: str) -> str:
    """The figures of both, and whether they differ by more than the rounds of one run do."""
    lines = []
    for cell in new.cells:
        row, variant = cell
        figures = [(f"{name}, {unit}", n, old.spread(cell, name), new.spread(cell, name)) for name, unit, n in _PLAIN]
        if variant != bare:
            base = (row, bare)
            figures += [(title, 3, old.ratio(cell, base, name), new.ratio(cell, base, name)) for name, title in _RATIOS]
        for title, digits, before, after in figures:
            if before is not None and after is not None:
                lines.append([row, variant, title, before.text(digits), after.text(digits), *_verdict(before, after)])
    return table(["row", "variant", "figure", "old", "new", "change", ""], lines)


def _verdict(before: Spread, after: Spread) -> tuple[str, str]:
    change = f"{(after.median / before.median - 1) * 100:+.1f} %" if before.median else ""
    apart = after.low > before.high or after.high < before.low
    return change, "CHANGED" if apart else "within the spread"
