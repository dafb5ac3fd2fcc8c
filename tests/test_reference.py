"""Fixed work between a network's blocks: what it is, where its arrays lie, and the stored scale of a device."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st

from kit import records, spaces, store
from kit.devices import clock
from kit.measure import drift
from kit.records import Reference


def test_every_workload_does_its_work_and_tells_nanoseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "agrees", lambda links: True)  # whatever a busy machine makes of its two chains
    workloads = drift.workloads()
    assert set(workloads) <= set(drift.WORKLOADS) and {"product"} <= set(workloads)
    assert ("clock" in workloads) == (clock.chain() is not None)
    for workload in workloads.values():
        taken = [workload() for _ in range(3)]
        assert all(isinstance(ns, int) and ns > 0 for ns in taken)


def test_a_clock_whose_two_chains_disagree_is_no_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "agrees", lambda links: False)
    assert "clock" not in drift.workloads()


def test_every_weight_belongs_to_a_workload() -> None:
    """A machine that slows down evenly is slower by one factor, whatever the mixture."""
    for ways in drift.MIXTURES.values():
        for weights in ways:
            assert set(weights) <= set(drift.WORKLOADS | drift.NETWORKS)
            assert all(weight > 0 for weight in weights.values())
        assert not set(ways[-1]) & set(drift.NETWORKS)  # the last resort needs no runtime
    assert [sum(way.values()) for way in drift.MIXTURES["fp32"]] == pytest.approx([1.0, 1.0])


def test_reference_networks_are_sub_networks_and_stand_in_for_the_smaller_product() -> None:
    assert drift.networks("fp32") == drift.networks("bf16") == {"network": drift.NETWORKS["network"]}
    assert drift.networks("int8") == drift.NETWORKS
    for text in drift.NETWORKS.values():
        assert spaces.subnetwork(text).id == text
    calls: list[str] = []
    workloads = drift.workloads({"network": lambda: calls.append("network")})
    assert set(workloads) - {"clock"} == {"network", "weights"}
    warm = len(calls)
    assert workloads["network"]() >= 0 and len(calls) == warm + 3  # one to find its caches, two that are timed


# ----------------------------------------------------------------------------------------------------------------- clock


def chain(passes: int, cycles_per_pass: int, overhead_ns: float) -> clock.Chain:
    links = clock.Links(lambda passes, seed: 0, passes, cycles_per_pass, overhead_ns)
    return clock.Chain("made up", links, links)


@given(st.floats(3e8, 6e9), st.floats(0, 2000))
def test_the_clock_is_cycles_over_time_without_the_call(hz: float, overhead_ns: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "chain", lambda: chain(100, 1920, overhead_ns))
        exact_ns = 192_000 / hz * 1e9 + overhead_ns
        assert drift.clock_of(np.full(9, round(exact_ns))) == pytest.approx(hz, rel=1e-4)


def test_interruptions_do_not_lower_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "chain", lambda: chain(100, 1920, 0.0))
    times = np.array([96_000] * 6 + [150_000, 5_000_000, 9_000_000])
    assert drift.clock_of(times) == pytest.approx(2e9)


def test_without_a_chain_nobody_knows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "chain", lambda: None)
    assert drift.clock_of(np.array([96_000])) is None and "clock" not in drift.workloads()
    monkeypatch.setattr(clock, "chain", lambda: chain(100, 1920, 0.0))
    assert drift.clock_of(np.array([], dtype=np.int64)) is None


# ----------------------------------------------------------------------------------------------------------------- scale


def timed_run(references: dict[str, list[int]], backend: str = "onnxruntime") -> drift.TimedRun:
    return drift.TimedRun(synthetic.run([1.0] * 2, block=1, references=references), backend)


def test_the_scale_is_the_median_over_processes_of_each_median() -> None:
    times = {
        "product": ([100, 110, 120], [200, 210, 990], [130, 140, 150]),
        "clock": ([50, 50, 50], [60, 60, 60], [70, 1, 70]),
    }
    scale = drift.scale(None, "board", [timed_run({n: series[i] for n, series in times.items()}) for i in range(3)])
    assert scale is not None and scale.device_id == "board"
    assert scale.nominal_ns == {"product": 140.0, "clock": 60.0}
    assert scale.workloads == {name: drift.WORKLOADS[name] for name in times}
    assert drift.fits(scale, "board") and not drift.fits(scale, "other")


def test_a_reference_network_has_a_scale_in_each_runtime() -> None:
    first = drift.scale(None, "board", [timed_run({"network": [8, 8, 8], "weights": [4, 4, 4]})])
    assert first is not None
    assert first.nominal_ns == {"network onnxruntime": 8.0, "weights": 4.0}
    second = drift.scale(first, "board", [timed_run({"network": [30, 30, 30], "weights": [6, 6, 6]}, "openvino")])
    assert second is not None  # the machine was slower by half when openvino was new
    assert second.nominal_ns == {**first.nominal_ns, "network openvino": 20.0}
    assert second.created_utc == first.created_utc and drift.fits(second, "board")
    assert drift.scale(second, "board", [timed_run({"network": [99, 99, 99], "weights": [9, 9, 9]})]) is second
    changed = second.model_copy(update={"workloads": {**second.workloads, "network openvino": "another network"}})
    assert not drift.fits(changed, "board")


def test_the_best_mixture_that_every_process_timed_counts() -> None:
    both = [timed_run({"network": [8] * 3, "weights": [4] * 3, "product": [2] * 3, "clock": [1] * 3})]
    scale = drift.scale(None, "board", both)
    assert scale is not None
    runs = [both[0].run]
    best = drift.of_job(scale, "fp32", "onnxruntime", runs)
    assert best.weights == drift.MIXTURES["fp32"][0] and best.nominal_ns == {"weights": 4.0, "network": 8.0}
    assert drift.of_job(scale, "fp32", "openvino", runs).weights == drift.MIXTURES["fp32"][1]  # no scale there yet
    without = [*runs, timed_run({"weights": [4] * 3, "product": [2] * 3}).run]
    assert drift.of_job(scale, "fp32", "onnxruntime", without).weights == {"weights": 0.5, "product": 0.4}
    assert drift.of_job(scale, "int8", "onnxruntime", runs).weights == drift.MIXTURES["int8"][1]


def test_what_is_no_workload_of_today_gives_no_scale() -> None:
    old = drift.TimedRun(synthetic.run([1.0], references={"product-192": [1, 1]}), "fake")  # upgraded from version 1
    assert drift.scale(None, "board", [old]) is None and drift.scale(None, "board", []) is None


def test_the_scale_is_read_back_as_it_was_written(tmp_path) -> None:  # type: ignore[no-untyped-def]
    scale = drift.scale(None, "board", [timed_run({"product": [7, 8, 9]})])
    assert scale is not None
    store.write_record(tmp_path / "reference.json", scale)
    assert store.read_record(tmp_path / "reference.json", Reference) == scale
    assert records.load(Reference, scale.model_dump(mode="json"), "here") == scale
