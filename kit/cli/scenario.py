"""The verb ``scenario``: MLPerf's loads on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli import show
from kit.cli.measure import Targets

if TYPE_CHECKING:
    from rich.table import Table

    from kit.records import ScenarioRecord, ScenarioRun

KINDS = ("single-stream", "multi-stream", "offline", "server")


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Measure")(scenario)


def scenario(
    targets: Targets = None,
    kind: Annotated[str, typer.Option(help="single-stream, multi-stream, offline or server.")] = "single-stream",
    bound_ms: Annotated[
        float | None, typer.Option(help="server: the latency that 99 % of the queries must meet, waiting included.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.01, max=1e5, help="Least duration of each run; a submission needs 600.")
    ] = 10.0,
    backend: Annotated[str, typer.Option(help="Runtime; kit backends lists them.")] = "onnxruntime",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    batches: Annotated[str, typer.Option(help="offline: the batch sizes to try.")] = "1,2,4,8,16,32",
    build: Annotated[
        Path | None, typer.Option(help="Build folder in which variant ids are looked up (default: build or run/build).")
    ] = None,
    timeout_s: Annotated[
        float, typer.Option(min=1, max=1e6, help="Seconds that one process may take beyond three times its plan.")
    ] = 120.0,
    profiles: Annotated[
        Path, typer.Option(help="Folder of profiles; records go to PROFILES/<device_id>/NAME.scenarios.ndjson.")
    ] = Path("profiles"),
    name: Annotated[str | None, typer.Option(help="Name of the file (default: target, backend and threads).")] = None,
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """Load networks as MLPerf does: one query at a time, all at once in batches, or at random arrivals with a queue.

    single-stream tells the 90th percentile with 99 % confidence, multi-stream the 99th of batches of 8, offline the throughput
    of each batch size, server the highest Poisson rate whose 99th percentile stays within --bound-ms. The default of 10 s a run is quick
    and no submission. Exit code 3: no rate keeps the bound.
    """
    from kit import store
    from kit.devices import recognise
    from kit.errors import UsageError
    from kit.measure.scenario import SUFFIX, measure
    from kit.measure.targets import resolve

    settings = _settings(kind, backend, threads, seconds, batches, bound_ms, timeout_s, seed)
    usual = (folder for folder in (Path("build"), Path("run/build")) if folder.is_dir())
    if not targets:
        raise UsageError("There is nothing to measure: name an .onnx file, a build folder or an id.")
    found = resolve(targets, backend=backend, build=build or next(usual, None))
    spec = recognise()
    first = Path(targets[0])
    stem = name or f"{first.resolve().stem if first.exists() else targets[0]}-{backend}-t{threads}"
    out = profiles / spec.device_id / f"{store.slug(stem)}{SUFFIX}"
    with show.progress("scenario") as update:
        try:
            records = measure(found, settings, spec, out, progress=lambda p: update(p.text, p.done / max(p.planned, 1)))
        except KeyboardInterrupt:  # unlike a profile it has no journal
            show.say("kit: stopped; the networks that were finished are recorded, the one in work is not.")
            raise typer.Exit(130) from None
    if json:
        show.emit(
            {"device": spec.device_id, "file": str(out), "seed": seed, "scenarios": [as_json(r) for r in records]}
        )
    else:
        show.print_table(*[table(r) for r in records if any(run.outcome == "ok" for run in r.runs)])
        for record in records:
            print(result_text(record))
            for remark in record.remarks:
                show.say(f"{record.artifact.artifact_id}: {remark}")
        show.say(f"Appended to {out}")
    _leave(records, out)


def _settings(
    kind: str,
    backend: str,
    threads: int,
    seconds: float,
    batches: str,
    bound_ms: float | None,
    timeout_s: float,
    seed: int,
) -> Any:
    """The flags as settings in SI units. Raises UsageError, UnknownName."""
    from math import isfinite

    from kit.errors import UnknownName, UsageError
    from kit.records import ScenarioSettings

    if kind not in KINDS:
        raise UnknownName("scenario", kind, KINDS)
    if kind == "server" and bound_ms is None:
        raise UsageError("The server scenario needs the latency that 99 % of the queries must meet: add --bound-ms.")
    if kind != "server" and bound_ms is not None:
        raise UsageError(f"--bound-ms is for --kind server; {kind} has no bound.")
    if bound_ms is not None and not (isfinite(bound_ms) and 1e-6 < bound_ms < 1e9):
        raise UsageError(f"--bound-ms {bound_ms:g} is no bound: give a sensible number above zero.")
    sizes = [part.strip() for part in batches.split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) <= 65536 for part in sizes):
        raise UsageError(f"--batches {batches} is no list of batch sizes: write it like 1,2,4,8.")
    return ScenarioSettings(
        scenario=kind,
        backend=backend,
        threads=threads,
        run_s=seconds,
        batches=tuple(int(part) for part in sizes),
        bound_s=None if bound_ms is None else bound_ms * 1e-3,
        timeout_s=timeout_s,
        seed=seed,
    )


def _leave(records: list[ScenarioRecord], out: Path) -> None:
    """Raise what the exit code asks for: 1 nothing was measured, 3 no rate keeps the bound."""
    from kit.errors import MeasurementError, NoAnswer

    if all(r.outcome != "ok" for r in records):
        reason = (records[0].reason or "").rstrip(".")
        raise MeasurementError(f"Nothing was measured: {reason}. The failures are recorded in {out}.")
    done = [r for r in records if r.outcome == "ok"]
    if all(r.reason is not None for r in done):
        raise NoAnswer(done[0].reason)


def result_text(record: ScenarioRecord) -> str:
    """The result as a sentence."""
    name, best = record.artifact.artifact_id, record.best
    if record.outcome != "ok":
        return f"{name}: {record.outcome}: {record.reason}"
    if record.reason is not None:
        return f"{name}: {record.reason}"
    if record.latency_s is not None:
        share = 90 if record.settings.scenario == "single-stream" else 99
        return f"{name}: {share} % of the queries take at most {show.ms(record.latency_s)} ms, with 99 % confidence"
    assert best is not None
    if record.settings.scenario == "offline":
        return f"{name}: {best.samples_per_s:.4g} samples per second at batch {best.batch}"
    bound_ms = show.ms(record.settings.bound_s)
    return f"{name}: {best.rate_hz:.4g} queries per second with 99 % of them within {bound_ms} ms by LoadGen's rule; {_sure_text(record)}"


def _sure_text(record: ScenarioRecord) -> str:
    from kit.measure.scenario import proof_s

    if record.surest is not None:
        return f"sure, counting queries that wait together as one: {record.surest.rate_hz:.4g}"
    times = [(seconds, run.rate_hz) for run in record.runs if (seconds := proof_s(run)) is not None]
    longer = "; to prove {1:.4g} takes runs of {0:.0f} s or more (--seconds)".format(*min(times)) if times else ""
    return f"none is sure yet, counting queries that wait together as one{longer}"


def table(record: ScenarioRecord) -> Table:
    """Every run of one record."""
    how = record.settings
    title = f"{record.artifact.artifact_id}: {how.scenario}, {how.backend}, {how.threads} thread(s), runs of {how.run_s:g} s"
    columns = ["batch", "queries", "samples/s", "median ms", "p90 ms", "p99 ms", "p90 sure", "p99 sure"]
    server = how.scenario == "server"
    made = show.make_table(
        title,
        *(["offered /s"] if server else []),
        *columns,
        *(["above bound", "allowed", "holds", "sure"] if server else []),
    )
    for run in sorted(record.runs, key=lambda r: r.rate_hz or 0.0):
        made.add_row(*_row(run, server))
    return made


def _row(run: ScenarioRun, server: bool) -> list[str]:
    offered = ["none" if run.rate_hz is None else f"{run.rate_hz:.4g}"] if server else []
    found = run.latencies
    if found is None:
        return [*offered, show.known(run.batch), "", "", run.outcome]
    times = (found.median_ns, found.p90_ns, found.p99_ns, found.sure_p90_ns, found.sure_p99_ns)
    shown = ["too few" if t is None else show.ms(t * 1e-9) for t in times]
    cells = [*offered, str(run.batch), str(run.queries), f"{run.samples_per_s or 0.0:.4g}", *shown]
    if server and run.rate_hz is not None:
        holds = "yes" if run.holds else "no, cut short" if run.cut_short else "no"
        cells += [str(run.misses), str(run.misses_allowed), holds, "yes" if run.sure else "no"]
    return cells


def as_json(record: ScenarioRecord) -> dict[str, Any]:
    """The JSON names of one record; raw values stay in the file."""
    best = record.best
    return {
        "id": record.artifact.artifact_id,
        "scenario": record.settings.scenario,
        "backend": record.settings.backend,
        "threads": record.settings.threads,
        "run_s": record.settings.run_s,
        "bound_s": record.settings.bound_s,
        "outcome": record.outcome,
        "reason": record.reason,
        "latency_s": record.latency_s,
        "samples_per_s": best.samples_per_s if best and record.settings.scenario == "offline" else None,
        "batch": best.batch if best and record.settings.scenario == "offline" else None,
        "rate_hz": best.rate_hz if best else None,
        "sure_rate_hz": record.surest.rate_hz if record.surest else None,
        "runs": [_run_json(run) for run in record.runs],
        "remarks": list(record.remarks),
        "record_id": record.record_id,
    }


def _run_json(run: ScenarioRun) -> dict[str, Any]:
    data = run.model_dump(mode="json", exclude={"latencies": {"values_ns"}, "before": True, "after": True})
    return {**data, "samples_per_s": run.samples_per_s, "holds": run.holds, "sure": run.sure}
