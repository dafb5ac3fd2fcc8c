"""Who offloads: paper B's scheduler (eqs. 21 to 27), trained by its rewards, and the ranked one, trained on the reference.

``paper``   one hidden layer of 32 neurons from a task's five features and the mean of all (eq. 21: the state is everyone's) to its
            probability, the same network for each user (the paper does not say; this way it serves any number of users). Policy gradient
            on eq. 23, see ``kit.papers.offloading.joint``.
``kit``     ranked: three hidden layers of 32 that see the task and the mean of all; the third sees the mean of those whom the second
            would offload, so it decides knowing how crowded it gets. Its inputs are the parts of the joint cost
            (``kit.papers.offloading.allocate.Prices``) as logarithms of ratios, so one network serves every world, every
            number of users and every computing time. It imitates the reference: each task's mistake weighs what it would add
            to the slot's cost. Of its ranking as many are offloaded as cost least (``kit.papers.offloading.decide.likeliest``):
            the network ranks, sums decide how many.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kit import store
from kit.allocators.fileformat import LEAK
from kit.errors import BadModel
from kit.papers import learning
from kit.papers.learning import Arrays
from kit.papers.offloading.allocate import prices_of
from kit.papers.offloading.decide import flips_and_swaps, likeliest, marginal_costs
from kit.papers.offloading.reward import Form
from kit.papers.offloading.size import SCHEDULER_NEURONS, SchedulerKind
from kit.papers.offloading.world import FREE, Inference, OffloadingWorld, Tasks, features, sample
from kit.papers.streams import generator
from kit.stats import BoolArray, Float64Array

INPUTS = {"paper": 5, "kit": 6}
LEAST = 1e-3  # of a feature, before its logarithm
ROUNDS = 8  # of a batch whose best decisions were searched


class Scheduler(nn.Module):
    """Probabilities of offloading (samples, users) from :func:`inputs_of`; equal seeds give equal weights."""

    def __init__(self, kind: SchedulerKind, seed: int) -> None:
        super().__init__()
        self.kind: SchedulerKind = kind
        rng = generator("offloading: weights of a scheduler", seed)
        width, count = SCHEDULER_NEURONS, INPUTS[kind]
        shapes = {"w0": (count, width), "v0": (count, width), "b0": (width,), "w": (width,), "b": (1,)}
        if kind == "kit":
            square, line = (width, width), (width,)
            shapes |= {"w1": square, "v1": square, "b1": line, "g": line, "c": (1,)}
            shapes |= {"w2": square, "v2": square, "b2": line}
        for name, shape in shapes.items():
            value = rng.uniform(-1.0, 1.0, shape) / (count if name[-1] == "0" else width) ** 0.5
            self.register_parameter(name, nn.Parameter(torch.tensor(value, dtype=torch.float32)))

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """The probability of offloading of each task: [samples, users]."""
        of = dict(self.named_parameters())
        h = functional.leaky_relu(x @ of["w0"] + _mean(x, present) @ of["v0"] + of["b0"], LEAK)
        if self.kind == "kit":
            h = h + functional.leaky_relu(h @ of["w1"] + _mean(h, present) @ of["v1"] + of["b1"], LEAK)
            first = (h @ of["g"] + of["c"]).sigmoid() * present
            h = h + functional.leaky_relu(h @ of["w2"] + _mean(h, present, first) @ of["v2"] + of["b2"], LEAK)
        probability: Tensor = (h @ of["w"] + of["b"]).sigmoid() * present
        return probability


def _mean(h: Tensor, present: Tensor, weight: Tensor | None = None) -> Tensor:
    """Over the present users, once for a slot: (samples, 1, width)."""
    weights = present.to(h.dtype) if weight is None else weight
    mean: Tensor = (h * weights[..., None]).sum(1, keepdim=True) / present.sum(1).clamp(min=1)[:, None, None]
    return mean


def inputs_of(
    kind: SchedulerKind, world: OffloadingWorld, tasks: Tasks, inference: Inference = FREE
) -> tuple[Tensor, Tensor]:
    """A scheduler's inputs, (samples, users, inputs), and which users are present."""
    present = tasks.present
    if kind == "paper":
        x = np.log(np.maximum(features(world, tasks), LEAST)) + 1.0
    else:
        x = _ratios(world, tasks, inference)
    return torch.from_numpy(np.where(present[..., None], x, 0.0).astype(np.float32)), torch.from_numpy(present)


def _ratios(world: OffloadingWorld, tasks: Tasks, inference: Inference) -> Float64Array:
    """Logarithms: local cost over the slot's mean; over it band, server and joining, each as if alone; reach; how many there are."""
    prices, present = prices_of(world, tasks, inference), tasks.present
    local = np.where(present, prices.local, 1.0) + 1e-300
    count = np.maximum(present.sum(axis=1, keepdims=True), 1)
    mean = np.where(present, prices.local, 0.0).sum(axis=1, keepdims=True) / count + 1e-300
    snr = prices.reach_hz / world.band_hz
    alone = prices.band / (world.band_hz * np.log2(1.0 + snr))
    parts = [
        local / mean,
        alone * count / local,
        prices.server * count / world.server_hz / local,
        prices.joining / local,
    ]
    columns = [0.3 * np.log(np.maximum(part, 1e-5)) for part in parts]
    columns += [0.2 * np.log(snr), np.broadcast_to(0.5 * np.log(count / 30.0), local.shape)]
    return np.stack(columns, axis=-1)


