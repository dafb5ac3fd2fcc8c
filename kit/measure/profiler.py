"""The parent process of a measurement: networks at operating points become profile records, interleaved, resumable, labelled.

A job is a target, a backend and an operating point. Each round runs every job that is still open, in random order, in a
fresh child process, so that drift affects all alike. A job closes when the interval of its median is narrow enough and
no check fails, or when the rounds or the time budget end. Long sweeps go in batches of jobs that each span the full range of
sizes and are written when they are complete, so that a sweep that is stopped early has measured a useful spread. Every run of a
process is on the disk before the next begins (the journal), so a command that was killed resumes where it was. While a child measures, the
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
    FedInput,
    Layers,
    Measurement,
    MeasureSettings,
    ProfileRecord,
    Reference,
    Run,
    RunStatus,
    SubNetwork,
    load,
)

BATCH_JOBS = 40  # jobs that are interleaved: more would put the runs of one network too far apart
REFERENCE = "reference.json"
RUN_MIN_S = 0.1
ENDING_S = 0.1  # writing and showing the records
RUN_GOOD_S = 0.2  # a budget with room for more than the fewest processes is spent on more, not on longer ones
OVERHEAD_S = 0.35
IDLE_POWER_S = 2.0


@dataclass(frozen=True)
class Job:
    """A network to be timed in one way: ``settings`` hold the backend and the operating point."""

    target: Target
    settings: MeasureSettings

    @property
    def name(self) -> str:
        """Network, runtime and operating point, for people."""
        return f"{self.target.artifact.artifact_id} {self.settings.backend} {self.settings.name}"


@dataclass(frozen=True)
class Progress:
    """One step of a command: ``steps_done`` of about ``planned`` runs, what comes next, and the remaining time where it is known."""

    steps_done: int
    planned: int
    text: str
    remaining_s: float | None = None


@dataclass
class _Results:
    """Runs and failures of each job so far, by its place in the list."""

    run_id: str
    runs: dict[int, list[Run]] = field(default_factory=dict)
    failures: dict[int, tuple[RunStatus, str]] = field(default_factory=dict)
    feeds: dict[int, tuple[FedInput, ...]] = field(default_factory=dict)  # of the last run
    written: set[int] = field(default_factory=set)  # jobs whose record is on the disk
    wall_s: float = 0.0
    steps_done: int = 0  # runs and failures
    resumed: int = 0
    overhead_s: float = OVERHEAD_S  # wall time of a run without its collecting: updated after each run
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

    A command that was killed is resumed from its journal next to ``out`` (same jobs and device); ``fresh`` discards the journal.
    ``control`` allows to change clock and power mode, which are restored on every exit; ``layers`` adds the times per node;
    ``spent_s`` is wall time that counts towards the budget already. Raises BackendUnavailable, StorageError, MeasurementError.
    """
    if not jobs:
        raise MeasurementError("There is nothing to measure: name an .onnx file, a build folder or a variant id.")
    for backend in {job.settings.backend for job in jobs}:
        backends.require(backend)
    store.make_folder(out.parent)
    journal = out.parent / f".{out.stem}.{_journal_key(jobs, device)}.journal"
    with alone(out.parent):
        if fresh:
            journal.unlink(missing_ok=True)
        results = _read_journal(journal)
        if results.resumed:
            progress(Progress(results.resumed, results.resumed + 1, f"resuming after {results.resumed} runs"))
        if message := operating_point.restore_left_over(operating_point.state_file()):
            progress(Progress(results.steps_done, results.steps_done + 1, message))
        start_s = time.monotonic() - spent_s - results.wall_s
        results.reference = _stored_reference(out.parent, device)
        records: list[ProfileRecord] = []
        with forkserver.ForkServer() as children, tempfile.TemporaryDirectory(prefix="kit-") as scratch:
            networks = _reference_networks(jobs, Path(scratch))
            session = _Session(
                results, jobs, journal, control, _idle_power_w(jobs), start_s, progress, children, networks
            )
            for batch in _batches(jobs):
                session.measure(batch)
                results.reference = _update_reference(results, jobs, device, out.parent)
                records += _write_records(results, jobs, batch, device, out, layers=layers)
                results.written |= set(batch)
                for index in batch:
                    results.runs.pop(index, None)  # a long sweep must not fill the memory
        journal.unlink(missing_ok=True)
    return [record for _, record in sorted(zip(_order(jobs), records, strict=True), key=lambda pair: pair[0])]


