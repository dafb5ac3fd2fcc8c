"""Parent of the measuring room: artifacts on a device become profile records, interleaved, resumable, labelled.

Each round visits every artifact that is still open, in random order, in a fresh child process, so that drift hits all alike.
An artifact closes when the interval of its median is narrow enough, or when the rounds or the time budget end. Every visit
is on the disk before the next begins (the journal), so a killed run goes on where it was. While a child measures, the
parent only waits.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kit import __version__, backends, stats, store, telemetry, worker
from kit.backends import fake
from kit.errors import BadModel, BadRecord, IntegrityError, MeasurementError, StorageError, UsageError
from kit.records import (
    Artifact,
    DeviceSpec,
    FileRef,
    Label,
    Measurement,
    MeasureSettings,
    Outcome,
    Precision,
    ProfileRecord,
    SubNetwork,
    Visit,
    load,
)

DRIFT_LIMIT = 0.05  # medians of a process's two halves
MOVED_LIMIT = 0.10  # the reference workload between processes
NEAR_SHARE = 0.8  # share of the values within 5 % of their median
SETTLED_LIMIT = 0.05  # widest half-width of the median's interval that still decides
VISITS_MIN = 5  # the range of fewer processes encloses the median with less than 90 %
# Not `-m`: that would let a random.py or numpy/ in the user's folder stand in for the real one.
WORKER = "import sys; sys.path[:] = [p for p in sys.path if p]; from kit.worker import main; main()"
EXTERNAL_DATA = b"\x0a\x08location"  # the protobuf key that points ONNX weights to another file


@dataclass(frozen=True)
class Target:
    """An artifact and where its model lies."""

    path: Path
    artifact: Artifact


@dataclass(frozen=True)
class Progress:
    """One step of a run, for whoever shows it: ``done`` of about ``planned`` visits, what comes next, and what is known."""

    done: int
    planned: int
    text: str


@dataclass
class _Run:
    """What is known of each target of a run so far, by its place in the list."""

    run_id: str
    visits: dict[int, list[Visit]] = field(default_factory=dict)
    failures: dict[int, tuple[Outcome, str]] = field(default_factory=dict)
    wall_s: float = 0.0
    resumed: int = 0


# --------------------------------------------------------------------------------------------------------------- targets


def resolve(texts: Sequence[str], *, backend: str, build: Path | None = None) -> list[Target]:
    """Targets from what a person writes: an .onnx file, a build folder, a variant id of ``build``, or ``fake:250us``.

    Raises UsageError, BackendUnavailable, BadModel (no usable model), IntegrityError (a model that is not the one its sidecar describes).
    """
    backends.require(backend)
    targets: list[Target] = []
    for text in texts:
        path = _path(text)
        if backend == "fake" or text.startswith("fake:"):
            targets.append(_fake_target(text, backend))
        elif path.is_dir():
            targets += [_from_sidecar(p, backend) for p in _build_sidecars(path)]
        elif path.suffix == ".onnx":
            targets.append(_onnx_target(path, backend))
        elif build is not None and (build / f"{text}.json").is_file():
            targets.append(_from_sidecar(build / f"{text}.json", backend))
        else:
            raise UsageError(_unresolved(text, build))
    return list({t.artifact.model.sha256: t for t in targets}.values())


def _path(text: str) -> Path:
    path = Path(text)
    with store.explained(path, "read"):
        path.exists()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{text!r} is no UTF-8 file name: rename the file.") from None
    return path


def _unresolved(text: str, build: Path | None) -> str:
    if Path(text).exists():
        return f"{text} is neither an .onnx file nor a build folder: give one of these, or a variant id with --build FOLDER."
    try:
        SubNetwork.parse(text)
    except UsageError:
        return f"{text} does not exist: give an .onnx file, a build folder, or a variant id with --build FOLDER."
    if build is None:
        return f"{text} reads like a variant id: say which build folder holds it with --build FOLDER."
    known = ", ".join(sorted(p.stem for p in build.glob("*.onnx"))[:8]) if build.is_dir() else "nothing"
    return f"{build} holds no variant {text}; it holds {known or 'nothing'}."


def _build_sidecars(folder: Path) -> list[Path]:
    sidecars = sorted(p.with_suffix(".json") for p in folder.glob("*.onnx") if p.with_suffix(".json").is_file())
    if not sidecars:
        raise UsageError(
            f"{folder} holds no variant (an .onnx with its .json): make one with kit build, or give an .onnx file."
        )
    return sidecars


def _from_sidecar(sidecar: Path, backend: str) -> Target:
    artifact = store.read_record(sidecar, Artifact)
    path = sidecar.with_suffix(".onnx")
    if artifact.model.file != path.name or store.sha256_file(path) != artifact.model.sha256:
        raise IntegrityError(
            f"{path} is not the file that {sidecar.name} describes: make the sidecar anew with kit describe {path}"
        )
    program = artifact.torch_program
    if backend == "pytorch" and program is not None and store.sha256_file(path.parent / program.file) != program.sha256:
        raise IntegrityError(
            f"{program.file} is not the program that {sidecar.name} describes: build or export it anew."
        )
    return Target(path, artifact)


def _onnx_target(path: Path, backend: str) -> Target:
    """A file with its sidecar, or a bare file: its tensors then come from the runtime and its MACs stay unknown."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist.")
    sidecar = path.with_suffix(".json")
    if sidecar.is_file() and _is_sidecar(sidecar):
        return _from_sidecar(sidecar, backend)
    reply = _ask(
        worker.Request(path=str(path), artifact=None, backend=backend, threads=1, describe=True), timeout_s=120
    )
    if reply.outcome != "ok":
        raise BadModel(reply.reason or f"{path} cannot be loaded.")
    data = path.read_bytes()
    if EXTERNAL_DATA in data:
        remedy = "export with external_data=False, or onnx.save(onnx.load(FILE), ONE_FILE)"
        raise BadModel(f"{path} keeps its weights in another file, which no hash covers: {remedy}.")
    try:
        model = FileRef(file=path.name, sha256=store.sha256_bytes(data), size_bytes=len(data))
    except ValueError:
        raise UsageError(
            f"{path} has a name that kit cannot store: rename it without leading dot or backslash."
        ) from None
    precision: Precision = "int8" if b"QuantizeLinear" in data else "fp32"
    made = Artifact(artifact_id=path.stem, model=model, precision=precision, inputs=reply.inputs, outputs=reply.outputs)
    return Target(path, made)


