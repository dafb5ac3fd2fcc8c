"""Paper B's experiment: the networks of each seed, and what every method achieves on the same slots, in one world after another.

The allocators and the ranked scheduler are trained once for a seed: their inputs do not change with the scale of sizes, workloads or
server. Paper B's scheduler and policy see neither: Algorithm 1 is run again in each world. Nothing is trained on slots that evaluate.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from kit.allocators.fileformat import Size
from kit.errors import BadRecord
from kit.nets.allocator import Allocator
from kit.papers import engine, learning
from kit.papers.delays import Analytic, Delay, Measured, delay_of
from kit.papers.engine import Progress, RunSettings
from kit.papers.learning import StepProgress
from kit.papers.offloading.allocate import Goal, best, equal
from kit.papers.offloading.decide import all_local, all_offloaded, at_random, flips_and_swaps, half
from kit.papers.offloading.joint import JointRecipe, PolicyTrainingSet, train_jointly
from kit.papers.offloading.policy import Loss, Policy, allocation_by
from kit.papers.offloading.schedule import Imitation, Scheduler, decide, read_weights, write_weights
from kit.papers.offloading.size import AllocatorKind, allocator_macs, inference_of
from kit.papers.offloading.train import Recipe, TrainedAllocator, allocation_of, sizes_of, train
from kit.papers.offloading.world import FORMAT, FREE, Allocation, Inference, OffloadingWorld, Tasks, evaluate, sample
from kit.papers.streams import generator
from kit.records import Record
from kit.stats import BoolArray, Int64Array

PAPERS = Analytic()
STEPS, STEPS_QUICK = 4000, 600
EVALUATION = "offloading: slots that judge"  # name of the random stream
FAMILIES: dict[AllocatorKind, str] = {
    "paper": "allocator_b",
    "static": "allocator_b_static",
    "per_user": "allocator_u_b",
}
SIZES = sizes_of(Recipe())
LARGEST = SIZES[0]
STATIC, OWN = (
    Size(1, 3),
    Size(8, 3),
)  # of the per-user network's 32 units: 0.05 % more delay for a twelfth of the MACs
SCALED = (
    "delay_s",
    "weighted_delay_s",
    "cost",
    "objective",
    "energy_j",
)  # of few slots, by the limit there and of all
PMRL, KIT = "Policy MoE (RL)", "kit's own"
SLOW = f"{KIT}, deciding as long as the largest network"
#: What stands beside the methods, deciding free. Each limits what its name says, nothing else: lines of another measure may lie below.
OPTIMA: dict[Goal, str] = {
    "weighted_delay": "optimum of the weighted delay",
    "delay": "optimum of the mean delay",
    "cost": "optimum of the joint cost",
}
REFERENCES: dict[Goal, str] = {"cost": "reference of the joint cost", "delay": "reference of the mean delay"}
LIMITS = (*OPTIMA.values(), *REFERENCES.values())

#: Means over the tasks of all slots: delay_s, weighted_delay_s, missed, cost, objective, offloaded; energy_j of a slot; macs; deciding (its
#: share of the delay).
Measures: TypeAlias = dict[str, float]


@dataclass(frozen=True)
class Settings(RunSettings):
    """How much is trained and evaluated. ``genetic`` slots are searched by the genetic algorithm in each world, 0 leaves it out.

    ``device`` trains the allocators; the rest is too small for another.
    """

    steps: int = STEPS  # of the allocator; of the static network the share that takes as long
    imitation_steps: int = 2400  # of the ranked scheduler
    joint: JointRecipe = field(default_factory=JointRecipe)
    slots: int = 500  # that evaluate
    genetic: int = 2

    @classmethod
    def of(
        cls, seeds: Sequence[int], *, quick: bool = False, steps: int | None = None, device: str = "cpu"
    ) -> Settings:
        """The whole experiment, or what takes under two minutes: fewer steps, slots and episodes, and no genetic algorithm."""
        if not quick:
            return cls(tuple(seeds), steps or STEPS, device=device)
        joint = JointRecipe(episodes=200, slots=32, pretraining=100, pretraining_steps=500, labelled=50)
        return cls(tuple(seeds), steps or STEPS_QUICK, 400, joint, slots=100, genetic=0, quick=True, device=device)


@dataclass(frozen=True)
class Delays:
    """What deciding takes, by network; a network that was not measured counts as ``paper``'s largest, and the notes say so."""

    of: Mapping[AllocatorKind, Delay] = field(default_factory=lambda: dict.fromkeys(FAMILIES, PAPERS))
    notes: tuple[str, ...] = ()
    sizes: tuple[Size, ...] = SIZES  # (k, l) whose time is known: a policy chooses among these

    def inference(self, world: OffloadingWorld, network: AllocatorKind, size: Size) -> Inference:
        """What a decision of ``network`` at ``size`` takes, on the server and on a device."""
        delay = self.of[network]
        if network != "paper" and isinstance(delay, Measured) and delay is self.of["paper"]:
            return inference_of(world, delay, *LARGEST)
        return inference_of(world, delay, *size, network=network)


