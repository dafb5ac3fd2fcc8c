"""The measuring room: real child processes of known cost where children matter, an emulated machine where the plan does."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import backends, store
from kit.devices import operating_point, telemetry
from kit.errors import MeasurementError, StorageError, UsageError
from kit.measure import forkserver, profiler, quality, targets, worker
from kit.measure.profiler import Job, Progress
from kit.measure.targets import Target
from kit.measure.worker import WorkerReply, WorkerRequest
from kit.records import (
    Layers,
    LayerTime,
    MeasureSettings,
    ProfileRecord,
    Reference,
)

FAST = MeasureSettings(backend="fake", run_s=0.02, rounds_min=2, rounds_max=2, timeout_s=30)
ONCE = FAST.model_copy(update={"rounds_min": 1, "rounds_max": 1, "run_s": 0.01, "warmup_max_s": 0.05})
FIVE_RUNS = MeasureSettings(
    run_s=0.02, rounds_min=5, rounds_max=5
)  # drifts, and has what it takes to give a device its scale
HERE = min(os.sched_getaffinity(0))


def fakes(*names: str, how: MeasureSettings = FAST, **changes: Any) -> list[Job]:
    """Each fake target in the way of ``how``, with ``changes``."""
    chosen = how.model_copy(update=changes)
    return [Job(target, chosen) for target in targets.resolve(names, backend="fake")]


def at(name: str, *points: dict[str, Any], how: MeasureSettings = ONCE) -> list[Job]:
    """One fake target at several operating points."""
    return [job for point in points for job in fakes(name, how=how, **point)]


def sized(*macs: int, how: MeasureSettings = FAST, **changes: Any) -> list[Job]:
    """Networks of these sizes that only an emulated machine can run."""
    how = how.model_copy(update=changes)
    return [Job(Target(Path(f"net{m}.onnx"), synthetic.artifact(f"net{m}", macs=m)), how) for m in macs]


def run_counts(records: Sequence[ProfileRecord]) -> list[int]:
    return [len(r.measurement.runs) if r.measurement else 0 for r in records]


@dataclass
class Machine:
    """Answers the profiler's questions without a child, on a clock of its own: a run takes ``run_s`` and 0.7 s more.

    ``latency`` gives the seconds of one call from the request and how often its network was run before; a Reply instead is
    the answer itself. ``product_ns`` is what the reference product takes.
    """

    latency: Callable[[WorkerRequest, int], float | WorkerReply] = lambda request, before: 0.01
    product_ns: int = 1_000_000
    overhead_s: float = 0.7
    now_s: float = 100.0
    requests: list[WorkerRequest] = field(default_factory=list)

    def ask(self, request: WorkerRequest, timeout_s: float) -> WorkerReply:
        before = sum(r.artifact == request.artifact for r in self.requests)
        self.requests.append(request)
        self.now_s += self.overhead_s + request.run_s
        latency_s = self.latency(request, before)
        if isinstance(latency_s, WorkerReply):
            return latency_s
        values = [latency_s * (1 + 1e-4 * ((i * 7 + before) % 5)) for i in range(10)]
        references = {"product": [self.product_ns] * 6}
        return WorkerReply(status="ok", run=synthetic.run(values, request.round, block=2, references=references))

    def install(self, patch: Callable[[Any, str, Any], None]) -> Machine:
        patch(forkserver.ForkServer, "ask", lambda _, request, timeout_s: self.ask(request, timeout_s))
        patch(profiler, "time", SimpleNamespace(perf_counter=lambda: self.now_s, monotonic=lambda: self.now_s))
        patch(telemetry, "meters", lambda **_: [])
        patch(backends, "require", lambda name: None)
        return self

    @property
    def names(self) -> list[str]:
        return [r.artifact.artifact_id for r in self.requests if r.artifact]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine().install(monkeypatch.setattr)


# ---------------------------------------------------------------------------------------------------------- real children


def test_a_known_cost_is_measured_and_the_record_is_on_the_disk(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    records = profiler.profile(fakes("fake:2000us"), synthetic.device(), out)
    assert store.read_profiles([out]) == records
    measurement = records[0].measurement
    assert measurement is not None and len(measurement.runs) == 2
    lowest = min(v for run in measurement.runs for v in run.values_ns)
    assert lowest >= 2_000_000  # it cannot be faster than its cost; how much slower is the machine's affair
    run = measurement.runs[0]
    assert run.memory.peak_bytes >= run.memory.at_start_bytes > 0
    assert len(run.elapsed_ns) % run.block == 0 and run.switches is not None
    assert {len(s) for s in run.references.values()} == {len(run.elapsed_ns) // run.block + 1}
    assert len(run.switches) == len(run.elapsed_ns) // run.block
    assert sorted(os.listdir(tmp_path)) == [".lock", "x.jsonl"]
    assert measurement.reference is None  # the fake backend waits for a clock, which does not drift
    assert run.collected_s is not None and run.collected_s * 1e9 >= run.elapsed_ns.array().sum()


#: Children that die or fail as bad models do. The limit is the kernel's own; only the allocation is chosen here.
BAD_MODELS = """
import os, resource, sys
sys.path[:] = [p for p in sys.path if p]
import numpy
from kit.measure import worker
from kit.backends import fake
from pathlib import Path