def _is_sidecar(path: Path) -> bool:
    """Whether the JSON beside a model is kit's; somebody else's is none of our business."""
    try:
        data = store.read_json(path)
    except BadRecord:
        return False
    return isinstance(data, dict) and data.get("kind") == "artifact"


def _fake_target(text: str, backend: str) -> Target:
    if backend != "fake":
        raise UsageError(f"'{text}' is a target of the fake backend: add --backend fake.")
    fake.cost_ns(text)
    model = FileRef(file=store.slug(text), sha256=store.sha256_bytes(text.encode()), size_bytes=0)
    return Target(Path(text), Artifact(artifact_id=text, model=model, inputs=(fake.SPEC,), outputs=(fake.SPEC,)))


# --------------------------------------------------------------------------------------------------------------- the run


def profile(
    targets: Sequence[Target],
    settings: MeasureSettings,
    device: DeviceSpec,
    out: Path,
    *,
    fresh: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[ProfileRecord]:
    """Measure ``targets`` and append one record each to the file ``out`` (.jsonl).

    A run that was killed is found by its journal beside ``out`` (same targets, settings and device) and goes on;
    ``fresh`` forgets it. Raises BackendUnavailable, StorageError, MeasurementError (nothing to measure).
    """
    if not targets:
        raise MeasurementError("There is nothing to measure: name an .onnx file, a build folder or a variant id.")
    backends.require(settings.backend)
    store.make_folder(out.parent)
    journal = out.parent / f".{out.stem}.{_run_key(targets, settings, device)}.journal"
    with _alone(out.parent):
        if fresh:
            journal.unlink(missing_ok=True)
        run = _read_journal(journal, targets)
        if run.resumed:
            progress(Progress(run.resumed, run.resumed + 1, f"going on after {run.resumed} visits"))
        _measure(run, targets, settings, journal, progress)
        result = _write_records(run, targets, settings, device, out)
        journal.unlink(missing_ok=True)
    return result


def _run_key(targets: Sequence[Target], settings: MeasureSettings, device: DeviceSpec) -> str:
    parts = [device.device_id, settings.model_dump(mode="json"), [t.artifact.model.sha256 for t in targets]]
    return store.sha256_bytes(store.canonical_json(parts))[:12]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two measurements at once would disturb each other."""
    lock = folder / ".lock"
    with store.explained(lock, "write"):
        handle = lock.open("a")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(
                f"Another kit profile is measuring into {folder}: wait for it, or stop it first."
            ) from None
        yield


def _read_journal(journal: Path, targets: Sequence[Target]) -> _Run:
    lines = (
        [data for _, data in store.read_lines(journal, torn_ok=True)]
        if journal.is_file() and journal.stat().st_size
        else []
    )
    if not lines or "run_id" not in lines[0]:
        run = _Run(run_id=f"{store.utc_now()[:19].replace(':', '')}Z-{os.urandom(3).hex()}")
        store.append_line(journal, {"run_id": run.run_id})
        return run
    run = _Run(run_id=lines[0]["run_id"])
    for line in lines[1:]:
        run.wall_s += line["wall_s"]
        run.resumed += 1
        if "visit" in line:
            run.visits.setdefault(line["target"], []).append(load(Visit, line["visit"], str(journal)))
        else:
            run.failures[line["target"]] = (line["outcome"], line["reason"])
    return run


def _measure(
    run: _Run, targets: Sequence[Target], settings: MeasureSettings, journal: Path, progress: Callable[[Progress], None]
) -> None:
    for round_ in range(settings.rounds_max):
        still_open = [i for i in range(len(targets)) if _open(run, i, settings)]
        order = random.Random(f"{settings.seed}/{round_}").sample(still_open, len(still_open))
        for index in order:
            if len(run.visits.get(index, [])) > round_:
                continue  # done before the kill
            if settings.budget_s is not None and run.wall_s >= settings.budget_s and round_ > 0:
                return
            progress(_progress(run, targets, settings, index, round_))
            start = time.perf_counter()
            reply = _visit(targets[index], settings, round_)
            wall_s = time.perf_counter() - start
            run.wall_s += wall_s
            line: dict[str, Any] = {"target": index, "wall_s": wall_s}
            if reply.visit is not None:
                run.visits.setdefault(index, []).append(reply.visit)
                line["visit"] = reply.visit.model_dump(mode="json")
            else:
                outcome, reason = reply.outcome, reply.reason or "The runtime gave no reason."
                run.failures[index] = (outcome, reason)  # type: ignore[assignment]
                line |= {"outcome": outcome, "reason": reason}
            store.append_line(journal, line)


def _open(run: _Run, index: int, settings: MeasureSettings) -> bool:
    """Whether another visit of this target is wanted."""
    if index in run.failures:
        return False
    visits = run.visits.get(index, [])
    if len(visits) < settings.rounds_min:
        return True
    return bool(_doubts(Measurement(visits=tuple(visits)), settings))


def _progress(run: _Run, targets: Sequence[Target], settings: MeasureSettings, index: int, round_: int) -> Progress:
    done = sum(map(len, run.visits.values())) + len(run.failures)
    waiting = sum(
        max(settings.rounds_min - len(run.visits.get(i, [])), 1) for i in range(len(targets)) if _open(run, i, settings)
    )
    return Progress(done, done + waiting, f"round {round_ + 1}: {targets[index].artifact.artifact_id}")


def _visit(target: Target, settings: MeasureSettings, round_: int) -> worker.Reply:
    request = worker.Request(
        path=str(target.path),
        artifact=target.artifact,
        backend=settings.backend,
        threads=settings.threads,
        round=round_,
        visit_s=settings.visit_s,
        warmup_max_s=settings.warmup_max_s,
        seed=settings.seed,
    )
    return _ask(request, settings.timeout_s)


def _ask(request: worker.Request, timeout_s: float) -> worker.Reply:
    """One child process, one answer; a child that dies is an answer too."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", WORKER],
            input=worker.request_line(request),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=worker.child_environment(request.threads),
        )
    except subprocess.TimeoutExpired:
        return worker.Reply(outcome="timeout", reason=f"No answer within {timeout_s:g} s; the process was ended.")
    if done.returncode == 0 and done.stdout.strip():
        try:
            return worker.parse_reply(done.stdout)
        except (json.JSONDecodeError, ValueError):
            return worker.Reply(outcome="failed", reason="The child process gave an unreadable answer.")
    if done.returncode == -9:
        return worker.Reply(
            outcome="out_of_memory", reason="The process was killed (signal 9), most often for lack of memory."
        )
    if done.returncode < 0:
        return worker.Reply(outcome="crashed", reason=f"The process died by signal {-done.returncode}.")
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    outcome = "out_of_memory" if "MemoryError" in last or "bad_alloc" in last else "crashed"
    return worker.Reply(outcome=outcome, reason=f"The process ended with code {done.returncode}: {last}")


