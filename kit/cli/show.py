"""How results look: the JSON names that all verbs share, tables for people, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from kit.records import Answer, DeviceSpec, KnowledgeRow, LatencyModel, ProfileRecord

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]


def emit(data: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False), flush=True)


def say(text: str) -> None:
    """A line for people on standard error."""
    print(text, file=sys.stderr)


def print_table(*tables: Table) -> None:
    from rich.console import Console

    console = Console(markup=False)  # ids and reasons may hold brackets
    if not console.is_terminal:
        console = Console(width=160, markup=False)  # a pipe or a file has no width of its own
    for table in tables:
        console.print(table)


def make_table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are right-aligned."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0, overflow="fold")
    return table


@contextmanager
def progress(title: str) -> Iterator[Callable[[str, float], None]]:
    """A live line on standard error: call it with a text and the share done in [0, 1]. An interruption says how to go on."""
    try:
        with _progress(title) as update:
            yield update
    except KeyboardInterrupt:
        say("kit: stopped; the same command goes on from here.")
        raise


@contextmanager
def _progress(title: str) -> Iterator[Callable[[str, float], None]]:
    """Redrawn only when called: a refreshing thread would steal time from what is being measured. Where standard error is no
    terminal, a line at each new tenth."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_progress(title)
        return
    columns = (
        TextColumn("{task.fields[title]:<9}", style="bold", markup=False),
        BarColumn(24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, auto_refresh=False, transient=False) as bars:
        task = bars.add_task("", total=1.0, title=title)

        def update(text: str, share: float) -> None:
            bars.update(task, description=text, completed=min(1.0, share))
            bars.refresh()

        yield update
        update("done", 1.0)


def _plain_progress(title: str) -> Callable[[str, float], None]:
    shown = -1

    def update(text: str, share: float) -> None:
        nonlocal shown
        if int(share * 10) > shown:
            shown = int(share * 10)
            say(f"{title}: {share:4.0%} {text}")

    return update


def ms(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1e3:.4g}"


def known(value: object) -> str:
    return "unknown" if value is None else str(value)


# ------------------------------------------------------------------------------------------------------- JSON of records


def variant(profile: ProfileRecord) -> dict[str, Any]:
    """The shared JSON names of one profiled variant; failures have no timings and say why."""
    artifact, sub, measured = profile.artifact, profile.artifact.subnetwork, profile.measurement
    out: dict[str, Any] = {
        "id": artifact.artifact_id,
        "family": sub.family if sub else None,
        "depth": sub.depth if sub else None,
        "width": sub.width if sub else None,
        "bits": sub.bits if sub else None,
        "accuracy": artifact.accuracy.top1 if artifact.accuracy else None,
        "size_bytes": artifact.model.size_bytes,
        "macs": artifact.macs,
        "backend": profile.settings.backend,
        "threads": profile.settings.threads,
        "median_s": None,
        "p99_s": None,
        "label": profile.label,
        "outcome": profile.outcome,
        "reason": profile.reason,
        "record_id": profile.record_id,
    }
    if measured is not None:
        out |= {
            "median_s": measured.median_s,
            "interval_s": list(measured.interval_s),
            "confidence": measured.confidence,
            "p90_s": measured.p90_s,
            "p99_s": measured.p99_s,
            "memory_bytes": measured.memory_bytes,
            "processes": len(measured.visits),
            "calls": measured.calls,
            "evidence": list(profile.evidence),
        }
    return out


def latency_model(model: LatencyModel) -> dict[str, Any]:
    """The shared JSON names of one fitted latency model, the papers' lambda = 1 beside it."""
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


def answer(found: Answer) -> dict[str, Any]:
    """The shared JSON names of one answer of the knowledge base."""
    return {
        "need": found.need.model_dump(mode="json", exclude_none=True),
        "chosen": _row(found.chosen),
        "runner_up": _row(found.runner_up),
        "margin": found.margin,
        "binding": found.binding,
        "rejected": [r.model_dump(mode="json") for r in found.rejected],
        "text": found.text,
    }


def _row(row: KnowledgeRow | None) -> dict[str, Any] | None:
    if row is None:
        return None
    data = row.model_dump(mode="json")
    return {"id": data.pop("artifact_id"), **data}


# ----------------------------------------------------------------------------------------------------- tables for people


def profile_table(profiles: Sequence[ProfileRecord]) -> Table:
    how = sorted({f"{p.settings.backend}, {p.settings.threads} thread(s)" for p in profiles})
    title = f"Measured with {'; '.join(how)}"
    table = make_table(title, "variant", "median ms", "+- %", "p99 ms", "accuracy", "MB", "MMACs", "label")
    for p in profiles:
        name = (
            p.artifact.artifact_id
            if len(how) == 1
            else f"{p.artifact.artifact_id} ({p.settings.backend}, t{p.settings.threads})"
        )
        size, macs = (
            f"{p.artifact.model.size_bytes / 1e6:.3g}",
            f"{p.artifact.macs / 1e6:.4g}" if p.artifact.macs else "unknown",
        )
        accuracy = f"{p.artifact.accuracy.top1:.2%}" if p.artifact.accuracy else "unknown"
        if p.measurement is None or p.outcome != "ok":
            table.add_row(name, "", "", "", accuracy, size, macs, p.outcome)
            continue
        visits = len(p.measurement.visits)
        half = f"{p.measurement.half_width:.1%}" if visits >= 5 else f"unknown (n={visits})"
        table.add_row(name, ms(p.measurement.median_s), half, ms(p.measurement.p99_s), accuracy, size, macs, p.label)
    return table


def model_table(models: Sequence[LatencyModel]) -> Table:
    title = "latency = overhead + lambda * MACs / clock, lambda in cycles per MAC"
    table = make_table(
        title,
        "backend",
        "cycles/MAC",
        "95 %",
        "overhead ms",
        "R2",
        "MAPE",
        "worst",
        "in 5 %",
        "in 10 %",
        "MAPE, lambda 1",
    )
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
    table.caption_justify = "left"
    return table


def clock_note(models: Sequence[LatencyModel]) -> str:
    """Which clocks the factors are stated at."""
    clocks = dict.fromkeys((m.clock_hz, m.clock_source) for m in models)
    return " ".join(_clock_text(clock_hz, source) for clock_hz, source in clocks)


def _clock_text(clock_hz: float | None, source: str) -> str:
    if clock_hz is None:
        return "The clock is unknown: the factor is in seconds per MAC."
    how = "observed" if source == "observed" else "nominal; the true clock is unknown"
    return f"Clock {clock_hz / 1e9:.3g} GHz ({how})."


def device_table(spec: DeviceSpec, *, absent: bool = True) -> Table:
    """What the machine is; ``absent`` adds the telemetry that it does not have, and why."""
    table = make_table(spec.device_id, "", "")
    table.show_header = False
    table.columns[1].justify = "left"
    kinds = {"data": "d", "instruction": "i", "unified": ""}
    caches = ", ".join(f"L{c.level}{kinds[c.type]} {c.size_bytes // 1024} KiB/{c.shared_by}" for c in spec.caches)
    clock = spec.clock
    hertz = clock.current_hz or clock.nominal_hz or clock.max_hz
    rows = {
        "configuration": known(spec.config),
        "system": f"{spec.system}, kernel {spec.kernel}, {spec.machine}",
        "virtual": spec.virtual or "no",
        "processor": spec.cpu_model,
        "features": ", ".join(spec.cpu_features) or "unknown",
        "cores": f"{known(spec.physical_cores)} physical, {spec.logical_cores} logical",
        "caches": caches or "unknown",
        "clock": f"{hertz / 1e9:.3g} GHz, {clock.source}" if hertz else "unknown",
        "memory": f"{spec.memory_bytes / 2**30:.3g} GiB",
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
