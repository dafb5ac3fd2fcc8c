"""Decisions beside their lower bounds: ``pytest bench/test_decide.py -s``.

One query against finding its limits in four sorted lists (`bisect`), and a million at once against finding one limit of each in a sorted
array (`numpy.searchsorted`): interleaved in one run, so that drift hits both alike. Only ratios are asserted.
"""

from __future__ import annotations

from bisect import bisect_right
from statistics import median
from time import perf_counter_ns
from typing import Any

import decisions
import numpy as np
import pytest

from kit import knowledge
from kit.knowledge import DecisionTable
from kit.records import Need

ROWS, MILLION, ROUNDS = 200, 1_000_000, 7
ONE_RATIO, MANY_RATIO = 6.0, 8.0  # allowed: times the baseline


@pytest.fixture(scope="module")
def rows() -> list[Any]:
    return decisions.random_rows(ROWS, seed=1)


@pytest.fixture(scope="module")
def table(rows: list[Any]) -> DecisionTable:
    compiled = knowledge.compile(rows)
    compiled.choose()  # the sets are made at the first question
    return compiled


@pytest.fixture(scope="module")
def queries(rows: list[Any]) -> dict[str, np.ndarray]:
    return decisions.random_queries(rows, MILLION, seed=2)


def timed_ns(call: Any, count: int) -> float:
    start = perf_counter_ns()
    call()
    return (perf_counter_ns() - start) / count


def test_one_query(table: DecisionTable, queries: dict[str, np.ndarray]) -> None:
    asked = [decisions.limits_of(queries, i) for i in range(5000)]
    lists = [np.sort(queries[name][:ROWS]).tolist() for name in decisions.LIMITS[:4]]

    def choose() -> None:
        for limits in asked:
            table.choose(**limits)

    def baseline() -> None:
        one, two, three, four = lists
        for number in range(5000):
            bisect_right(one, number)
            bisect_right(two, number)
            bisect_right(three, number)
            bisect_right(four, number)

    pairs = [(timed_ns(choose, 5000), timed_ns(baseline, 5000)) for _ in range(ROUNDS)]
    one, least, ratio = (median(p[0] for p in pairs), median(p[1] for p in pairs), median(a / b for a, b in pairs))
    print(f"\none query: {one:.0f} ns; four look-ups: {least:.0f} ns; {ratio:.1f} times")
    assert ratio < ONE_RATIO


@pytest.mark.parametrize("limits", ["all", "usual"])
def test_a_million_at_once(table: DecisionTable, queries: dict[str, np.ndarray], limits: str) -> None:
    """``usual``: deadline, memory, minimum accuracy and link at the 99th percentile. ``all``: six limits, four percentiles mixed."""
    usual = ("deadline_s", "memory_bytes", "min_accuracy", "link_bps")
    asked = queries if limits == "all" else {name: queries[name] for name in usual}
    latencies = np.sort(table.arrays["p99_latency_s"])

    def baseline() -> None:
        np.searchsorted(latencies, queries["deadline_s"])

    pairs = [(timed_ns(lambda: table.choose_many(**asked), 1), timed_ns(baseline, 1)) for _ in range(ROUNDS)]
    many, least, ratio = (median(p[0] for p in pairs), median(p[1] for p in pairs), median(a / b for a, b in pairs))
    print(
        f"\na million, {limits}: {many / 1e6:.1f} ms; searchsorted of one limit: {least / 1e6:.1f} ms; {ratio:.2f} times"
    )
    assert ratio < MANY_RATIO


def test_the_same_answers_as_ask(rows: list[Any], table: DecisionTable, queries: dict[str, np.ndarray]) -> None:
    """A million by comparing every row, two thousand by ``ask`` itself."""
    chosen = table.choose_many(**queries)
    names = np.array([*(v.artifact_id for v in table.variants), "none"])
    wanted = np.array([*(r.artifact_id for r in rows), "none"])
    assert np.array_equal(names[chosen], wanted[decisions.plainly(rows, queries)])
    for i in range(2000):
        assert (decisions.choice(rows, Need(**decisions.limits_of(queries, i))) or "none") == names[chosen[i]]


@pytest.mark.benchmark(group="decide")
def test_ask(benchmark: Any, rows: list[Any]) -> None:
    """The whole answer, with margins, rejections and what to measure next, to 200 rows."""
    assert benchmark(knowledge.ask, rows, Need(deadline_s=0.01)).chosen is not None


@pytest.mark.benchmark(group="decide")
def test_compile(benchmark: Any, rows: list[Any]) -> None:
    assert benchmark(knowledge.compile, rows).variants
