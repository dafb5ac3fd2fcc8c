"""The figures of paper C over the seeds, with what its text states beside ours; its curves are printed without values.

| name | what |
|---|---|
| ``fig4`` | reward over the episodes of training at the default world, flat and shared networks; the dual-price policy before and after |
| ``fig5`` | average accuracy and completion over the gateways' (a) band, (b) caches, (c) clocks |
| ``fig6`` | average accuracy over the base station's (a) band, (b) cache, (c) clock |
| ``fig7`` | completed tasks by node and placed models over (a) R^c, (b) R^e |
| ``fig8`` | average accuracy over the number of gateways, and where tasks are completed |
| ``default`` | all methods at the default world, in full, and the paper's gains |
| ``shared`` | the fair baseline at the default world, beside the rules, the dual-price policy and the bound: cheap enough for more seeds |
| ``scarce`` | all methods where one resource is scarce: tables III and IV leave rules little to lose |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from kit.papers import engine
from kit.papers.engine import Progress, Results
from kit.papers.placement import experiment
from kit.papers.placement.agents import Curve
from kit.papers.placement.experiment import (
    BOUND,
    DDPG,
    EQUAL,
    KIT,
    RANDOM,
    ROUNDED,
    SHARED_DDPG,
    SHARED_TD3,
    TD3,
    UNTRAINED,
    PlacementPoint,
    Settings,
    retrained_name,
)
from kit.papers.placement.study import Study
from kit.papers.placement.world import Metrics, PlacementWorld, Policy
from kit.papers.results import Figure, Line, Value, check_figures, line_of
from kit.stats import Float64Array

FIGURES = ("fig4", "fig5", "fig6", "fig7", "fig8", "default", "shared", "scarce")
#: Of each sweep: what it is, the parameter, its places in SI with the scarcest first, and the factor and unit that people read.
SWEEPS: dict[str, tuple[str, str, tuple[float, ...], float, str]] = {
    "fig5a": ("band of the gateways", "band_hz", (4e6, 6e6, 8e6, 10e6), 1e-6, "MHz"),
    "fig5b": ("cache of a gateway", "gateway_cache_bytes", (0.1e9, 0.2e9, 0.3e9, 0.4e9), 1e-9, "GB"),
    "fig5c": ("clock of a gateway", "gateway_hz", (0.5e9, 1.0e9, 1.5e9, 2.0e9), 1e-9, "GHz"),
    "fig6a": ("band of the base station", "edge_band_hz", (6e6, 10e6, 15e6, 20e6), 1e-6, "MHz"),
    "fig6b": ("cache of the edge", "edge_cache_bytes", (0.6e9, 1.2e9, 1.8e9, 2.4e9), 1e-9, "GB"),
    "fig6c": ("clock of the edge", "edge_hz", (2e9, 3e9, 4e9, 5e9), 1e-9, "GHz"),
    "fig7a": ("R^c", "cloud_bps", (100e6, 150e6, 200e6, 300e6), 1e-6, "Mbit/s"),
    "fig7b": ("R^e", "backhaul_bps", (50e6, 100e6, 150e6, 200e6), 1e-6, "Mbit/s"),
    "fig8": ("gateways", "gateways", (2, 5, 7, 10, 14), 1.0, "for 350 devices"),
}
QUICK_PLACES = (0, -1)
#: Where a resource is scarce, as docs/papers/placement.md has them.
SCARCE: dict[str, dict[str, Any]] = {
    "edge at 2 GHz": {"edge_hz": 2e9},
    "edge band 6 MHz": {"edge_band_hz": 6e6},
    "edge cache 0.6 GB": {"edge_cache_bytes": 0.6e9},
    "devices' band 4 MHz": {"band_hz": 4e6},
    "gateway cache 0.1 GB": {"gateway_cache_bytes": 0.1e9},
    "gateways at 0.5 GHz": {"gateway_hz": 0.5e9},
    "R^c 100 Mbit/s": {"cloud_bps": 100e6},
    "R^e 50 Mbit/s": {"backhaul_bps": 50e6},
    "pools as printed": {"pools": "literal"},
}
SHAPES = "The paper prints curves without values: only what its text states can be set beside ours."
COLUMNS_MOST = 18  # of a learning curve's table
#: What the text of section V.B states: where, TD3 over DDPG, TD3 over Random.
GAINS: dict[str, tuple[dict[str, Any], str, float | None, float | None]] = {
    "reward, Fig. 4": ({}, "reward", 1.315, None),
    "average accuracy, Fig. 5": ({}, "average_accuracy", 1.314, 1.745),
    "completion, Fig. 5": ({}, "completion", 1.31, 1.71),
    "accuracy, edge band 6 MHz": ({"edge_band_hz": 6e6}, "average_accuracy", 1.51, 2.20),
    "accuracy, edge cache 0.6 GB": ({"edge_cache_bytes": 0.6e9}, "average_accuracy", 1.48, 1.95),
    "accuracy, edge at 2 GHz": ({"edge_hz": 2e9}, "average_accuracy", 1.60, 2.14),
}
COLUMNS: dict[str, tuple[str, float]] = {
    "average accuracy": ("average_accuracy", 1.0),
    "completion": ("completion", 1.0),
    "slots with all constraints held": ("satisfied", 1.0),
    "C1 (deadlines)": ("satisfied_deadlines", 1.0),
    "C4 (spectrum)": ("satisfied_spectrum", 1.0),
    "completed at gateways": ("completed_at_gateways", 1.0),
    "at the edge": ("completed_at_edge", 1.0),
    "cache hits": ("hits", 1.0),
    "GB from the cloud": ("cloud_bytes", 1e-9),
    "GB to gateways": ("backhaul_bytes", 1e-9),
}
Points: TypeAlias = Mapping[PlacementWorld, Sequence[PlacementPoint]]  # a point of each seed


def results_of(
    world: PlacementWorld,
    settings: Settings,
    names: Sequence[str],
    folder: Path,
    progress: Progress | None = None,
    policies: Mapping[str, tuple[str, Policy]] | None = None,
) -> Results:
    """Train what ``folder`` does not hold yet, and draw these figures (all unless named).

    ``policies`` are evaluated as well: name -> (hash of its network, policy).

    Raises UnknownName, and as :func:`kit.papers.placement.agents.train` does.
    """
    check_figures(names, FIGURES)
    study = Study(world, settings, folder, progress or Progress(), policies or {})
    requested = names or FIGURES
    makers: dict[str, Callable[[Study], Iterable[Figure]]] = {
        "fig4": fig4, "fig5": _sweeps("fig5"), "fig6": _sweeps("fig6"), "fig7": fig7, "fig8": fig8,
        "default": default, "shared": shared, "scarce": scarce,
    }  # fmt: skip
    figures = [figure for name in FIGURES if name in requested for figure in makers[name](study)]
    if settings.quick:
        note = f"Quick: {settings.slots} slots, {settings.episodes} episodes and {settings.price_steps} steps, to see that it works."
        figures = engine.marked_quick(figures, note)
    return Results(
        figures=tuple(figures), trained=study.trained(), parameters={"bars": dict(acceptance(study.points, world))}
    )


# ------------------------------------------------------------------------------------------------------------------ fig. 4


def fig4(study: Study) -> Iterator[Figure]:
    """Learning curves at the default world, of the paper's agents and of shared networks, and the dual-price policy before and after."""
    networks_by_seed, points, settings = study.networks(), study.at(), study.settings
    curves = {name: [c.agents[name].curve for c in networks_by_seed] for name in networks_by_seed[0].agents}
    flat, shared_ = ({n: c for n, c in curves.items() if n in of} for of in (settings.flat(0), settings.shared(0)))
    level = {name: _seeds(points, name) for name in (RANDOM, EQUAL, KIT)} | {BOUND: _bounds(points)}
    before = [experiment.untrained_at(study.world, settings, c.seed, study.folder) for c in networks_by_seed]
    own = {f"{UNTRAINED}, paper's sizes": [r.average_accuracy for r in before]}
    yield _curve("fig4", "Learning at the default world", flat, level | own, _fig4_notes(study, flat))
    recipe = settings.shared(0)[SHARED_TD3]
    updates = recipe.episodes * recipe.slots - recipe.first + 1
    learns = f"{updates:,} updates of {recipe.batch:,} tasks"
    notes = (f"One network decides each task by itself and learns from that task's accuracy: {learns}.",)
    yield _curve("fig4-shared", "Learning at the default world, one network for all tasks", shared_, level, notes)
    yield _own_learning(study)