# --------------------------------------------------------------------------------------------------------------- verdict


def _doubts(measurement: Measurement, settings: MeasureSettings) -> list[str]:
    """What speaks against the measurement as it is, in words."""
    doubts = []
    if measurement.half_width > settings.precision_target:
        doubts.append(f"the interval of the median is wider than +-{settings.precision_target:.1%}")
    drift = _drift(measurement)
    if drift > DRIFT_LIMIT:
        doubts.append(f"the halves of a process differ by {drift:.1%}")
    near = _near_share(measurement)
    if near < NEAR_SHARE:
        doubts.append(f"only {near:.0%} of the values lie within 5 % of their median")
    moved = _machine_moved(measurement)
    if moved > MOVED_LIMIT:
        doubts.append(f"the machine itself moved: a fixed matrix product varied by {moved:.0%} between processes")
    return doubts


def _drift(measurement: Measurement) -> float:
    return float(np.median([abs(stats.halves_drift(v.values_ns)) for v in measurement.visits]))


def _near_share(measurement: Measurement) -> float:
    return float(np.median([stats.share_near_median(v.values_ns) for v in measurement.visits]))


def _machine_moved(measurement: Measurement) -> float:
    """Spread of the reference workload over the processes, as a share of its median."""
    return stats.spread([float(np.mean(v.reference_ns)) for v in measurement.visits if v.reference_ns])


