"""The tables and figures of paper B: ours over the seeds, beside the optimum of what is drawn and of what is minimised.

The paper prints no values of its curves, only shapes.

| name | what |
|---|---|
| ``table1`` | parameters and operations |
| ``fig4`` | quality of every (k, l), and the weighted delay with its own computing |
| ``fig5`` ``fig6`` | all tasks offloaded: mean delay, missed deadlines; over (a) size, (b) workload, (c) tasks, (d) server |
| ``fig7`` ``fig8`` ``fig9`` | users who compute too: mean delay, missed deadlines, energy; the same four sweeps |
| ``…-weighted`` ``…-cost`` | the same in what is minimised: the weighted delay (the loss), the joint cost (eqs. 24 and 25) |
| ``fig7…-offloaded`` | how many tasks are offloaded |
| ``fig7…-decisions`` | who offloads, alone: joint cost above the flips-and-swaps reference |
| ``fig10`` ``fig11`` | how large a network the policy takes, and the share of deciding in the delay, over size |
| ``fig12`` | what training takes: shrinking, jointly, each from scratch |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from pydantic import JsonValue

from kit.allocators import fileformat
from kit.allocators.fileformat import Size
from kit.papers import engine
from kit.papers.engine import Progress, Results
from kit.papers.offloading.experiment import (
    KIT,
    LARGEST,
    LIMITS,
    OWN,
    PMRL,
    SIZES,
    SLOW,
    STATIC,
    Delays,
    Measures,
    OffloadingPoint,
    Settings,
    TrainedModels,
    models_of,
    point_of,
    policies_on_mixed,
    recipes,
)
from kit.papers.offloading.size import (
    EXPERTS,
    FIXED_OPERATIONS,
    LAYERS,
    AllocatorKind,
    inference_of,
    macs_of,
    operations_of,
    parameters_of,
)
from kit.papers.offloading.train import Recipe, TrainingReport, Way, excesses, optima_s, train
from kit.papers.offloading.world import OffloadingWorld, importance, sample
from kit.papers.results import Figure, Line, Unit, Value, check_figures, line_of
from kit.papers.streams import generator
from kit.records import AllocationQuality
from kit.stats import Float64Array

FIGURES = ("table1", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10", "fig11", "fig12")
#: Of each sweep: what it is, the parameter, its places in SI, and the factor and unit that people read.
SWEEPS: dict[str, tuple[str, str, tuple[float, ...], float, str]] = {
    "a": ("data size", "size_mean_bit", (250.0, 500.0, 1000.0, 2000.0, 4000.0), 1e-3, "kbit"),
    "b": ("task complexity", "cycles_per_bit_mean", (200.0, 400.0, 797.5, 1600.0, 3200.0), 1.0, "cycles/bit"),
    "c": ("number of tasks", "users", (10, 20, 30, 40, 50), 1.0, "tasks"),
    "d": ("server clock", "server_hz", (1.0e9, 1.5e9, 2.5e9, 4.0e9, 6.0e9), 1e-9, "GHz"),
}
QUICK_PLACES = (0, 2, 4)
WITHIN = 0.005  # of the delay: when a training counts as good as from scratch
SHAPES = "The paper prints curves without values: only shapes can be compared."
#: Suffix of the figure's name, measure, its name, unit.
ALL: dict[str, tuple[tuple[str, str, str, Unit], ...]] = {
    "fig5": (
        ("", "delay_s", "mean delay", "s"),
        ("-weighted", "weighted_delay_s", "weighted delay", "s"),
        ("-cost", "cost", "joint cost of a task", "number"),
    ),
    "fig6": (("", "missed", "deadlines missed", "1"),),
}
JOINT: dict[str, tuple[tuple[str, str, str, Unit], ...]] = {
    "fig7": (
        ("", "delay_s", "mean delay", "s"),
        ("-cost", "cost", "joint cost of a task", "number"),
        ("-offloaded", "offloaded", "share of the tasks offloaded", "1"),
    ),
    "fig8": (("", "missed", "deadlines missed", "1"),),
    "fig9": (("", "energy_j", "energy of a slot", "J"),),
}
RANDOM, LOCAL = "Policy MoE (random)", "Local execution"
#: By measure: whether it is what is learned, so that its limit is a limit of the lines.
LEARNED: dict[str, str] = {
    "delay_s": "The mean delay is not what is minimised: a line may lie below a limit that is of another metric.",
    "weighted_delay_s": "The weighted delay is what the networks learn.",
    "cost": "The joint cost is what scheduler and policy learn.",
    "missed": "Missed deadlines are not what is minimised, and no limit here is theirs.",
}
Runs: TypeAlias = Mapping[tuple[str, float], Sequence[OffloadingPoint]]  # by sweep and place, a point of each seed


def results_of(
    world: OffloadingWorld,
    delays: Delays,
    settings: Settings,
    names: Sequence[str] = (),
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Results:
    """Train what ``folder`` does not hold yet, and draw these figures; all but ``fig12`` unless named, for that one trains 30 networks.

    Raises UnknownName, and as :func:`kit.papers.offloading.train.train` does.
    """
    check_figures(names, FIGURES)
    progress = progress or Progress()
    requested = set(names or FIGURES[:-1])
    figures: list[Figure] = [table1(world)] if "table1" in requested else []
    models_by_seed: list[TrainedModels] = []
    if requested - {"table1", "fig12"}:
        models_by_seed = engine.for_each_seed(
            settings.seeds,
            progress.part(0.0, 0.5),
            lambda seed, part: models_of(world, settings, seed, folder, part),
        )
    if "fig4" in requested:
        figures += fig4(world, delays, models_by_seed)
    runs = _runs(world, models_by_seed, delays, settings, requested, folder, progress.part(0.5, 0.5))
    figures += [*_swept(requested, runs), *_behaviour(requested, runs)]
    if "fig10" in requested:
        figures.append(_on_mixed(world, models_by_seed, delays, settings))
    if "fig12" in requested:
        figures += fig12(world, settings, folder, progress.part(0.5, 0.5))
    if settings.quick:
        note = f"Quick: {settings.steps} steps and {settings.slots} slots, to see that it works."
        figures = engine.marked_quick(figures, note)
    source = f"kit simulate offloading: {settings.steps:,} steps, seeds {', '.join(map(str, settings.seeds))}"
    reports = [trained.report for models in models_by_seed for trained in models.allocators.values()]
    return Results(
        figures=tuple(engine.with_notes(figures, delays.notes)),
        trained={report.recipe.name: facts(report) for report in reports},
        parameters={"steps": settings.steps, "slots": settings.slots, "bars": dict(acceptance(runs))},
        quality=quality(world, models_by_seed, source) if models_by_seed else None,
    )


def facts(report: TrainingReport) -> dict[str, JsonValue]:
    """A training as a simulation's file holds it."""
    quality = {} if not report.looks else {"excess": list(report.looks[-1].excess)}
    return {**report.recipe.model_dump(mode="json"), "train_s": report.seconds, "loss": report.final_loss, **quality}


