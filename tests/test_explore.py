"""Measuring a space: what is asked is checked, batches are chosen, records count once, and a killed run goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import simulated
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from kit import backends, latency, spaces, store
from kit.cli import app
from kit.errors import BackendUnavailable, MeasurementError, UnknownName, UsageError
from kit.latency import explore
from kit.latency.explore import Criterion, ExplorationPlan, Step
from kit.measure import profiler, targets
from kit.measure.profiler import Job
from kit.records import Measurement, MeasureSettings, ProfileRecord

pytest.importorskip("scipy")
SPACE = spaces.space_of("resnet20")


class Bench:
    """A simulated machine in place of the profiler; it appends to ``out`` as the profiler does."""

    def __init__(self, out: Path, status: str = "ok") -> None:
        self.out, self.status, self.machine = out, status, simulated.Machine()
        self.batches: list[list[str]] = []
        self.budgets: list[float | None] = []

    def __call__(self, jobs: list[Job], budget_s: float | None) -> list[ProfileRecord]:
        self.batches.append([j.target.artifact.artifact_id for j in jobs])
        self.budgets.append(budget_s)
        assert all(j.target.path.is_file() for j in jobs)
        records = [self.record(j) for j in jobs]
        for record in records:
            store.append_line(self.out, record)
        return records

    def record(self, job: Job) -> ProfileRecord:
        artifact = job.target.artifact
        assert artifact.subnetwork is not None
        seconds = self.machine.seconds(spaces.kernels(artifact.subnetwork))
        runs = tuple(synthetic.run([seconds * f] * 3, i) for i, f in enumerate((0.999, 1.0, 1.001, 1.0, 1.0, 1.0)))
        measured_record = synthetic.profile(artifact.artifact_id, settings=job.settings).model_copy(
            update={"artifact": artifact}
        )
        if self.status != "ok":
            return measured_record.model_copy(
                update={"status": self.status, "reason": "no luck.", "measurement": None, "label": None}
            )
        return measured_record.model_copy(update={"measurement": Measurement(runs=runs)})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small pool: the tests are about the way, not about the choice."""
    monkeypatch.setattr(explore, "POOL", 60)


def run(
    tmp_path: Path, plan: ExplorationPlan, bench: Bench | None = None, **more: Any
) -> tuple[explore.Exploration, Bench]:
    bench = bench or Bench(tmp_path / "x.jsonl")
    return explore.run(plan, synthetic.device(), bench.out, tmp_path, measure=bench, **more), bench


def test_it_measures_until_the_criterion_is_met(tmp_path: Path, small: None) -> None:
    steps: list[Step] = []
    exploration, bench = run(
        tmp_path, ExplorationPlan(SPACE, MeasureSettings(), Criterion(0.10, 0.9), at_most=40), on_step=steps.append
    )
    assert exploration.reached and "are expected within +-10%" in exploration.ended
    assert len(bench.batches[0]) == 10 and all(len(b) == 5 for b in bench.batches[1:])
    assert len(exploration.records) == exploration.new == len({r.artifact.artifact_id for r in exploration.records})
    assert steps == list(exploration.steps) and steps[0].error is None and steps[0].form is not None
    last = steps[-1]
    assert last.share == min(last.estimated or 0, last.validated or 0) and last.share >= 0.9
    assert all(s.error is not None and s.predicted == 5 for s in steps[1:])
    assert exploration.model is not None and len(exploration.model.measured.seconds) == exploration.new


