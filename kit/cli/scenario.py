"""The verb ``scenario``: MLPerf's loads on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit import units
from kit.cli import options, show
from kit.cli.table import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kit.cli.table import Table
    from kit.errors import KitError
    from kit.records import ScenarioRecord, ScenarioRun, ScenarioSettings

KINDS = ("single-stream", "multi-stream", "offline", "server")
LOAD = "Load"


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(rich_help_panel="Measure")(options.grouped(scenario))


def _complete_kind(incomplete: str) -> list[str]:
    return [kind for kind in KINDS if kind.startswith(incomplete)]


@dataclass(frozen=True)
class Load:
    """The load, and how long it lasts."""

    kind: Annotated[
        str, typer.Option(help=f"{', '.join(KINDS)}.", autocompletion=_complete_kind, rich_help_panel=LOAD)
    ] = "single-stream"
    bound_ms: Annotated[
        float | None,
        typer.Option(
            help="server: the latency that 99 % of the queries must meet, waiting included.", rich_help_panel=LOAD
        ),
    ] = None
    seconds: Annotated[
        float,
        typer.Option(
            min=0.01, max=1e5, help="Least duration of each run; a submission needs 600.", rich_help_panel=LOAD
        ),
    ] = 10.0
    batches: Annotated[str, typer.Option(help="offline: the batch sizes to try.", rich_help_panel=LOAD)] = (
        "1,2,4,8,16,32"
    )
    timeout_s: Annotated[
        float,
        typer.Option(
            min=1, max=1e6, help="Seconds that one process may take beyond three times its plan.", rich_help_panel=LOAD
        ),
    ] = 120.0

    def settings(self, backend: str, threads: int, seed: int) -> ScenarioSettings:
        """Options as settings in SI units. Raises UsageError, UnknownName."""
        from kit.errors import UsageError
        from kit.records import ScenarioSettings

        self._check_bound()
        sizes = [part.strip() for part in self.batches.split(",")]
        if not all(part.isascii() and part.isdigit() and 0 < int(part) <= 65536 for part in sizes):
            raise UsageError(f"--batches {self.batches} is no list of batch sizes: write it like 1,2,4,8.")
        return ScenarioSettings(
            scenario=self.kind,
            backend=backend,
            threads=threads,
            run_s=self.seconds,
            batches=tuple(int(part) for part in sizes),
            bound_s=None if self.bound_ms is None else self.bound_ms * 1e-3,
            timeout_s=self.timeout_s,
            seed=seed,
        )

    def _check_bound(self) -> None:
        from math import isfinite

        from kit.errors import UnknownName, UsageError

        if self.kind not in KINDS:
            raise UnknownName("scenario", self.kind, KINDS)
        if self.kind == "server" and self.bound_ms is None:
            raise UsageError(
                "The server scenario needs the latency that 99 % of the queries must meet: add --bound-ms."
            )
        if self.kind != "server" and self.bound_ms is not None:
            raise UsageError(f"--bound-ms is for --kind server; {self.kind} has no bound.")
        if self.bound_ms is not None and not (isfinite(self.bound_ms) and 1e-6 < self.bound_ms < 1e9):
            raise UsageError(f"--bound-ms {self.bound_ms:g} is no bound: give a sensible number above zero.")


def scenario(
    load: Load,
    inputs: options.InputOptions,
    targets: options.Targets = None,
    backend: options.Backend = "onnxruntime",
    threads: options.Threads = 1,
    build: options.Build = None,
    profiles: options.Profiles = options.PROFILES,
    name: options.Name = None,
    seed: show.Seed = 0,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Load networks as MLPerf does: one query at a time, all at once in batches, or at random arrivals with a queue.

    single-stream reports the 90th percentile with 99 % confidence, multi-stream the 99th of batches of 8, offline the throughput
    of each batch size, server the highest Poisson rate whose 99th percentile stays within --bound-ms. Records go to
    PROFILES/<device_id>/NAME.scenarios.ndjson. The default of 10 s a run is quick and no submission. Exit code 3: no rate keeps the bound.
    """
    from kit.backends import dimensions
    from kit.devices import recognise
    from kit.devices.operating_point import require_cpus
    from kit.measure import jobs
    from kit.measure import scenario as scenarios

    require_cpus(threads)
    settings = load.settings(backend, threads, seed)
    sizes = dimensions.parse(inputs.dim or [])
    planned = jobs.targets(targets or [], backend, build=build, inputs=inputs.of(sizes))
    spec = recognise()
    stem = name or jobs.stem(targets or [], backend, threads)
    out = jobs.record_file(profiles, spec.device_id, stem, scenarios.SUFFIX)
    with show.progress("scenario") as update:
        try:
            records = scenarios.measure(planned, settings, spec, out, progress=show.steps(update))
        except KeyboardInterrupt:  # unlike a profile it has no journal
            show.say("kit: stopped; the networks that were finished are recorded, the one in work is not.")
            raise typer.Exit(130) from None
    _finish(records, out, {"device": spec.device_id, "file": str(out), "seed": seed}, json=json)


