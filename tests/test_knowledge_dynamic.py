"""The size tables of papers A and B, by hand and against what paper A prints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kit import knowledge, records
from kit.errors import BadRecord, UnknownName, UsageError
from kit.knowledge.dynamic import EXPERTS, MACS_PER_EXPERT, measured_s
from kit.records import AllocationQuality, KnowledgeRow, OperatingPoint, SizeTiming, SubNetwork

PAPER_HZ = 0.5e9  # table II of paper A
KS = (1, 2, 5, 10, 20, 30)
TABLE_II = {  # K -> total delay in ms for 2, 4, 6, 8, 10 kbit, as printed
    1: (0.392, 0.773, 1.159, 1.571, 1.971), 2: (0.389, 0.761, 1.14, 1.539, 1.928), 5: (0.393, 0.757, 1.128, 1.517, 1.889),
    10: (0.408, 0.769, 1.137, 1.524, 1.892), 20: (0.439, 0.798, 1.163, 1.549, 1.914), 30: (0.470, 0.829, 1.194, 1.574, 1.939),
}  # fmt: skip


def name_of(k: int, layers: int = 2, root: str = "allocator_a") -> str:
    return SubNetwork(
        family="allocator", root=root, depth=layers, width=k / EXPERTS[root], precision="fp32", resolution_px=30
    ).id


def row(k: int, median_s: float, **changes: Any) -> KnowledgeRow:
    fields: dict[str, Any] = {
        "artifact_id": name_of(k), "sha256": f"{k}", "device_id": "d", "backend": "b", "threads": 1, "precision": "fp32",
        "median_s": median_s, "p99_s": 2 * median_s, "label": "stable", "memory_bytes": 1, "size_bytes": 1,
        "macs": 7, "accuracy": None, "clock_hz": 1e9,
        "record_id": f"r{k}",
    }  # fmt: skip
    return KnowledgeRow(**{**fields, **changes})


def as_the_paper(factor: float = 2.0) -> list[SizeTiming]:
    """Times as the paper's formula gives them."""
    return [
        SizeTiming(size=str(k), clock_hz=PAPER_HZ, median_s=factor * k * MACS_PER_EXPERT / PAPER_HZ, macs=k * MACS_PER_EXPERT, record_id="")
        for k in KS
    ]  # fmt: skip


@pytest.mark.parametrize("k", range(1, 31))
def test_k_is_read_from_the_id(k: int) -> None:
    assert knowledge.size_of(SubNetwork.parse(name_of(k))) == str(k)


def test_k_and_l_are_read_from_the_id() -> None:
    assert knowledge.size_of(SubNetwork.parse(name_of(7, 3, "allocator_b"))) == "7,3"
    with pytest.raises(UnknownName, match="Unknown dynamic network 'resnet18'"):
        knowledge.size_of(SubNetwork.parse("resnet18-d8-w1.00-fp32-32"))


