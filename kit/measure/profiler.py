"""Parent of the measuring room: networks at operating points become profile records, interleaved, resumable, labelled.

A job is a target, a backend and an operating point. Each round visits every job that is still open, in random order, in a
fresh child process, so that drift hits all alike. A job closes when the interval of its median is narrow enough and
nothing speaks against it, or when the rounds or the time budget end. Long sweeps go in waves that each span the whole range of
sizes and are written when they are done, so that a sweep that is stopped early has measured a useful spread. Every visit
is on the disk before the next begins (the journal), so a killed run goes on where it was. While a child measures, the
parent only waits.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from kit import __version__, backends, spaces, store
from kit.devices import operating_point, telemetry
from kit.errors import MeasurementError, StorageError, UsageError
from kit.measure import drift, forkserver, quality, worker
from kit.measure.targets import Target
from kit.records import (
    DeviceSpec,
    Layers,
    Measurement,
    MeasureSettings,
    Outcome,
    ProfileRecord,
    Reference,
    SubNetwork,
    Visit,
    load,
)

WAVE = 40  # jobs that are interleaved: more would put the visits of one network too far apart
REFERENCE = "reference.json"
VISIT_MIN_S = 0.1
ENDING_S = 0.1  # writing and showing what was measured
VISIT_GOOD_S = 0.2  # a budget with room for more than the fewest processes is spent on more, not on longer ones
OVERHEAD_S = 0.35
IDLE_POWER_S = 2.0


@dataclass(frozen=True)
class Job:
    """A network to be timed in one way: ``settings`` hold the backend and the operating point."""

    target: Target
    settings: MeasureSettings

    @property
    def name(self) -> str:
        return f"{self.target.artifact.artifact_id} {self.settings.backend} {self.settings.name}"


@dataclass(frozen=True)
class Progress:
    """One step of a run, for whoever shows it: ``done`` of about ``planned`` visits, what comes next, and what is known."""

    done: int
    planned: int
    text: str
    remaining_s: float | None = None


@dataclass
class _Run:
    """What is known of each job of a run so far, by its place in the list."""

    run_id: str
    visits: dict[int, list[Visit]] = field(default_factory=dict)
    failures: dict[int, tuple[Outcome, str]] = field(default_factory=dict)
    written: set[int] = field(default_factory=set)  # jobs whose record is on the disk
    wall_s: float = 0.0
    done: int = 0  # visits and failures
    resumed: int = 0
    overhead_s: float = OVERHEAD_S  # wall time of a visit beside its collecting: learned as the run goes on
    reference: Reference | None = None


def profile(
    jobs: Sequence[Job],
    device: DeviceSpec,
    out: Path,
    *,
    fresh: bool = False,
    control: bool = False,
    layers: bool = False,
    spent_s: float = 0.0,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[ProfileRecord]:
    """Measure ``jobs`` and append one record each to the file ``out`` (.jsonl).

    A run that was killed is found by its journal beside ``out`` (same jobs and device) and goes on; ``fresh`` forgets it.
    ``control`` allows to change clock and power mode, which are restored on every exit; ``layers`` adds the times per node;
    ``spent_s`` is wall time that counts towards the budget already. Raises BackendUnavailable, StorageError, MeasurementError.
    """
    if not jobs:
        raise MeasurementError("There is nothing to measure: name an .onnx file, a build folder or a variant id.")
    for backend in {job.settings.backend for job in jobs}:
        backends.require(backend)
    store.make_folder(out.parent)
    journal = out.parent / f".{out.stem}.{_run_key(jobs, device)}.journal"
    with alone(out.parent):
        if fresh:
            journal.unlink(missing_ok=True)
        run = _read_journal(journal)
        if run.resumed:
            progress(Progress(run.resumed, run.resumed + 1, f"going on after {run.resumed} visits"))
        if told := operating_point.restore_left_over(operating_point.state_file()):
            progress(Progress(run.done, run.done + 1, told))
        began_s = time.monotonic() - spent_s - run.wall_s
        run.reference = _stored_reference(out.parent, device)
        records: list[ProfileRecord] = []
        with forkserver.ForkServer() as children, tempfile.TemporaryDirectory(prefix="kit-") as scratch:
            beside = _reference_networks(jobs, Path(scratch))
            session = _Session(run, jobs, journal, control, _idle_power_w(jobs), began_s, progress, children, beside)
            for wave in _waves(jobs):
                session.measure(wave)
                run.reference = _kept_reference(run, jobs, device, out.parent)
                records += _write_records(run, jobs, wave, device, out, layers=layers)
                run.written |= set(wave)
                for index in wave:
                    run.visits.pop(index, None)  # a long sweep must not fill the memory
        journal.unlink(missing_ok=True)
    return [record for _, record in sorted(zip(_order(jobs), records, strict=True), key=lambda pair: pair[0])]


def _run_key(jobs: Sequence[Job], device: DeviceSpec) -> str:
    """Two runs are one when networks, settings, machine and versions are the same."""
    parts = [[j.target.artifact.model_dump(mode="json"), j.settings.model_dump(mode="json")] for j in jobs]
    machine = [device.device_id, device.kernel, device.runtimes, __version__]
    return store.sha256_bytes(store.canonical_json([machine, parts]))[:12]


def alone(folder: Path) -> AbstractContextManager[None]:
    """Hold the folder's lock: two measurements at once would disturb each other. Raises StorageError."""
    return store.locked(folder, f"Another kit profile is measuring into {folder}: wait for it, or stop it first.")


