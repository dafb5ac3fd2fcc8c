"""Size tables of papers A and B: the best size (K, or k and l) of a dynamic network over task size and compute budget.

Paper A (eq. 9, algorithm 1, lines 8 to 12) takes the K with the least T_tra + T_com, paper B (eq. 28) the (k, l) with the least cost of
the offloaded tasks. Both are, for tasks of s bits and a processor of f Hz,

    delay(size; s, f) = allocation(size) * s / task_bit  +  weight * computing(size; f)

with the allocation's own delay in proportion to the task size (paper A, eq. 1: everything is homogeneous of degree one in the sizes)
and the mean importance of the tasks as weight. The papers set computing = lambda * MACs / f. Here it is measured for each sub-network;
at a clock that was not measured the time of the nearest measured one is scaled by the ratio of the clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kit.allocators.fileformat import WIDEST
from kit.errors import BadRecord, UnknownName, UsageError
from kit.records import (
    DECIDING,
    AllocationQuality,
    DynamicTable,
    KnowledgeRow,
    SizeChoice,
    SizeTiming,
    SubNetwork,
)

EXPERTS = WIDEST  # of the full network: M in paper A, K in paper B; units of the per-user network
FACTORS = (1.0, 2.0)  # cycles per MAC: the papers' lambda = 1, and what their tables come from (two operations per MAC)
MACS_PER_EXPERT = 2174.0  # paper A, table I: 32 * 36 + 32 + 32 * 30 + 30; the gate is left out there

#: Published data, not measured by kit: paper A, table I (tasks of 10 kbit on average), and the mean of its four weights.
TABLE_I = AllocationQuality(
    family="allocator_a",
    source="published: paper A, table I",
    task_bit=10_000.0,
    weight=0.375,
    delay_s={"1": 1.967e-3, "2": 1.922e-3, "5": 1.873e-3, "10": 1.859e-3, "20": 1.849e-3, "30": 1.841e-3},
)


def size_of(subnetwork: SubNetwork) -> str:
    """The size of an allocator: ``"8"`` for K = 8 experts (paper A), ``"10,3"`` for k = 10 experts of l = 3 layers (paper B), ``"16,2"``
    for 16 units in each of 2 layers (per user). A static network has one size: ``"30"`` (paper A), ``"1,3"`` (paper B).

    Raises UnknownName for another root.
    """
    if subnetwork.root not in EXPERTS:
        raise UnknownName("dynamic network", subnetwork.root, EXPERTS)
    experts = round(subnetwork.width * EXPERTS[subnetwork.root])
    return str(experts) if _counts_experts(subnetwork.root) else f"{experts},{subnetwork.depth}"


def _counts_experts(family: str) -> bool:
    """Paper A's networks differ in K alone, and their computing is what its table I counts."""
    return family in ("allocator_a", "allocator_a_static")


def timings_of(
    rows: Sequence[KnowledgeRow],
    family: str,
    *,
    device_id: str | None = None,
    backend: str | None = None,
    threads: int | None = None,
    clock_hz: float | None = None,
    users: int | None = None,
) -> list[SizeTiming]:
    """The trusted measured rows of a family as computing times, at the clock that was observed or measured with them.

    ``clock_hz`` stands in where a row knows none. Rows at clock caps count, each at its own clock; other chosen operating points do not.
    Raises BadRecord: no such row, several devices, backends, thread counts or numbers of users and none named, or a clock that nobody
    knows.
    """
    if family not in EXPERTS:
        raise UnknownName("dynamic network", family, EXPERTS)
    named = {"device": device_id, "backend": backend, "threads": threads, "users": users}
    members = [r for r in rows if r.artifact_id.startswith(f"{family}-") and r.label in DECIDING and _only_clock(r)]
    for what, of in _APART.items():
        members = [r for r in members if named[what] in (None, of(r))]
        if len(kinds := sorted({str(of(r)) for r in members})) > 1:
            raise BadRecord(
                f"These times of {family} come from several ({', '.join(kinds)}): say which with --{what} (in --delay: {what}=...)."
            )
    out = []
    for row in members:
        hz = row.clock_hz or clock_hz
        if hz is None:
            raise BadRecord(
                f"Nobody knows the clock that {row.artifact_id} was measured at: give it with --clock-ghz (in --delay: clock-ghz=...)."
            )
        size = size_of(_subnetwork(row))
        macs = float(size) * MACS_PER_EXPERT if _counts_experts(family) else row.macs
        out.append(SizeTiming(size=size, clock_hz=hz, median_s=row.median_s, macs=macs, record_id=row.record_id))
    if not out:
        raise BadRecord(f"The knowledge base has no trusted measured row of {family}: profile its sub-networks first.")
    return out