def test_equal_seeds_choose_equally(tmp_path: Path, small: None) -> None:
    plans = [ExplorationPlan(SPACE, MeasureSettings(), at_most=15, seed=s) for s in (1, 1, 2)]
    chosen = [run(tmp_path, p, Bench(tmp_path / f"{i}.jsonl"))[1].batches for i, p in enumerate(plans)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_a_killed_run_resumes_and_counts_its_records(tmp_path: Path, small: None) -> None:
    uninterrupted, bench = run(
        tmp_path, ExplorationPlan(SPACE, MeasureSettings(), at_most=20), Bench(tmp_path / "whole.jsonl")
    )
    run(tmp_path, ExplorationPlan(SPACE, MeasureSettings(), at_most=15))
    again, rest = run(tmp_path, ExplorationPlan(SPACE, MeasureSettings(), at_most=20))
    assert rest.batches == bench.batches[2:] and again.new == 5
    assert {r.artifact.artifact_id for r in again.records} == {r.artifact.artifact_id for r in uninterrupted.records}
    assert len(store.read_profiles([tmp_path / "x.jsonl"])) == 20
    completed, idle = run(tmp_path, ExplorationPlan(SPACE, MeasureSettings(), at_most=20))
    assert not idle.batches and completed.new == 0 and "20 networks are measured" in completed.ended


def test_records_of_another_point_or_space_do_not_count(tmp_path: Path, small: None) -> None:
    run(tmp_path, ExplorationPlan(SPACE, MeasureSettings(threads=2), sample=3))
    run(tmp_path, ExplorationPlan(spaces.space_of("resnet32"), MeasureSettings(), sample=2))
    exploration, _ = run(tmp_path, ExplorationPlan(SPACE, MeasureSettings(), sample=3))
    assert exploration.new == len(exploration.records) == 3
    fresh, _ = run(tmp_path, ExplorationPlan(SPACE, MeasureSettings(), sample=3), fresh=True)
    assert fresh.new == 3


def test_a_sample_is_the_space_s_own_and_goes_in_fixed_pieces(tmp_path: Path) -> None:
    sample_ids = [s.id for s in SPACE.sample(45, 7)]
    exploration, bench = run(tmp_path, ExplorationPlan(SPACE, MeasureSettings(), sample=45, seed=7))
    assert [len(b) for b in bench.batches] == [profiler.BATCH_JOBS, 5] and [
        i for b in bench.batches for i in b
    ] == sample_ids
    assert exploration.reached and "all 45" in exploration.ended and exploration.model is None


def test_the_budget_is_wall_time(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("kit.latency.explore.time.monotonic", lambda: now[0])
    bench = Bench(tmp_path / "x.jsonl")

    def slow(jobs: list[Job], budget_s: float | None) -> list[ProfileRecord]:
        now[0] += 6.0 * len(jobs)
        return bench(jobs, budget_s)

    plan = ExplorationPlan(SPACE, MeasureSettings(), budget_s=100.0)
    exploration = explore.run(plan, synthetic.device(), bench.out, tmp_path, measure=slow, spent_s=2.0)
    assert exploration.ended == "the budget is spent" and [len(b) for b in bench.batches] == [10, 5, 1]
    assert bench.budgets == [
        None,
        38.0,
        8.0,
    ]  # none where even the most rounds fit, so that a kill leaves a journal to find
    assert now[0] <= 100.0


def test_a_budget_too_small_for_one_network_measures_one(tmp_path: Path, small: None) -> None:
    exploration, bench = run(tmp_path, ExplorationPlan(SPACE, MeasureSettings(), budget_s=1.0))
    assert len(bench.batches[0]) == 1 and (bench.budgets[0] or 9.0) <= 1.0
    assert exploration.new >= 1


def test_a_deadline_ends_when_all_is_decided(tmp_path: Path, small: None) -> None:
    exploration, bench = run(tmp_path, ExplorationPlan(SPACE, MeasureSettings(), deadline_s=10.0, at_most=30))
    assert exploration.reached and exploration.steps[-1].undecided == 0.0 and len(bench.batches) == 1
    middle = sorted(r.measurement.median_s for r in exploration.records if r.measurement)[5]
    hard, more = run(
        tmp_path, ExplorationPlan(SPACE, MeasureSettings(), deadline_s=middle, at_most=15), Bench(tmp_path / "y.jsonl")
    )
    assert (hard.steps[0].undecided or 0) > 0 and len(more.batches) == 2


def test_nothing_but_failures_is_an_error(tmp_path: Path, small: None) -> None:
    with pytest.raises(MeasurementError, match=r"Nothing of this batch was measured: no luck\.$"):
        run(tmp_path, ExplorationPlan(SPACE, MeasureSettings(), at_most=12), Bench(tmp_path / "x.jsonl", "failed"))


def test_without_scipy_it_spreads_and_says_so(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "can_fit", lambda: False)
    plan = ExplorationPlan(SPACE, MeasureSettings(), at_most=12)
    exploration, bench = run(tmp_path, plan)
    assert [len(b) for b in bench.batches] == [10, 2] and exploration.model is None
    with pytest.raises(BackendUnavailable, match="needs scipy"):
        explore.check(replace(plan, criterion=Criterion()))


@given(st.integers(1, 99), st.integers(1, 100))
def test_criteria_are_read(within: int, share: int) -> None:
    for text in (f"within{within}={share / 100}", f"within{within}={share}%"):
        criterion = explore.read_criterion(text)
        assert criterion.within == pytest.approx(within / 100) and criterion.share == pytest.approx(share / 100)


@pytest.mark.parametrize("text", ["within10", "within10=", "within10=2", "within0=0.9", "within100=0.9", "10=0.9", ""])
def test_aims_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="--until"):
        explore.read_criterion(text)


def test_an_id_of_a_space_is_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "require", lambda name: None)
    name = "resnet20-d1.2.1-w0.50-int8-32"
    (target,) = targets.resolve([name], backend="onnxruntime", folder=tmp_path)
    assert target.path == tmp_path / f"{name}.onnx" and target.path.is_file() and target.artifact.artifact_id == name
    for other in ("resnet20-d9.1.1-w0.50-int8-32", "resnet18-d8-w1.00-fp32-32", "nothing"):
        with pytest.raises(UsageError, match="does not exist|--build|cannot be cut so"):
            targets.resolve([other], backend="onnxruntime", folder=tmp_path)


