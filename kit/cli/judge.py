"""Verbs of the judgement rooms: ``fit``, ``knowledge build``, ``knowledge ask``, and ``report`` to look at it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli import show

if TYPE_CHECKING:
    from kit.records import Answer, KnowledgeBase, KnowledgeRow, LatencyModel, Need, ProfileRecord

knowledge_app = typer.Typer(
    no_args_is_help=True,
    help="The knowledge base: [bold]build[/] it from profiles, [bold]ask[/] it for the best variant.",
)

Profiles = Annotated[
    list[Path], typer.Argument(metavar="PROFILE...", help="Profile files (.jsonl) or folders of them.")
]
Deadline = Annotated[float | None, typer.Option(help="The p99 latency must stay within this.")]
MemoryMb = Annotated[
    float | None, typer.Option(help="Peak memory of runtime and model together, above the bare process.")
]
MinAccuracy = Annotated[float | None, typer.Option(help="Least top-1 accuracy, as a share.")]
Link = Annotated[float | None, typer.Option(help="Rate of the link; the download then counts towards the deadline.")]
Download = Annotated[float | None, typer.Option(help="A limit of its own for the download, apart from the deadline.")]
Device = Annotated[str | None, typer.Option(help="Device id (default: the only one, or this machine).")]
Backend = Annotated[str | None, typer.Option(help="Only this runtime.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Only this thread count.")]


REJECTED_SHOWN = 5


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Judge")(fit)
    app.add_typer(knowledge_app, name="knowledge", rich_help_panel="Judge")
    app.command(rich_help_panel="Judge")(report)


def make_need(
    deadline_ms: float | None,
    memory_mb: float | None,
    min_accuracy: float | None,
    link_mbps: float | None,
    download_ms: float | None,
    device: str | None,
    backend: str | None,
    threads: int | None,
) -> Need:
    """The flags as a need in SI units. Raises UsageError for a limit that is no positive number."""
    from math import isfinite

    from kit.errors import UsageError
    from kit.records import Need

    flags = {
        "--deadline-ms": deadline_ms,
        "--memory-mb": memory_mb,
        "--link-mbps": link_mbps,
        "--download-ms": download_ms,
    }
    for flag, value in flags.items():
        if value is not None and not (isfinite(value) and 1e-9 < value < 1e15):
            raise UsageError(f"{flag} {value:g} is no limit: give a sensible number above zero.")
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise UsageError(f"--min-accuracy {min_accuracy:g} is no share: give a number from 0 to 1, such as 0.95.")
    if link_mbps is not None and deadline_ms is None and download_ms is None:
        raise UsageError("--link-mbps alone limits nothing: add --deadline-ms or --download-ms.")
    if download_ms is not None and link_mbps is None:
        raise UsageError("--download-ms needs the rate of the link: add --link-mbps.")
    return Need(
        deadline_s=None if deadline_ms is None else deadline_ms * 1e-3,
        memory_bytes=None if memory_mb is None else max(1, round(memory_mb * 1e6)),
        min_accuracy=min_accuracy,
        link_bps=None if link_mbps is None else link_mbps * 1e6,
        download_s=None if download_ms is None else download_ms * 1e-3,
        device_id=device,
        backend=backend,
        threads=threads,
    )


def only(profiles: list[ProfileRecord], device: str | None) -> list[ProfileRecord]:
    """The profiles of one device, when it is named. Raises UnknownName."""
    from kit.errors import UnknownName

    if device is None:
        return profiles
    found = [p for p in profiles if p.device.device_id == device]
    if not found:
        raise UnknownName("device", device, sorted({p.device.device_id for p in profiles}))
    return found


def fit(
    profiles: Profiles,
    device: Annotated[str | None, typer.Option(help="Only the profiles of this device.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the models to this file as well.")] = None,
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """Fit the efficiency factor lambda to measured latencies, with intervals, beside the papers' lambda = 1."""
    from kit import latency, store

    found = only(store.read_profiles(profiles), device)
    models = latency.fit(found, seed=seed)
    roots = sorted({p.artifact.subnetwork.root for p in found if p.artifact.subnetwork})
    if len(roots) > 1:
        show.say(
            f"One line is drawn through {len(roots)} families ({', '.join(roots)}): fit each alone for a closer one."
        )
    if out is not None:
        store.write_atomic(out, store.pretty_json([m.model_dump(mode="json") for m in models]).encode())
    if json:
        show.emit(
            {"device": models[0].device_id, "seed": seed, "latency_models": [show.latency_model(m) for m in models]}
        )
        return
    show.print_table(show.model_table(models))
    for text in (t for m in models for t in m.left_out):
        show.say(f"left out: {text}")


@knowledge_app.command("build")
def build(
    profiles: Profiles,
    out: Annotated[Path, typer.Option(help="The knowledge base to write.")] = Path("knowledge.json"),
    json: show.Json = False,
) -> None:
    """Build the knowledge base from measured profiles."""
    from kit import knowledge, store
    from kit.records import DECIDING

    base = knowledge.build(store.read_profiles(profiles))
    store.write_record(out, base)
    if json:
        show.emit({"file": str(out), **base.model_dump(mode="json")})
    else:
        undecided = sum(r.label not in DECIDING for r in base.rows)
        print(f"{out}: {len(base.rows)} rows, {undecided} of them not trusted to decide")


