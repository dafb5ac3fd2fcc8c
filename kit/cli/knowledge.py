"""Verbs of the knowledge base: ``knowledge build``, ``ask``, ``explain``, ``pareto``, ``compile``, ``table``, ``map``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli import needs, show
from kit.cli.judge import Profiles

if TYPE_CHECKING:
    from kit.records import AllocationQuality, Answer, DynamicTable, Explanation, KnowledgeRow

knowledge_app = typer.Typer(
    no_args_is_help=True,
    help="The knowledge base: [bold]build[/] it from profiles, [bold]ask[/] it for the best variant, let it [bold]explain[/].",
)

Base = Annotated[Path, typer.Option("--knowledge", help="The knowledge base.")]
KNOWLEDGE = Path("knowledge.json")
REJECTED_SHOWN = 5


def add_to(app: typer.Typer) -> None:
    app.add_typer(knowledge_app, name="knowledge", rich_help_panel="Judge")


def read_rows(file: Path) -> tuple[KnowledgeRow, ...]:
    """The rows of a knowledge base. Raises UsageError when there is none, with the way to one."""
    from kit import store
    from kit.errors import UsageError
    from kit.records import KnowledgeBase

    if not file.exists():
        raise UsageError(
            f"{file} does not exist: make it with kit knowledge build PROFILE..., or name another with --knowledge."
        )
    return store.read_record(file, KnowledgeBase).rows


def device_of(rows: Sequence[KnowledgeRow], device: str | None) -> str | None:
    """The named device, else this machine where several were measured and it is one of them."""
    devices = {r.device_id for r in rows}
    if device is None and len(devices) > 1:
        from kit.device import recognise

        here = recognise().device_id
        return here if here in devices else None
    return device


def whole_hashes(rows: Sequence[KnowledgeRow], have: list[str] | None) -> list[str]:
    """What the device has, as ids and whole hashes: eight digits of a hash are enough. Raises UnknownName."""
    from kit.errors import UnknownName

    out = []
    for name in have or []:
        hashes = {r.sha256 for r in rows if len(name) >= 8 and r.sha256.startswith(name.removeprefix("sha256:"))}
        if not hashes and name not in {r.artifact_id for r in rows}:
            raise UnknownName("variant", name, sorted({r.artifact_id for r in rows}))
        out += sorted(hashes) or [name]
    return out


@knowledge_app.command("build")
def build(
    profiles: Profiles,
    out: Annotated[Path, typer.Option(help="The knowledge base to write.")] = KNOWLEDGE,
    json: show.Json = False,
) -> None:
    """Build the knowledge base from measured profiles."""
    from kit import knowledge, store
    from kit.records import DECIDING

    base = knowledge.build(store.read_profiles(profiles))
    store.write_record(out, base)
    if json:
        show.emit({"file": str(out), **base.model_dump(mode="json")})
        return
    undecided = sum(r.label not in DECIDING for r in base.rows)
    elsewhere = sum(not r.free_running for r in base.rows)
    text = f"{out}: {len(base.rows)} rows, {undecided} of them not trusted to decide"
    print(text + (f", {elsewhere} at chosen operating points (--point)" if elsewhere else ""))


@knowledge_app.command("ask")
def ask(
    deadline_ms: needs.Deadline = None,
    percentile: needs.PercentileOf = 99,
    memory_mb: needs.MemoryMb = None,
    energy_mj: needs.EnergyMj = None,
    min_accuracy: needs.MinAccuracy = None,
    link_mbps: needs.Link = None,
    download_ms: needs.Download = None,
    have: needs.Have = None,
    device: needs.Device = None,
    backend: needs.Backend = None,
    threads: needs.Threads = None,
    batch: needs.Batch = None,
    point: needs.PointName = None,
    dataset: needs.Dataset = None,
    unknown_accuracy: needs.Unknown = False,
    knowledge_file: Base = KNOWLEDGE,
    json: show.Json = False,
) -> None:
    """The most accurate variant that meets every limit, by measured latency. Exit code 3: none does."""
    from kit import knowledge

    rows = read_rows(knowledge_file)
    need = needs.make_need(
        deadline_ms, memory_mb, min_accuracy, link_mbps, download_ms, device_of(rows, device), backend, threads,
        percentile=percentile, energy_mj=energy_mj, have=whole_hashes(rows, have), batch=batch, point=point, dataset=dataset,
        unknown_accuracy=unknown_accuracy,
    )  # fmt: skip
    found = knowledge.ask(rows, need)
    if json:
        show.emit(show.answer(found))
        return
    print(found.text)
    _print_rejected(found)
    _print_next(found)


def _print_rejected(found: Answer) -> None:
    if not found.rejected:
        return
    table = show.make_table("Rejected, the nearest first", "variant", "limit", "why")
    for r in found.rejected[:REJECTED_SHOWN]:
        table.add_row(f"{r.artifact_id} ({r.backend}, t{r.threads})", r.limit, r.text)
    show.print_table(table)
    if len(found.rejected) > REJECTED_SHOWN:
        show.say(f"... and {len(found.rejected) - REJECTED_SHOWN} more (--json lists all).")


def _print_next(found: Answer) -> None:
    if not found.measure_next:
        return
    table = show.make_table("What to measure, for it could change the answer", "variant", "because", "command")
    for m in found.measure_next[:REJECTED_SHOWN]:
        table.add_row(f"{m.artifact_id} ({m.backend}, {m.point})", m.why, m.command)
    show.print_table(table)


@knowledge_app.command("explain")
def explain(
    variant: Annotated[str, typer.Argument(metavar="ID", help="Id (or sha256) of the variant.")],
    deadline_ms: needs.Deadline = None,
    percentile: needs.PercentileOf = 99,
    memory_mb: needs.MemoryMb = None,
    energy_mj: needs.EnergyMj = None,
    min_accuracy: needs.MinAccuracy = None,
    link_mbps: needs.Link = None,
    download_ms: needs.Download = None,
    have: needs.Have = None,
    device: needs.Device = None,
    backend: needs.Backend = None,
    threads: needs.Threads = None,
    batch: needs.Batch = None,
    point: needs.PointName = None,
    dataset: needs.Dataset = None,
    unknown_accuracy: needs.Unknown = False,
    knowledge_file: Base = KNOWLEDGE,
    json: show.Json = False,
) -> None:
    """Why a variant is, or is not, the choice: each limit, what is left of it, and what would have to change."""
    from kit import knowledge

    rows = read_rows(knowledge_file)
    need = needs.make_need(
        deadline_ms, memory_mb, min_accuracy, link_mbps, download_ms, device_of(rows, device), backend, threads,
        percentile=percentile, energy_mj=energy_mj, have=whole_hashes(rows, have), batch=batch, point=point, dataset=dataset,
        unknown_accuracy=unknown_accuracy,
    )  # fmt: skip
    found = knowledge.explain(rows, need, variant)
    if json:
        show.emit({"id": variant, "explanations": [e.model_dump(mode="json") for e in found]})
        return
    for explanation in found:
        print(explanation.text)
        _print_limits(explanation)


def _print_limits(found: Explanation) -> None:
    if not found.limits:
        return
    name = f"{found.row.artifact_id} ({found.row.backend}, t{found.row.threads})"
    table = show.make_table(name, "limit", "left", "", "what would have to change")
    table.columns[2].justify = table.columns[3].justify = "left"
    for limit in found.limits:
        left = "" if limit.slack is None else f"{limit.slack:.0%}"
        table.add_row(limit.limit, left, limit.text, limit.change or "nothing")
    show.print_table(table)


@knowledge_app.command("pareto")
def pareto(
    memory: Annotated[bool, typer.Option("--memory", help="Count peak memory as well.")] = False,
    energy: Annotated[bool, typer.Option("--energy", help="Count the energy of an inference as well.")] = False,
    size: Annotated[bool, typer.Option("--size", help="Count the bytes of the file as well.")] = False,
    percentile: needs.PercentileOf = 99,
    min_accuracy: needs.MinAccuracy = None,
    deadline_ms: needs.Deadline = None,
    memory_mb: needs.MemoryMb = None,
    device: needs.Device = None,
    backend: needs.Backend = None,
    threads: needs.Threads = None,
    batch: needs.Batch = None,
    point: needs.PointName = None,
    dataset: needs.Dataset = None,
    knowledge_file: Base = KNOWLEDGE,
    json: show.Json = False,
) -> None:
    """The variants that no other beats in latency and accuracy (and memory, energy, size) at once."""
    from kit import knowledge

    rows = read_rows(knowledge_file)
    need = needs.make_need(
        deadline_ms, memory_mb, min_accuracy, None, None, device_of(rows, device), backend, threads, percentile=percentile, batch=batch,
        point=point, dataset=dataset,
    )  # fmt: skip
    chosen = {"memory": memory, "energy": energy, "size": size}
    axes = ("latency", "accuracy", *(name for name, wanted in chosen.items() if wanted))
    front = knowledge.pareto(rows, need, axes)
    if json:
        show.emit({"axes": list(axes), "percentile": percentile, "front": [show.knowledge_row(r) for r in front]})
        return
    show.print_table(_front_table(front, percentile))
    for line in front_plot(front, percentile):
        print(line)


def _front_table(front: Sequence[KnowledgeRow], percentile: int) -> Any:
    name = "median ms" if percentile == 50 else f"p{percentile} ms"
    columns = ("variant", "how", name, "accuracy", "memory MB", "energy mJ", "file MB", "")
    table = show.make_table(f"Nothing beats these {len(front)}", *columns)
    for r in front:
        memory = "unknown" if r.memory_bytes is None else f"{r.memory_bytes / 1e6:.4g}"
        energy = "unknown" if r.energy_j is None else f"{r.energy_j * 1e3:.4g}"
        accuracy = "unknown" if r.accuracy is None else f"{r.accuracy:.2%}"
        how = f"{r.backend} {r.point_name}"
        latency = show.ms(r.latency_s(percentile))
        table.add_row(
            r.artifact_id, how, latency, accuracy, memory, energy, f"{r.size_bytes / 1e6:.3g}", r.label or r.origin
        )
    return table


PLOT_WIDTH, PLOT_HEIGHT = 64, 14


def front_plot(front: Sequence[KnowledgeRow], percentile: int) -> list[str]:
    """Accuracy over the logarithm of the latency as lines of text; o is measured, ? predicted."""
    from math import log

    placed = [(log(r.latency_s(percentile)), r.accuracy, r.origin) for r in front if r.accuracy is not None]
    if len(placed) < 2:
        return []
    xs, ys = [x for x, _, _ in placed], [y for _, y, _ in placed]
    wide, high = max(xs) - min(xs) or 1.0, max(ys) - min(ys) or 1.0
    canvas = [[" "] * (PLOT_WIDTH + 1) for _ in range(PLOT_HEIGHT + 1)]
    for x, y, origin in placed:
        row = PLOT_HEIGHT - round((y - min(ys)) / high * PLOT_HEIGHT)
        canvas[row][round((x - min(xs)) / wide * PLOT_WIDTH)] = "o" if origin == "measured" else "?"
    ends = {0: f"{max(ys):.2%}", PLOT_HEIGHT: f"{min(ys):.2%}"}
    lines = [f"{ends.get(i, ''):>8} |{''.join(cells).rstrip()}" for i, cells in enumerate(canvas)]
    first, last = (show.ms(r.latency_s(percentile)) + " ms" for r in (front[0], front[-1]))
    return [*lines, f"{'':>8} +{'-' * (PLOT_WIDTH + 1)}", f"{'':>10}{first}{last:>{PLOT_WIDTH + 1 - len(first)}}"]


@knowledge_app.command("compile")
def compile_table(
    out: Annotated[Path, typer.Option(help="The decision table to write.")] = Path("decisions.npz"),
    device: needs.Device = None,
    backend: needs.Backend = None,
    threads: needs.Threads = None,
    batch: needs.Batch = None,
    point: needs.PointName = None,
    dataset: needs.Dataset = None,
    have: needs.Have = None,
    unknown_accuracy: needs.Unknown = False,
    knowledge_file: Base = KNOWLEDGE,
    json: show.Json = False,
) -> None:
    """Compile the answers of [bold]ask[/] to arrays for hot paths: an .npz that numpy alone loads."""
    from kit import knowledge

    rows = read_rows(knowledge_file)
    need = needs.make_need(
        None, None, None, None, None, device_of(rows, device), backend, threads, have=whole_hashes(rows, have), batch=batch, point=point,
        dataset=dataset, unknown_accuracy=unknown_accuracy,
    )  # fmt: skip
    table = knowledge.compile(rows, need)
    table.save(out)
    kept = {p: len(table.arrays[f"p{p}_row"]) for p in table.percentiles}
    if json:
        show.emit({"file": str(out), "variants": [v._asdict() for v in table.variants], "deciding": kept})
        return
    counts = ", ".join(f"{count} at p{p}" for p, count in kept.items())
    print(f"{out}: {len(table.variants)} variants, of which some need can choose {counts}")


@knowledge_app.command("table")
def size_table(
    family: Annotated[str, typer.Option(help="allocator_a (paper A) or allocator_b (paper B).")] = "allocator_a",
    quality_file: Annotated[
        Path | None, typer.Option("--quality", help="Delay of the allocation per size (default: paper A's table I).")
    ] = None,
    sizes_kbit: Annotated[str, typer.Option(help="Mean task sizes.")] = "0.25,0.5,1,2,4,6,8,10",
    clocks_ghz: Annotated[str, typer.Option(help="Compute budgets, as clocks.")] = "0.01,0.02,0.05,0.1,0.2,0.5,1,2",
    clock_ghz: Annotated[float | None, typer.Option(help="Clock of rows that know none.")] = None,
    device: needs.Device = None,
    backend: needs.Backend = None,
    threads: needs.Threads = None,
    out: Annotated[Path | None, typer.Option(help="Write the table as JSON as well.")] = None,
    knowledge_file: Base = KNOWLEDGE,
    json: show.Json = False,
) -> None:
    """The K- (or k,l-) table of papers A and B from measured times, the analytic table beside it."""
    from kit import knowledge, store

    rows = read_rows(knowledge_file)
    timings = knowledge.timings_of(
        rows,
        family,
        device_id=device_of(rows, device),
        backend=backend,
        threads=threads,
        clock_hz=None if clock_ghz is None else clock_ghz * 1e9,
    )
    quality = _quality(family, quality_file)
    sizes = [1e3 * v for v in _numbers(sizes_kbit, "--sizes-kbit")]
    clocks = [1e9 * v for v in _numbers(clocks_ghz, "--clocks-ghz")]
    found = knowledge.dynamic_table(timings, quality, sizes, clocks)
    if out is not None:
        store.write_record(out, found)
    if json:
        show.emit(found.model_dump(mode="json"))
        return
    _print_sizes(found, sizes, clocks)


def _quality(family: str, file: Path | None) -> AllocationQuality:
    from kit import knowledge, store
    from kit.errors import UsageError
    from kit.records import AllocationQuality

    if file is None:
        if family != knowledge.TABLE_I.family:
            raise UsageError(
                f"No allocation quality of {family} is published as numbers: measure it, and give it with --quality FILE.json."
            )
        show.say("Quality of the allocation: published data (paper A, table I), not measured here.")
        return knowledge.TABLE_I
    found = store.read_record(file, AllocationQuality)
    if found.family != family:
        raise UsageError(f"{file} is the quality of {found.family}: add --family {found.family}, or give another file.")
    return found


def _numbers(text: str, flag: str) -> list[float]:
    from kit.errors import UsageError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{flag} does not take '{text}': give numbers with commas between them, such as 1,2,5."
        ) from None


def _print_sizes(found: DynamicTable, sizes: Sequence[float], clocks: Sequence[float]) -> None:
    what = "K" if found.quality.family == "allocator_a" else "k,l"
    cells = {(c.task_bit, c.clock_hz): c for c in found.cells}
    heads = [f"{hz / 1e9:g} GHz" for hz in clocks]
    tables = [show.make_table(f"Best {what} by measured times", "kbit", *heads)]
    tables += [show.make_table(f"Best {what} at {f:g} cycle(s) per MAC", "kbit", *heads) for f in found.factors]
    for s in sizes:
        row = [cells[s, hz] for hz in clocks]
        tables[0].add_row(f"{s / 1e3:g}", *(c.measured for c in row))
        for table, f in zip(tables[1:], found.factors, strict=True):
            table.add_row(
                f"{s / 1e3:g}",
                *(c.analytic[f"{f:g}"] + ("" if c.analytic[f"{f:g}"] == c.measured else " *") for c in row),
            )
    show.print_table(*tables)
    for f in found.factors:
        share, worst = found.differing(f), found.worst_excess(f)
        print(f"lambda = {f:g}: another {what} in {share:.0%} of the cells (*), which takes up to {worst:.1%} longer.")
    if found.left_out:
        show.say(f"left out, for want of a measured time or of a quality: {', '.join(found.left_out)}")


@knowledge_app.command("map")
def decision_map(
    against: Annotated[str, typer.Option(help="The other axis beside the deadline: memory or link.")] = "memory",
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("decisions.html"),
    percentile: needs.PercentileOf = 99,
    min_accuracy: needs.MinAccuracy = None,
    device: needs.Device = None,
    backend: needs.Backend = None,
    threads: needs.Threads = None,
    batch: needs.Batch = None,
    point: needs.PointName = None,
    dataset: needs.Dataset = None,
    knowledge_file: Base = KNOWLEDGE,
    json: show.Json = False,
) -> None:
    """A map of the choice over deadline and memory, or deadline and link, as one self-contained page."""
    from kit import knowledge, store
    from kit.cli.workshop import need_workshop

    need_workshop("plotly")
    from kit.report import decisions

    rows = read_rows(knowledge_file)
    need = needs.make_need(
        None, None, min_accuracy, None, None, device_of(rows, device), backend, threads, percentile=percentile, batch=batch, point=point,
        dataset=dataset,
    )  # fmt: skip
    table = knowledge.compile(rows, need.model_copy(update={"min_accuracy": None}), percentiles=(percentile,))
    figure = decisions.decision_map(table, against=against, percentile=percentile, min_accuracy=min_accuracy)
    store.write_atomic(out, figure.to_html(include_plotlyjs=True, full_html=True).encode())
    if json:
        show.emit({"map": str(out), "variants": sorted({v.artifact_id for v in table.variants})})
    else:
        print(out)
