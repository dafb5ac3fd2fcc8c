"""Paper B's genetic algorithm, run by PyGAD (the extra ``genetic``): for shares alone (section V.A) or for decisions and shares (V.B).

The paper's settings: six individuals a task, selection by the roulette wheel, uniform crossover at rate 0.2 which halves and mutation
at rate 0.1 which falls to a quarter, every 25 generations (40 where it decides too). Not stated, so ours: 200 generations, the best
individual kept, genes from 0 to 1 (shares, brought to the budgets; a task is offloaded from 0.5 on), fitness 1 / eq. 11a. What it takes to
run is not in that: measure it separately.

PyGAD >= 3.9 has a generator of its own in each run, so numpy's global one stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pygad
from pydantic import Field

from kit.papers.offloading.allocate import shared
from kit.papers.offloading.world import FREE, Allocation, Inference, OffloadingWorld, Tasks, evaluate
from kit.records import Record
from kit.stats import BoolArray, Float64Array


class GeneticSettings(Record):
    """Section V.A of paper B, and what it leaves open."""

    individuals_per_task: int = Field(default=6, ge=1, description="section V.A")
    crossover: float = Field(default=0.2, ge=0, le=1, description="rate at first: section V.A")
    crossover_decay: float = Field(default=0.5, gt=0, le=1, description="at each interval: section V.A")
    mutation: float = Field(default=0.1, ge=0, le=1, description="rate of each gene at first: section V.A")
    mutation_decay: float = Field(default=0.25, gt=0, le=1, description="at each interval: section V.A")
    interval: int | None = Field(
        default=None, ge=1, description="generations: 25 (V.A) or, where it decides too, 40 (V.B)"
    )
    over: Literal["objective", "cost"] = Field(
        default="objective", description="eq. 11a, as in section V.A; or eqs. 24, 25"
    )
    generations: int = Field(default=200, ge=1, description="not stated")
    elites: int = Field(default=1, ge=0, description="best individuals that live on: 'retained', without a number")


@dataclass(frozen=True)
class GeneticSolution:
    """One slot's decision and shares [1, users], the objective or cost summed over the users, and how often a cost was computed."""

    offloaded: BoolArray
    allocation: Allocation
    value: float
    evaluations: int


def search(
    world: OffloadingWorld,
    tasks: Tasks,
    *,
    seed: int,
    offloaded: BoolArray | None = None,
    inference: Inference = FREE,
    settings: GeneticSettings = GeneticSettings(),
) -> GeneticSolution:
    """Search one slot (the first of ``tasks``): shares for tasks that are ``offloaded``, or decisions too where none are named."""
    one = tasks.pick(slice(0, 1))
    users, evaluations = one.size_bit.shape[1], [0]

    def decode(genes: Float64Array) -> tuple[Tasks, BoolArray, Allocation]:
        copies = one.pick(np.zeros(len(genes), dtype=np.int64))
        decision = copies.present & (genes[:, 2 * users :] >= 0.5 if offloaded is None else offloaded[:1])
        return copies, decision, shared(world, decision, genes[:, :users], genes[:, users : 2 * users])

    def values(genes: Float64Array) -> Float64Array:
        copies, decision, allocation = decode(genes)
        outcome = evaluate(world, copies, decision, allocation, inference)
        total: Float64Array = getattr(outcome, settings.over).sum(axis=1)
        return total

    def fitness(_: Any, genes: Any, __: Any) -> list[float]:
        evaluations[0] += len(genes)
        return list(1.0 / (values(np.asarray(genes, float)) + 1e-30))

    count = (3 if offloaded is None else 2) * users
    best = _run(
        fitness, count, settings.individuals_per_task * int(one.present.sum()), seed, offloaded is None, settings
    )
    _, decision, allocation = decode(best[None])
    return GeneticSolution(decision, allocation, float(values(best[None])[0]), evaluations[0])


def _run(fitness: Any, genes: int, individuals: int, seed: int, joint: bool, settings: GeneticSettings) -> Float64Array:
    interval = settings.interval or (40 if joint else 25)

    def decay(ga: Any) -> None:
        if ga.generations_completed % interval == 0:
            ga.crossover_probability *= settings.crossover_decay
            ga.mutation_probability *= settings.mutation_decay

    ga = pygad.GA(
        num_generations=settings.generations,
        num_parents_mating=max(individuals // 2, 2),
        fitness_func=fitness,
        fitness_batch_size=individuals,
        sol_per_pop=individuals,
        num_genes=genes,
        gene_space={"low": 0.0, "high": 1.0},
        init_range_low=0.0,
        init_range_high=1.0,
        parent_selection_type="rws",
        keep_elitism=settings.elites,
        crossover_type="uniform",
        crossover_probability=settings.crossover,
        mutation_type="random",
        mutation_probability=settings.mutation,
        mutation_by_replacement=True,
        on_generation=decay,
        random_seed=seed,
        suppress_warnings=True,
    )
    ga.run()
    solution, _, _ = ga.best_solution(ga.last_generation_fitness)
    return np.asarray(solution, dtype=np.float64)
