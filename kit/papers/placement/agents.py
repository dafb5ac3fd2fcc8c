"""Paper C's learners, TD3 and DDPG from stable-baselines3, in a loop that may be killed (``kit.papers.learning``). A step is an episode.

Networks, losses, updates and the replay buffer are the library's; the loop is kit's, so that all random numbers come from (seed, episode)
and a run that goes on after a kill ends with the bits of one that was never stopped. What section V.A and table IV say:

| here | paper | configuration ``paper`` |
|---|---|---|
| ``actor`` | four layers, 1800, 2400, 3000, 3500 neurons, tanh | hidden 1800, 2400, 3000; the last is the action's |
| ``critic`` | TD3 two of 4800, 3500, 1500, 500, 1; DDPG one of 2000, 1500, 500, 1 | hidden layers of these |
| ``noise``, ``target_noise``, ``noise_clip`` | variance rho = 0.001, c = 0.03 | of actions from -1 to 1: deviation 0.0316 |
| ``episodes``, ``slots`` | E = 300, T = 50 | one update a slot |
| ``buffer``, ``batch`` | D_r = 10,000, D_b = 64 | |
| ``first`` | "the first D_r experiences are stored" before learning | 500: D_r are 200 episodes, and Fig. 4 has converged at 130 |
| ``discount``, ``actor_rate``, ``critic_rate``, ``soft``, ``delay`` | 0.95, 1e-4, 3e-4, 0.01, 2 | |

``small`` has hidden layers of 64; the rest is the same. ``shared`` is the fair baseline: one network for all tasks. It sees a task's row of
the observation and decides its row of the action. An experience is a task's and its reward that task's accuracy, so nobody has to divide
one number a slot among 3,500 outputs. Discount 0: what a task does to later slots is not learned. With it nothing of the critics' targets
is left, so TD3 differs from DDPG only by a second critic that nothing uses, and an actor that is updated half as often. Layer norm keeps
outputs off the ends of tanh. Exploration and the actor's rate fall, because every task crowds every other: with both as they were, all
tasks run to one node and back. The settings were put together from some forty trials on seeds 0 to 4.

Memory: an experience of the default world is two observations of 2,450 numbers and an action of 3,500, float32, 34 kB. The paper's 10,000
are 0.34 GB and kept as they are; a buffer for which there is no room is refused beforehand (:func:`buffer_bytes`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from stable_baselines3 import DDPG, TD3
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import create_mlp
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

import kit
from kit import store
from kit.errors import UnknownName, UsageError
from kit.papers import engine, learning
from kit.papers.learning import Arrays, StepProgress
from kit.papers.placement import trained
from kit.papers.placement.environment import PlacementEnv, Vector
from kit.papers.placement.observation import action_width, observation_width
from kit.papers.placement.trained import SUFFIX, TrainedPolicy
from kit.papers.placement.world import FORMAT, PlacementWorld, Policy
from kit.papers.streams import generator
from kit.records import Record

Method: TypeAlias = Literal["td3", "ddpg"]
SIDES = ("paper", "small", "shared")
CHECKPOINT_BYTES_PER_S = 5e6  # of a checkpoint: how seldom a large one is written
FLOAT_BYTES = 4
#: Names of an episode's random streams.
STREAMS = ("placement: an agent's slots", "placement: an agent's exploration", "placement: an agent's updates")
EVALUATIONS = 20  # of a training at its actor alone
EVALUATION_SEED = 2**31  # seed of those episodes: training's are below


class AgentRecipe(Record):
    """All that decides a trained agent. Layers are hidden ones; actions are counted from -1 to 1, as tanh gives them."""

    method: Method = "td3"
    seed: int = Field(default=0, ge=0)
    episodes: int = Field(default=300, ge=1, description="E")
    slots: int = Field(default=50, ge=1, description="T, of an episode; one update in each")
    actor: tuple[int, ...] = (1800, 2400, 3000)
    critic: tuple[int, ...] = (4800, 3500, 1500, 500)
    shared: bool = Field(default=False, description="one network for all tasks: an experience is a task's")
    norm: bool = Field(default=False, description="inputs centred, and a layer norm after every hidden layer's product")
    buffer: int = Field(default=10_000, ge=1, description="D_r, experiences")
    batch: int = Field(default=64, ge=1, description="D_b, experiences")
    first: int = Field(default=500, ge=1, description="slots before the first update")
    discount: float = Field(default=0.95, ge=0, lt=1, description="gamma")
    actor_rate: float = Field(default=1e-4, gt=0, description="epsilon_a")
    critic_rate: float = Field(default=3e-4, gt=0, description="epsilon_c")
    soft: float = Field(default=0.01, gt=0, le=1, description="tau, of the target networks")
    delay: int = Field(default=2, ge=1, description="d, updates of the critics for each of the actor; DDPG has 1")
    noise: float = Field(default=sqrt(0.001), ge=0, description="deviation of exploration: root of rho")
    last_noise: float | None = Field(
        default=None, ge=0, description="that at the end, straight from the first; none: the same"
    )
    falling: bool = Field(default=False, description="the actor's rate falls straight to nothing")
    target_noise: float = Field(default=sqrt(0.001), ge=0, description="deviation of TD3's target action")
    noise_clip: float = Field(default=0.03, ge=0, description="c, of TD3's target action")
    models_seen: bool = Field(default=False, description="the observation holds the models; eq. 12 does not")

    @property
    def name(self) -> str:
        """Method, seed and a digest of the whole recipe."""
        return f"{self.method}-{self.seed}-{hashlib.sha256(store.canonical_json(self)).hexdigest()[:8]}"


def recipe_of(
    side: str, method: Method, seed: int = 0, *, episodes: int | None = None, models_seen: bool = False
) -> AgentRecipe:
    """The configuration ``paper``, ``small`` or ``shared`` of a method. Raises UnknownName."""
    if side not in SIDES:
        raise UnknownName("configuration of an agent", side, SIDES)
    settings: dict[str, Any] = {"method": method, "seed": seed, "models_seen": models_seen}
    if method == "ddpg":
        settings |= {"critic": (2000, 1500, 500), "delay": 1}
    if side != "paper":
        settings |= {"actor": (64, 64), "critic": (64, 64)}
    if side == "shared":
        settings |= {
            "shared": True, "norm": True, "discount": 0.0, "episodes": 48, "buffer": 14_000, "batch": 1024, "first": 20,
            "actor_rate": 3e-4, "critic_rate": 1e-3, "noise": 0.5, "last_noise": 0.1, "falling": True,
        }  # fmt: skip
    return AgentRecipe(**settings | ({} if episodes is None else {"episodes": episodes}))


def buffer_bytes(world: PlacementWorld, recipe: AgentRecipe) -> int:
    """What the replay buffer takes of memory when it is full."""
    observed_columns, action_columns = sizes(world, recipe)
    many = _many(world, recipe)
    slots = min(recipe.buffer // many, recipe.episodes * recipe.slots)
    return FLOAT_BYTES * max(slots, 1) * many * (2 * observed_columns + action_columns)


def _many(world: PlacementWorld, recipe: AgentRecipe) -> int:
    """Experiences of a slot."""
    return world.tasks if recipe.shared else 1


def sizes(world: PlacementWorld, recipe: AgentRecipe) -> tuple[int, int]:
    """Numbers of an observation and of an action, as the actor sees and gives them."""
    tasks = 1 if recipe.shared else world.tasks
    return tasks * observation_width(world, models_seen=recipe.models_seen), tasks * action_width(world)


def update_flop(world: PlacementWorld, recipe: AgentRecipe) -> float:
    """Floating-point operations of one slot's update, Adam's left out: the mean over ``delay`` slots, backward passes counted double."""
    observed_columns, action_columns = sizes(world, recipe)
    actor, critic = (
        _weights((observed_columns, *recipe.actor, action_columns)),
        _weights((observed_columns + action_columns, *recipe.critic, 1)),
    )
    critics = 2 if recipe.method == "td3" else 1
    macs = actor + critics * critic + 3 * critics * critic + (3 * actor + 3 * critic) / recipe.delay
    return 2.0 * recipe.batch * macs


def parameters(world: PlacementWorld, recipe: AgentRecipe) -> int:
    """Weights and biases of actor and critics, target networks not counted."""
    observed_columns, action_columns = sizes(world, recipe)
    actor, critic = (
        (observed_columns, *recipe.actor, action_columns),
        (observed_columns + action_columns, *recipe.critic, 1),
    )
    each = [_weights(of) + sum(of[1:]) + (2 * sum(of[1:-1]) if recipe.norm else 0) for of in (actor, critic)]
    return each[0] + (2 if recipe.method == "td3" else 1) * each[1]


def _weights(layers: tuple[int, ...]) -> int:
    return sum(a * b for a, b in pairwise(layers))


class Curve(Record):
    """The learning curve of a trained agent, in a file of its own; a reward is the mean of a slot."""

    kind: Literal["placement-curve"] = "placement-curve"
    schema_version: Literal[1] = 1
    recipe: AgentRecipe
    reward: tuple[float, ...] = Field(description="of each episode, exploration's noise in it")
    looks: tuple[tuple[int, float], ...] = Field(description="episodes done, and what the actor alone then earns")


@dataclass(frozen=True)
class TrainedAgent:
    """What came out: the policy's record and function, and its learning curve."""

    record: TrainedPolicy
    policy: Policy
    curve: Curve


