"""The verbs of the papers: ``simulate bandwidth`` (paper A), ``offloading`` (paper B), ``placement`` (paper C),
``downloading`` (paper D)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli import produce, show

if TYPE_CHECKING:
    from kit.papers.placement.measured import MeasuredModels
    from kit.papers.results import Simulation

simulate_app = typer.Typer(
    no_args_is_help=True, help="The papers' systems on their formula's delay, or on the measured one."
)

Figures = Annotated[
    list[str] | None,
    typer.Option("--figure", help="Table or figure of the paper; give it several times (default: all)."),
]
Delay = Annotated[
    str,
    typer.Option(
        help="What a decision takes: analytic, analytic:lambda=2, measured:KNOWLEDGE.json[,backend=…] or none."
    ),
]
Seeds = Annotated[list[int] | None, typer.Option("--seed", min=0, help="A seed; give it several times.")]
Count = Annotated[
    int | None, typer.Option("--seeds", min=1, max=100, help="So many seeds, from 0 (default: 3; quick: 1).")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of each training (default: what the bars need).")]
Quick = Annotated[bool, typer.Option("--quick", help="Under a minute: one seed, fewer steps and frames.")]
Device = Annotated[str, typer.Option(help="Where torch trains: cpu or cuda.")]
Out = Annotated[
    Path, typer.Option(help="Folder for simulation.json, page.html, quality.json and the trained networks.")
]
QuickTwo = Annotated[bool, typer.Option("--quick", help="Under two minutes: one seed, fewer steps, slots and places.")]
# Of paper C alone.
PlacementFigures = Annotated[
    list[str] | None,
    typer.Option("--figure", help="fig4 to fig8, default, shared or scarce; give it several times (default: all)."),
]
Spectrum = Annotated[
    str | None, typer.Option(help="Model of paper C's spectrum: shared (default), per_gateway or counted.")
]
Policies = Annotated[
    list[Path] | None,
    typer.Option("--policy", help="A trained policy (.policy.json) to set beside the methods; give it several times."),
]
Models = Annotated[
    str, typer.Option(help="table (the paper's), or measured:KNOWLEDGE.json[,backend=…] with the options below.")
]
Light = Annotated[str | None, typer.Option(metavar="ID", help="Measured variant of the least accuracy.")]
Middle = Annotated[
    list[str] | None, typer.Option("--middle", metavar="ID", help="One between them; give it several times.")
]
Heavy = Annotated[str | None, typer.Option(metavar="ID", help="Measured variant of the most accuracy.")]
End = Annotated[str | None, typer.Option(metavar="DEVICE[,backend=…]", help="A gateway; also ,threads=… and ,point=….")]
Edge = Annotated[str | None, typer.Option(metavar="DEVICE[,backend=…]", help="The edge server.")]
Noisy = Annotated[
    list[str] | None,
    typer.Option("--noisy", metavar="ID=0.93", help="Accuracy on noisy data (default: table III's part of it)."),
]
Percentile = Annotated[int, typer.Option(help="Of the measured times, that is promised: 50, 90, 95 or 99.")]
TraceFile = Annotated[
    Path | None, typer.Option(metavar="FILE.jsonl", help="Replay this trace (kit simulate trace) by every policy.")
]
Episodes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Episodes, of 50 slots each, for which the paper's TD3 and DDPG are trained (default: 60; the paper has 300).",
    ),
]
PlacementOut = Annotated[
    Path, typer.Option(help="Folder for simulation.json, page.html, and the trained policies and found points.")
]
# Of paper D alone.
DownloadingFigures = Annotated[
    list[str] | None,
    typer.Option("--figure", help="fig4, shares, counts, 3gpp, variants; give it several times (default: all)."),
]
DownloadingOut = Annotated[Path, typer.Option(help="Folder for simulation.json and page.html.")]
Log = Annotated[bool, typer.Option("--log", help="Write TensorBoard's files beside the policies.")]


def add_to(app: typer.Typer) -> None:
    """Add ``simulate`` and its verbs."""
    simulate_app.command()(bandwidth)
    simulate_app.command()(offloading)
    simulate_app.command()(placement)
    simulate_app.command()(downloading)
    app.add_typer(simulate_app, name="simulate", rich_help_panel="Simulate")


def bandwidth(
    figure: Figures = None,
    delay: Delay = "analytic",
    seed: Seeds = None,
    seeds: Count = None,
    steps: Steps = None,
    quick: Quick = False,
    out: Out = Path("simulation/bandwidth"),
    device: Device = "cpu",
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Paper A: networks that split a band, their delay by width, and what knowing the best width saves."""
    produce.need_training_tools("torch", "plotly")
    from kit.papers import engine
    from kit.papers.bandwidth.simulate import simulate

    run_seeds = engine.seeds_of(seed, seeds, quick)
    run(
        simulate, figure, out, json, delay=delay, seeds=run_seeds, steps=steps, quick=quick, device=device
    )  # fmt: skip


