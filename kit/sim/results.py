"""What an experiment finds: figures of named lines, each with its spread over the seeds and what the paper prints beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, JsonValue, model_validator

from kit.records import Record
from kit.sim.channel import Floats

Value = float | None


class Line(Record):
    """One method over the figure's places: the mean over the seeds, the least and the largest of them, and the published values."""

    name: str
    values: tuple[Value, ...]
    low: tuple[Value, ...] = ()
    high: tuple[Value, ...] = ()
    published: tuple[Value, ...] = ()


class Figure(Record):
    """One table or figure of a paper. ``unit`` is SI (s, 1, J); ``shown`` says how it is drawn and printed.

    A map has one line per row, and its places are the columns.
    """

    figure: str  # as the paper names it: table1, fig3
    title: str
    x_name: str  # with its unit
    x: tuple[str | float, ...]
    y_name: str
    unit: Literal["s", "1", "J", "K"] = "s"
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
    world: Literal["bandwidth", "offloading", "placement"]
    parameters: dict[str, JsonValue]
    delay: str  # analytic:lambda=2, measured:…, none
    seeds: tuple[int, ...]
    versions: dict[str, str]
    wall_s: float
    trained: dict[str, JsonValue] = Field(default_factory=dict)  # name of a network -> its recipe, seconds, final loss
    figures: tuple[Figure, ...]


def line_of(name: str, runs: Sequence[Sequence[float]] | Floats, *, published: Sequence[Value] = ()) -> Line:
    """A line from [seeds, places]: mean, least and largest. One seed has no spread."""
    table = np.atleast_2d(np.asarray(runs, dtype=np.float64))
    spread = len(table) > 1
    return Line(
        name=name,
        values=tuple(map(float, table.mean(axis=0))),
        low=tuple(map(float, table.min(axis=0))) if spread else (),
        high=tuple(map(float, table.max(axis=0))) if spread else (),
        published=tuple(published),
    )