def _fig4_notes(study: Study, curves: Mapping[str, Sequence[Curve]]) -> tuple[str, ...]:
    recipe = study.settings.flat(0)[TD3]
    ends = {name: float(np.mean([curve.looks[-1][1] for curve in seeds])) for name, seeds in curves.items()}
    return (
        f"{TD3} and {DDPG} as printed but for hidden layers of {list(recipe.actor)}, {recipe.episodes} episodes.",
        f"Updates begin after {recipe.first} slots.",
        f"At the end: {', '.join(f'{name} {end:.3f}' for name, end in ends.items())}; the paper has TD3 31.5 % above DDPG.",
        "Before its first update an actor says one half to everything: equal shares. At printed noise tanh then runs into its ends.",
    )  # fmt: skip


def _curve(
    name: str,
    title: str,
    curves: Mapping[str, Sequence[Curve]],
    level: Mapping[str, Sequence[float]],
    notes: Sequence[str],
) -> Figure:
    """What the actors alone earn; all were looked at after as many episodes."""
    x = [episode for episode, _ in next(iter(curves.values()))[0].looks]
    x = x[:: 2 if len(x) > COLUMNS_MOST else 1]
    looks = {name: [dict(curve.looks) for curve in seeds] for name, seeds in curves.items()}
    lines = [line_of(name, [[look[at] for at in x] for look in seeds]) for name, seeds in looks.items()]
    lines += [line_of(n, [[value] * len(x) for value in values]) for n, values in level.items()]
    return Figure(
        figure=name,
        title=title,
        x_name="episodes of 50 slots",
        x=tuple(map(float, x)),
        y_name="mean reward of a slot, the actor alone",
        unit="1",
        lines=tuple(lines),
        notes=tuple(notes),
    )