REFUSED: dict[str, str] = {
    "resnet81": "did you mean 'resnet18'",
    "resnet20 --until within10": "within10=0.99",
    "resnet20 --sample 99999": "sub-networks, ask for 1 to",
    "resnet20 --budget 0": "--budget 0",
    "resnet20 --sample 3 --budget 3": "random choice",
    "resnet20 --budget never": "90s, 10m or 1h",
    "resnet20 --budget 9m,never": "10m,40",
    "resnet20 --backend fake": "fake backend",
    "resnet20 --backend onnxruntime,openvino": "one runtime",
    "resnet20 --deadline-ms nan": "no deadline",
    "resnet20-d1.2.1-w0.50-int8-32": "kit profile resnet20-d1.2.1-w0.50-int8-32",
}
#: What kit profile took before the search of a space had a verb of its own.
RETIRED: dict[str, str] = {
    "--space resnet20 --until within10=0.99": "kit explore resnet20",
    "--sample 3": "kit explore SPACE",
    "x.onnx --at-most 3": "kit explore",
    "x.onnx --deadline-ms 3": "kit explore",
    "x.onnx --budget-s 3": "--budget 3s",
    "x.onnx --visit-s 0.1": "--run-s 0.1",
    "x.onnx --budget 90": "90s, 10m or 1h",
    "": "nothing to measure",
}


@pytest.mark.parametrize(
    ("verb", "words", "says"),
    [
        *(("explore", words, says) for words, says in REFUSED.items()),
        *(("profile", words, says) for words, says in RETIRED.items()),
    ],
)
def test_bad_words_are_one_sentence(verb: str, words: str, says: str, tmp_path: Path) -> None:
    completed = CliRunner().invoke(app, [verb, *words.split(), "--profiles", str(tmp_path)])
    assert isinstance(completed.exception, UsageError) and says in str(completed.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "ends"),
    [
        ({}, (True, 40, None)),
        ({"budget": "1h"}, (False, None, 3600.0)),
        ({"budget": "12"}, (False, 12, None)),
        ({"budget": "90s,12"}, (False, 12, 90.0)),
        ({"until": "within5=0.9"}, (True, 40, None)),
        ({"until": "within5=0.9", "budget": "1m"}, (True, None, 60.0)),
        ({"deadline_s": 1e-3}, (False, 40, None)),
        ({"sample": 5}, (False, None, None)),
    ],
)
def test_when_an_exploration_ends(more: dict[str, Any], ends: tuple[bool, int | None, float | None]) -> None:
    """By its criterion, after so many networks, after so many seconds; never without an end."""
    plan = explore.plan("resnet20", MeasureSettings(), **more)
    assert (plan.criterion is not None, plan.at_most, plan.budget_s) == ends


def test_the_verb_shows_the_way_and_the_end(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backends, "require", lambda name: None)
    monkeypatch.setattr("kit.devices.recognise", synthetic.device)
    folders: list[Path] = []

    def profile(jobs: list[Job], device: object, out: Path, **_: object) -> list[ProfileRecord]:
        folders.extend(j.target.path for j in jobs)
        return Bench(out)(jobs, None)

    monkeypatch.setattr(profiler, "profile", profile)
    words = ["explore", "resnet20", "--budget", "15", "--profiles", str(tmp_path)]
    completed = CliRunner().invoke(app, [*words, "--json"])
    assert completed.exit_code == 0, completed.exception
    printed = json.loads(completed.stdout)
    assert printed["measured"] == printed["new"] == 15 and [s["measured"] for s in printed["steps"]] == [10, 15]
    assert printed["file"].endswith("resnet20-space-onnxruntime-t1.jsonl") and Path(printed["file"]).is_file()
    assert not any(path.exists() for path in folders)
    shown = CliRunner().invoke(app, [*words[:3], "16", *words[4:], "--keep", str(tmp_path / "kept")])
    assert shown.exit_code == 0 and "Error of each batch before it was measured" in shown.stdout
    assert "had been predicted" in shown.stderr and "kit fit" in shown.stderr and "1 new records" in shown.stderr
    assert [p.suffix for p in sorted((tmp_path / "kept").iterdir())] == [".json", ".onnx"]
    with pytest.raises(UnknownName):
        explore.space_of("resnet999")