def limited():
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), -1))
    numpy.ones(1 << 28)

def broken():
    raise RuntimeError("Node Conv_3 failed\\nwith a second line")

ENDS = {"fake:901us": limited, "fake:902us": broken, "fake:903us": lambda: os.kill(os.getpid(), 9), "fake:904us": lambda: os._exit(3)}
spin = fake.FakeSession._spin

def opened(path, artifact, threads, mode="", batch=None, plain=fake.open):
    session = plain(path, artifact, threads, mode, batch)
    end = ENDS.get(artifact.artifact_id)
    if end:
        session.run = lambda feeds: end()
    return session

fake.open = opened
worker.main()
"""


def test_every_way_to_fail_is_one_record_and_the_sweep_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "CODE", BAD_MODELS)
    names = (
        "fake:crash",
        "fake:memory",
        "fake:901us",
        "fake:902us",
        "fake:903us",
        "fake:904us",
        "fake:hang",
        "fake:100us",
    )
    jobs = fakes(*names, how=ONCE, timeout_s=3.0) + at("fake:100us", {"batch": 8}, {"affinity": (99999,)})
    records = profiler.profile(jobs, synthetic.device(), tmp_path / "x.jsonl")
    assert [r.status for r in records] == [
        "crashed", "out_of_memory", "out_of_memory", "failed", "out_of_memory", "crashed", "timeout", "ok", "unsupported", "unsupported",
    ]  # fmt: skip
    reasons = [r.reason or "" for r in records]
    phrases = ["signal 6", "ran out of memory", "ran out of memory", "RuntimeError: Node Conv_3 failed", "lack of memory", "code 3",
            "within 3 s", "", "batch 1, not 8", "CPU 99999 does not exist"]  # fmt: skip
    assert all(words in reason for words, reason in zip(phrases, reasons, strict=True)), reasons
    assert not any("\n" in reason for reason in reasons)
    assert all(r.measurement is None and r.label is None for r in records if r.status != "ok")
    assert store.read_profiles([tmp_path / "x.jsonl"]) == sorted(records, key=lambda r: r.created_utc)


@pytest.mark.parametrize(
    ("text", "out_of_memory"),
    [
        ("MemoryError", True),
        ("RuntimeException: Failed to allocate memory for requested buffer of size 4096", True),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried",
            True,
        ),
        ("OSError: [Errno 12] Cannot allocate memory", True),
        ("OutOfMemoryError: CUDA out of memory.", True),
        ("RuntimeError: std::bad_alloc", True),
        ("InvalidArgument: Got invalid dimensions for input", False),
    ],
)
def test_out_of_memory_is_recognized_in_many_words(text: str, out_of_memory: bool) -> None:
    assert worker.is_out_of_memory(text) is out_of_memory


def test_real_points_of_one_network_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap, a load and an affinity are real; a clock cap without --control is a record and not an error."""
    burning: list[tuple[int, list[psutil.Process]]] = []
    real = forkserver.ForkServer.ask

    def ask(own: forkserver.ForkServer, request: WorkerRequest, timeout_s: float) -> WorkerReply:
        burners = [
            c
            for c in psutil.Process().children(recursive=True)
            if "kit.devices.operating_point" in " ".join(c.cmdline())
        ]
        burning.append((len(burners), burners))
        return real(own, request, timeout_s)

    monkeypatch.setattr(forkserver.ForkServer, "ask", ask)
    points: list[dict[str, Any]] = [
        {}, {"gap_s": 0.003, "run_s": 0.05}, {"load": 1}, {"affinity": (HERE,)}, {"clock_cap_hz": 1e9}, {"power_mode": "15W"},
    ]  # fmt: skip
    records = profiler.profile(at("fake:200us", *points), synthetic.device(), tmp_path / "x.jsonl")
    assert [r.status for r in records] == ["ok"] * 4 + ["unsupported"] * 2
    assert [r.settings.name for r in records] == [
        "t1",
        "t1-gap3ms",
        "t1-load1",
        f"t1-cpu{HERE}",
        "t1-cap1GHz",
        "t1-15W",
    ]
    assert len({r.record_id for r in records}) == 6
    assert sorted(count for count, _ in burning) == [0, 0, 0, 1]  # a burner while its point is measured, and only then
    assert not any(child.is_running() for _, children in burning for child in children)
    idle, gap, loaded, pinned = (r.measurement for r in records[:4])
    assert idle is not None and gap is not None and loaded is not None and pinned is not None
    assert gap.runs[0].loops == 1
    assert len(gap.runs[0].elapsed_ns) <= 0.05 / 0.003 + gap.runs[0].block  # each value waited at least its gap
    assert all(m.runs[0].values_ns.min() >= 200_000 for m in (idle, gap, loaded, pinned))
    words = ("--control", "cpufreq", "root", "nvpmodel")  # whichever this machine says first
    assert all(any(word in (r.reason or "") for word in words) for r in records[4:])