def _journal_key(jobs: Sequence[Job], device: DeviceSpec) -> str:
    """Two commands share a journal when networks, settings, machine and versions are the same."""
    parts = [
        [j.target.artifact.model_dump(mode="json"), j.settings.model_dump(mode="json"), *j.target.feeding()]
        for j in jobs
    ]
    machine = [device.device_id, device.kernel, device.runtimes, __version__]
    return store.sha256_bytes(store.canonical_json([machine, parts]))[:12]


def alone(folder: Path) -> AbstractContextManager[None]:
    """Hold the folder's lock: two measurements at once would disturb each other. Raises StorageError."""
    return store.locked(folder, f"Another kit profile is measuring into {folder}: wait for it, or stop it first.")


def _read_journal(journal: Path) -> _Results:
    lines = (
        [data for _, data in store.read_lines(journal, torn_ok=True)]
        if journal.is_file() and journal.stat().st_size
        else []
    )
    if not lines or "run_id" not in lines[0]:
        results = _Results(run_id=f"{store.utc_now()[:19].replace(':', '')}Z-{os.urandom(3).hex()}")
        store.append_line(journal, {"run_id": results.run_id})
        return results
    results = _Results(run_id=lines[0]["run_id"])
    for line in lines[1:]:
        results.wall_s += line["wall_s"]
        results.resumed += 1
        results.steps_done += 1
        if "visit" in line:
            results.runs.setdefault(line["job"], []).append(load(Run, line["visit"], str(journal)))
            results.feeds[line["job"]] = tuple(load(FedInput, f, str(journal)) for f in line.get("feeds", ()))
        else:
            results.failures[line["job"]] = (line["outcome"], line["reason"])
    return results


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
        return artifact.macs or 0, artifact.size_bytes

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


def _batches(jobs: Sequence[Job]) -> list[list[int]]:
    """The order cut into batches of about :data:`BATCH_JOBS` jobs, never between two jobs of one network."""
    batches: list[list[int]] = [[]]
    before = None
    for index in _order(jobs):
        network = jobs[index].target.artifact.artifact_id
        if len(batches[-1]) >= BATCH_JOBS and network != before:
            batches.append([])
        batches[-1].append(index)
        before = network
    return batches


# --------------------------------------------------------------------------------------------------------------- the run