def _subnetwork(row: KnowledgeRow) -> SubNetwork:
    return SubNetwork.parse(row.artifact_id.partition("@")[0])  # an older file of it has its hash in its id


_APART: dict[str, Callable[[KnowledgeRow], str | int]] = {
    "device": lambda r: r.device_id,
    "backend": lambda r: r.backend,
    "threads": lambda r: r.threads,
    "users": lambda r: _subnetwork(r).resolution_px,
}


def _only_clock(row: KnowledgeRow) -> bool:
    """Whether nothing but the clock was chosen: one call after the other, one task at a time, on an idle machine."""
    point = row.point
    return point is None or (not point.gap_s and not point.load and point.affinity is None and row.batch == 1)


def dynamic_table(
    timings: Sequence[SizeTiming],
    quality: AllocationQuality,
    task_bits: Sequence[float],
    clocks_hz: Sequence[float],
    *,
    factors: Sequence[float] = FACTORS,
) -> DynamicTable:
    """The best size of each cell by the measured times, and by each analytic factor (cycles per MAC) with what its choice would cost.

    Sizes without a timing or without a quality are left out; the record names them. Raises BadRecord where fewer than two are left,
    UsageError for a task size or clock that is no positive number.
    """
    for values, what in ((task_bits, "task size"), (clocks_hz, "clock")):
        if not values or not all(0 < v < float("inf") for v in values):
            raise UsageError(
                f"A {what} must be a number above zero: {', '.join(f'{v:g}' for v in values) or 'none given'}."
            )
    by_size: dict[str, list[SizeTiming]] = {}
    for timing in timings:
        by_size.setdefault(timing.size, []).append(timing)
    sizes = sorted(by_size.keys() & quality.delay_s.keys(), key=_numbers)
    if len(sizes) < 2:
        raise BadRecord(
            f"Two sizes at least need both a measured time and a quality; measured: {_listed(by_size)}; "
            f"with a quality: {_listed(quality.delay_s)}."
        )
    macs = {size: by_size[size][0].macs for size in sizes}
    spent = {size: measured_s(by_size[size], clocks_hz) for size in sizes}
    at = [(f, {size: float(spent[size][i]) for size in sizes}) for i, f in enumerate(clocks_hz)]
    cells = [_cell(s, f, sizes, times, macs, quality, factors) for s in task_bits for f, times in at]
    return DynamicTable(
        quality=quality,
        timings=tuple(t for size in sizes for t in by_size[size]),
        left_out=tuple(sorted(by_size.keys() ^ quality.delay_s.keys(), key=_numbers)),
        factors=tuple(factors) if None not in macs.values() else (),
        cells=tuple(cells),
    )


def _numbers(size: str) -> tuple[int, ...]:
    return tuple(map(int, size.split(",")))


def _listed(sizes: Mapping[str, object]) -> str:
    return " ".join(sorted(sizes, key=_numbers)) or "none"


def _cell(
    task_bit: float,
    clock_hz: float,
    sizes: Sequence[str],
    computing_s: Mapping[str, float],
    macs: Mapping[str, float | None],
    quality: AllocationQuality,
    factors: Sequence[float],
) -> SizeChoice:
    allocation = {size: quality.delay_s[size] * task_bit / quality.task_bit for size in sizes}
    measured = {s: allocation[s] + quality.weight * computing_s[s] for s in sizes}
    best = min(sizes, key=lambda s: measured[s])
    analytic: dict[str, str] = {}
    for factor in factors if None not in macs.values() else ():
        delays = {s: allocation[s] + quality.weight * factor * (macs[s] or 0.0) / clock_hz for s in sizes}
        analytic[f"{factor:g}"] = min(sizes, key=lambda s: delays[s])
    return SizeChoice(
        task_bit=task_bit,
        clock_hz=clock_hz,
        measured=best,
        measured_delay_s=measured[best],
        analytic=analytic,
        excess={factor: measured[size] / measured[best] - 1 for factor, size in analytic.items()},
    )


def measured_s(timings: Sequence[SizeTiming], clock_hz: ArrayLike) -> NDArray[np.float64]:
    """The computing time of one size in seconds, in the shape of ``clock_hz``: the cycles of the nearest measured clock are kept.

    ``timings`` are of that size alone. Clocks are nearest by their ratio.
    """
    clock = np.asarray(clock_hz, np.float64)
    clocks = np.array([t.clock_hz for t in timings])
    cycles = clocks * [t.median_s for t in timings]
    nearest = np.abs(np.log(clock[..., None] / clocks)).argmin(-1)
    spent: NDArray[np.float64] = cycles[nearest] / clock
    return spent