def test_a_file_in_the_users_folder_does_not_stand_in_for_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('not me')")
    monkeypatch.chdir(tmp_path)
    (record,) = profiler.profile(fakes("fake:1us", how=ONCE), synthetic.device(), tmp_path / "x.jsonl")
    assert record.status == "ok"


#: A parent whose child writes its process id into a pipe once it hangs.
ORPHAN = """
import sys
from kit.measure import forkserver, targets, worker
HANGS = "import os, pathlib; from kit.backends import fake; plain = fake.FakeSession._end\\n" \
        "def end(session, feeds): pathlib.Path(%r).write_text(f'{os.getpid()} {os.getppid()}'); plain(session, feeds)\\n" \
        "fake.FakeSession._end = end\\n"
worker.CODE = HANGS % sys.argv[1] + worker.CODE
artifact = targets.resolve(["fake:hang"], backend="fake")[0].artifact
forkserver.ask(worker.WorkerRequest(path="x", artifact=artifact, backend="fake", threads=1), 600)
"""


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    """Killed while the child works: the kernel reports each end by its pidfd, so nothing waits for a clock."""
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen([sys.executable, "-c", ORPHAN, str(tmp_path / "pipe")]) as parent:
        pipe, ended = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK), os.pidfd_open(parent.pid)
        assert select.select([pipe, ended], [], [], 60)[0] == [pipe], "no child hangs"
        child, template = map(int, os.read(pipe, 100).split())
        os.close(pipe)
        os.close(ended)
        assert template in [p.pid for p in psutil.Process(parent.pid).children()]
        ends = [os.pidfd_open(pid) for pid in (child, template)]
        parent.kill()
    assert parent.returncode == -signal.SIGKILL
    for end in ends:
        assert select.select([end], [], [], 60)[0], "the child outlived its parent"
        os.close(end)


def test_records_carry_what_is_needed_to_judge_them_again(tmp_path: Path) -> None:
    record = profiler.profile(fakes("fake:10us"), synthetic.device(), tmp_path / "x.jsonl")[0]
    again = ProfileRecord.model_validate_json(store.canonical_json(record))
    assert again.measurement is not None
    assert quality.label_of(again.measurement, again.settings) == (record.label, record.evidence)
    assert again.measurement.runs[0].references and again.measurement.runs[0].versions["python"]


def test_a_child_that_says_nonsense_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/echo")
    reply = forkserver.ask(worker.WorkerRequest(path="x", artifact=None, backend="fake", threads=1), 5)
    assert reply.status == "failed" and reply.reason == "The child process gave an unreadable answer."


# ---------------------------------------------------------------------------------------------------------------- rounds


def test_rounds_run_in_another_order_but_the_same_for_the_same_seed(tmp_path: Path, machine: Machine) -> None:
    names = [f"fake:{n}us" for n in range(1, 7)]
    orders: list[list[str]] = []
    for run, seed in enumerate((1, 1, 2)):
        machine.requests.clear()
        profiler.profile(fakes(*names, seed=seed), synthetic.device(), tmp_path / f"{run}.jsonl")
        orders.append(machine.names)
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0][:6]) == sorted(orders[0][6:]) == sorted(names) and orders[0][:6] != orders[0][6:]


def test_points_backends_and_networks_are_interleaved_in_one_run(tmp_path: Path, machine: Machine) -> None:
    ways = [FAST.model_copy(update={"backend": b, "threads": t}) for b in ("onnxruntime", "fake") for t in (1, 2)]
    jobs = [Job(job.target, how) for job in sized(1, 2) for how in ways]
    records = profiler.profile(jobs, synthetic.device(), tmp_path / "x.jsonl")
    key = [(r.artifact.artifact_id, r.settings.backend, r.settings.threads) for r in records]
    assert key == [(j.target.artifact.artifact_id, j.settings.backend, j.settings.threads) for j in jobs]
    rounds = [{(r.artifact, r.backend, r.threads) for r in machine.requests if r.round == round_} for round_ in (0, 1)]
    assert (
        len(machine.requests) == 16 and len(rounds[0]) == 8 and [r.round for r in machine.requests] == [0] * 8 + [1] * 8
    )


def test_a_request_carries_its_point(tmp_path: Path, machine: Machine) -> None:
    point = {"threads": 1, "batch": 4, "affinity": (HERE,), "gap_s": 0.002, "warmup_max_s": 0.3, "seed": 5}
    profiler.profile(at("fake:10us", point), synthetic.device(), tmp_path / "x.jsonl")
    (request,) = machine.requests
    assert {name: getattr(request, name) for name in point} == point and request.run_s == ONCE.run_s
    assert WorkerRequest.model_validate_json(forkserver.request_line(request)) == request


def test_a_job_closes_when_nothing_speaks_against_it(tmp_path: Path, machine: Machine) -> None:
    """The quiet network gets its six rounds, the wild one all ten, the one that calms down something between."""

    def latency(request: WorkerRequest, before: int) -> float:
        assert request.artifact is not None
        wild = {"net1": False, "net2": True, "net3": before in (1, 3)}[request.artifact.artifact_id]
        return 0.01 * (1 + 0.2 * (before % 3) if wild else 1)

    machine.latency = latency
    how = MeasureSettings(backend="fake", run_s=0.02)
    records = profiler.profile(sized(1, 2, 3, how=how), synthetic.device(), tmp_path / "x.jsonl")
    assert run_counts(records)[:2] == [6, 10] and 6 < run_counts(records)[2] < 10
    assert [r.label for r in records] == ["stable", "inconclusive", "settled"]


