"""Child process: open a session, call the stopwatch, answer with one JSON line.

It reads JSON requests on standard input and writes one JSON line each to what was standard output; whatever a runtime prints
goes to standard error. Each request is answered by a fresh process, so that no run inherits another's heap, threads or caches:
the process that was started imports the runtime and forks for each request (:mod:`kit.measure.forkserver` is its other end).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TextIO, TypeVar

import numpy as np
from pydantic import Field

from kit import backends
from kit.backends import feeds, onnxgraph, reasons
from kit.devices import telemetry
from kit.errors import KitError, UsageError
from kit.measure import drift, stopwatch
from kit.packed import Series
from kit.records import (
    AliasedRecord,
    Artifact,
    Energy,
    FedInput,
    InputRule,
    Layers,
    Memory,
    Record,
    Run,
    RunStatus,
    TensorSpec,
)

T = TypeVar("T")
PR_SET_PDEATHSIG = 1
SAMPLES_TIMED, SAMPLE_ROUNDS = 64, 5  # of several samples, each timed on its own after the run
LAYER_CALLS = 30
ENERGY_MIN_S = {"cpu": 0.5, "gpu": 2.0}  # a GPU's counter steps every 20 to 100 ms
# Not `-m`: that would let a random.py or numpy/ in the user's folder stand in for the real one.
CLOCKS_APART = 0.10
PARENT = "KIT_PARENT_PID"
CODE = "import sys; sys.path[:] = [p for p in sys.path if p]; from kit.measure.worker import main; main()"


class WorkerNetwork(Record):
    """A reference network: its file and its sidecar."""

    path: str
    artifact: Artifact


class WorkerRequest(AliasedRecord):
    """What the parent asks for: a run, or only the tensors (``describe``), or the times of the layers (``layers``)."""

    path: str
    artifact: Artifact | None
    backend: str
    threads: int
    batch: int | None = None
    affinity: tuple[int, ...] | None = None
    gap_s: float = 0.0
    round: int = 0
    run_s: float = Field(default=0.5, alias="visit_s")
    warmup_max_s: float = 1.0
    energy: bool = True
    idle_power_w: float | None = None
    references: dict[str, WorkerNetwork] = Field(default_factory=dict)
    seed: int = 0
    rules: tuple[InputRule, ...] = ()
    samples: str | None = None  # a .npz, a .npy or a folder of them, whose inputs take turns
    describe: bool = False
    layers: bool = False


class FedRequest(Protocol):
    """What decides the inputs of a request."""

    @property
    def path(self) -> str: ...
    @property
    def artifact(self) -> Artifact | None: ...
    @property
    def rules(self) -> tuple[InputRule, ...]: ...
    @property
    def samples(self) -> str | None: ...
    @property
    def seed(self) -> int: ...


class WorkerReply(AliasedRecord):
    """``status`` says whether there is an answer (``run``, ``tensors`` or ``layers``) or a ``reason``."""

    status: RunStatus = Field(alias="outcome")
    reason: str | None = None
    run: Run | None = Field(default=None, alias="visit")
    layers: Layers | None = None
    feeds: tuple[FedInput, ...] = ()  # what the inputs of the run got
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


@dataclass(frozen=True)
class Baseline:
    """What loading the runtime took in this process: resident bytes before and after, seconds.

    ``file_bytes`` of them are pages of files. A fork leaves those out until it touches them, so they are counted as if they were there.
    """

    at_start_bytes: int
    runtime_bytes: int
    runtime_s: float
    file_bytes: int = 0

    def resident_bytes(self) -> int:
        """Resident memory of this process, the pages of files that a fork did not touch counted, too."""
        return resident_bytes() + self._untouched_bytes()

    def peak_bytes(self) -> int:
        """Peak resident memory of this process, those pages counted, too."""
        return peak_bytes() + self._untouched_bytes()

    def _untouched_bytes(self) -> int:
        return max(0, self.file_bytes - _status_bytes("RssFile"))


class ProcessEnd(Record):
    """What became of one request's process: its reply line, its exit code (negative: the signal), the last line of its standard error."""

    line: str
    code: int
    complaint: str = ""


def main() -> None:
    """The life of the process that was started: load the runtime that its argument names, then one child per line of its input.

    Where a runtime does not stand being forked, this process answers one request itself and ends, and the parent starts another.
    """
    channel = _answer_channel()
    baseline = _baseline(sys.argv[1])
    gc.freeze()  # a child's collections leave the pages that it shares with this process alone
    while line := sys.stdin.readline():
        if not backends.LEAVES[sys.argv[1]].forks:
            _write(channel, ProcessEnd(line=_line(answer(WorkerRequest.model_validate_json(line), baseline)), code=0))
            os._exit(0)  # a runtime's tear-down must not turn a good measurement into a crash
        _write(channel, _in_a_child(line, baseline))


