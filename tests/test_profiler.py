"""The measuring room on the fake backend: real child processes, known cost."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import made
import psutil
import pytest

from kit import profiler, store, worker
from kit.errors import IntegrityError, MeasurementError, StorageError, UsageError
from kit.profiler import Progress
from kit.records import Environment, Measurement, MeasureSettings, ProfileRecord

FAST = MeasureSettings(backend="fake", visit_s=0.02, rounds_min=2, rounds_max=2, timeout_s=30)


def fakes(*names: str) -> list[profiler.Target]:
    return profiler.resolve(names, backend="fake")


def test_a_known_cost_is_measured_and_the_record_is_on_the_disk(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    records = profiler.profile(fakes("fake:2000us"), FAST, made.device(), out)
    assert store.read_profiles([out]) == records
    measurement = records[0].measurement
    assert measurement is not None and len(measurement.visits) == 2
    lowest = min(v for visit in measurement.visits for v in visit.values_ns)
    assert lowest >= 2_000_000  # it cannot be faster than its cost; how much slower is the machine's affair
    assert measurement.visits[0].memory.peak_bytes >= measurement.visits[0].memory.at_start_bytes > 0
    assert sorted(os.listdir(tmp_path)) == [".lock", "x.jsonl"]


def test_every_way_to_fail_is_one_record_and_the_sweep_goes_on(tmp_path: Path) -> None:
    settings = FAST.model_copy(update={"timeout_s": 3.0})
    records = profiler.profile(
        fakes("fake:crash", "fake:memory", "fake:hang", "fake:100us"), settings, made.device(), tmp_path / "x.jsonl"
    )
    assert [r.outcome for r in records] == ["crashed", "out_of_memory", "timeout", "ok"]
    assert all(r.reason for r in records[:3]) and all(r.measurement is None for r in records[:3])
    assert len(store.read_profiles([tmp_path / "x.jsonl"])) == 4


def test_rounds_visit_in_another_order_but_the_same_for_the_same_seed(tmp_path: Path) -> None:
    names = [f"fake:{n}us" for n in range(1, 7)]
    seen: list[list[str]] = []
    for run, seed in enumerate((1, 1, 2)):
        texts: list[str] = []
        settings = FAST.model_copy(update={"seed": seed, "visit_s": 0.001, "warmup_max_s": 0.0})
        profiler.profile(
            fakes(*names),
            settings,
            made.device(),
            tmp_path / f"{run}.jsonl",
            progress=lambda p, t=texts: t.append(p.text),
        )  # type: ignore[misc]
        seen.append(texts)
    assert seen[0] == seen[1] != seen[2]
    assert sorted(t[9:] for t in seen[0][:6]) == sorted(names) and [t[9:] for t in seen[0][:6]] != [
        t[9:] for t in seen[0][6:]
    ]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import made
from kit import profiler
from test_profiler import FAST, fakes
def progress(p):
    if p.done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
profiler.profile(fakes("fake:100us", "fake:200us", "fake:300us"), FAST, made.device(), Path(sys.argv[1]), progress=progress)
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out), str(Path(__file__).parent)])
    assert killed.returncode == -signal.SIGKILL and not out.exists()
    journal = next(tmp_path.glob(".x.*.journal"))
    written = journal.read_text().splitlines()
    with journal.open("a") as file:
        file.write('{"target": 0, "torn')  # the kill may fall into a line
    steps: list[Progress] = []
    records = profiler.profile(
        fakes("fake:100us", "fake:200us", "fake:300us"), FAST, made.device(), out, progress=steps.append
    )
    assert len(written) == 4 and steps[0].text == "going on after 3 visits" and len(steps) == 4
    assert [len(r.measurement.visits) for r in records if r.measurement] == [2, 2, 2]
    assert not journal.exists() and len(store.read_profiles([out])) == 3
    before_kill = {tuple(__import__("json").loads(line)["visit"]["values_ns"]) for line in written[1:]}
    kept = {v.values_ns for r in records if r.measurement for v in r.measurement.visits}
    assert before_kill <= kept


def test_a_kill_between_two_records_writes_none_twice(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    records = profiler.profile(fakes("fake:1us", "fake:2us"), FAST, made.device(), out)
    run = profiler._Run(run_id=records[0].record_id.rsplit("-", 1)[0])
    run.visits = {i: list(r.measurement.visits) for i, r in enumerate(records) if r.measurement}
    lines = out.read_text().splitlines(keepends=True)
    out.write_text(lines[0])
    again = profiler._write_records(run, fakes("fake:1us", "fake:2us"), FAST, made.device(), out)
    assert [r.record_id for r in store.read_profiles([out])] == [r.record_id for r in again]


def test_a_kill_inside_the_first_line_ever_written_is_mended(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"kind": "profile", "torn')
    key = profiler._run_key(fakes("fake:1us"), FAST, made.device())
    (tmp_path / f".x.{key}.journal").write_text('{"run_')
    records = profiler.profile(fakes("fake:1us"), FAST, made.device(), tmp_path / "x.jsonl")
    assert store.read_profiles([tmp_path / "x.jsonl"]) == records


def test_a_file_in_the_users_folder_does_not_stand_in_for_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('not me')")
    monkeypatch.chdir(tmp_path)
    (record,) = profiler.profile(fakes("fake:1us"), FAST, made.device(), tmp_path / "x.jsonl")
    assert record.outcome == "ok"


ORPHAN = """
import os, signal, sys, threading, time
from kit import profiler, worker
threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
profiler._ask(worker.Request(path="x", artifact=profiler.resolve(["fake:hang"], backend="fake")[0].artifact, backend="fake", threads=1), 60)
"""


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN])
    time.sleep(1.0)
    children = [p.pid for p in psutil.Process(parent.pid).children()]
    assert children and parent.wait() == -signal.SIGKILL
    for _ in range(100):
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in children):
            return
        time.sleep(0.05)
    raise AssertionError("the child outlived its parent")


def test_the_budget_ends_the_run_after_the_first_round(tmp_path: Path) -> None:
    settings = FAST.model_copy(update={"budget_s": 0.01, "rounds_max": 5})
    records = profiler.profile(fakes("fake:1us", "fake:2us"), settings, made.device(), tmp_path / "x.jsonl")
    assert [len(r.measurement.visits) for r in records if r.measurement] == [1, 1]
    assert {r.label for r in records} == {"inconclusive"} and "only 1 processes" in records[0].evidence[-1]


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="Another kit profile is measuring"):
            profiler.profile(fakes("fake:1us"), FAST, made.device(), tmp_path / "x.jsonl")


def test_targets_that_cannot_be_are_refused(tmp_path: Path) -> None:
    cases = {
        "none.onnx": "does not exist",
        "resnet18-d8-w1.00-fp32-32": "--build",
        "whatever": "give an .onnx file",
        str(tmp_path): "holds no variant",
        "fake:1us": "--backend fake",
    }
    for text, says in cases.items():
        with pytest.raises(UsageError, match=says):
            profiler.resolve([text], backend="onnxruntime")
    with pytest.raises(UsageError, match="like fake:250us"):
        profiler.resolve(["fake:fast"], backend="fake")
    with pytest.raises(UsageError, match="holds no variant resnet18"):
        profiler.resolve(["resnet18-d8-w1.00-fp32-32"], backend="onnxruntime", build=tmp_path)
    with pytest.raises(MeasurementError, match="nothing to measure"):
        profiler.profile([], FAST, made.device(), tmp_path / "x.jsonl")


def test_a_sidecar_that_names_another_file(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"a")
    (tmp_path / "c.onnx").write_bytes(b"c")
    store.write_record(tmp_path / "c.json", made.artifact("a"))
    with pytest.raises(IntegrityError, match="c.onnx is not the file that c.json describes"):
        profiler.resolve([str(tmp_path / "c.onnx")], backend="onnxruntime")


def test_a_model_that_is_not_the_one_its_sidecar_describes(tmp_path: Path) -> None:
    artifact = made.artifact("net")
    (tmp_path / "net.onnx").write_bytes(b"another model")
    store.write_record(tmp_path / "net.json", artifact)
    with pytest.raises(IntegrityError, match="not the file that net.json describes"):
        profiler.resolve([str(tmp_path / "net.onnx")], backend="onnxruntime")


# ---------------------------------------------------------------------------------------------------------------- labels

SETTINGS = MeasureSettings()


def measured(medians: list[float], spread: float = 0.001, **changes: object) -> Measurement:
    visits = [
        made.visit([m * (1 + spread * (-1) ** i * (i % 5)) for i in range(50)], r, **changes)
        for r, m in enumerate(medians)
    ]
    return Measurement(visits=tuple(visits))


CALM = [1.0, 1.001, 1.002, 1.001, 1.0, 1.001]


def drifting() -> Measurement:
    return Measurement(visits=tuple(made.visit([1.0] * 30 + [1.08] * 30, r) for r in range(6)))


def moved() -> Measurement:
    """The model's own times agree, the fixed product beside them does not."""
    return Measurement(visits=tuple(made.visit([1.0] * 30, r, reference_ns=(1.0 + r / 10,) * 2) for r in range(6)))


