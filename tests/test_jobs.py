"""Jobs: what a command names becomes a list of networks, runtimes and operating points."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic

from kit import spaces
from kit.backends import onnxgraph
from kit.errors import UnknownName, UsageError
from kit.measure import jobs, profiler
from kit.records import MeasureSettings


@pytest.mark.parametrize(
    ("sweeps", "says"),
    [
        (["threads"], "write it like --sweep threads=1,2"),
        (["threads="], "write it like"),
        (["threads=,"], "write it like"),
        (["thread=1"], "did you mean 'threads'"),
        (["threads=one"], "--sweep threads does not take 'one': whole numbers from 1"),
        (["threads=1.5"], "whole numbers from 1"),
        (["threads=0"], "a point that cannot be: threads"),
        (["gap-ms=-1"], "a point that cannot be: gap_s"),
        (["gap-ms=nan"], "a point that cannot be: gap_s"),
        (["gap-ms=inf"], "a point that cannot be: gap_s"),
        (["load=-1"], "a point that cannot be: load"),
        (["batch=0"], "a point that cannot be: batch"),
        (["clock-ghz=0"], "a point that cannot be: clock_cap_hz"),
        (["clock-ghz=fast"], "--sweep clock-ghz does not take 'fast': gigahertz"),
        (["affinity=x"], "CPUs"),
        (["affinity=0,1+1"], "names CPU 1 twice"),
        (["threads=1", "gap-ms=slow"], "milliseconds from 0"),
    ],
)
def test_a_bad_sweep_is_one_sentence(sweeps: list[str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        jobs.points(MeasureSettings(), sweeps)
    assert says in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_a_sweep_is_the_product_of_its_axes_without_repetitions() -> None:
    base = MeasureSettings(backend="fake", load=2)
    assert jobs.points(base, []) == [base]
    points = jobs.points(base, ["threads=2, 1,2", "affinity=0,1+0", "clock-ghz=1.5", "power-mode=15W,MAXN"])
    assert [p.name for p in points] == [
        f"t{t}-load2-cpu{cpus}-cap1.5GHz-{mode}" for t in (2, 1) for cpus in ("0", "0.1") for mode in ("15W", "MAXN")
    ]  # fmt: skip


def test_a_key_that_is_swept_twice_keeps_both() -> None:
    assert [p.threads for p in jobs.points(MeasureSettings(), ["threads=1", "threads=2"])] == [1, 2]


def test_a_budget_is_a_time() -> None:
    times = {"90s": 90, "10m": 600, "1h": 3600, "1.5h": 5400, "2min": 120}
    assert {text: jobs.duration_s(text) for text in times} == times


@pytest.mark.parametrize(
    "text", ["1d", "nan", "1e9h", "90", "", "0s", "1e3s", "-1s", "ten minutes", "99999999h", "10m,40"]
)
def test_a_budget_that_is_no_time_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="give a time like 90s, 10m or 1h"):
        jobs.duration_s(text)


def test_every_target_with_every_backend_at_every_point(tmp_path: Path) -> None:
    points = jobs.points(MeasureSettings(), ["gap-ms=0,10"])
    planned = jobs.jobs(["fake:1us", "fake:2us"], points, "fake, fake", tmp_path)
    assert [(job.target.artifact.artifact_id, job.settings.gap_s) for job in planned] == [
        ("fake:1us", 0.0), ("fake:1us", 0.01), ("fake:2us", 0.0), ("fake:2us", 0.01),
    ]  # fmt: skip
    for names, every, says in (([], False, "nothing to measure"), (["fake:1us"], True, "--all is about a family")):
        with pytest.raises(UsageError, match=says):
            jobs.jobs(names, points, "fake", tmp_path, every=every)


def test_what_cannot_run_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sub = spaces.space_of("resnet20")[0]
    spaces.write(sub, tmp_path / "net.onnx")
    batches = jobs.points(MeasureSettings(), ["batch=1,8"])
    with pytest.raises(UsageError, match="fixed batch 1, not 8") as caught:
        jobs.jobs([str(tmp_path / "net.onnx")], batches, "onnxruntime", tmp_path)
    assert caught.value.exit_code == 2
    graph = onnxgraph.Graph((), (onnxgraph.Value("x", ("batch", 3)),), (), {})
    monkeypatch.setattr(onnxgraph, "read", lambda path: graph)
    assert len(jobs.jobs([str(tmp_path / "net.onnx")], batches, "onnxruntime", tmp_path)) == 2
    with pytest.raises(UnknownName, match="did you mean 'fake'"):
        jobs.jobs(["none.onnx"], batches, "onnxruntime,fakes", tmp_path)


def test_a_workspace_lives_as_long_as_the_run_unless_it_is_named(tmp_path: Path) -> None:
    with jobs.workspace() as folder:
        assert folder.is_dir()
    assert not folder.exists()
    with jobs.workspace(tmp_path / "files") as folder:
        assert folder == tmp_path / "files"
    assert folder.is_dir()


def test_the_name_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.onnx").touch()
    assert jobs.stem([str(tmp_path / "net.onnx"), "other"], "onnxruntime", 2) == "net-onnxruntime-t2"
    monkeypatch.chdir(tmp_path)
    assert jobs.stem(["."], "fake", 1) == f"{tmp_path.name}-fake-t1"
    assert jobs.record_file(tmp_path, "board", "fake:1us/..") == tmp_path / "board" / "fake-1us.jsonl"
    long = [jobs.record_file(tmp_path, "board", "n" * 240 + end).name for end in "ab"]
    assert long[0] != long[1] and {len(name) for name in long} == {180 + len(".jsonl")}


def test_one_network_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, requests = synthetic.profile(), []

    def profile(planned: list[profiler.Job], device: object, out: Path, progress: object = None) -> list[object]:
        requests.append((planned, out))
        return [record]

    monkeypatch.setattr(profiler, "profile", profile)
    (target,) = jobs.targets(["fake:1us"], "fake")
    settings = MeasureSettings(backend="fake")
    assert jobs.once(target, settings, synthetic.device(), tmp_path / "x.jsonl") is record
    assert requests == [([profiler.Job(target, settings)], tmp_path / "x.jsonl")]


def test_a_run_in_which_something_was_measured_is_no_failure(tmp_path: Path) -> None:
    good, bad = synthetic.profile(), synthetic.profile().model_copy(update={"status": "crashed", "reason": "It died."})
    assert jobs.failure([bad, good], tmp_path) is None
    assert str(jobs.failure([bad, bad], tmp_path / "f")) == (
        f"Nothing was measured: It died. The failures are recorded in {tmp_path / 'f'}."
    )