@dataclass
class _Session:
    """How one command runs its jobs: the jobs, the journal, and what of the machine may be changed."""

    results: _Results
    jobs: Sequence[Job]
    journal: Path
    control: bool
    idle_power_w: dict[str, float]
    start_s: float  # on the monotonic clock, so that the time of an interrupted command counts
    progress: Callable[[Progress], None]
    children: forkserver.ForkServer
    reference_networks: dict[str, worker.WorkerNetwork]

    def measure(self, batch: Sequence[int]) -> None:
        """Rounds over the jobs of ``batch`` until all are closed or the budget is spent."""
        self._refuse_unsupported(batch)
        for round_ in range(max(self.jobs[i].settings.rounds_max for i in batch)):
            scale = _scale(self.results, self.jobs)
            still_open = [i for i in batch if self._open(i, scale)]
            seed = self.jobs[batch[0]].settings.seed
            order = random.Random(f"{seed}/{batch[0]}/{round_}").sample(still_open, len(still_open))
            # Stable: the order stays random within a state of the machine, and the machine changes its state once a round.
            for _, group in groupby(sorted(order, key=self._state_of), key=self._state_of):
                if not self._round(list(group), round_, still_open):
                    return

    def _round(self, group: Sequence[int], round_: int, still_open: Sequence[int]) -> bool:
        """One run of each of ``group``, which share a state of the machine; False when the budget is spent."""
        first, state = self.jobs[group[0]].settings, operating_point.state_file()
        try:
            with operating_point.controlled(state=state, clock_cap_hz=first.clock_cap_hz, power_mode=first.power_mode):
                for index in group:
                    settings = self.jobs[index].settings
                    if len(self.results.runs.get(index, [])) > round_:
                        continue  # measured before the kill
                    run_s = self._run_s(index)
                    if run_s is None and round_ > 0:
                        return False
                    self.progress(self._progress(index, round_, still_open))
                    self._run_job(index, round_, run_s or min(RUN_MIN_S, settings.run_s))
        except (UsageError, StorageError) as error:
            if not _changes_machine(first) or state.exists():
                raise  # not a point that cannot be set, or a machine that was not put back
            for index in set(group) - set(self.results.failures):
                self._fail(index, "unsupported", str(error), 0.0)
        return True

    def _refuse_unsupported(self, batch: Sequence[int]) -> None:
        """A point that this machine cannot be put into is recorded, not an error in the middle of a sweep."""
        for index in batch:
            point = self.jobs[index].settings
            reason = operating_point.unsupported(point)
            if reason is None and _changes_machine(point) and not self.control:
                reason = "changing the clock or the power mode must be allowed with --control"
            if reason is not None and index not in self.results.failures:
                self.results.failures[index] = ("unsupported", f"{reason[:1].upper()}{reason[1:].rstrip('.')}.")

    def _state_of(self, index: int) -> tuple[str, float]:
        """Jobs that need the same state of the machine go together: a power mode takes seconds to change."""
        point = self.jobs[index].settings
        return point.power_mode or "", point.clock_cap_hz or 0.0

    def _open(self, index: int, scale: Reference | None) -> bool:
        """Whether this job needs another run."""
        if index in self.results.failures:
            return False
        settings = self.jobs[index].settings
        if self._missing(index) > 0:
            return True
        if len(self.results.runs[index]) >= settings.rounds_max:
            return False
        return bool(quality.failed_checks(_measurement(self.results, index, self.jobs[index], scale), settings))

    def _missing(self, index: int) -> int:
        """Runs that this job needs in any case and has not had; 0 for one that failed or is on the disk."""
        if index in self.results.failures or index in self.results.written:
            return 0
        return max(0, self._rounds(self.jobs[index].settings) - len(self.results.runs.get(index, [])))

    def _rounds(self, settings: MeasureSettings) -> int:
        """Rounds that are needed in any case; a budget that has room for more than the fewest is spent on more."""
        if settings.budget_s is None:
            return settings.rounds_min
        room = int(settings.budget_s / (len(self.jobs) * (self.results.overhead_s + RUN_GOOD_S)))
        return min(settings.rounds_max, max(settings.rounds_min, room))

    def _run_s(self, index: int) -> float | None:
        """Seconds of collecting for the next run, so that the rounds that are still needed fit into the budget; None when
        it is spent. A further round is paid from what the first rounds of all jobs leave."""
        settings = self.jobs[index].settings
        if settings.budget_s is None:
            return settings.run_s
        left_s = settings.budget_s - (time.monotonic() - self.start_s) - ENDING_S
        further = self._missing(index) == 0
        needed = sum(map(self._missing, range(len(self.jobs)))) + further
        share_s = left_s / needed - self.results.overhead_s
        if left_s < self.results.overhead_s or (further and share_s < min(settings.run_s, RUN_GOOD_S / 2)):
            return None
        return min(settings.run_s, max(share_s, RUN_MIN_S))

    def _run_job(self, index: int, round_: int, run_s: float) -> None:
        job, start = self.jobs[index], time.perf_counter()
        try:
            with operating_point.busy(job.settings.load):
                request = _request(job, round_, run_s, self.idle_power_w, self.reference_networks)
                reply = self.children.ask(request, job.settings.timeout_s)
        except MeasurementError as error:  # the background load ended early
            reply = worker.WorkerReply(status="failed", reason=str(error))
        wall_s = time.perf_counter() - start
        if reply.run is None:
            self._fail(index, reply.status, reply.reason or "The runtime gave no reason.", wall_s)
            return
        self.results.overhead_s += (wall_s - run_s - self.results.overhead_s) / min(4, self.results.steps_done + 1)
        self.results.runs.setdefault(index, []).append(reply.run)
        self.results.feeds[index] = reply.feeds
        self.results.steps_done += 1
        fed = [f.model_dump(mode="json") for f in reply.feeds]
        line = {"job": index, "wall_s": wall_s, "visit": reply.run.model_dump(mode="json"), "feeds": fed}
        store.append_line(self.journal, line)

    def _fail(self, index: int, status: RunStatus, reason: str, wall_s: float) -> None:
        self.results.failures[index] = (status, reason)
        self.results.steps_done += 1
        store.append_line(self.journal, {"job": index, "wall_s": wall_s, "outcome": status, "reason": reason})

    def _progress(self, index: int, round_: int, still_open: Sequence[int]) -> Progress:
        repeats = sum(self._missing(i) == 0 and len(self.results.runs.get(i, [])) <= round_ for i in still_open)
        waiting = max(1, sum(map(self._missing, range(len(self.jobs)))) + repeats)
        pace_s = (time.monotonic() - self.start_s) / self.results.steps_done if self.results.steps_done >= 3 else None
        return Progress(
            self.results.steps_done,
            self.results.steps_done + waiting,
            f"round {round_ + 1}: {self.jobs[index].name}",
            None if pace_s is None else pace_s * waiting,
        )


