"""What an experiment finds: figures of named lines, each with its spread over the seeds and what the paper prints beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal, TypeAlias

import numpy as np
from pydantic import Field, JsonValue, model_validator

from kit.errors import UnknownName
from kit.records import Record
from kit.stats import Float64Array

Value = float | None
Unit: TypeAlias = Literal["s", "1", "J", "bit/s", "number"]


class Line(Record):
    """One method over the figure's places: the mean over the seeds, the least and the largest of them, and the published values."""

    name: str
    values: tuple[Value, ...]
    low: tuple[Value, ...] = ()
    high: tuple[Value, ...] = ()
    published: tuple[Value, ...] = ()


class Figure(Record):
    """One table or figure of a paper. ``unit``: s, J, bit/s, 1 for a share (read as per cent), or a plain number; ``shown`` says how it is
    drawn and printed.

    A map has one line per row, and its places are the columns.
    """

    figure: str  # as the paper names it: table1, fig3
    title: str
    x_name: str  # with its unit
    x: tuple[str | float, ...]
    y_name: str
    value_name: str = ""  # of what a map's colours are
    unit: Unit = "s"
    shown: Literal["lines", "bars", "map", "table"] = "lines"
    lines: tuple[Line, ...] = Field(min_length=1)
    notes: tuple[str, ...] = ()  # what was found, and what cannot be reproduced as printed: one sentence each

    @model_validator(mode="after")
    def _even(self) -> Figure:
        for line in self.lines:
            for values in (line.values, line.low, line.high, line.published):
                if values and len(values) != len(self.x):
                    raise ValueError(f"{line.name} has {len(values)} values for {len(self.x)} places")
        return self


class Simulation(Record):
    """A run of ``kit simulate``: the world, what was trained, and the figures that came out."""

    kind: Literal["simulation"] = "simulation"
    schema_version: Literal[1] = 1
    world: Literal["bandwidth", "offloading", "placement", "downloading"]
    parameters: dict[str, JsonValue]
    delay: str  # analytic:lambda=2, measured:…, none
    seeds: tuple[int, ...]
    versions: dict[str, str]
    wall_s: float
    device_id: str = "unknown"  # the machine that computed it
    ended_utc: str = "unknown"
    trained: dict[str, JsonValue] = Field(default_factory=dict)  # name of a network -> its recipe, seconds, final loss
    figures: tuple[Figure, ...]


def check_figures(names: Iterable[str], known: Collection[str]) -> None:
    """Raises UnknownName for what is no figure of the paper."""
    for name in names:
        if name not in known:
            raise UnknownName("figure", name, known)


def line_of(name: str, runs: Sequence[Sequence[float]] | Float64Array, *, published: Sequence[Value] = ()) -> Line:
    """A line from [seeds, places]: mean, least and largest. One seed has no spread; nan stands for nothing."""
    table = np.atleast_2d(np.asarray(runs, dtype=np.float64))
    spread = len(table) > 1
    return Line(
        name=name,
        values=_known(table.mean(axis=0)),
        low=_known(table.min(axis=0)) if spread else (),
        high=_known(table.max(axis=0)) if spread else (),
        published=tuple(published),
    )


def _known(values: Float64Array) -> tuple[Value, ...]:
    return tuple(None if np.isnan(value) else float(value) for value in values)


# --------------------------------------------------------------------------------------------------------- as people read it

SCALES: dict[Unit, tuple[float, str]] = {
    "s": (1e3, "ms"),
    "1": (100.0, "%"),
    "J": (1.0, "J"),
    "bit/s": (1e-9, "Gbit/s"),
    "number": (1.0, ""),
}


def scale_of(figure: Figure) -> tuple[float, str]:
    """The factor and the name of the unit that people read: milliseconds for seconds, percent for shares."""
    return SCALES[figure.unit]


def written(value: Value, figure: Figure) -> str:
    """A value in that unit, with four digits; nothing for nothing."""
    if value is None:
        return ""
    shown = round(value * scale_of(figure)[0], 6)
    return np.format_float_positional(float(f"{shown:.4g}"), trim="-")


def place(x: str | float) -> str:
    """
    >>> place("static"), place(29.4e6), place(2e9), place(0.5)
    ('static', '29.4 M', '2 G', '0.5')
    """
    if isinstance(x, str):
        return x
    step, name = next(((s, n) for s, n in ((1e9, " G"), (1e6, " M"), (1e3, " k")) if abs(x) >= s), (1.0, ""))
    return f"{x / step:.3g}{name}"


def heading(figure: Figure) -> tuple[str, str]:
    """(title with the unit, name of the places)."""
    unit = scale_of(figure)[1]
    return (f"{figure.title}: {figure.y_name} ({unit})" if unit else f"{figure.title}: {figure.y_name}"), figure.x_name


def rows(figure: Figure) -> tuple[list[str], list[list[str]]]:
    """(head, rows) of a table: each line's means, below it the half range of its seeds and what the paper prints."""
    head = [figure.x_name, *map(place, figure.x)]
    body = []
    for line in figure.lines:
        body.append([line.name, *(written(v, figure) for v in line.values)])
        if line.low and any(low != high for low, high in zip(line.low, line.high, strict=True)):
            spread = [
                None if low is None or high is None else (high - low) / 2
                for low, high in zip(line.low, line.high, strict=True)
            ]
            body.append(["  seeds ±", *(written(s if s is None else float(f"{s:.2g}"), figure) for s in spread)])
        if line.published:
            body.append(["  paper", *(written(v, figure) for v in line.published)])
    return head, body
