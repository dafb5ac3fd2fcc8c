"""Fixed work beside a network: what it is, where its arrays lie, and the scale that a device keeps."""

from __future__ import annotations

import ctypes

import made
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import clock, records, reference, store
from kit.records import Reference


def test_every_workload_does_its_work_and_tells_nanoseconds() -> None:
    found = reference.workloads()
    assert set(found) <= set(reference.WORKLOADS) and {"product"} <= set(found)
    assert ("clock" in found) == (clock.chain() is not None)
    for workload in found.values():
        taken = [workload() for _ in range(3)]
        assert all(isinstance(ns, int) and ns > 0 for ns in taken)


def test_every_weight_belongs_to_a_workload() -> None:
    """A machine that slows down evenly is slower by one factor, whatever the mixture."""
    for weights in reference.WEIGHTS.values():
        assert set(weights) <= set(reference.WORKLOADS) and all(weight > 0 for weight in weights.values())
    assert sum(reference.WEIGHTS["fp32"].values()) == pytest.approx(1.0)


def test_a_precision_has_exponents_of_its_own() -> None:
    scale = reference.first_of(
        "d", [made.visit([1.0] * 2, block=1, references={"product": [5, 5, 5], "weights": [9, 9, 9]})]
    )
    assert scale is not None
    assert reference.for_precision(scale, "int8").weights == {"product": 0.3, "weights": 1.0}  # no chain was run
    assert reference.for_precision(scale, "bf16") == scale and scale.weights == {"product": 0.4, "weights": 0.5}


@pytest.mark.parametrize("shape", [(49, 2304), (1,), (1 << 20,), (7, 3, 5)])
def test_arrays_start_on_a_huge_page_and_hold_ones(shape: tuple[int, ...]) -> None:
    array = reference.aligned(shape)
    assert array.ctypes.data % reference.HUGE_PAGE == 0 and array.shape == shape and array.dtype == np.float32
    assert (array == 1).all() and array.flags.writeable


def test_arrays_do_not_share_their_pages() -> None:
    one, two = reference.aligned((1000,)), reference.aligned((1000,))
    one[...] = 5
    assert (two == 1).all()
    address = one.ctypes.data
    del two
    assert ctypes.c_float.from_address(address).value == 5  # the mapping lives as long as its array


# ----------------------------------------------------------------------------------------------------------------- clock


def chain(passes: int, cycles_per_pass: int, overhead_ns: float) -> clock.Chain:
    links = clock.Links(lambda passes, seed: 0, passes, cycles_per_pass, overhead_ns)
    return clock.Chain("made up", links, links)


@given(st.floats(3e8, 6e9), st.floats(0, 2000))
def test_the_clock_is_cycles_over_time_without_the_call(hz: float, overhead_ns: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "chain", lambda: chain(100, 1920, overhead_ns))
        exact_ns = 192_000 / hz * 1e9 + overhead_ns
        assert reference.clock_of(np.full(9, round(exact_ns))) == pytest.approx(hz, rel=1e-4)


def test_interruptions_do_not_lower_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "chain", lambda: chain(100, 1920, 0.0))
    times = np.array([96_000] * 6 + [150_000, 5_000_000, 9_000_000])
    assert reference.clock_of(times) == pytest.approx(2e9)


def test_without_a_chain_nobody_knows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "chain", lambda: None)
    assert reference.clock_of(np.array([96_000])) is None and "clock" not in reference.workloads()
    monkeypatch.setattr(clock, "chain", lambda: chain(100, 1920, 0.0))
    assert reference.clock_of(np.array([], dtype=np.int64)) is None


# ----------------------------------------------------------------------------------------------------------------- scale


def test_the_scale_is_the_median_over_processes_of_each_median() -> None:
    times = {
        "product": ([100, 110, 120], [200, 210, 990], [130, 140, 150]),
        "clock": ([50, 50, 50], [60, 60, 60], [70, 1, 70]),
    }
    visits = [
        made.visit([1.0, 1.0], i, block=1, references={name: series[i] for name, series in times.items()})
        for i in range(3)
    ]
    found = reference.first_of("board", visits)
    assert found is not None and found.device_id == "board"
    assert found.nominal_ns == {"product": 140.0, "clock": 60.0}
    assert found.workloads == {name: reference.WORKLOADS[name] for name in times}
    assert found.weights == {name: w for name, w in reference.WEIGHTS["fp32"].items() if name in times}


def test_what_is_no_workload_of_today_gives_no_scale() -> None:
    old = made.visit([1.0], references={"product-192": [1, 1]})  # upgraded from version 1
    assert reference.first_of("board", [old, made.visit([1.0])]) is None
    assert reference.first_of("board", []) is None


def test_the_scale_is_read_back_as_it_was_written(tmp_path) -> None:  # type: ignore[no-untyped-def]
    found = reference.first_of("board", [made.visit([1.0], block=1, references={"product": [7, 9]})])
    assert found is not None
    store.write_record(tmp_path / "reference.json", found)
    assert store.read_record(tmp_path / "reference.json", Reference) == found
    assert records.load(Reference, found.model_dump(mode="json"), "here") == found
