"""What a decision takes to compute: by the papers' formula, by measurement, or nothing. One argument for both worlds.

``Analytic`` is the papers' lambda * MACs / f (A: eq. 2, B: eq. 9). Their tables count two operations per multiply-accumulate at one
cycle each: factor 2 per MAC. That is a convention; measured factors differ by orders of magnitude, and a call overhead is in none.
``Measured`` are the times of the knowledge base; at a clock that was not measured, the nearest measured one's cycles are kept
(``kit.knowledge.dynamic``). :func:`delay_of` reads what a person writes::

    none    analytic    analytic:lambda=0.5    measured:knowledge.json,backend=allocator,threads=1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from pydantic import Field

from kit import store
from kit.errors import BadRecord, UnknownName, UsageError
from kit.knowledge import timings_of
from kit.knowledge.dynamic import measured_s
from kit.records import KnowledgeBase, KnowledgeRow, Record, SizeTiming
from kit.stats import Float64Array

PAPERS_FACTOR = 2.0  # cycles per MAC: table II of paper A less its table I; lambda = 1 on paper B's count of operations


class Analytic(Record):
    """The papers' formula: ``factor`` cycles a multiply-accumulate (lambda)."""

    kind: Literal["analytic"] = "analytic"
    factor: float = Field(default=PAPERS_FACTOR, gt=0, description="lambda, alpha: cycles per multiply-accumulate")


class Measured(Record):
    """Measured computing times of a dynamic network's sizes. ``scheduler`` and ``policy`` may stand among them for paper B."""

    kind: Literal["measured"] = "measured"
    timings: tuple[SizeTiming, ...] = Field(min_length=1)
    source: str = ""  # runtime, device and threads as text

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
        users: int | None = None,
    ) -> Measured:
        """The trusted rows of a knowledge base, as ``kit.knowledge.timings_of`` reads them. Raises BadRecord, UnknownName."""
        timings = timings_of(
            rows, family, device_id=device_id, backend=backend, threads=threads, clock_hz=clock_hz, users=users
        )
        first_row = next(r for r in rows if r.record_id == timings[0].record_id)
        plural = "s" if first_row.threads > 1 else ""
        source = f"{family} by {first_row.backend} on {first_row.device_id}, {first_row.threads} thread{plural}"
        return cls(timings=tuple(timings), source=source)

    @property
    def sizes(self) -> tuple[str, ...]:
        """The sizes whose time was measured."""
        return tuple(dict.fromkeys(t.size for t in self.timings))


Delay: TypeAlias = Analytic | Measured | None


def computing_s(delay: Delay, size: str, clock_hz: Float64Array | float, *, macs: float) -> Float64Array:
    """Seconds that a network of this size computes, in the shape of ``clock_hz``. Raises UsageError for a clock that is no positive number,
    BadRecord for a size that was not measured.
    """
    clock = np.asarray(clock_hz, dtype=np.float64)
    if not (np.isfinite(clock).all() and (clock > 0).all()):
        raise UsageError("A clock must be a number above zero: give it in hertz.")
    if delay is None:
        return np.zeros_like(clock)
    if isinstance(delay, Analytic):
        seconds: Float64Array = delay.factor * macs / clock
        return seconds
    times = [t for t in delay.timings if t.size == size]
    if not times:
        raise BadRecord(
            f"Size {size} was not measured, only {' '.join(delay.sizes)}: profile it first, or use the analytic delay."
        )
    return measured_s(times, clock)


def delay_of(text: str, family: str = "allocator_a") -> Delay:
    """The delay that ``text`` names; measured ones are those of ``family``. Raises UsageError: no delay, an option it has not, no such
    file, BadRecord: times that were not measured, or of several devices, runtimes, thread counts or numbers of users and none named.
    """
    kind, colon, rest = text.partition(":")
    if kind == "none" and not colon:
        return None
    if kind == "analytic" and (rest or not colon):
        settings = settings_of(text, rest.split(",") if rest else [], {"lambda": _positive})
        return Analytic(factor=settings.get("lambda", PAPERS_FACTOR))
    if kind == "measured" and rest:
        name, *parts = rest.split(",")
        settings = settings_of(text, parts, _MEASURED)
        if not Path(name).exists():
            raise UsageError(f"{name} does not exist: make it with kit knowledge build PROFILE...")
        rows = store.read_record(Path(name), KnowledgeBase).rows
        clock = settings.get("clock-ghz")
        return Measured.from_rows(
            rows, family, device_id=settings.get("device"), backend=settings.get("backend"), threads=settings.get("threads"),
            clock_hz=None if clock is None else clock * 1e9, users=settings.get("users"),
        )  # fmt: skip
    raise UsageError(
        f"--delay does not take '{text}': write none, analytic, analytic:lambda=0.5 or measured:KNOWLEDGE.json."
    )


def describe(delay: Delay) -> str:
    """A delay as text: ``analytic:lambda=2``, ``none``, ``measured:allocator_a by allocator on DEVICE, 1 thread``."""
    if delay is None:
        return "none"
    if isinstance(delay, Analytic):
        return f"analytic:lambda={delay.factor:g}"
    return f"measured:{delay.source}" if delay.source else "measured"


def measured_sizes_s(delay: Delay) -> dict[str, float]:
    """What each size was measured to take, in seconds at the highest clock that was measured; nothing for a formula."""
    if not isinstance(delay, Measured):
        return {}
    return {t.size: t.median_s for t in sorted(delay.timings, key=lambda t: t.clock_hz)}


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError
    return int(text)


def _name(text: str) -> str:
    if not text:
        raise ValueError
    return text


_MEASURED: dict[str, Callable[[str], Any]] = {
    "backend": _name, "device": _name, "threads": _count, "clock-ghz": _positive, "users": _count
}  # fmt: skip

#: What distinguishes the rows of one device.
STATE: dict[str, Callable[[str], Any]] = {"backend": _name, "threads": _count, "point": _name}


def settings_of(
    text: str, parts: Sequence[str], parsers: Mapping[str, Callable[[str], Any]], flag: str = "--delay"
) -> dict[str, Any]:
    """``key=value`` parts of what was written after ``flag``. Raises UsageError."""
    settings: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if key not in parsers:
            raise UnknownName(f"option of {flag} {text.partition(':')[0].partition(',')[0]}", key, parsers)
        try:
            settings[key] = parsers[key](value if equals else "")
        except ValueError:
            raise UsageError(f"{flag} '{text}' cannot be read at '{part}': {_TAKES[key]}.") from None
    return settings


_TAKES = {
    "lambda": "give cycles per multiply-accumulate above zero, like lambda=0.5",
    "backend": "name a runtime, like backend=allocator",
    "device": "name a device, as kit device prints it",
    "threads": "give a whole number from 1, like threads=1",
    "clock-ghz": "give gigahertz above zero, like clock-ghz=2.4",
    "users": "give a whole number from 1, like users=30",
    "point": "name an operating point, like point=t1-b1-gap10ms",
}
