"""The decision table gives the answers of ``ask``: one by one, a million at once, and after a journey through a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import synthetic
from decisions import choice, limits_of, plainly, random_queries, random_rows, row
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import knowledge
from kit.errors import BadRecord, UsageError
from kit.knowledge import DecisionTable
from kit.records import Need


@pytest.mark.parametrize(
    ("count", "need"), [(1, Need()), (60, Need(have=("net3", "net7"))), (250, Need(unknown_accuracy=True))]
)
def test_a_random_million_is_answered_as_by_comparing_every_row(count: int, need: Need) -> None:
    rows = random_rows(count, seed=count)
    rows[0] = rows[0].model_copy(update={"label": "stable", "origin": "measured"})
    table = knowledge.compile(rows, need)
    queries = random_queries(rows, 1_000_000 if count == 60 else 100_000)
    chosen = table.choose_many(**queries)
    want = plainly(rows, queries, need)
    names = np.array([*(v.artifact_id for v in table.variants), "none"])
    expected_ids = np.array([*(r.artifact_id for r in rows), "none"])
    assert np.array_equal(names[chosen], expected_ids[want])
    assert count == 1 or len(set(chosen.tolist())) > 10


@pytest.mark.parametrize("seed", range(3))
def test_ask_one_and_many_agree(seed: int) -> None:
    rows = random_rows(80, seed=seed)
    table = knowledge.compile(rows)
    queries = random_queries(rows, 600, seed)
    many = table.choose_many(**queries)
    for i in range(600):
        limits = limits_of(queries, i)
        one = table.choose(**limits)
        assert one == many[i], limits
        assert (table.variants[one].artifact_id if one >= 0 else None) == choice(rows, Need(**limits)), limits


@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.integers(0, 5), st.integers(0, 5), st.integers(1, 4), st.sampled_from([None, 0.0, 0.5, 0.6])),
        min_size=1, max_size=8,
    ),
    st.tuples(*(st.none() | st.integers(1, 8) for _ in range(5))),
    st.none() | st.sampled_from([0.0, 0.5, 0.55]),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_ties_and_values_on_the_limit(
    drawn: list[tuple[int, int, int, int, float | None]], limits: tuple[int | None, ...], floor: float | None
) -> None:
    rows = [
        row(f"n{i}", median_s=t, p90_s=None, p95_s=None, p99_s=t, memory_bytes=m, size_bytes=s, energy_j=e, accuracy=a)
        for i, (t, m, s, e, a) in enumerate(drawn)
    ]
    deadline, memory, link, download, energy = limits
    need = Need(
        deadline_s=deadline,
        memory_bytes=memory,
        link_bps=link,
        download_s=download,
        energy_j=energy,
        min_accuracy=floor,
    )
    table = knowledge.compile(rows, percentiles=(99,))
    chosen = table.choose(deadline, memory, floor, link, download, energy)
    assert (table.variants[chosen].artifact_id if chosen >= 0 else None) == choice(rows, need)
    many = table.choose_many(deadline, memory, floor, link, download, energy)
    assert many.tolist() == [chosen]


def test_a_table_travels_as_a_file_without_pickle(tmp_path: Path) -> None:
    rows = random_rows(50)
    table = knowledge.compile(rows)
    table.save(tmp_path / "t.npz")
    with np.load(tmp_path / "t.npz", allow_pickle=False) as file:
        assert all(file[name].dtype.kind != "O" for name in file.files)
    again = DecisionTable.load(tmp_path / "t.npz")
    queries = random_queries(rows, 20_000)
    assert np.array_equal(again.choose_many(**queries), table.choose_many(**queries))
    assert again.variants == table.variants and again.variants[0].device_id == "d"


def test_what_is_no_table_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    np.savez(tmp_path / "newer.npz", schema=np.array(99))
    with pytest.raises(UsageError, match="does not exist"):
        DecisionTable.load(tmp_path / "none.npz")
    with pytest.raises(BadRecord, match="no decision table"):
        DecisionTable.load(tmp_path / "text.npz")
    for name in ("other.npz", "newer.npz"):
        with pytest.raises(BadRecord, match="another schema"):
            DecisionTable.load(tmp_path / name)


def test_bad_queries_are_one_sentence() -> None:
    table = knowledge.compile(random_rows(5, label="stable", origin="measured"), percentiles=(99,))
    for name in ("deadline_s", "memory_bytes", "link_bps", "download_s", "energy_j"):
        for bad in (float("nan"), 0.0, -1.0):
            with pytest.raises(UsageError, match="is no limit: give numbers above zero"):
                table.choose(**{name: bad})
            with pytest.raises(UsageError, match="is no limit"):
                table.choose_many(**{name: np.array([1.0, bad])})
    with pytest.raises(UsageError, match="nan is no limit"):
        table.choose(min_accuracy=float("nan"))
    with pytest.raises(UsageError, match="not compiled for percentile 95: ask for one of 99"):
        table.choose(percentile=95)
    with pytest.raises(UsageError, match="not compiled for percentile 50"):
        table.choose_many([1.0, 2.0], percentile=[50, 99])
    assert table.choose_many(np.array([])).shape == (0,)


def test_limits_belong_to_queries_not_to_compiling() -> None:
    with pytest.raises(UsageError, match="compiled without limits"):
        knowledge.compile(random_rows(3), Need(deadline_s=1))
    with pytest.raises(BadRecord, match="None of these rows may decide"):
        knowledge.compile([row("a", label="inconclusive")])
    two = [row("a"), row("b", device_id="e")]
    with pytest.raises(BadRecord, match="say which with --device"):
        knowledge.compile(two)
    assert [v.artifact_id for v in knowledge.compile(two, Need(device_id="e")).variants] == ["b"]


def test_a_predicted_variant_is_marked() -> None:
    rows = [row("a"), row("b", origin="predicted", label=None, low_s=0.009, high_s=0.011, accuracy=0.9)]
    table = knowledge.compile(rows)
    assert not table.variants[table.choose()].promised
    assert table.variants[table.choose(min_accuracy=0.0, deadline_s=0.1)].artifact_id == "b"


def test_the_first_bench_of_two_hundred_profiles() -> None:
    """As ``bench/test_decide.py`` asks it: deadlines alone choose the slowest that is fast enough."""
    base = knowledge.build([synthetic.profile(f"net{i}", 1e-4 * i, accuracy=0.5 + i / 500) for i in range(1, 21)])
    table = knowledge.compile(base.rows)
    deadlines = np.array([r.p99_s for r in base.rows]) * 1.0001
    assert [table.variants[i].artifact_id for i in table.choose_many(deadlines)] == [r.artifact_id for r in base.rows]
