"""How the networks of paper A learn: without labels, on the weighted delay itself (eq. 8), as algorithm 1 says or otherwise.

Three networks: the paper's mixture of experts, its static network (the same experts without a gate), and the per-user network, one
for 5 to 50 users. A step draws frames and the sizes that learn from them. ``random_k`` is algorithm 1: one width for the whole step, all
equally likely. ``sandwich`` shares the frames out among the least size, the whole network and a random one. ``fixed:K`` is one width.

Trained networks rest in a folder as ``.alloc.npz``, named by all that decides them, and are not trained again. Training on a GPU
(``device="cuda"``) is untested on hardware.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from kit import store
from kit.allocators import fileformat
from kit.allocators.fileformat import AllocatorSpec, Feature, Size
from kit.nets import allocator
from kit.nets.allocator import Allocator
from kit.papers import engine, learning
from kit.papers.bandwidth.split import best_band, equal_band
from kit.papers.bandwidth.world import BandwidthWorld, Tasks, reach_hz, sample, weighted_delay_s
from kit.papers.learning import Arrays, StepProgress
from kit.papers.streams import generator
from kit.records import Record
from kit.stats import Float64Array

AllocatorKind = Literal["paper", "static", "per_user"]

WIDTHS = (1, 2, 5, 10, 20, 30)  # table I: where the mixture is evaluated
PER_USER = (Size(4, 1), Size(8, 1), Size(16, 2), Size(32, 3))  # where the per-user network is evaluated
UNITS = 4  # by so many its width grows
USERS = (5, 50)  # that the per-user network serves
FRAMES = 512  # at a time, where a network is evaluated
SHARE_LEAST = 1e-9  # of the band: what is less counts as this, so that a delay stays finite
FORMAT = 2  # raise it when the same recipe would give other weights

#: For the per-user network: what a split depends on is each user's demand and its signal-to-noise ratio under an equal split, whatever the
#: number of users, the band and the power are. ``centre`` and ``spread`` are those of the paper's cell of 30 users.
FEATURES_U = (
    Feature(name="importance", centre=-0.284, spread=0.775),
    Feature(name="size_bit", centre=-0.307),
    Feature(name="equal_split_snr", scale=50.0, centre=1.0, least=1e-6),
)


class Recipe(Record):
    """All that decides a training but the world."""

    network: AllocatorKind = "paper"
    order: str = "random_k"
    steps: int = Field(default=4000, ge=1, description="of the schedule: the rate has fallen to nothing at its end")
    stopped: int | None = Field(default=None, ge=1, description="steps that are done; None: the whole schedule")
    batch: int = Field(default=256, ge=3, description="frames a step")
    rate: float = Field(default=5e-3, gt=0, description="of Adam at its highest; it falls to nothing as a cosine")
    average: float = Field(default=0.99, ge=0, lt=1, description="share that the averaged weights keep at each step")
    seed: int = Field(default=0, ge=0)
    device: str = "cpu"

    @field_validator("order")
    @classmethod
    def _known(cls, order: str) -> str:
        if order in ("random_k", "sandwich") or (order.startswith("fixed:") and order[6:].isdecimal()):
            return order
        raise ValueError(f"order {order!r} is not known: give random_k, sandwich or fixed:K")

    @property
    def steps_done(self) -> int:
        """Steps of the schedule that are done."""
        return self.steps if self.stopped is None else min(self.stopped, self.steps)


class Training(Record):
    """What training a recipe took: with each trained network as ``x.training.json``."""

    kind: Literal["training"] = "training"
    schema_version: Literal[1] = 1
    recipe: Recipe
    world: BandwidthWorld
    train_s: float = Field(description="of the run that finished it: less than all where it was killed before")
    curve: tuple[float, ...] = Field(
        description="weighted delay over that of the equal split, means of equal stretches"
    )


@dataclass(frozen=True)
class TrainedAllocator:
    """A trained network and what its training took."""

    name: str  # with a digest of all that decides it
    net: Allocator
    training: Training


def spec_of(world: BandwidthWorld, network: AllocatorKind) -> AllocatorSpec:
    """The network for this world; the per-user one takes up to 50 users, or the world's where they are more."""
    if network == "per_user":
        return fileformat.per_user(FEATURES_U, users=max(world.users, USERS[1]))
    spec = fileformat.paper_a(world.users, gated=network == "paper")
    return spec.model_copy(update={"experts": world.experts})