def _runs(
    world: OffloadingWorld,
    models_by_seed: Sequence[TrainedModels],
    delays: Delays,
    settings: Settings,
    requested: set[str],
    folder: Path | None,
    progress: Progress,
) -> Runs:
    """The points that the figures need; the default world, which lies on each sweep, is computed once."""
    joint = bool(requested & JOINT.keys())
    if joint or requested & ALL.keys():
        sweeps = SWEEPS
    else:
        sweeps = {"a": SWEEPS["a"]} if requested & {"fig10", "fig11"} else {}
    points: dict[OffloadingWorld, list[OffloadingPoint]] = {}
    runs: dict[tuple[str, float], list[OffloadingPoint]] = {}
    places = [(key, x) for key in sweeps for x in _places_of(key, settings)]
    for i, (key, x) in enumerate(places):
        place_world = world.model_copy(update={SWEEPS[key][1]: x})
        if place_world not in points:
            progress(f"{SWEEPS[key][0]} {x * SWEEPS[key][3]:g} {SWEEPS[key][4]}", i / len(places))
            points[place_world] = [
                point_of(place_world, models, delays, settings, folder, joint=joint) for models in models_by_seed
            ]
        runs[key, x] = points[place_world]
    return runs


def _places_of(key: str, settings: Settings) -> tuple[float, ...]:
    places = SWEEPS[key][2]
    return tuple(places[i] for i in QUICK_PLACES) if settings.quick else places