def test_a_network_that_fails_later_keeps_what_was_measured(tmp_path: Path, machine: Machine) -> None:
    crash = WorkerReply(status="crashed", reason="The process died by signal 11.")
    machine.latency = lambda request, before: crash if before == 1 and request.path == "net1.onnx" else 0.01
    records = profiler.profile(
        sized(1, 2, how=FAST.model_copy(update={"rounds_max": 4})), synthetic.device(), tmp_path / "x.jsonl"
    )
    assert [r.status for r in records] == ["crashed", "ok"] and run_counts(records)[0] == 1
    assert records[0].label is None and records[0].reason == "The process died by signal 11." and not records[0].trusted
    assert machine.names.count("net1") == 2  # a network that failed is not run again


def test_progress_says_what_comes_and_what_is_left(tmp_path: Path, machine: Machine) -> None:
    steps: list[Progress] = []
    profiler.profile(sized(1, 2, 3), synthetic.device(), tmp_path / "x.jsonl", progress=steps.append)
    assert [s.steps_done for s in steps] == list(range(6)) and {s.planned for s in steps} == {6}
    assert [s.remaining_s is None for s in steps] == [True] * 3 + [False] * 3
    assert steps[-1].remaining_s == pytest.approx(0.72) and steps[0].text.startswith("round 1: net")


def test_layers_come_from_a_process_of_their_own(tmp_path: Path, machine: Machine) -> None:
    layers = Layers(
        nodes=(LayerTime(name="conv", kind="Conv", stage="stem", time_s=0.01, calls=1),),
        total_s=0.02,
        calls=1,
        source="made up",
    )

    def latency(request: WorkerRequest, before: int) -> float | WorkerReply:
        if not request.layers:
            return 0.01
        none = WorkerReply(status="unsupported", reason="This runtime has no profiler.")
        return none if request.path == "net2.onnx" else WorkerReply(status="ok", layers=layers)

    machine.latency = latency
    one, two = profiler.profile(sized(1, 2), synthetic.device(), tmp_path / "x.jsonl", layers=True)
    assert one.layers == layers and run_counts([one]) == [2]
    assert two.layers is None and two.evidence[-1] == "no times per layer: This runtime has no profiler."
    assert sum(r.layers for r in machine.requests) == 2


# ----------------------------------------------------------------------------------------------------- states of the machine


@dataclass
class States:
    """What a machine that can be put into any point was put into (clock cap, power mode), and under which load each run was made."""

    entered: list[tuple[float | None, str | None]] = field(default_factory=list)
    loads: list[int] = field(default_factory=list)

    @contextmanager
    def controlled(self, *, state: Path, clock_cap_hz: float | None, power_mode: str | None) -> Iterator[None]:
        self.entered.append((clock_cap_hz, power_mode))
        yield

    @contextmanager
    def busy(self, load: int) -> Iterator[None]:
        self.loads.append(load)
        yield


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> States:
    states = States()
    monkeypatch.setattr(operating_point, "controlled", states.controlled)
    monkeypatch.setattr(operating_point, "busy", states.busy)
    monkeypatch.setattr(operating_point, "unsupported", lambda point: None)
    monkeypatch.setattr(operating_point, "state_file", lambda: tmp_path / "state.json")
    return states


def test_without_control_the_machine_is_left_alone(tmp_path: Path, machine: Machine, states: States) -> None:
    points: list[dict[str, Any]] = [{}, {"clock_cap_hz": 1e9}, {"power_mode": "15W"}, {"load": 2}]
    records = profiler.profile(at("fake:1us", *points), synthetic.device(), tmp_path / "x.jsonl")
    assert [r.status for r in records] == ["ok", "unsupported", "unsupported", "ok"]
    assert {r.reason for r in records[1:3]} == {"Changing the clock or the power mode must be allowed with --control."}
    assert states.entered == [(None, None)] and sorted(states.loads) == [0, 2]


def test_a_round_changes_the_state_of_the_machine_once_for_each(
    tmp_path: Path, machine: Machine, states: States
) -> None:
    caps: list[dict[str, Any]] = [
        {"clock_cap_hz": hz, "power_mode": mode} for mode in (None, "15W") for hz in (None, 1e9, 2e9)
    ]
    how = FAST.model_copy(update={"backend": "fake"})
    jobs = [job for name in ("fake:1us", "fake:2us", "fake:3us") for job in at(name, *caps, how=how)]
    records = profiler.profile(jobs, synthetic.device(), tmp_path / "x.jsonl", control=True)
    assert {r.status for r in records} == {"ok"} and len(machine.requests) == 36
    assert len(states.entered) == 12 and len(set(states.entered[:6])) == len(set(states.entered[6:])) == 6


