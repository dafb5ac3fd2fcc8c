"""MLPerf's scenarios on this device: single-stream, multi-stream, offline, server.

After the MLPerf inference rules (section "Scenarios", appendix "Early Stopping Criterion") and LoadGen's results. What differs: one
random input is repeated where a submission draws from a data set, runs are shorter than a submission's, and one session serves one
query at a time from a first-in first-out queue (no batching of waiting queries). A latency runs from the scheduled arrival to
the completion, so waiting counts.

LoadGen's early stopping takes queries for independent. Those of a queue are not: who waits, waits together. In simulation
(M/D/1 at 70 % load, 1 % of the queries above the bound, 400 runs each) its rule passes 44 % of the runs of 662 queries where it
promises 1 %, and 36 % of those of 10,000. So a server run is checked twice: ``holds`` by LoadGen's rule, and ``sure``, where misses
and queries are divided by how strongly misses cluster in busy periods (it passed at most 1.3 % of such runs, at loads of 30 to 85 %).

Each run (a batch size, an arrival rate) is a fresh child process like a run of the profiler, so a crash, a hang or a lack of memory
costs that run alone. Records go to PROFILES/<device_id>/NAME.scenarios.ndjson: JSON lines as everywhere, under a suffix of
their own, because whoever reads profiles takes every .jsonl of a folder for profile records.
"""

from __future__ import annotations

import gc
import json
import math
import os
import platform
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np

from kit import __version__, backends, stats, store
from kit.devices import telemetry
from kit.errors import BadRecord, MeasurementError, UsageError
from kit.measure import forkserver, profiler, stopwatch, worker
from kit.measure.profiler import Progress
from kit.measure.stopwatch import Clock
from kit.measure.targets import Target
from kit.packed import Series
from kit.records import (
    PERCENTILES,
    Artifact,
    DeviceSpec,
    InputRule,
    Latencies,
    Memory,
    Record,
    RunStatus,
    ScenarioRecord,
    ScenarioRun,
    ScenarioSettings,
    load,
)

Wait = Callable[[int], None]

SUFFIX = ".scenarios.ndjson"
SUBMISSION_S = 600.0  # least duration of a run, and least samples of an offline run, of a submission
SUBMISSION_SAMPLES = 24_576
STREAMS = 8  # samples per query of multi-stream
CALLS_MIN = 10  # a slow network still gives this many calls per run, whatever the time
STORED_MAX = 100_000  # raw latencies that a record stores
SPIN_NS = 2_000_000  # the last stretch before an arrival is spun: a sleeping thread wakes up to a millisecond late
START_LOAD = 0.7  # first rate of the search, as a share of what the bare calls allow
LEAST_LOAD = 0.05  # below this share hardly a query waits: what misses the bound there misses it by itself
PROBE_S = 0.3
SLACK = 3.0  # a run may take this many times as long as planned before it counts as hung
CODE = "import sys; sys.path[:] = [p for p in sys.path if p]; from kit.measure.scenario import main; main()"

# ----------------------------------------------------------------------------------------------------- scheduling, any clock


@dataclass(frozen=True)
class Served:
    """Latencies in nanoseconds in the order of arrival; ``duration_ns`` from the start to the last completion.

    ``periods`` numbers the busy period of each query: within one, the server never waits.
    """

    latencies_ns: Sequence[int]
    duration_ns: int
    periods: Sequence[int] = ()
    cut_short: bool = False


def wait_until(at_ns: int) -> None:
    """Sleep while ``at_ns`` (of the performance counter) is far, spin when it is close."""
    while (left_ns := at_ns - time.perf_counter_ns()) > SPIN_NS:
        time.sleep((left_ns - SPIN_NS) * 1e-9)
    while time.perf_counter_ns() < at_ns:
        pass


def stream(call: Callable[[], object], run_ns: int, queries_min: int, clock: Clock = time.perf_counter_ns) -> Served:
    """One query after the other for ``run_ns``, and at least ``queries_min`` of them."""
    latencies = array("q")
    begin = clock()
    until = begin + run_ns
    while True:
        start = clock()
        call()
        end = clock()
        latencies.append(end - start)
        if end >= until and len(latencies) >= queries_min:
            return Served(latencies, end - begin)


