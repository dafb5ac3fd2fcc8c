"""Rows of the knowledge base, what is asked of it and what it answers, and the size tables of the papers."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from kit import units
from kit.records.measurement import Label, OperatingPoint
from kit.records.network import Precision
from kit.records.record import Record

Percentile = Literal[50, 90, 95, 99]
STORED_PERCENTILES: tuple[Percentile, ...] = (50, 90, 95, 99)  # of each row's latency


class KnowledgeRow(Record):
    """One variant on one device, backend and operating point: measured, or predicted by a latency model.

    ``low_s`` to ``high_s`` is the interval of ``median_s`` (over processes; of a predicted row what its model states),
    ``p99_low_s`` to ``p99_high_s`` that of ``p99_s``. A percentile that nobody computed is None and the next higher one stands in.
    ``energy_j`` is the whole draw of one inference, the idle machine included.
    """

    artifact_id: str
    sha256: str  # empty where no file exists yet: a predicted row
    device_id: str
    backend: str
    threads: int
    precision: Precision
    origin: Literal["measured", "predicted"] = "measured"
    point: OperatingPoint | None = None  # None: back-to-back calls of one input on an idle machine in its default state
    median_s: float = Field(gt=0)
    p90_s: float | None = Field(default=None, gt=0)
    p95_s: float | None = Field(default=None, gt=0)
    p99_s: float = Field(gt=0)
    low_s: float | None = Field(default=None, ge=0)
    high_s: float | None = None
    p99_low_s: float | None = Field(default=None, ge=0)
    p99_high_s: float | None = None
    label: Label | None = None  # None: predicted
    memory_bytes: int | None
    size_bytes: int
    macs: int | None
    energy_j: float | None = None
    clock_hz: float | None = None
    accuracy: float | None
    dataset: str | None = None  # what the accuracy was counted on, and by which metric if it is not top-1
    record_id: str  # the profile record, or the latency model of a predicted row

    @model_validator(mode="after")
    def _check_origin(self) -> KnowledgeRow:
        if (self.origin == "measured") != (self.label is not None):
            raise ValueError("a measured row has a label and a predicted one has none")
        if self.origin == "predicted" and (self.low_s is None or self.high_s is None):
            raise ValueError("a predicted row states its interval")
        if self.low_s is not None and self.high_s is not None and not self.low_s <= self.median_s <= self.high_s:
            raise ValueError("the median lies outside its own interval")
        if self.point is not None and self.point.threads != self.threads:
            raise ValueError("the operating point has another thread count than the row")
        return self

    @property
    def batch(self) -> int:
        """Inputs per call; the latencies are those of the call."""
        return (self.point.batch if self.point else None) or 1

    @property
    def is_default_state(self) -> bool:
        """Whether it was measured in the default state: no cap, no load, no pause."""
        return self.point is None or self.point.is_default_state

    @property
    def point_name(self) -> str:
        """The operating point in short."""
        return (self.point or OperatingPoint(threads=self.threads)).name

    def latency_s(self, percentile: int = 99) -> float:
        """The latency at a percentile, in seconds; where it is unknown the next higher one, which is the safer."""
        if percentile >= 99:
            return self.p99_s
        if percentile == 50:
            return self.median_s
        candidates_s = (self.p90_s, self.p95_s) if percentile == 90 else (self.p95_s,)
        return next((value for value in candidates_s if value is not None), self.p99_s)

    def interval_s(self, percentile: int = 99) -> tuple[float, float]:
        """Between which latencies the percentile lies, in seconds, as far as the row tells.

        Above the median it is as wide, relative to its centre, as the interval of the p99 (of the median where that is unknown).
        """
        value, low, high = self.latency_s(percentile), self.p99_low_s, self.p99_high_s
        centre = self.p99_s
        if percentile == 50 or low is None or high is None:
            centre, low, high = self.median_s, self.low_s, self.high_s
        if low is None or high is None:
            return value, value
        return min(value, value * (low / centre)), max(value, value * (high / centre))


class KnowledgeBase(Record):
    """Rows of all variants on all devices, and what they were made from."""

    kind: Literal["knowledge"] = "knowledge"
    schema_version: Literal[2] = 2
    created_utc: str
    kit_version: str
    rows: tuple[KnowledgeRow, ...]

    def summary(self) -> dict[str, str]:
        """The base as name and text, for people."""
        measured = sum(r.origin == "measured" for r in self.rows)
        return {
            "rows": f"{measured} measured, {len(self.rows) - measured} predicted",
            "devices": ", ".join(sorted({r.device_id for r in self.rows})),
            "runtimes": ", ".join(sorted({r.backend for r in self.rows})),
        }


class Need(Record):
    """What a device asks for. Every limit is optional; at least the most accurate measured variant is the answer.

    With a link, the deadline covers download + latency, unless ``download_s`` sets a limit of its own for the download. What
    the device already has (``have``: sha256 or ids of variants) needs no download.
    """

    deadline_s: float | None = Field(default=None, gt=0)
    percentile: Percentile = 99  # of the latency that the deadline is set against
    memory_bytes: int | None = Field(default=None, gt=0)
    energy_j: float | None = Field(default=None, gt=0)
    min_accuracy: float | None = Field(default=None, ge=0, le=1)
    link_bps: float | None = Field(default=None, gt=0)
    download_s: float | None = Field(default=None, gt=0)
    have: tuple[str, ...] = ()
    device_id: str | None = None
    backend: str | None = None
    threads: int | None = None
    batch: int | None = Field(default=None, ge=1)  # None: one input per call
    point: str | None = None  # name of an operating point, such as t1-gap10ms; None: a machine in its default state
    dataset: str | None = None  # None: the only one
    unknown_accuracy: bool = False  # variants of unknown accuracy compete (last) with those that know theirs


class Rejection(Record):
    """Why a variant is out: the limit that it misses, its value and the bound, in the limit's SI unit."""

    artifact_id: str
    backend: str
    threads: int
    limit: str  # "deadline", "memory", "energy", "accuracy", "download", "label"
    value: float | str | None
    bound: float | str | None
    text: str