def _own_learning(study: Study) -> Figure:
    """The dual-price policy before its first step and after its last, where a resource is scarce."""
    lines = {f"{KIT}, before": [], f"{KIT}, after": [], BOUND: []}  # type: dict[str, list[list[float]]]
    places = _scarce_places(study)
    settings, folder = study.settings, study.folder
    for networks in study.networks():
        untrained = experiment.unlearned(networks.seed)
        own = {KIT: (networks.own[0].network_sha256, networks.own[1])}
        accuracies: list[tuple[float, ...]] = []
        for place in places:
            world = study.world.model_copy(update=SCARCE[place])
            before = experiment.evaluate(world, untrained, settings.slots, networks.seed)
            after = experiment.learned_at(world, settings, networks.seed, folder, own).methods[KIT]
            bound = experiment.rules_at(world, settings, networks.seed, folder).bound
            accuracies.append((before.average_accuracy, after.average_accuracy, bound or np.nan))
        for values, line in zip(zip(*accuracies, strict=True), lines.values(), strict=True):
            line.append(list(values))
    steps = study.settings.price_steps
    return Figure(
        figure="fig4-own",
        title=f"What {steps:,} steps train the dual-price policy",
        x_name="scarce",
        x=tuple(places),
        y_name="average accuracy",
        unit="1",
        shown="bars",
        lines=tuple(line_of(name, values) for name, values in lines.items()),
        notes=(
            "One network for all worlds, trained on random ones.",
            f"Its loss, a bound of what a decision can earn there, went from {_mean_of(study, 'loss_begin')} to {_mean_of(study, 'loss')}.",
        ),
    )


def _mean_of(study: Study, key: str) -> str:
    """A mean over the seeds of what the records of the dual-price policy hold."""
    return f"{np.mean([float(str(networks.own[0].recipe[key])) for networks in study.networks()]):.3f}"


def _scarce_places(study: Study) -> list[str]:
    return list(SCARCE)[: 3 if study.settings.quick else None]


# ------------------------------------------------------------------------------------------------------------ figs. 5 to 8


def _sweeps(prefix: str) -> Callable[[Study], Iterator[Figure]]:
    def figures(study: Study) -> Iterator[Figure]:
        for key in (k for k in SWEEPS if k.startswith(prefix)):
            yield _sweep(study, key, "average_accuracy", "average accuracy")
            if prefix == "fig5":
                yield _sweep(study, key, "completion", "tasks completed", "-completion")

    return figures


def _places(study: Study, key: str) -> tuple[float, ...]:
    places = SWEEPS[key][2]
    return tuple(places[i] for i in QUICK_PLACES) if study.settings.quick else places


