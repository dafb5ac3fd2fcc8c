"""Algorithm 1 of paper B: the allocator is fixed, the policy is trained with all tasks offloaded, then scheduler and policy go on together.

An episode draws slots, lets the scheduler offload, the policy choose (k, l) and the allocator share; the rewards of eq. 23 move the
scheduler, and each ``labelled`` episodes (the paper: each) the labels of eq. 28 for what was offloaded move the policy.

How the rewards are read:

- The reward that moves a probability is the average over all tasks (``credit``, eq. 26: R(a) stands before each gradient), so what a task
  takes from the others counts, in C_edge of each of them. ``own`` credits a task with its own R_i alone: tasks then offload until each
  by itself has nothing to gain, which is several per cent to a tenth dearer for all.
- A task's own decision is averaged out instead of drawn (``kit.papers.offloading.reward.expected_rewards``: the same gradient on
  average, less noise), and so is what it does to the others (``kit.papers.offloading.decide.burdens``); the others' decisions are drawn.
- C_edge of a task that stays at home is its cost if it alone joined.
- A task's gradient is divided by the sum of its two costs: the importance has a heavy tail, and undivided rewards of a few tasks drive
  every probability to one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, pi
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from kit.allocators.fileformat import Size
from kit.nets.allocator import Allocator
from kit.papers import learning
from kit.papers.delays import Delay
from kit.papers.learning import Arrays, StepProgress
from kit.papers.offloading.decide import burdens, joined_costs
from kit.papers.offloading.policy import Loss, Policy, allocation_by, costs_of, fit, loss_of, summary
from kit.papers.offloading.reward import Form, expected_rewards, home_costs
from kit.papers.offloading.schedule import Scheduler, expected_reward, inputs_of
from kit.papers.offloading.world import OffloadingWorld, Tasks, evaluate, sample
from kit.papers.streams import generator
from kit.records import Record
from kit.stats import Float64Array

TINY = 1e-300  # of a cost


class JointRecipe(Record):
    """What decides the two networks of Algorithm 1."""

    episodes: int = Field(default=600, ge=1)
    slots: int = Field(default=64, ge=1, description="drawn in an episode")
    rate: float = Field(
        default=5e-2, gt=0, description="of the scheduler, falling as a cosine; table II: 2e-3, constant"
    )
    credit: Literal["overall", "own"] = Field(
        default="overall", description="whose rewards move a task's probability; eq. 26: all tasks'"
    )
    form: Form = "corrected"
    loss: Loss = "labels"
    pretraining: int = Field(default=500, ge=1, description="slots of which the policy first learns the best sizes")
    pretraining_steps: int = Field(default=1500, ge=1)
    labelled: int = Field(default=50, ge=1, description="episodes between two updates of the policy")
    policy_rate: float = Field(default=1e-3, gt=0, description="of the policy in the episodes; table II: 1e-4")
    seed: int = 0


@dataclass(frozen=True)
class JointNetworks:
    """What Algorithm 1 trained: scheduler and policy."""

    scheduler: Scheduler
    policy: Policy
    rewards: NDArray[np.float64]  # of each episode


@dataclass(frozen=True)
class PolicyTrainingSet:
    """Slots with all tasks offloaded, and what each size costs in them: [samples, sizes]."""

    sizes: tuple[Size, ...]
    x: Tensor
    costs: Float64Array

    @classmethod
    def of(
        cls, net: Allocator, world: OffloadingWorld, tasks: Tasks, delay: Delay, sizes: tuple[Size, ...]
    ) -> PolicyTrainingSet:
        """What ``net`` costs at each size in these slots."""
        present = tasks.present
        return cls(sizes, summary(world, tasks, present), costs_of(net, world, tasks, present, sizes, delay))

    def policy(self, recipe: JointRecipe, accepts: Callable[[Size], bool] = lambda size: True) -> Policy:
        """Lines 2 to 6: a policy over some of the sizes that has learned from these."""
        places = [i for i, size in enumerate(self.sizes) if accepts(size)]
        policy = Policy([self.sizes[i] for i in places], recipe.seed)
        costs, steps = self.costs[:, places], recipe.pretraining_steps
        fit(policy, self.x, costs, loss=recipe.loss, steps=steps, seed=recipe.seed)
        return policy


class Episodes:
    """Lines 10 to 17 as a learner."""

    def __init__(
        self,
        net: Allocator,
        world: OffloadingWorld,
        delay: Delay,
        policy: Policy,
        scheduler: Scheduler,
        recipe: JointRecipe,
    ) -> None:
        self.net, self.world, self.delay, self.recipe = net, world, delay, recipe
        self.policy, self.scheduler = policy, scheduler
        self.optimizers = {
            "policy_adam": torch.optim.Adam(policy.parameters(), lr=recipe.policy_rate),
            "scheduler_adam": torch.optim.Adam(scheduler.parameters(), lr=recipe.rate),
        }

    def step(self, number: int) -> float:
        """One episode of lines 7 to 14; returns its mean reward, negated."""
        recipe, world, sizes = self.recipe, self.world, self.policy.sizes
        rng = generator("offloading: slots of an episode", recipe.seed, number)
        tasks = sample(world, recipe.slots, rng)
        probability = self.scheduler(*inputs_of(self.scheduler.kind, world, tasks))
        offloaded = rng.random(tasks.size_bit.shape) < probability.detach().numpy()
        choice = self.policy.choose(world, tasks, offloaded)
        allocation, inference = allocation_by(self.net, world, tasks, offloaded, sizes, choice, self.delay)
        home = home_costs(world, tasks, inference)
        edge = np.where(
            offloaded,
            evaluate(world, tasks, offloaded, allocation, inference).cost,
            joined_costs(world, tasks, offloaded, inference),
        )
        scale = np.maximum(home + edge, TINY)
        reward = expected_reward(probability, _float((home - edge) / scale), recipe.form).mean()
        gain = reward
        if recipe.credit == "overall":
            p = probability.detach().numpy().astype(np.float64)
            each = expected_rewards(p, np.ones_like(p), np.zeros_like(p), form=recipe.form)
            burden = burdens(world, tasks, offloaded, each, inference)
            gain = reward - (_float(burden / scale) * probability).mean()
        share = (1 + cos(pi * number / recipe.episodes)) / 2
        self._up("scheduler_adam", -gain, recipe.rate * share)
        if number % recipe.labelled == 0:
            costs = torch.from_numpy(costs_of(self.net, world, tasks, offloaded, sizes, self.delay)).float()
            has_offloaded = torch.from_numpy(offloaded.any(axis=1))
            outputs = self.policy(summary(world, tasks, offloaded))
            self._up(
                "policy_adam",
                loss_of(outputs[has_offloaded], costs[has_offloaded], recipe.loss),
                recipe.policy_rate * share,
            )
        return -float(reward.detach())

    def _up(self, name: str, loss: Tensor, rate: float) -> None:
        optimizer = self.optimizers[name]
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def state(self) -> Arrays:
        """See :class:`kit.papers.learning.Learner`."""
        return learning.arrays_of({"policy": self.policy, "scheduler": self.scheduler}, self.optimizers)

    def restore(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """See :class:`kit.papers.learning.Learner`."""
        learning.put_back(state, {"policy": self.policy, "scheduler": self.scheduler}, self.optimizers)


def _float(values: Float64Array) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def train_jointly(
    net: Allocator,
    world: OffloadingWorld,
    delay: Delay,
    training_set: PolicyTrainingSet,
    recipe: JointRecipe = JointRecipe(),
    progress: StepProgress | None = None,
) -> JointNetworks:
    """Algorithm 1 for one world and one way of counting the time."""
    policy = training_set.policy(recipe)
    scheduler = Scheduler("paper", recipe.seed)
    losses = learning.learn(
        Episodes(net, world, delay, policy, scheduler, recipe), recipe.episodes, name="joint", progress=progress
    )
    return JointNetworks(scheduler, policy, -losses)
