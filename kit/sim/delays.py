"""What a decision takes to compute: by the papers' formula, by measurement, or nothing. One argument for both worlds.

``Analytic`` is the papers' lambda * MACs / f (A: eq. 2, B: eq. 9). Their tables count two operations per multiply-accumulate at one
cycle each: factor 2 per MAC. That is a convention; measured factors differ by orders of magnitude, and a call overhead is in none.
``Measured`` are the times of the knowledge base; at a clock that was not measured, the nearest measured one's cycles are kept, as in
``kit.knowledge.dynamic``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from pydantic import Field

from kit.errors import BadRecord, UsageError
from kit.knowledge import timings_of
from kit.records import KnowledgeRow, Record, SizeTiming
from kit.sim.channel import Floats

PAPERS_FACTOR = 2.0  # cycles per MAC: table II of paper A less its table I; lambda = 1 on paper B's count of operations


class Analytic(Record):
    kind: Literal["analytic"] = "analytic"
    factor: float = Field(default=PAPERS_FACTOR, gt=0, description="lambda, alpha: cycles per multiply-accumulate")


class Measured(Record):
    """Measured computing times of a dynamic network's sizes. ``scheduler`` and ``policy`` may stand among them for paper B."""

    kind: Literal["measured"] = "measured"
    timings: tuple[SizeTiming, ...] = Field(min_length=1)

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[KnowledgeRow],
        family: str,
        *,
        device_id: str | None = None,
        backend: str | None = None,
        threads: int | None = None,
        clock_hz: float | None = None,
    ) -> Measured:
        """The trusted rows of a knowledge base, as ``kit.knowledge.timings_of`` reads them. Raises BadRecord, UnknownName."""
        found = timings_of(rows, family, device_id=device_id, backend=backend, threads=threads, clock_hz=clock_hz)
        return cls(timings=tuple(found))

    @property
    def sizes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(t.size for t in self.timings))


Delay: TypeAlias = Analytic | Measured | None


def computing_s(delay: Delay, size: str, clock_hz: Floats | float, *, macs: float) -> Floats:
    """Seconds that a network of this size computes, in the shape of ``clock_hz``. Raises UsageError for a clock that is no positive number,
    BadRecord for a size that was not measured.
    """
    clock = np.asarray(clock_hz, dtype=np.float64)
    if not (np.isfinite(clock).all() and (clock > 0).all()):
        raise UsageError("A clock must be a number above zero: give it in hertz.")
    if delay is None:
        return np.zeros_like(clock)
    if isinstance(delay, Analytic):
        seconds: Floats = delay.factor * macs / clock
        return seconds
    times = [t for t in delay.timings if t.size == size]
    if not times:
        raise BadRecord(
            f"Size {size} was not measured, only {' '.join(delay.sizes)}: profile it first, or use the analytic delay."
        )
    known = np.array([t.clock_hz for t in times])
    cycles = np.array([t.median_s for t in times]) * known
    nearest = np.abs(np.log(clock[..., None] / known)).argmin(axis=-1)
    measured: Floats = cycles[nearest] / clock
    return measured