def _answer_channel() -> TextIO:
    """Bind this process to its parent's life; the channel for answers. What a runtime prints goes to standard error from now on."""
    die_with_parent()
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return channel


def _baseline(backend: str) -> Baseline:
    at_start, start = resident_bytes(), time.perf_counter()
    with contextlib.suppress(KitError):  # the request gets the error
        backends.load(backend)
    return Baseline(at_start, resident_bytes(), time.perf_counter() - start, _status_bytes("RssFile"))


def _in_a_child(line: str, baseline: Baseline) -> ProcessEnd:
    """Fork; the child answers ``line`` through a pipe, and its standard error goes to a file without a name."""
    receive, send = os.pipe()
    with tempfile.TemporaryFile() as complaints:
        os.environ[PARENT] = str(os.getpid())
        pid = os.fork()
        if pid == 0:
            try:
                os.close(receive)
                for descriptor in (1, 2):
                    os.dup2(complaints.fileno(), descriptor)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                die_with_parent()
                with os.fdopen(send, "w") as channel:
                    _write(channel, answer(WorkerRequest.model_validate_json(line), baseline))
                os._exit(0)
            except SystemExit as end:
                os._exit(end.code if isinstance(end.code, int) else 1)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
        os.close(send)
        with os.fdopen(receive) as channel:
            reply = channel.read()
        _, wait_status = os.waitpid(pid, 0)
        return ProcessEnd(line=reply, code=os.waitstatus_to_exitcode(wait_status), complaint=last_line(complaints))


def last_line(complaints: IO[bytes]) -> str:
    """The last line of a process's standard error."""
    complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - 4096))
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _write(channel: TextIO, reply: Record) -> None:
    channel.write(_line(reply))
    channel.flush()


def _line(reply: Record) -> str:
    return json.dumps(reply.model_dump(mode="json")) + "\n"


def serve(respond: Callable[[str], Record]) -> None:
    """A child's whole life: one JSON request on standard input, one JSON line on what was standard output."""
    channel = _answer_channel()
    _write(channel, respond(sys.stdin.read()))
    os._exit(0)


def die_with_parent() -> None:
    """Ask the kernel to end this process when the parent is killed: an orphan would disturb the next run for ever.

    A parent that died before that is recognized by its process id.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
        os._exit(1)


def answer(request: WorkerRequest, baseline: Baseline) -> WorkerReply:
    """Serve one request in the child: open, warm up, time."""
    try:
        if request.affinity is not None:
            os.sched_setaffinity(0, request.affinity)
        if request.describe:
            return _describe(request)
        return _layers(request) if request.layers else _timed(request, baseline)
    except Exception as error:  # a runtime's own exception: a failure is a record, not a traceback
        status, reason = failure(error)
        return WorkerReply(status=status, reason=reason)


def failure(error: Exception) -> tuple[RunStatus, str]:
    """What an exception in a child means: (outcome, reason in a sentence)."""
    if isinstance(error, UsageError):
        return "unsupported", str(error)
    if isinstance(error, MemoryError):
        return "out_of_memory", "The process ran out of memory."
    if isinstance(error, KitError):
        return "failed", str(error)
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return "out_of_memory" if is_out_of_memory(text) else "failed", reasons.cause(text)


def is_out_of_memory(text: str) -> bool:
    """Runtimes have no exception of their own for it."""
    return any(
        word in text.lower()
        for word in (
            "memoryerror",
            "bad_alloc",
            "bad allocation",
            "out of memory",
            "failed to allocate",
            "allocate memory",
        )
    )


def _describe(request: WorkerRequest) -> WorkerReply:
    """The tensors; where an output's shape shows only when the network runs, it is run once."""
    session = _opened(request)
    outputs = session.outputs
    if any(size < 0 for spec in outputs for size in spec.shape):
        arrays = _tried(request, session, lambda fed: session.run(fed.samples[0]))
        outputs = tuple(s.model_copy(update={"shape": a.shape}) for s, a in zip(outputs, arrays, strict=True))
    return WorkerReply(status="ok", inputs=session.inputs, outputs=outputs)


