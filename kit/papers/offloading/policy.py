"""Which sub-network shares band and server: paper B's policy (eqs. 28 and 29), from what the offloaded tasks look like together.

The paper does not say how many tasks become one input. Here it is what the slot's delay grows with: the mean of each feature's logarithm
over the offloaded tasks, the logarithms of their mean size and workload, and of their number. The output is one number for each (k, l);
the label of eq. 28 is a one at the best of them, eq. 29 the squared distance, and the largest output is chosen.

``labels`` is that. ``costs`` (ours) turns the outputs into probabilities and descends the mean cost under them: sub-networks that are
nearly as good as the best count as nearly as good, where a label is all or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kit.allocators.fileformat import LEAK, Size
from kit.nets.allocator import Allocator
from kit.papers.delays import Delay
from kit.papers.offloading.size import inference_of
from kit.papers.offloading.train import allocation_of
from kit.papers.offloading.world import Allocation, Inference, OffloadingWorld, Tasks, evaluate, features
from kit.papers.streams import generator
from kit.stats import BoolArray, Float64Array, Int64Array

NEURONS = 32  # section V
INPUTS = 8
LEAST = 1e-3  # of a feature, before its logarithm
Loss: TypeAlias = Literal["labels", "costs"]


class Policy(nn.Module):
    """Outputs (samples, sizes) from :func:`summary`; equal seeds give equal weights."""

    def __init__(self, sizes: Sequence[Size], seed: int) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        rng = generator("offloading: weights of a policy", seed)
        shapes = {"w0": (INPUTS, NEURONS), "b0": (NEURONS,), "w1": (NEURONS, len(self.sizes)), "b1": (len(self.sizes),)}
        for name, shape in shapes.items():
            value = rng.uniform(-1.0, 1.0, shape) / (INPUTS if name[-1] == "0" else NEURONS) ** 0.5
            self.register_parameter(name, nn.Parameter(torch.tensor(value, dtype=torch.float32)))

    def forward(self, x: Tensor) -> Tensor:
        """Scores of each size: [samples, sizes]."""
        of = dict(self.named_parameters())
        out: Tensor = functional.leaky_relu(x @ of["w0"] + of["b0"], LEAK) @ of["w1"] + of["b1"]
        return out

    def choose(self, world: OffloadingWorld, tasks: Tasks, offloaded: BoolArray) -> Int64Array:
        """The place in ``sizes`` for each slot: [samples]."""
        with torch.no_grad():
            choice: Int64Array = self(summary(world, tasks, offloaded)).argmax(1).numpy()
        return choice


def summary(world: OffloadingWorld, tasks: Tasks, offloaded: BoolArray) -> Tensor:
    """What a policy sees of the offloaded tasks: (samples, 8)."""
    present = (offloaded & tasks.present)[..., None]
    count = np.maximum(present.sum(axis=1), 1)
    u = np.where(present, features(world, tasks), 1.0)
    mean = np.where(present, u, 0.0).sum(axis=1)[:, :2] / count
    columns = [np.log(np.maximum(u, LEAST)).sum(axis=1) / count, np.log(mean + LEAST), np.log(count / world.users)]
    return torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32))


def costs_of(
    net: Allocator, world: OffloadingWorld, tasks: Tasks, offloaded: BoolArray, sizes: Sequence[Size], delay: Delay
) -> Float64Array:
    """C^edge of eq. 28 in each slot for each size: the mean of eq. 25 over the offloaded tasks, [samples, sizes]."""
    present = offloaded & tasks.present
    table = np.empty((len(present), len(sizes)))
    for at, size in enumerate(sizes):
        outcome = evaluate(
            world, tasks, present, allocation_of(net, world, tasks, present, size), inference_of(world, delay, *size)
        )
        table[:, at] = np.where(present, outcome.cost, 0.0).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    return table


def allocation_by(
    net: Allocator,
    world: OffloadingWorld,
    tasks: Tasks,
    offloaded: BoolArray,
    sizes: Sequence[Size],
    choice: Int64Array,
    delay: Delay,
) -> tuple[Allocation, Inference]:
    """The shares that each slot gets from the sub-network chosen for it, and what deciding them takes."""
    band, server, edge = np.zeros_like(tasks.size_bit), np.zeros_like(tasks.size_bit), np.zeros(len(choice))
    local = inference_of(world, delay, *sizes[0]).local_s
    for at in np.unique(choice):
        rows = np.flatnonzero(choice == at)
        part = allocation_of(net, world, tasks.pick(rows), offloaded[rows], sizes[at])
        band[rows], server[rows] = part.band_hz, part.server_hz
        edge[rows] = inference_of(world, delay, *sizes[at]).edge_s
    return Allocation(band, server), Inference(local_s=local, edge_s=edge)


def loss_of(outputs: Tensor, costs: Tensor, loss: Loss) -> Tensor:
    """Eq. 29 on the labels of eq. 28, or the mean cost above each slot's least, in per cent of it all; ``costs`` (samples, sizes)."""
    least = costs.min(1, keepdim=True).values
    if loss == "labels":
        label = functional.one_hot(costs.argmin(1), costs.shape[1]).to(outputs.dtype)
        return ((label - outputs) ** 2).sum(1).mean()
    return 100.0 * (outputs.softmax(1) * (costs - least)).sum(1).mean() / least.mean()


def fit(
    policy: Policy,
    x: Tensor,
    costs: Float64Array,
    *,
    loss: Loss,
    steps: int,
    seed: int,
    rate: float = 3e-3,
    slots: int = 256,
) -> float:
    """Fit a policy to a table of costs; the last loss. Table II has the rate 1e-4, constant: ours falls as a cosine."""
    optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
    table, value = torch.from_numpy(costs), torch.zeros(())
    for step in range(steps):
        rows = torch.from_numpy(
            generator("offloading: rows that a policy learns", seed, step).integers(len(x), size=min(slots, len(x)))
        )
        optimizer.param_groups[0]["lr"] = rate * (1 + cos(pi * step / steps)) / 2
        optimizer.zero_grad()
        value = loss_of(policy(x[rows]), table[rows], loss)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return float(value.detach())