# ------------------------------------------------------------------------------------------------------------------ learning


class _Rates:
    """Actor and critic have a rate each; the library's agents have one for both."""

    rates: tuple[float, float]

    def _update_learning_rate(self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer) -> None:
        for optimizer, rate in zip(
            optimizers if isinstance(optimizers, list) else [optimizers], self.rates, strict=True
        ):
            for group in optimizer.param_groups:
                group["lr"] = rate


class _TD3(_Rates, TD3):
    pass


class _DDPG(_Rates, DDPG):
    pass


class AgentLearner:
    """A learner for :func:`kit.papers.learning.learn`: an episode a step. What it returns is the mean reward of a slot, not a loss."""

    def __init__(
        self,
        world: PlacementWorld,
        recipe: AgentRecipe,
        *,
        models_seed: int = 0,
        device: str = "cpu",
        log: Path | None = None,
    ) -> None:
        self.recipe, self.seconds, self.looks = recipe, 0.0, list[tuple[int, float]]()
        self.env = PlacementEnv(world, slots=recipe.slots, models_seed=models_seed, models_seen=recipe.models_seen)
        self.many = _many(world, recipe)
        self.agent = _agent(self.env, recipe, device)
        self.agent.set_logger(configure(str(log) if log else None, ["tensorboard"] if log and _logs() else []))

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The networks and their targets, by name."""
        agent = self.agent
        return {
            "actor": agent.actor,
            "critic": agent.critic,
            "actor_target": agent.actor_target,
            "critic_target": agent.critic_target,
        }

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam of the actor and of the critics, by name."""
        return {"actor_adam": self.agent.actor.optimizer, "critic_adam": self.agent.critic.optimizer}

    def step(self, number: int) -> float:
        """One episode with exploration and updates; returns the mean reward of a slot."""
        start_s, recipe = time.process_time(), self.recipe
        if number % max(1, recipe.episodes // EVALUATIONS) == 0:
            self.looks.append((number, self.evaluate()))
        outer, explore, inner = (generator(stream, recipe.seed, number) for stream in STREAMS)
        _seed_library(inner)
        observation, _ = self.env.reset(seed=int(outer.integers(2**31)))
        total, last = 0.0, dict[str, Any]()
        for slot in range(recipe.slots):
            slots_done = number * recipe.slots + slot
            action = self.act(observation, explore, self._noise(slots_done))
            after, reward, _, _, last = self.env.step((action + 1.0) / 2.0)
            self._store(observation, after, action, reward)
            observation, total = after, total + reward
            if slots_done + 1 >= recipe.first:
                self.agent.rates = (self._actor_rate(slots_done), recipe.critic_rate)
                self.agent.train(1, recipe.batch)
        if number + 1 == recipe.episodes:
            self.looks.append((number + 1, self.evaluate()))
        self._log(number, total / recipe.slots, last)
        self.seconds += time.process_time() - start_s
        return total / recipe.slots

    def _part(self, slots_done: int) -> float:
        """Of all updates, how many lie behind."""
        recipe = self.recipe
        return max(0.0, (slots_done + 1 - recipe.first) / max(recipe.episodes * recipe.slots - recipe.first, 1))

    def _noise(self, slots_done: int) -> float:
        first, last = self.recipe.noise, self.recipe.last_noise
        return first if last is None else first + (last - first) * self._part(slots_done)

    def _actor_rate(self, slots_done: int) -> float:
        return self.recipe.actor_rate * (1.0 - self._part(slots_done) if self.recipe.falling else 1.0)

    def _store(self, observation: Vector, after: Vector, action: Vector, reward: float) -> None:
        """A slot's experiences: the whole slot's, or each task's with its own reward. A slot never ends a world."""
        rewards = np.array([reward])
        if self.recipe.shared and self.env.outcome is not None:
            rewards = self.env.outcome.accuracy[0]
        rows = (values.reshape(self.many, -1) for values in (observation, after, action))
        self.buffer.add(*rows, rewards, np.zeros(self.many, dtype=bool), [{}] * self.many)

    def evaluate(self) -> float:
        """Mean reward of a slot over an episode without exploration, the same tasks each time; no training sees them."""
        observation, _ = self.env.reset(seed=EVALUATION_SEED)
        total = 0.0
        for _ in range(self.recipe.slots):
            observation, reward, *_ = self.env.step((self.act(observation) + 1.0) / 2.0)
            total += reward
        return total / self.recipe.slots

    @property
    def buffer(self) -> Any:
        """The library's replay buffer."""
        return self.agent.replay_buffer

    def act(self, observation: Vector, rng: np.random.Generator | None = None, noise: float = 0.0) -> Vector:
        """The slot's action from -1 to 1, with exploration of deviation ``noise`` where ``rng`` is given."""
        rows = torch.as_tensor(observation.reshape(self.many, -1), device=self.agent.device)
        with torch.no_grad():
            action: Vector = self.agent.actor(rows).cpu().numpy().ravel()
        if rng is not None:
            action = action + (noise * rng.standard_normal(len(action))).astype(np.float32)
        return action.clip(-1.0, 1.0)

    def _log(self, number: int, reward: float, last: Mapping[str, float]) -> None:
        logger = self.agent.logger
        logger.record("episode/reward", reward)
        for name in ("completion", "hits", "satisfied"):
            logger.record(f"episode/last_{name}", last[name])
        logger.dump(number + 1)

    def state(self) -> Arrays:
        """See :class:`kit.papers.learning.Learner`."""
        buffer, counts = self.buffer, [self.buffer.pos, self.buffer.full, self.agent._n_updates, self.seconds]
        used = buffer.buffer_size if buffer.full else buffer.pos
        experiences = {f"buffer/{name}": getattr(buffer, name)[:used].copy() for name in _BUFFER_ARRAYS}
        counters = {"counts": np.array(counts, dtype=np.float64), "looks": np.array(self.looks, dtype=np.float64)}
        return learning.arrays_of(self.modules, self.optimizers) | experiences | counters

    def restore(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """See :class:`kit.papers.learning.Learner`."""
        learning.put_back(state, self.modules, self.optimizers)
        for name in _BUFFER_ARRAYS:
            column = state[f"buffer/{name}"]
            getattr(self.buffer, name)[: len(column)] = column
        pos, full, updates, self.seconds = state["counts"].tolist()
        self.looks = [(int(number), float(reward)) for number, reward in state["looks"]]
        self.buffer.pos, self.buffer.full, self.agent._n_updates = int(pos), bool(full), int(updates)


class _Centred(nn.Module):
    """Inputs less their mean, over their deviation; those beyond the known columns (a critic's actions) as they are."""

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...], columns: int) -> None:
        super().__init__()
        more = columns - len(mean)
        self.register_buffer("mean", torch.tensor([*mean, *[0.0] * more]))
        self.register_buffer("deviation", torch.tensor([*deviation, *[1.0] * more]))

    def forward(self, observation: Tensor) -> Tensor:
        of = dict(self.named_buffers())
        centred: Tensor = (observation - of["mean"]) / of["deviation"]
        return centred


