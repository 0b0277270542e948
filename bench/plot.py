"""A picture for people: one SVG, written by these lines alone, light or dark as its reader's screen is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

import plan
from plan import AWAY, BARE, DRAIN, IDLE, KAFKA, PRODUCER
from report import about_text, scale_axes
from results import Results, Spread

_WIDTH = 900
_LEFT = 290  # where the bars begin
_BAR, _GAP = 13, 9
_RIGHT = _WIDTH - 120  # where they end; behind that stand the figures

_STYLE = """
svg { background: #fff; color: #1f2328; font: 12px system-ui, sans-serif; }
text { fill: currentColor; }
.title { font-size: 15px; font-weight: 600; }
.note, .figure { font-size: 11px; opacity: .75; }
.c0 { fill: #0969da; } .c1 { fill: #bf8700; } .c2 { fill: #6e7781; }
.axis { stroke: currentColor; stroke-opacity: .35; }
.mark { stroke: #cf222e; stroke-dasharray: 4 3; }
.range { stroke: currentColor; stroke-width: 1.3; }
@media (prefers-color-scheme: dark) { svg { background: #0d1117; color: #e6edf3; } }
"""


@dataclass(frozen=True)
class Bar:
    label: str  # of its line; "" for a further one of the line above
    colour: int
    value: Spread


@dataclass
class Panel:
    title: str
    note: str
    digits: int
    mark: float | None = None  # a line at this value
    logarithmic: bool = False
    legend: Sequence[str] = ()
    bars: list[Bar] = field(default_factory=list)

    def add(self, label: str, *values: Spread | None) -> None:
        for colour, value in enumerate(values):
            if value is not None:
                self.bars.append(Bar(label, colour, value))
                label = ""

    @property
    def height(self) -> int:
        return 62 + sum(_BAR + (_GAP if bar.label else 2) for bar in self.bars) + 14

    def _scale(self) -> tuple[float, float]:
        values = [edge for bar in self.bars for edge in (bar.value.low, bar.value.high)]
        values += [self.mark] if self.mark is not None else []
        if not self.logarithmic:
            return 0.0, max([*values, 1e-9])
        positive = [value for value in values if value > 0] or [1.0]
        return 10.0 ** math.floor(math.log10(min(positive))), max(positive)

    def svg(self, top: int) -> list[str]:
        low, high = self._scale()

        def x(value: float) -> float:
            if self.logarithmic:
                part = math.log10(max(value, low) / low) / max(math.log10(high / low), 1e-9)
            else:
                part = max(value, 0) / high
            return _LEFT + part * (_RIGHT - _LEFT)

        out = [f'<text class="title" x="16" y="{top + 20}">{escape(self.title)}</text>']
        out.append(f'<text class="note" x="16" y="{top + 38}">{escape(self.note)}</text>')
        at = _LEFT
        for colour, name in enumerate(self.legend):
            out.append(f'<rect class="c{colour}" x="{at}" y="{top + 44}" width="10" height="10"/>')
            out.append(f'<text class="note" x="{at + 14}" y="{top + 53}">{escape(name)}</text>')
            at += 30 + 7 * len(name)
        y = top + 56
        begin = y
        for bar in self.bars:
            y += _GAP if bar.label else 2
            middle = y + _BAR / 2
            if bar.label:
                out.append(f'<text x="{_LEFT - 10}" y="{y + _BAR - 2}" text-anchor="end">{escape(bar.label)}</text>')
            end = max(x(bar.value.median), _LEFT + 1)
            out.append(f'<rect class="c{bar.colour}" x="{_LEFT}" y="{y}" width="{end - _LEFT:.1f}" height="{_BAR}"/>')
            out.append(
                f'<line class="range" x1="{x(bar.value.low):.1f}" x2="{x(bar.value.high):.1f}" y1="{middle}" y2="{middle}"/>'
            )
            text = f"{bar.value.median:,.{self.digits}f}"
            behind = max(end, x(bar.value.high)) + 6
            out.append(f'<text class="figure" x="{behind:.1f}" y="{y + _BAR - 2}">{text}</text>')
            y += _BAR
        out.append(f'<line class="axis" x1="{_LEFT}" x2="{_LEFT}" y1="{begin + 4}" y2="{y + 4}"/>')
        if self.mark is not None:
            at_mark = f"{x(self.mark):.1f}"
            out.append(f'<line class="mark" x1="{at_mark}" x2="{at_mark}" y1="{begin + 4}" y2="{y + 4}"/>')
        return out


def _speed(results: Results, name: str, title: str, note: str) -> Panel:
    panel = Panel(title, note, 2, mark=1.0, legend=(KAFKA, AWAY))
    for row in plan.SPEED_LOADS:
        panel.add(row, *(results.ratio((row, variant), (row, BARE), name) for variant in (KAFKA, AWAY)))
    return panel


def _scale(results: Results) -> Panel:
    note = "broker thread's CPU for a message, with the plugin / without, by clients, topics and filters"
    panel = Panel("Many of them", note, 2, mark=1.0)
    for row in (row for rows in scale_axes() for row in rows):
        panel.add(row, results.ratio((row, KAFKA), (plan.scale_base(row), BARE), "main_us"))
    return panel


def _spools(results: Results) -> Panel:
    note = "publisher's rate, with the plugin / without"
    panel = Panel("Where the spool is", note, 2, mark=1.0, legend=(KAFKA, AWAY))
    for name in plan.SPOOLS:
        cells = [(plan.SPOOL_ROW, f"{name}; {where}") for where in (KAFKA, AWAY)]
        panel.add(name, *(results.ratio(cell, (plan.SPOOL_ROW, BARE), "rate") for cell in cells))
    panel.add(plan.ALWAYS, results.ratio((plan.ALWAYS_ROW, plan.ALWAYS), (plan.ALWAYS_ROW, BARE), "rate"))
    return panel


def _end(results: Results) -> Panel:
    note = "delivered messages a second / those of a bare librdkafka producer with the same bytes and settings"
    panel = Panel("Into Kafka, end to end", note, 2, mark=1.0)
    for row in plan.SPEED_LOADS:
        panel.add(row + ", through the broker", results.ratio((row, KAFKA), (row, PRODUCER), "delivered_rate"))
    for size in plan.DRAIN_SIZES:
        row = plan.drain_row(size)
        panel.add(row + ", drained", results.ratio((row, DRAIN), (row, PRODUCER), "drained_rate"))
    return panel


def _latencies(results: Results) -> Panel:
    note = "milliseconds from when a message is due; logarithmic"
    panel = Panel("Latency", note, 2, logarithmic=True, legend=("p50", "p99", "p99.9"))
    kinds = ((BARE, "puback", "PUBACK, bare"), (KAFKA, "puback", "PUBACK"), (KAFKA, "kafka", "to Kafka's consumer"))
    for rate in plan.LATENCY_RATES:
        row = plan.latency_row(rate)
        for variant, name, title in kinds:
            spreads = (results.spread((row, variant), f"{name}_{part}_ms") for part in ("p50", "p99", "p99.9"))
            panel.add(f"{row}: {title}", *spreads)
    for size in plan.DRAIN_SIZES:
        row = plan.drain_row(size)
        for variant in (IDLE, PRODUCER, DRAIN):
            spreads = (results.spread((row, variant), f"puback_{part}_ms") for part in ("p50", "p99", "p99.9"))
            panel.add(f"{row}, {variant}: PUBACK", *spreads)
    return panel


def _start(results: Results) -> Panel:
    panel = Panel("Start", "milliseconds until a client is served", 0)
    for variant in results.variants(plan.START_ROW):
        panel.add(variant, results.spread((plan.START_ROW, variant), "start_ms"))
    return panel


def svg(results: Results) -> str:
    """The whole picture: a panel for all that was measured."""
    cpu = "CPU of the broker's thread for a message, with the plugin / without"
    panels = [
        _speed(results, "main_us", "What it costs the broker", cpu),
        _speed(results, "rate", "What the publisher gets rid of", "messages a second, with the plugin / without"),
        _end(results),
        _scale(results),
        _spools(results),
        _latencies(results),
        _start(results),
    ]
    panels = [panel for panel in panels if panel.bars]
    about = about_text(results).splitlines()
    about.append("bars: median over the rounds; lines across: least to greatest")
    top = 24 + 16 * len(about)
    body = [f'<text class="note" x="16" y="{20 + 16 * i}">{escape(line)}</text>' for i, line in enumerate(about)]
    for panel in panels:
        body += panel.svg(top)
        top += panel.height
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}" role="img">'
    return "\n".join([head, "<title>Benchmarks of Metamorphosis</title>", f"<style>{_STYLE}</style>", *body, "</svg>\n"])
