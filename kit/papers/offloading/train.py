"""Paper B's allocator learns: the weighted delay of eqs. 18 to 20 is its loss, so no labels; band and server are trained in turn.

Each step draws slots, does one optimiser step on the weighted sending delay, then one on the weighted server delay, on the same input. Each
head has an optimiser of its own (Adam): what the other head's column of ``output_weight`` remembers is never touched. Three ways to train
all sub-networks (k experts, l layers):

``shrinking``  eq. 30 ff., section IV.B: the largest alone; then every width at full depth; then every width and depth, one drawn a step.
``sandwich``   jointly from the first step: the largest, the smallest and one drawn between them, their gradients added.
``scratch``    each sub-network by itself, with weights of its own.

The importance (eq. 19) has a heavy tail, so each slot's delay is divided by its own optimum (``kit.papers.channel.best_split`` and the root
rule): a loss of 1.01 is one per cent above it. The input is the logarithm of the features, so that the product in eq. 19 is a sum.

Training on a GPU (``device="cuda"``) is untested on hardware.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from kit import store
from kit.allocators import fileformat
from kit.allocators.fileformat import AllocatorSpec, Feature, Size
from kit.nets import allocator
from kit.nets.allocator import Allocator
from kit.papers import engine, learning
from kit.papers.channel import best_split, root_split, sending_s
from kit.papers.engine import Progress
from kit.papers.learning import Arrays
from kit.papers.offloading.allocate import shared
from kit.papers.offloading.size import AllocatorKind
from kit.papers.offloading.world import FORMAT, Allocation, OffloadingWorld, Tasks, importance, reach_hz, sample
from kit.papers.streams import generator
from kit.records import Record
from kit.stats import BoolArray, Float64Array

Way: TypeAlias = Literal["shrinking", "scratch", "sandwich"]
Inputs: TypeAlias = Literal["log", "plain"]
USERS_MAX = 50  # of the networks that are trained: figures 5(c) to 9(c) go up to it
USERS_LEAST = 5
TINY = 1e-12  # of a share: below it a rate is no number any more
ROWS = 512  # slots in one call of a network
EVALUATION = "offloading: slots that judge an allocator"  # name of the random stream
#: The features without logarithms, each less its mean over its deviation.
PLAIN = tuple(
    Feature(name=f.name, scale=f.scale, log=False, centre=centre, spread=centre / 3**0.5)
    for f, centre in zip(fileformat.FEATURES_B, (1.0, 1.0, 0.5, 0.5, 0.5), strict=True)
)


class Recipe(Record):
    """All that decides a trained allocator. ``only`` trains one sub-network alone (``scratch``) or these (the other ways)."""

    network: AllocatorKind = "paper"
    inputs: Inputs = Field(default="log", description="eq. 7: not stated; the logarithm makes eq. 19 a sum")
    way: Way = "shrinking"
    only: tuple[tuple[int, int], ...] = Field(default=(), description="sizes (k, l); all where none are named")
    steps: int = Field(default=4000, ge=1, description="on the same input both heads do one each")
    first: float = Field(default=0.25, ge=0, le=1, description="shrinking: share of the steps for the largest alone")
    widths: float = Field(default=0.15, ge=0, le=1, description="shrinking: share for every width at full depth")
    tasks: int = Field(default=1920, ge=1, description="in a batch: 64 slots of 30 users")
    rate: float = Field(
        default=3e-3, gt=0, description="of Adam, falling to zero as a cosine (again in each phase); table II: 1e-3"
    )
    seed: int = 0
    watched: int = Field(default=0, ge=0, description="steps between looks at the quality; 0 looks never")

    @property
    def name(self) -> str:
        """Network, way, size where it is one, and a digest of the whole recipe."""
        sizes = "" if len(self.only) != 1 else f"-{self.only[0][0]},{self.only[0][1]}"
        return f"{self.network}-{self.way}{sizes}-{store.sha256_bytes(store.canonical_json(self))[:12]}"


class QualityLook(Record):
    """The quality at one time of the training: weighted delay over its optimum, less one, for each size that is trained."""

    step: int
    seconds: float  # of one core, for training alone
    excess: tuple[float, ...]


class TrainingReport(Record):
    """What a training took, kept beside its network."""

    kind: Literal["allocator_training"] = "allocator_training"
    schema_version: Literal[1] = 1
    recipe: Recipe
    seconds: float
    final_loss: float
    looks: tuple[QualityLook, ...] = ()


@dataclass(frozen=True)
class TrainedAllocator:
    """A trained allocator and what its training took."""

    net: Allocator
    report: TrainingReport


def spec_of(network: AllocatorKind, inputs: Inputs = "log") -> AllocatorSpec:
    """The network of this kind for these inputs."""
    features = fileformat.FEATURES_B if inputs == "log" else PLAIN
    if network == "per_user":
        return fileformat.per_user(features, fileformat.BOTH, users=USERS_MAX)
    spec = fileformat.paper_b(USERS_MAX) if network == "paper" else fileformat.static_b(USERS_MAX)
    return spec.model_copy(update={"features": features})


def sizes_of(recipe: Recipe) -> tuple[Size, ...]:
    """The sub-networks that are trained, the largest first."""
    spec = spec_of(recipe.network)
    if recipe.only:
        return tuple(Size(*size) for size in sorted(recipe.only, key=lambda s: (-s[1], -s[0])))
    if recipe.network == "static":
        return (spec.largest,)
    width, depth = spec.largest
    widths = range(width, 0, -1) if recipe.network == "paper" else (32, 24, 16, 8, 4)
    return tuple(Size(k, layers) for layers in range(depth, 0, -1) for k in widths)


def inputs_of(spec: AllocatorSpec, tasks: Tasks, offloaded: BoolArray) -> tuple[Tensor, Tensor]:
    """Features (samples, users, features) and the mask of offloaded tasks: the others are absent for an allocator."""
    raw = [tasks.size_bit, tasks.cycles_per_bit, tasks.deadline_s, tasks.distance_m, tasks.local_hz]
    mask = torch.from_numpy(offloaded & tasks.present)
    return allocator.normalise(spec.features, torch.from_numpy(np.stack(raw, axis=1)), mask), mask


def allocation_of(
    net: Allocator, world: OffloadingWorld, tasks: Tasks, offloaded: BoolArray, size: Size | None = None
) -> Allocation:
    """What a network (a sub-network of it) gives each offloaded task."""
    size = size or net.spec.largest
    parts = []
    with torch.no_grad():
        for first in range(0, len(offloaded), ROWS):
            rows = slice(first, first + ROWS)
            features, mask = inputs_of(net.spec, tasks.pick(rows), offloaded[rows])
            parts.append(torch.nan_to_num(net.eval()(features, size.width, size.depth, mask)).double().numpy())
    shares = np.concatenate(parts)
    return shared(world, offloaded, shares[:, 0], shares[:, 1])


def delays(world: OffloadingWorld, tasks: Tasks, offloaded: BoolArray, shares: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted delays of sending and of computing, each slot's sum over its optimum: (samples,) twice, 1 at best.

    ``shares`` (samples, 2, users): of band and server, each adding up to one over the offloaded tasks.
    """
    work = Workload.of(world, tasks, offloaded)
    return work.sending(shares[:, 0]), work.computing(shares[:, 1])