class _Normed(TD3Policy):
    """The library's actor and critics, their inputs centred and their hidden layers normed."""

    def __init__(self, *args: Any, mean: tuple[float, ...], deviation: tuple[float, ...], **kwargs: Any) -> None:
        self.mean, self.deviation = mean, deviation
        super().__init__(*args, **kwargs)

    def _net(self, inputs: int, outputs: int, hidden: list[int], *, squash_output: bool = False) -> nn.Sequential:
        layers = create_mlp(inputs, outputs, hidden, squash_output=squash_output, post_linear_modules=[nn.LayerNorm])
        return nn.Sequential(_Centred(self.mean, self.deviation, inputs), *layers).to(self.device)

    def make_actor(self, features_extractor: Any = None) -> Any:
        actor = super().make_actor(features_extractor)
        outputs = sum(self.action_space.shape or ())
        actor.mu = self._net(actor.features_dim, outputs, actor.net_arch, squash_output=True)
        return actor

    def make_critic(self, features_extractor: Any = None) -> Any:
        critic: Any = super().make_critic(features_extractor)
        inputs, hidden = critic.q_networks[0][0].in_features, list[int](self.critic_kwargs["net_arch"])  # type: ignore[call-overload]
        critic.q_networks = [self._net(inputs, 1, hidden) for _ in critic.q_networks]
        for number, network in enumerate(critic.q_networks):
            setattr(critic, f"qf{number}", network)
        return critic


