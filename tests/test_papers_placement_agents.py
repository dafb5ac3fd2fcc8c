"""TD3 and DDPG of paper C: as printed, bit by bit the same after a kill, and as a file that needs neither torch nor their library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factory import scaled

from kit import store
from kit.errors import BadModel, UnknownName, UsageError
from kit.papers import learning
from kit.papers.placement import PlacementWorld, agents, environment, experiment, metrics, run, trained
from kit.papers.placement import world as worlds
from kit.papers.placement.agents import AgentLearner, AgentRecipe, recipe_of
from kit.papers.placement.observation import decision_of, observe
from kit.papers.placement.trained import TrainedPolicy

TINY = scaled(PlacementWorld(), 2, 3)
RECIPE = AgentRecipe(episodes=4, slots=5, actor=(8, 6), critic=(7,), buffer=12, batch=4, first=6, seed=3)


def trained_in(folder: Path, **changes: Any) -> agents.TrainedAgent:
    return agents.train(TINY, RECIPE.model_copy(update=changes), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agents")
    trained_in(path)
    return path


def policy_in(folder: Path) -> Path:
    return next(folder.glob("*.policy.json"))


# ----------------------------------------------------------------------------------------------------------------- recipes


def test_the_papers_configuration_is_section_v_and_table_iv() -> None:
    td3, ddpg = recipe_of("paper", "td3"), recipe_of("paper", "ddpg")
    assert td3.actor == ddpg.actor == (1800, 2400, 3000) and PlacementWorld().tasks * 10 == 3500
    assert td3.critic == (4800, 3500, 1500, 500) and ddpg.critic == (2000, 1500, 500)
    assert (td3.episodes, td3.slots, td3.buffer, td3.batch, td3.discount) == (300, 50, 10_000, 64, 0.95)
    assert (td3.actor_rate, td3.critic_rate, td3.soft, td3.delay, td3.noise_clip) == (1e-4, 3e-4, 0.01, 2, 0.03)
    assert td3.noise**2 == pytest.approx(0.001) and td3.target_noise == td3.noise and ddpg.delay == 1
    assert agents.parameters(PlacementWorld(), td3) == 26_440_700 + 2 * 51_370_801
    assert agents.buffer_bytes(PlacementWorld(), td3) == 336_000_000
    with pytest.raises(UnknownName, match="did you mean 'small'"):
        recipe_of("smal", "td3")


def test_counts_are_those_of_the_librarys_networks() -> None:
    for method in ("td3", "ddpg"):
        recipe = RECIPE.model_copy(update={"method": method})
        learner = AgentLearner(TINY, recipe)
        of = learner.modules
        counted = sum(p.numel() for name in ("actor", "critic") for p in of[name].parameters())
        assert counted == agents.parameters(TINY, recipe)
        buffer_bytes = sum(getattr(learner.buffer, n).nbytes for n in ("observations", "next_observations", "actions"))
        assert buffer_bytes == agents.buffer_bytes(TINY, recipe)
    flop = [agents.update_flop(TINY, RECIPE.model_copy(update={"batch": b})) for b in (4, 8)]
    assert flop[1] == 2 * flop[0] > 0


def test_actor_and_critic_learn_at_their_own_rates_and_ddpg_is_td3_without_its_tricks() -> None:
    cases: tuple[tuple[agents.Method, int, int], ...] = (("td3", 2, 2), ("ddpg", 1, 1))
    for method, critics, delay in cases:
        learner = AgentLearner(TINY, recipe_of("small", method).model_copy(update={"slots": 3, "first": 1, "batch": 2}))
        learner.step(0)
        rates = [optimizer.param_groups[0]["lr"] for optimizer in learner.optimizers.values()]
        assert rates == [1e-4, 3e-4]
        assert len(learner.agent.critic.q_networks) == critics and learner.agent.policy_delay == delay
        assert learner.agent.gamma == 0.95 and learner.agent.tau == 0.01


def test_a_buffer_without_room_is_refused() -> None:
    with pytest.raises(UsageError, match="keep fewer experiences"):
        AgentLearner(PlacementWorld(), AgentRecipe(episodes=10**6, actor=(2,), critic=(2,), buffer=10**9))


# ---------------------------------------------------------------------------------------------------------------- learning


def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    uninterrupted = trained_in(tmp_path / "whole")

    class Killed(Exception):
        pass

    def die(steps_done: int, steps: int, reward: float) -> None:
        if steps_done >= 2:
            raise Killed

    before = learning.CHECKPOINT_S, learning.PROGRESS_S
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "CHECKPOINT_S", 0.0)
        patch.setattr(agents, "CHECKPOINT_BYTES_PER_S", 1e30)
        patch.setattr(learning, "PROGRESS_S", -1.0)
        with pytest.raises(Killed):
            agents.train(TINY, RECIPE, tmp_path / "cut", progress=die)
    assert before == (learning.CHECKPOINT_S, learning.PROGRESS_S)
    assert list((tmp_path / "cut").glob("*.checkpoint.npz"))
    resumed = agents.train(TINY, RECIPE, tmp_path / "cut")
    assert resumed.curve == uninterrupted.curve
    assert resumed.record.network_sha256 == uninterrupted.record.network_sha256
    assert not list((tmp_path / "cut").glob("*.checkpoint.npz"))


def test_what_was_trained_is_read_and_seeds_differ(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trained_in(folder)
    other = trained_in(folder, seed=4)
    assert other.record.network_sha256 != first.record.network_sha256 and other.record.models_seed == 4
    monkeypatch.setattr(learning, "learn", None)
    again = trained_in(folder)
    assert again.record == first.record and again.curve == first.curve and len(again.curve.reward) == 4
    assert [number for number, _ in first.curve.looks] == [0, 1, 2, 3, 4]
    assert first.record.steps == 20 and first.record.recipe["actor"] == [8, 6]


def test_the_reward_of_an_episode_is_what_the_environment_paid() -> None:
    learner = AgentLearner(TINY, RECIPE.model_copy(update={"first": 1000, "buffer": 1000}))
    mean = learner.step(0)
    assert mean == pytest.approx(float(learner.buffer.rewards[:5].mean()), abs=1e-6)
    assert np.abs(learner.buffer.actions[:5]).max() <= 1.0
    assert (learner.buffer.next_observations[:4] == learner.buffer.observations[1:5]).all()


def test_an_actor_that_has_learned_nothing_is_worth_nearly_an_equal_split() -> None:
    world = PlacementWorld()
    policy = agents.untrained(world, recipe_of("small", "td3"))
    untrained = metrics(run(world, policy, slots=2, seed=0))
    random = metrics(run(world, worlds_rules()["random"], slots=2, seed=0))
    assert untrained.average_accuracy > 1.5 * random.average_accuracy


def worlds_rules() -> dict[str, Any]:
    from kit.papers.placement import RULES

    return RULES


def test_tensorboard_reads_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    agents.train(TINY, RECIPE, tmp_path, log=True)
    assert list(tmp_path.rglob("events.out.tfevents.*"))


# ------------------------------------------------------------------------------------------------------------------- files


def test_the_file_decides_as_the_actor_does(folder: Path) -> None:
    record, policy = trained.load(policy_in(folder))
    assert record.method == "td3" and record.world == TINY
    learner = AgentLearner(TINY, RECIPE, models_seed=3)
    with learning.one_thread():
        for number in range(RECIPE.episodes):
            learner.step(number)
    models = worlds.sample_models(TINY, 3, np.random.default_rng(0))
    tasks, state = worlds.sample(TINY, 3, np.random.default_rng(1)), worlds.empty(TINY, 3)
    with torch.no_grad():
        action = learner.agent.actor(torch.as_tensor(observe(TINY, models, tasks, state))).numpy()
    expected = decision_of(TINY, (action + 1) / 2)
    decision = policy(TINY, models, tasks, state, np.random.default_rng(2))
    np.testing.assert_allclose(decision.first_share, expected.first_share, atol=1e-6)
    np.testing.assert_array_equal(decision.keep_edge, expected.keep_edge)
    assert decision.at_gateway.shape == (3, TINY.tasks)


def test_a_policy_needs_neither_torch_nor_its_library(folder: Path) -> None:
    code = f"""