# ----------------------------------------------------------------------------------------------------------------- table I


def table1(world: OffloadingWorld) -> Figure:
    """Counts: they are exact."""
    spec = fileformat.paper_b(world.users)
    dynamic, users = fileformat.dynamic_parameters(spec), world.users
    ours = {
        "dynamic parameters": (float(dynamic), 87.04e3),
        "operations of the experts": (float(operations_of(EXPERTS, LAYERS, users)), 5.126e6),
        "MACs of the experts": (float(macs_of(EXPERTS, LAYERS, users)), None),
        "other operations": (FIXED_OPERATIONS * users / 30, 0.302e6),
        "other parameters": (float(fileformat.parameters(spec) - dynamic), 7.291e3),
    }
    return Figure(
        figure="table1",
        title=f"Size of the allocator for {users} tasks",
        x_name="count",
        x=tuple(ours),
        y_name="ours, and as printed",
        unit="number",
        shown="table",
        lines=(
            line_of("paper B's allocator", [[o for o, _ in ours.values()]], published=[p for _, p in ours.values()]),
        ),
        notes=(
            f"{parameters_of():,} parameters are 10 experts of 5-64-64-64; 5.126M counts two operations a MAC and the gate's sum.",
            "Other operations are taken as printed; its other parameters hold scheduler and policy, ours gate and heads.",
        ),
    )


# ------------------------------------------------------------------------------------------------------------------ fig. 4


def fig4(world: OffloadingWorld, delays: Delays, models_by_seed: Sequence[TrainedModels]) -> list[Figure]:
    """The weighted delay of every (k, l) over its optimum (a), and in seconds with its own computing (b)."""
    excess, least, weight = _qualities(world, models_by_seed)
    known = [SIZES.index(size) for size in delays.sizes]
    deciding = np.full(len(SIZES), np.nan)
    deciding[known] = [float(np.mean(inference_of(world, delays.of["paper"], *s).edge_s)) for s in delays.sizes]
    total_s = least * (1.0 + excess) + weight * deciding
    best = SIZES[int(np.nanargmin(total_s.mean(axis=0)))]
    rest: tuple[tuple[AllocatorKind, Size], ...] = (("static", STATIC), ("per_user", OWN))
    other = [
        float(np.mean([excesses(models.net(n), world, [size])[0] for models in models_by_seed])) for n, size in rest
    ]
    spread = f"{100 * excess[:, 0].mean():.2f} % at (10, 3), {100 * excess[:, -1].mean():.2f} % at (1, 1)"
    return [
        _by_size("fig4a", "Weighted delay above the optimum, computing not counted", excess, "1").model_copy(
            update={
                "notes": (
                    f"Above the weighted optimum: {spread}; static {100 * other[0]:.2f} %, per user {100 * other[1]:.3f} %.",
                    SHAPES,
                )
            }
        ),
        _by_size("fig4b", "Weighted delay with computing", total_s, "s").model_copy(
            update={
                "notes": (
                    f"Least at k = {best.width}, l = {best.depth}: the largest network is not the best one to run.",
                )
            }
        ),
    ]


def _qualities(world: OffloadingWorld, models_by_seed: Sequence[TrainedModels]) -> tuple[Float64Array, float, float]:
    """(weighted delay of every (k, l) above its optimum [seeds, sizes], that optimum of a task in seconds, mean importance)."""
    excess = np.array([excesses(models.net("paper"), world, SIZES) for models in models_by_seed])
    tasks = sample(world, 2000, generator("offloading: slots of the mean optimum", 0))
    least = float(optima_s(world, tasks, tasks.present).sum() / tasks.present.sum())
    return excess, least, float(importance(world, tasks).mean())


