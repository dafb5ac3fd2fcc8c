from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kit import records, stats, store
from kit.errors import BadRecord, UnknownName, UsageError
from kit.packed import Series
from kit.records import (
    Artifact,
    Energy,
    FileRef,
    KnowledgeBase,
    Measurement,
    MeasureSettings,
    Memory,
    OperatingPoint,
    ProfileRecord,
    Reference,
    Run,
    SubNetwork,
    TensorSpec,
)

REFERENCE = Reference(
    device_id="synthetic-1c",
    created_utc=synthetic.NOW,
    workloads={"clock": "a chain", "product": "a product", "memory": "a sum"},
    nominal_ns={"clock": 50_000.0, "product": 900_000.0, "memory": 3_000_000.0},
    weights={"clock": 0.6, "product": 0.3},
)


@pytest.mark.parametrize("text", ["resnet18-d6-w0.50-int8-32", "vit_tiny-d12-w1.00-fp32-224", "vgg11-d8-w0.30-bf16-64"])
def test_sub_network_ids_read_back(text: str) -> None:
    assert SubNetwork.parse(text).id == text


@pytest.mark.parametrize(
    "text", ["resnet18", "resnet18-d6-w0.5-int8-32", "resnet18-d6-w0.50-int9-32", "../x-d1-w1.00-fp32-32"]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no sub-network id"):
        SubNetwork.parse(text)


def test_profile_survives_json_to_the_last_bit() -> None:
    profile = synthetic.profile(spread=0.1)
    again = records.load(ProfileRecord, json.loads(store.canonical_json(profile)), "here")
    assert again == profile
    assert again.measurement is not None and profile.measurement is not None
    assert again.measurement.interval_s == profile.measurement.interval_s


def test_statistics_are_derived_in_seconds() -> None:
    measurement = synthetic.profile(latency_s=0.01, spread=0.0).measurement
    assert measurement is not None
    assert measurement.median_s == pytest.approx(0.01)
    assert measurement.p99_s == pytest.approx(0.01)
    assert measurement.memory_bytes == 30_000_000
    assert measurement.calls == 300


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"kind": "profile"}, "kind 'profile'"),
        ({"surprise": 1}, "surprise"),
        ({"macs": "many"}, "macs"),
    ],
)
def test_a_wrong_record_is_one_sentence(change: dict[str, object], says: str) -> None:
    data = {**synthetic.artifact().model_dump(mode="json"), **change}
    with pytest.raises(BadRecord, match=says) as caught:
        records.load(Artifact, data, "x.json")
    assert "\n" not in str(caught.value) and "x.json" in str(caught.value)


def test_another_thing_than_an_object_is_refused() -> None:
    with pytest.raises(BadRecord, match="JSON object"):
        records.load(KnowledgeBase, [1], "x.json")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "..", "a\\b", "a\0b"])
def test_file_names_cannot_leave_their_folder(name: str) -> None:
    with pytest.raises(ValueError, match="bare file name"):
        FileRef(file=name, sha256="0" * 64, size_bytes=1)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    assert "did you mean 'resnet18'" in str(UnknownName("root", "resnet81", ["resnet18", "vgg11"]))
    assert "did you mean" not in str(UnknownName("root", "zzz", ["resnet18"]))


# ----------------------------------------------------------------------------------------------------------- old versions

#: One process as version 1 kept it: nanoseconds per call, and a matrix product before and after.
RUN_1: dict[str, Any] = {
    "round": 0, "values_ns": [251.25, 250.5, 252.0], "loops": 4, "warmup_calls": 684, "warmup_s": 0.06, "warm": True,
    "timer_resolution_ns": 50.0, "reference_ns": [1e6, 1.1e6], "open_s": 0.01, "first_ns": 821594.0,
    "memory": {"at_start_bytes": 1, "runtime_bytes": 2, "opened_bytes": 3, "peak_bytes": 4},
    "before": {"at_utc": synthetic.NOW, "clock_hz": 2.0e9, "temperature_c": None, "throttle_flags": None, "power_w": None,
               "power_mode": None, "load_1min": 0.5},
    "after": {"at_utc": synthetic.NOW, "clock_hz": 3.0e9}, "versions": {"python": "3.11"},
}  # fmt: skip