def inputs(
    world: BandwidthWorld, spec: AllocatorSpec, tasks: Tasks, device: str = "cpu"
) -> tuple[Tensor, Tensor | None]:
    """(features [samples, users, 3], mask of who is present or None for everyone), as ``spec`` wants them."""
    present = tasks.present
    if spec.form == "per_user":
        equal_hz = world.band_hz / np.maximum(present.sum(axis=1, keepdims=True), 1)
        third = reach_hz(world, tasks) / equal_hz
    else:
        third = tasks.distance_m
    raw = torch.from_numpy(np.stack([tasks.weight, tasks.size_bit, third], axis=1)).to(device)
    mask = None if present.all() else torch.from_numpy(present).to(device)
    return allocator.normalise(spec.features, raw, mask), mask


def mean_delay_s(world: BandwidthWorld, tasks: Tasks, shares: Tensor) -> Tensor:
    """T_tra of eq. 1 for ``shares`` [samples, users] of the band, differentiable: the weighted delay that
    :func:`kit.papers.bandwidth.world.weighted_delay_s` gives, [samples].
    """
    present = tasks.present
    work = torch.from_numpy(tasks.weight * tasks.size_bit * np.log(2.0) / world.band_hz).to(shares)
    reach = torch.from_numpy(reach_hz(world, tasks) / world.band_hz).to(shares)
    share = shares.clamp(min=SHARE_LEAST)
    each = work / (share * torch.log1p(reach / share))
    return each.sum(1) / torch.from_numpy(np.maximum(present.sum(axis=1), 1)).to(shares)