def serve(
    call: Callable[[], object],
    arrivals_ns: Iterable[int],
    *,
    bound_ns: float = math.inf,
    misses_allowed: int = 0,
    clock: Clock = time.perf_counter_ns,
    wait: Wait = wait_until,
) -> Served:
    """Queries that arrive at ``arrivals_ns`` (after the start, ascending), served one at a time in that order.

    It ends early once more than ``misses_allowed`` latencies lie above ``bound_ns``: the run can no longer prove the bound.
    """
    latencies, periods = array("q"), array("q")
    misses, period, end = 0, -1, clock()
    begin = end
    for arrival_ns in arrivals_ns:
        due = begin + arrival_ns
        if end < due or period < 0:
            period += 1
            wait(due)
        call()
        end = clock()
        latencies.append(end - due)
        periods.append(period)
        if end - due > bound_ns:
            misses += 1
            if misses > misses_allowed:
                return Served(latencies, end - begin, periods, cut_short=True)
    return Served(latencies, end - begin, periods)


def queue_effect(served: Served, bound_ns: float) -> float:
    """How strongly misses cluster in busy periods; the slowest tenth stands in for misses that are too few to estimate it."""
    latencies = np.asarray(served.latencies_ns, dtype=np.int64)
    late = latencies > min(bound_ns, float(np.quantile(latencies, 0.9)))
    return stats.cluster_effect(late, np.asarray(served.periods, dtype=np.int64))


def proof_s(run: ScenarioRun) -> float | None:
    """The seconds that a run at this rate takes to be sure if misses stay as rare, so at least; None when more time may not help."""
    if run.rate_hz is None or run.queue_effect is None or run.misses is None or not run.holds:
        return None
    share = run.misses / run.queries
    if share >= 1 - PERCENTILES["server"]:
        return None
    queries = float(run.queries)
    while math.ceil(share * queries / run.queue_effect) > stats.overlatency_allowed(
        int(queries / run.queue_effect), PERCENTILES["server"]
    ):
        queries *= 1.1
    return queries / run.rate_hz


def poisson(rate_hz: float, queries: int, seed: int) -> list[int]:
    """Arrival times in nanoseconds of a Poisson process: exponential gaps.

    One seed gives the same gaps at every rate but for the scale, so trials at different rates differ by the rate alone.
    """
    gaps = np.random.default_rng(seed).exponential(1e9 / rate_hz, queries)
    return [int(at) for at in np.cumsum(gaps)]


def search(holds: Callable[[float], bool], capacity_hz: float, precision: float, trials_max: int) -> float | None:
    """The highest rate that met the bound, within ``precision``, by at most ``trials_max`` trials; None when none did.

    It begins at 70 % of ``capacity_hz``, goes up or down until one rate meets it and one does not, and halves that bracket (on a
    logarithmic scale).
    """
    passed, failed, rate = 0.0, math.inf, START_LOAD * capacity_hz
    for _ in range(trials_max):
        if holds(rate):
            passed = rate
        else:
            failed = rate
        if failed <= passed * (1 + precision) or (not passed and rate / 2 < LEAST_LOAD * capacity_hz):
            break
        rate = math.sqrt(passed * failed) if passed and failed < math.inf else rate * 1.25 if passed else rate / 2
    return passed or None


# --------------------------------------------------------------------------------------------------------- the child process


class ScenarioRequest(Record):
    """What the parent asks for: a stream of queries, or, with ``rate_hz``, ``queries`` arrivals at that rate."""

    path: str
    artifact: Artifact | None
    backend: str
    threads: int
    batch: int | None = None  # None: the file's own
    run_s: float
    queries: int  # stream: at least; server: exactly
    rate_hz: float | None = None
    bound_s: float | None = None
    warmup_max_s: float = 1.0
    seed: int = 0
    rules: tuple[InputRule, ...] = ()
    samples: str | None = None


def main() -> None:
    """Entry of the child."""
    worker.serve(lambda line: answer(ScenarioRequest.model_validate_json(line)))


def answer(request: ScenarioRequest) -> ScenarioRun:
    """Serve one scenario request in the child."""
    try:
        return _run(request)
    except Exception as error:  # a runtime's own exception: a failure is a record, not a traceback
        return _failed(request, *worker.failure(error))


def _rows(session: backends.Session) -> int:
    return session.inputs[0].shape[0] if session.inputs and session.inputs[0].shape else 1


def _failed(request: ScenarioRequest, status: RunStatus, reason: str) -> ScenarioRun:
    return ScenarioRun(status=status, reason=reason, batch=request.batch, rate_hz=request.rate_hz)