def _read_journal(journal: Path) -> _Run:
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
        run.done += 1
        if "visit" in line:
            run.visits.setdefault(line["job"], []).append(load(Visit, line["visit"], str(journal)))
        else:
            run.failures[line["job"]] = (line["outcome"], line["reason"])
    return run


# -------------------------------------------------------------------------------------------------------------- the order


def _order(jobs: Sequence[Job]) -> list[int]:
    """Jobs so that every beginning of the list spans the range of sizes; all jobs of one network (by its id) stand together.

    Networks sorted by size are taken in the order of the van der Corput sequence: the middle, the quarters, the eighths.
    """
    members: dict[str, list[int]] = {}
    for index, job in enumerate(jobs):
        members.setdefault(job.target.artifact.artifact_id, []).append(index)

    def size(network: str) -> tuple[int, int]:
        artifact = jobs[members[network][0]].target.artifact
        return artifact.macs or 0, artifact.model.size_bytes

    by_size = sorted(members, key=size)
    mirrored = sorted(range(len(by_size)), key=lambda k: _van_der_corput(k + 1))
    place = {k: rank for rank, k in enumerate(mirrored)}
    return [index for k in range(len(by_size)) for index in members[by_size[place[k]]]]


def _van_der_corput(number: int) -> float:
    """The bits of ``number`` mirrored at the binary point."""
    value, share = 0.0, 0.5
    while number:
        value += share * (number & 1)
        number >>= 1
        share /= 2
    return value


def _waves(jobs: Sequence[Job]) -> list[list[int]]:
    """The order cut into waves of about :data:`WAVE` jobs, never between two jobs of one network."""
    waves: list[list[int]] = [[]]
    before = None
    for index in _order(jobs):
        network = jobs[index].target.artifact.artifact_id
        if len(waves[-1]) >= WAVE and network != before:
            waves.append([])
        waves[-1].append(index)
        before = network
    return waves


# --------------------------------------------------------------------------------------------------------------- the run