def _layers(request: WorkerRequest) -> WorkerReply:
    session = _opened(request)
    layers = _tried(request, session, lambda fed: session.layers(fed.samples[0], calls=LAYER_CALLS))
    return WorkerReply(status="ok", layers=layers)


def _tried(request: WorkerRequest, session: backends.Session, use: Callable[[feeds.Fed], T]) -> T:
    """What ``use`` makes of the inputs; where the runtime does not take whole numbers that kit chose, of zeros in their place."""
    fed = fed_by(request, session)
    try:
        return use(fed)
    except Exception as error:
        if isinstance(error, KitError) or not fed.synthetic:
            raise
        try:
            return use(fed_by(request, session, zeros=True))
        except Exception:
            raise error from None


def fed_by(request: FedRequest, session: backends.Session, *, zeros: bool = False) -> feeds.Fed:
    """The inputs of a request: by its rules and samples, else the sidecar's sample, else chosen by what consumes them."""
    path = Path(request.path)
    sample = request.artifact.sample if request.artifact else None
    return feeds.fed(
        session.inputs, graph=onnxgraph.read(path) if path.suffix.lower() == ".onnx" else None, rules=request.rules,
        samples=Path(request.samples) if request.samples else None,
        sidecar=path.parent / sample.file if sample else None, seed=request.seed, zeros=zeros,
    )  # fmt: skip


def _opened(request: WorkerRequest) -> backends.Session:
    return backends.load(request.backend).open(Path(request.path), request.artifact, request.threads, request.batch)


def _timed(request: WorkerRequest, baseline: Baseline) -> WorkerReply:
    backend = backends.load(request.backend)
    version, target = backend.probe().version, backend.target
    start = time.perf_counter()
    session = _opened(request)
    open_s, opened = time.perf_counter() - start, baseline.resident_bytes()
    opening = _Opening(baseline, open_s, opened, target, version)
    return _tried(request, session, lambda fed: _run(request, session, fed, opening))


@dataclass(frozen=True)
class _Opening:
    """What opening the network took, and by what it is run."""

    baseline: Baseline
    open_s: float
    opened_bytes: int
    target: backends.Target
    version: str | None


def _run(request: WorkerRequest, session: backends.Session, fed: feeds.Fed, opening: _Opening) -> WorkerReply:
    baseline, target = opening.baseline, opening.target
    calls = [session.prepare(sample) for sample in fed.samples[: 1 if target == "gpu" else None]]
    call = calls[0] if len(calls) == 1 else _in_turn(calls)
    peaks = _Peaks(baseline)
    readers = telemetry.readers_here(target)
    before, counters = telemetry.read_environment(readers), telemetry.Counters.read()
    watch = stopwatch.measure(
        call,
        collect_s=request.run_s,
        warmup_max_s=request.warmup_max_s,
        gap_s=request.gap_s,
        timed_calls=session.device_ns,
        calibration=_calibration(request, target, peaks),
        counter=involuntary_switches,
    )
    disturbance = telemetry.disturbance(counters, telemetry.Counters.read())
    after = telemetry.read_environment(readers)
    clock_hz, clock_source, remarks = _clock(watch, before.clock_hz, after.clock_hz)
    gpu = session.gpu_memory()
    run = Run(
        round=request.round,
        elapsed_ns=Series(watch.elapsed_ns),
        loops=watch.loops,
        block=watch.block,
        timer="device" if session.device_ns is not None else "host",
        references={name: Series(times) for name, times in watch.calibration.items()},
        switches=None if watch.counts is None else Series(watch.counts),
        clock_hz=clock_hz,
        clock_source=clock_source,
        disturbance=disturbance,
        energy=_energy(call, target, request) if request.energy else None,
        warmup_calls=watch.warmup_calls,
        warmup_s=watch.warmup_ns * 1e-9,
        warm=watch.warm,
        timer_resolution_ns=watch.resolution_ns,
        collected_s=watch.collected_ns * 1e-9,
        runtime_s=baseline.runtime_s,
        open_s=opening.open_s,
        first_ns=watch.first_ns,
        memory=Memory(
            at_start_bytes=baseline.at_start_bytes,
            runtime_bytes=baseline.runtime_bytes,
            opened_bytes=opening.opened_bytes,
            peak_bytes=max(peaks.opening_bytes, peaks.until_collecting_bytes),
            running_peak_bytes=peaks.running_bytes,
            gpu_bytes=None if gpu is None else gpu.get("allocated_bytes"),
        ),
        before=before,
        after=after,
        versions={request.backend: opening.version or "unknown", **_versions()},
        notes=(*session.notes, *remarks),
        samples_ns=_of_each(calls) if len(calls) > 1 else (),
    )
    return WorkerReply(status="ok", run=run, feeds=fed.inputs)