def test_a_point_that_turns_out_not_to_hold_is_a_record(
    tmp_path: Path, machine: Machine, states: States, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def refused(**_: Any) -> Iterator[None]:
        raise StorageError("No permission to write scaling_max_freq: run the command with sudo.")
        yield

    monkeypatch.setattr(operating_point, "controlled", refused)
    (record,) = profiler.profile(
        at("fake:1us", {"power_mode": "15W"}), synthetic.device(), tmp_path / "x.jsonl", control=True
    )
    assert record.status == "unsupported" and "run the command with sudo" in (record.reason or "")
    assert machine.requests == []


def test_a_machine_that_was_not_put_back_ends_the_run(
    tmp_path: Path, machine: Machine, states: States, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going on would measure a machine in a state that no job requested."""

    @contextmanager
    def stuck(**_: Any) -> Iterator[None]:
        (tmp_path / "state.json").touch()
        yield
        raise StorageError("No permission to write scaling_max_freq: run the command with sudo.")

    monkeypatch.setattr(operating_point, "controlled", stuck)
    with pytest.raises(StorageError, match="with sudo"):
        profiler.profile(
            at("fake:1us", {"clock_cap_hz": 1e9}), synthetic.device(), tmp_path / "out" / "x.jsonl", control=True
        )


def test_what_a_killed_run_left_changed_is_put_back_first(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operating_point, "restore_left_over", lambda state: f"put back {state.name}")
    monkeypatch.setattr(operating_point, "state_file", lambda: tmp_path / "state.json")
    steps: list[Progress] = []
    profiler.profile(fakes("fake:1us"), synthetic.device(), tmp_path / "x.jsonl", progress=steps.append)
    assert steps[0].text == "put back state.json"


# ----------------------------------------------------------------------------------------------------------------- scale


def test_the_scale_of_a_device_is_written_once_and_used_again(tmp_path: Path, machine: Machine) -> None:
    (first,) = profiler.profile(sized(1, how=FIVE_RUNS), synthetic.device(), tmp_path / "x.jsonl")
    scale = store.read_record(tmp_path / "reference.json", Reference)
    assert scale.nominal_ns == {"product": 1_000_000.0} and scale.device_id == "synthetic-1c"
    machine.product_ns = 1_500_000
    (second,) = profiler.profile(sized(2, how=FIVE_RUNS), synthetic.device(), tmp_path / "y.jsonl")
    assert store.read_record(tmp_path / "reference.json", Reference) == scale
    assert first.measurement is not None and second.measurement is not None
    assert first.measurement.reference == second.measurement.reference
    assert second.measurement.reference is not None
    weights = second.measurement.reference.weights
    assert second.measurement.reference.nominal_ns == scale.nominal_ns and set(weights) == {"product"}
    assert second.measurement.corrected_s == pytest.approx(second.measurement.median_s / 1.5 ** weights["product"])


def test_where_the_state_is_what_is_measured_nothing_is_divided_out(
    tmp_path: Path, machine: Machine, states: States
) -> None:
    ways: list[dict[str, Any]] = [{}, {"gap_s": 0.001}, {"load": 1}, {"affinity": (HERE,)}, {"threads": 2, "batch": 4}]
    jobs = [job for way in ways for job in sized(1, backend="onnxruntime", **way)]
    records = profiler.profile(jobs, synthetic.device(), tmp_path / "x.jsonl")
    assert [r.measurement.corrected_s is None for r in records if r.measurement] == [False, True, True, True, False]


def test_a_new_device_is_measured_on_the_scale_of_its_first_run(tmp_path: Path, machine: Machine) -> None:
    """While the first batch runs, the scale is provisional; its records carry the one that was written."""
    machine.latency = lambda request, before: 0.01 * (1 + before / 100)
    jobs = sized(1, 2, how=FIVE_RUNS)
    records = profiler.profile(jobs, synthetic.device(), tmp_path / "x.jsonl")
    scale = store.read_record(tmp_path / "reference.json", Reference)
    references = [r.measurement.reference for r in records if r.measurement is not None]
    assert [own.nominal_ns for own in references if own is not None] == [scale.nominal_ns] * 2


def test_a_loaded_machine_gives_no_scale(tmp_path: Path, machine: Machine, states: States) -> None:
    """The first run on a device under load must not become what "usual" means there for ever."""
    profiler.profile(sized(1, how=FIVE_RUNS, load=4), synthetic.device(), tmp_path / "x.jsonl")
    profiler.profile(sized(1, how=FIVE_RUNS, backend="fake"), synthetic.device(), tmp_path / "x.jsonl")
    profiler.profile(
        sized(1, how=FIVE_RUNS, rounds_min=4, rounds_max=4), synthetic.device(), tmp_path / "x.jsonl"
    )  # too few processes
    assert not (tmp_path / "reference.json").exists()
    profiler.profile(
        sized(1, how=FIVE_RUNS, load=4) + sized(2, how=FIVE_RUNS), synthetic.device(), tmp_path / "x.jsonl"
    )
    assert (tmp_path / "reference.json").exists()


def test_the_scale_of_another_device_is_refused(tmp_path: Path, machine: Machine) -> None:
    profiler.profile(sized(1, how=FIVE_RUNS), synthetic.device(), tmp_path / "x.jsonl")
    with pytest.raises(UsageError, match="the scale of another device"):
        profiler.profile(sized(1, how=FIVE_RUNS), synthetic.device("another"), tmp_path / "y.jsonl")


# ---------------------------------------------------------------------------------------------------------------- budget


def planned(machine: Machine, tmp_path: Path, jobs: list[Job], **more: Any) -> tuple[list[ProfileRecord], float]:
    """The records of a run and the seconds of the machine's own clock that it took."""
    began = machine.now_s
    records = profiler.profile(jobs, synthetic.device(), tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl", **more)
    return records, machine.now_s - began


def test_the_budget_ends_the_run_after_the_first_round(tmp_path: Path, machine: Machine) -> None:
    records, _ = planned(machine, tmp_path, fakes("fake:1us", "fake:2us", budget_s=0.01, rounds_max=5))
    assert run_counts(records) == [1, 1]
    assert {r.label for r in records} == {"inconclusive"} and "only 1 processes" in records[0].evidence[-1]


def test_runs_are_shortened_so_that_the_rounds_fit_into_the_budget(tmp_path: Path, machine: Machine) -> None:
    how = MeasureSettings(backend="fake", run_s=1.0, budget_s=60.0, rounds_max=6)
    records, spent_s = planned(machine, tmp_path, sized(*range(1, 11), how=how))
    assert run_counts(records) == [6] * 10 and 50 < spent_s <= 60 + 1.7
    later = [r.run_s for r in machine.requests[10:]]
    assert min(later) >= profiler.RUN_MIN_S and max(later) < 0.6


def test_a_budget_with_room_is_not_used_up_where_no_check_fails(tmp_path: Path, machine: Machine) -> None:
    how = MeasureSettings(backend="fake", run_s=0.2, budget_s=1000.0)
    records, spent_s = planned(machine, tmp_path, sized(1, 2, how=how))
    assert {r.run_s for r in machine.requests} == {0.2} and spent_s == pytest.approx(len(machine.requests) * 0.9)
    assert all(6 <= count <= 10 for count in run_counts(records))


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 12),
    budget_s=st.floats(1.0, 120.0),
    run_s=st.floats(0.05, 2.0),
    batch=st.integers(1, 12),
    wild=st.booleans(),
)
def test_a_budget_is_kept_but_for_the_first_round(
    count: int, budget_s: float, run_s: float, batch: int, wild: bool
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        machine = Machine(lambda request, before: 0.01 * (1 + 0.3 * (before % 3) * wild)).install(patch.setattr)
        patch.setattr(profiler, "BATCH_JOBS", batch)
        how = MeasureSettings(backend="fake", run_s=run_s, budget_s=budget_s)
        records, spent_s = planned(machine, Path(folder), sized(*range(1, count + 1), how=how))
        first_rounds_s = count * (0.7 + max(run_s, profiler.RUN_MIN_S))
        assert all(run_counts(records))
        assert spent_s <= max(budget_s, first_rounds_s) + 0.7 + run_s + first_rounds_s * (batch < count)


def test_time_that_was_spent_before_counts_towards_the_budget(tmp_path: Path, machine: Machine) -> None:
    jobs = fakes("fake:1us", budget_s=10.0, run_s=0.3, rounds_min=6, rounds_max=6)
    assert run_counts(planned(machine, tmp_path, jobs)[0]) == [6]
    assert run_counts(planned(machine, tmp_path, jobs, spent_s=9.9)[0]) == [1]


def test_what_cannot_be_measured_leaves_its_share_of_the_budget_to_the_others(tmp_path: Path, machine: Machine) -> None:
    how = MeasureSettings(backend="fake", run_s=1.0, budget_s=40.0, rounds_max=6)
    bad = how.model_copy(update={"affinity": (99999,)})
    _, spent_s = planned(machine, tmp_path, [*sized(1, 2, 3, how=how), *sized(4, 5, 6, 7, 8, 9, how=bad)])
    assert spent_s > 0.7 * 18 * 1.7  # 18 runs of 1.7 s fit into 40 s


def test_an_unquiet_batch_leaves_the_later_ones_their_rounds(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiler, "BATCH_JOBS", 2)
    machine.latency = lambda request, before: 0.01 * (1 + 0.3 * (before % 3))
    how = MeasureSettings(backend="fake", run_s=0.5, budget_s=40.0)  # 36 runs of 1.1 s
    records, _ = planned(machine, tmp_path, sized(1, 2, 3, 4, 5, 6, how=how))
    assert min(run_counts(records)) >= 5


# ----------------------------------------------------------------------------------------------------------------- batches


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=60, unique=True))
def test_every_beginning_of_the_order_spans_the_sizes(macs: list[int]) -> None:
    order = profiler._order(sized(*macs))
    assert sorted(order) == list(range(len(macs)))
    ranks = {m: rank for rank, m in enumerate(sorted(macs))}
    sizes = [ranks[macs[index]] for index in order]
    for taken in (1, 3, 7, 15, 31):
        if taken <= len(macs):
            at_ = sorted([-1, *sizes[:taken], len(macs)])
            widest = max(b - a for a, b in pairwise(at_))
            assert widest <= 2 * (len(macs) + 1) / (taken + 1) + 1