def delays_of(text: str) -> Delays:
    """The delays that ``--delay`` names. Raises as :func:`kit.papers.delays.delay_of` does, BadRecord where a (k, l) was not measured."""
    paper = delay_of(text, FAMILIES["paper"])
    by_network: dict[AllocatorKind, Delay] = {}
    by_network.update(dict.fromkeys(FAMILIES, paper))
    if not isinstance(paper, Measured):
        return Delays(by_network)
    sizes = tuple(s for s in SIZES if f"{s.width},{s.depth}" in paper.sizes)
    if not {LARGEST, SIZES[-1]} <= set(sizes):
        raise BadRecord(
            f"allocator_b was measured at {' '.join(paper.sizes)} only: profile at least its sizes 10,3 and 1,1, or use another delay."
        )
    notes = ["Measured at 30 users: the same times count for every number of tasks."]
    if not {"scheduler", "policy"} & set(paper.sizes):
        notes.append("Scheduler and policy were not measured: they count nothing.")
    others: tuple[tuple[AllocatorKind, Size], ...] = (("static", STATIC), ("per_user", OWN))
    for network, size in others:
        try:
            other = delay_of(text, FAMILIES[network])
            if isinstance(other, Measured) and f"{size.width},{size.depth}" in other.sizes:
                by_network[network] = other
                continue
        except BadRecord:
            pass
        notes.append(f"{FAMILIES[network]} was not measured: it counts as the largest of allocator_b.")
    if len(sizes) < len(SIZES):
        notes.append(f"The policy chooses among the {len(sizes)} sizes (k, l) that were measured.")
    return Delays(by_network, tuple(notes), sizes)


@dataclass(frozen=True)
class TrainedModels:
    """The networks of one seed; they are the same in every world."""

    seed: int
    allocators: Mapping[AllocatorKind, TrainedAllocator]
    scheduler: Scheduler

    def net(self, network: AllocatorKind) -> Allocator:
        """The allocator of this kind."""
        return self.allocators[network].net


class OffloadingPoint(Record):
    """What every method achieves on one world's slots, for one seed: section V.A (all offloaded) and V.B."""

    kind: Literal["offloading_point"] = "offloading_point"
    schema_version: Literal[1] = 1
    all_offloaded: dict[str, Measures]
    joint: dict[str, Measures]
    gaps: dict[str, float]  # decisions alone: joint cost above the reference under the same shares and time


