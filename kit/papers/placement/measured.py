"""Measured models in place of table III: what a knowledge base knows of a few variants at an end device and at an edge device.

| of the world | comes from |
|---|---|
| ``accuracy_clean`` | the accuracy of the variant's file |
| ``accuracy_noisy`` | the accuracy on noisy data where it is known, else :data:`NOISY_PART` of the clean one, as in table III |
| ``size_bytes`` | the bytes of the file |
| ``cycles``, ``edge_cycles`` | the measured time at a percentile (95 by default) times C^l, C^e: what is promised for a run |
| ``spread``, ``edge_spread`` | the other measured percentiles over that one: the world draws each run from them |

A device that was measured with nothing else running stands for a node of which a task has all: share 1 of C^l or C^e. A share beta
stretches the time to 1 / beta, as eq. 6 does with cycles; how runs disturb each other beyond that is in no measurement of one. A node with
another clock than the world's that the models were read for is faster or slower in proportion.

A deadline is met with a probability: a task that is promised to end just in time is late in the share of cases that the percentile leaves.
Below the median nothing is known, so a draw there takes the median: the world is never faster than what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from kit import store
from kit.errors import BadRecord, UnknownName, UsageError
from kit.knowledge.dynamic import FACTORS
from kit.papers.delays import STATE, settings_of
from kit.papers.placement.world import (
    HEAVY,
    LIGHT,
    PlacementWorld,
    Spread,
    Variant,
)
from kit.records import DECIDING, STORED_PERCENTILES, KnowledgeBase, KnowledgeRow, Percentile, Record

#: What table III's models keep of their accuracy on noisy data: middle of the ranges, both models together.
NOISY_PART = float(
    np.sum([LIGHT.accuracy_noisy, HEAVY.accuracy_noisy]) / np.sum([LIGHT.accuracy_clean, HEAVY.accuracy_clean])
)
PAPERS_FACTOR = FACTORS[1]  # cycles per MAC: the papers' formula, as kit.papers.delays has it

Timed = Literal["measured", "promised", "formula"]


class DeviceSelection(Record):
    """A device, and which of its measurements: the runtime, threads and operating point that are named."""

    device_id: str
    backend: str | None = None
    threads: int | None = None
    point: str | None = Field(default=None, description="none: a machine in its default state")

    def holds(self, row: KnowledgeRow) -> bool:
        """Whether a row was measured here and so."""
        if row.device_id != self.device_id or self.backend not in (None, row.backend):
            return False
        if self.threads not in (None, row.threads):
            return False
        return row.is_default_state if self.point is None else row.point_name == self.point


class RunTime(Record):
    """Measured times of one variant in one place, seconds, at each known level of probability."""

    device_id: str
    backend: str
    threads: int
    point: str
    record_id: str
    levels: tuple[float, ...]
    seconds: tuple[float, ...]

    @classmethod
    def of(cls, row: KnowledgeRow) -> RunTime:
        """The run time of a knowledge base's row."""
        percentiles = {50: row.median_s, 90: row.p90_s, 95: row.p95_s, 99: row.p99_s}
        seconds_by_level = {p / 100: seconds for p in STORED_PERCENTILES if (seconds := percentiles[p]) is not None}
        return cls(
            device_id=row.device_id,
            backend=row.backend,
            threads=row.threads,
            point=row.point_name,
            record_id=row.record_id,
            levels=tuple(seconds_by_level),
            seconds=tuple(np.maximum.accumulate(list(seconds_by_level.values())).tolist()),
        )

    def at(self, percentile: Percentile) -> float:
        """Seconds; where that percentile is unknown the next higher one."""
        return next(s for level, s in zip(self.levels, self.seconds, strict=True) if level >= percentile / 100)

    def spread(self, percentile: Percentile) -> Spread:
        """The measured quantiles over what is promised, as a world takes them."""
        promised = self.at(percentile)
        return Spread(levels=self.levels, factors=tuple(s / promised for s in self.seconds))

    @property
    def text(self) -> str:
        """Device, runtime and operating point in one line."""
        return f"{self.backend} on {self.device_id} at {self.point}"


class MeasuredVariant(Record):
    """One accuracy level as it was measured."""

    artifact_id: str
    accuracy: float = Field(gt=0, le=1)
    noisy_accuracy: float = Field(gt=0, le=1)
    noisy_known: bool
    dataset: str | None
    size_bytes: int
    macs: int | None
    end: RunTime
    edge: RunTime


