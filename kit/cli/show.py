"""How results look: the JSON names that all verbs share, tables for people, progress on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from kit import units
from kit.cli.table import Column, Table, text, width, wrapped

if TYPE_CHECKING:
    from kit.errors import KitError
    from kit.measure.profiler import Progress
    from kit.records import Answer, Artifact, DeviceSpec, KnowledgeRow, LatencyModel, Layers, Measurement, ProfileRecord


def _one_format(context: typer.Context, flag: bool) -> bool:
    """Callback of --csv and --json: the one that is read last finds the other."""
    if flag and (context.params.get("json") or context.params.get("csv")):
        raise typer.BadParameter("give --json or --csv, not both")
    return flag


def _csv(context: typer.Context, flag: bool) -> bool:
    _Output.csv, _Output.tables = _one_format(context, flag), 0
    return flag


class _Output:
    """How the verb that runs prints its tables: as CSV, or for people; None where the verb has no --csv."""

    csv: bool | None = None
    tables = 0  # that were printed as CSV


Json = Annotated[
    bool,
    typer.Option("--json", callback=_one_format, help="Print one JSON object.", rich_help_panel="Output"),
]
Csv = Annotated[bool, typer.Option("--csv", callback=_csv, help="Print the tables as CSV.", rich_help_panel="Output")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random choice.", rich_help_panel="Output")]


def emit(data: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    import json

    print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False), flush=True)


def emit_or_raise(data: dict[str, Any], error: KitError | None) -> None:
    """``data`` as the JSON object of a verb that ended well; with an ``error`` as its details, which :func:`emit_error` prints."""
    if error is None:
        emit(data)
        return
    error.details = data
    raise error


def emit_error(message: str, code: int, details: dict[str, Any]) -> None:
    """The JSON object of a verb that failed: {"error": ..., "code": ..., and further details}."""
    emit({"error": message, "code": code, **{key: _plain(value) for key, value in details.items()}})


def _plain(value: Any) -> Any:
    """``value`` with records as their JSON."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if not hasattr(value, "model_dump"):
        return value
    from kit.records import KnowledgeRow

    return knowledge_row(value) if isinstance(value, KnowledgeRow) else value.model_dump(mode="json")


def say(text: str) -> None:
    """A line for people on standard error."""
    print(text, file=sys.stderr)


def note(text: str) -> None:
    """A line for people next to the tables: on standard output, unless --csv keeps that for the rows."""
    print(text, file=sys.stderr if _Output.csv else sys.stdout)


def make_table(title: str, *columns: str | Column, empty: str = "") -> Table:
    """A table for :func:`print_table`; ``empty`` is the sentence in place of a table without rows."""
    return Table.of(title, columns, empty)


def print_table(*tables: Table) -> None:
    """Tables for the width at hand, an empty line after each; with --csv one block of lines a table, an empty line between two."""
    if _Output.csv:
        for t in tables:
            print("\n" * bool(_Output.tables) + t.csv(), end="", flush=True)
            _Output.tables += 1
        return
    columns, bold = width(), sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    hint = "" if _Output.csv is None else " (--csv has all)"
    for t in tables:
        title = wrapped(t.title, columns) if t.title and t.rows else []
        print(*(f"\x1b[1m{line}\x1b[0m" if bold else line for line in title), *t.lines(columns, hint), "", sep="\n")


class Update(Protocol):
    """Redraws a progress line: a text, the share done in [0, 1], and the seconds that remain where they are known."""

    def __call__(self, text: str, share: float, remaining_s: float | None = None) -> None: ...


@contextmanager
def progress(title: str, *, resumes: bool = True) -> Iterator[Update]:
    """A live line on standard error. An interruption prints how to resume, or, where nothing ``resumes``, that nothing was written."""
    try:
        with _progress(title) as update:
            yield update
    except KeyboardInterrupt:
        say(f"kit: stopped; {'the same command goes on from here' if resumes else 'nothing was written'}.")
        raise