def _swept(study: Study, key: str) -> list[list[PlacementPoint]]:
    """The points of each place; agents are trained again at the scarcest."""
    name, first = SWEEPS[key][1], SWEEPS[key][2][0]
    points = []
    for x in _places(study, key):
        changes = {name: x} if name != "gateways" else {name: int(x), "devices": study.world.tasks // int(x)}
        points.append(study.at(train=x == first and name != "gateways", **changes))
    return points


def _sweep(study: Study, key: str, what: str, y_name: str, suffix: str = "") -> Figure:
    label, _, _, factor, read = SWEEPS[key]
    places = _swept(study, key)
    lines = list(_lines(places, what))
    if what == "average_accuracy":
        lines.append(line_of(BOUND, np.array([_bounds(points) for points in places]).T))
    return Figure(
        figure=f"{key}{suffix}",
        title=f"{y_name.capitalize()} over the {label}",
        x_name=f"{label} ({read})",
        x=tuple(float(f"{x * factor:.6g}") for x in _places(study, key)),
        y_name=y_name,
        unit="1",
        lines=tuple(lines),
        notes=(SHAPES, _training_note(study)),
    )


def _training_note(study: Study) -> str:
    settings = study.settings
    note = f"Agents were trained at the default world, {TD3} and {DDPG} for {settings.episodes} episodes, and only judged elsewhere"
    return f"{note}; shared networks were also trained again at the scarcest place." if settings.retrain else f"{note}."


def _lines(places: Sequence[Sequence[PlacementPoint]], what: str) -> Iterator[Line]:
    """A line of each method over [place][seed]; None where it was not tried."""
    for method in dict.fromkeys(m for points in places for point in points for m in point.methods):
        each = [
            [getattr(p.methods[method], what) if method in p.methods else np.nan for p in points] for points in places
        ]
        yield line_of(method, np.array(each).T)


def fig7(study: Study) -> Iterator[Figure]:
    """Completed tasks and placed models by node, of the paper's agent, the rounding and the dual-price policy."""
    counts: dict[str, tuple[str, str]] = {
        "": ("tasks of a slot, completed", "completed"),
        "-placed": ("models of a slot, placed again", "placed"),
    }
    for key in ("fig7a", "fig7b"):
        label, _, _, factor, read = SWEEPS[key]
        places = _swept(study, key)
        for suffix, (y_name, what) in counts.items():
            lines = []
            for method in (TD3, SHARED_TD3, ROUNDED, KIT):
                for node, at in (("gateways", f"{what}_at_gateways"), ("edge", f"{what}_at_edge")):
                    values = np.array([[float(getattr(p.methods[method], at)) for p in ps] for ps in places]).T
                    known = {"gateways": 267.0, "edge": 64.0}[node]
                    printed = [known if x == SWEEPS[key][2][-1] else None for x in _places(study, key)]
                    lines.append(
                        line_of(f"{method}: {node}", values, published=printed if method == TD3 and not suffix else ())
                    )
                if not suffix:
                    heavy = np.array([[p.methods[method].completed_variants[-1] for p in ps] for ps in places]).T
                    printed = [256.0 if x == SWEEPS[key][2][-1] else None for x in _places(study, key)]
                    lines.append(line_of(f"{method}: heavy", heavy, published=printed if method == TD3 else ()))
            yield Figure(
                figure=f"{key}{suffix}",
                title=f"{y_name.capitalize()}, over {label}",
                x_name=f"{label} ({read})",
                x=tuple(float(f"{x * factor:.6g}") for x in _places(study, key)),
                y_name=y_name,
                unit="number",
                lines=tuple(lines),
                notes=("The paper's text: at 300 and 200 Mbit/s 267 tasks at the gateways, 4.17 times the edge's, 256 heavy models.",),
            )  # fmt: skip


def fig8(study: Study) -> Iterator[Figure]:
    """Over the number of gateways, 350 devices in all."""
    accuracy = _sweep(study, "fig8", "average_accuracy", "average accuracy")
    notes = (
        "The same 350 devices over more gateways: with 35 at each, more gateways would bring more tasks to the same band and edge.",
        "The paper's curve falls beyond 10 gateways; nothing in its model does: what more gateways take away can stay unused.",
        *accuracy.notes,
    )
    yield accuracy.model_copy(update={"title": "Average accuracy over the number of gateways", "notes": notes})
    places = _swept(study, "fig8")
    lines = []
    for method in (TD3, SHARED_TD3, ROUNDED, KIT):
        for node in ("gateways", "edge"):
            name = f"completed_at_{node}"
            values = np.array([[float(getattr(p.methods[method], name)) for p in ps] for ps in places]).T
            lines.append(line_of(f"{method}: {node}", values))
    changes: dict[str, Any] = {"figure": "fig8-nodes", "title": "Completed tasks by node", "unit": "number"}
    changes |= {"y_name": "tasks of a slot, completed", "lines": tuple(lines), "notes": (SHAPES,)}
    yield accuracy.model_copy(update=changes)


# ------------------------------------------------------------------------------------------------------------------ tables


def default(study: Study) -> Iterator[Figure]:
    """All methods at the default world, and what the paper's text states of it and of the scarce ones."""
    points = study.at()
    methods: dict[str, list[Metrics]] = {name: [p.methods[name] for p in points] for name in points[0].methods}
    methods[f"{UNTRAINED}, paper's sizes"] = [
        experiment.untrained_at(study.world, study.settings, c.seed, study.folder) for c in study.networks()
    ]
    lines = []
    for name, results in methods.items():
        table = [[getattr(r, field) * scale for field, scale in COLUMNS.values()] for r in results]
        lines.append(line_of(name, table))
    rest: list[Value] = [None] * (len(COLUMNS) - 1)
    bounds = _bounds(points)
    spread = len(bounds) > 1
    lines.append(
        Line(
            name=BOUND,
            values=(float(np.mean(bounds)), *rest),
            low=(min(bounds), *rest) if spread else (),
            high=(max(bounds), *rest) if spread else (),
        )
    )
    ratio = np.mean(_seeds(points, KIT)) / np.mean(bounds)
    yield Figure(
        figure="default",
        title="All methods at tables III and IV",
        x_name="a slot's",
        x=tuple(COLUMNS),
        y_name="means over slots",
        unit="number",
        shown="table",
        lines=tuple(lines),
        notes=(
            f"The dual-price policy reaches {100 * ratio:.2f} % of the bound.",
            "Shares are judged as they were asked for (C4, C5); the world scales them down to the budgets.",
            _training_note(study),
        ),
    )
    yield _gains(study)


def _gains(study: Study) -> Figure:
    """TD3 over DDPG and over Random, as printed and with one network for all tasks: ours and the paper's."""
    printed: dict[tuple[str, str], list[Value]] = {
        (TD3, DDPG): [g[2] for g in GAINS.values()],
        (TD3, RANDOM): [g[3] for g in GAINS.values()],
    }
    pairs = {**printed, (SHARED_TD3, SHARED_DDPG): printed[TD3, DDPG], (SHARED_TD3, RANDOM): printed[TD3, RANDOM]}
    pairs |= {(SHARED_DDPG, RANDOM): [], (KIT, RANDOM): []}
    places = [(what, study.at(train=bool(changes), **changes)) for changes, what, _, _ in GAINS.values()]
    lines = []
    for (one, other), known in pairs.items():
        each = [[_over(p, one, other, what) for p in points] for what, points in places]
        lines.append(line_of(f"{one} over {other}", np.array(each).T, published=known))
    return Figure(
        figure="default-gains",
        title="The paper's gains",
        x_name="of",
        x=tuple(GAINS),
        y_name="ratio",
        unit="number",
        shown="table",
        lines=tuple(lines),
        notes=("Agents at the end of training; shared networks trained for that world where they were.",),
    )


def _of(point: PlacementPoint, method: str, what: str) -> float:
    """Of the agent that was trained for this world, where there is one."""
    return float(getattr(point.methods.get(retrained_name(method), point.methods[method]), what))


def _over(point: PlacementPoint, one: str, other: str, what: str) -> float:
    """The ratio of two methods; no number where the other has nothing."""
    below = _of(point, other, what)
    return _of(point, one, what) / below if below > 0 else float("nan")


def shared(study: Study) -> Iterator[Figure]:
    """The fair baseline at the default world: what rules, shared networks and the dual-price policy reach, and by how much one is ahead."""
    points = [
        experiment.at(study.world, study.settings, networks, study.folder) for networks in study.networks(flat=False)
    ]
    random, bounds = _seeds(points, RANDOM), _bounds(points)
    lines = []
    for name in points[0].methods:
        accuracy, completion = _seeds(points, name), [p.methods[name].completion for p in points]
        over = [[a, c, a / r, a / b] for a, c, r, b in zip(accuracy, completion, random, bounds, strict=True)]
        lines.append(line_of(name, over))
    lines.append(line_of(BOUND, [[b, np.nan, b / r, 1.0] for b, r in zip(bounds, random, strict=True)]))
    yield Figure(
        figure="shared",
        title="One network for all tasks, beside rules and the bound",
        x_name="",
        x=("average accuracy", "completed", "over Random", "of the bound"),
        y_name="at tables III and IV",
        unit="number",
        shown="table",
        lines=tuple(lines),
        notes=(
            "Average accuracy and completion are shares of all tasks; the dual-price policy is that of the first seed.",
        ),
    )
    yield _shared_gains(points)


def _shared_gains(points: Sequence[PlacementPoint]) -> Figure:
    pairs: dict[tuple[str, str], tuple[Value, ...]] = {
        (SHARED_TD3, SHARED_DDPG): (1.314, 1.31),
        (SHARED_TD3, RANDOM): (1.745, 1.71),
        (SHARED_DDPG, RANDOM): (),
    }
    whats = ("average_accuracy", "completion")
    lines, notes = [], []
    for (one, other), known in pairs.items():
        ratios = np.array([[_over(p, one, other, what) for what in whats] for p in points])
        lines.append(line_of(f"{one} over {other}", ratios, published=known))
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios[:, 0])
        low, high = _interval(ratios[:, 0])
        notes.append(
            f"{one} over {other}, accuracy, seed by seed: {each}; 95 % interval of the mean {low:.2f} to {high:.2f}."
        )
    return Figure(
        figure="shared-gains",
        title="The paper's gains, one network for all tasks",
        x_name="of",
        x=("average accuracy", "completion"),
        y_name="ratio",
        unit="number",
        shown="table",
        lines=tuple(lines),
        notes=tuple(notes),
    )


