"""The stopwatch on a clock of the test's own: no wall-clock time is asserted."""

from __future__ import annotations

import gc

import pytest

from kit import timing


class Bench:
    """A clock that moves only when the workload runs: ``tick_ns`` per reading, ``costs`` per call (the last one for ever)."""

    def __init__(self, costs: list[int], tick_ns: int = 1) -> None:
        self.now, self.tick_ns, self.costs, self.calls = 0, tick_ns, costs, 0

    def clock(self) -> int:
        self.now += self.tick_ns
        return self.now

    def call(self) -> None:
        assert not gc.isenabled(), "the garbage collector must rest while the stopwatch runs"
        self.now += self.costs[min(self.calls, len(self.costs) - 1)]
        self.calls += 1


def measure(bench: Bench, collect_s: float = 0.1, warmup_max_s: float = 1.0, **more: int) -> timing.Timing:
    return timing.measure(bench.call, collect_s=collect_s, warmup_max_s=warmup_max_s, clock=bench.clock, **more)


def test_values_are_the_cost_of_a_call_and_the_first_call_stands_apart() -> None:
    watch = measure(Bench([9_000_000, 1_000_000]))
    assert watch.first_ns == 9_000_001
    assert watch.loops == 1 and watch.warm
    assert set(watch.values_ns) == {1_000_001.0}
    assert len(watch.values_ns) == pytest.approx(100, abs=1)


def test_short_calls_are_looped_until_a_value_is_far_above_the_resolution() -> None:
    watch = measure(Bench([50], tick_ns=20))
    assert watch.resolution_ns == 20
    assert watch.loops * 50 >= 1000 * 20 * 0.6
    assert watch.values_ns[0] == pytest.approx(50, rel=0.01)


def test_warm_up_goes_on_while_calls_still_get_faster() -> None:
    falling = [round(2_000_000 * 0.99**i) + 500_000 for i in range(400)]
    bench = Bench(falling)
    watch = measure(bench, warmup_max_s=10.0)
    assert watch.warm and watch.warmup_calls > 60
    assert max(watch.values_ns) < 1.5 * min(watch.values_ns)


def test_a_workload_that_never_settles_is_said_to_be_cold() -> None:
    watch = measure(Bench([round(1_000_000 * 1.05**i) for i in range(120)]), warmup_max_s=0.3)
    assert not watch.warm


def test_slow_calls_still_give_enough_values_and_fast_ones_not_too_many() -> None:
    assert len(measure(Bench([400_000_000])).values_ns) == timing.VALUES_MIN
    assert len(measure(Bench([100_000]), collect_s=10.0, values_max=50).values_ns) == 50


def test_the_bounded_values_spread_over_the_whole_time() -> None:
    bench = Bench([100_000])
    watch = measure(bench, collect_s=1.0, values_max=50)
    assert len(watch.values_ns) == 50 and bench.now > 0.9e9
    assert set(watch.values_ns) == {100_001.0}


def test_the_collector_is_switched_on_again_after_a_failure() -> None:
    def broken() -> None:
        raise RuntimeError("model")

    with pytest.raises(RuntimeError, match="model"):
        timing.measure(broken, collect_s=0.1, warmup_max_s=0.1)
    assert gc.isenabled()