class _Learner:
    """The network, its optimizer and its averaged weights; see :class:`kit.papers.learning.Learner`."""

    def __init__(self, world: BandwidthWorld, recipe: Recipe) -> None:
        self.world, self.recipe = world, recipe
        spec = spec_of(world, recipe.network)
        self.any_number = recipe.network == "per_user"
        if self.any_number:
            self.world = world.model_copy(update={"users": spec.users})
        self.net = allocator.make(spec, recipe.seed).to(recipe.device)
        self.averaged = allocator.make(spec, recipe.seed).to(recipe.device)
        self.adam = torch.optim.Adam(self.net.parameters(), lr=recipe.rate)
        self.sizes = sizes_of(spec, recipe.order)

    def step(self, number: int) -> float:
        recipe = self.recipe
        rng = generator("bandwidth: frames that learn", recipe.seed, number)
        sizes = self._sizes(rng)
        each = max(1, recipe.batch // len(sizes))
        losses = [self._loss(size, each, rng) for size in sizes]
        loss = torch.stack(losses).mean()
        for group in self.adam.param_groups:
            group["lr"] = recipe.rate * 0.5 * (1 + cos(pi * number / recipe.steps))
        self.adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        keep = min(recipe.average, (1 + number) / (10 + number))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.net.parameters()), 1 - keep)
        return float(loss.detach())

    def _sizes(self, rng: np.random.Generator) -> list[Size]:
        drawn = self.sizes[int(rng.integers(len(self.sizes)))]
        return [self.sizes[0], self.sizes[-1], drawn] if self.recipe.order == "sandwich" else [drawn]

    def _loss(self, size: Size, frames: int, rng: np.random.Generator) -> Tensor:
        """The mean weighted delay over that of an equal split, so that it has no unit."""
        world = self.world
        tasks = sample(world, frames, rng)
        if self.any_number:
            present = rng.integers(USERS[0], world.users + 1, (frames, 1))
            tasks = Tasks(
                np.where(np.arange(world.users) < present, tasks.size_bit, 0.0), tasks.weight, tasks.distance_m
            )
        features, mask = inputs(world, self.net.spec, tasks, self.recipe.device)
        shares = self.net(features, size.width, size.depth, mask)[:, 0]
        equal_s = weighted_delay_s(world, tasks, equal_band(world, tasks))
        delays: Tensor = mean_delay_s(world, tasks, shares)
        return delays.mean() / float(equal_s.mean())

    def state(self) -> Arrays:
        return learning.arrays_of({"net": self.net, "averaged": self.averaged}, {"adam": self.adam})

    def restore(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        learning.put_back(state, {"net": self.net, "averaged": self.averaged}, {"adam": self.adam})


def sizes_of(spec: AllocatorSpec, order: str) -> list[Size]:
    """The sizes that are trained, the least first and the whole network last. Raises UsageError for a width that it has not."""
    most = spec.largest
    if spec.form == "per_user":
        return [
            Size(width, depth) for depth in range(1, most.depth + 1) for width in range(UNITS, most.width + 1, UNITS)
        ]
    if order.startswith("fixed:"):
        size = Size(int(order[6:]), most.depth)
        fileformat.check_size(spec, size, spec.users)
        return [size]
    return [Size(k, most.depth) for k in range(1 if spec.gated else most.width, most.width + 1)]


def train(
    world: BandwidthWorld, recipe: Recipe, folder: Path, progress: StepProgress | None = None
) -> TrainedAllocator:
    """The network of ``recipe``, from ``folder`` where it was trained before; a stopped training goes on from its checkpoint.

    Raises UsageError (a size that the network has not, a device that torch does not have), BadModel, StorageError.
    """
    learning.check_device(recipe.device)
    name = _name(world, recipe)

    def learn(checkpoint: Path) -> TrainedAllocator:
        learner = _Learner(world, recipe)
        start_s = time.perf_counter()
        losses = learning.learn(learner, recipe.steps_done, checkpoint=checkpoint, name=name, progress=progress)
        curve = tuple(float(part.mean()) for part in np.array_split(losses, min(100, len(losses))))
        training = Training(recipe=recipe, world=world, train_s=time.perf_counter() - start_s, curve=curve)
        return TrainedAllocator(name, learner.averaged.to("cpu").eval(), training)

    def save(trained: TrainedAllocator, network: Path, record: Path) -> None:
        done, order = f"{recipe.steps_done} of {recipe.steps} steps", recipe.order
        steps = (f"unsupervised, eq. 8 of paper A: {order}, {done} of {recipe.batch} frames",)
        store.write_record(record, trained.training)
        allocator.write(trained.net, network, seed=recipe.seed, steps=steps)

    def load(network: Path, record: Path) -> TrainedAllocator:
        return TrainedAllocator(name, allocator.read(network), store.read_record(record, Training))

    suffixes = (fileformat.SUFFIX, ".training.json")
    return engine.load_or_train(folder, name, suffixes, load=load, train=learn, save=save)


def _name(world: BandwidthWorld, recipe: Recipe) -> str:
    spec = spec_of(world, recipe.network)
    key = {
        "world": world.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
        "spec": spec.model_dump(mode="json"),
        "sizes": sizes_of(spec, recipe.order),
    }
    digest = engine.digest(FORMAT, key)
    return f"{recipe.network}-{store.slug(recipe.order)}-seed{recipe.seed}-{digest[:12]}"


# ------------------------------------------------------------------------------------------------------------------ evaluation


@torch.inference_mode()
def shares_of(world: BandwidthWorld, net: Allocator, tasks: Tasks, size: Size | None = None) -> Float64Array:
    """The shares of the band that ``net`` gives at ``size`` (all of it unless given): [samples, users], each row's sum 1."""
    size = net.spec.largest if size is None else size
    parts = []
    for at in range(0, len(tasks.size_bit), FRAMES):
        features, mask = inputs(world, net.spec, tasks.pick(slice(at, at + FRAMES)))
        parts.append(net(features, size.width, size.depth, mask)[:, 0].double().numpy())
    shares: Float64Array = np.concatenate(parts)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def delay_s(world: BandwidthWorld, net: Allocator, tasks: Tasks, size: Size | None = None) -> float:
    """The mean weighted delay of what ``net`` decides at ``size``."""
    band = shares_of(world, net, tasks, size) * world.band_hz
    return float(weighted_delay_s(world, tasks, band).mean())


def excess(world: BandwidthWorld, net: Allocator, tasks: Tasks, sizes: Sequence[Size]) -> Float64Array:
    """How far each size lies above the true optimum: mean weighted delay over the least one, less 1."""
    least = float(weighted_delay_s(world, tasks, best_band(world, tasks)).mean())
    excesses: Float64Array = np.array([delay_s(world, net, tasks, size) for size in sizes]) / least - 1.0
    return excesses