def version_1(**changes: Any) -> dict[str, Any]:
    """A profile as version 1 wrote it, with ``changes`` to its one run."""
    data = json.loads(store.canonical_json(synthetic.profile(processes=1)))
    settings = {
        k: v for k, v in data["settings"].items() if k in ("backend", "threads", "rounds_min", "visit_s", "seed")
    }
    del data["layers"]
    return {**data, "schema_version": 1, "settings": settings, "measurement": {"visits": [{**RUN_1, **changes}]}}


def test_a_profile_of_version_1_is_upgraded() -> None:
    record = records.load(ProfileRecord, version_1(), "old.jsonl:1")
    assert record.schema_version == 2 and record.plain and record.measurement is not None
    (run,) = record.measurement.runs
    assert run.elapsed_ns.array().tolist() == [1005, 1002, 1008] and run.values_ns.tolist() == RUN_1["values_ns"]
    assert run.references == {"product-192": Series([1_000_000, 1_100_000])} and run.block == 0
    assert (record.measurement.clock_hz, record.measurement.clock_source) == (2.5e9, "observed")
    assert record.measurement.corrected_s is None and run.interrupted is None and run.undisturbed.all()
    again = records.load(ProfileRecord, json.loads(store.canonical_json(record)), "new.jsonl:1")
    assert again == record


def test_a_run_of_version_1_without_references_or_clock() -> None:
    silent = {"at_utc": synthetic.NOW, "clock_hz": None}
    record = records.load(ProfileRecord, version_1(reference_ns=None, before=silent, after=silent), "old.jsonl:1")
    assert record.measurement is not None
    assert record.measurement.runs[0].references == {} and record.measurement.clock_source == "unknown"


def test_a_failure_of_version_1_stays_one() -> None:
    record = records.load(
        ProfileRecord, {**version_1(), "measurement": None, "outcome": "crashed", "label": None}, "old"
    )
    assert record.status == "crashed" and record.measurement is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"values_ns": ["fast"]}, "elapsed_ns"),
        ({"values_ns": []}, "at least one value"),
        ({"values_ns": [0.0]}, "none of zero length"),
        ({"surprise": 1}, "surprise"),
        ({"values_ns": None}, "values_ns|elapsed_ns"),
        ({"loops": None}, "other types"),
        ({"before": {"at_utc": synthetic.NOW, "clock_hz": "fast"}}, "other types"),
    ],
)
def test_a_broken_record_of_version_1_is_one_sentence(change: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRecord, match=says) as caught:
        records.load(ProfileRecord, version_1(**change), "x.jsonl:3")
    assert "\n" not in str(caught.value) and "x.jsonl:3" in str(caught.value)


def test_the_profiles_on_disk_keep_their_medians() -> None:
    """Those that an older kit measured are upgraded on reading; their statistics stay what they were."""
    profiles = 0
    for path in sorted((Path(__file__).parent.parent / "profiles").glob("*/*.jsonl")):
        for place, data in store.read_lines(path)[:4]:
            record = records.load(ProfileRecord, data, place)
            if data["schema_version"] != 1 or not data["measurement"]:
                continue
            old = [np.median(v["values_ns"]) for v in data["measurement"]["visits"]]
            tails = np.quantile(np.concatenate([v["values_ns"] for v in data["measurement"]["visits"]]), 0.99)
            assert record.measurement is not None
            assert record.measurement.median_s == pytest.approx(float(np.median(old)) * 1e-9, rel=1e-9)
            assert record.measurement.p99_s == pytest.approx(float(tails) * 1e-9, rel=1e-9)
            profiles += 1
    if not profiles:
        pytest.skip("every profile on disk is of the newest version")


@pytest.mark.parametrize("version", [0, 3, "2", None])
def test_a_version_of_tomorrow_is_refused(version: object) -> None:
    data = {**json.loads(store.canonical_json(synthetic.profile())), "schema_version": version}
    with pytest.raises(BadRecord, match=f"schema version {version!r} .* reads version 2"):
        records.load(ProfileRecord, data, "x.jsonl:1")


# -------------------------------------------------------------------------------------------------------- operating points