def _interval(values: Float64Array) -> tuple[float, float]:
    """Student's 95 % interval for the geometric mean of ratios; without end where one seed says nothing of others."""
    from scipy.stats import t

    logs = np.log(np.maximum(values, 1e-9))
    if len(logs) < 2:
        return 0.0, float("inf")
    half = float(t.ppf(0.975, len(logs) - 1)) * logs.std(ddof=1) / np.sqrt(len(logs))
    return float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))


def scarce(study: Study) -> Iterator[Figure]:
    """All methods where one resource is scarce."""
    places = list(SCARCE)
    points = [study.at(train=True, **SCARCE[place]) for place in places]
    lines = [*_lines(points, "average_accuracy"), line_of(BOUND, np.array([_bounds(p) for p in points]).T)]
    ratio = np.array([[p.methods[KIT].average_accuracy / (p.bound or np.nan) for p in of] for of in points])
    worst = int(ratio.mean(axis=1).argmin())
    yield Figure(
        figure="scarce",
        title="Average accuracy where a resource is scarce",
        x_name="scarce",
        x=tuple(places),
        y_name="average accuracy",
        unit="1",
        shown="table",
        lines=tuple(lines),
        notes=(
            f"The dual-price policy reaches at least {100 * ratio[worst].mean():.1f} % of the bound of any caches ({places[worst]}).",
            _training_note(study),
        ),
    )