@knowledge_app.command("ask")
def ask(
    deadline_ms: Deadline = None,
    memory_mb: MemoryMb = None,
    min_accuracy: MinAccuracy = None,
    link_mbps: Link = None,
    download_ms: Download = None,
    device: Device = None,
    backend: Backend = None,
    threads: Threads = None,
    knowledge_file: Annotated[Path, typer.Option("--knowledge", help="The knowledge base.")] = Path("knowledge.json"),
    json: show.Json = False,
) -> None:
    """The most accurate variant that meets every limit, by measured p99 latency. Exit code 3: none does."""
    from kit import knowledge, store
    from kit.device import recognise
    from kit.errors import UsageError
    from kit.records import KnowledgeBase

    if not knowledge_file.exists():
        raise UsageError(
            f"{knowledge_file} does not exist: make it with kit knowledge build PROFILE..., or name another with --knowledge."
        )
    rows = store.read_record(knowledge_file, KnowledgeBase).rows
    devices = {r.device_id for r in rows}
    if device is None and len(devices) > 1 and (here := recognise().device_id) in devices:
        device = here
    found = knowledge.ask(
        rows, make_need(deadline_ms, memory_mb, min_accuracy, link_mbps, download_ms, device, backend, threads)
    )
    if json:
        show.emit(show.answer(found))
        return
    print(found.text)
    if found.rejected:
        table = show.make_table("Rejected, the nearest first", "variant", "limit", "why")
        for r in found.rejected[:REJECTED_SHOWN]:
            table.add_row(f"{r.artifact_id} ({r.backend}, t{r.threads})", r.limit, r.text)
        show.print_table(table)
        if len(found.rejected) > REJECTED_SHOWN:
            show.say(f"... and {len(found.rejected) - REJECTED_SHOWN} more (--json lists all).")


def report(
    profiles: Profiles,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    device: Annotated[str | None, typer.Option(help="Only the profiles of this device.")] = None,
    library: Annotated[Path | None, typer.Option(help="List the packages of this library as well.")] = None,
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """One self-contained HTML page: accuracy against latency, lambda, spread, choices over deadlines, packages."""
    from kit import knowledge, store
    from kit.cli.workshop import need_workshop

    need_workshop("plotly")
    from kit.library import package
    from kit.report.page import write_page

    found = only(store.read_profiles(profiles), device)
    models = models_of(found, seed)
    spec = found[-1].device
    base = knowledge.build(found)
    page = write_page(
        out,
        device=spec,
        profiles=found,
        models=models,
        knowledge=base,
        answers=three_answers(base, spec.device_id),
        deadline_choices=choices(base, spec.device_id),
        packages=package.read_packages(library) if library else [],
        pull=None,
    )
    if json:
        show.emit({"report": str(page)})
    else:
        print(page)


def models_of(profiles: list[ProfileRecord], seed: int) -> list[LatencyModel]:
    """The fitted models, or none, with a word on standard error, where there is too little to fit a line to."""
    from kit import latency
    from kit.errors import BadRecord

    try:
        return latency.fit(profiles, seed=seed)
    except BadRecord as error:
        show.say(f"No latency model: {error}")
        return []


def three_answers(base: KnowledgeBase, device_id: str) -> list[Answer]:
    """The knowledge base's answers to three deadlines: one that few variants meet, one in the middle, one that all meet."""
    from contextlib import suppress

    from kit import knowledge
    from kit.errors import NoAnswer
    from kit.records import DECIDING, Need

    p99s = sorted(r.p99_s for r in base.rows if r.label in DECIDING) or sorted(r.p99_s for r in base.rows)
    picks = [p99s[0], p99s[len(p99s) // 2], p99s[-1]]
    deadlines = [_round_up(p99_s * 1.1) for p99_s in picks]
    answers = []
    for deadline_s in dict.fromkeys(deadlines):
        with suppress(NoAnswer):  # every row may be too doubtful to decide
            answers.append(knowledge.ask(base.rows, Need(deadline_s=deadline_s, device_id=device_id)))
    return answers


def _round_up(seconds: float) -> float:
    """To two significant digits, upwards: a deadline that a person would write."""
    from math import ceil, floor, log10

    scale = 10.0 ** (floor(log10(seconds)) - 1)
    return ceil(seconds / scale - 1e-9) * scale


def choices(base: KnowledgeBase, device_id: str, points: int = 60) -> list[tuple[float, KnowledgeRow | None]]:
    """The choice at each of many deadlines, from below the fastest variant to above the slowest, every p99 among them."""
    import numpy as np

    from kit import knowledge
    from kit.errors import NoAnswer
    from kit.records import Need

    p99s = [r.p99_s for r in base.rows]
    out: list[tuple[float, KnowledgeRow | None]] = []
    for deadline_s in sorted({*p99s, *np.geomspace(min(p99s) * 0.7, max(p99s) * 1.3, points)}):
        try:
            chosen = knowledge.ask(base.rows, Need(deadline_s=float(deadline_s), device_id=device_id)).chosen
        except NoAnswer:
            chosen = None
        out.append((float(deadline_s), chosen))
    return out
