"""THE stopwatch: warm up, calibrate, repeat, stop. It returns raw values and judges nothing; the clock is a parameter."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, repeat
from statistics import median
from time import perf_counter_ns
from typing import Any

Clock = Callable[[], int]

VALUES_MIN = 10  # a slow network still gives this many values per process, whatever the time
VALUES_MAX = 1000  # bounds the size of a record: six processes of a thousand values place a p99 well
RESOLUTION_FACTOR = 1000  # one value spans at least this many clock ticks
WARM_TOLERANCE = 0.03  # successive warm-up windows agree within this share
WARM_WINDOW_NS = 30_000_000
WARM_WINDOW_CALLS = 5


@dataclass(frozen=True)
class Timing:
    """Raw result of one stopwatch run. ``values_ns`` are nanoseconds per call, each the mean over ``loops`` calls."""

    values_ns: tuple[float, ...]
    loops: int
    first_ns: int
    warmup_calls: int
    warmup_ns: int
    warm: bool
    resolution_ns: float


def measure(
    call: Callable[[], Any],
    *,
    collect_s: float,
    warmup_max_s: float,
    clock: Clock = perf_counter_ns,
    values_max: int = VALUES_MAX,
) -> Timing:
    """Time ``call`` (no arguments, returns when its work is complete) for about ``collect_s`` seconds after warm-up.

    The garbage collector rests meanwhile. Exceptions of ``call`` pass through.
    """
    resolution_ns = timer_resolution_ns(clock)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        first_ns = _once(call, clock)
        calls, spent_ns, warm, call_ns = _warm_up(call, clock, int(warmup_max_s * 1e9))
        loops = max(1, round(RESOLUTION_FACTOR * resolution_ns / max(call_ns, 1.0)))
        between = max(0, round(collect_s * 1e9 / (max(call_ns, 1.0) * loops * values_max)) - 1)
        values = _collect(call, clock, loops, between * loops, int(collect_s * 1e9), values_max)
    finally:
        if collecting:
            gc.enable()
    return Timing(tuple(values), loops, first_ns, calls, spent_ns, warm, resolution_ns)


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


def _collect(
    call: Callable[[], Any], clock: Clock, loops: int, between: int, collect_ns: int, values_max: int
) -> list[float]:
    """The timed loop: two clock readings around ``loops`` bare calls and nothing else between them.

    ``between`` calls run untimed after each value, so that the bounded number of values spreads over the whole time.
    """
    values: list[float] = []
    append = values.append
    until = clock() + collect_ns
    if loops == 1:
        while True:
            start = clock()
            call()
            end = clock()
            append(end - start)
            for _ in repeat(None, between):
                call()
            if (end >= until and len(values) >= VALUES_MIN) or len(values) >= values_max:
                return values
    while True:
        start = clock()
        for _ in repeat(None, loops):
            call()
        end = clock()
        append((end - start) / loops)
        for _ in repeat(None, between):
            call()
        if (end >= until and len(values) >= VALUES_MIN) or len(values) >= values_max:
            return values
