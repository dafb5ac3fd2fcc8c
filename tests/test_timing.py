"""The stopwatch on a clock of the test's own: no wall-clock time is asserted."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.measure import stopwatch


class Bench:
    """A clock that moves only when the workload runs: ``tick_ns`` per reading, ``costs`` per call (the last one for ever).

    ``log`` spells what happened, in order: c a call, r a reference workload, s a sleep, k a reading of the counter.
    """

    def __init__(self, costs: list[int], tick_ns: int = 1, reference_ns: int = 400_000) -> None:
        self.now, self.tick_ns, self.costs, self.calls = 0, tick_ns, costs, 0
        self.reference_ns, self.references = reference_ns, 0
        self.slept_s: list[float] = []
        self._seen: list[str] = []

    @property
    def log(self) -> str:
        return "".join(self._seen)

    def clock(self) -> int:
        self.now += self.tick_ns
        return self.now

    def call(self) -> None:
        assert not gc.isenabled(), "the garbage collector must rest while the stopwatch runs"
        self.now += self.costs[min(self.calls, len(self.costs) - 1)]
        self.calls += 1
        self._seen.append("c")

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)
        self.slept_s.append(seconds)
        self._seen.append("s")

    def reference(self) -> int:
        self.now += self.reference_ns
        self.references += 1
        self._seen.append("r")
        return self.reference_ns + self.references

    def counter(self) -> int:
        """One more switch with every 10 ms."""
        self._seen.append("k")
        return self.now // 10_000_000


def measure(bench: Bench, collect_s: float = 0.1, warmup_max_s: float = 1.0, **more: Any) -> stopwatch.Timing:
    return stopwatch.measure(
        bench.call, collect_s=collect_s, warmup_max_s=warmup_max_s, clock=bench.clock, sleep=bench.sleep, **more
    )


def test_values_are_the_cost_of_a_call_and_the_first_call_stands_apart() -> None:
    watch = measure(Bench([9_000_000, 1_000_000]))
    assert watch.first_ns == 9_000_001
    assert watch.loops == 1 and watch.warm
    assert set(watch.values_ns) == {1_000_001.0}
    assert len(watch.values_ns) == pytest.approx(100, abs=watch.block)  # whole blocks


def test_short_calls_are_looped_until_a_value_is_far_above_the_resolution() -> None:
    watch = measure(Bench([50], tick_ns=20))
    assert watch.resolution_ns == 20
    assert watch.loops * 50 >= 1000 * 20 * 0.6
    assert watch.values_ns[0] == pytest.approx(50, rel=0.01)
    assert watch.elapsed_ns[0] == watch.loops * 50 + 20  # raw: the nanoseconds of the whole loop and one clock reading


def test_warm_up_goes_on_while_calls_still_get_faster() -> None:
    falling = [round(2_000_000 * 0.99**i) + 500_000 for i in range(400)]
    bench = Bench(falling)
    watch = measure(bench, warmup_max_s=10.0)
    assert watch.warm and watch.warmup_calls > 60
    assert max(watch.values_ns) < 1.5 * min(watch.values_ns)


def test_a_workload_that_never_settles_is_reported_as_cold() -> None:
    watch = measure(Bench([round(1_000_000 * 1.05**i) for i in range(120)]), warmup_max_s=0.3)
    assert not watch.warm


def test_slow_calls_still_give_enough_values_and_fast_ones_not_too_many() -> None:
    assert len(measure(Bench([400_000_000])).values_ns) == stopwatch.VALUES_MIN
    assert len(measure(Bench([100_000]), collect_s=10.0, values_max=50).values_ns) == 50


def test_the_bounded_values_spread_over_the_whole_time() -> None:
    bench, bound = Bench([100_000]), 10**9 // stopwatch.BLOCK_NS
    watch = measure(bench, collect_s=1.0, values_max=bound)
    assert len(watch.values_ns) == bound and bench.now > 0.9e9
    assert set(watch.values_ns) == {100_001.0}


def test_the_collector_is_switched_on_again_after_a_failure() -> None:
    def broken() -> None:
        raise RuntimeError("model")

    with pytest.raises(RuntimeError, match="model"):
        stopwatch.measure(broken, collect_s=0.1, warmup_max_s=0.1)
    assert gc.isenabled()


# ---------------------------------------------------------------------------------------------------------------- blocks


def rewarm(call_ns: int, gap_s: float = 0.0) -> int:
    """How many untimed calls come after a look at the machine."""
    return stopwatch._plan(call_ns, 1.0, 0.5, gap_s, stopwatch.VALUES_MAX).rewarm


def blocks(watch: stopwatch.Timing) -> int:
    """How many whole blocks the values make."""
    assert len(watch.elapsed_ns) % watch.block == 0
    return len(watch.elapsed_ns) // watch.block


def test_reference_workloads_are_timed_before_the_first_block_and_after_each() -> None:
    bench = Bench([1_000_000])
    warmed: list[int] = []

    def calibration() -> dict[str, Callable[[], int]]:
        warmed.append(bench.calls)
        assert "r" not in bench.log
        return {"product": bench.reference, "memory": bench.reference}

    watch = measure(bench, collect_s=0.2, calibration=calibration)
    assert warmed == [1 + watch.warmup_calls]  # called once, when warm-up was over
    count = blocks(watch)
    assert count > 3 and {len(times) for times in watch.calibration.values()} == {count + 1}
    block = "c" * (rewarm(1_000_000) + watch.block) + "rr"
    assert bench.log == "c" * (warmed[0] + 1) + "rr" + block * count  # the first look, too, comes after a call
    assert set(watch.values_ns) == {1_000_001.0} and watch.block * 1_000_000 == pytest.approx(
        stopwatch.BLOCK_NS, rel=0.05
    )
    odd, even = watch.calibration["product"], watch.calibration["memory"]
    assert [t - bench.reference_ns for pair in zip(odd, even, strict=True) for t in pair] == list(
        range(1, 2 * count + 3)
    )


def test_a_network_to_which_cold_caches_are_nothing_is_not_warmed_again() -> None:
    assert (
        rewarm(stopwatch.LONG_NS) == 0
        and 1 <= rewarm(stopwatch.LONG_NS // 2) <= rewarm(100_000) == stopwatch.REWARM_CALLS
    )
    bench = Bench([stopwatch.LONG_NS])
    watch = measure(bench, collect_s=0.5, calibration=lambda: {"product": bench.reference})
    assert watch.block == 1 and bench.log.endswith("rcrcrcr")


def test_untimed_calls_after_a_look_find_the_caches_again() -> None:
    """The first call after a look is slow; no value shows it."""
    bench = Bench([100_000])

    def call() -> None:
        bench.now += 900_000 * (bench._seen[-1:] == ["r"])
        bench.call()

    watch = stopwatch.measure(
        call, collect_s=0.1, warmup_max_s=1.0, clock=bench.clock, calibration=lambda: {"product": bench.reference}
    )
    assert set(watch.values_ns) == {100_001.0}


def test_the_counter_is_read_around_each_block_and_not_around_the_references() -> None:
    bench = Bench([2_000_000], reference_ns=500_000_000)
    watch = measure(bench, collect_s=3.0, counter=bench.counter, calibration=lambda: {"product": bench.reference})
    assert watch.counts is not None and len(watch.counts) == blocks(watch)
    assert max(watch.counts) <= 1 + stopwatch.BLOCK_NS // 10_000_000  # half a second of reference work would show as 50
    assert measure(Bench([2_000_000])).counts is None


def test_a_gap_idles_before_each_value_and_is_not_in_it() -> None:
    bench = Bench([300_000])
    watch = measure(bench, collect_s=0.3, gap_s=0.01, calibration=lambda: {"product": bench.reference})
    assert set(bench.slept_s) == {0.01} and len(bench.slept_s) == len(watch.elapsed_ns) and watch.loops == 1
    assert set(watch.values_ns) == {300_001.0}
    collected = bench.log[1 + watch.warmup_calls :]
    block = "c" * rewarm(300_000, 0.01) + "sc" * watch.block + "r"
    assert collected == "cr" + block * blocks(watch)  # no timed call without its gap


def test_a_gap_takes_its_time_from_the_visit() -> None:
    bench = Bench([300_000])
    watch = measure(bench, collect_s=1.0, gap_s=0.05)
    assert len(watch.elapsed_ns) == pytest.approx(1.0 / 0.0503, abs=1)


def test_timed_calls_replace_the_clock() -> None:
    bench = Bench([500_000])
    calls: list[int] = []

    def timed_calls(loops: int) -> float:
        calls.append(loops)
        bench.now += 500_000 * loops
        return 40_000.25 * loops

    watch = measure(bench, timed_calls=timed_calls)
    assert watch.elapsed_ns == tuple(40_000.25 * watch.loops for _ in calls) and set(calls) == {watch.loops}
    assert set(watch.values_ns) == {40_000.25}
    assert bench.calls == 1 + watch.warmup_calls  # nothing but timed_calls makes the timed calls


def test_a_gap_comes_before_timed_calls_too() -> None:
    bench = Bench([50_000])
    watch = measure(bench, gap_s=0.005, timed_calls=lambda loops: float(bench.call() or 7))
    assert len(bench.slept_s) == len(watch.elapsed_ns) and set(watch.values_ns) == {7.0}
    assert bench.log.endswith("scscsc")


@settings(max_examples=25, deadline=None)
@given(
    call_ns=st.integers(20_000, 600_000_000),
    tick_ns=st.integers(1, 200),
    collect_s=st.floats(0.001, 0.6),
    gap_s=st.sampled_from([0.0, 0.0, 0.001, 0.1]),
    values_max=st.integers(1, 200),
)
def test_every_value_lies_in_a_whole_block_and_their_number_is_bounded(
    call_ns: int, tick_ns: int, collect_s: float, gap_s: float, values_max: int
) -> None:
    bench = Bench([call_ns], tick_ns)
    watch = measure(
        bench, collect_s, 0.1, gap_s=gap_s, values_max=values_max, counter=bench.counter,
        calibration=lambda: {"product": bench.reference},
    )  # fmt: skip
    assert watch.counts is not None
    assert blocks(watch) == len(watch.counts) == len(watch.calibration["product"]) - 1
    assert min(values_max // watch.block * watch.block, stopwatch.VALUES_MIN) <= len(watch.elapsed_ns) <= values_max
    assert set(watch.values_ns) == {(call_ns * watch.loops + tick_ns) / watch.loops}


@settings(max_examples=15, deadline=None)
@given(call_ns=st.integers(50_000, 30_000_000), collect_s=st.floats(0.2, 1.0), values_max=st.integers(200, 1000))
def test_collecting_takes_about_the_time_that_was_asked_for(call_ns: int, collect_s: float, values_max: int) -> None:
    bench = Bench([call_ns])
    began: list[int] = []

    def calibration() -> dict[str, Callable[[], int]]:
        began.append(bench.now)
        return {}

    watch = measure(bench, collect_s, 0.1, values_max=values_max, calibration=calibration)
    spent_ns, block_ns = bench.now - began[0], max(stopwatch.BLOCK_NS, call_ns)
    assert collect_s * 1e9 * 0.5 - 2 * block_ns <= spent_ns  # the number of untimed calls between two values is whole
    assert spent_ns <= max(collect_s * 1e9 + 2 * block_ns, stopwatch.VALUES_MIN * call_ns * 1.5), watch.block