def acceptance(points: Points, world: PlacementWorld) -> dict[str, Value]:
    """What is claimed: the paper's gains at the default world, and how near the dual-price policy comes to the bound."""
    values: dict[str, Value] = {}
    if world in points:
        mean = {name: float(np.mean(_seeds(points[world], name))) for name in points[world][0].methods}
        pairs = {
            "td3 over ddpg": (TD3, DDPG),
            "td3 over random": (TD3, RANDOM),
            "shared td3 over ddpg": (SHARED_TD3, SHARED_DDPG),
            "shared td3 over random": (SHARED_TD3, RANDOM),
        }
        values |= {name: mean[one] / mean[other] if mean[other] > 0 else None for name, (one, other) in pairs.items()}
        values["own over bound, default"] = mean[KIT] / float(np.mean(_bounds(points[world])))
    ratios = [np.mean(_seeds(of, KIT)) / np.mean(_bounds(of)) for of in points.values()]
    return values | ({"own over bound, worst world": float(min(ratios))} if ratios else {})


def _seeds(points: Sequence[PlacementPoint], method: str) -> list[float]:
    return [p.methods[method].average_accuracy for p in points]


def _bounds(points: Sequence[PlacementPoint]) -> list[float]:
    return [p.bound if p.bound is not None else float("nan") for p in points]