def _changes_machine(point: MeasureSettings) -> bool:
    return point.clock_cap_hz is not None or point.power_mode is not None


def _measurement(results: _Results, index: int, job: Job, scale: Reference | None) -> Measurement:
    if scale is None or not _drifts(job.settings):
        return Measurement(runs=tuple(results.runs[index]))
    runs = tuple(results.runs[index])
    own = drift.of_job(scale, job.target.artifact.precision, job.settings.backend, runs)
    return Measurement(runs=runs, reference=own)


def _drifts(settings: MeasureSettings) -> bool:
    """Drift is divided out only where the machine is in its usual state on purpose: elsewhere its state is what is measured. The
    fake backend waits for a clock and does not drift."""
    return settings.is_default_state and settings.backend != "fake"


def _scale(results: _Results, jobs: Sequence[Job], runs_min: int = 1, device_id: str = "") -> Reference | None:
    """The device's scale, with what it lacks from the runs so far of jobs that had at least ``runs_min``."""
    of_jobs = [i for i, runs in results.runs.items() if _drifts(jobs[i].settings) and len(runs) >= runs_min]
    timed_runs = [drift.TimedRun(r, jobs[i].settings.backend) for i in of_jobs for r in results.runs[i]]
    return drift.scale(results.reference, device_id, timed_runs)


def _stored_reference(folder: Path, device: DeviceSpec) -> Reference | None:
    path = folder / REFERENCE
    reference = store.read_record(path, Reference) if path.is_file() else None
    if reference is not None and not drift.fits(reference, device.device_id):
        raise UsageError(
            f"{path} is the scale of another device or of other workloads: measure into another --profiles folder."
        )
    return reference


def _update_reference(results: _Results, jobs: Sequence[Job], device: DeviceSpec, folder: Path) -> Reference | None:
    """The device's scale, each workload of it written once: every later drift-corrected latency of this device rests on it."""
    reference = _scale(results, jobs, quality.RUNS_MIN, device.device_id)
    if reference is not None and reference is not results.reference:
        store.write_record(folder / REFERENCE, reference)
    return reference


def _reference_networks(jobs: Sequence[Job], folder: Path) -> dict[str, worker.WorkerNetwork]:
    """The reference networks that these jobs need, written to ``folder``."""
    networks: dict[str, worker.WorkerNetwork] = {}
    for job in jobs:
        if not _drifts(job.settings) or backends.LEAVES[job.settings.backend].target != "cpu":
            continue
        for name, text in drift.networks(job.target.artifact.precision).items():
            if name not in networks:
                path = folder / f"{name}.onnx"
                networks[name] = worker.WorkerNetwork(
                    path=str(path), artifact=spaces.write(SubNetwork.parse(text), path)
                )
    return networks