@dataclass
class _Session:
    """One run's way of visiting: what it measures, where it notes it, and what it may change."""

    run: _Run
    jobs: Sequence[Job]
    journal: Path
    control: bool
    idle_power_w: dict[str, float]
    began_s: float  # on the monotonic clock, so that what an interrupted run spent counts
    progress: Callable[[Progress], None]
    children: forkserver.ForkServer
    beside: dict[str, worker.WorkerNetwork]

    def measure(self, wave: Sequence[int]) -> None:
        """Rounds over the jobs of ``wave`` until all are closed or the budget is spent."""
        self._refuse_unsupported(wave)
        for round_ in range(max(self.jobs[i].settings.rounds_max for i in wave)):
            scale = _scale(self.run, self.jobs)
            still_open = [i for i in wave if self._open(i, scale)]
            seed = self.jobs[wave[0]].settings.seed
            order = random.Random(f"{seed}/{wave[0]}/{round_}").sample(still_open, len(still_open))
            # Stable: the order stays random within a state of the machine, and the machine changes its state once a round.
            for _, group in groupby(sorted(order, key=self._state_of), key=self._state_of):
                if not self._round(list(group), round_, still_open):
                    return

    def _round(self, group: Sequence[int], round_: int, still_open: Sequence[int]) -> bool:
        """One visit to each of ``group``, which share a state of the machine; False when the budget is spent."""
        first, state = self.jobs[group[0]].settings, operating_point.state_file()
        try:
            with operating_point.controlled(state=state, clock_cap_hz=first.clock_cap_hz, power_mode=first.power_mode):
                for index in group:
                    settings = self.jobs[index].settings
                    if len(self.run.visits.get(index, [])) > round_:
                        continue  # done before the kill
                    visit_s = self._visit_s(index)
                    if visit_s is None and round_ > 0:
                        return False
                    self.progress(self._progress(index, round_, still_open))
                    self._visit(index, round_, visit_s or min(VISIT_MIN_S, settings.visit_s))
        except (UsageError, StorageError) as error:
            if not _changes_machine(first) or state.exists():
                raise  # not a point that cannot be set, or a machine that was not put back
            for index in set(group) - set(self.run.failures):
                self._fail(index, "unsupported", str(error), 0.0)
        return True

    def _refuse_unsupported(self, wave: Sequence[int]) -> None:
        """A point that this machine cannot be put into is recorded, not an error in the middle of a sweep."""
        for index in wave:
            point = self.jobs[index].settings
            reason = operating_point.unsupported(point)
            if reason is None and _changes_machine(point) and not self.control:
                reason = "changing the clock or the power mode must be allowed with --control"
            if reason is not None and index not in self.run.failures:
                self.run.failures[index] = ("unsupported", f"{reason[:1].upper()}{reason[1:].rstrip('.')}.")

    def _state_of(self, index: int) -> tuple[str, float]:
        """Jobs that need the same state of the machine go together: a power mode takes seconds to change."""
        point = self.jobs[index].settings
        return point.power_mode or "", point.clock_cap_hz or 0.0

    def _open(self, index: int, scale: Reference | None) -> bool:
        """Whether another visit of this job is wanted."""
        if index in self.run.failures:
            return False
        settings = self.jobs[index].settings
        if self._missing(index) > 0:
            return True
        if len(self.run.visits[index]) >= settings.rounds_max:
            return False
        return bool(quality.failed_checks(_measurement(self.run, index, self.jobs[index], scale), settings))

    def _missing(self, index: int) -> int:
        """Visits that this job needs in any case and has not had; 0 for one that failed or is on the disk."""
        if index in self.run.failures or index in self.run.written:
            return 0
        return max(0, self._rounds(self.jobs[index].settings) - len(self.run.visits.get(index, [])))

    def _rounds(self, settings: MeasureSettings) -> int:
        """Rounds that are wanted in any case; a budget that has room for more than the fewest is spent on more."""
        if settings.budget_s is None:
            return settings.rounds_min
        room = int(settings.budget_s / (len(self.jobs) * (self.run.overhead_s + VISIT_GOOD_S)))
        return min(settings.rounds_max, max(settings.rounds_min, room))

    def _visit_s(self, index: int) -> float | None:
        """Seconds of collecting for the next visit, so that the rounds that are still needed fit into the budget; None when
        it is spent. A further round is paid from what the first rounds of all jobs leave."""
        settings = self.jobs[index].settings
        if settings.budget_s is None:
            return settings.visit_s
        left_s = settings.budget_s - (time.monotonic() - self.began_s) - ENDING_S
        further = self._missing(index) == 0
        needed = sum(map(self._missing, range(len(self.jobs)))) + further
        share_s = left_s / needed - self.run.overhead_s
        if left_s < self.run.overhead_s or (further and share_s < min(settings.visit_s, VISIT_GOOD_S / 2)):
            return None
        return min(settings.visit_s, max(share_s, VISIT_MIN_S))

    def _visit(self, index: int, round_: int, visit_s: float) -> None:
        job, start = self.jobs[index], time.perf_counter()
        try:
            with operating_point.busy(job.settings.load):
                request = _request(job, round_, visit_s, self.idle_power_w, self.beside)
                reply = self.children.ask(request, job.settings.timeout_s)
        except MeasurementError as error:  # the background load ended early
            reply = worker.WorkerReply(outcome="failed", reason=str(error))
        wall_s = time.perf_counter() - start
        if reply.visit is None:
            self._fail(index, reply.outcome, reply.reason or "The runtime gave no reason.", wall_s)
            return
        self.run.overhead_s += (wall_s - visit_s - self.run.overhead_s) / min(4, self.run.done + 1)
        self.run.visits.setdefault(index, []).append(reply.visit)
        self.run.done += 1
        store.append_line(self.journal, {"job": index, "wall_s": wall_s, "visit": reply.visit.model_dump(mode="json")})

    def _fail(self, index: int, outcome: Outcome, reason: str, wall_s: float) -> None:
        self.run.failures[index] = (outcome, reason)
        self.run.done += 1
        store.append_line(self.journal, {"job": index, "wall_s": wall_s, "outcome": outcome, "reason": reason})

    def _progress(self, index: int, round_: int, still_open: Sequence[int]) -> Progress:
        again = sum(self._missing(i) == 0 and len(self.run.visits.get(i, [])) <= round_ for i in still_open)
        waiting = max(1, sum(map(self._missing, range(len(self.jobs)))) + again)
        pace_s = (time.monotonic() - self.began_s) / self.run.done if self.run.done >= 3 else None
        return Progress(
            self.run.done,
            self.run.done + waiting,
            f"round {round_ + 1}: {self.jobs[index].name}",
            None if pace_s is None else pace_s * waiting,
        )