@pytest.mark.parametrize(
    ("measurement", "label", "says"),
    [
        (measured(CALM), "stable", "6 processes"),
        (measured([*CALM, 1.001]), "settled", "7 processes"),
        (measured([1.0, 1.01, 1.02, 1.03, 1.05, 1.06]), "settled", "wider than"),
        (measured([1.0, 1.2, 1.4, 1.0, 1.2, 1.4]), "inconclusive", "wider than"),
        (measured(CALM, spread=0.05), "settled", "within 5 %"),
        (measured(CALM[:5]), "inconclusive", "only 5 processes where 6 are needed"),
        (
            measured(CALM, after=Environment(at_utc=made.NOW, throttle_flags=("throttled",))),
            "throttled",
            "reports throttled",
        ),
        (measured(CALM, after=Environment(at_utc=made.NOW, throttle_flags=())), "stable", "6 processes"),
        (measured(CALM, warm=False), "stable", "still changing when warm-up ended"),
        (drifting(), "inconclusive", "halves of a process differ"),
        (moved(), "settled", "the machine itself moved"),
    ],
)
def test_labels_follow_the_evidence(measurement: Measurement, label: str, says: str) -> None:
    got, evidence = profiler.judge(measurement, SETTINGS)
    assert got == label and any(says in text for text in evidence)


def test_records_carry_what_is_needed_to_judge_them_again(tmp_path: Path) -> None:
    record = profiler.profile(fakes("fake:10us"), FAST, made.device(), tmp_path / "x.jsonl")[0]
    again = ProfileRecord.model_validate_json(store.canonical_json(record))
    assert again.measurement is not None
    assert profiler.judge(again.measurement, again.settings) == (record.label, record.evidence)
    assert again.measurement.visits[0].reference_ns is not None and again.measurement.visits[0].versions["python"]


def test_a_child_that_says_nonsense_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/echo")
    reply = profiler._ask(worker.Request(path="x", artifact=None, backend="fake", threads=1), 5)
    assert reply.outcome == "failed" and reply.reason == "The child process gave an unreadable answer."