def quality(world: OffloadingWorld, models_by_seed: Sequence[TrainedModels], source: str) -> AllocationQuality:
    """The weighted delays of every (k, l), means over the seeds, as the knowledge base takes them."""
    excess, least, weight = _qualities(world, models_by_seed)
    delays = {f"{s.width},{s.depth}": least * (1.0 + float(e)) for s, e in zip(SIZES, excess.mean(axis=0), strict=True)}
    return AllocationQuality(
        family="allocator_b", source=source, task_bit=world.size_mean_bit, weight=weight, delay_s=delays
    )


def _by_size(name: str, title: str, values: Float64Array, unit: Unit) -> Figure:
    """A line for each depth over the widths whose every depth is known."""
    known = [k for k in range(1, LARGEST.width + 1) if np.isfinite(values[:, _places(k)]).all()]
    lines = []
    for layers in range(1, LARGEST.depth + 1):
        places = [SIZES.index(Size(k, layers)) for k in known]
        lines.append(line_of(f"{layers} layer{'s' if layers > 1 else ''}", values[:, places]))
    return Figure(
        figure=name, title=title, x_name="experts k", x=tuple(map(str, known)), y_name="weighted delay",
        unit=unit, shown="lines", lines=tuple(lines),
    )  # fmt: skip


def _places(width: int) -> list[int]:
    return [SIZES.index(Size(width, layers)) for layers in range(1, LARGEST.depth + 1)]


# ------------------------------------------------------------------------------------------------------------ figs. 5 to 9


def _swept(requested: set[str], runs: Runs) -> Iterator[Figure]:
    for name, shown in (ALL | JOINT).items():
        if name not in requested:
            continue
        for key in dict.fromkeys(key for key, _ in runs):
            for suffix, what, y_name, unit in shown:
                yield _sweep(f"{name}{key}{suffix}", key, what, y_name, unit, runs, joint=name in JOINT)
            if name == "fig7":
                yield _decisions(key, runs)


def _sweep(name: str, key: str, what: str, y_name: str, unit: Unit, runs: Runs, *, joint: bool) -> Figure:
    xs = [x for k, x in runs if k == key]
    users = "Users who compute too" if joint else "All tasks offloaded"
    lines = tuple(_lines(what, [[(p.joint if joint else p.all_offloaded) for p in runs[key, x]] for x in xs]))
    return _over(key, xs, name, f"{users}: {y_name}", y_name, unit, lines, (SHAPES, *_about(what, lines)))


def _over(
    key: str, xs: Sequence[float], name: str, title: str, y_name: str, unit: Unit, lines: tuple[Line, ...],
    notes: tuple[str, ...],
) -> Figure:  # fmt: skip
    label, _, _, factor, read = SWEEPS[key]
    return Figure(
        figure=name, title=f"{title} over {label}", x_name=f"{label} ({read})", x=tuple(x * factor for x in xs),
        y_name=y_name, unit=unit, lines=lines, notes=notes,
    )  # fmt: skip


def _about(what: str, lines: Sequence[Line]) -> Iterator[str]:
    """Whether this metric is what is learned, and what it says of the paper's claims: who lies below whom, at how many places."""
    by_name = {line.name: line.values for line in lines}

    def below(one: str, other: str) -> int:
        return sum((a or 0.0) < (b or 0.0) for a, b in zip(by_name[one], by_name[other], strict=True))

    if what in LEARNED:
        yield LEARNED[what]
    if RANDOM in by_name and what in ("delay_s", "cost", "missed"):
        rivals = [
            f"below {name} lies random offloading at {below(RANDOM, name)}, local execution at {below(LOCAL, name)}"
            for name in (PMRL, KIT)
        ]
        yield f"Of {len(by_name[PMRL])} places: {'; '.join(rivals)}."
    if RANDOM in by_name and what == "missed":
        yield f"Local execution misses more than random offloading at {below(RANDOM, LOCAL)}; the paper draws it below."


def _decisions(key: str, runs: Runs) -> Figure:
    """Who offloads, alone: the same best shares and the same time for all."""
    xs = [x for k, x in runs if k == key]
    places = [runs[key, x] for x in xs]
    lines = tuple(
        line_of(n, [[p[s].gaps[n] for p in places] for s in range(len(places[0]))]) for n in places[0][0].gaps
    )
    return _over(
        key, xs, f"fig7{key}-decisions", "Decisions alone: joint cost above the reference", "cost / reference - 1", "1",
        lines, (f"Deciding takes as long as with the smallest network (1, 1); {SLOW}: with (10, 3).",),
    )  # fmt: skip