POINTS = st.builds(
    OperatingPoint,
    threads=st.integers(1, 64),
    batch=st.none() | st.integers(1, 64),
    affinity=st.none() | st.lists(st.integers(0, 12), unique=True).map(sorted).map(tuple),
    gap_s=st.sampled_from([0.0, 0.0001, 0.001, 0.0015, 0.01, 0.1, 1.0]),
    load=st.integers(0, 4),
    clock_cap_hz=st.sampled_from([None, 6e8, 1.2e9, 1.5e9, 2e9]),
    power_mode=st.sampled_from([None, "15W", "25W", "MAXN"]),
)


@given(POINTS, POINTS)
def test_two_points_never_share_a_name(one: OperatingPoint, two: OperatingPoint) -> None:
    assert (one.name == two.name) == (one == two)


def test_names_of_points_are_short() -> None:
    assert OperatingPoint().name == "t1"
    full = OperatingPoint(threads=2, batch=8, affinity=(0, 1), gap_s=0.01, load=1, clock_cap_hz=1.5e9, power_mode="15W")
    assert full.name == "t2-b8-gap10ms-load1-cpu0.1-cap1.5GHz-15W"


@pytest.mark.parametrize(
    ("change", "plain"),
    [
        ({"threads": 2}, True),
        ({"batch": 1}, True),
        ({"batch": 4}, False),
        ({"gap_s": 0.001}, False),
        ({"load": 1}, False),
        ({"affinity": (0,)}, False),
        ({"clock_cap_hz": 1e9}, False),
        ({"power_mode": "15W"}, False),
    ],
)
def test_a_plain_record_leaves_the_machine_as_it_is(change: dict[str, Any], plain: bool) -> None:
    settings = MeasureSettings(**change)
    record = synthetic.profile().model_copy(update={"settings": settings})
    assert record.plain is plain and settings.is_default_state is (plain or "batch" in change)


@pytest.mark.parametrize(
    ("own", "batch_set", "batch"),
    [((1, 3), None, 1), ((8, 3), None, 8), ((8, 3), 8, 8), ((), None, 1), (None, None, None), (None, 4, 4)],
)
def test_the_batch_is_that_of_the_settings_else_the_files_own(
    own: tuple[int, ...] | None, batch_set: int | None, batch: int | None
) -> None:
    inputs = () if own is None else (TensorSpec(name="x", shape=own, dtype="float32"),)
    artifact = synthetic.artifact().model_copy(update={"inputs": inputs})
    record = synthetic.profile().model_copy(update={"artifact": artifact, "settings": MeasureSettings(batch=batch_set)})
    assert record.batch == batch and record.plain is (batch in (None, 1))


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 0},
        {"gap_s": -1},
        {"gap_s": float("nan")},
        {"load": -1},
        {"clock_cap_hz": 0},
        {"batch": 0},
        {"gap": 1},
    ],
)
def test_a_point_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MeasureSettings(**change)


# ------------------------------------------------------------------------------------------------------------------ runs


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"elapsed_ns": []}, "at least one value"),
        ({"elapsed_ns": [5, 0]}, "none of zero length"),
        ({"block": 4}, "do not fit together"),  # six values are no whole blocks of four
        ({"block": 3, "references": {"product": [1, 1]}}, "do not fit together"),
        ({"block": 3, "references": {"product": [1, 1, 1], "memory": [1]}}, "do not fit together"),
        ({"loops": 0}, "loops"),
        ({"values_ns": [1.0]}, "values_ns"),
    ],
)
def test_a_run_whose_parts_do_not_fit_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        synthetic.run([1.0] * 6, **change)


def test_a_run_whose_parts_fit() -> None:
    run = synthetic.run([1.0, 2.0, 3.0, 4.0, 5.0, 9.0], loops=7, block=3, references={"product": [1, 2, 3]})
    assert run.values_ns == pytest.approx(np.array([1, 2, 3, 4, 5, 9]) * 1e9) and run.median_ns == 3.5e9


@pytest.mark.parametrize(
    "change", [{"switches": [0]}, {"switches": [0, 0, 0]}, {"references": {"product": [0, 1, 1]}}], ids=str
)
def test_switches_and_references_must_fit_too(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="do not fit together"):
        synthetic.run([1.0] * 6, block=3, **change)


def test_values_of_interrupted_blocks_are_left_out() -> None:
    run = synthetic.run([1.0, 1.1, 9.0, 9.1, 1.2, 1.3], block=2, switches=[0, 3, 0])
    assert run.undisturbed.tolist() == [True, True, False, False, True, True]
    assert run.interrupted == pytest.approx(1 / 3)


