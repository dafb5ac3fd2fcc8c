"""The world of paper A: its equations by hand, its optimum against other solvers, and what follows from its printed tables."""

from __future__ import annotations

from math import log2
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kit.errors import BadRecord, UsageError
from kit.knowledge.dynamic import MACS_PER_EXPERT, dynamic_table
from kit.papers import bandwidth, channel
from kit.papers.bandwidth import BandwidthWorld, Tasks
from kit.papers.delays import Analytic, Measured, computing_s
from kit.records import KnowledgeRow, SizeTiming, SubNetwork

WORLD = BandwidthWorld()
SEEDS = st.integers(0, 2**32 - 1)


def frames(seed: int, samples: int = 3, **changes: Any) -> tuple[BandwidthWorld, Tasks]:
    present = changes.pop("present", None)
    world = BandwidthWorld(**changes)
    return world, bandwidth.sample(world, samples, np.random.default_rng(seed), present=present)


# ------------------------------------------------------------------------------------------------------------- equations


@given(SEEDS, st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_the_world_is_equation_1_written_out(seed: int, users: int) -> None:
    world, tasks = frames(seed, samples=2, users=users)
    band = np.random.default_rng(seed).uniform(1e3, 1e6, tasks.size_bit.shape)
    delay = bandwidth.weighted_delay_s(world, tasks, band)
    for t in range(2):
        total = 0.0
        for i in range(users):
            noise_w = 1e-17 * band[t, i]
            snr = 0.1 * (1.0 / tasks.distance_m[t, i]) ** 2 * 1e-4 / noise_w
            total += tasks.weight[t, i] * tasks.size_bit[t, i] / (band[t, i] * log2(1.0 + snr))
        assert delay[t] == pytest.approx(total / users, rel=1e-12)


def test_sampling_is_what_section_iv_says() -> None:
    _, tasks = frames(1, samples=4000)
    assert tasks.size_bit.mean() == pytest.approx(10_000, rel=0.01) and tasks.size_bit.max() <= 20_000
    assert tasks.distance_m.min() >= 1.0 and 499 < tasks.distance_m.max() <= 500.0
    levels, counts = np.unique(tasks.weight, return_counts=True)
    assert levels.tolist() == [0.1, 0.2, 0.4, 0.8] and counts == pytest.approx(30_000, rel=0.03)
    assert WORLD.weight_mean == pytest.approx(0.375)
    again = frames(1, samples=4000)[1]
    assert (again.size_bit == tasks.size_bit).all() and (again.weight == tasks.weight).all()


@given(SEEDS, st.floats(0.01, 100.0))
@settings(max_examples=25, deadline=None)
def test_delays_are_of_degree_one_in_the_sizes_and_the_best_split_of_degree_zero(seed: int, scale: float) -> None:
    world, tasks = frames(seed, users=6)
    scaled = Tasks(tasks.size_bit * scale, tasks.weight, tasks.distance_m)
    best = bandwidth.best_band(world, tasks)
    assert bandwidth.best_band(world, scaled) == pytest.approx(best, rel=1e-6)
    delays = bandwidth.weighted_delay_s(world, tasks, best)
    assert bandwidth.weighted_delay_s(world, scaled, best) == pytest.approx(scale * delays, rel=1e-12)


def test_features_do_not_know_the_scale() -> None:
    world, tasks = frames(0)
    small = world.model_copy(update={"size_mean_bit": 2000.0})
    scaled = Tasks(tasks.size_bit / 5, tasks.weight, tasks.distance_m)
    assert bandwidth.features(small, scaled) == pytest.approx(bandwidth.features(world, tasks))
    assert bandwidth.features(world, scaled, size_mean_bit=2000.0) == pytest.approx(bandwidth.features(world, tasks))
    assert bandwidth.features(world, tasks).shape == (3, 30, 3)


# --------------------------------------------------------------------------------------------------------------- optimum


def bisected(demand: np.ndarray, reach: np.ndarray, total: float) -> np.ndarray:
    """The same optimum the slow way: the multiplier by halving, each user's band by halving, of one sample."""

    def slope(b: np.ndarray) -> np.ndarray:  # -d/db of demand / rate
        x = reach / b
        rate = b * np.log2(1 + x)
        return demand * (np.log1p(x) - x / (1 + x)) / np.log(2.0) / rate**2

    def split_at(log_price: float) -> np.ndarray:
        low, high = np.full_like(reach, -30.0), np.full_like(reach, 40.0)
        for _ in range(100):
            middle = (low + high) / 2
            wants_more = slope(np.exp(middle)) > np.exp(log_price)
            low, high = np.where(wants_more, middle, low), np.where(wants_more, high, middle)
        return np.exp(low)

    cheap, dear = -200.0, 100.0
    for _ in range(100):
        price = (cheap + dear) / 2
        cheap, dear = (price, dear) if split_at(price).sum() > total else (cheap, price)
    return split_at(dear)


@given(SEEDS, st.integers(1, 10), st.floats(1e3, 1e9))
@settings(max_examples=15, deadline=None)
def test_the_best_split_is_the_one_that_halving_finds(seed: int, users: int, band_hz: float) -> None:
    world, tasks = frames(seed, samples=1, users=users, band_hz=band_hz)
    reach = 0.1 * 1e-4 / 1e-17 / tasks.distance_m[0] ** 2
    slow = bisected(tasks.weight[0] * tasks.size_bit[0], reach, band_hz)
    assert bandwidth.best_band(world, tasks)[0] == pytest.approx(slow, rel=1e-6)


def test_the_best_split_is_a_convex_solvers() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    world, tasks = frames(5, samples=4, users=6)
    ours = bandwidth.weighted_delay_s(world, tasks, bandwidth.best_band(world, tasks))
    for row in range(4):
        one = tasks.pick(slice(row, row + 1))

        def delay(shares: np.ndarray, one: Tasks = one) -> float:
            return 1e3 * float(bandwidth.weighted_delay_s(world, one, shares[None] * world.band_hz)[0])

        solution = optimize.minimize(
            delay,
            np.full(6, 1 / 6),
            method="SLSQP",
            bounds=[(1e-6, 1.0)] * 6,
            constraints={"type": "eq", "fun": lambda shares: shares.sum() - 1.0},
            options={"ftol": 1e-13, "maxiter": 500},
        )
        assert ours[row] * 1e3 == pytest.approx(solution.fun, rel=1e-6) and ours[row] * 1e3 <= solution.fun * (1 + 1e-9)


@given(SEEDS, st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_nothing_feasible_beats_the_optimum_and_no_budget_is_exceeded(seed: int, users: int, present: int) -> None:
    world, tasks = frames(seed, samples=4, users=max(users, present), present=present)
    rng = np.random.default_rng(seed + 1)
    best = bandwidth.best_band(world, tasks)
    limit = bandwidth.weighted_delay_s(world, tasks, best)
    near = best * np.exp(rng.normal(0.0, 0.01, best.shape))
    random = rng.dirichlet(np.ones(tasks.size_bit.shape[1]), 4) * tasks.present
    splits = [bandwidth.equal_band(world, tasks), bandwidth.root_band(world, tasks)]
    splits += [bandwidth.shared_band(world, s) for s in (random, near)]
    for split in [best, *splits]:
        assert (split >= 0).all() and split.sum(axis=1) == pytest.approx(world.band_hz, rel=1e-12)
        assert (split[~tasks.present] == 0).all()
    for split in splits:
        assert (bandwidth.weighted_delay_s(world, tasks, split) >= limit * (1 - 1e-12)).all()


@given(st.lists(st.floats(-40, 40), min_size=2, max_size=6), st.lists(st.floats(-30, 60), min_size=6, max_size=6))
@settings(max_examples=60, deadline=None)
def test_extreme_demands_and_channels_still_fill_the_band(demands: list[float], reaches: list[float]) -> None:
    demand, reach = np.exp([demands]), np.exp([reaches[: len(demands)]])
    split = channel.best_split(demand, reach, 1.0)
    assert np.isfinite(split).all() and (split >= 0).all() and split.sum() == pytest.approx(1.0, rel=1e-12)


def test_the_table_of_the_inverse() -> None:
    _, log_x, slopes = channel._table()
    assert (slopes > 0.4999).all() and (slopes < 0.61).all()
    heights = channel._log_h(np.exp(log_x[::1000]))
    inverse, _ = channel._log_inverse(heights)
    assert np.exp(inverse) == pytest.approx(np.exp(log_x[::1000]), rel=1e-9)
    between = np.random.default_rng(0).uniform(-10, 40, 1000)
    assert channel._log_inverse(channel._log_h(np.exp(between)))[0] == pytest.approx(between, abs=1e-6)


def test_a_price_bounds_every_split_from_below() -> None:
    world, tasks = frames(3, samples=1, users=8)
    demand, reach = tasks.weight * tasks.size_bit, 1e12 / tasks.distance_m**2
    best = channel.best_split(demand, reach, world.band_hz)
    least = channel.sending_s(demand, best, reach).sum()
    log_price = channel.log_price_of(demand, reach, best)
    for shift in (-2.0, -0.1, 0.0, 0.1, 2.0):
        _, paid = channel.priced_split(demand, reach, log_price + shift)
        bound = paid.sum() - float(np.exp(log_price + shift)[0, 0]) * world.band_hz
        assert bound <= least * (1 + 1e-9)
        assert shift or bound == pytest.approx(least, rel=1e-9)


def test_users_who_are_absent_change_nothing() -> None:
    world, tasks = frames(2, users=12, present=7)
    few = Tasks(*(a[:, :7] for a in (tasks.size_bit, tasks.weight, tasks.distance_m)))
    seven = world.model_copy(update={"users": 7})
    for split in (bandwidth.best_band, bandwidth.equal_band, bandwidth.root_band):
        many, alone = split(world, tasks), split(seven, few)
        assert many[:, :7] == pytest.approx(alone, rel=1e-9) and (many[:, 7:] == 0).all()
        delay = bandwidth.weighted_delay_s(seven, few, alone)
        assert bandwidth.weighted_delay_s(world, tasks, many) == pytest.approx(delay, rel=1e-9)


def test_a_frame_without_tasks_has_no_band_and_no_delay() -> None:
    world, tasks = frames(2)
    empty = Tasks(tasks.size_bit * 0, tasks.weight, tasks.distance_m)
    for split in (bandwidth.best_band, bandwidth.equal_band, bandwidth.root_band):
        band = split(world, empty)
        assert (band == 0).all() and (bandwidth.weighted_delay_s(world, empty, band) == 0).all()
    assert np.isinf(bandwidth.weighted_delay_s(world, tasks, np.zeros_like(tasks.size_bit))).all()


def test_the_papers_table_i_lies_where_a_reader_would_expect_it() -> None:
    """14 to 21 % above the optimum of the same world; an equal split is within the printed PERF of one expert."""
    world, tasks = frames(0, samples=20_000)
    best = bandwidth.weighted_delay_s(world, tasks, bandwidth.best_band(world, tasks)).mean()
    equal = bandwidth.weighted_delay_s(world, tasks, bandwidth.equal_band(world, tasks)).mean()
    root = bandwidth.weighted_delay_s(world, tasks, bandwidth.root_band(world, tasks)).mean()
    assert best < root < equal and root / best < 1.003
    assert 1.13 < 1.841e-3 / best < 1.15 and 1.20 < 1.967e-3 / best < 1.23 and 1.841e-3 / equal > 0.92


# ------------------------------------------------------------------------------------------------------ delays and tables


def measured(*rows: tuple[str, float, float]) -> Measured:
    return Measured(timings=tuple(SizeTiming(size=s, clock_hz=hz, median_s=t, record_id="") for s, hz, t in rows))


def test_the_delay_argument() -> None:
    clocks = np.array([1e8, 1e9])
    assert (computing_s(None, "3", clocks, macs=1e6) == 0).all()
    assert computing_s(Analytic(factor=0.5), "3", clocks, macs=1e6) == pytest.approx([5e-3, 5e-4])
    times = measured(("3", 1e9, 1e-3), ("3", 1e8, 5e-3))
    assert computing_s(times, "3", [2e9, 2e8, 1e7], macs=9.0) == pytest.approx([0.5e-3, 2.5e-3, 50e-3])
    assert float(computing_s(times, "3", 1e9, macs=9.0)) == pytest.approx(1e-3)
    with pytest.raises(BadRecord, match="Size 4 was not measured, only 3: profile it first"):
        computing_s(times, "4", 1e9, macs=0.0)
    with pytest.raises(UsageError, match="A clock must be a number above zero"):
        computing_s(None, "3", 0.0, macs=0.0)


@given(st.lists(st.tuples(st.floats(1e7, 1e10), st.floats(1e-6, 1.0)), min_size=1, max_size=4), st.floats(1e7, 1e10))
@settings(max_examples=30, deadline=None)
def test_measured_delays_are_the_knowledge_bases(times: list[tuple[float, float]], clock: float) -> None:
    rows = [SizeTiming(size=k, clock_hz=hz, median_s=t, record_id="") for hz, t in times for k in ("1", "2")]
    quality = bandwidth.printed.TABLE_I.model_copy(update={"delay_s": {"1": 1e-12, "2": 1.0}, "weight": 1.0})
    cell = dynamic_table(rows, quality, [1.0], [clock]).cells[0]
    delay_s = float(computing_s(Measured(timings=tuple(rows)), "1", clock, macs=0.0))
    assert cell.measured == "2" or cell.measured_delay_s == pytest.approx(delay_s, rel=1e-9)


def test_measured_delays_come_from_trusted_rows() -> None:
    rows = [
        KnowledgeRow(
            artifact_id=SubNetwork(family="allocator", root="allocator_a", depth=2, width=k / 30, precision="fp32", resolution_px=30).id,
            sha256="0", device_id="d", backend="b", threads=1, precision="fp32", median_s=k * 1e-6, p99_s=1.0, label=label,
            memory_bytes=1, size_bytes=1, macs=7, accuracy=None, clock_hz=1e9, record_id="r",
        )
        for k, label in ((1, "stable"), (30, "settled"), (2, "inconclusive"))
    ]  # fmt: skip
    delay = Measured.from_rows(rows, "allocator_a")
    assert delay.sizes == ("1", "30") and delay.timings[1].macs == 30 * MACS_PER_EXPERT
    world, tasks = frames(4)
    band = bandwidth.best_band(world, tasks)
    spent = bandwidth.total_s(world, tasks, band, delay, "30", 1e9) - bandwidth.weighted_delay_s(world, tasks, band)
    assert spent == pytest.approx(30e-6 * tasks.weight.mean(axis=1), rel=1e-9)


def test_table_ii_follows_from_table_i() -> None:
    """At 10 kbit to the last digit; at smaller sizes within 2.5 %, since the paper ran those again and they are not quite in proportion."""
    bits = np.array([2e3, 4e3, 6e3, 8e3, 1e4])
    for size, printed in bandwidth.TABLE_II.items():
        delays = bandwidth.total_delay_s(size, bits, np.full(5, 0.5e9)) * 1e3
        assert delays[-1] == pytest.approx(printed[-1], abs=1e-3) and delays == pytest.approx(printed, rel=0.025)
    with pytest.raises(UsageError, match="Nobody knows the delay of size 3"):
        bandwidth.total_delay_s("3", bits, bits)


def test_figure_3_wider_for_larger_tasks_and_faster_clocks() -> None:
    best = bandwidth.best_sizes(np.arange(250.0, 10_001, 250), np.geomspace(1e7, 1e9, 20))
    assert (np.diff(best, axis=0) >= 0).all() and (np.diff(best, axis=1) >= 0).all()
    assert best[0, 0] == 1 and best[-1, -1] >= 10
    assert (bandwidth.best_sizes([250.0, 1e4], [1e7, 1e9], delay=None) == 30).all()
    calls = measured(*((str(k), 1e9, 50e-6) for k in (1, 2, 5, 10, 20, 30)))  # a call overhead hides the width
    assert (bandwidth.best_sizes([250.0, 1e4], [1e7, 1e9], delay=calls) == 30).all()


def test_figure_4_follows_from_table_i_with_one_clock_per_user() -> None:
    gain = bandwidth.knowledge_gain(np.random.default_rng(0))
    for printed, mean, spread in zip(bandwidth.FIG4, gain.means, gain.spreads, strict=True):
        assert mean == pytest.approx(printed, abs=0.007) and abs(mean - printed) < spread < 0.02
    fewer = bandwidth.knowledge_gain(np.random.default_rng(0), clocks_a_size=1)
    assert fewer.means[0] < -0.55 and fewer.spreads[0] > 0.05  # the minimum is the pooling's, not the method's
    none = bandwidth.knowledge_gain(np.random.default_rng(0), 3, delay=None)
    assert none.means == pytest.approx([1.841 / 1.846 - 1] * 3)


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ValidationError):
        BandwidthWorld(band_hz=0.0)
    with pytest.raises(ValidationError):
        BandwidthWorld(weights=(0.5, 0.0))
    with pytest.raises(ValidationError, match="turn them round"):
        BandwidthWorld(distance_min_m=900.0)
    with pytest.raises(ValidationError):
        BandwidthWorld(bandwidth=1.0)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="30 users and cannot hold 31"):
        bandwidth.sample(WORLD, 1, np.random.default_rng(0), present=31)
    assert all(field.description for field in BandwidthWorld.model_fields.values())