def _run(request: ScenarioRequest) -> ScenarioRun:
    at_start = worker.resident_bytes()
    backend = backends.load(request.backend)
    version = backend.probe().version or "unknown"
    runtime = worker.resident_bytes()
    session = backend.open(Path(request.path), request.artifact, request.threads, batch=request.batch)
    opened = worker.resident_bytes()
    call = session.prepare(worker.fed_by(request, session).samples[0])
    call()
    stopwatch.warm_up(call, request.warmup_max_s)
    allowed = None
    if request.bound_s is not None:
        allowed = stats.overlatency_allowed(request.queries, PERCENTILES["server"])
    readers = telemetry.readers_here(backend.target)
    before = telemetry.read_environment(readers)
    served = _load(call, request, allowed)
    after = telemetry.read_environment(readers)
    latencies = np.asarray(served.latencies_ns, dtype=np.int64)
    return ScenarioRun(
        status="ok",
        batch=request.batch or (request.artifact and request.artifact.batch) or _rows(session),
        rate_hz=request.rate_hz,
        queries=len(latencies),
        duration_s=served.duration_ns * 1e-9,
        misses=None if request.bound_s is None else int(np.sum(latencies > request.bound_s * 1e9)),
        misses_allowed=allowed,
        queue_effect=None if request.bound_s is None else queue_effect(served, request.bound_s * 1e9),
        cut_short=served.cut_short,
        latencies=summary(served.latencies_ns),
        memory=Memory(
            at_start_bytes=at_start, runtime_bytes=runtime, opened_bytes=opened, peak_bytes=worker.peak_bytes()
        ),
        before=before,
        after=after,
        versions={request.backend: version, "python": platform.python_version(), "numpy": np.__version__},
        notes=session.notes,
    )