def centre(world: PlacementWorld, *, models_seen: bool = False) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each column of a task's observation, as the world draws them; of caches and models, those of a half."""
    means, deviations = [], []
    for low, high in (world.size_bytes, world.deadline_s):
        means.append((low + high) / (2 * high))
        deviations.append(max((high - low) / (sqrt(12.0) * high), 1e-3))
    means.append(world.noisy)
    deviations.append(max(sqrt(world.noisy * (1 - world.noisy)), 1e-3))
    rest = observation_width(world, models_seen=models_seen) - len(means)
    return (*means, *[0.5] * rest), (*deviations, *[0.5] * rest)


_BUFFER_ARRAYS = ("observations", "next_observations", "actions", "rewards")


def _agent(env: PlacementEnv, recipe: AgentRecipe, device: str) -> Any:
    """The library's agent of a recipe. Raises UsageError for a buffer that has no room in memory."""
    kinds: dict[Method, type[_TD3] | type[_DDPG]] = {"td3": _TD3, "ddpg": _DDPG}
    td3_settings: dict[str, Any] = {
        "policy_delay": recipe.delay,
        "target_policy_noise": recipe.target_noise,
        "target_noise_clip": recipe.noise_clip,
    }
    more: dict[str, Any] = {}
    if recipe.norm:
        mean, deviation = centre(env.world, models_seen=recipe.models_seen)
        many = sizes(env.world, recipe)[0] // len(mean)
        more = {"mean": mean * many, "deviation": deviation * many}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="This system does not have apparently enough memory")
        try:
            agent = kinds[recipe.method](
                _Normed if recipe.norm else TD3Policy,
                _Spaces(env, recipe),
                buffer_size=min(recipe.buffer, recipe.episodes * recipe.slots * _many(env.world, recipe)),
                batch_size=recipe.batch,
                tau=recipe.soft,
                gamma=recipe.discount,
                policy_kwargs={
                    "net_arch": {"pi": list(recipe.actor), "qf": list(recipe.critic)},
                    "optimizer_kwargs": {"fused": True},  # Adam in one pass over memory: a quarter of a small update
                    **more,
                },
                seed=recipe.seed,
                device=device,
                **(td3_settings if recipe.method == "td3" else {}),
            )
        except (UserWarning, MemoryError):
            need = buffer_bytes(env.world, recipe) / 1e9
            raise UsageError(
                f"The replay buffer takes {need:.1f} GB and there is less free: keep fewer experiences."
            ) from None
    agent.rates = (recipe.actor_rate, recipe.critic_rate)
    return agent


