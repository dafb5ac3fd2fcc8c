"""Paper C's experiment: what every method achieves on the same slots, in one world after another, for each seed.

A seed is a factory (its devices' models) and its slots' tasks. The dual-price policy is trained once for a seed and serves every world.
TD3 and DDPG serve one factory in one world: they are trained at the default one, and, where all tasks share a network, again where a sweep
is scarcest. Networks and points are kept in a folder and not computed twice, under a name that holds all that decides them. Nothing is
trained on the slots that evaluate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

import kit
from kit.papers import engine
from kit.papers.engine import Progress, RunSettings
from kit.papers.learning import StepProgress
from kit.papers.placement import agents, own, prices, trained
from kit.papers.placement.agents import AgentRecipe, TrainedAgent, recipe_of
from kit.papers.placement.bound import rounded, upper_bound
from kit.papers.placement.measured import luckiest
from kit.papers.placement.rules import at_random, equal_shares, greedy, greedy_balanced
from kit.papers.placement.trained import SUFFIX, TrainedPolicy
from kit.papers.placement.world import (
    FORMAT,
    MODELS,
    TASKS,
    Metrics,
    PlacementWorld,
    Policy,
    metrics,
    run,
    sample,
    sample_models,
)
from kit.papers.streams import generator
from kit.records import Record

RANDOM, EQUAL, ROUNDED, BOUND, KIT = "Random", "equal shares", "LP rounding", "bound", "kit's own"
TD3, DDPG, UNTRAINED = "TD3", "DDPG", "untrained actor"
SHARED_TD3, SHARED_DDPG = "TD3, shared", "DDPG, shared"
RULES: dict[str, Policy] = {
    RANDOM: at_random,
    EQUAL: equal_shares,
    "greedy": greedy,
    "greedy, balanced": greedy_balanced,
}
SLOTS, QUICK_SLOTS = 5, 3  # that evaluate
EPISODES, QUICK_EPISODES = 60, 16  # of 50 slots
SHARED_QUICK = 16  # of the shared networks' training; in full as their recipe says
OWN_QUICK = 400  # steps


@dataclass(frozen=True)
class Settings(RunSettings):
    """How much is trained and evaluated. ``retrain``: shared networks are also trained where a sweep is scarcest."""

    slots: int = SLOTS
    episodes: int = EPISODES
    shared_episodes: int | None = None
    retrain: bool = True
    price_steps: int = own.STEPS
    side: str = "small"
    log: bool = field(default=False, kw_only=True)  # TensorBoard's files with the policies

    @classmethod
    def of(
        cls,
        seeds: Sequence[int],
        *,
        quick: bool = False,
        steps: int | None = None,
        device: str = "cpu",
        log: bool = False,
    ) -> Settings:
        """The whole experiment, or what takes under two minutes. ``steps`` are the episodes of the paper's agents."""
        if not quick:
            return cls(tuple(seeds), episodes=steps or EPISODES, device=device, log=log)
        return cls(
            tuple(seeds),
            QUICK_SLOTS,
            steps or QUICK_EPISODES,
            shared_episodes=SHARED_QUICK,
            retrain=False,
            price_steps=OWN_QUICK,
            device=device,
            quick=True,
            log=log,
        )

    def flat(self, seed: int) -> dict[str, AgentRecipe]:
        """The paper's agents: one network observes all tasks and decides for all of them."""
        return {
            TD3: recipe_of(self.side, "td3", seed, episodes=self.episodes),
            DDPG: recipe_of(self.side, "ddpg", seed, episodes=self.episodes),
        }

    def shared(self, seed: int) -> dict[str, AgentRecipe]:
        """The fair baseline: one network for all tasks."""
        return {
            SHARED_TD3: recipe_of("shared", "td3", seed, episodes=self.shared_episodes),
            SHARED_DDPG: recipe_of("shared", "ddpg", seed, episodes=self.shared_episodes),
        }


class PlacementPoint(Record):
    """What some methods achieve on one world's slots for one seed, and the bound of any method."""

    kind: Literal["placement-point"] = "placement-point"
    schema_version: Literal[1] = 1
    methods: dict[str, Metrics]
    bound: float | None = None


@dataclass(frozen=True)
class TrainedNetworks:
    """What was trained for one seed: the dual-price policy, and the agents of the default world."""

    seed: int
    own: tuple[TrainedPolicy, Policy]
    agents: Mapping[str, TrainedAgent] = field(default_factory=dict)


# --------------------------------------------------------------------------------------------------------------- training