def _idle_power_w(jobs: Sequence[Job]) -> dict[str, float]:
    """The power of the idle machine in watts by target ("cpu", "gpu"), where a meter reports it; read before the first run."""
    power_w = {}
    for target in sorted({backends.LEAVES[job.settings.backend].target for job in jobs}):
        meter = next(iter(telemetry.meters(target=target)), None)
        if meter is not None:
            power_w[target] = telemetry.idle_power(meter, IDLE_POWER_S)
    return {target: watts for target, watts in power_w.items() if watts is not None}


def _request(
    job: Job,
    round_: int,
    run_s: float,
    idle_power_w: dict[str, float],
    reference_networks: dict[str, worker.WorkerNetwork],
) -> worker.WorkerRequest:
    settings = job.settings
    names = drift.networks(job.target.artifact.precision) if _drifts(settings) else {}
    return worker.WorkerRequest(
        path=str(job.target.path),
        artifact=job.target.artifact,
        backend=settings.backend,
        threads=settings.threads,
        batch=settings.batch,
        affinity=settings.affinity,
        gap_s=settings.gap_s,
        round=round_,
        run_s=run_s,
        warmup_max_s=settings.warmup_max_s,
        energy=not settings.load and not settings.gap_s,  # a background load's energy is not the network's
        idle_power_w=idle_power_w.get(backends.LEAVES[settings.backend].target) if settings.is_default_state else None,
        references={name: reference_networks[name] for name in names if name in reference_networks},
        seed=settings.seed,
        rules=job.target.rules,
        samples=None if job.target.samples is None else str(job.target.samples),
    )


# --------------------------------------------------------------------------------------------------------------- records


def _write_records(
    results: _Results, jobs: Sequence[Job], batch: Sequence[int], device: DeviceSpec, out: Path, *, layers: bool
) -> list[ProfileRecord]:
    """Append each record once, also when a kill fell between two of them."""
    written: dict[str, ProfileRecord] = {}
    if out.is_file() and out.stat().st_size:
        for place, data in store.read_lines(out, torn_ok=True):
            if str(data.get("record_id", "")).startswith(results.run_id):
                written[data["record_id"]] = load(ProfileRecord, data, place)
    scale, records = _scale(results, jobs), []
    for index in batch:
        record_id = f"{results.run_id}-{index:03d}-{jobs[index].target.artifact.content_sha256[:8]}"
        if record_id not in written:
            written[record_id] = _record(record_id, results, index, jobs[index], scale, device, layers=layers)
            store.append_line(out, written[record_id])
        records.append(written[record_id])
    return records


def _record(
    record_id: str,
    results: _Results,
    index: int,
    job: Job,
    scale: Reference | None,
    device: DeviceSpec,
    *,
    layers: bool,
) -> ProfileRecord:
    measurement = _measurement(results, index, job, scale) if results.runs.get(index) else None
    status, reason = results.failures.get(index, ("ok", None))
    label, evidence = quality.label_of(measurement, job.settings) if measurement and status == "ok" else (None, ())
    feeds = results.feeds.get(index, ())
    if label is not None:
        label, facts = quality.label_by_inputs(label, feeds)
        evidence += facts
    nodes, why = _layers_of(job) if layers and status == "ok" else (None, None)
    return ProfileRecord(
        record_id=record_id,
        created_utc=store.utc_now(),
        kit_version=__version__,
        device=device,
        artifact=job.target.artifact,
        settings=job.settings,
        status=status,
        reason=reason,
        measurement=measurement,
        label=label,
        evidence=evidence if why is None else (*evidence, why),
        layers=nodes,
        feeds=feeds,
    )


def _layers_of(job: Job) -> tuple[Layers | None, str | None]:
    """The times per node from a process of their own, or why there are none."""
    if not job.settings.is_default_state:
        return None, "no times per layer: they are measured in the default state only"
    request = _request(job, 0, job.settings.run_s, {}, {}).model_copy(update={"layers": True})
    reply = forkserver.ask(request, job.settings.timeout_s)
    return reply.layers, None if reply.layers else f"no times per layer: {reply.reason}"
