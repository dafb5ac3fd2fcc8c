"""The verbs of the playground: ``simulate bandwidth`` (paper A), ``simulate offloading`` (paper B)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli import show, workshop

if TYPE_CHECKING:
    from kit.sim.bandwidth.train import Trained
    from kit.sim.results import Simulation

QUALITY = "quality.json"  # for kit knowledge table --quality

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


def add_to(app: typer.Typer) -> None:
    simulate_app.command()(bandwidth)
    simulate_app.command()(offloading)
    app.add_typer(simulate_app, name="simulate", rich_help_panel="Play")


def bandwidth(
    figure: Figures = None,
    delay: Delay = "analytic",
    seed: Seeds = None,
    seeds: Count = None,
    steps: Steps = None,
    quick: Quick = False,
    out: Annotated[
        Path, typer.Option(help="Folder for simulation.json, page.html, quality.json and the trained networks.")
    ] = Path("simulation/bandwidth"),
    device: Device = "cpu",
    json: show.Json = False,
) -> None:
    """Paper A: networks that split a band, their delay by width, and what knowing the best width saves."""
    wanted = seeds_of(seed, seeds, quick)
    workshop.need_workshop("torch", "plotly")
    start = time.monotonic()
    from kit import store
    from kit.sim import learning
    from kit.sim.bandwidth import BandwidthWorld, experiment, figures
    from kit.sim.bandwidth.train import check_device
    from kit.sim.delays import describe
    from kit.sim.results import Simulation

    figures.check(figure or ())
    check_device(device)
    delays = experiment.delays_of(delay)
    if quick:
        settings = experiment.Settings.quickly(wanted, steps or experiment.QUICK, device)
    else:
        settings = experiment.Settings(wanted, steps or experiment.STEPS, device=device)
    world = BandwidthWorld()
    store.make_folder(out)
    with learning.one_thread(), show.progress("simulate") as update:
        outcome = experiment.carry_out(world, settings, out / "networks", told_by(update))
    made = figures.figures_of(outcome, delays, figure or ())
    store.write_record(out / QUALITY, figures.trained_quality(outcome))
    finish(
        Simulation(
            world="bandwidth",
            parameters={**world.model_dump(mode="json"), "steps": settings.steps, "quick": quick},
            delay=describe(delays.mixture),
            seeds=settings.seeds,
            versions=versions("numpy", "torch"),
            wall_s=time.monotonic() - start,
            trained={_name(t): _facts(t) for t in outcome.trained},
            figures=made,
        ),
        out,
        json,
    )


def offloading(
    figure: Figures = None,
    delay: Delay = "analytic",
    seed: Seeds = None,
    seeds: Count = None,
    steps: Steps = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Under two minutes: one seed, fewer steps, slots and places.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder for simulation.json, page.html, quality.json and the trained networks.")
    ] = Path("simulation/offloading"),
    json: show.Json = False,
) -> None:
    """Paper B: who offloads, which sub-network shares band and server, and what deciding costs. fig12 trains 30 networks: name it."""
    wanted = seeds_of(seed, seeds, quick)
    workshop.need_workshop("torch", "plotly")
    start = time.monotonic()
    from kit import store
    from kit.sim import learning
    from kit.sim.delays import describe
    from kit.sim.offloading import OffloadingWorld, experiment, figures
    from kit.sim.results import Simulation

    figures.check(figure or ())
    delays = experiment.delays_of(delay)
    settings = experiment.Settings.of(wanted, quick=quick, steps=steps)
    world = OffloadingWorld()
    store.make_folder(out)
    with learning.one_thread(), show.progress("simulate") as update:
        made = figures.run(world, delays, settings, figure or (), out / "networks", told_by(update))
    if made.quality is not None:
        store.write_record(out / QUALITY, made.quality)
    finish(
        Simulation(
            world="offloading",
            parameters={**world.model_dump(mode="json"), "steps": settings.steps, "quick": quick, "bars": made.bars},
            delay=describe(delays.of["paper"]),
            seeds=settings.seeds,
            versions=versions("numpy", "torch"),
            wall_s=time.monotonic() - start,
            trained={name: figures.facts(report) for name, report in made.trained.items()},
            figures=made.figures,
        ),
        out,
        json,
    )


# ------------------------------------------------------------------------------------------------------- for every simulation


def seeds_of(seed: Sequence[int] | None, seeds: int | None, quick: bool) -> tuple[int, ...]:
    """The seeds that --seed, --seeds and --quick ask for. Raises UsageError for both --seed and --seeds."""
    from kit.errors import UsageError

    if seed and seeds:
        raise UsageError("--seed names seeds and --seeds counts them: give one of the two.")
    return tuple(dict.fromkeys(seed)) if seed else tuple(range(seeds or (1 if quick else 3)))


def told_by(update: show.Update) -> Callable[[str, float], None]:
    """Progress as (text, share done), with the seconds that remain."""
    begun = time.monotonic()

    def told(text: str, share: float) -> None:
        spent = time.monotonic() - begun
        update(text, share, spent * (1 - share) / share if share > 0.02 else None)

    return told


def versions(*packages: str) -> dict[str, str]:
    """What computed it: kit, python and ``packages``."""
    import platform
    from importlib.metadata import version

    import kit

    return {"kit": kit.__version__, "python": platform.python_version(), **{name: version(name) for name in packages}}


def finish(simulation: Simulation, out: Path, json: bool) -> None:
    """Write simulation.json and page.html, and print: tables, or the whole record. Raises StorageError, UsageError."""
    from kit import store
    from kit.report.simulation import write_page

    store.write_record(out / "simulation.json", simulation)
    page = write_page(out / "page.html", simulation)
    if json:
        show.emit({"out": str(out), "page": str(page), **simulation.model_dump(mode="json")})
        return
    from kit.sim.results import heading, rows

    for figure in simulation.figures:
        if figure.shown != "map":
            head, body = rows(figure)
            table = show.make_table(f"{figure.figure}  {heading(figure)[0]}", *head)
            for row in body:
                table.add_row(*row)
            show.print_table(table)
        else:
            print(f"{figure.figure}  {figure.title}: the map is on the page.")
        for note in figure.notes:
            print(f"  {note}")
    print(page)


def _name(trained: Trained) -> str:
    return trained.path.name.partition(".")[0]


def _facts(trained: Trained) -> dict[str, Any]:
    training = trained.training
    return {**training.recipe.model_dump(mode="json"), "train_s": training.train_s, "loss": training.curve[-1]}
