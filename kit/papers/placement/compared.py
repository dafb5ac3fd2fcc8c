"""Policies side by side where times are the formula's or measured, or on one trace: who serves how much, where, and with what.

Every column is a share, so one table holds them all. Average accuracy is of all tasks, ``completed`` and what follows are parts of them,
``late`` is a part of the promised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kit.papers.placement.bound import upper_bound
from kit.papers.placement.measured import MeasuredModels, Timed, luckiest, world_of
from kit.papers.placement.trace import Trace, replay
from kit.papers.placement.world import (
    MODELS,
    TASKS,
    Metrics,
    PlacementWorld,
    Policy,
    SlotOutcome,
    metrics,
    run,
    sample,
    sample_models,
)
from kit.papers.results import Figure, Line, line_of
from kit.papers.streams import generator

SHARES = ("average accuracy", "completed", "late", "at gateways", "at the edge", "cache hits")
BOUND = "bound"
TIMES: dict[str, Timed] = {"formula": "formula", "measured": "measured"}


def columns(world: PlacementWorld) -> tuple[str, ...]:
    """The names of a line's values: shares of the tasks, then each variant's."""
    return (*SHARES, *(v.name for v in world.variants))


def shares(run: Metrics, tasks: float) -> list[float]:
    """One run's numbers, in the order of :func:`columns`; ``tasks`` are those of a slot."""
    counts = [run.completed_at_gateways, run.completed_at_edge]
    nodes, variants = (np.array(c) / tasks for c in (counts, run.completed_variants))
    return [run.average_accuracy, run.completion, run.missed, *nodes.tolist(), run.hits, *variants.tolist()]


def lines(
    world: PlacementWorld,
    policies: Mapping[str, Policy],
    *,
    seeds: Sequence[int],
    slots: int = 5,
    trace: Trace | None = None,
    name: str = "",
) -> list[Line]:
    """A line for each policy, and the bound of any state: runs of ``slots`` slots from empty caches, or the trace's slots.

    The bound is computed with the shortest times that were measured: above what any policy can reach by luck.
    """
    shown, after = [], f", {name}" if name else ""
    for label, policy in policies.items():
        outcomes = [_outcomes(world, policy, seed, slots, trace) for seed in seeds]
        runs = [shares(metrics(o), _tasks(o)) for o in outcomes]
        shown.append(line_of(label + after, runs))
    bounds = [[_bound(world, seed, slots, trace)] for seed in seeds]
    only = line_of(BOUND + after, bounds)
    blank = (None,) * (len(columns(world)) - 1)
    padded = {k: (*v, *blank) for k in ("values", "low", "high") if (v := getattr(only, k))}
    return [*shown, only.model_copy(update=padded)]


def _outcomes(
    world: PlacementWorld, policy: Policy, seed: int, slots: int, trace: Trace | None
) -> Sequence[SlotOutcome]:
    if trace is not None:
        return replay(world, trace, policy, seed=seed)
    return run(world, policy, slots=slots, seed=seed)


def _tasks(outcomes: Sequence[SlotOutcome]) -> float:
    return max(1.0, float(np.mean([o.present.sum() for o in outcomes])))


def _bound(world: PlacementWorld, seed: int, slots: int, trace: Trace | None) -> float:
    """Of the slots' average accuracy, each slot's tasks counted."""
    slots_of_tasks = (
        trace.slots if trace is not None else [sample(world, 1, generator(TASKS, seed, slot)) for slot in range(slots)]
    )
    lucky = luckiest(world)
    models = sample_models(lucky, 1, generator(MODELS, seed))
    weights = [float(t.present.sum()) for t in slots_of_tasks]
    values = [float(upper_bound(lucky, models, tasks)[0]) for tasks in slots_of_tasks]
    return float(np.average(values, weights=weights)) if sum(weights) else 0.0


def by_time(
    world: PlacementWorld,
    models: MeasuredModels,
    policies: Mapping[str, Policy],
    *,
    seeds: Sequence[int],
    slots: int = 5,
    trace: Trace | None = None,
) -> Figure:
    """The same measured models twice: run times by the papers' formula, and as they were measured."""
    worlds: dict[str, PlacementWorld] = {name: world_of(world, models, timed) for name, timed in TIMES.items()}
    compared: list[Line] = []
    for name, timed_world in worlds.items():
        compared += lines(timed_world, policies, seeds=seeds, slots=slots, trace=trace, name=name)
    return Figure(
        figure="assignment",
        title="What the measured delay changes in the assignment",
        x_name="",
        x=columns(worlds["measured"]),
        y_name="share",
        unit="1",
        shown="table",
        lines=tuple(compared),
        notes=(*models.notes, *_by_formula(worlds["formula"]), *_changes(compared, list(policies))),
    )


def on_trace(world: PlacementWorld, trace: Trace, policies: Mapping[str, Policy], *, seeds: Sequence[int]) -> Figure:
    """A trace through every policy."""
    slots = len(trace.slots)
    source = trace.header.source or "of unknown origin"
    return Figure(
        figure="trace",
        title="A trace through every policy",
        x_name="",
        x=columns(world),
        y_name="share",
        unit="1",
        shown="table",
        lines=tuple(lines(world, policies, seeds=seeds, trace=trace)),
        notes=(f"{trace.requests} requests in {slots} slots, {trace.requests / slots:.1f} a slot, {source}.",),
    )


def _by_formula(world: PlacementWorld) -> list[str]:
    """What the formula takes a run for, on the whole of a node."""
    return [
        f"By the formula {v.name} takes {v.cycles[0] / world.gateway_hz * 1e3:.3g} ms at a gateway and "
        f"{v.cycles[0] / world.edge_hz * 1e3:.3g} ms at the edge."
        for v in world.variants
    ]


def _changes(compared: Sequence[Line], names: Sequence[str]) -> list[str]:
    """What the time changed for each policy, where it is a hundredth or more of the tasks."""
    values = {line.name: line.values for line in compared}
    sentences = []
    for name in names:
        formula, measured = (values[f"{name}, {time}"] for time in TIMES)
        changes = [
            f"{column} {before:.1%} to {after:.1%}"
            for column, before, after in zip(SHARES[:5], formula, measured, strict=False)
            if before is not None and after is not None and abs(after - before) >= 0.01
        ]
        sentences.append(f"{name}, formula to measured: {', '.join(changes) or 'no share moves by a hundredth'}.")
    return sentences