def decide(scheduler: Scheduler, world: OffloadingWorld, tasks: Tasks, inference: Inference = FREE) -> BoolArray:
    """Offloaded where paper B's probability is a half or more; by the ranked one, the likeliest tasks, as many as cost least."""
    with torch.no_grad():
        probability: Float64Array = scheduler(*inputs_of(scheduler.kind, world, tasks, inference)).numpy()
    if scheduler.kind == "kit":
        return likeliest(world, tasks, probability, inference)
    offloaded: BoolArray = (probability >= 0.5) & tasks.present
    return offloaded


def expected_reward(probability: Tensor, worth: Tensor, form: Form = "corrected") -> Tensor:
    """The mean of eq. 23 over a task's own decision; ``worth`` is C_loc - C_edge. Corrected: worth * (2p - 1), as printed times p."""
    reward = worth * (2.0 * probability - 1.0)
    return reward * probability if form == "printed" else reward


def write_weights(path: Path, scheduler: Scheduler) -> None:
    """A scheduler as plain arrays (``.npz``). Raises StorageError."""
    buffer = BytesIO()
    np.savez(buffer, **learning.arrays_of({"scheduler": scheduler}, {}))  # type: ignore[arg-type]
    store.write_atomic(path, buffer.getvalue())


def read_weights(path: Path, scheduler: Scheduler) -> None:
    """Undo :func:`write_weights`. Raises BadModel where the file holds no such scheduler, StorageError."""
    with store.explained(path, "read"):
        data = path.read_bytes()
    try:
        with np.load(BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile):
        raise BadModel(f"{path} is no scheduler of kit's: remove it and train again.") from None
    learning.put_back(arrays, {"scheduler": scheduler}, {})


@dataclass(frozen=True)
class Example:
    """What the reference decides in a batch of slots, and what each decision is worth as a share of the slot's cost."""

    x: Tensor
    present: Tensor
    target: Tensor
    worth: Tensor


class Imitation:
    """A learner of the reference's decisions: slots of many worlds, so that one network serves all of them.

    The reference takes ten times as long as a step, so its answers are kept: each batch is learned from in ``VISITS`` rounds.
    """

    def __init__(self, scheduler: Scheduler, steps: int, seed: int, slots: int = 64, rate: float = 1e-2) -> None:
        self.scheduler, self.steps, self.seed, self.slots, self.rate = scheduler, steps, seed, slots, rate
        self.optimizer = torch.optim.Adam(scheduler.parameters(), lr=rate)
        self.examples: dict[int, Example] = {}

    def example(self, number: int) -> Example:
        """Slots of this step and what the reference decides in them."""
        if number not in self.examples:
            rng = generator("offloading: slots that a scheduler imitates", self.seed, number)
            world, inference = drawn(rng)
            tasks = sample(world, self.slots, rng)
            decision, cost = flips_and_swaps(world, tasks, inference)
            worth = np.abs(marginal_costs(world, tasks, decision, inference)) / cost[:, None]
            inputs = inputs_of(self.scheduler.kind, world, tasks, inference)
            target, weight = (torch.from_numpy(a.astype(np.float32)) for a in (decision, worth))
            self.examples[number] = Example(*inputs, target, weight)
        return self.examples[number]

    def step(self, number: int) -> float:
        """One gradient step on the reference's decisions; returns its loss."""
        of = self.example(number % max(self.steps // ROUNDS, 1))
        probability = self.scheduler(of.x, of.present).clamp(1e-6, 1 - 1e-6)
        loss = (functional.binary_cross_entropy(probability, of.target, reduction="none") * of.worth).sum(1).mean()
        self.optimizer.param_groups[0]["lr"] = self.rate * (1 + cos(pi * number / self.steps)) / 2
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach())

    def state(self) -> Arrays:
        """See :class:`kit.papers.learning.Learner`."""
        return learning.arrays_of({"scheduler": self.scheduler}, {"adam": self.optimizer})

    def restore(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """See :class:`kit.papers.learning.Learner`."""
        learning.put_back(state, {"scheduler": self.scheduler}, {"adam": self.optimizer})


def drawn(rng: np.random.Generator) -> tuple[OffloadingWorld, Inference]:
    """A world around the paper's: 5 to 50 users, sizes, workloads, band and server from a quarter to four times, deciding up to 3 ms."""
    quarter_to_four = 4.0 ** rng.uniform(-1.0, 1.0, 4)
    base = OffloadingWorld()
    world = base.model_copy(
        update={
            "users": int(rng.integers(5, 51)),
            "size_mean_bit": base.size_mean_bit * quarter_to_four[0],
            "cycles_per_bit_mean": base.cycles_per_bit_mean * quarter_to_four[1],
            "band_hz": base.band_hz * quarter_to_four[2],
            "server_hz": base.server_hz * quarter_to_four[3],
        }
    )
    return world, Inference(local_s=float(rng.uniform(0, 1e-4)), edge_s=float(10.0 ** rng.uniform(-5.0, -2.5)))