@contextmanager
def _progress(title: str) -> Iterator[Update]:
    """Redrawn only when called: a refreshing thread would take time from what is being measured. Where standard error is no
    terminal, a line at each new tenth."""
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_progress(title)
        return
    columns = (
        TextColumn("{task.fields[title]:<9}", style="bold", markup=False),
        BarColumn(24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.description}", markup=False),
    )
    with rich_progress.Progress(*columns, console=console, auto_refresh=False, transient=False) as bars:
        task = bars.add_task("", total=1.0, title=title, left="")

        def update(text: str, share: float, remaining_s: float | None = None) -> None:
            bars.update(task, description=text, completed=min(1.0, share), left=_left(remaining_s))
            bars.refresh()

        yield update
        update("done", 1.0)


def steps(update: Update) -> Callable[[Progress], None]:
    """A progress callback that redraws the line ``update``."""
    return lambda progress: update(progress.text, progress.steps_done / max(progress.planned, 1), progress.remaining_s)


def _plain_progress(title: str) -> Update:
    shown = -1

    def update(text: str, share: float, remaining_s: float | None = None) -> None:
        nonlocal shown
        if int(share * 10) > shown:
            shown = int(share * 10)
            say(" ".join(part for part in (f"{title}: {share:4.0%}", text, _left(remaining_s)) if part))

    return update


def _left(remaining_s: float | None) -> str:
    """The remaining time as text."""
    if remaining_s is None:
        return ""
    return f"about {remaining_s:.0f} s left" if remaining_s < 90 else f"about {remaining_s / 60:.0f} min left"


def process_age_s() -> float:
    """Seconds since this process was started: the interpreter's own start counts towards a budget of wall time."""
    import time

    import psutil

    return max(0.0, time.time() - float(psutil.Process().create_time()))


def ms(seconds: float | None) -> str:
    """Milliseconds, for a column or a text that names the unit."""
    return units.in_unit(seconds, units.MS)


# ------------------------------------------------------------------------------------------------------- JSON of records


def variant(profile: ProfileRecord) -> dict[str, Any]:
    """The shared JSON names of one profiled variant; failures have a reason and no timings."""
    artifact, sub, measured = profile.artifact, profile.artifact.subnetwork, profile.measurement
    out: dict[str, Any] = {
        "id": artifact.artifact_id,
        "family": sub.family if sub else None,
        "depth": sub.depth if sub else None,
        "width": sub.width if sub else None,
        "bits": sub.bits if sub else None,
        "accuracy": artifact.accuracy.top1 if artifact.accuracy else None,
        "size_bytes": artifact.size_bytes,
        "macs": artifact.macs,
        "backend": profile.settings.backend,
        "threads": profile.settings.threads,
        "point": profile.settings.name,
        "median_s": None,
        "corrected_s": None,
        "p99_s": None,
        "label": profile.label,
        "outcome": profile.status,
        "reason": profile.reason,
        "record_id": profile.record_id,
    }
    if measured is not None and profile.status == "ok":
        out |= {**_timing(measured), "layers": profile.layers and _layers(profile), "evidence": list(profile.evidence)}
    return out


def _timing(measured: Measurement) -> dict[str, Any]:
    return {
        "median_s": measured.median_s,
        "interval_s": list(measured.interval_s),
        "confidence": measured.confidence,
        "corrected_s": measured.corrected_s,
        "corrected_interval_s": measured.corrected_interval_s and list(measured.corrected_interval_s),
        "mode_s": measured.mode_s,
        "p90_s": measured.p90_s,
        "p99_s": measured.p99_s,
        "intervals_s": {key: list(value) for key, value in measured.intervals_s().items()},
        "clock_hz": measured.clock_hz,
        "clock_source": measured.clock_source,
        "cold_start_s": measured.cold_start_s,
        "memory_bytes": measured.memory_bytes,
        "memory": _memory(measured),
        "energy": _energy(measured),
        "processes": len(measured.runs),
        "calls": measured.calls,
    }


def _memory(measured: Measurement) -> dict[str, int | None]:
    """Bytes by what they are for, of the process that needed most."""
    most = max((v.memory for v in measured.runs), key=lambda m: m.footprint_bytes)
    return {
        "runtime_bytes": most.of_runtime_bytes,
        "model_bytes": most.of_model_bytes,
        "inference_bytes": most.of_inference_bytes,
        "peak_bytes": most.footprint_bytes,
        "gpu_bytes": most.gpu_bytes,
    }


