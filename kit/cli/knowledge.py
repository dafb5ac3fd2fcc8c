"""Verbs of the knowledge base: ``knowledge build``, ``ask``, ``explain``, ``pareto``, ``compile``, ``table``, ``map``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli import needs, options, show
from kit.cli.judge import Profiles
from kit.cli.table import Column, text

if TYPE_CHECKING:
    from kit.knowledge import Predicted, Regret
    from kit.records import (
        AllocationQuality,
        Answer,
        DynamicTable,
        Explanation,
        KnowledgeBase,
        KnowledgeRow,
        Need,
        SubNetwork,
    )

knowledge_app = typer.Typer(
    no_args_is_help=True,
    help="The knowledge base: [bold]build[/] it from profiles, [bold]ask[/] it for the best variant, let it [bold]explain[/].",
)

Base = Annotated[Path, typer.Option("--knowledge", help="The knowledge base.")]
KNOWLEDGE = Path("knowledge.json")
REJECTED_SHOWN = 5
FRONT_SHOWN = 40
SAMPLE = 1000  # of a space's sub-networks, where nothing else is asked for


def add_to(app: typer.Typer) -> None:
    app.add_typer(knowledge_app, name="knowledge", rich_help_panel="Judge")


def read_rows(file: Path) -> tuple[KnowledgeRow, ...]:
    return read_base(file).rows


def read_base(file: Path) -> KnowledgeBase:
    """Raises UsageError when there is none, with the way to one."""
    from kit import store
    from kit.errors import UsageError
    from kit.records import KnowledgeBase

    if not file.exists():
        raise UsageError(
            f"{file} does not exist: make it with kit knowledge build PROFILE..., or name another with --knowledge."
        )
    return store.read_record(file, KnowledgeBase)


@knowledge_app.command("build")
def build(
    profiles: Profiles,
    model: Annotated[
        Path | None, typer.Option(help="Add predicted rows by this latency model (kit fit --out), with --space.")
    ] = None,
    space: Annotated[
        list[str] | None, typer.Option(help="Predict the sub-networks of this root, such as resnet18 (repeatable).")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="So many of each space, at random.")] = SAMPLE,
    every: Annotated[bool, typer.Option("--all", help="All of each space.")] = False,
    accuracy: Annotated[
        Path | None, typer.Option(help='JSON of accuracies: {"ID": 0.91} or {"ID": {"top1": 0.91, "dataset": "..."}}.')
    ] = None,
    out: Annotated[Path, typer.Option(help="The knowledge base to write.")] = KNOWLEDGE,
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """Build the knowledge base from measured profiles; with [bold]--model[/] and [bold]--space[/] also for networks nobody measured."""
    from kit import knowledge, store
    from kit.records import DECIDING

    members = _members(model, space or [], None if every else sample, seed)
    accuracies = read_accuracies(accuracy) if accuracy else {}
    base = knowledge.build(store.read_profiles(profiles))
    added = _predicted(base, model, members) if model else []
    base = knowledge.joined(base, [row for part in added for row in part.rows])
    base = knowledge.with_accuracies(base, accuracies)
    store.write_record(out, base)
    predicted = sum(r.origin == "predicted" for r in base.rows)
    extrapolations = {name: why for part in added for name, why in part.extrapolations.items()}
    left_out = {name: why for part in added for name, why in part.left_out.items()}
    if json:
        about = {"predicted": predicted, "extrapolations": extrapolations, "left_out": left_out}
        show.emit({"file": str(out), **about, **base.model_dump(mode="json")})
        return
    measured = [r for r in base.rows if r.origin == "measured"]
    undecided = sum(r.label not in DECIDING for r in measured)
    elsewhere = sum(not r.is_default_state for r in measured)
    text = f"{out}: {len(measured)} rows, {undecided} of them not trusted to decide"
    text += f", {elsewhere} at chosen operating points (--point)" if elsewhere else ""
    print(text + (f"; {predicted} predicted, {len(extrapolations)} of them extrapolations" if model else ""))
    for why in sorted(set(left_out.values())):
        show.say(f"left out: {list(left_out.values()).count(why)} sub-networks, for {why}")
    if absent := len(set(accuracies) - {r.artifact_id for r in base.rows}):
        show.say(f"{absent} of {len(accuracies)} accuracies in {accuracy} are of no row here.")


def _members(model: Path | None, names: list[str], count: int | None, seed: int) -> list[SubNetwork]:
    """The sub-networks to predict. Raises UsageError (only one of the two flags), UnknownName (a space)."""
    from kit import spaces
    from kit.errors import UsageError

    if model is None and names:
        raise UsageError(
            "--space needs a latency model: write one with kit fit PROFILE... --out M.json and add --model M.json."
        )
    if model is not None and not names:
        raise UsageError(
            f"--model needs to know which networks to predict: add --space NAME, one of {', '.join(spaces.SPACES)}."
        )
    found: list[SubNetwork] = []
    for name in dict.fromkeys(names):
        members = spaces.space_of(name)
        found += list(members) if count is None or count >= len(members) else members.sample(count, seed)
    return found


def _predicted(base: KnowledgeBase, file: Path, members: list[SubNetwork]) -> list[Predicted]:
    """Rows of ``members`` at each thread count of the model at which something trusted was measured."""
    from kit import knowledge, latency, store
    from kit.records import DECIDING

    predictor = latency.load(file)
    counts = sorted({s.threads for s in predictor.states if not s.gap_s and not s.load}) or [
        predictor.states[0].threads
    ]
    here = [r for r in base.rows if (r.device_id, r.backend) == (predictor.device_id, predictor.backend)]
    measured = {r.threads for r in here if r.label in DECIDING and r.point is None}
    name = f"{file.name} {store.sha256_file(file)[:12]}"
    return [
        knowledge.predicted_rows(predictor, members, base.rows, threads=threads, model=name)
        for threads in ([t for t in counts if t in measured] or counts[:1])
    ]


def read_accuracies(file: Path) -> dict[str, tuple[float, str | None]]:
    """id -> (top-1 share, data set or None). Raises UsageError (missing), BadRecord with the id whose value is no share."""
    from kit import store
    from kit.errors import BadRecord

    data = store.read_json(file)
    if not isinstance(data, dict) or not data:
        raise BadRecord(
            f'{file} holds no accuracies: write {{"ID": 0.91}} or {{"ID": {{"top1": 0.91, "dataset": "..."}}}}.'
        )
    out = {}
    for name, value in data.items():
        about = value if isinstance(value, dict) else {"top1": value}
        top1, dataset = about.get("top1"), about.get("dataset")
        share = top1 if isinstance(top1, (int, float)) and not isinstance(top1, bool) else -1.0
        if not 0 <= share <= 1 or set(about) - {"top1", "dataset"} or not isinstance(dataset, str | None):
            raise BadRecord(
                f"{file}: the accuracy of {name} is no share from 0 to 1 (with a data set or without): correct it."
            )
        out[name] = (float(share), dataset)
    return out


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
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure predicted variants here before one of them is promised.")
    ] = False,
    profiles: options.Profiles = options.PROFILES,
    knowledge_file: Base = KNOWLEDGE,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """The most accurate variant that meets every limit, by measured latency. Exit code 3: none does."""
    from kit import knowledge

    base = read_base(knowledge_file)
    rows = base.rows
    need = needs.need_about(
        rows, deadline_ms=deadline_ms, percentile=percentile, memory_mb=memory_mb, energy_mj=energy_mj, min_accuracy=min_accuracy,
        link_mbps=link_mbps, download_ms=download_ms, have=have, device=device, backend=backend, threads=threads, batch=batch, point=point,
        dataset=dataset, unknown_accuracy=unknown_accuracy,
    )  # fmt: skip
    found = knowledge.ask(rows, need, measure=_measure(base, need, knowledge_file, profiles) if measure else None)
    if json:
        show.emit(show.answer(found))
        return
    show.note(found.text)
    if found.chosen is not None and found.chosen.accuracy is None and found.runner_up is not None:
        show.say(
            "The accuracies are unknown, so the fastest is chosen: kit knowledge build --accuracy FILE.json tells them."
        )
    _print_rejected(found)
    _print_next(found)


def _measure(
    base: KnowledgeBase, need: Need, file: Path, profiles: Path
) -> Callable[[KnowledgeRow], KnowledgeRow | None]:
    from kit.cli import promise

    return promise.measuring(base, file, profiles, need.device_id)


def _print_rejected(found: Answer) -> None:
    if not found.rejected:
        return
    table = show.make_table("Rejected, the nearest first", "variant", Column("limit", 0, "left"), text("why", 1))
    for r in found.rejected[:REJECTED_SHOWN]:
        table.add_row(f"{r.artifact_id} ({r.backend}, t{r.threads})", r.limit, r.text)
    show.print_table(table)
    if len(found.rejected) > REJECTED_SHOWN:
        show.say(f"... and {len(found.rejected) - REJECTED_SHOWN} more (--json lists all).")


def _print_next(found: Answer) -> None:
    if not found.measure_next:
        return
    table = show.make_table("What to measure, for it could change the answer", "command", text("because", 1))
    for m in found.measure_next[:REJECTED_SHOWN]:
        table.add_row(m.command, m.why)
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
    csv: show.Csv = False,
) -> None:
    """Why a variant is, or is not, the choice: each limit, what is left of it, and what would have to change."""
    from kit import knowledge

    rows = read_rows(knowledge_file)
    need = needs.need_about(
        rows, deadline_ms=deadline_ms, percentile=percentile, memory_mb=memory_mb, energy_mj=energy_mj, min_accuracy=min_accuracy,
        link_mbps=link_mbps, download_ms=download_ms, have=have, device=device, backend=backend, threads=threads, batch=batch, point=point,
        dataset=dataset, unknown_accuracy=unknown_accuracy,
    )  # fmt: skip
    found = knowledge.explain(rows, need, variant)
    if json:
        show.emit({"id": variant, "explanations": [e.model_dump(mode="json") for e in found]})
        return
    for explanation in found:
        show.note(explanation.text)
        _print_limits(explanation)


def _print_limits(found: Explanation) -> None:
    if not found.limits:
        return
    name = f"{found.row.artifact_id} ({found.row.backend}, t{found.row.threads})"
    table = show.make_table(
        name, "limit", Column("left"), text("limit in words", 1), text("what would have to change", 2)
    )
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
    csv: show.Csv = False,
) -> None:
    """The variants that no other beats in latency and accuracy (and memory, energy, size) at once."""
    from kit import knowledge

    rows = read_rows(knowledge_file)
    need = needs.need_about(
        rows, deadline_ms=deadline_ms, percentile=percentile, memory_mb=memory_mb, min_accuracy=min_accuracy, device=device,
        backend=backend, threads=threads, batch=batch, point=point, dataset=dataset,
    )  # fmt: skip
    chosen = {"memory": memory, "energy": energy, "size": size}
    axes = ("latency", "accuracy", *(name for name, wanted in chosen.items() if wanted))
    front = knowledge.pareto(rows, need, axes)
    if json:
        show.emit({"axes": list(axes), "percentile": percentile, "front": [show.knowledge_row(r) for r in front]})
        return
    shown = thinned(front)
    show.print_table(_front_table(shown, percentile, len(front)))
    if len(shown) < len(front):
        show.say(f"Every {len(front) / len(shown):.3g}th is shown, first and last among them (--json lists all).")
    for line in front_plot(front, percentile):
        show.note(line)


def thinned(front: Sequence[KnowledgeRow]) -> list[KnowledgeRow]:
    """As many as a screen holds, evenly along the front, both ends included."""
    if len(front) <= FRONT_SHOWN:
        return list(front)
    return [front[round(i * (len(front) - 1) / (FRONT_SHOWN - 1))] for i in range(FRONT_SHOWN)]


def _front_table(front: Sequence[KnowledgeRow], percentile: int, count: int) -> Any:
    name = "median ms" if percentile == 50 else f"p{percentile} ms"
    columns = (
        Column("conditions", 2, "left"), Column(name), Column("accuracy", 1), Column("memory MB", 4), Column("energy mJ", 5),
        Column("file MB", 6), Column("label", 3, "left"),
    )  # fmt: skip
    table = show.make_table(f"Nothing beats these {count}", "variant", *columns)
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
    need = needs.need_about(
        rows, device=device, backend=backend, threads=threads, have=have, batch=batch, point=point, dataset=dataset,
        unknown_accuracy=unknown_accuracy,
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
    family: Annotated[
        str, typer.Option(help="allocator_a (paper A), allocator_b (paper B) or allocator_u (kit's own).")
    ] = "allocator_a",
    quality_file: Annotated[
        Path | None, typer.Option("--quality", help="Delay of the allocation per size (default: paper A's table I).")
    ] = None,
    sizes_kbit: Annotated[str, typer.Option(help="Mean task sizes.")] = "0.25,0.5,1,2,4,6,8,10",
    clocks_ghz: Annotated[str, typer.Option(help="Compute budgets, as clocks.")] = "0.01,0.02,0.05,0.1,0.2,0.5,1,2",
    clock_ghz: Annotated[float | None, typer.Option(help="Clock of rows that know none.")] = None,
    device: needs.Device = None,
    backend: needs.Backend = None,
    threads: needs.Threads = None,
    users: Annotated[int | None, typer.Option(help="Number of users, where several were measured.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table as JSON as well.")] = None,
    knowledge_file: Base = KNOWLEDGE,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """The K- (or k,l-) table of papers A and B from measured times, the analytic table beside it."""
    from kit import knowledge, store
    from kit.knowledge import limits

    rows = read_rows(knowledge_file)
    timings = knowledge.timings_of(
        rows,
        family,
        device_id=limits.device_of(rows, device),
        backend=backend,
        threads=threads,
        clock_hz=None if clock_ghz is None else clock_ghz * 1e9,
        users=users,
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
                f"No allocation quality of {family} is published as numbers: kit simulate writes one, give it with --quality FILE."
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
    what = {"allocator_a": "K", "allocator_b": "k,l"}.get(found.quality.family, "width,depth")
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
        show.note(
            f"lambda = {f:g}: another {what} in {share:.0%} of the cells (*), which takes up to {worst:.1%} longer."
        )
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
    model: Annotated[
        Path | None, typer.Option(help="Latency model fitted to these measurements: adds what its predictions lose.")
    ] = None,
    asked: Annotated[int, typer.Option("--needs", min=1, help="Random needs to ask for that.")] = 300,
    knowledge_file: Base = KNOWLEDGE,
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """A map of the choice over two limits, and what the choice from predictions loses, as one self-contained page."""
    from kit import knowledge
    from kit.cli.produce import need_training_tools

    need_training_tools("plotly")
    from kit.report import decisions

    rows = read_rows(knowledge_file)
    need = needs.need_about(
        rows, percentile=percentile, min_accuracy=min_accuracy, device=device, backend=backend, threads=threads, batch=batch,
        point=point, dataset=dataset,
    )  # fmt: skip
    table = knowledge.compile(rows, need.model_copy(update={"min_accuracy": None}), percentiles=(percentile,))
    found, why = regrets(rows, need, model, asked, seed)
    decisions.write_page(
        out, table, against=against, percentile=percentile, min_accuracy=min_accuracy, regrets=found, no_regret=why
    )
    if json:
        shares = {
            name: {"equal": r.equal_share, "missed": r.missed_share, "loss": float(r.loss.mean())}
            for name, r in found.items()
        }
        variants = sorted({v.artifact_id for v in table.variants})
        show.emit({"map": str(out), "variants": variants, "regret": shares, "why_no_regret": why or None})
    else:
        print(out)


def regrets(
    rows: Sequence[KnowledgeRow], need: Need, model: Path | None, count: int, seed: int
) -> tuple[dict[str, Regret], str]:
    """What choices from predictions lose against those from measurements, and why nothing can be said about it where that is so.

    Each network is predicted by the model that was fitted without it. Raises what loading the model raises.
    """
    from kit import knowledge, latency
    from kit.errors import BadRecord

    if model is None:
        return {}, "Give the latency model with --model M.json to see what choices from its predictions lose."
    predictor = latency.load(model)
    here = [
        r
        for r in rows
        if r.is_default_state and need.threads in (None, r.threads) and need.device_id in (None, r.device_id)
    ]
    try:
        predicted, truth = knowledge.held_out_rows(predictor, here)
    except BadRecord as error:
        return {}, str(error)
    if any(r.accuracy is None for r in truth):
        return (
            {},
            "A regret counts lost accuracy, and not every measured row knows its own: build the base with --accuracy FILE.json.",
        )
    true_rows = {knowledge.key(r): r for r in truth}
    wanted = knowledge.random_needs(truth, count, seed=seed)
    sources = {
        "predictions alone": (predicted, None),
        "predictions, the choice measured first": (predicted, lambda row: true_rows[knowledge.key(row)]),
        "the papers' latency, MACs / clock": (knowledge.papers_rows(truth), None),
    }
    return {
        name: knowledge.regret(known, truth, wanted, measure=measure)
        for name, (known, measure) in sources.items()
        if known
    }, ""