def _finish(records: Sequence[ScenarioRecord], out: Path, about: dict[str, Any], *, json: bool) -> None:
    """Print, then raise the error of the exit code: 1 nothing was measured, 3 no rate keeps the bound."""
    from kit.errors import NoAnswer
    from kit.measure import jobs

    measured = [r for r in records if r.status == "ok"]
    error: KitError | None = jobs.failure(records, out)
    if measured and all(r.reason is not None for r in measured):
        error = NoAnswer(str(measured[0].reason))
    if json:
        show.emit_or_raise({**about, "scenarios": [as_json(r) for r in records]}, error)
        return
    show.print_table(*[table(r) for r in records if any(run.status == "ok" for run in r.runs)])
    for record in records:
        show.note(result_text(record))
        for remark in record.remarks:
            show.say(f"{record.artifact.artifact_id}: {remark}")
    show.say(f"Appended to {out}")
    if error:
        raise error


def result_text(record: ScenarioRecord) -> str:
    """The result as a sentence."""
    name, best = record.artifact.artifact_id, record.best
    if record.status != "ok":
        return f"{name}: {record.status}: {record.reason}"
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


LOADS = (
    Column("batch", 0, "left"), Column("queries", 4), Column("samples/s", 1), Column("median ms", 3), Column("p90 ms", 2),
    Column("p99 ms"), Column("p90 sure", 6), Column("p99 sure", 5),
)  # fmt: skip
SERVER = (
    Column("offered /s", 0, "left"), Column("batch", 9), *LOADS[1:], Column("above bound", 7), Column("allowed", 8),
    Column("holds", 0), Column("sure", 1),
)  # fmt: skip


def table(record: ScenarioRecord) -> Table:
    """Every run of one record."""
    settings = record.settings
    runtime = f"{settings.backend}, {settings.threads} thread(s)"
    title = f"{record.artifact.artifact_id}: {settings.scenario}, {runtime}, runs of {settings.run_s:g} s"
    server = settings.scenario == "server"
    rows = show.make_table(title, *(SERVER if server else LOADS))
    for run in sorted(record.runs, key=lambda r: r.rate_hz or 0.0):
        rows.add_row(*_row(run, server))
    return rows


def _row(run: ScenarioRun, server: bool) -> list[str]:
    offered = ["none" if run.rate_hz is None else f"{run.rate_hz:.4g}"] if server else []
    latencies = run.latencies
    if latencies is None:
        failed = [*offered, units.known(run.batch), "", "", run.status]
        return failed + [""] * (len(SERVER if server else LOADS) - len(failed))
    times = (latencies.median_ns, latencies.p90_ns, latencies.p99_ns, latencies.sure_p90_ns, latencies.sure_p99_ns)
    shown = ["too few" if t is None else show.ms(t * 1e-9) for t in times]
    cells = [*offered, str(run.batch), str(run.queries), f"{run.samples_per_s or 0.0:.4g}", *shown]
    if server and run.rate_hz is not None:
        holds = "yes" if run.holds else "no, cut short" if run.cut_short else "no"
        cells += [str(run.misses), str(run.misses_allowed), holds, "yes" if run.sure else "no"]
    return cells + [""] * (len(SERVER if server else LOADS) - len(cells))


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
        "outcome": record.status,
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