def own_of(steps: int, seed: int, folder: Path, progress: StepProgress | None = None) -> tuple[TrainedPolicy, Policy]:
    """The dual-price policy, trained on random worlds now or read from ``folder``.

    Raises as :func:`kit.papers.placement.own.train` does.
    """
    name = f"own-{seed}-{steps}-{engine.digest(FORMAT, own.recipe(steps))[:8]}"

    def train(checkpoint: Path) -> tuple[TrainedPolicy, bytes]:
        start_s = time.process_time()
        learner, losses = own.train(None, seed, steps, checkpoint=checkpoint, progress=progress)
        tenth = max(steps // 10, 1)
        record = TrainedPolicy(
            method="own",
            world=PlacementWorld(),
            models_seed=seed,
            models_seen=True,
            seed=seed,
            steps=steps,
            train_s=time.process_time() - start_s,
            versions={"kit": kit.__version__},
            recipe={"loss_begin": float(np.mean(losses[:tenth])), "loss": float(np.mean(losses[-tenth:]))},
        )
        return record, own.export(learner)

    def save(network: tuple[TrainedPolicy, bytes], path: Path) -> None:
        trained.save(path, *network)

    return engine.load_or_train(folder, name, (SUFFIX,), load=trained.load, train=train, save=save)


def agents_of(
    world: PlacementWorld,
    recipes: Mapping[str, AgentRecipe],
    settings: Settings,
    folder: Path,
    progress: Progress | None = None,
) -> dict[str, TrainedAgent]:
    """The agents of these recipes in this world, trained now or read from ``folder``."""
    report = progress or Progress()
    return {
        name: agents.train(
            world, recipe, folder, progress=report.steps(name, digits=3), device=settings.device, log=settings.log
        )
        for name, recipe in recipes.items()
    }


def retrained_name(name: str) -> str:
    """Of the agent that was trained for one world of a sweep."""
    return f"{name}, trained there"


# ---------------------------------------------------------------------------------------------------------------- evaluation


def evaluate(world: PlacementWorld, policy: Policy, slots: int, seed: int) -> Metrics:
    """A policy on a seed's slots, from empty caches."""
    return metrics(run(world, policy, slots=slots, seed=seed))


def bound_of(world: PlacementWorld, slots: int, seed: int) -> float:
    """What no policy exceeds on a seed's slots, whatever lies in the caches and however lucky measured times are."""
    lucky = luckiest(world)
    models = sample_models(lucky, 1, generator(MODELS, seed))
    bounds = [upper_bound(lucky, models, sample(world, 1, generator(TASKS, seed, slot)))[0] for slot in range(slots)]
    return float(np.mean(bounds))


def rules_at(world: PlacementWorld, settings: Settings, seed: int, folder: Path) -> PlacementPoint:
    """What decides without learning, and the bound."""

    def compute() -> PlacementPoint:
        policies = RULES | {ROUNDED: rounded}
        results = {name: evaluate(world, policy, settings.slots, seed) for name, policy in policies.items()}
        return PlacementPoint(methods=results, bound=bound_of(world, settings.slots, seed))

    return _load_or_compute(folder, compute, world, seed, settings.slots, "rules")


def learned_at(
    world: PlacementWorld, settings: Settings, seed: int, folder: Path, policies: Mapping[str, tuple[str, Policy]]
) -> PlacementPoint:
    """What was trained: name -> (hash of its network, policy)."""

    def compute() -> PlacementPoint:
        results = {name: evaluate(world, policy, settings.slots, seed) for name, (_, policy) in policies.items()}
        return PlacementPoint(methods=results)

    return _load_or_compute(
        folder, compute, world, seed, settings.slots, {name: sha for name, (sha, _) in policies.items()}
    )


def at(
    world: PlacementWorld,
    settings: Settings,
    networks: TrainedNetworks,
    folder: Path,
    *,
    retrained: Mapping[str, TrainedAgent] | None = None,
) -> PlacementPoint:
    """Every method in one world for one seed; ``retrained`` are agents that were trained for it."""
    policies = {KIT: (networks.own[0].network_sha256, networks.own[1])}
    for name, agent in {**networks.agents, **(retrained or {})}.items():
        if agent.record.shared or agent.record.world.tasks == world.tasks:
            policies[name] = (agent.record.network_sha256, agent.policy)
    rules = rules_at(world, settings, networks.seed, folder)
    learned = learned_at(world, settings, networks.seed, folder, policies)
    return PlacementPoint(methods={**rules.methods, **learned.methods}, bound=rules.bound)


def untrained_at(world: PlacementWorld, settings: Settings, seed: int, folder: Path) -> Metrics:
    """An actor of the paper's sizes before its first update."""

    def compute() -> PlacementPoint:
        recipe = recipe_of("paper", "td3", seed).model_copy(update={"critic": (1,)})  # of which nothing is asked
        return PlacementPoint(
            methods={UNTRAINED: evaluate(world, agents.untrained(world, recipe), settings.slots, seed)}
        )

    return _load_or_compute(folder, compute, world, seed, settings.slots, UNTRAINED).methods[UNTRAINED]


def unlearned(seed: int) -> Policy:
    """The dual-price policy before its first step."""
    return prices.policy_of(own.network_of(own.PriceNetwork(seed)))


def _load_or_compute(
    folder: Path, compute: Callable[[], PlacementPoint], world: PlacementWorld, *methods: object
) -> PlacementPoint:
    key = {"world": world.model_dump(mode="json"), "methods": list(methods)}
    return engine.load_or_compute(folder, FORMAT, key, PlacementPoint, compute)
