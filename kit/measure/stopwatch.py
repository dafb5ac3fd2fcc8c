"""THE stopwatch: warm up, calibrate, repeat, stop. It returns raw values without any label; the clock is a parameter.

Values are collected in blocks. Before the first block and after each one the ``calibration`` workloads are timed, so that a machine
that changes is distinguished from a network that does; a network that is shorter than a block then runs a few times untimed to
find its caches again.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise, repeat
from math import ceil
from statistics import median
from time import perf_counter_ns
from typing import Any

Clock = Callable[[], int]
TimedCalls = Callable[[int], float]  # makes that many calls, returns the nanoseconds that they took

VALUES_MIN = 8  # a slow network still gives this many values per process, whatever the time
VALUES_MAX = 1000  # bounds the size of a record: six processes of a thousand values place a p99 well
RESOLUTION_FACTOR = 1000  # one value spans at least this many clock ticks
WARM_TOLERANCE = 0.03  # successive warm-up windows agree within this share
WARM_WINDOW_NS = 30_000_000
WARM_WINDOW_CALLS = 3
BLOCK_NS = 40_000_000  # calls between two looks at the machine
REWARM_NS = 1_000_000  # untimed calls after such a look: the network finds its caches again
REWARM_CALLS = 3  # at most; at least one, unless a call is so long that cold caches are nothing to it
LONG_NS = 60_000_000


@dataclass(frozen=True)
class Timing:
    """Raw result of one stopwatch run: ``elapsed_ns`` holds one number per value, the nanoseconds of ``loops`` calls.

    ``block`` values belong together; ``calibration`` holds each calibration workload's nanoseconds before the first block and after each,
    ``counts`` how far ``counter`` went during each block.
    """

    elapsed_ns: tuple[float, ...]
    loops: int
    block: int
    first_ns: float
    warmup_calls: int
    warmup_ns: int
    warm: bool
    resolution_ns: float
    collected_ns: int = 0  # from the first value to the end of the last, everything between them included
    calibration: dict[str, tuple[int, ...]] = field(default_factory=dict)
    counts: tuple[int, ...] | None = None

    @property
    def values_ns(self) -> tuple[float, ...]:
        """Nanoseconds per call."""
        return tuple(value / self.loops for value in self.elapsed_ns)


def measure(
    call: Callable[[], Any],
    *,
    collect_s: float,
    warmup_max_s: float,
    gap_s: float = 0.0,
    timed_calls: TimedCalls | None = None,
    calibration: Callable[[], Mapping[str, Callable[[], int]]] | None = None,
    counter: Callable[[], int] | None = None,
    clock: Clock = perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
    values_max: int = VALUES_MAX,
) -> Timing:
    """Time ``call`` (no arguments, returns when its work is complete) for about ``collect_s`` seconds after warm-up.

    ``gap_s`` idles before each call, by ``sleep``. ``timed_calls`` replaces the two clock readings around the calls (a GPU's events).
    ``calibration`` gives, when warm-up is over, the calibration workloads, each returning its own nanoseconds;
    ``counter`` is read around each block. The garbage collector rests meanwhile. Exceptions of ``call`` pass through.
    """
    resolution_ns = timer_resolution_ns(clock)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        first_ns = _once(call, clock)
        calls, spent_ns, warm, call_ns = _warm_up(call, clock, int(warmup_max_s * 1e9))
        plan = _plan(max(call_ns, 1.0), resolution_ns, collect_s, gap_s, values_max)
        timed = timed_calls or _timed(call, clock)
        if gap_s:
            timed = _after_idling(timed, gap_s, sleep)
        workloads = calibration() if calibration else {}
        start_ns = clock()
        elapsed, calibration_ns, counts = _collect(call, timed, plan, int(collect_s * 1e9), workloads, counter, clock)
        collected_ns = clock() - start_ns
    finally:
        if collecting:
            gc.enable()
    return Timing(
        elapsed_ns=tuple(elapsed),
        loops=plan.loops,
        block=plan.block,
        first_ns=first_ns,
        warmup_calls=calls,
        warmup_ns=spent_ns,
        warm=warm,
        resolution_ns=resolution_ns,
        collected_ns=collected_ns,
        calibration={name: tuple(times) for name, times in calibration_ns.items()},
        counts=tuple(counts) if counter else None,
    )


@dataclass(frozen=True)
class TimingPlan:
    """``blocks`` of ``block`` values of ``loops`` calls, with ``between`` untimed calls after each value and ``rewarm`` before a block."""

    loops: int
    block: int
    between: int
    rewarm: int
    values_max: int


def _plan(call_ns: float, resolution_ns: float, collect_s: float, gap_s: float, values_max: int) -> TimingPlan:
    loops = 1 if gap_s else max(1, round(RESOLUTION_FACTOR * resolution_ns / call_ns))
    value_ns = call_ns * loops + gap_s * 1e9
    collect_ns = collect_s * 1e9
    blocks = min(values_max, max(1, round(collect_ns / max(value_ns, BLOCK_NS))))
    block_values = max(1, round(max(BLOCK_NS, collect_ns / blocks) / value_ns))  # values that fill a block
    stride = ceil(block_values / max(1, values_max // blocks))  # one value in so many is timed
    block, between = block_values // stride, 0 if gap_s else (stride - 1) * loops
    rewarm = 0 if call_ns >= LONG_NS else max(1, min(REWARM_CALLS, round(REWARM_NS / call_ns)))
    return TimingPlan(loops, block, between, rewarm, max(block, values_max // block * block))


def warm_up(call: Callable[[], Any], limit_s: float, clock: Clock = perf_counter_ns) -> bool:
    """Make calls until two successive windows agree; False when ``limit_s`` seconds did not suffice."""
    return _warm_up(call, clock, int(limit_s * 1e9))[2]


def timer_resolution_ns(clock: Clock = perf_counter_ns, samples: int = 2000) -> float:
    """Smallest step that the clock shows between two successive readings, in nanoseconds."""
    readings = [clock() for _ in range(samples)]
    steps = [b - a for a, b in pairwise(readings) if b > a]
    return float(min(steps)) if steps else 1.0


def _once(call: Callable[[], Any], clock: Clock) -> int:
    start = clock()
    call()
    return clock() - start


def _warm_up(call: Callable[[], Any], clock: Clock, limit_ns: int) -> tuple[int, int, bool, float]:
    """(calls, nanoseconds, whether two successive windows agreed, nanoseconds per call in the last window)."""
    begin = clock()
    calls, last = 0, 0.0
    while True:
        window: list[int] = []
        start = clock()
        while len(window) < WARM_WINDOW_CALLS or clock() - start < WARM_WINDOW_NS:
            window.append(_once(call, clock))
        calls += len(window)
        now = float(median(window))
        spent = clock() - begin
        if last and abs(now - last) <= WARM_TOLERANCE * last:
            return calls, spent, True, now
        if spent >= limit_ns:
            return calls, spent, False, now
        last = now


def _timed(call: Callable[[], Any], clock: Clock) -> TimedCalls:
    """Two clock readings around bare calls and nothing else between them."""

    def timed(loops: int) -> float:
        if loops == 1:
            start = clock()
            call()
            return clock() - start
        start = clock()
        for _ in repeat(None, loops):
            call()
        return clock() - start

    return timed


def _after_idling(timed: TimedCalls, gap_s: float, sleep: Callable[[float], None]) -> TimedCalls:
    def timed_after(loops: int) -> float:
        sleep(gap_s)
        return timed(loops)

    return timed_after


def _collect(
    call: Callable[[], Any],
    timed: TimedCalls,
    plan: TimingPlan,
    collect_ns: int,
    workloads: Mapping[str, Callable[[], int]],
    counter: Callable[[], int] | None,
    clock: Clock,
) -> tuple[list[float], dict[str, list[int]], list[int]]:
    """Blocks of values until the time is spent; the untimed calls spread the bounded number of values over all of it."""
    values: list[float] = []
    if workloads:
        call()  # the workloads find the caches as they will after each block
    calibration_ns: dict[str, list[int]] = {name: [workload()] for name, workload in workloads.items()}
    counts: list[int] = []
    until = clock() + collect_ns
    while True:
        if workloads:
            for _ in repeat(None, plan.rewarm):
                call()
        before = counter() if counter else 0
        for _ in repeat(None, plan.block):
            values.append(timed(plan.loops))
            for _ in repeat(None, plan.between):
                call()
        if counter:
            counts.append(counter() - before)
        for name, workload in workloads.items():
            calibration_ns[name].append(workload())
        if (clock() >= until and len(values) >= VALUES_MIN) or len(values) >= plan.values_max:
            return values, calibration_ns, counts