def test_where_nearly_everything_was_interrupted_all_of_it_counts() -> None:
    values = [1.0 + i / 100 for i in range(20)]
    one_in_ten = synthetic.run(values, block=2, switches=[0, *[1] * 9])
    two_in_ten = synthetic.run(values, block=2, switches=[0, 0, *[1] * 8])
    assert one_in_ten.undisturbed.all() and two_in_ten.undisturbed.sum() == 4
    assert synthetic.run(values).undisturbed.all() and synthetic.run(values).interrupted is None
    assert synthetic.run(values, switches=[1] * 10).undisturbed.all()  # without blocks nobody knows which values it hit


# ----------------------------------------------------------------------------------------------------------- correction


def moving(
    seed: int, sway: float, *, blocks: int = 25, block: int = 8, true_s: float = 0.004, burst: float = 0.0
) -> Run:
    """A process on a machine whose clock and memory system slow down and recover; the network follows them as REFERENCE says.

    ``burst`` is a share of the blocks in which another process takes the core: it lengthens the calls, not the references.
    """
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, blocks + 1)  # at the references; the values lie between
    slower = {
        name: 1 + sway * (1 + np.sin(2 * np.pi * (time + rng.uniform()) * rng.uniform(0.3, 1.0)))
        for name in ("clock", "product")
    }
    between = {name: np.sqrt(f[:-1] * f[1:]) for name, f in slower.items()}
    of_block = between["clock"] ** 0.6 * between["product"] ** 0.3
    noise = 1 + 0.002 * rng.standard_normal((blocks, block))
    hit = rng.permutation(blocks) < burst * blocks
    values = true_s * of_block[:, None] * noise * np.where(hit, 1.5, 1.0)[:, None]
    references = {name: REFERENCE.nominal_ns[name] * f for name, f in slower.items()}
    references["memory"] = REFERENCE.nominal_ns["memory"] * rng.uniform(1, 2, blocks + 1)  # follows nothing: no weight
    return synthetic.run(
        values.ravel().tolist(), seed, block=block, references=references, switches=hit.astype(int).tolist()
    )


@pytest.mark.parametrize("burst", [0.0, 0.4])
def test_a_machine_that_slows_down_is_divided_out(burst: float) -> None:
    runs = tuple(moving(seed, 0.2, burst=burst) for seed in range(6))
    measurement = Measurement(runs=runs, reference=REFERENCE)
    assert measurement.corrected_s == pytest.approx(0.004, rel=1e-3)
    assert measurement.median_s > 0.004 * 1.1 and measurement.half_width > 0.02
    assert measurement.corrected_half_width is not None and measurement.corrected_half_width < 1e-3
    assert measurement.corrected_interval_s is not None
    assert measurement.corrected_interval_s[0] <= measurement.corrected_s <= measurement.corrected_interval_s[1]


def test_a_machine_in_its_usual_state_is_not_corrected() -> None:
    measurement = Measurement(runs=tuple(moving(seed, 0.0) for seed in range(6)), reference=REFERENCE)
    assert measurement.corrected_s == pytest.approx(measurement.median_s, rel=1e-3)


@settings(max_examples=30)
@given(st.floats(0.2, 5.0))
def test_the_scale_of_the_reference_is_a_constant(factor: float) -> None:
    """Another usual state multiplies every corrected latency by one number: comparisons on a device do not depend on it."""
    nominal = {name: ns * factor for name, ns in REFERENCE.nominal_ns.items()}
    other = REFERENCE.model_copy(update={"nominal_ns": nominal})
    run = moving(3, 0.2)
    mine, theirs = run.corrected_ns(REFERENCE), run.corrected_ns(other)
    assert mine is not None and theirs == pytest.approx(mine * factor**0.9)


def test_without_what_it_takes_nothing_is_corrected() -> None:
    run = moving(0, 0.2)
    silent = run.model_copy(update={"references": {"product": run.references["product"]}})
    assert run.corrected_ns(None) is None and silent.corrected_ns(REFERENCE) is None
    assert (
        synthetic.run([1.0], references={"product-192": [1, 1]}).corrected_ns(REFERENCE) is None
    )  # upgraded: no blocks
    assert Measurement(runs=(run, silent), reference=REFERENCE).corrected_s is None
    unweighted = REFERENCE.model_copy(update={"weights": {}})
    assert run.corrected_ns(unweighted) is None
    assert Measurement(runs=(run,)).corrected_s is None and Measurement(runs=(run,)).corrected_interval_s is None