def _energy(measured: Measurement) -> dict[str, Any] | None:
    energy = measured.energy
    if energy is None:
        return None
    return {
        "source": energy.source,
        "joules_per_call": energy.joules_per_call,
        "net_joules_per_call": energy.net_joules_per_call,
        "idle_power_w": energy.idle_power_w,
        "window_s": energy.window_s,
    }


def _layers(profile: ProfileRecord) -> dict[str, Any] | None:
    layers, measured = profile.layers, profile.measurement
    if layers is None or measured is None:
        return None
    return {
        "source": layers.source,
        "sum_s": layers.sum_s,
        "whole_with_profiler_s": layers.total_s,
        "whole_s": measured.median_s,
        "by_kind_s": layers.grouped("kind"),
        "by_stage_s": layers.grouped("stage"),
        "nodes": [n.model_dump(mode="json") for n in layers.nodes],
    }


def latency_model(model: LatencyModel) -> dict[str, Any]:
    """The shared JSON names of one fitted latency model, with the papers' lambda = 1."""
    quality, paper = model.quality, model.paper
    return {
        "device": model.device_id,
        "backend": model.backend,
        "precision": model.precision,
        "threads": model.threads,
        "lambda_cycles_per_mac": model.lambda_cycles_per_mac,
        "interval": list(model.interval) if model.interval else None,
        "clock_hz": model.clock_hz,
        "clock_source": model.clock_source,
        "s_per_mac": model.s_per_mac,
        "s_per_mac_interval": list(model.s_per_mac_interval),
        "overhead_s": model.overhead_s,
        "overhead_interval_s": list(model.overhead_interval_s),
        "r2": quality.r2,
        "mape": quality.mape,
        "worst": quality.worst,
        "within_5": quality.within_5,
        "within_10": quality.within_10,
        "paper": {"lambda_cycles_per_mac": 1.0, **paper.model_dump()} if paper else None,
        "macs_range": list(model.macs_range),
        "points": len(model.record_ids),
        "left_out": list(model.left_out),
    }


def answer(reply: Answer) -> dict[str, Any]:
    """The shared JSON names of one answer of the knowledge base."""
    return {
        "need": reply.need.model_dump(mode="json", exclude_none=True),
        "chosen": reply.chosen and knowledge_row(reply.chosen),
        "promised": reply.promised,
        "runner_up": reply.runner_up and knowledge_row(reply.runner_up),
        "margin": reply.margin,
        "binding": reply.binding,
        "rejected": [r.model_dump(mode="json") for r in reply.rejected],
        "measure_next": [m.model_dump(mode="json") for m in reply.measure_next],
        "text": reply.text,
    }


def knowledge_row(row: KnowledgeRow) -> dict[str, Any]:
    """The shared JSON names of one row."""
    data = row.model_dump(mode="json")
    return {"id": data.pop("artifact_id"), **data}


# ----------------------------------------------------------------------------------------------------- tables for people


PROFILE = (
    Column("median ms"), Column("+- %", 2), Column("p99 ms", 3), Column("label", 1, "left"), Column("corrected ms", 5),
    Column("corrected +- %", 6), Column("GHz", 9), Column("accuracy", 4), Column("MB", 7), Column("MMACs", 8),
)  # fmt: skip
RUNS_MIN = 5  # below it an interval is not printed


def profile_table(profiles: Sequence[ProfileRecord]) -> Table:
    """The measurements, a row a record; a failure has its status in place of times, and the caller prints its reason."""
    conditions = sorted({f"{p.settings.backend} {p.settings.name}" for p in profiles})
    one = len(conditions) == 1
    title = f"Measured with {conditions[0]}" if one else "Measured"
    table = make_table(title, "variant", *(() if one else (Column("conditions", 0, "left"),)), *PROFILE)
    for p in profiles:
        name = () if one else (f"{p.settings.backend} {p.settings.name}",)
        table.add_row(p.artifact.artifact_id, *name, *_timing_cells(p), *artifact_cells(p.artifact))
    return table


