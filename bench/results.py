"""Figures over the rounds, and the files that they are kept in."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 2


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    low: float
    median: float
    high: float
    n: int  # rounds

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        return Spread(min(values), statistics.median(values), max(values), len(values))

    def scaled(self, factor: float) -> Spread:
        return Spread(self.low * factor, self.median * factor, self.high * factor, self.n)

    def text(self, digits: int, sign: bool = False) -> str:
        plus = "+" if sign else ""
        low, median, high = (f"{value:{plus},.{digits}f}" for value in (self.low, self.median, self.high))
        return median if self.n == 1 else f"{median} ({low}..{high})"


Cell = tuple[str, str]  # row and variant


@dataclass
class Results:
    """The samples by row and variant: of each round a list, one for each turn.

    All cells of a row take turns within a round, so that turn t of one is of the same minute as turn t of another."""

    about: dict[str, Any] = field(default_factory=dict)
    cells: dict[Cell, list[list[dict[str, float]]]] = field(default_factory=dict)

    def add(self, cell: Cell, turns: list[dict[str, float]]) -> None:
        """A round. Six digits are more than any of the figures has; and what is written is what is shown."""
        rounded = [{name: float(f"{value:.6g}") for name, value in turn.items()} for turn in turns]
        self.cells.setdefault(cell, []).append(rounded)

    def rows(self) -> list[str]:
        return list(dict.fromkeys(row for row, _ in self.cells))

    def variants(self, row: str) -> list[str]:
        return [variant for name, variant in self.cells if name == row]

    def spread(self, cell: Cell, name: str) -> Spread | None:
        """A figure: the median of each round's turns, over the rounds."""
        return _spread([[turn[name] for turn in turns if name in turn] for turns in self.cells.get(cell, [])])

    def ratio(self, cell: Cell, base: Cell, name: str, base_name: str = "") -> Spread | None:
        """The same of a figure divided by another cell's, turn by turn."""
        return _spread([[a / b for a, b in pairs if b] for pairs in self._pairs(cell, base, name, base_name or name)])

    def difference(self, cell: Cell, base: Cell, name: str) -> Spread | None:
        """The same of a figure less another cell's."""
        return _spread([[a - b for a, b in pairs] for pairs in self._pairs(cell, base, name, name)])

    def double_ratio(self, cell: Cell, bare: Cell, first: Cell, first_bare: Cell, name: str) -> Spread | None:
        """How much more a cell is above its bare broker than the first one of its axis is above its own."""
        above, base = self._pairs(cell, bare, name, name), self._pairs(first, first_bare, name, name)
        return _spread(
            [
                [(a / b) / (c / d) for (a, b), (c, d) in zip(*rounds, strict=False) if b and c and d]
                for rounds in zip(above, base, strict=False)
            ]
        )

    def _pairs(self, cell: Cell, base: Cell, name: str, base_name: str) -> list[list[tuple[float, float]]]:
        if cell not in self.cells or base not in self.cells:
            return []
        rounds = zip(self.cells[cell], self.cells[base], strict=False)
        return [
            [(a[name], b[base_name]) for a, b in zip(*turns, strict=False) if name in a and base_name in b]
            for turns in rounds
        ]

    def merged(self, other: Results) -> Results:
        """With what another run has measured: its rows come in the place of rows of the same name."""
        rows = set(other.rows())
        kept = {cell: rounds for cell, rounds in self.cells.items() if cell[0] not in rows}
        return Results(other.about, kept | other.cells)

    def write(self, path: Path) -> None:
        head = json.dumps({"schema": SCHEMA, "about": self.about}, indent=1)[:-2]
        lines = [
            json.dumps({"row": row, "variant": variant, "rounds": rounds})
            for (row, variant), rounds in self.cells.items()
        ]
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(f'{head},\n "results": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n")
        os.replace(fresh, path)

    @staticmethod
    def read(path: Path) -> Results:
        """Errors: OSError; ValueError, with a reason, for what is no such file."""
        try:
            content = json.loads(path.read_text())
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']}, expected {SCHEMA}")
            cells = {(entry["row"], entry["variant"]): entry["rounds"] for entry in content["results"]}
            return Results(dict(content["about"]), cells)
        except (ValueError, KeyError, TypeError) as problem:
            raise ValueError(f"{path} holds no results of bench/run: {problem}") from None


def _spread(rounds: list[list[float]]) -> Spread | None:
    medians = [statistics.median(values) for values in rounds if values]
    return Spread.of(medians) if medians else None