def test_the_slowdown_factor_is_one_in_the_usual_state_and_follows_the_weights() -> None:
    usual = {name: np.full(3, ns) for name, ns in REFERENCE.nominal_ns.items()}
    assert REFERENCE.slowdown(usual) == pytest.approx(np.ones(3))
    slower = REFERENCE.slowdown({**usual, "clock": usual["clock"] * np.array([1, 2, 4])})
    assert slower == pytest.approx(np.array([1, 2**0.6, 4**0.6]))


# ------------------------------------------------------------------------------------------------------------ statistics


def test_the_mode_is_not_moved_by_bursts() -> None:
    """Three calls in ten take up to twice as long: the median moves by per cent, the mode does not."""
    rng = np.random.default_rng(0)
    runs = []
    for number in range(6):
        values = 0.01 * (1 + 0.004 * rng.standard_normal(400))
        values[rng.permutation(400)[:120]] *= rng.uniform(1.1, 2.0, 120)
        runs.append(synthetic.run(values.tolist(), number))
    measurement = Measurement(runs=tuple(runs))
    assert measurement.mode_s == pytest.approx(0.01, rel=0.005)
    assert measurement.median_s > 0.01 * 1.001 and measurement.p90_s > 0.01 * 1.3


def test_the_mode_looks_at_undisturbed_blocks_alone() -> None:
    """Most values are disturbed and crowd at 1.3; nothing but the context switches can show which."""
    values = [1.0, 1.001] * 3 + [1.3, 1.3001] * 7
    disturbed = synthetic.run(values, block=2, switches=[0] * 3 + [1] * 7)
    assert Measurement(runs=(disturbed,)).mode_s == pytest.approx(1.0, abs=0.002)
    assert Measurement(runs=(synthetic.run(values, block=2),)).mode_s == pytest.approx(1.3, abs=0.002)


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=60))
def test_the_half_sample_mode_lies_among_the_values(values: list[float]) -> None:
    mode = stats.half_sample_mode(values)
    assert min(values) * (1 - 1e-9) <= mode <= max(values) * (1 + 1e-9)
    assert stats.half_sample_mode(values[::-1]) == mode


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=60), st.integers(1, 50))
def test_the_half_sample_mode_moves_with_the_unit(values: list[int], factor: int) -> None:
    assert stats.half_sample_mode([v * factor for v in values]) == stats.half_sample_mode(values) * factor


def test_the_half_sample_mode_of_few_values() -> None:
    assert stats.half_sample_mode([3.0]) == 3.0 and stats.half_sample_mode([1.0, 2.0]) == 1.5
    assert stats.half_sample_mode([1.0, 2.0, 5.0]) == 1.5 and stats.half_sample_mode([1.0, 4.0, 5.0]) == 4.5
    with pytest.raises(ValueError, match="no values"):
        stats.half_sample_mode([])


def test_the_bootstrap_draws_processes_and_not_values() -> None:
    """Each process has its own level: values redrawn one by one would promise an interval that misses the truth."""
    rng = np.random.default_rng(0)

    def p90(values: np.ndarray) -> float:
        return float(np.quantile(values, 0.9))

    truth = p90((1 + 0.01 * rng.standard_normal(200_000)) * (1 + 0.01 * rng.standard_normal(200_000)))
    covered = {"processes": 0, "values": 0}
    for trial in range(80):
        groups = [(1 + 0.01 * rng.standard_normal()) * (1 + 0.01 * rng.standard_normal(60)) for _ in range(10)]
        single = [np.array([value]) for value in np.concatenate(groups)]
        for name, drawn in (("processes", groups), ("values", single)):
            low, high = stats.bootstrap_over_groups(drawn, p90, seed=trial, resamples=100)
            covered[name] += low <= truth <= high
    assert covered["processes"] > 80 * 0.65 > 80 * 0.5 > covered["values"]