def _timing_cells(profile: ProfileRecord) -> tuple[str, ...]:
    measured = profile.measurement
    if measured is None or profile.status != "ok":
        return ("none", "", "", profile.status, "", "", "")
    runs, corrected = len(measured.runs), measured.corrected_half_width
    half = f"{measured.half_width * 100:.1f}" if runs >= RUNS_MIN else f"unknown (n={runs})"
    corrected_half = f"{corrected * 100:.1f}" if corrected is not None and runs >= RUNS_MIN else ""
    clock = f"{measured.clock_hz / units.GHZ:.2f}" if measured.clock_hz else "unknown"
    return (
        ms(measured.median_s), half, ms(measured.p99_s), units.known(profile.label),
        ms(measured.corrected_s) if corrected is not None else "", corrected_half, clock,
    )  # fmt: skip


def artifact_cells(artifact: Artifact) -> tuple[str, str, str]:
    """Accuracy, megabytes and millions of multiply-accumulates."""
    macs = units.in_unit(artifact.macs or None, units.MMAC)
    return (
        accuracy_text(artifact.accuracy.top1 if artifact.accuracy else None),
        units.in_unit(artifact.size_bytes, units.MB, 3),
        macs,
    )


def accuracy_text(top1: float | None) -> str:
    """A share as per cent, or that nobody knows it."""
    return "unknown" if top1 is None else f"{top1:.2%}"


BAR = 40  # characters of the longest bar
FLAME = 100  # characters of the flame graph, where the line has them
LAYER_ROWS = 40


def flame(layers: Layers) -> list[str]:
    """Three rows of text whose widths are times, in the order of the run: the total, its stages, their nodes."""
    wide = min(FLAME, width() or FLAME)
    edges = [0.0]
    stages: list[tuple[str, int, int]] = []
    nodes: list[tuple[str, int, int]] = []
    for node in layers.nodes:
        edges.append(edges[-1] + node.time_s / layers.sum_s * wide)
        start, end = round(edges[-2]), round(edges[-1])
        nodes.append((node.kind, start, end))
        if stages and stages[-1][0] == node.stage:
            stages[-1] = (node.stage, stages[-1][1], end)
        else:
            stages.append((node.stage, start, end))
    total = [(f"whole {ms(layers.sum_s)} ms", 0, wide)]
    return ["".join(_cell(name, end - start) for name, start, end in row) for row in (total, stages, nodes)]


def _cell(name: str, wide: int) -> str:
    return "" if wide <= 0 else f"[{name[: wide - 2]:─<{wide - 2}}]" if wide > 2 else "▪" * wide


def layer_table(profile: ProfileRecord) -> Table:
    """Times per layer as bars, the longest first; the caption has what the profiler adds."""
    layers, measured = profile.layers, profile.measurement
    assert layers is not None and measured is not None
    title = f"{profile.artifact.artifact_id}, {profile.settings.backend}: layers by the {layers.source}"
    columns = (Column("kind", 3), Column("stage", 2), Column("us"), Column("share", 1), Column("", 4, "left"))
    table = make_table(title, "layer", *columns)
    longest = max(n.time_s for n in layers.nodes)
    for node in sorted(layers.nodes, key=lambda n: -n.time_s)[:LAYER_ROWS]:
        bar = "█" * max(1, round(BAR * node.time_s / longest)) if node.time_s else ""
        share = f"{node.time_s / layers.sum_s:.1%}"
        name = f"{node.parent} > {node.name}" if node.parent else node.name
        table.add_row(name, node.kind, node.stage, units.in_unit(node.time_s, units.US), share, bar)
    by_stage, by_kind = (
        ", ".join(f"{key} {value / layers.sum_s:.0%}" for key, value in layers.grouped(group).items())
        for group in ("stage", "kind")
    )
    table.caption = (
        f"{len(layers.nodes)} nodes take {ms(layers.sum_s)} ms together; the whole takes {ms(layers.total_s)} ms with the profiler "
        f"on and {ms(measured.median_s)} ms without.\nBy stage: {by_stage}.\nBy kind: {by_kind}."
    )
    return table


