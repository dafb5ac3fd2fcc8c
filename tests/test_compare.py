"""Two measurements side by side: labels, what makes two records incomparable, and how often the label is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from test_cli import kit

from kit import store
from kit.measure.compare import Comparison, compare, conditions, differences
from kit.records import Measurement, MeasureSettings, ProfileRecord, Reference


def records(latencies_s: list[float], seed: int = 0, noise: float = 0.001, **more: Any) -> list[ProfileRecord]:
    """One record per latency, named net0, net1, ...; every process has its own level, as real ones do."""
    return [
        synthetic.profile(f"net{i}", latency_s, spread=noise, seed=seed + i, **more)
        for i, latency_s in enumerate(latencies_s)
    ]


def one(a: ProfileRecord, b: ProfileRecord, within: float = 0.02) -> Comparison:
    comparisons = compare([a], [b], within)
    assert len(comparisons) == 1
    return comparisons[0]


def changed(record: ProfileRecord, **changes: Any) -> ProfileRecord:
    return record.model_copy(update={"record_id": f"{record.record_id}-b", **changes})


# --------------------------------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("factor", "label"),
    [
        (1.0, "same"),
        (1.005, "same"),
        (0.985, "same"),
        (1.015, "same"),
        (1.025, "slower"),
        (0.975, "faster"),
        (0.8, "faster"),
        (1.2, "slower"),
    ],
)
def test_labels(factor: float, label: str) -> None:
    comparison = one(synthetic.profile("net", 0.01, seed=1), synthetic.profile("net", 0.01 * factor, seed=2))
    assert comparison.label == label and comparison.ratio == pytest.approx(factor, rel=0.005)
    assert comparison.interval is not None and comparison.interval[0] <= comparison.ratio <= comparison.interval[1]
    assert comparison.values == "raw" and (comparison.a_processes, comparison.b_processes) == (6, 6)


def test_same_is_a_claim_and_not_the_lack_of_one() -> None:
    a, b = synthetic.profile("net", 0.01, spread=0.25, seed=1), synthetic.profile("net", 0.01, spread=0.25, seed=2)
    comparison = one(a, b)
    assert comparison.label == "undecided" and comparison.why is not None and "beyond the margin" in comparison.why
    assert one(a, b, within=0.9).label == "same"


def test_too_few_processes_decide_nothing() -> None:
    comparison = one(synthetic.profile("net", 0.01, processes=3), synthetic.profile("net", 0.02, processes=3))
    assert comparison.label == "undecided" and comparison.why is not None and "90%" in comparison.why


def test_one_wild_process_does_not_decide_the_label() -> None:
    a, b = synthetic.profile("net", 0.01, seed=1, processes=8), synthetic.profile("net", 0.01, seed=2, processes=8)
    assert b.measurement is not None
    wild = synthetic.run([0.05] * 50, 7)
    b = changed(b, measurement=b.measurement.model_copy(update={"runs": (*b.measurement.runs[:7], wild)}))
    assert one(a, b).label == "same"


def test_slower_by_more_than() -> None:
    comparison = one(synthetic.profile("net", 0.01, seed=1), synthetic.profile("net", 0.0107, seed=2))
    assert comparison.slower_by_more_than(0.05) and not comparison.slower_by_more_than(0.08)
    assert not one(
        synthetic.profile("net", 0.01), synthetic.profile("net", 0.02, label="throttled")
    ).slower_by_more_than(0.05)
    wide = comparison.model_copy(update={"interval": (1.04, 1.20)})  # the whole interval must lie above
    assert wide.slower_by_more_than(0.03) and not wide.slower_by_more_than(0.05)


def test_what_was_measured_and_is_no_more_is_lost() -> None:
    good, bad = synthetic.profile("net", 0.01), synthetic.profile("net", 0.01, label="inconclusive")
    failed = changed(good, status="crashed", reason="The process died by signal 11.", measurement=None, label=None)
    assert one(good, failed).lost and compare([good], [])[0].lost
    assert not one(bad, failed).lost and not compare([bad], [])[0].lost  # never measured well
    assert not one(failed, good).lost and not compare([], [good])[0].lost and not one(good, changed(good)).lost


def test_a_settled_record_widens_the_interval_by_its_own() -> None:
    a, b = synthetic.profile("net", 0.01, spread=0.2, seed=1), synthetic.profile("net", 0.0106, spread=0.001, seed=2)
    plain, wide = one(a, b), one(changed(a, label="settled"), b)
    assert plain.interval is not None and wide.interval is not None and a.measurement is not None
    assert wide.interval[0] == pytest.approx(plain.interval[0] / (1 + a.measurement.half_width))
    assert wide.interval[1] == pytest.approx(plain.interval[1] * (1 + a.measurement.half_width))
    assert any("A is settled" in remark for remark in wide.remarks)


REFERENCE = Reference(
    device_id="synthetic-1c",
    created_utc=synthetic.NOW,
    workloads={"product": "a fixed product"},
    nominal_ns={"product": 1e6},
    weights={"product": 1.0},
)


def drifted(record: ProfileRecord, slowdown: float, reference: Reference | None = REFERENCE) -> ProfileRecord:
    """The record as a machine that is slower by a factor would have given it: five blocks of ten values, references between."""
    assert record.measurement is not None
    runs = []
    for number, run in enumerate(record.measurement.runs):
        values = [float(v) * 1e-9 * slowdown for v in run.values_ns]
        times = [1_000_000 * slowdown + number] * 6
        runs.append(synthetic.run(values, number, block=10, references={"product": times}))
    return changed(record, measurement=Measurement(runs=tuple(runs), reference=reference))


def test_drift_corrected_values_are_compared_where_both_sides_have_them() -> None:
    a, b = drifted(synthetic.profile("net", 0.01, seed=1), 1.0), drifted(synthetic.profile("net", 0.01, seed=2), 1.1)
    comparison = one(a, b)
    assert (comparison.values, comparison.label) == ("corrected", "same") and comparison.ratio == pytest.approx(
        1, rel=1e-3
    )


def test_corrections_on_two_scales_are_not_mixed() -> None:
    other = REFERENCE.model_copy(update={"nominal_ns": {"product": 2e6}})
    a = drifted(synthetic.profile("net", 0.01, seed=1), 1.0)
    assert one(a, drifted(synthetic.profile("net", 0.01, seed=2), 1.0, other)).values == "raw"
    assert one(a, synthetic.profile("net", 0.01, seed=2)).values == "raw"


def test_raw_values_of_a_machine_that_moved_between_the_runs_do_not_decide() -> None:
    a = drifted(synthetic.profile("net", 0.01, seed=1), 1.0, None)
    b = drifted(synthetic.profile("net", 0.01, seed=2), 1.1, None)
    comparison = one(a, b)
    assert (comparison.values, comparison.label) == ("raw", "undecided") and comparison.ratio == pytest.approx(
        1.1, rel=1e-3
    )
    assert any("product moved by +10.0% between the measurements" in remark for remark in comparison.remarks)
    assert one(a, drifted(synthetic.profile("net", 0.015, seed=2), 1.1, None)).label == "slower"


# --------------------------------------------------------------------------------------------------------------- matching


def test_the_same_file_matches_under_another_name() -> None:
    a = synthetic.profile("net")
    b = changed(a, artifact=a.artifact.model_copy(update={"artifact_id": "renamed"}))
    comparison = one(a, b)
    assert comparison.label == "same" and any("two names" in remark for remark in comparison.remarks)


def test_another_file_of_the_same_name_matches_with_a_remark() -> None:
    a = synthetic.profile("net")
    other = a.artifact.model.model_copy(update={"sha256": "0" * 64})
    comparison = one(a, changed(a, artifact=a.artifact.model_copy(update={"model": other})))
    assert comparison.label == "same" and any("the files differ" in remark for remark in comparison.remarks)
    assert comparison.a_sha256 != comparison.b_sha256 == "0" * 64


def test_the_file_beats_the_name() -> None:
    a = synthetic.profile("net")
    old = changed(a, artifact=a.artifact.model_copy(update={"artifact_id": "old-net"}))
    other = a.artifact.model.model_copy(update={"sha256": "0" * 64})
    new = changed(
        synthetic.profile("net", 0.02), artifact=a.artifact.model_copy(update={"model": other}), record_id="new"
    )
    comparisons = compare([a], [new, old])
    assert [(c.artifact_id, c.label) for c in comparisons] == [("old-net", "same"), ("net", "not comparable")]
    assert comparisons[1].why == "only B has it"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"settings": MeasureSettings(threads=2)}, "threads differs (A 1, B 2)"),
        ({"settings": MeasureSettings(backend="pytorch")}, "backend differs (A onnxruntime, B pytorch)"),
        ({"settings": MeasureSettings(clock_cap_hz=1e9)}, "clock_cap_hz differs (A none, B 1000000000.0)"),
        ({"settings": MeasureSettings(load=1)}, "load differs (A 0, B 1)"),
        ({"device": synthetic.device("elsewhere")}, "device differs (A synthetic-1c, B elsewhere)"),
        ({"label": "throttled"}, "B is throttled"),
        ({"label": "inconclusive"}, "B is inconclusive"),
        ({"status": "crashed", "reason": "signal 6.", "measurement": None, "label": None}, "B crashed: signal 6"),
    ],
)
def test_what_is_not_comparable(change: dict[str, Any], why: str) -> None:
    a = synthetic.profile("net")
    comparison = one(a, changed(a, **change))
    assert (comparison.label, comparison.why) == ("not comparable", why) and comparison.ratio is None


def test_how_long_it_was_measured_does_not_matter() -> None:
    a = synthetic.profile("net", settings=MeasureSettings(rounds_max=10, run_s=0.5, seed=0))
    b = synthetic.profile("net", settings=MeasureSettings(rounds_max=20, run_s=1.0, seed=3, precision_target=0.01))
    assert conditions(a) == conditions(b) and not differences(a, b)
    assert one(a, changed(b)).label == "same"


def test_every_operating_point_finds_its_own_partner() -> None:
    points = [MeasureSettings(), MeasureSettings(threads=2), MeasureSettings(gap_s=0.01)]
    a = [synthetic.profile("net", 0.01 * (i + 1), settings=p, seed=i) for i, p in enumerate(points)]
    b = [changed(synthetic.profile("net", 0.01 * (i + 1), settings=p, seed=9 + i)) for i, p in enumerate(points)]
    comparisons = compare(a, b[::-1])
    assert [c.label for c in comparisons] == ["same"] * 3 and {c.point for c in comparisons} == {p.name for p in points}


def test_of_several_records_the_newest_trusted_one_counts() -> None:
    old, new = synthetic.profile("net", 0.02), changed(synthetic.profile("net", 0.01), record_id="new")
    noisy = changed(synthetic.profile("net", 0.05), label="inconclusive", record_id="noisy")
    comparison = one(synthetic.profile("net", 0.01, seed=5), new)
    again = compare([synthetic.profile("net", 0.01, seed=5)], [old, new, noisy])
    assert len(again) == 1 and again[0].b_record_id == "new" == comparison.b_record_id


def test_what_one_side_lacks_is_reported() -> None:
    comparisons = compare(records([0.01, 0.02]), records([0.01]))
    assert [(c.label, c.why) for c in comparisons] == [
        ("same", None),
        ("not comparable", "only A has it"),
    ]


@given(st.permutations(range(4)), st.integers(0, 4))
def test_each_record_is_used_once(order: list[int], matched: int) -> None:
    a = records([0.01, 0.02, 0.03, 0.04])
    b = [changed(a[i]) for i in order][:matched]
    comparisons = compare(a, b)
    assert len(comparisons) == 4 and sum(c.label == "same" for c in comparisons) == matched
    shared = {record.artifact.artifact_id for record in b}
    assert [c.artifact_id for c in comparisons if c.label == "same"] == [
        record.artifact.artifact_id for record in a if record.artifact.artifact_id in shared
    ]


# ------------------------------------------------------------------------------------------------------- how often it errs


@pytest.mark.parametrize("processes", [6, 10])
def test_equal_networks_rarely_look_different(processes: int) -> None:
    """Each process has its own level (1 %, with heavy tails); the networks are equal."""
    rng = np.random.default_rng(processes)
    wrong, trials = 0, 300
    for _ in range(trials):
        sides = []
        for _ in range(2):
            levels = 0.01 * np.exp(0.01 * rng.standard_t(3, processes))
            runs = tuple(synthetic.run([float(level)], i) for i, level in enumerate(levels))
            record = synthetic.profile("net", processes=1)
            assert record.measurement is not None
            sides.append(changed(record, measurement=record.measurement.model_copy(update={"runs": runs})))
        wrong += one(sides[0], sides[1], within=0.0001).label in ("faster", "slower")
    assert wrong / trials <= 0.08  # at most 5 % are expected; 300 trials scatter by 1.3 %


# ------------------------------------------------------------------------------------------------------------- the verb


def write(path: Path, profiles: list[ProfileRecord]) -> Path:
    for record in profiles:
        store.append_line(path, record)
    return path


def test_the_verb_prints_a_table_and_counts(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", records([0.01, 0.01, 0.01, 0.01]))
    write(tmp_path / "b.jsonl", records([0.01, 0.008, 0.012], seed=50))
    completed = kit("compare", "a.jsonl", "b.jsonl", cwd=tmp_path)
    assert "1 faster, 1 slower, 1 same, 1 not comparable" in completed.stdout and "only A has it" in completed.stdout
    data = json.loads(kit("compare", "a.jsonl", "b.jsonl", "--json", cwd=tmp_path).stdout)
    assert data["counts"] == {"faster": 1, "slower": 1, "same": 1, "undecided": 0, "not comparable": 1}
    assert [c["verdict"] for c in data["comparisons"]] == ["same", "faster", "slower", "not comparable"]


def test_the_gate(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.jsonl", records([0.01, 0.01]))
    write(tmp_path / "b" / "x.jsonl", records([0.01, 0.012], seed=50))
    write(tmp_path / "c" / "x.jsonl", records([0.01, 0.012], label="inconclusive"))
    failed = kit("compare", "a", "b", "--fail-slower", "5", cwd=tmp_path, check=1)
    assert "1 of 2 are slower by more than 5 %" in failed.stderr and "net1" in failed.stderr
    kit("compare", "a", "b", "--fail-slower", "30", cwd=tmp_path)
    kit("compare", "a", "b", cwd=tmp_path)
    write(tmp_path / "d" / "x.jsonl", records([0.01]))
    lost = kit("compare", "a", "d", "--fail-slower", "5", cwd=tmp_path, check=1).stderr
    assert "1 that A measured failed in B or are missing there: net1" in lost
    assert "has no comparison" in kit("compare", "a", "c", "--fail-slower", "5", cwd=tmp_path, check=1).stderr
    assert json.loads(kit("compare", "a", "b", "--fail-slower", "5", "--json", cwd=tmp_path, check=1).stdout)[
        "failed"
    ] == ["net1"]


def test_the_verb_refuses_what_is_no_profile(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert "does not exist" in kit("compare", "none.jsonl", "empty.jsonl", cwd=tmp_path, check=2).stderr
    assert "empty profile" in kit("compare", "empty.jsonl", "empty.jsonl", cwd=tmp_path, check=2).stderr