def _changes_machine(point: MeasureSettings) -> bool:
    return point.clock_cap_hz is not None or point.power_mode is not None


def _measurement(run: _Run, index: int, job: Job, scale: Reference | None) -> Measurement:
    if scale is None or not _drifts(job.settings):
        return Measurement(visits=tuple(run.visits[index]))
    visits = tuple(run.visits[index])
    own = drift.of_job(scale, job.target.artifact.precision, job.settings.backend, visits)
    return Measurement(visits=visits, reference=own)


def _drifts(settings: MeasureSettings) -> bool:
    """Drift is divided out only where the machine is in its usual state on purpose: elsewhere its state is what is measured. The
    fake backend waits for a clock and does not drift."""
    return settings.is_default_state and settings.backend != "fake"


def _scale(run: _Run, jobs: Sequence[Job], visits_min: int = 1, device_id: str = "") -> Reference | None:
    """The device's scale, with what it lacks from the visits so far of jobs that had at least ``visits_min``."""
    of_jobs = [i for i, visits in run.visits.items() if _drifts(jobs[i].settings) and len(visits) >= visits_min]
    seen = [drift.Seen(v, jobs[i].settings.backend) for i in of_jobs for v in run.visits[i]]
    return drift.scale(run.reference, device_id, seen)


def _stored_reference(folder: Path, device: DeviceSpec) -> Reference | None:
    path = folder / REFERENCE
    kept = store.read_record(path, Reference) if path.is_file() else None
    if kept is not None and not drift.fits(kept, device.device_id):
        raise UsageError(
            f"{path} is the scale of another device or of other workloads: measure into another --profiles folder."
        )
    return kept


def _kept_reference(run: _Run, jobs: Sequence[Job], device: DeviceSpec, folder: Path) -> Reference | None:
    """The device's scale, each workload of it written once: every later drift-corrected latency of this device rests on it."""
    found = _scale(run, jobs, quality.VISITS_MIN, device.device_id)
    if found is not None and found is not run.reference:
        store.write_record(folder / REFERENCE, found)
    return found