def _lines(what: str, places: Sequence[Sequence[Mapping[str, Measures]]]) -> Iterator[Line]:
    """A line of each method over places, from [place][seed] -> method -> measures."""
    for method in places[0][0]:
        seeds = [s for s in range(len(places[0])) if method in places[0][s]]
        yield line_of(method, [[place[s][method][what] for place in places] for s in seeds])


def _behaviour(requested: set[str], runs: Runs) -> Iterator[Figure]:
    """Figs. 10 and 11, with all tasks offloaded."""
    shown: dict[str, tuple[str, str, Unit]] = {
        "fig10": ("macs", "MACs of deciding", "number"),
        "fig11": ("deciding", "share of deciding in the delay", "1"),
    }
    for name, (what, y_name, unit) in shown.items():
        if name in requested:
            figure = _sweep(name, "a", what, y_name, unit, runs, joint=False)
            shown_lines = [
                line for line in figure.lines if line.name not in (*LIMITS, "equal split") and "GA" not in line.name
            ]
            yield figure.model_copy(update={"lines": tuple(shown_lines), "notes": (SHAPES, "All tasks offloaded.")})


def _on_mixed(
    world: OffloadingWorld, models_by_seed: Sequence[TrainedModels], delays: Delays, settings: Settings
) -> Figure:
    """What a policy is worth where slots differ: beside the best fixed size, the fair rival that the paper does not show."""
    costs_by_seed = [policies_on_mixed(world, models, delays, settings) for models in models_by_seed]
    return Figure(
        figure="fig10-mixed",
        title="Cost over the best fixed (k, l), mean over slots whose average size is 0.125 to 16 kbit",
        x_name="chosen by",
        x=tuple(costs_by_seed[0]),
        y_name="cost over the best fixed size",
        unit="number",
        shown="table",
        lines=(line_of("all tasks offloaded", [list(costs.values()) for costs in costs_by_seed]),),
    )


def acceptance(runs: Runs) -> dict[str, Value]:
    """What is claimed, over all points: worst gaps of the decisions, of the policy to the best fixed size, and the closest rival."""
    if not runs:
        return {}
    points = [p for ps in runs.values() for p in ps]
    values: dict[str, Value] = {
        "policy over best fixed, cost": max(
            p.all_offloaded["Policy MoE"]["cost"] / p.all_offloaded["best fixed MoE"]["cost"] for p in points
        )
    }
    if not points[0].joint:
        return values
    rivals = [
        n for n in points[0].joint if n.startswith(("Policy MoE (r", "Policy MoE (h", "Policy MoE (a", "Local"))
    ] + ["GA"]
    values[f"{SLOW}: decisions above the reference, worst"] = max(p.gaps[SLOW] for p in points)
    for name in (PMRL, KIT):
        values[f"{name}: decisions above the reference, worst"] = max(p.gaps[name] for p in points)
        for what in ("cost", "delay_s", "missed"):
            values[f"{name}: {what} less the best rival's, worst"] = max(
                p.joint[name][what] - min(p.joint[r][what] for r in rivals if r in p.joint) for p in points
            )
    return values


# ----------------------------------------------------------------------------------------------------------------- fig. 12