@dataclass(frozen=True)
class Workload:
    """The weights of a batch's delays, over its optima: what the two losses need of the world."""

    band: Tensor  # w * s / band over the optimum, in 1 / (bit/s/Hz)
    reach: Tensor  # signal-to-noise ratio in the whole band
    server: Tensor  # w * c * s / server clock over the optimum
    present: Tensor

    @classmethod
    def of(cls, world: OffloadingWorld, tasks: Tasks, offloaded: BoolArray, device: str = "cpu") -> Workload:
        """Of a batch whose ``offloaded`` tasks share band and server."""
        present = offloaded & tasks.present
        weight = np.where(present, importance(world, tasks), 0.0)
        demand, cycles, reach = weight * tasks.size_bit, weight * tasks.cycles, reach_hz(world, tasks)
        sending = sending_s(demand, best_split(demand, reach, world.band_hz), reach).sum(axis=1, keepdims=True)
        roots = np.sqrt(cycles).sum(axis=1, keepdims=True) ** 2
        demand, cycles = (
            a / np.where(a_least > 0, a_least, 1.0) for a, a_least in ((demand, sending), (cycles, roots))
        )
        band, snr, server = (
            torch.from_numpy(np.asarray(a, np.float32)).to(device)
            for a in (demand / world.band_hz, reach / world.band_hz, cycles)
        )
        return cls(band, snr, server, torch.from_numpy(present).to(device))

    def sending(self, share: Tensor) -> Tensor:
        """Eq. 1 for shares of the band (eq. 18), weighted and over the optimum: (samples,)."""
        share = share.clamp(min=TINY)
        return (self.band / (share * torch.log2(1.0 + self.reach / share))).where(self.present, 0.0).sum(1)

    def computing(self, share: Tensor) -> Tensor:
        """Eq. 2 for shares of the server (eq. 20), weighted and over the optimum: (samples,)."""
        return (self.server / share.clamp(min=TINY)).where(self.present, 0.0).sum(1)