def test_with_the_papers_times_its_second_table_follows_from_its_first() -> None:
    for k in KS:
        rest = max(1, 30 // k)  # any other size: the table needs two
        quality = knowledge.TABLE_I.model_copy(
            update={"delay_s": {str(k): knowledge.TABLE_I.delay_s[str(k)], "99": 1.0}}
        )
        timings = [t for t in as_the_paper() if t.size == str(k)]
        other = SizeTiming(size="99", clock_hz=PAPER_HZ, median_s=1.0, record_id=str(rest))
        table = knowledge.dynamic_table([*timings, other], quality, [1e4], [PAPER_HZ])
        assert table.cells[0].measured_delay_s * 1e3 == pytest.approx(TABLE_II[k][-1], abs=1e-3)
    table = knowledge.dynamic_table(as_the_paper(), knowledge.TABLE_I, [4e3, 6e3, 8e3, 1e4], [PAPER_HZ])
    best = [min(KS, key=lambda k, i=i: TABLE_II[k][i]) for i in range(1, 5)]
    assert [int(c.measured) for c in table.cells] == best


def test_the_papers_times_make_the_papers_map() -> None:
    """Wider for larger tasks and faster processors; and at two cycles per MAC nothing differs, at one it does."""
    sizes, clocks = [1e3 * s for s in np.arange(0.25, 10.1, 0.25)], np.geomspace(1e7, 1e9, 12).tolist()
    table = knowledge.dynamic_table(as_the_paper(), knowledge.TABLE_I, sizes, clocks)
    best = np.array([int(c.measured) for c in table.cells]).reshape(len(sizes), len(clocks))
    assert (np.diff(best, axis=0) >= 0).all() and (np.diff(best, axis=1) >= 0).all()
    assert best[0, 0] == 1 and best[-1, -1] >= 10
    assert table.differing(2.0) == 0 and table.worst_excess(2.0) == 0
    assert 0 < table.differing(1.0) < 1 and 0 < table.worst_excess(1.0) < 0.1


def test_what_calls_cost_decides_against_the_formula() -> None:
    """A call overhead that no MAC explains hides the width: measured, the widest is best where the formula takes the narrowest."""
    timings = [
        SizeTiming(size=str(k), clock_hz=1e9, median_s=50e-6, macs=k * MACS_PER_EXPERT, record_id="") for k in KS
    ]
    table = knowledge.dynamic_table(timings, knowledge.TABLE_I, [250.0], [1e7])
    (cell,) = table.cells
    assert cell.measured == "30" and cell.analytic == {"1": "1", "2": "1"}
    own = {k: knowledge.TABLE_I.delay_s[str(k)] * 0.025 + 0.375 * 50e-6 * 100 for k in (1, 30)}
    assert cell.measured_delay_s == pytest.approx(own[30]) and cell.excess["2"] == pytest.approx(own[1] / own[30] - 1)


def test_the_nearest_measured_clock_is_scaled() -> None:
    timings = [
        SizeTiming(size=k, clock_hz=hz, median_s=t, record_id="")
        for k, hz, t in (("1", 1e9, 1e-3), ("1", 1e8, 5e-3), ("2", 1e9, 1.0))
    ]
    quality = knowledge.TABLE_I.model_copy(update={"delay_s": {"1": 1e-9, "2": 1e-9}, "weight": 1.0})
    table = knowledge.dynamic_table(timings, quality, [1e4], [2e9, 2e8, 1e8, 1e7])
    assert [c.measured_delay_s for c in table.cells] == pytest.approx([0.5e-3, 2.5e-3, 5e-3, 50e-3], rel=1e-4)
    assert table.factors == () and table.cells[0].analytic == {}  # nobody knows the MACs


def test_measured_times_in_the_shape_of_the_clocks() -> None:
    timings = [SizeTiming(size="1", clock_hz=hz, median_s=t, record_id="") for hz, t in ((1e9, 1e-3), (1e8, 5e-3))]
    clocks = np.array([[2e9, 2e8, 1e8], [1e7, 1e9, 1e9]])
    seconds = measured_s(timings, clocks)
    assert seconds.shape == clocks.shape
    assert seconds == pytest.approx(np.array([[0.5e-3, 2.5e-3, 5e-3], [50e-3, 1e-3, 1e-3]]))
    assert float(measured_s(timings, 2e8)) == seconds[0, 1]


def test_static_networks_have_one_size() -> None:
    a, b = (name_of(EXPERTS[root], n, root) for root, n in (("allocator_a_static", 2), ("allocator_b_static", 3)))
    rows = [row(30, 3e-6, artifact_id=a), row(1, 9e-6, artifact_id=b, macs=5)]
    (one,) = knowledge.timings_of(rows, "allocator_a_static")
    assert (one.size, one.macs) == ("30", 30 * MACS_PER_EXPERT)
    (one,) = knowledge.timings_of(rows, "allocator_b_static")
    assert (one.size, one.macs) == ("1,3", 5)
    with pytest.raises(BadRecord, match="no trusted measured row of allocator_b:"):
        knowledge.timings_of(rows, "allocator_b")


def test_other_numbers_of_users_are_other_networks() -> None:
    many = name_of(5, 2, "allocator_b")
    rows = [row(5, 2e-5, artifact_id=many), row(5, 1e-5, artifact_id=many.replace("-30", "-10"))]
    with pytest.raises(BadRecord, match="come from several .10, 30.: say which with --users"):
        knowledge.timings_of(rows, "allocator_b")
    assert [t.median_s for t in knowledge.timings_of(rows, "allocator_b", users=10)] == [1e-5]


def test_the_k_l_table_of_paper_b_by_the_same_code() -> None:
    rows = [
        row(k, 1e-6 * k * layers, artifact_id=name_of(k, layers, "allocator_b"), macs=8_000 * k * layers)
        for k in (1, 5, 10) for layers in (1, 2, 3)
    ]  # fmt: skip
    quality = AllocationQuality(
        family="allocator_b", source="made up for this test", task_bit=1000.0, weight=1.0,
        delay_s={f"{k},{n}": 1e-3 * (1 + 1 / (k * n)) for k in (1, 5, 10) for n in (1, 2, 3)},
    )  # fmt: skip
    table = knowledge.dynamic_table(knowledge.timings_of(rows, "allocator_b"), quality, [10.0, 1e5], [1e8, 1e9])
    assert [c.measured for c in table.cells] == ["1,1", "1,3", "10,3", "10,3"]
    assert table.left_out == () and records.load(records.DynamicTable, table.model_dump(mode="json"), "t") == table


def test_rows_become_timings_at_their_own_clocks() -> None:
    rows = [
        row(1, 1e-5), row(1, 4e-5, point=OperatingPoint(clock_cap_hz=2.5e8), clock_hz=2.5e8), row(1, 9.0, point=OperatingPoint(gap_s=0.01)),
        row(1, 9.0, point=OperatingPoint(load=1)), row(2, 9.0, label="inconclusive"), row(2, 2e-5, clock_hz=None),
        row(3, 1.0, artifact_id="resnet18-d8-w1.00-fp32-32"),
    ]  # fmt: skip
    timings = knowledge.timings_of(rows, "allocator_a", clock_hz=3e9)
    assert [(t.size, t.clock_hz, t.median_s) for t in timings] == [
        ("1", 1e9, 1e-5),
        ("1", 2.5e8, 4e-5),
        ("2", 3e9, 2e-5),
    ]
    assert timings[2].macs == 2 * MACS_PER_EXPERT
    with pytest.raises(BadRecord, match="give it with --clock-ghz"):
        knowledge.timings_of(rows, "allocator_a")


def test_bad_inputs_are_one_sentence() -> None:
    with pytest.raises(UnknownName, match="did you mean 'allocator_a'"):
        knowledge.timings_of([row(1, 1.0)], "alocator_a")
    with pytest.raises(BadRecord, match="no trusted measured row of allocator_b"):
        knowledge.timings_of([row(1, 1.0)], "allocator_b")
    with pytest.raises(BadRecord, match="come from several .c, d.: say which with --device"):
        knowledge.timings_of([row(1, 1.0), row(2, 1.0, device_id="c")], "allocator_a")
    with pytest.raises(BadRecord, match="come from several .1, 2.: say which with --threads"):
        knowledge.timings_of([row(1, 1.0), row(2, 1.0, threads=2)], "allocator_a")
    timings = as_the_paper()
    with pytest.raises(BadRecord, match="measured: 1; with a quality: 1 2 5 10 20 30"):
        knowledge.dynamic_table(timings[:1], knowledge.TABLE_I, [1e4], [1e9])
    with pytest.raises(UsageError, match="A clock must be a number above zero: nan"):
        knowledge.dynamic_table(timings, knowledge.TABLE_I, [1e4], [float("nan")])
    with pytest.raises(UsageError, match="A task size must be a number above zero: none given"):
        knowledge.dynamic_table(timings, knowledge.TABLE_I, [], [1e9])
    with pytest.raises(BadRecord, match="no size with a delay above zero"):
        records.load(AllocationQuality, knowledge.TABLE_I.model_dump(mode="json") | {"delay_s": {"one": 1.0}}, "q.json")