def fig12(
    world: OffloadingWorld, settings: Settings, folder: Path | None, progress: Progress, *, seed: int = 0
) -> list[Figure]:
    """What training takes for every width (k, 3), every depth (10, l), and all thirty sub-networks: three ways, one seed.

    Beside it how good each sub-network gets, and what the logarithm of the inputs does to that.
    """
    groups = {
        "width": tuple(s for s in SIZES if s.depth == LARGEST.depth),
        "depth": tuple(s for s in SIZES if s.width == LARGEST.width),
        "width and depth": SIZES,
    }
    base = recipes(settings, seed)["paper"]
    device = settings.device
    count = len(SIZES) + 2 * len(groups) + 1
    parts = iter([progress.part(i / count, 1 / count) for i in range(count)])
    alone = {size: _trained(world, base, "scratch", (size,), folder, next(parts), device) for size in SIZES}
    reports = {
        (way, group): _trained(
            world, base, way, () if group == "width and depth" else sizes, folder, next(parts), device
        )
        for way in ("shrinking", "sandwich")
        for group, sizes in groups.items()
    }
    spent: dict[str, list[float]] = {}
    enough: dict[str, list[Value]] = {}
    quality: dict[str, list[float]] = {}
    spent["scratch"] = [sum(alone[s].seconds for s in sizes) for sizes in groups.values()]
    quality["scratch"] = [float(np.mean([_end(alone[s]) for s in sizes])) for sizes in groups.values()]
    enough["scratch"] = [
        sum(_until(alone[s], _end(alone[s]) + WITHIN) or 0.0 for s in sizes) for sizes in groups.values()
    ]
    for way in ("shrinking", "sandwich"):
        by_group = [reports[way, group] for group in groups]
        spent[way], quality[way] = [r.seconds for r in by_group], [_end(r) for r in by_group]
        enough[way] = [_until(r, target + WITHIN) for r, target in zip(by_group, quality["scratch"], strict=True)]
    logarithms = _trained(
        world, base.model_copy(update={"inputs": "log"}), "shrinking", (), folder, next(parts), device
    )
    by_size = {
        "scratch, plain inputs": [_end(alone[size]) for size in SIZES],
        "shrinking, plain inputs": list(reports["shrinking", "width and depth"].looks[-1].excess),
        "sandwich, plain inputs": list(reports["sandwich", "width and depth"].looks[-1].excess),
        "shrinking, logarithms": list(logarithms.looks[-1].excess),
    }
    shown: tuple[tuple[str, str, str, Literal["s", "1"], Mapping[str, Sequence[Value]]], ...] = (
        ("fig12", "Training, to its end", "seconds of one core", "s", spent),
        ("fig12-until", "Training, until within half a per cent of scratch", "seconds of one core", "s", enough),
        ("fig12-quality", "Quality when trained", "mean weighted delay above the optimum", "1", quality),
    )
    return [
        Figure(
            figure=name, title=title, x_name="what is dynamic", x=tuple(groups), y_name=y_name, unit=unit, shown="bars",
            lines=tuple(Line(name=way, values=tuple(values)) for way, values in table.items()),
            notes=("One seed; scratch counts every sub-network by itself; the paper's bars have no values.",),
        )
        for name, title, y_name, unit, table in shown
    ] + [
        Figure(
            figure="fig12-sizes", title="Quality of every (k, l) when trained", x_name="(k, l)",
            x=tuple(f"({size.width}, {size.depth})" for size in SIZES), y_name="weighted delay above the optimum", unit="1",
            shown="table", lines=tuple(Line(name=way, values=tuple(values)) for way, values in by_size.items()),
            notes=("One seed. Plain inputs leave something to trade between size and quality; logarithms hardly do.",),
        )
    ]  # fmt: skip


def _trained(
    world: OffloadingWorld,
    base: Recipe,
    way: Way,
    sizes: Sequence[Size],
    folder: Path | None,
    progress: Progress,
    device: str,
) -> TrainingReport:
    """A training by one of the three ways: joint and separate ones stop at three eighths of the steps, where they have converged."""
    steps = base.steps if way == "shrinking" else max(base.steps * 3 // 8, 1)
    changes = {
        "way": way,
        "only": tuple((s.width, s.depth) for s in sizes),
        "steps": steps,
        "watched": max(steps // 10, 1),
    }
    return train(world, base.model_copy(update=changes), folder, progress, device).report


def _end(report: TrainingReport) -> float:
    """The mean excess over the optimum when it was trained."""
    return float(np.mean(report.looks[-1].excess))


def _until(report: TrainingReport, excess: float) -> float | None:
    """Seconds until the mean over the sub-networks was this good; None where it never was."""
    return next((look.seconds for look in report.looks if float(np.mean(look.excess)) <= excess), None)