def test_the_order_is_the_middle_the_quarters_the_eighths() -> None:
    assert [profiler._van_der_corput(k) for k in range(1, 8)] == [0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875]
    assert profiler._order(sized(*range(1, 8))) == [3, 1, 5, 0, 4, 2, 6]
    assert profiler._order(sized(70, 10, 60, 20, 50, 30, 40)) == [6, 3, 2, 1, 4, 5, 0]


def test_all_points_of_a_network_stand_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "BATCH_JOBS", 4)
    jobs = [Job(job.target, FAST.model_copy(update={"threads": t})) for t in (1, 2, 3) for job in sized(*range(1, 6))]
    batches = profiler._batches(jobs)
    assert sorted(i for batch in batches for i in batch) == list(range(15))
    networks = [{jobs[i].target.artifact.artifact_id for i in batch} for batch in batches]
    assert [len(n) for n in networks] == [2, 2, 1] and sum(map(len, networks)) == 5


def test_records_are_written_after_each_batch(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiler, "BATCH_JOBS", 2)
    out, written = tmp_path / "x.jsonl", []
    machine.latency = lambda request, before: (
        written.append(len(store.read_lines(out)) if out.is_file() else 0) or 0.01  # type: ignore[func-returns-value]
    )
    records = profiler.profile(sized(1, 2, 3, 4, 5), synthetic.device(), out)
    assert written == [0] * 4 + [2] * 4 + [4] * 2
    assert set(machine.names[:4]) == {"net3", "net2"} and set(machine.names[8:]) == {"net4"}  # the middle first
    assert [r.artifact.artifact_id for r in records] == [f"net{i}" for i in range(1, 6)]  # as they were given
    assert run_counts(records) == [2] * 5 and not list(tmp_path.glob(".*.journal"))