class MeasureNext(Record):
    """A row whose measurement could change the answer, and the command that measures it."""

    artifact_id: str
    backend: str
    threads: int
    point: str
    why: str
    command: str


class Answer(Record):
    """The choice: ``margin`` is the share of the tightest limit that is left (0.2: 20 % to spare)."""

    need: Need
    chosen: KnowledgeRow | None
    runner_up: KnowledgeRow | None
    margin: float | None
    binding: str | None  # the limit with the smallest margin
    rejected: tuple[Rejection, ...]
    text: str  # the answer as a sentence
    promised: bool = True  # False: the chosen row is predicted, so measure it first
    measure_next: tuple[MeasureNext, ...] = ()  # what could change the answer, the most promising first

    def summary(self) -> dict[str, str]:
        """The answer as name and text, for people."""
        row = self.chosen
        if row is None:
            return {"answer": self.text}
        return {
            "chosen": row.artifact_id,
            f"p{self.need.percentile}": units.seconds(row.latency_s(self.need.percentile)),
            "accuracy": units.percent(row.accuracy),
            "runtime": f"{row.backend}, {row.point_name}",
            "device": row.device_id,
            "margin": "" if self.margin is None else f"{units.percent(self.margin)} of the {self.binding} limit",
            "runner-up": self.runner_up.artifact_id if self.runner_up else "",
            "rejected": str(len(self.rejected)),
            "because": self.text,
        }


class Limit(Record):
    """One limit on one row: ``slack`` is the share of the bound that is left (negative: missed, None: nothing to compare)."""

    limit: str
    value: float | str | None
    bound: float | str | None
    slack: float | None
    met: bool
    text: str
    change: str | None  # what would have to change, where it is missed


class Explanation(Record):
    """Why one row is, or is not, the choice for a need."""

    row: KnowledgeRow
    chosen: bool
    limits: tuple[Limit, ...]
    beaten_by: str | None  # the id that is chosen although this row meets every limit
    text: str


class AllocationQuality(Record):
    """What a dynamic network of each size achieves: the (weighted) delay of its allocation for tasks of ``task_bit``, in seconds.

    Keys are sizes: ``"8"`` for K experts (paper A), ``"10,3"`` for k experts of l layers (paper B). The delay grows in proportion to
    the task size. ``weight`` is the mean importance by which the computing time counts.
    """

    kind: Literal["allocation_quality"] = "allocation_quality"
    schema_version: Literal[1] = 1
    family: str  # allocator_a, allocator_b
    source: str
    task_bit: float = Field(gt=0)
    weight: float = Field(gt=0)
    delay_s: dict[str, float] = Field(min_length=1)

    @field_validator("delay_s")
    @classmethod
    def _sizes(cls, value: dict[str, float]) -> dict[str, float]:
        for key, delay in value.items():
            if not re.fullmatch(r"\d+(,\d+)*", key) or not delay > 0:
                raise ValueError(
                    f'\'{key}: {delay}\' is no size with a delay above zero: write "8" or "10,3" and seconds'
                )
        return value


class SizeTiming(Record):
    """What a dynamic network of one size takes to compute, measured at one clock."""

    size: str
    clock_hz: float = Field(gt=0)
    median_s: float = Field(gt=0)
    macs: float | None = None  # as its paper counts them
    record_id: str


class SizeChoice(Record):
    """Of one cell, task size x compute budget: the best size by the measured times, and by each analytic factor."""

    task_bit: float
    clock_hz: float
    measured: str
    measured_delay_s: float  # allocation and computing together
    analytic: dict[str, str]  # factor in cycles per MAC -> size
    excess: dict[str, float]  # factor -> how much longer the analytic choice takes, by the measured times (0.02: 2 %)


class DynamicTable(Record):
    """Papers A and B: the best size of a dynamic network over task size and compute budget."""

    kind: Literal["dynamic_table"] = "dynamic_table"
    schema_version: Literal[1] = 1
    quality: AllocationQuality
    timings: tuple[SizeTiming, ...]
    left_out: tuple[str, ...]  # sizes with a timing or a quality, but not both
    factors: tuple[float, ...]  # cycles per MAC; none where the MACs are unknown
    cells: tuple[SizeChoice, ...]

    def differing(self, factor: float) -> float:
        """Share of the cells in which the analytic choice is another than the measured one."""
        return sum(c.analytic[f"{factor:g}"] != c.measured for c in self.cells) / len(self.cells)

    def worst_excess(self, factor: float) -> float:
        """The largest share by which the analytic choice takes longer, by the measured times."""
        return max(c.excess[f"{factor:g}"] for c in self.cells)