class _Spaces(DummyVecEnv):
    """What the library asks of an environment before it learns: columns of observation and action, and the number of environments."""

    def __init__(self, env: PlacementEnv, recipe: AgentRecipe) -> None:
        super().__init__([lambda: env])
        observed_columns, action_columns = sizes(env.world, recipe)
        self.num_envs = _many(env.world, recipe)
        self.observation_space = gym.spaces.Box(0.0, 1.0, (observed_columns,), np.float32)
        self.action_space = gym.spaces.Box(0.0, 1.0, (action_columns,), np.float32)


def _seed_library(rng: np.random.Generator) -> None:
    """stable-baselines3 samples its buffer by numpy's global generator and draws its noise by torch's."""
    np.random.seed(int(rng.integers(2**32)))
    torch.manual_seed(int(rng.integers(2**62)))


def _logs() -> bool:
    return importlib.util.find_spec("tensorboard") is not None


# --------------------------------------------------------------------------------------------------------------------- files


def train(
    world: PlacementWorld,
    recipe: AgentRecipe,
    folder: Path,
    *,
    models_seed: int | None = None,
    progress: StepProgress | None = None,
    device: str = "cpu",
    log: bool = False,
) -> TrainedAgent:
    """The agent of a recipe in the factory of ``models_seed`` (the recipe's seed): learned now, or read from ``folder``.

    ``progress`` is called with (episodes done, in all, mean reward). A run that was stopped goes on from its checkpoint; ``log`` writes
    TensorBoard's files next to it where tensorboard is installed. Raises UsageError, BadModel, StorageError.
    """
    learning.check_device(device)
    factory = recipe.seed if models_seed is None else models_seed
    name = f"{recipe.name}-{_of_world(world, factory)}"

    def learn(checkpoint: Path) -> tuple[TrainedPolicy, bytes, Curve]:
        with learning.one_thread():
            log_folder = folder / f"{name}.log" if log else None
            learner = AgentLearner(world, recipe, models_seed=factory, device=device, log=log_folder)
            rewards = learning.learn(
                learner,
                recipe.episodes,
                checkpoint=checkpoint,
                name=name,
                progress=progress,
                every_s=max(learning.CHECKPOINT_S, _state_bytes(world, recipe) / CHECKPOINT_BYTES_PER_S),
            )
            onnx = exported(learner.agent.actor)
        curve = Curve(recipe=recipe, reward=tuple(map(float, rewards)), looks=tuple(learner.looks))
        return _record(world, recipe, factory, learner.seconds), onnx, curve

    def save(network: tuple[TrainedPolicy, bytes, Curve], policy_file: Path, curve_file: Path) -> None:
        record, onnx, curve = network
        store.write_record(curve_file, curve)
        trained.save(policy_file, record, onnx)

    def load(policy_file: Path, curve_file: Path) -> TrainedAgent:
        return TrainedAgent(*trained.load(policy_file), store.read_record(curve_file, Curve))

    return engine.load_or_train(folder, name, (SUFFIX, ".curve.json"), load=load, train=learn, save=save)