# ---------------------------------------------------------------------------------------------------------------- killed

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import synthetic
from kit.measure import profiler
from test_profiler import FAST, fakes
def progress(p):
    if p.steps_done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
profiler.profile(fakes("fake:100us", "fake:200us", "fake:300us"), synthetic.device(), Path(sys.argv[1]), progress=progress)
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out), str(Path(__file__).parent)])
    assert killed.returncode == -signal.SIGKILL and not out.exists()
    journal = next(tmp_path.glob(".x.*.journal"))
    written = journal.read_text().splitlines()
    with journal.open("a") as file:
        file.write('{"job": 0, "torn')  # the kill may fall into a line
    steps: list[Progress] = []
    records = profiler.profile(
        fakes("fake:100us", "fake:200us", "fake:300us"), synthetic.device(), out, progress=steps.append
    )
    assert len(written) == 4 and steps[0].text == "resuming after 3 runs" and len(steps) == 4
    assert run_counts(records) == [2, 2, 2]
    assert not journal.exists() and len(store.read_profiles([out])) == 3
    before_kill = {json.loads(line)["visit"]["elapsed_ns"] for line in written[1:]}
    recorded = {run.elapsed_ns.packed for r in records if r.measurement for run in r.measurement.runs}
    assert before_kill <= recorded


KILLED_LATER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import synthetic
from kit.measure import profiler
from test_profiler import FIVE_RUNS, Machine, sized
machine = Machine().install(setattr)
profiler.BATCH_JOBS = 2
def progress(p):
    if len(machine.requests) == 13:
        os.kill(os.getpid(), signal.SIGKILL)