def _reference_networks(jobs: Sequence[Job], folder: Path) -> dict[str, worker.WorkerNetwork]:
    """The reference networks that these jobs need, written to ``folder``."""
    found: dict[str, worker.WorkerNetwork] = {}
    for job in jobs:
        if not _drifts(job.settings) or backends.LEAVES[job.settings.backend].target != "cpu":
            continue
        for name, text in drift.networks(job.target.artifact.precision).items():
            if name not in found:
                path = folder / f"{name}.onnx"
                found[name] = worker.WorkerNetwork(path=str(path), artifact=spaces.write(SubNetwork.parse(text), path))
    return found


def _idle_power_w(jobs: Sequence[Job]) -> dict[str, float]:
    """The power of the idle machine in watts by target ("cpu", "gpu"), where a meter tells it; looked at before the run."""
    found = {}
    for target in sorted({backends.LEAVES[job.settings.backend].target for job in jobs}):
        meter = next(iter(telemetry.meters(target=target)), None)
        if meter is not None:
            found[target] = telemetry.idle_power(meter, IDLE_POWER_S)
    return {target: watts for target, watts in found.items() if watts is not None}


def _request(
    job: Job, round_: int, visit_s: float, idle_power_w: dict[str, float], beside: dict[str, worker.WorkerNetwork]
) -> worker.WorkerRequest:
    settings = job.settings
    wanted = drift.networks(job.target.artifact.precision) if _drifts(settings) else {}
    return worker.WorkerRequest(
        path=str(job.target.path),
        artifact=job.target.artifact,
        backend=settings.backend,
        threads=settings.threads,
        batch=settings.batch,
        affinity=settings.affinity,
        gap_s=settings.gap_s,
        round=round_,
        visit_s=visit_s,
        warmup_max_s=settings.warmup_max_s,
        energy=not settings.load and not settings.gap_s,  # a background load's energy is not the network's
        idle_power_w=idle_power_w.get(backends.LEAVES[settings.backend].target) if settings.is_default_state else None,
        references={name: beside[name] for name in wanted if name in beside},
        seed=settings.seed,
    )


# --------------------------------------------------------------------------------------------------------------- records


def _write_records(
    run: _Run, jobs: Sequence[Job], wave: Sequence[int], device: DeviceSpec, out: Path, *, layers: bool
) -> list[ProfileRecord]:
    """Append each record once, also when a kill fell between two of them."""
    written: dict[str, ProfileRecord] = {}
    if out.is_file() and out.stat().st_size:
        for place, data in store.read_lines(out, torn_ok=True):
            if str(data.get("record_id", "")).startswith(run.run_id):
                written[data["record_id"]] = load(ProfileRecord, data, place)
    scale, result = _scale(run, jobs), []
    for index in wave:
        record_id = f"{run.run_id}-{index:03d}-{jobs[index].target.artifact.model.sha256[:8]}"
        if record_id not in written:
            written[record_id] = _record(record_id, run, index, jobs[index], scale, device, layers=layers)
            store.append_line(out, written[record_id])
        result.append(written[record_id])
    return result


def _record(
    record_id: str, run: _Run, index: int, job: Job, scale: Reference | None, device: DeviceSpec, *, layers: bool
) -> ProfileRecord:
    measurement = _measurement(run, index, job, scale) if run.visits.get(index) else None
    outcome, reason = run.failures.get(index, ("ok", None))
    label, evidence = quality.judge(measurement, job.settings) if measurement and outcome == "ok" else (None, ())
    found, why = _layers_of(job) if layers and outcome == "ok" else (None, None)
    return ProfileRecord(
        record_id=record_id,
        created_utc=store.utc_now(),
        kit_version=__version__,
        device=device,
        artifact=job.target.artifact,
        settings=job.settings,
        outcome=outcome,
        reason=reason,
        measurement=measurement,
        label=label,
        evidence=evidence if why is None else (*evidence, why),
        layers=found,
    )


def _layers_of(job: Job) -> tuple[Layers | None, str | None]:
    """The times per node from a process of their own, or why there are none."""
    if not job.settings.is_default_state:
        return None, "no times per layer: they are taken in the default state only"
    request = _request(job, 0, job.settings.visit_s, {}, {}).model_copy(update={"layers": True})
    reply = forkserver.ask(request, job.settings.timeout_s)
    return reply.layers, None if reply.layers else f"no times per layer: {reply.reason}"