def _load(call: Callable[[], object], request: ScenarioRequest, allowed: int | None) -> Served:
    """The load itself; the garbage collector rests meanwhile."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        if request.rate_hz is None:
            return stream(call, int(request.run_s * 1e9), request.queries)
        bound_ns = math.inf if request.bound_s is None else request.bound_s * 1e9
        arrivals = poisson(request.rate_hz, request.queries, request.seed)
        return serve(call, arrivals, bound_ns=bound_ns, misses_allowed=allowed or 0)
    finally:
        if collecting:
            gc.enable()


def summary(latencies_ns: Sequence[int]) -> Latencies:
    """The statistics of one run, and its raw values where they are few enough. Raises ValueError on none."""
    values = np.asarray(latencies_ns, dtype=np.float64)
    return Latencies(
        mean_ns=float(values.mean()),
        min_ns=float(values.min()),
        median_ns=stats.quantile(values, 0.5),
        p90_ns=stats.quantile(values, 0.9),
        p99_ns=stats.quantile(values, 0.99),
        max_ns=float(values.max()),
        sure_p90_ns=stats.early_stopping(values, 0.9),
        sure_p99_ns=stats.early_stopping(values, 0.99),
        values_ns=Series(latencies_ns) if len(values) <= STORED_MAX else None,
    )


# ----------------------------------------------------------------------------------------------------------- the parent

Ask = Callable[
    [int | None, float | None, int, float], ScenarioRun
]  # batch, rate_hz, queries, the seconds it should take


@dataclass(frozen=True)
class Result:
    """What came of one artifact: ``reason`` says why there is no result."""

    status: RunStatus
    reason: str | None
    runs: tuple[ScenarioRun, ...]
    remarks: tuple[str, ...] = ()


def measure(
    targets: Sequence[Target],
    settings: ScenarioSettings,
    device: DeviceSpec,
    out: Path,
    *,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[ScenarioRecord]:
    """Run the scenario on each target and append one record each to the file ``out``.

    Raises UsageError (a server run without a bound), BackendUnavailable, StorageError, MeasurementError (nothing to measure).
    """
    if not targets:
        raise MeasurementError("There is nothing to measure: name an .onnx file, a build folder or a variant id.")
    if settings.scenario == "server" and settings.bound_s is None:
        raise UsageError("The server scenario needs the latency that 99 % of the queries must meet: add --bound-ms.")
    backends.require(settings.backend)
    store.make_folder(out.parent)
    stamp = f"{store.utc_now()[:19].replace(':', '')}Z-{os.urandom(3).hex()}"
    steps, records = _steps(settings), []
    with profiler.alone(out.parent):
        for index, target in enumerate(targets):
            show = partial(_show, progress, target, index, len(targets), steps)
            result = run_target(_asker(target, settings, show), settings)
            record = ScenarioRecord(
                record_id=f"{stamp}-{target.artifact.content_sha256[:8]}",
                created_utc=store.utc_now(),
                kit_version=__version__,
                device=device,
                artifact=target.artifact,
                settings=settings,
                status=result.status,
                reason=result.reason,
                runs=result.runs,
                remarks=(*result.remarks, *_remarks(result.runs, settings, given=bool(target.feeding()))),
            )
            store.append_line(out, record)
            records.append(record)
    return records


def _asker(target: Target, settings: ScenarioSettings, show: Callable[[int, str], None]) -> Ask:
    """One child process per call; ``show`` is called before each starts."""
    number = count()

    def ask(batch: int | None, rate_hz: float | None, queries: int, planned_s: float) -> ScenarioRun:
        show(next(number), _load_text(batch, rate_hz, planned_s))
        return _ask(target, settings, batch, rate_hz, queries, planned_s)

    return ask


def _show(
    progress: Callable[[Progress], None], target: Target, index: int, targets: int, steps: int, number: int, text: str
) -> None:
    steps_done = index * steps + min(number, steps - 1)
    progress(Progress(steps_done, targets * steps, f"{target.artifact.artifact_id}: {text}"))


def read(paths: Sequence[Path]) -> list[ScenarioRecord]:
    """Every scenario record of the given files and folders, the oldest first. Raises UsageError (missing), BadRecord."""
    files = [f for path in paths for f in (sorted(path.rglob(f"*{SUFFIX}")) if path.is_dir() else [path])]
    records = [load(ScenarioRecord, data, place) for file in files for place, data in store.read_lines(file)]
    if not records:
        raise BadRecord(f"{', '.join(map(str, paths))} holds no {SUFFIX} record: run kit scenario first.")
    return sorted(records, key=lambda record: record.created_utc)


def run_target(ask: Ask, settings: ScenarioSettings) -> Result:
    """The scenario on one artifact: a short probe for the time of a call, then the runs."""
    probe = ask(STREAMS if settings.scenario == "multi-stream" else None, None, CALLS_MIN, PROBE_S)
    if probe.status != "ok" or probe.latencies is None:
        return Result(probe.status, probe.reason, (probe,))
    call_s = probe.latencies.mean_ns * 1e-9
    if settings.scenario == "offline":
        return _offline(ask, settings, probe.batch or 1, call_s)
    if settings.scenario == "server":
        return _server(ask, settings, probe, call_s)
    queries = stats.queries_needed(1, PERCENTILES[settings.scenario])
    run = ask(probe.batch, None, queries, max(settings.run_s, queries * call_s))
    return Result(run.status, run.reason, (run,))


def _offline(ask: Ask, settings: ScenarioSettings, own: int, call_s: float) -> Result:
    """The sweep over batch sizes. A file of fixed batch runs its own; after a failure no larger batch is tried."""
    runs: list[ScenarioRun] = []
    remarks: list[str] = []
    failed = math.inf
    for batch in dict.fromkeys(settings.batches):
        if batch >= failed:
            remarks.append(f"batch {batch} was not tried: batch {failed} had failed")
            continue
        run = ask(batch, None, CALLS_MIN, max(settings.run_s, CALLS_MIN * call_s * batch / own))
        if run.status == "unsupported":
            remarks.append(_fixed(own))
            break
        runs.append(run)
        if run.status != "ok":
            failed = batch
    if not runs:
        runs.append(ask(own, None, CALLS_MIN, max(settings.run_s, CALLS_MIN * call_s)))
    measured = any(run.status == "ok" for run in runs)
    return Result(
        "ok" if measured else runs[0].status, None if measured else runs[0].reason, tuple(runs), tuple(remarks)
    )


def _fixed(own: int) -> str:
    return (
        f"the batch of this file is fixed at {own}, so only that was run: "
        "kit export NAME --batch dynamic makes a file that takes any"
    )


def _server(ask: Ask, settings: ScenarioSettings, probe: ScenarioRun, call_s: float) -> Result:
    """The highest Poisson rate whose 99th percentile meets the bound.

    The number of queries of a trial is set before it (LoadGen goes on until the rule is met, which helps the rule along).
    """
    assert settings.bound_s is not None and probe.latencies is not None
    if probe.latencies.median_ns * 1e-9 > settings.bound_s:
        return Result("ok", _none_holds(settings, f"one call alone takes {call_s * 1e3:.3g} ms"), (probe,))
    least = stats.queries_needed(1, PERCENTILES["server"])
    runs: list[ScenarioRun] = []

    def holds(rate_hz: float) -> bool:
        queries = max(least, math.ceil(rate_hz * settings.run_s))
        run = ask(probe.batch, rate_hz, queries, queries * max(1 / rate_hz, call_s))
        runs.append(run)
        if run.status != "ok":
            raise _Broken
        return run.holds

    try:
        rate_hz = search(holds, 1 / call_s, settings.rate_precision, settings.trials_max)
    except _Broken:
        return Result(runs[-1].status, runs[-1].reason, tuple(runs))
    reason = None
    if rate_hz is None:
        reason = _none_holds(settings, f"not even {runs[-1].rate_hz:.3g} queries per second do")
    return Result("ok", reason, tuple(runs))


class _Broken(Exception):
    """A trial that gave no answer ends the search."""


def _none_holds(settings: ScenarioSettings, why: str) -> str:
    bound_ms = (settings.bound_s or 0.0) * 1e3
    return (
        f"No rate keeps 99 % of the queries within {bound_ms:g} ms ({why}): raise --bound-ms or take a faster variant."
    )


def _ask(
    target: Target,
    settings: ScenarioSettings,
    batch: int | None,
    rate_hz: float | None,
    queries: int,
    planned_s: float,
) -> ScenarioRun:
    """One child process, one run; a child that dies is a run too."""
    request = ScenarioRequest(
        path=str(target.path),
        artifact=target.artifact,
        backend=settings.backend,
        threads=settings.threads,
        batch=batch,
        run_s=min(planned_s, settings.run_s),
        queries=queries,
        rate_hz=rate_hz,
        bound_s=None if rate_hz is None else settings.bound_s,
        warmup_max_s=settings.warmup_max_s,
        seed=settings.seed,
        rules=target.rules,
        samples=None if target.samples is None else str(target.samples),
    )
    request_json = json.dumps(request.model_dump(mode="json"))
    line, status, reason = forkserver.spawn(CODE, request_json, request.threads, settings.timeout_s + SLACK * planned_s)
    if line is None:
        return _failed(request, status, reason)
    try:
        return ScenarioRun.model_validate_json(line)
    except ValueError:
        return _failed(request, "failed", "The child process gave an unreadable answer.")


def _steps(settings: ScenarioSettings) -> int:
    """About how many child processes one target takes, for the progress bar."""
    return {"offline": 1 + len(settings.batches), "server": min(9, 1 + settings.trials_max)}.get(settings.scenario, 2)


def _load_text(batch: int | None, rate_hz: float | None, planned_s: float) -> str:
    what = f"{rate_hz:.4g} queries per second" if rate_hz is not None else f"batch {batch}" if batch else "probe"
    return f"{what}, about {planned_s:.0f} s" if planned_s >= 1 else what


def _remarks(runs: Sequence[ScenarioRun], settings: ScenarioSettings, *, given: bool) -> list[str]:
    """What a reader must know: how far this is from a submission, and whether the device throttled; ``given``: inputs were chosen."""
    short = [f"runs of {settings.run_s:g} s where the rules ask for {SUBMISSION_S:g}"]
    if settings.run_s >= SUBMISSION_S:
        short = []
    completed = [run for run in runs if run.status == "ok" and run.batch]
    if settings.scenario == "offline" and any(run.queries * (run.batch or 1) < SUBMISSION_SAMPLES for run in completed):
        short.append(f"fewer than {SUBMISSION_SAMPLES:,} samples")
    sizes = {run.batch for run in completed}
    if settings.scenario in ("single-stream", "server") and sizes - {1}:
        short.append(f"queries of {max(run.batch or 1 for run in completed)} samples")
    notes = dict.fromkeys(note for run in runs for note in run.notes)
    fed = "one given input in place of a data set" if given else "one random input in place of a data set"
    remarks = [*notes, f"no MLPerf submission: {', '.join([*short, fed])}"]
    pairs = [(run.before, run.after) for run in runs if run.before is not None and run.after is not None]
    if flags := sorted({flag for before, after in pairs for flag in telemetry.throttled_between(before, after)}):
        remarks.append(f"the device reports {', '.join(flags)}: the result is that of a throttled device")
    return remarks