profiler.profile(sized(1, 2, 3, 4, 5, how=FIVE_RUNS), synthetic.device(), Path(sys.argv[1]), progress=progress)
"""


def test_a_kill_in_the_second_batch_keeps_the_records_of_the_first(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.jsonl"
    killed = subprocess.run([sys.executable, "-c", KILLED_LATER, str(out), str(Path(__file__).parent)])
    assert killed.returncode == -signal.SIGKILL
    first, scale = out.read_bytes(), (tmp_path / "reference.json").read_bytes()
    assert first.count(b"\n") == 2
    monkeypatch.setattr(profiler, "BATCH_JOBS", 2)
    machine.product_ns = 2_000_000
    steps: list[Progress] = []
    records = profiler.profile(sized(1, 2, 3, 4, 5, how=FIVE_RUNS), synthetic.device(), out, progress=steps.append)
    assert steps[0].text == "resuming after 13 runs" and len(machine.requests) == 12
    assert out.read_bytes().startswith(first) and (tmp_path / "reference.json").read_bytes() == scale
    assert store.read_profiles([out]) == sorted(records, key=lambda r: r.created_utc)
    assert run_counts(records) == [5] * 5 and len({r.record_id for r in records}) == 5
    assert {r.record_id.rsplit("-", 2)[0] for r in records} == {records[0].record_id.rsplit("-", 2)[0]}
    assert not list(tmp_path.glob(".*.journal"))


def test_a_failure_before_the_kill_is_not_tried_again(tmp_path: Path, machine: Machine) -> None:
    machine.latency = lambda request, before: WorkerReply(status="crashed", reason="The process died by signal 11.")

    def stop(step: Progress) -> None:
        if step.steps_done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profiler.profile(fakes("fake:1us", "fake:2us"), synthetic.device(), tmp_path / "x.jsonl", progress=stop)
    machine.latency = lambda request, before: 0.01
    records = profiler.profile(fakes("fake:1us", "fake:2us"), synthetic.device(), tmp_path / "x.jsonl")
    assert sorted(r.status for r in records) == ["crashed", "ok"] and len(machine.requests) == 3


def test_control_after_a_kill_counts(tmp_path: Path, machine: Machine, states: States) -> None:
    def stop(step: Progress) -> None:
        raise KeyboardInterrupt

    jobs = at("fake:1us", {"clock_cap_hz": 1e9}, {})
    with pytest.raises(KeyboardInterrupt):
        profiler.profile(jobs, synthetic.device(), tmp_path / "x.jsonl", progress=stop)
    records = profiler.profile(jobs, synthetic.device(), tmp_path / "x.jsonl", control=True)
    assert [r.status for r in records] == ["ok", "ok"]


def test_fresh_discards_the_journal(tmp_path: Path, machine: Machine) -> None:
    def stop(step: Progress) -> None:
        if step.steps_done == 3:
            raise KeyboardInterrupt

    for fresh in (False, True):
        with pytest.raises(KeyboardInterrupt):
            profiler.profile(fakes("fake:1us", "fake:2us"), synthetic.device(), tmp_path / "x.jsonl", progress=stop)
        machine.requests.clear()
        profiler.profile(fakes("fake:1us", "fake:2us"), synthetic.device(), tmp_path / "x.jsonl", fresh=fresh)
        assert len(machine.requests) == (4 if fresh else 1)


def test_another_command_does_not_go_on_with_this_ones_journal(tmp_path: Path, machine: Machine) -> None:
    jobs = fakes("fake:1us")
    keys = {
        profiler._journal_key(jobs, synthetic.device()),
        profiler._journal_key(fakes("fake:2us"), synthetic.device()),
        profiler._journal_key(fakes("fake:1us", seed=1), synthetic.device()),
        profiler._journal_key(fakes("fake:1us", gap_s=0.1), synthetic.device()),
        profiler._journal_key(jobs + fakes("fake:2us"), synthetic.device()),
        profiler._journal_key(jobs, synthetic.device("another")),
    }
    assert len(keys) == 6 and profiler._journal_key(fakes("fake:1us"), synthetic.device()) in keys


def test_the_journal_holds_each_run_before_the_next_begins(tmp_path: Path, machine: Machine) -> None:
    lines: list[list[dict[str, Any]]] = []

    def watch(step: Progress) -> None:
        (journal,) = tmp_path.glob(".x.*.journal")
        lines.append([json.loads(line) for line in journal.read_text().splitlines()])

    profiler.profile(sized(1, 2), synthetic.device(), tmp_path / "x.jsonl", progress=watch)
    assert [len(journal_lines) for journal_lines in lines] == [1, 2, 3, 4] and list(lines[0][0]) == ["run_id"]
    assert {line["job"] for line in lines[3][1:]} == {0, 1}
    assert all(line["wall_s"] == pytest.approx(0.72) for line in lines[3][1:])


def test_a_kill_between_two_records_writes_none_twice(tmp_path: Path, machine: Machine) -> None:
    out = tmp_path / "x.jsonl"
    jobs = fakes("fake:1us", "fake:2us")
    records = profiler.profile(jobs, synthetic.device(), out)
    results = profiler._Results(run_id=records[0].record_id.rsplit("-", 2)[0])
    results.runs = {i: list(r.measurement.runs) for i, r in enumerate(records) if r.measurement}
    lines = out.read_text().splitlines(keepends=True)
    out.write_text(lines[0])
    again = profiler._write_records(results, jobs, [0, 1], synthetic.device(), out, layers=False)
    assert [r.record_id for r in again] == [r.record_id for r in records]
    assert {r.record_id for r in store.read_profiles([out])} == {r.record_id for r in again}
    assert len(out.read_text().splitlines()) == 2


def test_a_kill_inside_the_first_line_ever_written_is_mended(tmp_path: Path, machine: Machine) -> None:
    (tmp_path / "x.jsonl").write_text('{"kind": "profile", "torn')
    key = profiler._journal_key(fakes("fake:1us"), synthetic.device())
    (tmp_path / f".x.{key}.journal").write_text('{"run_')
    records = profiler.profile(fakes("fake:1us"), synthetic.device(), tmp_path / "x.jsonl")
    assert store.read_profiles([tmp_path / "x.jsonl"]) == records


# --------------------------------------------------------------------------------------------------------------- refused


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="Another kit profile is measuring"):
            profiler.profile(fakes("fake:1us"), synthetic.device(), tmp_path / "x.jsonl")


def test_nothing_to_measure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="nothing to measure"):
        profiler.profile([], synthetic.device(), tmp_path / "x.jsonl")
    assert not list(tmp_path.iterdir())