def model_table(models: Sequence[LatencyModel]) -> Table:
    """Fitted lines, a row a backend, precision and thread count."""
    title = "latency = overhead + lambda * MACs / clock, lambda in cycles per MAC"
    columns = (
        Column("cycles/MAC"), Column("95 %", 2), Column("overhead ms", 3), Column("R2", 5), Column("MAPE", 1), Column("worst", 4),
        Column("in 5 %", 7), Column("in 10 %", 6), Column("MAPE, lambda 1", 3),
    )  # fmt: skip
    table = make_table(title, "backend", *columns)
    for m in models:
        if m.lambda_cycles_per_mac is not None and m.interval is not None:
            factor, interval = f"{m.lambda_cycles_per_mac:.4g}", f"{m.interval[0]:.4g} .. {m.interval[1]:.4g}"
        else:
            low, high = m.s_per_mac_interval
            factor, interval = f"{m.s_per_mac:.4g} s/MAC", f"{low:.4g} .. {high:.4g}"
        q = m.quality
        table.add_row(
            f"{m.backend} {m.precision} t{m.threads}", factor, interval, ms(m.overhead_s), "" if q.r2 is None else f"{q.r2:.3f}",
            f"{q.mape:.1%}", f"{q.worst:.1%}", f"{q.within_5:.0%}", f"{q.within_10:.0%}", f"{m.paper.mape:.0%}" if m.paper else "",
        )  # fmt: skip
    table.caption = clock_note(models)
    return table


def clock_note(models: Sequence[LatencyModel]) -> str:
    """Which clocks the factors are stated at."""
    clocks = dict.fromkeys((m.clock_hz, m.clock_source) for m in models)
    return " ".join(_clock_text(clock_hz, source) for clock_hz, source in clocks)


def _clock_text(clock_hz: float | None, source: str) -> str:
    if clock_hz is None:
        return "The clock is unknown: the factor is in seconds per MAC."
    how = {"observed": "observed", "measured": "measured between the networks"}.get(
        source, "nominal; the true clock is unknown"
    )
    return f"Clock {units.brief(clock_hz, units.CLOCK, 3)} ({how})."


def device_table(spec: DeviceSpec, *, absent: bool = True) -> Table:
    """What the machine is; ``absent`` adds the telemetry that it does not have, and why."""
    table = make_table(spec.device_id, "property", text("value"))
    table.show_header = False
    kinds = {"data": "d", "instruction": "i", "unified": ""}
    caches = ", ".join(f"L{c.level}{kinds[c.type]} {c.size_bytes // 1024} KiB/{c.shared_by}" for c in spec.caches)
    clock = spec.clock
    hertz = clock.current_hz or clock.nominal_hz or clock.max_hz
    rows = {
        "configuration": units.known(spec.config),
        "system": f"{spec.system}, kernel {spec.kernel}, {spec.machine}",
        "virtual": spec.virtual or "no",
        "processor": spec.cpu_model,
        "features": ", ".join(spec.cpu_features) or "unknown",
        "cores": f"{units.known(spec.physical_cores)} physical, {spec.logical_cores} logical",
        "caches": caches or "unknown",
        "clock": f"{units.brief(hertz, units.CLOCK, 3)}, {clock.source}" if hertz else "unknown",
        "memory": units.brief(spec.memory_bytes, units.BINARY, 3),
        "GPUs": "; ".join(g.name for g in spec.gpus) or "none",
        "runtimes": ", ".join(f"{k} {v}" for k, v in spec.runtimes.items() if v) or "none",
        "not installed": ", ".join(k for k, v in spec.runtimes.items() if not v) or "",
        "telemetry": ", ".join(k for k, v in spec.telemetry.items() if v == "available") or "none",
        "no telemetry": "; ".join(f"{k}: {v}" for k, v in spec.telemetry.items() if absent and v != "available"),
        "operating points": ", ".join(p.name for p in spec.operating_points) or "unknown",
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    return table
