"""An agent's observation of a slot, and what its action means: flat arrays in place of tasks, caches and decisions.

**Observation** (eq. 12): Box, float32, flat; a row for each task, in the order of the gateways.

| column | from, to | is | unit |
|---|---|---|---|
| 0 | 0, 1 | size D over the world's largest | 1 (60 kB by default) |
| 1 | 0, 1 | deadline T over the world's longest | 1 (2 s by default) |
| 2 | 0, 1 | noisy data: theta | no, yes |
| 3 to 2 + V | 0, 1 | models in the gateway's cache, lightest first: u^l | no, yes |
| 3 + V to 2 + 2 V | 0, 1 | models in the edge's cache: u^e | no, yes |
| then V, with ``models_seen`` | 0, 1 | accuracy of each variant on this task's data | 1 |
| V more | 0, 1 | model size over the world's largest | 1 (12 MB by default) |
| 2 V more | 0, 1 | cycles of a run at the gateway, at the edge, over the world's most | 1 (30 million by default) |

**Action** (eq. 13): Box from 0 to 1, float32, flat; a row for each task. No unit: shares are parts of a pool.

| column | is | read as |
|---|---|---|
| 0 | m | at its gateway from 0.5 on, else at the edge |
| 1 | phi | the variant: [0, 1] in V equal parts, lightest first |
| 2, 3 | alpha^l, alpha^e | share of the devices' band, of the base station's |
| 4, 5 | beta^l, beta^e | share of the gateway's clock, of the edge's |
| 6 to 5 + V | omega^l | keep the model in the gateway's cache after the slot, from 0.5 on |
| 6 + V to 5 + 2 V | omega^e | the same at the edge |

The world brings the shares into the budgets; a task with a share of exactly 0 of what its node needs is turned away.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kit.papers.placement.world import Decision, Models, PlacementWorld, State, Tasks

Vector: TypeAlias = NDArray[np.float32]


def observation_width(world: PlacementWorld, *, models_seen: bool = False) -> int:
    """Columns of an observation: entries for each task."""
    variants = len(world.variants)
    return 3 + 2 * variants + (4 * variants if models_seen else 0)


def action_width(world: PlacementWorld) -> int:
    """Columns of an action: entries for each task, 10 with two variants (eq. 13)."""
    return 6 + 2 * len(world.variants)


def observe(world: PlacementWorld, models: Models, tasks: Tasks, state: State, *, models_seen: bool = False) -> Vector:
    """An agent's observation of each sample: [samples, tasks * columns], by the module's table."""
    one = [tasks.size_bit / (8.0 * world.size_bytes[1]), tasks.deadline_s / world.deadline_s[1], tasks.noisy]
    parts = [np.stack(one, axis=2), state.gateway, state.edge]
    if models_seen:
        quality = tasks.noisy.astype(np.int64)[:, :, None, None]
        cycles = max(max(v.cycles[1], v.edge_cycles[1] if v.edge_cycles else 0.0) for v in world.variants)
        parts.append(np.take_along_axis(models.accuracy, quality, axis=2)[:, :, 0])
        parts.append(models.size_bytes / max(v.size_bytes[1] for v in world.variants))
        parts.append(models.cycles.reshape(*tasks.size_bit.shape, -1) / cycles)
    observation: Vector = (
        np.concatenate(parts, axis=2).reshape(len(tasks.size_bit), -1).clip(0.0, 1.0).astype(np.float32)
    )
    return observation


def decision_of(world: PlacementWorld, actions: Vector) -> Decision:
    """What actions mean: [samples, tasks * columns], by the module's table. Values beyond 0 and 1 are taken as these."""
    variants = len(world.variants)
    each = np.clip(actions.astype(np.float64), 0.0, 1.0).reshape(len(actions), world.tasks, action_width(world))
    return Decision(
        at_gateway=each[:, :, 0] >= 0.5,
        variant=np.minimum((each[:, :, 1] * variants).astype(np.int64), variants - 1),
        first_share=each[:, :, 2],
        second_share=each[:, :, 3],
        gateway_share=each[:, :, 4],
        edge_share=each[:, :, 5],
        keep_gateway=each[:, :, 6 : 6 + variants] >= 0.5,
        keep_edge=each[:, :, 6 + variants :] >= 0.5,
    )


def actions_of(world: PlacementWorld, decision: Decision) -> Vector:
    """The actions that mean this decision: what an agent can learn from a rule."""
    variant = (decision.variant + 0.5) / len(world.variants)
    shares = [decision.first_share, decision.second_share, decision.gateway_share, decision.edge_share]
    columns = np.stack([decision.at_gateway, variant, *shares], axis=2)
    parts = np.concatenate([columns, decision.keep_gateway, decision.keep_edge], axis=2)
    return parts.reshape(len(variant), -1).astype(np.float32)