def judge(measurement: Measurement, settings: MeasureSettings) -> tuple[Label, tuple[str, ...]]:
    """The trust label and the evidence for it.

    ``throttled``: the device itself said so. ``inconclusive``: fewer than five processes (or than asked for), a drift inside
    the processes, or the median known no better than +-5 %. ``stable``: no doubt after the first rounds. ``settled``: no
    doubt after more rounds, or a doubt that leaves the median within +-5 %.
    """
    visits, loops = measurement.visits, max(v.loops for v in measurement.visits)
    looped = f", each value the mean of {loops}" if loops > 1 else ""
    evidence = [
        f"{len(visits)} processes, {sum(len(v.values_ns) for v in visits)} values{looped}",
        f"median within +-{measurement.half_width:.2%} (confidence {measurement.confidence:.0%})",
        f"{_near_share(measurement):.0%} of the values within 5 % of their median",
    ]
    cold = sum(not v.warm for v in visits)
    if cold:
        evidence.append(f"{cold} of {len(visits)} processes were still changing when warm-up ended")
    flags = sorted({flag for v in visits for flag in telemetry.throttled_between(v.before, v.after)})
    if flags:
        return "throttled", (*evidence, f"the device reports {', '.join(flags)}")
    needed = max(VISITS_MIN, settings.rounds_min)
    if len(visits) < needed:
        return "inconclusive", (*evidence, f"only {len(visits)} processes where {needed} are needed")
    doubts = _doubts(measurement, settings)
    evidence += doubts
    if not doubts:
        return ("stable" if len(visits) <= needed else "settled"), tuple(evidence)
    if measurement.half_width <= SETTLED_LIMIT and _drift(measurement) <= DRIFT_LIMIT:
        return "settled", tuple(evidence)
    return "inconclusive", tuple(evidence)


def _write_records(
    run: _Run, targets: Sequence[Target], settings: MeasureSettings, device: DeviceSpec, out: Path
) -> list[ProfileRecord]:
    """Append each record once, also when a kill fell between two of them."""
    written = (
        {data.get("record_id") for _, data in store.read_lines(out, torn_ok=True)}
        if out.is_file() and out.stat().st_size
        else set()
    )
    result = []
    for index, target in enumerate(targets):
        record = _record(run, index, target.artifact, settings, device)
        if record.record_id not in written:
            store.append_line(out, record)
        result.append(record)
    return result


def _record(run: _Run, index: int, artifact: Artifact, settings: MeasureSettings, device: DeviceSpec) -> ProfileRecord:
    visits = tuple(run.visits.get(index, ()))
    measurement = Measurement(visits=visits) if visits else None
    outcome, reason = run.failures.get(index, ("ok", None))
    label, evidence = judge(measurement, settings) if measurement and outcome == "ok" else (None, ())
    return ProfileRecord(
        record_id=f"{run.run_id}-{artifact.model.sha256[:8]}",
        created_utc=store.utc_now(),
        kit_version=__version__,
        device=device,
        artifact=artifact,
        settings=settings,
        outcome=outcome,
        reason=reason,
        measurement=measurement,
        label=label,
        evidence=evidence,
    )