import sys
for name in ("torch", "gymnasium", "stable_baselines3", "scipy", "onnx"):
    sys.modules[name] = None
from pathlib import Path
from kit.papers.placement import metrics, run, trained
record, policy = trained.load(Path({str(policy_in(folder))!r}))
print(metrics(run(record.world, policy, slots=2, seed=record.models_seed)).average_accuracy)
"""
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    assert 0.0 <= float(completed.stdout) <= 1.0


def test_a_file_of_another_kind_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    record, _ = trained.load(policy_in(folder))
    onnx = trained.network_path(policy_in(folder)).read_bytes()
    path = tmp_path / "x.policy.json"
    with pytest.raises(UsageError, match=r"ends in \.policy\.json"):
        trained.load(tmp_path / "x.json")
    with pytest.raises(UsageError, match="does not exist"):
        trained.load(path)
    trained.save(path, record, onnx)
    (tmp_path / "x.onnx").write_bytes(onnx[:-1] + b"!")
    with pytest.raises(BadModel, match="not the network that"):
        trained.load(path)
    (tmp_path / "x.onnx").unlink()
    with pytest.raises(BadModel, match=r"copy x\.onnx"):
        trained.load(path)
    trained.save(path, record, b"no network")
    with pytest.raises(BadModel, match="cannot run this td3 network"):
        trained.load(path)
    trained.save(path, record, b"\x3a\x04\x2a\x02\x70\x01")  # a graph of one tensor, which lies in another file
    with pytest.raises(BadModel, match="keeps its weights in another file"):
        trained.load(path)
    trained.save(path, record.model_copy(update={"world": scaled(PlacementWorld(), 2, 2)}), onnx)
    with pytest.raises(BadModel):
        trained.load(path)
    store.write_atomic(path, b'{"kind": "profile"}')
    with pytest.raises(BadModel, match="placement-policy"):
        trained.load(path)


def test_a_policy_of_another_factory_is_refused(folder: Path) -> None:
    _, policy = trained.load(policy_in(folder))
    with pytest.raises(UsageError, match="train one for it"):
        run(scaled(PlacementWorld(), 3, 3), policy, slots=1)


def test_saving_fills_in_the_hash(tmp_path: Path) -> None:
    record = TrainedPolicy(method="td3", world=TINY, models_seed=0, seed=0, steps=0, train_s=0.0)
    written = trained.save(tmp_path / "a.policy.json", record, b"bytes")
    assert written.network_sha256 == store.sha256_bytes(b"bytes")
    assert store.read_record(tmp_path / "a.policy.json", TrainedPolicy) == written


# ------------------------------------------------------------------------------------------------------------------ worlds


def test_the_environment_is_as_it_was() -> None:
    env = environment.PlacementEnv(TINY, models_seen=True)
    assert env.observation_space.shape == (6 * 15,) and env.action_space.shape == (6 * 10,)


# ------------------------------------------------------------------------------------------ one network for all tasks

SHARED = recipe_of("shared", "td3", 1)
SHORT = SHARED.model_copy(
    update={"episodes": 3, "slots": 6, "first": 4, "buffer": 60, "batch": 8, "actor": (8,), "critic": (8,)}
)


@pytest.mark.parametrize("method", ["td3", "ddpg"])
def test_a_shared_network_sees_a_task_and_is_paid_for_it(method: agents.Method) -> None:
    recipe = SHORT.model_copy(update={"method": method})
    learner = AgentLearner(TINY, recipe)
    assert agents.sizes(TINY, recipe) == (7, 10)
    counted = sum(p.numel() for n in ("actor", "critic") for p in learner.modules[n].parameters())
    assert counted == agents.parameters(TINY, recipe)
    buffer_bytes = sum(getattr(learner.buffer, n).nbytes for n in ("observations", "next_observations", "actions"))
    assert buffer_bytes == agents.buffer_bytes(TINY, recipe)
    learner.step(0)
    outcome = learner.env.outcome
    assert outcome is not None
    assert learner.buffer.rewards[5] == pytest.approx(outcome.accuracy[0].astype(np.float32))
    assert learner.buffer.observations.shape == (10, TINY.tasks, 7)


def test_the_gradient_of_every_layer_of_actor_and_critics_reaches_it() -> None:
    learner = AgentLearner(TINY, SHORT)
    before = {n: {k: v.clone() for k, v in m.state_dict().items()} for n, m in learner.modules.items()}
    for number in range(SHORT.episodes):
        learner.step(number)
    for name in ("actor", "critic"):
        for key, value in learner.modules[name].state_dict().items():
            fixed = key.endswith(("mean", "deviation"))
            assert torch.equal(value, before[name][key]) == fixed, f"{name} {key}"


def test_inputs_are_centred_by_the_world_and_actions_are_left() -> None:
    mean, deviation = agents.centre(PlacementWorld())
    observations = np.concatenate(
        [
            observe(PlacementWorld(), models, tasks, worlds.empty(PlacementWorld(), 9)).reshape(-1, 7)
            for models, tasks in [
                (
                    worlds.sample_models(PlacementWorld(), 9, np.random.default_rng(0)),
                    worlds.sample(PlacementWorld(), 9, np.random.default_rng(1)),
                )
            ]
        ]
    )
    centred = (observations[:, :3] - mean[:3]) / deviation[:3]
    assert np.abs(centred.mean(axis=0)).max() < 0.1 and np.abs(centred.std(axis=0) - 1).max() < 0.05
    layer = agents._Centred(mean, deviation, 9)
    assert layer(torch.full((1, 9), 0.5))[0, 7:].tolist() == [0.5, 0.5]
    assert agents.centre(PlacementWorld(noisy=0.0, size_bytes=(4e4, 4e4)))[1][0] > 0


def test_exploration_and_the_actors_rate_fall_over_the_updates() -> None:
    learner = AgentLearner(TINY, SHORT)
    last = SHORT.episodes * SHORT.slots - 1
    assert learner._noise(0) == SHORT.noise and learner._noise(last) == pytest.approx(0.1)
    assert learner._actor_rate(0) == SHORT.actor_rate and learner._actor_rate(last) == pytest.approx(0.0, abs=1e-12)
    flat = AgentLearner(TINY, RECIPE)
    assert flat._noise(15) == RECIPE.noise and flat._actor_rate(15) == RECIPE.actor_rate


def test_a_shared_network_learns_a_small_factory_far_above_random(tmp_path: Path) -> None:
    world = scaled(PlacementWorld(), 2, 10)
    recipe = SHARED.model_copy(update={"episodes": 10, "buffer": 800, "batch": 256})
    agent = agents.train(world, recipe, tmp_path)
    accuracy = metrics(run(world, agent.policy, slots=5, samples=4, seed=9)).average_accuracy
    random = metrics(run(world, worlds_rules()["random"], slots=5, samples=4, seed=9)).average_accuracy
    assert accuracy > 1.3 * random


def test_a_shared_networks_file_decides_as_its_actor_does_in_any_factory(tmp_path: Path) -> None:
    agents.train(TINY, SHORT, tmp_path)
    record, policy = trained.load(policy_in(tmp_path))
    assert record.shared and record.method == "td3"
    learner = AgentLearner(TINY, SHORT, models_seed=1)
    with learning.one_thread():
        for number in range(SHORT.episodes):
            learner.step(number)
    for world in (TINY, scaled(PlacementWorld(), 3, 5)):
        models = worlds.sample_models(world, 2, np.random.default_rng(0))
        tasks, state = worlds.sample(world, 2, np.random.default_rng(1)), worlds.empty(world, 2)
        with torch.no_grad():
            action = learner.agent.actor(torch.as_tensor(observe(world, models, tasks, state).reshape(-1, 7))).numpy()
        expected = decision_of(world, ((action + 1) / 2).reshape(2, -1))
        decision = policy(world, models, tasks, state, np.random.default_rng(2))
        np.testing.assert_allclose(decision.edge_share, expected.edge_share, atol=1e-6)
        np.testing.assert_array_equal(decision.variant, expected.variant)
    three = PlacementWorld(variants=(*PlacementWorld().variants, worlds.HEAVY), gateways=2, devices=3)
    with pytest.raises(UsageError, match="train one for it"):
        run(three, policy, slots=1)


def test_a_killed_training_of_a_shared_network_ends_with_the_same_bits(tmp_path: Path) -> None:
    uninterrupted, cut = AgentLearner(TINY, SHORT), AgentLearner(TINY, SHORT)
    with learning.one_thread():
        rewards = [uninterrupted.step(number) for number in range(3)]
        cut.step(0)
        state = cut.state()
        again = AgentLearner(TINY, SHORT)
        again.restore(state)
        assert [again.step(number) for number in (1, 2)] == rewards[1:]
    for key, value in uninterrupted.state().items():
        if key != "counts":
            np.testing.assert_array_equal(again.state()[key], value)


# ------------------------------------------------------------------------------------------------------- what is kept


def test_a_stored_agent_is_named_by_all_that_decides_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """World, recipe and format: a changed default or formula never returns old numbers."""
    names = {agents._of_world(TINY, 0), agents._of_world(TINY, 1)}
    monkeypatch.setattr(agents, "FORMAT", agents.FORMAT + 1)
    names.add(agents._of_world(TINY, 0))
    assert len(names) == 3
    computed: list[int] = []

    def compute() -> experiment.PlacementPoint:
        computed.append(1)
        return experiment.PlacementPoint(methods={})

    for changes in ({}, {}, {"noisy": 0.31}):
        experiment._load_or_compute(tmp_path, compute, TINY.model_copy(update=changes), 0, "rules")
    assert len(computed) == 2
    monkeypatch.setattr(experiment, "FORMAT", experiment.FORMAT + 1)
    experiment._load_or_compute(tmp_path, compute, TINY, 0, "rules")
    assert len(computed) == 3
    plain, dumped = TINY.model_dump(mode="json"), TINY.model_dump(mode="json", exclude_defaults=True)
    assert len(dumped) < len(plain)  # a name made of the second would not change with a default
    assert "cloud_bps" in plain and "cloud_bps" not in dumped


def test_the_price_network_is_stored_under_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kit.papers.placement import own

    experiment.own_of(2, 0, tmp_path)
    monkeypatch.setattr(own, "WIDTH", 33)
    experiment.own_of(2, 0, tmp_path)
    monkeypatch.setattr(experiment, "FORMAT", experiment.FORMAT + 1)
    experiment.own_of(2, 0, tmp_path)
    assert len(list(tmp_path.glob("own-0-2-*.policy.json"))) == 3