def _record(world: PlacementWorld, recipe: AgentRecipe, models_seed: int, train_s: float) -> TrainedPolicy:
    return TrainedPolicy(
        method=recipe.method,
        world=world,
        models_seed=models_seed,
        models_seen=recipe.models_seen,
        shared=recipe.shared,
        seed=recipe.seed,
        steps=recipe.episodes * recipe.slots,
        train_s=train_s,
        versions={"kit": kit.__version__, **{n: version(n) for n in ("numpy", "torch", "stable-baselines3")}},
        recipe=recipe.model_dump(mode="json"),
    )


def untrained(world: PlacementWorld, recipe: AgentRecipe) -> Policy:
    """The policy of the recipe's actor before its first update: what its first weights alone are worth."""
    with learning.one_thread():
        learner = AgentLearner(world, recipe.model_copy(update={"buffer": 1}), models_seed=recipe.seed)
        onnx = exported(learner.agent.actor)
    record = TrainedPolicy(
        method=recipe.method, world=world, models_seed=recipe.seed, models_seen=recipe.models_seen, shared=recipe.shared,
        seed=recipe.seed, steps=0, train_s=0.0,
    )  # fmt: skip
    return trained.policy_of(record, onnx)


class _Actions(nn.Module):
    """An actor whose actions run from 0 to 1, as the environment's do."""

    def __init__(self, actor: Any) -> None:
        super().__init__()
        self.mu = actor.mu

    def forward(self, observation: Tensor) -> Tensor:
        action: Tensor = (self.mu(observation) + 1.0) / 2.0
        return action


def exported(actor: nn.Module) -> bytes:
    """The actor as an ONNX file: observations [samples, columns] to actions from 0 to 1."""
    first = next(actor.parameters())
    data = learning.exported(_Actions(actor).cpu(), first.shape[1])
    actor.to(first.device)
    return data


def _state_bytes(world: PlacementWorld, recipe: AgentRecipe) -> float:
    """Of a checkpoint: networks, their targets, Adam's moments of both, and the buffer."""
    return 4 * FLOAT_BYTES * parameters(world, recipe) + buffer_bytes(world, recipe)


def _of_world(world: PlacementWorld, models_seed: int) -> str:
    return engine.digest(FORMAT, {"world": world.model_dump(mode="json"), "models_seed": models_seed})[:8]
