"""Training the dual-price policy (``kit.papers.placement.prices``) without examples: the dual function of random worlds is the loss.

Any prices bound what every decision of a slot can earn, and the best prices bound it most tightly. So the network learns to lower the
bound: its loss is :attr:`Market.dual`, whose slope by the prices is what is free less what is bought, no solver and no graph needed. Each
round of moving the prices is trained from where the one before left them. The slots of a world follow each other under the network's
own decisions, so that it learns on the caches that it will meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kit.papers import learning
from kit.papers.learning import Arrays, StepProgress
from kit.papers.placement.options import RESOURCES, decide, options_of
from kit.papers.placement.prices import (
    INPUTS,
    OUTPUTS,
    ROUNDS,
    START,
    Market,
    PriceFunction,
    features,
    fit,
    market,
    next_prices,
    shared,
    softness,
    with_caches,
)
from kit.papers.placement.world import HEAVY, LIGHT, PlacementWorld, Variant, empty, sample, sample_models, step
from kit.papers.streams import generator
from kit.stats import Float64Array

STEPS = 3000
RATE, SHORT_RATE = 3e-3, 1e-2  # of Adam, falling as a cosine: over all the steps, and over fewer than half of them
WIDTH = 32
FACTORIES, SLOTS = 6, 3  # of each step: samples of one world, slots from empty caches
LEAK = 0.1


class PriceNetwork(nn.Module):
    """Features (rows, INPUTS) to moves of log prices (rows, OUTPUTS); equal seeds give equal weights."""

    def __init__(self, seed: int, width: int = WIDTH) -> None:
        super().__init__()
        rng = generator("placement: first weights of kit's own policy", seed)
        for name, shape in {
            "w0": (INPUTS, width), "b0": (width,), "w1": (width, width), "b1": (width,),
            "w2": (width, OUTPUTS), "b2": (OUTPUTS,), "w3": (INPUTS, OUTPUTS),
        }.items():  # fmt: skip
            scale = 0.1 if name in ("w2", "w3") else 1.0
            value = scale * rng.uniform(-1.0, 1.0, shape) / max(shape[0], 1) ** 0.5
            self.register_parameter(name, nn.Parameter(torch.tensor(value, dtype=torch.float32)))

    def forward(self, x: Tensor) -> Tensor:
        """Features of each pool to the moves of its log prices."""
        of = dict(self.named_parameters())
        h = functional.leaky_relu(x @ of["w0"] + of["b0"], LEAK)
        h = h + functional.leaky_relu(h @ of["w1"] + of["b1"], LEAK)
        move: Tensor = h @ of["w2"] + of["b2"] + x @ of["w3"]
        return move


def network_of(trained: PriceNetwork) -> PriceFunction:
    """A trained network as ``prices.policy_of`` takes it, in plain arrays: no torch when it runs."""
    of = {name: value.detach().numpy().copy() for name, value in trained.named_parameters()}

    def leaky(x: Float64Array) -> Float64Array:
        activation: Float64Array = np.maximum(x, np.float32(LEAK) * x)
        return activation

    def run(x: Float64Array) -> Float64Array:
        h = leaky(x @ of["w0"] + of["b0"])
        h = h + leaky(h @ of["w1"] + of["b1"])
        move: Float64Array = h @ of["w2"] + of["b2"] + x @ of["w3"]
        return move

    return run


class DualLearner:
    """A learner that lowers the dual function of drawn worlds, or of one ``world``."""

    def __init__(self, network: PriceNetwork, steps: int, seed: int, world: PlacementWorld | None = None) -> None:
        self.network, self.steps, self.seed, self.world = network, steps, seed, world
        self.rate = rate(steps)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=self.rate)

    def step(self, number: int) -> float:
        """One step down the dual function of random worlds; returns its mean, a bound."""
        rng = generator("placement: worlds that teach kit's own policy", self.seed, number)
        world = drawn(rng) if self.world is None else self.world
        models, state = sample_models(world, FACTORIES, rng), empty(world, FACTORIES)
        self.optimizer.param_groups[0]["lr"] = self.rate * (1 + cos(pi * number / self.steps)) / 2
        self.optimizer.zero_grad()
        duals = []
        for _ in range(SLOTS):
            tasks = sample(world, FACTORIES, rng)
            option = options_of(world, models, tasks, state)
            log_price = np.full((FACTORIES, world.gateways, RESOURCES), START)
            at, before = market(world, option, log_price, softness(0)), None
            for round_ in range(ROUNDS):
                move = self.network(torch.from_numpy(features(at, before, round_)))
                log_price = next_prices(world, log_price, move.detach().numpy())
                before, at = at, market(world, option, log_price, softness(round_ + 1))
                dual_loss(world, at, move).backward()  # type: ignore[no-untyped-call]
            duals.append(float(at.dual.mean()))
            choice, shares = fit(world, option, log_price)
            decision = with_caches(world, models, state, decide(world, tasks, choice, shares), choice, log_price)
            state = step(world, models, tasks, state, decision).state
        self.optimizer.step()
        return float(np.mean(duals))

    def state(self) -> Arrays:
        """See :class:`kit.papers.learning.Learner`."""
        return learning.arrays_of({"network": self.network}, {"adam": self.optimizer})

    def restore(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """See :class:`kit.papers.learning.Learner`."""
        learning.put_back(state, {"network": self.network}, {"adam": self.optimizer})


def recipe(steps: int) -> dict[str, float]:
    """All that decides a network for all worlds, apart from its seed and what the market is."""
    return {
        "steps": steps, "rate": rate(steps), "width": WIDTH, "factories": FACTORIES, "slots": SLOTS, "rounds": ROUNDS, "start": START,
        "soft": softness(0), "hard": softness(ROUNDS),
    }  # fmt: skip


def rate(steps: int) -> float:
    """Of Adam, in the first step."""
    return RATE if 2 * steps >= STEPS else SHORT_RATE


def dual_loss(world: PlacementWorld, at: Market, move: Tensor) -> Tensor:
    """A loss whose gradient by the moves that led here is that of the dual function, over what the pools of that factory turn over."""
    each = move.reshape(at.slope.shape)
    log_price = torch.where(torch.from_numpy(shared(world)), each.mean(dim=1, keepdim=True), each)
    turnover = (at.spent + at.worth).mean(axis=(1, 2), keepdims=True)
    return (log_price * torch.from_numpy((at.slope / turnover).astype(np.float32))).mean()


def train(
    world: PlacementWorld | None = None,
    seed: int = 0,
    steps: int = STEPS,
    *,
    checkpoint: Path | None = None,
    progress: StepProgress | None = None,
) -> tuple[PriceNetwork, Float64Array]:
    """The network for one world, or for all (None), and the loss of each step.

    Raises UsageError (another run's checkpoint), BadModel (a broken one), StorageError.
    """
    network = PriceNetwork(seed)
    with learning.one_thread():
        name = f"placement prices {seed} {steps} {'any world' if world is None else world.model_dump_json()}"
        losses = learning.learn(
            DualLearner(network, steps, seed, world), steps, checkpoint=checkpoint, name=name, progress=progress
        )
    return network, losses


def drawn(rng: np.random.Generator) -> PlacementWorld:
    """A world around the paper's, of any size: some of its resources scarcer or richer by up to four times, any spectrum model."""
    gateways, devices = int(rng.integers(1, 15)), int(rng.integers(5, 46))
    base = PlacementWorld()
    total_ratio, gateway_ratio = gateways * devices / base.tasks, devices / base.devices
    factor = np.where(rng.random(8) < 0.5, 4.0 ** rng.uniform(-1.0, 0.5, 8), 1.0)
    band = "shared" if rng.random() < 0.7 else "per_gateway"
    literal = rng.random() < 0.2
    middle = Variant(
        name="middle",
        accuracy_clean=(0.945, 0.96),
        accuracy_noisy=(0.9, 0.92),
        size_bytes=(6e6, 8e6),
        cycles=(20e6, 25e6),
    )
    return PlacementWorld(
        gateways=gateways,
        devices=devices,
        variants=(LIGHT, middle, HEAVY) if rng.random() < 0.2 else (LIGHT, HEAVY),
        noisy=float(rng.uniform(0, 1)),
        band_hz=base.band_hz * factor[0] * (total_ratio if band == "shared" else 2.5 * gateway_ratio),
        edge_band_hz=base.edge_band_hz * factor[1] * total_ratio,
        gateway_hz=base.gateway_hz * factor[2] * gateway_ratio * (gateways * 0.3 if literal else 1.0),
        edge_hz=base.edge_hz * factor[3] * total_ratio,
        gateway_cache_bytes=base.gateway_cache_bytes * factor[4] * gateway_ratio * (gateways * 0.3 if literal else 1.0),
        edge_cache_bytes=base.edge_cache_bytes * factor[5] * total_ratio,
        cloud_bps=base.cloud_bps * factor[6],
        backhaul_bps=base.backhaul_bps * factor[7],
        pools="literal" if literal else "per_gateway",
        band=band,
        first_hop="free" if rng.random() < 0.7 else "counted",
    )


def export(trained: PriceNetwork) -> bytes:
    """The network as ONNX: features (rows, INPUTS) to moves, float32, any number of rows."""
    return learning.exported(trained, INPUTS)