def test_intervals_hold_their_statistic_and_depend_on_nothing_but_the_seed() -> None:
    measurement = synthetic.profile(spread=0.05).measurement
    assert measurement is not None
    intervals = measurement.intervals_s()
    for name, value in (("p90", measurement.p90_s), ("p99", measurement.p99_s)):
        low, high = intervals[name]
        assert 0.5 * value < low <= value * 1.001 and value * 0.999 <= high < 2 * value
    assert intervals == measurement.intervals_s() != measurement.intervals_s(seed=1)
    alone = Measurement(runs=measurement.runs[:1])
    assert alone.intervals_s()["p99"] == (alone.p99_s, alone.p99_s)  # one process shows nothing about others


def test_the_clock_is_the_median_over_processes_with_its_source() -> None:
    with_clock = [
        synthetic.run([1.0], i, clock_hz=hz, clock_source="measured") for i, hz in enumerate((2e9, 3e9, 2.2e9))
    ]
    measurement = Measurement(runs=(synthetic.run([1.0]), *with_clock))
    assert (measurement.clock_hz, measurement.clock_source) == (2.2e9, "measured")


def test_cold_start_is_split_into_its_parts() -> None:
    runs = [synthetic.run([1.0], i, runtime_s=r, open_s=0.2, first_ns=3e6) for i, r in enumerate((0.5, None, 0.7))]
    cold_start_s = Measurement(runs=tuple(runs)).cold_start_s
    assert cold_start_s == pytest.approx({"runtime": 0.6, "open": 0.2, "first": 0.003, "until_steady": 0.1})
    assert Measurement(runs=(runs[1],)).cold_start_s["runtime"] is None


def test_energy_is_the_middle_window() -> None:
    windows = [Energy(source="rail", joules=j, window_s=2.0, calls=10, idle_power_w=1.0) for j in (40.0, 30.0, 90.0)]
    runs = [synthetic.run([1.0], i, energy=e) for i, e in enumerate((*windows, None))]
    energy = Measurement(runs=tuple(runs)).energy
    assert energy is not None and energy.joules_per_call == 4.0 and energy.net_joules_per_call == pytest.approx(3.8)
    assert Measurement(runs=(synthetic.run([1.0]),)).energy is None
    assert Energy(source="rail", joules=1, window_s=1, calls=1).net_joules_per_call is None


def test_memory_is_split() -> None:
    memory = Memory(at_start_bytes=10, runtime_bytes=30, opened_bytes=70, peak_bytes=200, running_peak_bytes=95)
    assert (memory.of_runtime_bytes, memory.of_model_bytes, memory.of_inference_bytes) == (20, 40, 25)
    assert memory.footprint_bytes == 190
    assert memory.model_copy(update={"running_peak_bytes": None}).of_inference_bytes is None


# ------------------------------------------------------------------------------------------------------------------ size


def test_two_hundred_records_of_six_thousand_values_stay_small() -> None:
    """Six processes of 1,000 values in 25 blocks with three reference workloads, noisy to the nanosecond: below 20 MB for 200."""
    rng = np.random.default_rng(0)
    runs = []
    for number in range(6):
        values = 0.005 * (1 + 0.01 * rng.standard_normal(1000) + 0.2 * (rng.uniform(size=1000) < 0.02))
        references = {name: ns * (1 + 0.05 * rng.uniform(size=26)) for name, ns in REFERENCE.nominal_ns.items()}
        runs.append(synthetic.run(values.tolist(), number, block=40, references=references, switches=[0] * 25))
    record = synthetic.profile().model_copy(update={"measurement": Measurement(runs=tuple(runs), reference=REFERENCE)})
    line = store.canonical_json(record)
    assert 200 * len(line) < 20e6
    assert records.load(ProfileRecord, json.loads(line), "here") == record


@pytest.mark.parametrize(
    ("shape", "dims", "batch"),
    [
        ((20, 2, 40), (("time", 20),), 1), ((20, 40), (("n_frames", 20), ("width", 40)), 1), ((8, 32), (("seq", 32),), 8),
        ((8, 32), (("batch", 8), ("seq", 32)), 8), ((7, 3), (("x:0", 7),), 7),
    ],
)  # fmt: skip
def test_time_is_no_batch(shape: tuple[int, ...], dims: tuple[tuple[str, int], ...], batch: int) -> None:
    inputs = (TensorSpec(name="x", shape=shape, dtype="float32"),)
    artifact = synthetic.artifact().model_copy(update={"inputs": inputs, "dims": dims})
    assert artifact.batch == batch
    assert synthetic.profile().model_copy(update={"artifact": artifact}).plain is (batch == 1)
