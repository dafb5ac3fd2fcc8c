"""A figure of lines as an SVG file, for pages that run no script: the same record as on the page of ``kit simulate``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from kit import store
from kit.papers.results import Figure, Line, Simulation, Value, scale_of
from kit.report.plots import NEUTRAL, PALETTE

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 380, 62, 170, 30, 46


class _Axis:
    """From values to pixels; logarithmic where the values span more than a factor of eight."""

    def __init__(self, values: Sequence[float], first_px: float, last_px: float) -> None:
        low, high = min(values), max(values)
        self.log = low > 0 and high > 8 * low
        if not self.log and low >= 0 and low < 0.6 * high:
            low = 0.0
        self._low, self._high = (math.log10(low), math.log10(high)) if self.log else (low, high)
        if self._low == self._high:
            self._high = self._low + 1
        self._first_px, self._last_px = first_px, last_px

    def px(self, value: float) -> float:
        place = math.log10(value) if self.log else value
        return self._first_px + (place - self._low) / (self._high - self._low) * (self._last_px - self._first_px)

    def ticks(self) -> list[float]:
        if self.log:
            decades = range(math.floor(self._low), math.floor(self._high + 1e-9) + 1)
            steps = (1,) if self._high - self._low > 2 else (1, 2, 5)
            places = [m * 10.0**n for n in decades for m in steps]
            return [v for v in places if self._low - 1e-9 <= math.log10(v) <= self._high + 1e-9]
        raw = (self._high - self._low) / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw)
        return [step * n for n in range(math.ceil(self._low / step - 1e-9), math.floor(self._high / step + 1e-9) + 1)]


def line_chart(figure: Figure) -> str:
    """The figure's lines over its places, with the range of each as a band. Places that are numbers above zero may be logarithmic.

    >>> figure = Figure(figure="f", title="t", x_name="x", x=(1, 2), y_name="y", lines=(Line(name="a", values=(1, 2)),))
    >>> line_chart(figure).startswith("<svg")
    True
    """
    scale, unit = scale_of(figure)
    numeric = all(isinstance(x, (int, float)) for x in figure.x)
    x = [float(v) for v in figure.x] if numeric else [float(i) for i in range(len(figure.x))]
    drawn = [v * scale for line in figure.lines for v in (*line.values, *line.low, *line.high) if v is not None]
    across, up = _Axis(x, LEFT, WIDTH - RIGHT), _Axis(drawn, HEIGHT - BOTTOM, TOP)
    y_name = f"{figure.y_name} ({unit})" if unit else figure.y_name
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 18, figure.title, size=14),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, figure.x_name, anchor="middle"),
        _text(14, (TOP + HEIGHT - BOTTOM) / 2, y_name, anchor="middle", turned=True),
        *_grid(figure, across, up, numeric),
    ]
    for index, line in enumerate(figure.lines):
        parts += _drawn(line, index, x, scale, across, up)
    return "\n".join([*parts, "</svg>\n"])


def write_charts(simulation: Simulation, record: Path) -> None:
    """The figures of lines as SVG files beside ``record``, where the simulation is stored: ``<record's stem>-<figure>.svg``."""
    for figure in simulation.figures:
        if figure.shown == "lines":
            store.write_atomic(record.with_name(f"{record.stem}-{figure.figure}.svg"), line_chart(figure).encode())


def _grid(figure: Figure, across: _Axis, up: _Axis, numeric: bool) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in up.ticks():
        y = up.px(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{value:.6g}", anchor="end"))
    named = (
        [(t, f"{t:.6g}") for t in across.ticks()] if numeric else [(float(i), str(v)) for i, v in enumerate(figure.x)]
    )
    for place, label in named:
        x = across.px(place)
        parts.append(f'<path d="M{x:.1f} {bottom}v5" stroke="#444"/>')
        parts.append(_text(x, bottom + 18, label, anchor="middle"))
    return [*parts, f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#444"/>']


def _drawn(line: Line, index: int, x: Sequence[float], scale: float, across: _Axis, up: _Axis) -> list[str]:
    colour = PALETTE[index] if index < len(PALETTE) else NEUTRAL
    dash = f' stroke-dasharray="{2 + 3 * (index - len(PALETTE))} 3"' if index >= len(PALETTE) else ""

    def points(values: Sequence[Value]) -> list[str]:
        return [f"{across.px(a):.1f},{up.px(v * scale):.1f}" for a, v in zip(x, values, strict=True) if v is not None]

    parts = []
    if line.low and line.high:
        outline = [*points(line.high), *reversed(points(line.low))]
        parts.append(f'<polygon points="{" ".join(outline)}" fill="{colour}" opacity="0.13"/>')
    where = points(line.values)
    parts.append(f'<polyline points="{" ".join(where)}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
    if not dash:
        parts += [f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3" fill="{colour}"/>' for p in where]
    y = TOP + 10 + 18 * index
    right = WIDTH - RIGHT + 12
    parts.append(f'<path d="M{right} {y}h18" stroke="{colour}" stroke-width="2"{dash}/>')
    return [*parts, _text(right + 24, y + 4, line.name)]


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#222"{turn}>{escape(text)}</text>'