def _in_turn(calls: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    """One call that runs the samples one after the other, over and over."""
    following = itertools.cycle(calls).__next__

    def call() -> Any:
        return following()()

    return call


def _of_each(calls: Sequence[Callable[[], Any]]) -> tuple[float, ...]:
    """Nanoseconds of each sample: the median of five calls, which are spread over five rounds."""
    times_ns = np.empty((SAMPLE_ROUNDS, min(len(calls), SAMPLES_TIMED)))
    for row in times_ns:
        for index in range(len(row)):
            start = time.perf_counter_ns()
            calls[index]()
            row[index] = time.perf_counter_ns() - start
    return tuple(map(float, np.median(times_ns, axis=0)))


class _Peaks:
    """Peak resident bytes while the model was opened, and (once :meth:`stop` is called) while it ran."""

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline
        self.opening_bytes = self.until_collecting_bytes = baseline.peak_bytes()
        self.running_bytes: int | None = None
        self._can_reset = False
        with contextlib.suppress(OSError):  # forbidden in some containers
            Path("/proc/self/clear_refs").write_text("5")
            self._can_reset = True

    def stop(self) -> None:
        self.until_collecting_bytes = self._baseline.peak_bytes()
        self.running_bytes = self.until_collecting_bytes if self._can_reset else None


def _calibration(request: WorkerRequest, target: str, peaks: _Peaks) -> Callable[[], Mapping[str, drift.Workload]]:
    """What the stopwatch calls once after warm-up: the reference workloads, whose own memory is not the network's."""

    def calibration() -> Mapping[str, drift.Workload]:
        peaks.stop()
        if target != "cpu":
            return {}
        networks = {
            name: call
            for name, network in request.references.items()
            if (call := calibration_call(request.backend, network))
        }
        return drift.workloads(networks)

    return calibration


def calibration_call(backend_name: str, network: WorkerNetwork) -> Callable[[], Any] | None:
    """A call of a reference network through a runtime; None where this runtime does not run it."""
    backend = backends.load(backend_name)
    try:
        session = backend.open(Path(network.path), network.artifact, 1)
        call = session.prepare(backends.make_feeds(session.inputs, 0))
        call()
    except KitError:
        return None
    return call


def involuntary_switches() -> int:
    """How often the kernel took the CPU from this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _clock(
    watch: stopwatch.Timing, before_hz: float | None, after_hz: float | None
) -> tuple[float | None, str, tuple[str, ...]]:
    """(core clock, its source, remarks): what the machine reported around the run, else what the chain of instructions ran at."""
    measured_hz = drift.clock_of(np.asarray(watch.calibration["clock"])) if "clock" in watch.calibration else None
    readings_hz = [hz for hz in (before_hz, after_hz) if hz is not None]
    if not readings_hz:
        return measured_hz, "measured" if measured_hz else "unknown", ()
    observed_hz = sum(readings_hz) / len(readings_hz)
    if measured_hz and abs(measured_hz - observed_hz) > CLOCKS_APART * observed_hz:
        text = f"the machine reports {observed_hz / 1e9:.2f} GHz, a chain of instructions ran at {measured_hz / 1e9:.2f} GHz"
        return observed_hz, "observed", (text,)
    return observed_hz, "observed", ()


def _energy(call: Callable[[], Any], target: telemetry.Target, request: WorkerRequest) -> Energy | None:
    """Energy over a window of its own, in which nothing but the network runs; None without a meter."""
    meter = next(iter(telemetry.meters(target=target)), None)
    if meter is None:
        return None
    window = telemetry.EnergyWindow(meter, idle_power_w=request.idle_power_w)
    window.start()
    calls, until = 0, time.perf_counter() + max(request.run_s, ENERGY_MIN_S[target])
    while not calls or time.perf_counter() < until:
        call()
        calls += 1
        window.tick()
    return window.stop(calls)


def _versions() -> dict[str, str]:
    import platform

    return {"python": platform.python_version(), "numpy": np.__version__}


def resident_bytes() -> int:
    """Resident memory of this process."""
    return _status_bytes("VmRSS")


def peak_bytes() -> int:
    """Peak resident memory of this process alone (ru_maxrss would carry over the parent's across fork)."""
    return _status_bytes("VmHWM")


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KitError(f"/proc/self/status has no {key}: kit measures memory on Linux only.")