def batch(world: OffloadingWorld, tasks: int, rng: np.random.Generator, step: int) -> tuple[Tasks, BoolArray]:
    """Slots to learn from: of the world's users or (each second step) of 5 to 50; half of them offload all, half a random share."""
    users = world.users if step % 2 == 0 else int(rng.integers(USERS_LEAST, USERS_MAX + 1))
    slots = sample(world.model_copy(update={"users": users}), max(tasks // users, 1), rng)
    share = np.where(rng.random(len(slots.size_bit)) < 0.5, 1.0, rng.random(len(slots.size_bit)))
    offloaded = rng.random(slots.size_bit.shape) < share[:, None]
    offloaded[np.arange(len(offloaded)), rng.integers(users, size=len(offloaded))] = True
    return slots, offloaded & slots.present


class AllocatorLearner:
    """A learner for :func:`kit.papers.learning.learn`: one batch a step, both heads in turn, the sizes as the recipe's way says."""

    def __init__(self, world: OffloadingWorld, recipe: Recipe, net: Allocator, device: str = "cpu") -> None:
        self.world, self.recipe, self.net, self.sizes = world, recipe, net.to(device), sizes_of(recipe)
        self.device = device
        self.seconds, self.looks = 0.0, list[QualityLook]()
        self.heads = [torch.optim.Adam(net.parameters(), lr=recipe.rate) for _ in net.spec.outputs]

    def step(self, number: int) -> float:
        """One batch, each head once; returns the mean loss."""
        start_s = time.process_time()
        recipe = self.recipe
        rng = generator("offloading: slots that learn", recipe.seed, number)
        tasks, offloaded = batch(self.world, recipe.tasks, rng, number)
        features = inputs_of(self.net.spec, tasks, offloaded)[0].to(self.device)
        work = Workload.of(self.world, tasks, offloaded, self.device)
        pool, share = phase(recipe, self.sizes, number)
        sizes = drawn(recipe, pool, rng)
        self.net.train()
        loss = 0.0
        for head, optimizer in enumerate(self.heads):
            optimizer.param_groups[0]["lr"] = recipe.rate * (1 + cos(pi * share)) / 2
            optimizer.zero_grad()
            for size in sizes:
                loss += self._descend(features, work, size, head, (recipe.seed, number)) / len(sizes)
            optimizer.step()
        self.seconds += time.process_time() - start_s
        if recipe.watched and ((number + 1) % recipe.watched == 0 or number + 1 == recipe.steps):
            excess = excesses(self.net, self.world, self.sizes, device=self.device)
            self.looks.append(QualityLook(step=number + 1, seconds=self.seconds, excess=excess))
        return loss / len(self.heads)

    def _descend(self, features: Tensor, work: Workload, size: Size, head: int, place: tuple[int, int]) -> float:
        drawn_seed = int(generator("offloading: noise of the gate", *place).integers(2**31))
        noise = torch.Generator(self.device).manual_seed(drawn_seed)
        shares = self.net(features, size.width, size.depth, work.present, noise)[:, head]
        loss = (work.sending(shares) if head == 0 else work.computing(shares)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def state(self) -> Arrays:
        """See :class:`kit.papers.learning.Learner`."""
        looks = np.array([[look.step, look.seconds, *look.excess] for look in self.looks])
        optimizers = {f"head{i}": optimizer for i, optimizer in enumerate(self.heads)}
        return learning.arrays_of({"net": self.net}, optimizers) | {"looks": looks, "seconds": np.array(self.seconds)}

    def restore(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """See :class:`kit.papers.learning.Learner`."""
        learning.put_back(state, {"net": self.net}, {f"head{i}": optimizer for i, optimizer in enumerate(self.heads)})
        self.seconds = float(state["seconds"])
        self.looks = [QualityLook(step=int(r[0]), seconds=float(r[1]), excess=tuple(r[2:])) for r in state["looks"]]


def phase(recipe: Recipe, sizes: tuple[Size, ...], step: int) -> tuple[tuple[Size, ...], float]:
    """The sub-networks that learn at a step, the largest first, and how much of their time has passed (0 to 1)."""
    if recipe.way != "shrinking" or len(sizes) == 1:
        return sizes, step / recipe.steps
    full = tuple(s for s in sizes if s.depth == sizes[0].depth)
    ends = (0.0, recipe.first, recipe.first + recipe.widths, 1.0)
    for pool, begin, end in zip((sizes[:1], full, sizes), ends, ends[1:], strict=False):
        if step < end * recipe.steps:
            return pool, (step / recipe.steps - begin) / (end - begin)
    return sizes, 1.0


def drawn(recipe: Recipe, pool: tuple[Size, ...], rng: np.random.Generator) -> tuple[Size, ...]:
    """The sub-networks of one step: one of the pool; in a sandwich the largest and the smallest beside it."""
    one = pool[int(rng.integers(len(pool)))]
    return (pool[0], pool[-1], one) if recipe.way == "sandwich" and len(pool) > 1 else (one,)


def excesses(
    net: Allocator,
    world: OffloadingWorld,
    sizes: Iterable[Size],
    *,
    samples: int = 500,
    device: str = "cpu",
) -> tuple[float, ...]:
    """Mean weighted delay over its optimum, less one, of each size: all tasks offloaded, slots that no training has seen."""
    tasks = sample(world, samples, generator(EVALUATION, 0))
    work = Workload.of(world, tasks, tasks.present)
    best = optima_s(world, tasks, tasks.present)
    excess_by_size = []
    features, mask = (part.to(device) for part in inputs_of(net.spec, tasks, tasks.present))
    with torch.no_grad():
        for size in sizes:
            shares = torch.cat([net.eval()(f, size.width, size.depth, m) for f, m in _parts(features, mask)]).cpu()
            delay = [work.sending(shares[:, 0]).numpy() @ best[0], work.computing(shares[:, 1]).numpy() @ best[1]]
            excess_by_size.append(float(sum(delay) / best.sum() - 1.0))
    return tuple(excess_by_size)


def _parts(features: Tensor, mask: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(torch.split(features, ROWS), torch.split(mask, ROWS), strict=True)


def optima_s(world: OffloadingWorld, tasks: Tasks, offloaded: BoolArray) -> Float64Array:
    """The least weighted delays of sending and of computing, each slot's sum in seconds: [2, samples]."""
    weight = np.where(offloaded & tasks.present, importance(world, tasks), 0.0)
    demand, cycles, reach = weight * tasks.size_bit, weight * tasks.cycles, reach_hz(world, tasks)
    sending = sending_s(demand, best_split(demand, reach, world.band_hz), reach).sum(axis=1)
    share = root_split(cycles, world.server_hz)
    computing = np.divide(cycles, share, out=np.zeros_like(cycles), where=cycles > 0).sum(axis=1)
    return np.stack([sending, computing])


def train(
    world: OffloadingWorld,
    recipe: Recipe,
    folder: Path | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> TrainedAllocator:
    """The network of a recipe: trained now, or read from ``folder`` where an earlier run left it.

    A run that was stopped goes on from its checkpoint in ``folder``. Raises UsageError, BadModel, StorageError.
    """
    name = _name(world, recipe, device)

    def learn(checkpoint: Path) -> TrainedAllocator:
        net = allocator.make(spec_of(recipe.network, recipe.inputs), recipe.seed)
        learner = AllocatorLearner(world, recipe, net, device)
        report_steps = None if progress is None else progress.steps(recipe.name)
        losses = learning.learn(learner, recipe.steps, checkpoint=checkpoint, name=name, progress=report_steps)
        final = float(np.mean(losses[-max(recipe.steps // 10, 1) :]))
        report = TrainingReport(recipe=recipe, seconds=learner.seconds, final_loss=final, looks=tuple(learner.looks))
        return TrainedAllocator(net.to("cpu").eval(), report)

    def save(trained: TrainedAllocator, network: Path, record: Path) -> None:
        allocator.write(trained.net, network, seed=recipe.seed, steps=(f"{recipe.way}: {recipe.steps} steps",))
        store.write_record(record, trained.report)

    def load(network: Path, record: Path) -> TrainedAllocator:
        return TrainedAllocator(allocator.read(network), store.read_record(record, TrainingReport))

    suffixes = (fileformat.SUFFIX, ".training.json")
    return engine.load_or_train(folder, name, suffixes, load=load, train=learn, save=save)


def _name(world: OffloadingWorld, recipe: Recipe, device: str) -> str:
    key = {
        "world": world.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
        "spec": spec_of(recipe.network, recipe.inputs).model_dump(mode="json"),
        "sizes": sizes_of(recipe),
        "device": device,
    }
    return f"{recipe.name}-{engine.digest(FORMAT, key)[:12]}"