class MeasuredModels(Record):
    """The variants, lightest first, and the percentile of their times that is promised."""

    variants: tuple[MeasuredVariant, ...] = Field(min_length=1)
    percentile: Percentile = 95

    @property
    def notes(self) -> tuple[str, ...]:
        """What was read and what was assumed, one sentence each."""
        notes = [
            f"{v.artifact_id}: accuracy {v.accuracy:.4f}, {v.size_bytes / 1e6:.2f} MB, p{self.percentile} "
            f"{v.end.at(self.percentile) * 1e3:.3g} ms at the gateways ({v.end.text}) and "
            f"{v.edge.at(self.percentile) * 1e3:.3g} ms at the edge ({v.edge.text})."
            for v in self.variants
        ]
        if unknown := [v.artifact_id for v in self.variants if not v.noisy_known]:
            notes.append(
                f"Nobody measured {', '.join(unknown)} on noisy data: counted as {NOISY_PART:.1%} of the clean accuracy, "
                "what table III's models keep."
            )
        for light, heavy in zip(self.variants, self.variants[1:], strict=False):
            if heavy.accuracy <= light.accuracy:
                notes.append(
                    f"{heavy.artifact_id} is not more accurate than {light.artifact_id}: nothing speaks for it."
                )
        return tuple(notes)


def world_of(world: PlacementWorld, models: MeasuredModels, timed: Timed = "measured") -> PlacementWorld:
    """``world`` with these models; the clocks of this world are those of the measured devices.

    ``timed`` may leave the spread out (``promised``: every run takes its percentile), or take the papers' formula in place of the
    measured times (``formula``: two cycles per multiply-accumulate, over the world's clocks; accuracies and bytes stay measured).
    Raises BadRecord where the formula needs MACs that nobody knows.
    """
    return world.model_copy(
        update={"variants": tuple(_variant(world, v, models.percentile, timed) for v in models.variants)}
    )


def _variant(world: PlacementWorld, model: MeasuredVariant, percentile: Percentile, timed: Timed) -> Variant:
    if timed == "formula" and not model.macs:
        raise BadRecord(
            f"Nobody counted the multiply-accumulates of {model.artifact_id}: describe it with kit describe."
        )
    cycles = (model.end.at(percentile) * world.gateway_hz, model.edge.at(percentile) * world.edge_hz)
    if timed == "formula":
        cycles = (PAPERS_FACTOR * (model.macs or 0),) * 2
    return Variant(
        name=model.artifact_id,
        accuracy_clean=(model.accuracy,) * 2,
        accuracy_noisy=(model.noisy_accuracy,) * 2,
        size_bytes=(float(model.size_bytes),) * 2,
        cycles=(cycles[0],) * 2,
        edge_cycles=(cycles[1],) * 2,
        spread=model.end.spread(percentile) if timed == "measured" else None,
        edge_spread=model.edge.spread(percentile) if timed == "measured" else None,
    )


def luckiest(world: PlacementWorld) -> PlacementWorld:
    """The world in which every run takes the least that it can: a bound there is above whatever a decision comes to in ``world``."""

    def least(span: tuple[float, float], spread: Spread | None) -> tuple[float, float]:
        factor = 1.0 if spread is None else spread.factors[0]
        return span[0] * factor, span[1] * factor

    def lucky(variant: Variant) -> Variant:
        times = {"cycles": least(variant.cycles, variant.spread), "spread": None, "edge_spread": None}
        times["edge_cycles"] = least(variant.edge_cycles or variant.cycles, variant.edge_spread)
        return variant.model_copy(update=times)

    return world if world.certain else world.model_copy(update={"variants": tuple(map(lucky, world.variants))})


# --------------------------------------------------------------------------------------------------- from a knowledge base


def read(
    text: str,
    ids: Sequence[str],
    *,
    end: str,
    edge: str,
    noisy: Mapping[str, float] | None = None,
    percentile: int = 95,
) -> MeasuredModels:
    """What ``--models measured:KNOWLEDGE.json[,backend=…]`` with its variants, ``--end`` and ``--edge`` names.

    A device may be followed by ``,backend=…,threads=…,point=…``; what follows the file holds for both. Raises UsageError (no such file,
    text that cannot be read), UnknownName, BadRecord (see :func:`models_of`).
    """
    kind, _, rest = text.partition(":")
    name, *parts = rest.split(",")
    if kind != "measured" or not name:
        raise UsageError(f"--models does not take '{text}': write table, or measured:KNOWLEDGE.json.")
    both = settings_of(text, parts, STATE, "--models")
    places = [_selection(flag, place, both) for flag, place in (("--end", end), ("--edge", edge))]
    promised: Percentile | None = next((p for p in STORED_PERCENTILES if p == percentile), None)
    if promised is None:
        raise UsageError(
            f"Measurements keep the percentiles {', '.join(map(str, STORED_PERCENTILES))}, not {percentile}."
        )
    if not Path(name).exists():
        raise UsageError(f"{name} does not exist: make it with kit knowledge build PROFILE...")
    rows = store.read_record(Path(name), KnowledgeBase).rows
    return models_of(rows, ids, end=places[0], edge=places[1], noisy=noisy, percentile=promised)