def offloading(
    figure: Figures = None,
    delay: Delay = "analytic",
    seed: Seeds = None,
    seeds: Count = None,
    steps: Steps = None,
    quick: QuickTwo = False,
    out: Out = Path("simulation/offloading"),
    device: Device = "cpu",
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Paper B: who offloads, which sub-network shares band and server, and what deciding costs. fig12 trains 30 networks: name it."""
    produce.need_training_tools("torch", "plotly")
    from kit.papers import engine
    from kit.papers.offloading.simulate import simulate

    run_seeds = engine.seeds_of(seed, seeds, quick)
    run(
        simulate, figure, out, json, delay=delay, seeds=run_seeds, steps=steps, quick=quick, device=device
    )  # fmt: skip


def placement(
    figure: PlacementFigures = None,
    spectrum: Spectrum = None,
    policy: Policies = None,
    models: Models = "table",
    light: Light = None,
    middle: Middle = None,
    heavy: Heavy = None,
    end: End = None,
    edge: Edge = None,
    noisy: Noisy = None,
    percentile: Percentile = 95,
    trace: TraceFile = None,
    seed: Seeds = None,
    seeds: Count = None,
    steps: Episodes = None,
    quick: QuickTwo = False,
    out: PlacementOut = Path("simulation/placement"),
    device: Device = "cpu",
    log: Log = False,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Paper C: which node runs each task, with which model, and what TD3, DDPG, rules and the dual-price policy make of it.

    With --models measured:… or --trace their tables are made; the paper's figures too where --figure names them.
    """
    need_placement_tools()
    from kit.papers import engine
    from kit.papers.placement.simulate import simulate

    measured = measured_models(models, light, middle, heavy, end, edge, noisy, percentile)
    run_seeds = engine.seeds_of(seed, seeds, quick)
    run(
        simulate, figure, out, json, spectrum=spectrum, models=measured, trace=trace, policies=policy or (), delay=models,
        seeds=run_seeds, steps=steps, quick=quick, device=device, log=log,
    )  # fmt: skip


def downloading(
    figure: DownloadingFigures = None,
    variants: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Variants of your own: a build folder, or a library.")
    ] = None,
    out: DownloadingOut = Path("simulation/downloading"),
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Paper D: the data rates that downloads of sub-models need. What bit errors do to them is kit robustness."""
    produce.need_training_tools("torch", "plotly")
    from kit.papers.downloading import simulate

    run(simulate, figure, out, json, variants=variants)


# ------------------------------------------------------------------------------------------------------- for every simulation


def measured_models(
    models: str,
    light: str | None,
    middle: Sequence[str] | None,
    heavy: str | None,
    end: str | None,
    edge: str | None,
    noisy: Sequence[str] | None,
    percentile: int,
) -> MeasuredModels | None:
    """What --models and the options beside it name; None for the paper's table. Raises UsageError, and as ``measured.read`` does."""
    from kit.errors import UsageError
    from kit.papers.placement import measured

    options = {"--light": light, "--heavy": heavy, "--end": end, "--edge": edge}
    if models == "table":
        extra = [name for name, value in {**options, "--middle": middle, "--noisy": noisy}.items() if value]
        if extra:
            raise UsageError(
                f"{extra[0]} goes with --models measured:KNOWLEDGE.json: the paper's table has its own models."
            )
        return None
    if not models.startswith("measured:"):
        raise UsageError(f"--models does not take '{models}': write table, or measured:KNOWLEDGE.json.")
    if missing := [name for name, value in options.items() if not value]:
        raise UsageError(
            f"--models {models} needs {', '.join(missing)} too: two variants, and where they were measured."
        )
    ids = [str(light), *(middle or ()), str(heavy)]
    accuracies = dict(_noisy(text) for text in noisy or ())
    return measured.read(models, ids, end=str(end), edge=str(edge), noisy=accuracies, percentile=percentile)


def _noisy(text: str) -> tuple[str, float]:
    """``ID=0.93`` as a pair. Raises UsageError."""
    from kit.errors import UsageError

    name, _, value = text.rpartition("=")
    try:
        return name, float(value)
    except ValueError:
        raise UsageError(f"--noisy does not take '{text}': write ID=0.93, an accuracy above 0 and up to 1.") from None


def need_placement_tools() -> None:
    """Raises BackendUnavailable with the command that installs what paper C's agents need, when it is not installed."""
    from kit import versions

    produce.need_training_tools("torch", "plotly")
    versions.need("Paper C's agents need", "gymnasium", "scipy", "stable_baselines3")


def with_remaining_time(update: show.Update) -> Callable[[str, float], None]:
    """Progress as (text, share done), with the seconds that remain."""
    start_s = time.monotonic()

    def report(text: str, share: float) -> None:
        spent_s = time.monotonic() - start_s
        update(text, share, spent_s * (1 - share) / share if share > 0.02 else None)

    return report


def run(
    simulate: Callable[..., Simulation], figure: Sequence[str] | None, out: Path, json: bool, **options: object
) -> None:
    """Run a paper's ``simulate`` with these options under a progress bar, and show what it returns. Raises as it does."""
    with show.progress("simulate") as update:
        simulation = simulate(figure or (), out=out, report=with_remaining_time(update), **options)
    finish(simulation, out, json)


def finish(simulation: Simulation, out: Path, json: bool) -> None:
    """Write page.html, and print: tables, or the whole record. Raises StorageError."""
    from kit.papers.results import heading, rows
    from kit.report.simulation import write_page

    page = write_page(out / "page.html", simulation)
    if json:
        show.emit({"out": str(out), "page": str(page), **simulation.model_dump(mode="json")})
        return
    for figure in simulation.figures:
        if figure.shown != "map":
            head, body = rows(figure)
            table = show.make_table(f"{figure.figure}  {heading(figure)[0]}", *head)
            for row in body:
                table.add_row(*row)
            show.print_table(table)
        else:
            show.note(f"{figure.figure}  {figure.title}: the map is on the page.")
        for note in figure.notes:
            show.note(f"  {note}")
    show.note(str(page))