def recipes(settings: Settings, seed: int) -> dict[AllocatorKind, Recipe]:
    """Paper B's networks see the plain features, the per-user network their logarithms."""
    steps = settings.steps
    look_every = 0 if settings.quick else max(steps // 8, 1)
    return {
        "paper": Recipe(inputs="plain", steps=steps, watched=look_every, seed=seed),
        "static": Recipe(network="static", inputs="plain", way="scratch", steps=max(steps * 3 // 8, 1), seed=seed),
        "per_user": Recipe(network="per_user", way="sandwich", steps=steps, seed=seed),
    }


def models_of(
    world: OffloadingWorld, settings: Settings, seed: int, folder: Path | None, progress: Progress | None = None
) -> TrainedModels:
    """Train what ``folder`` does not hold yet. Raises as :func:`kit.papers.offloading.train.train` does."""
    progress = progress or Progress()
    recipe_by_network = recipes(settings, seed)
    share = 1 / (len(recipe_by_network) + 1)
    allocators = {
        network: train(world, recipe, folder, progress.part(i * share, share), settings.device)
        for i, (network, recipe) in enumerate(recipe_by_network.items())
    }
    scheduler = scheduler_of(
        settings.imitation_steps, seed, folder, progress.part(1 - share, share).steps("ranked scheduler")
    )
    return TrainedModels(seed, allocators, scheduler)


def scheduler_of(steps: int, seed: int, folder: Path | None = None, progress: StepProgress | None = None) -> Scheduler:
    """The ranked scheduler, trained to imitate the reference; kept in ``folder`` as plain arrays."""
    imitation = Imitation(Scheduler("kit", seed), steps, seed)
    key = {"steps": steps, "seed": seed, "slots": imitation.slots, "rate": imitation.rate}
    name = f"scheduler-kit-{steps}-{seed}-{engine.digest(FORMAT, key)[:12]}"

    def imitate(checkpoint: Path) -> Scheduler:
        learning.learn(imitation, steps, checkpoint=checkpoint, name=name, progress=progress)
        return imitation.scheduler

    def load(path: Path) -> Scheduler:
        scheduler = Scheduler("kit", seed)
        read_weights(path, scheduler)
        return scheduler

    def save(scheduler: Scheduler, path: Path) -> None:
        write_weights(path, scheduler)

    return engine.load_or_train(folder, name, (".npz",), load=load, train=imitate, save=save)


def measures(
    world: OffloadingWorld,
    tasks: Tasks,
    offloaded: BoolArray,
    allocation: Allocation,
    inference: Inference,
    macs: float = 0.0,
) -> Measures:
    """Means over all tasks; the energy is a slot's sum."""
    outcome = evaluate(world, tasks, offloaded, allocation, inference)
    count = outcome.present.sum()
    names = ("delay_s", "weighted_delay_s", "missed", "cost", "objective")
    means = {name: float(getattr(outcome, name).sum() / count) for name in names}
    means["offloaded"] = float((offloaded & outcome.present).sum() / count)
    means["energy_j"] = float(outcome.energy_j.sum() / len(outcome.present))
    deciding = np.where(offloaded, np.reshape(inference.edge_s, (-1, 1)), np.reshape(inference.local_s, (-1, 1)))
    means["deciding"] = float((deciding * outcome.present).sum() / max(outcome.delay_s.sum(), 1e-300))
    return means | {"macs": macs}


class Bench:
    """One world, one seed: the slots that evaluate, the policies that were trained for it, and the methods."""

    def __init__(self, world: OffloadingWorld, models: TrainedModels, delays: Delays, settings: Settings) -> None:
        self.world, self.models, self.delays, self.settings = world, models, delays, settings
        self.recipe = settings.joint.model_copy(update={"seed": models.seed})
        self.tasks = sample(world, settings.slots, generator(EVALUATION, 0))
        slots = sample(world, self.recipe.pretraining, generator("offloading: slots that teach a policy", models.seed))
        self.training_set = PolicyTrainingSet.of(models.net("paper"), world, slots, delays.of["paper"], delays.sizes)
        self.best_fixed = delays.sizes[int(self.training_set.costs.mean(axis=0).argmin())]

    def with_policy(self, policy: Policy, offloaded: BoolArray) -> Measures:
        """The measures where ``policy`` chooses the size in every slot."""
        chosen = policy.choose(self.world, self.tasks, offloaded)
        delay, net = self.delays.of["paper"], self.models.net("paper")
        allocation, inference = allocation_by(net, self.world, self.tasks, offloaded, policy.sizes, chosen, delay)
        return measures(self.world, self.tasks, offloaded, allocation, inference, self._macs(policy.sizes, chosen))

    def _macs(self, sizes: Sequence[Size], chosen: Int64Array) -> float:
        each = np.array([allocator_macs("paper", size, self.world.users) for size in sizes])
        return float(each[chosen].mean())

    def fixed(self, network: AllocatorKind, size: Size, offloaded: BoolArray) -> Measures:
        """The measures of one size in every slot."""
        allocation = allocation_of(self.models.net(network), self.world, self.tasks, offloaded, size)
        inference = self.delays.inference(self.world, network, size)
        macs = allocator_macs(network, size, self.world.users)
        return measures(self.world, self.tasks, offloaded, allocation, inference, macs)

    def sized(self, policies: Mapping[str, Policy], offloaded: BoolArray, suffix: str = "") -> dict[str, Measures]:
        """The paper's ways to choose a size, for tasks that are offloaded."""
        measured = {f"{name}{suffix}": self.with_policy(policy, offloaded) for name, policy in policies.items()}
        measured[f"Fix MoE{suffix}"] = self.fixed("paper", LARGEST, offloaded)
        measured[f"best fixed MoE{suffix}"] = self.fixed("paper", self.best_fixed, offloaded)
        measured[f"Static model{suffix}"] = self.fixed("static", STATIC, offloaded)
        return measured

    def all_offloaded(self, policies: Mapping[str, Policy]) -> dict[str, Measures]:
        """Section V.A: users without computing power."""
        world, tasks = self.world, self.tasks
        everyone = all_offloaded(tasks)
        measured = self.sized(policies, everyone)
        measured[KIT] = self.fixed("per_user", OWN, everyone)
        measured["equal split"] = measures(world, tasks, everyone, equal(world, tasks, everyone), FREE, 0.0)
        for goal, name in OPTIMA.items():
            measured[name] = measures(world, tasks, everyone, best(world, tasks, everyone, over=goal), FREE, 0.0)
        return measured | self.genetic(everyone, measured[OPTIMA["cost"]])

    def joint(self, policies: Mapping[str, Policy]) -> tuple[dict[str, Measures], dict[str, float]]:
        """Section V.B: users with computing power; and how far the decisions alone are from the reference."""
        world, tasks, models = self.world, self.tasks, self.models
        trained = train_jointly(models.net("paper"), world, self.delays.of["paper"], self.training_set, self.recipe)
        smallest, largest = (self.delays.inference(world, "paper", size) for size in (SIZES[-1], LARGEST))
        learned = decide(trained.scheduler, world, tasks, smallest)
        ranked = decide(models.scheduler, world, tasks, self.delays.inference(world, "per_user", OWN))
        rng = generator("offloading: decisions by chance", 0)
        measured = {PMRL: self.with_policy(trained.policy, learned), KIT: self.fixed("per_user", OWN, ranked)}
        rest = {name: policy for name, policy in policies.items() if name != "Policy MoE"}
        measured |= self.sized(rest, learned, " (RL)")
        plain = {
            "Policy MoE (random)": at_random(tasks, rng),
            "Policy MoE (half)": half(tasks, rng),
            "Policy MoE (all offloaded)": all_offloaded(tasks),
        }
        measured |= {name: self.with_policy(trained.policy, offloaded) for name, offloaded in plain.items()}
        nobody = all_local(tasks)
        measured["Local execution"] = measures(world, tasks, nobody, best(world, tasks, nobody), FREE, 0.0)
        for goal, name in REFERENCES.items():
            reference, _ = flips_and_swaps(world, tasks, over=goal)
            shares = best(world, tasks, reference, over=goal)
            measured[name] = measures(world, tasks, reference, shares, FREE, 0.0)
        gaps = self.gaps({PMRL: learned, KIT: ranked, "all offloaded": all_offloaded(tasks)}, smallest)
        gaps |= self.gaps({SLOW: decide(models.scheduler, world, tasks, largest)}, largest)
        return measured | self.genetic(None, measured[REFERENCES["cost"]]), gaps

    def gaps(self, decisions: Mapping[str, BoolArray], inference: Inference) -> dict[str, float]:
        """Joint cost of decisions over the flips-and-swaps reference, less one: the same best shares, the same time for all."""
        world, tasks = self.world, self.tasks
        _, least = flips_and_swaps(world, tasks, inference)
        costs = {
            name: evaluate(world, tasks, offloaded, best(world, tasks, offloaded), inference).cost.sum()
            for name, offloaded in decisions.items()
        }
        return {name: float(cost / least.sum() - 1.0) for name, cost in costs.items()}

    def genetic(self, offloaded: BoolArray | None, limit: Measures) -> dict[str, Measures]:
        """The genetic algorithm on the first few slots, its wall time counted and not.

        Costs and delays stand as ratios to those of the least joint cost there.
        """
        if not self.settings.genetic or self.models.seed != self.settings.seeds[0]:
            return {}
        try:
            from kit.papers.offloading.genetic import search
        except ImportError:
            return {}
        few = self.tasks.pick(slice(0, self.settings.genetic))
        solutions, search_s = [], []
        for row in range(len(few.size_bit)):
            start_s = time.perf_counter()
            decided = None if offloaded is None else offloaded[row : row + 1]
            solutions.append(search(self.world, few.pick(slice(row, row + 1)), seed=row, offloaded=decided))
            search_s.append(time.perf_counter() - start_s)
        chosen = np.concatenate([solution.offloaded for solution in solutions])
        shares = Allocation(
            *(np.concatenate([getattr(s.allocation, name) for s in solutions]) for name in ("band_hz", "server_hz"))
        )
        decisions = few.present if offloaded is not None else flips_and_swaps(self.world, few)[0]
        reference = measures(self.world, few, decisions, best(self.world, few, decisions), FREE)
        measured = {}
        for name, inference in (("GA", Inference(np.array(search_s), np.array(search_s))), ("GA, its time free", FREE)):
            means = measures(self.world, few, chosen, shares, inference)
            measured[name] = means | {
                measure: means[measure] / reference[measure] * limit[measure]
                for measure in SCALED
                if reference[measure] > 0
            }
        return measured


def point_of(
    world: OffloadingWorld,
    models: TrainedModels,
    delays: Delays,
    settings: Settings,
    folder: Path | None = None,
    *,
    joint: bool = True,
) -> OffloadingPoint:
    """Every method in one world, or what ``folder`` keeps of it; ``joint`` False leaves section V.B out. Raises StorageError."""
    key = _key(world, models, delays, settings, joint)
    return engine.load_or_compute(
        folder, FORMAT, key, OffloadingPoint, lambda: _compute(world, models, delays, settings, joint)
    )


def _compute(
    world: OffloadingWorld, models: TrainedModels, delays: Delays, settings: Settings, joint: bool
) -> OffloadingPoint:
    bench = Bench(world, models, delays, settings)
    policies = {
        "Policy MoE": bench.training_set.policy(bench.recipe),
        "Fix width MoE": bench.training_set.policy(bench.recipe, lambda size: size.width == LARGEST.width),
        "Fix depth MoE": bench.training_set.policy(bench.recipe, lambda size: size.depth == LARGEST.depth),
    }
    measured, gaps = bench.joint(policies) if joint else ({}, {})
    return OffloadingPoint(all_offloaded=bench.all_offloaded(policies), joint=measured, gaps=gaps)


def policies_on_mixed(
    world: OffloadingWorld, models: TrainedModels, delays: Delays, settings: Settings
) -> dict[str, float]:
    """Policies and fixed sizes where the average size differs from slot to slot, over the best fixed size.

    What counts is C^edge (eq. 28) over each slot's least, else the slots of large tasks would be all that counts.
    """

    def training_set_of(tasks: Tasks) -> PolicyTrainingSet:
        slots = PolicyTrainingSet.of(models.net("paper"), world, tasks, delays.of["paper"], delays.sizes)
        return replace(slots, costs=slots.costs / slots.costs.min(axis=1, keepdims=True))

    training_set = training_set_of(
        mixed(
            world, 2 * settings.joint.pretraining, generator("offloading: mixed slots that teach a policy", models.seed)
        )
    )
    test = training_set_of(mixed(world, settings.slots, generator("offloading: mixed slots that judge", 0)))
    means = test.costs.mean(axis=0)
    fixed = float(means[training_set.costs.mean(axis=0).argmin()])
    costs = {"largest": float(means[0]), "smallest": float(means[-1])}
    losses: dict[str, Loss] = {"policy of eq. 29": "labels", "policy taught by costs": "costs"}
    for name, loss in losses.items():
        policy = training_set.policy(settings.joint.model_copy(update={"seed": models.seed, "loss": loss}))
        chosen = policy(test.x).argmax(1).numpy()
        costs[name] = float(test.costs[np.arange(len(chosen)), chosen].mean())
    return {name: cost / fixed for name, cost in (costs | {"best of each slot": 1.0}).items()}


def mixed(world: OffloadingWorld, samples: int, rng: np.random.Generator) -> Tasks:
    """Slots whose average sizes differ: from an eighth of the world's to sixteen times, each factor of two as often."""
    tasks = sample(world, samples, rng)
    return replace(tasks, size_bit=tasks.size_bit * 2.0 ** rng.uniform(-3.0, 4.0, (samples, 1)))


def _key(
    world: OffloadingWorld, models: TrainedModels, delays: Delays, settings: Settings, joint: bool
) -> dict[str, Any]:
    """Of all that decides a point but the other seeds."""
    return {
        "world": world.model_dump(mode="json"),
        "recipes": [t.report.recipe.model_dump(mode="json") for t in models.allocators.values()],
        "joint": settings.joint.model_dump(mode="json"),
        "counts": [
            settings.imitation_steps,
            settings.slots,
            settings.genetic * (models.seed == settings.seeds[0]),
            int(joint),
        ],
        "sizes": [list(OWN), list(STATIC), [list(size) for size in delays.sizes]],
        "delays": {name: None if d is None else d.model_dump(mode="json") for name, d in delays.of.items()},
    }