def _selection(flag: str, text: str, both: Mapping[str, str | int]) -> DeviceSelection:
    name, *parts = text.split(",")
    if not name:
        raise UsageError(
            f"{flag} names no device: write its name as kit device prints it, like {flag} DEVICE,backend=pytorch."
        )
    return DeviceSelection.model_validate({"device_id": name, **both, **settings_of(text, parts, STATE, flag)})


def models_of(
    rows: Sequence[KnowledgeRow],
    ids: Sequence[str],
    *,
    end: DeviceSelection,
    edge: DeviceSelection,
    noisy: Mapping[str, float] | None = None,
    percentile: Percentile = 95,
) -> MeasuredModels:
    """The variants ``ids``, lightest first, from trusted measured rows alone.

    Raises UnknownName (a variant or device that was not measured), UsageError (a variant twice, an accuracy beyond 0 and 1), BadRecord:
    nothing trusted there, several measurements and none named, no accuracy, accuracies of several data sets.
    """
    noisy_accuracies = dict(noisy or {})
    if len(set(ids)) != len(ids) or not ids:
        raise UsageError("Name each variant once, the lightest first.")
    for name, value in noisy_accuracies.items():
        if name not in ids:
            raise UnknownName("variant of --noisy", name, ids)
        if not 0 < value <= 1:
            raise UsageError(f"The noisy accuracy of {name} is a share above 0 and up to 1, not {value:g}.")
    variants = tuple(_measured(rows, name, end, edge, noisy_accuracies.get(name)) for name in ids)
    if len(sets := sorted({v.dataset for v in variants if v.dataset})) > 1:
        raise BadRecord(
            f"The accuracies come from {len(sets)} data sets ({', '.join(sets)}) and cannot be compared: take variants of one."
        )
    return MeasuredModels(variants=variants, percentile=percentile)


def _measured(
    rows: Sequence[KnowledgeRow], name: str, end: DeviceSelection, edge: DeviceSelection, noisy: float | None
) -> MeasuredVariant:
    at_end, at_edge = _row(rows, name, end, "--end"), _row(rows, name, edge, "--edge")
    same_file_rows = [
        r for r in rows if r.artifact_id == name and r.accuracy is not None and r.sha256 == at_edge.sha256
    ]
    accuracy_row = next((r for r in (at_edge, at_end, *same_file_rows) if r.accuracy is not None), None)
    if accuracy_row is None or accuracy_row.accuracy is None:
        raise BadRecord(f"Nobody knows the accuracy of {name}: give it with kit knowledge build --accuracy FILE.")
    return MeasuredVariant(
        artifact_id=name,
        accuracy=accuracy_row.accuracy,
        noisy_accuracy=accuracy_row.accuracy * NOISY_PART if noisy is None else noisy,
        noisy_known=noisy is not None,
        dataset=accuracy_row.dataset,
        size_bytes=at_edge.size_bytes,
        macs=at_edge.macs or at_end.macs,
        end=RunTime.of(at_end),
        edge=RunTime.of(at_edge),
    )


def _row(rows: Sequence[KnowledgeRow], name: str, selection: DeviceSelection, flag: str) -> KnowledgeRow:
    """The one trusted measured row of a variant in a place. Raises UnknownName, BadRecord."""
    measured = [r for r in rows if r.origin == "measured"]
    if selection.device_id not in (devices := sorted({r.device_id for r in measured})):
        raise UnknownName(f"device of {flag}", selection.device_id, devices)
    on_device = [r for r in measured if r.device_id == selection.device_id]
    if name not in (names := sorted({r.artifact_id for r in on_device})):
        raise UnknownName(f"variant on {selection.device_id}", name, names)
    variant_rows = [r for r in on_device if r.artifact_id == name]
    matching = [r for r in variant_rows if selection.holds(r)]
    if not matching:
        raise BadRecord(
            f"{name} was measured on {selection.device_id} by {_ways(variant_rows)}, not as {flag} asks: name one of these."
        )
    trusted = [r for r in matching if r.label in DECIDING]
    if not trusted:
        raise BadRecord(
            f"What was measured of {name} on {selection.device_id} is {matching[0].label} and decides nothing: profile it again."
        )
    if len({(r.backend, r.point_name) for r in trusted}) < len(trusted):
        raise BadRecord(
            f"Several files named {name} were measured alike on {selection.device_id}: build the knowledge base from one profile of it."
        )
    if len(trusted) > 1:
        raise BadRecord(
            f"{name} was measured on {selection.device_id} by {_ways(trusted)}: say which, like {flag} "
            f"{selection.device_id},backend={trusted[0].backend},threads={trusted[0].threads}."
        )
    return trusted[0]


def _ways(rows: Sequence[KnowledgeRow]) -> str:
    return ", ".join(sorted({f"{r.backend} at {r.point_name}" for r in rows}))
