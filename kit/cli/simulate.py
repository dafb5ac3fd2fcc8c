"""The verbs of the playground: ``simulate bandwidth`` (paper A), ``offloading`` (paper B), ``placement`` (paper C)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli import produce, show

if TYPE_CHECKING:
    from kit.papers.bandwidth.train import Trained
    from kit.papers.placement.measured import MeasuredModels
    from kit.papers.results import Figure, Simulation

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
    simulate_app.command()(placement)
    app.add_typer(simulate_app, name="simulate", rich_help_panel="Simulate")


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
    csv: show.Csv = False,
) -> None:
    """Paper A: networks that split a band, their delay by width, and what knowing the best width saves."""
    wanted = seeds_of(seed, seeds, quick)
    produce.need_training_tools("torch", "plotly")
    start = time.monotonic()
    from kit import store
    from kit.papers import learning
    from kit.papers.bandwidth import BandwidthWorld, experiment, figures
    from kit.papers.delays import describe, measured_sizes_s
    from kit.papers.results import Simulation, check_figures

    check_figures(figure or (), figures.FIGURES)
    learning.check_device(device)
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
            parameters={
                **world.model_dump(mode="json"),
                "steps": settings.steps,
                "frames": settings.frames,
                "quick": quick,
                "computing_s": {"mixture": measured_sizes_s(delays.mixture)},
            },
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
    device: Device = "cpu",
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Paper B: who offloads, which sub-network shares band and server, and what deciding costs. fig12 trains 30 networks: name it."""
    wanted = seeds_of(seed, seeds, quick)
    produce.need_training_tools("torch", "plotly")
    start = time.monotonic()
    from kit import store
    from kit.papers import learning
    from kit.papers.delays import describe, measured_sizes_s
    from kit.papers.offloading import OffloadingWorld, experiment, figures
    from kit.papers.results import Simulation, check_figures

    check_figures(figure or (), figures.FIGURES)
    learning.check_device(device)
    delays = experiment.delays_of(delay)
    settings = experiment.Settings.of(wanted, quick=quick, steps=steps, device=device)
    world = OffloadingWorld()
    store.make_folder(out)
    with learning.one_thread(), show.progress("simulate") as update:
        made = figures.run(world, delays, settings, figure or (), out / "networks", told_by(update))
    if made.quality is not None:
        store.write_record(out / QUALITY, made.quality)
    finish(
        Simulation(
            world="offloading",
            parameters={
                **world.model_dump(mode="json"),
                "steps": settings.steps,
                "slots": settings.slots,
                "quick": quick,
                "bars": dict(made.bars),
                "computing_s": {name: measured_sizes_s(delay) for name, delay in delays.of.items()},
            },
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


def placement(
    figure: Annotated[
        list[str] | None,
        typer.Option("--figure", help="fig4 to fig8, default, shared or scarce; give it several times (default: all)."),
    ] = None,
    reading: Annotated[
        str | None, typer.Option(help="Of the paper's spectrum: shared (default), per_gateway or counted.")
    ] = None,
    policy: Annotated[
        list[Path] | None,
        typer.Option(
            "--policy", help="A trained policy (.policy.json) to set beside the methods; give it several times."
        ),
    ] = None,
    models: Annotated[
        str, typer.Option(help="table (the paper's), or measured:KNOWLEDGE.json[,backend=…] with the options below.")
    ] = "table",
    light: Annotated[str | None, typer.Option(metavar="ID", help="Measured variant of the least accuracy.")] = None,
    middle: Annotated[
        list[str] | None, typer.Option("--middle", metavar="ID", help="One between them; give it several times.")
    ] = None,
    heavy: Annotated[str | None, typer.Option(metavar="ID", help="Measured variant of the most accuracy.")] = None,
    end: Annotated[
        str | None, typer.Option(metavar="DEVICE[,backend=…]", help="A gateway; also ,threads=… and ,point=….")
    ] = None,
    edge: Annotated[str | None, typer.Option(metavar="DEVICE[,backend=…]", help="The edge server.")] = None,
    noisy: Annotated[
        list[str] | None,
        typer.Option("--noisy", metavar="ID=0.93", help="Accuracy on noisy data (default: table III's part of it)."),
    ] = None,
    percentile: Annotated[int, typer.Option(help="Of the measured times, that is promised: 50, 90, 95 or 99.")] = 95,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Replay this trace (kit simulate trace) by every policy.")
    ] = None,
    seed: Seeds = None,
    seeds: Count = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Episodes, of 50 slots each, for which the paper's TD3 and DDPG are trained (default: 60; the paper has 300).",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Under two minutes: one seed, fewer episodes, slots and places.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder for simulation.json, page.html, and the trained policies and found points.")
    ] = Path("simulation/placement"),
    device: Device = "cpu",
    log: Annotated[bool, typer.Option("--log", help="Write TensorBoard's files beside the policies.")] = False,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Paper C: which node runs each task, with which model, and what TD3, DDPG, rules and kit's own policy make of it.

    With --models measured:… or --trace their tables are made; the paper's figures too where --figure names them.
    """
    wanted = seeds_of(seed, seeds, quick)
    produce.need_training_tools("torch", "plotly")
    need_simulation_tools()
    start = time.monotonic()
    from dataclasses import replace

    from kit import store
    from kit.papers import learning
    from kit.papers.placement import compared, experiment, figures, measured, rounded, trained, world
    from kit.papers.placement import trace as traces
    from kit.papers.results import Simulation, check_figures

    check_figures(figure or (), figures.FIGURES)
    learning.check_device(device)
    replayed = traces.read(trace) if trace else None
    base = replayed.header.world if replayed and reading is None else world.reading(reading or "shared")
    given = measured_models(models, light, middle, heavy, end, edge, noisy, percentile)
    there = measured.world_of(base, given) if given else base
    known = {path: trained.load(path) for path in policy or ()}
    settings = replace(experiment.Settings.of(wanted, quick=quick, episodes=steps, device=device), log=log)
    store.make_folder(out)
    with learning.one_thread(), show.progress("simulate") as update:
        beside = {f"{p.name.partition('.')[0]} (given)": (r.network_sha256, decide) for p, (r, decide) in known.items()}
        shown: list[Figure] = []
        if given or replayed:
            network = experiment.own_of(settings.own_steps, wanted[0], out / "networks", None)
            policies = {**experiment.RULES, experiment.ROUNDED: rounded, experiment.KIT: network[1]}
            policies |= {name: decide for name, (_, decide) in beside.items()}
            if given:
                shown.append(
                    compared.by_time(base, given, policies, seeds=wanted, slots=settings.slots, trace=replayed)
                )
            elif replayed:
                shown.append(compared.on_trace(there, replayed, policies, seeds=wanted))
        made = figures.Made((), {}, {})
        if figure or not shown:
            made = figures.run(there, settings, figure or (), out / "networks", told_by(update), beside)
    finish(
        Simulation(
            world="placement",
            parameters={
                **there.model_dump(mode="json"),
                "reading": reading or ("trace" if replayed else "shared"),
                "models": models,
                "trace": str(trace) if trace else None,
                "episodes": settings.episodes,
                "slots": settings.slots,
                "quick": quick,
                "bars": dict(made.bars),
            },
            delay=models if given else "analytic",
            seeds=settings.seeds,
            versions=versions("numpy", "scipy", "torch", "stable-baselines3", "gymnasium"),
            wall_s=time.monotonic() - start,
            trained={name: dict(told) for name, told in made.trained.items()},
            figures=(*shown, *made.figures),
        ),
        out,
        json,
    )


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


def need_simulation_tools() -> None:
    """Raises BackendUnavailable with the command that installs paper C's agents, when they are not there."""
    from kit import versions

    versions.need("Paper C's agents need", "gymnasium", "scipy", "stable_baselines3")


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
    from kit.devices import recognise
    from kit.report.simulation import write_page

    place = {"device_id": recognise().device_id, "ended_utc": store.utc_now()}
    simulation = simulation.model_copy(update=place)
    store.write_record(out / "simulation.json", simulation)
    page = write_page(out / "page.html", simulation)
    if json:
        show.emit({"out": str(out), "page": str(page), **simulation.model_dump(mode="json")})
        return
    from kit.papers.results import heading, rows

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


def _name(trained: Trained) -> str:
    return trained.path.name.partition(".")[0]


def _facts(trained: Trained) -> dict[str, Any]:
    training = trained.training
    return {**training.recipe.model_dump(mode="json"), "train_s": training.train_s, "loss": training.curve[-1]}
