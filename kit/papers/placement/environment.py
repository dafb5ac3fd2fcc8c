"""Paper C's world as a Gymnasium environment: one factory, one slot a step. Needs the extra ``playground``.

**Observation** and **action**: Boxes from 0 to 1, float32, flat; ``observation`` has their tables.

**Reward** (eq. 14): average accuracy of all tasks, 0 for those that were not completed, from 0 to 1; zero for the whole slot where any
constraint is violated in a world with ``reward="strict"``.

**Start**: empty caches. The devices' models are drawn once, from ``models_seed``: a factory keeps its models over all episodes.
**End**: truncated after ``slots`` slots (50 in table IV); never terminated. ``info`` holds the slot's metrics as numbers.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from kit.errors import UsageError
from kit.papers.placement.observation import Vector, action_width, actions_of, decision_of, observation_width, observe
from kit.papers.placement.world import (
    MODELS,
    PlacementWorld,
    SlotOutcome,
    Tasks,
    empty,
    metrics,
    sample,
    sample_models,
    step,
)
from kit.papers.streams import generator

__all__ = ["SLOTS", "PlacementEnv", "Vector", "actions_of", "decision_of", "observe"]

SLOTS = 50  # steps of an episode: table IV


class PlacementEnv(gym.Env[Vector, Vector]):
    """See the module's tables. Raises UsageError for a number of slots below one."""

    metadata = {"render_modes": []}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(
        self,
        world: PlacementWorld | None = None,
        *,
        slots: int = SLOTS,
        models_seed: int = 0,
        models_seen: bool = False,
    ) -> None:
        if slots < 1:
            raise UsageError(f"An episode has at least one slot, not {slots}.")
        self.world = PlacementWorld() if world is None else world
        self.slots, self.models_seen, self.slot = slots, models_seen, 0
        self.models = sample_models(self.world, 1, generator(MODELS, models_seed))
        tasks, columns = self.world.tasks, observation_width(self.world, models_seen=models_seen)
        self.observation_space = gym.spaces.Box(0.0, 1.0, (tasks * columns,), np.float32)
        self.action_space = gym.spaces.Box(0.0, 1.0, (tasks * action_width(self.world),), np.float32)
        self.state = empty(self.world, 1)
        self.tasks: Tasks | None = None
        self.outcome: SlotOutcome | None = None  # of the last step: what each task came to

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Vector, dict[str, Any]]:
        """An episode from empty caches; see :class:`gymnasium.Env`."""
        super().reset(seed=seed)
        self.slot, self.state = 0, empty(self.world, 1)
        self.tasks = sample(self.world, 1, self.np_random)
        return observe(self.world, self.models, self.tasks, self.state, models_seen=self.models_seen)[0], {}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """One slot; see :class:`gymnasium.Env`."""
        if self.tasks is None:
            raise UsageError("No episode has begun: call reset first.")
        decision = decision_of(self.world, action[None])
        outcome = step(self.world, self.models, self.tasks, self.state, decision, self.np_random)
        self.slot, self.state, self.outcome = self.slot + 1, outcome.state, outcome
        self.tasks = sample(self.world, 1, self.np_random)
        observation = observe(self.world, self.models, self.tasks, self.state, models_seen=self.models_seen)[0]
        return observation, float(outcome.reward[0]), False, self.slot >= self.slots, _info(outcome)


def _info(outcome: SlotOutcome) -> dict[str, Any]:
    return metrics([outcome]).model_dump()
