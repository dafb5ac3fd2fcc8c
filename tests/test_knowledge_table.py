"""The decision table gives the answers of ``ask``: one by one, a million at once, and after a journey through a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import knowledge
from kit.errors import BadRecord, NoAnswer, UsageError
from kit.knowledge import DecisionTable
from kit.records import PERCENTILES_KEPT, KnowledgeRow, Need

LIMITS = ("deadline_s", "memory_bytes", "min_accuracy", "link_bps", "download_s", "energy_j")


def row(name: str, **changes: Any) -> KnowledgeRow:
    fields: dict[str, Any] = {
        "artifact_id": name, "sha256": name, "device_id": "d", "backend": "b", "threads": 1, "precision": "fp32", "median_s": 0.010,
        "p90_s": 0.011, "p95_s": 0.012, "p99_s": 0.013, "label": "stable", "memory_bytes": 1000, "size_bytes": 100, "macs": None,
        "accuracy": 0.5, "dataset": "x", "record_id": name,
    }  # fmt: skip
    return KnowledgeRow(**{**fields, **changes})


def random_rows(count: int, seed: int = 0, **fixed: Any) -> list[KnowledgeRow]:
    """Rows that are no front by themselves; a few doubtful, predicted, blind, without memory or energy, and with ties."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        median = float(np.exp(rng.normal(-5, 1)))
        doubtful, predicted = rng.random() < 0.05, rng.random() < 0.2
        known = rng.random(4) < 0.9
        fields = {
            "median_s": median, "p90_s": median * 1.1, "p95_s": median * 1.2 if known[0] else None, "p99_s": median * rng.uniform(1.2, 2),
            "label": None if predicted else "inconclusive" if doubtful else "stable", "origin": "predicted" if predicted else "measured",
            "low_s": median * 0.9, "high_s": median * 1.1, "memory_bytes": round(np.exp(rng.normal(18, 1))) if known[1] else None,
            "size_bytes": round(np.exp(rng.normal(15, 1.5))), "energy_j": float(np.exp(rng.normal(-3, 1))) if known[2] else None,
            "accuracy": round(0.6 + 0.05 * np.log(median / 1e-3) / 2 + rng.normal(0, 0.02), 2) if known[3] else None,
        }  # fmt: skip
        out.append(row(f"net{i}", **{**fields, **fixed}))
    return out


def random_queries(rows: list[KnowledgeRow], count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Each limit absent in a third of the queries; a tenth of the values lie exactly on a row's own."""
    rng = np.random.default_rng(seed)
    columns = {
        "deadline_s": [r.latency_s(p) for r in rows for p in PERCENTILES_KEPT],
        "memory_bytes": [float(r.memory_bytes) for r in rows if r.memory_bytes] or [1.0],
        "min_accuracy": [r.accuracy for r in rows if r.accuracy is not None] or [0.5],
        "link_bps": [8 * r.size_bytes / r.median_s for r in rows if r.size_bytes] or [1.0],
        "download_s": [r.median_s for r in rows],
        "energy_j": [r.energy_j for r in rows if r.energy_j is not None] or [1.0],
    }
    out = {}
    for name, values in columns.items():
        drawn = rng.choice(np.array(values, dtype=float), count)
        moved = drawn * np.exp(rng.normal(0, 1, count)) if name != "min_accuracy" else rng.uniform(0, 1, count)
        moved = np.maximum(np.rint(moved), 1) if name == "memory_bytes" else moved
        exact, absent = rng.random(count) < 0.1, rng.random(count) < (0.8 if name == "download_s" else 1 / 3)
        out[name] = np.where(absent, -np.inf if name == "min_accuracy" else np.inf, np.where(exact, drawn, moved))
    out["percentile"] = rng.choice(PERCENTILES_KEPT, count)
    return out


def asked(rows: list[KnowledgeRow], need: Need) -> str | None:
    try:
        chosen = knowledge.ask(rows, need).chosen
    except NoAnswer:
        return None
    return chosen.artifact_id if chosen else None


def limits_of(queries: dict[str, np.ndarray], i: int) -> dict[str, Any]:
    one = {name: queries[name][i].item() for name in LIMITS if np.isfinite(queries[name][i])}
    if "memory_bytes" in one:
        one["memory_bytes"] = int(one["memory_bytes"])
    return {**one, "percentile": int(queries["percentile"][i])}


def plainly(rows: list[KnowledgeRow], queries: dict[str, np.ndarray], need: Need | None = None) -> np.ndarray:
    """Every query against every row, by nothing but comparisons: indices into ``rows``, -1 for none."""
    need = need or Need()
    blind = any(r.accuracy is not None for r in rows) and not need.unknown_accuracy
    count = len(queries["deadline_s"])
    out = np.full(count, -1)
    inf = np.inf
    for percentile in PERCENTILES_KEPT:
        order = sorted(
            range(len(rows)),
            key=lambda i: (-(-1 if rows[i].accuracy is None else rows[i].accuracy), rows[i].latency_s(percentile)),  # type: ignore[operator]
        )
        at = np.flatnonzero(queries["percentile"] == percentile)
        q = {name: values[at] for name, values in queries.items()}
        found = np.full(len(at), -1)
        for i in order:
            r = rows[i]
            if r.label == "inconclusive" or (blind and r.accuracy is None):
                continue
            download = (0.0 if {r.sha256, r.artifact_id} & set(need.have) else 8.0 * r.size_bytes) / q["link_bps"]
            fits = r.latency_s(percentile) + np.where(np.isinf(q["download_s"]), download, 0) <= q["deadline_s"]
            fits &= download <= q["download_s"]
            fits &= (inf if r.memory_bytes is None else r.memory_bytes) <= q["memory_bytes"]
            fits &= (inf if r.energy_j is None else r.energy_j) <= q["energy_j"]
            fits &= (-inf if r.accuracy is None else r.accuracy) >= q["min_accuracy"]
            found[(found < 0) & fits] = i
        out[at] = found
    return out


@pytest.mark.parametrize(
    ("count", "need"), [(1, Need()), (60, Need(have=("net3", "net7"))), (250, Need(unknown_accuracy=True))]
)
def test_a_random_million_is_answered_as_by_comparing_every_row(count: int, need: Need) -> None:
    rows = random_rows(count, seed=count)
    rows[0] = rows[0].model_copy(update={"label": "stable", "origin": "measured"})
    table = knowledge.compile(rows, need)
    queries = random_queries(rows, 1_000_000 if count == 60 else 100_000)
    found = table.choose_many(**queries)
    want = plainly(rows, queries, need)
    names = np.array([*(v.artifact_id for v in table.variants), "none"])
    wanted = np.array([*(r.artifact_id for r in rows), "none"])
    assert np.array_equal(names[found], wanted[want])
    assert count == 1 or len(set(found.tolist())) > 10


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
        assert (table.variants[one].artifact_id if one >= 0 else None) == asked(rows, Need(**limits)), limits


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
    found = table.choose(deadline, memory, floor, link, download, energy)
    assert (table.variants[found].artifact_id if found >= 0 else None) == asked(rows, need)
    many = table.choose_many(deadline, memory, floor, link, download, energy)
    assert many.tolist() == [found]


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


def test_limits_are_asked_of_the_table_not_compiled() -> None:
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
    base = knowledge.build([made.profile(f"net{i}", 1e-4 * i, accuracy=0.5 + i / 500) for i in range(1, 21)])
    table = knowledge.compile(base.rows)
    deadlines = np.array([r.p99_s for r in base.rows]) * 1.0001
    assert [table.variants[i].artifact_id for i in table.choose_many(deadlines)] == [r.artifact_id for r in base.rows]
