"""Paper B's networks learn: losses against the world, two heads in turn, three ways of training, rewards, policy, joint loop, figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.allocators.fileformat import Size
from kit.errors import BadModel, UnknownName, UsageError
from kit.nets import allocator
from kit.papers import engine, learning, offloading
from kit.papers.delays import Analytic, Measured
from kit.papers.engine import Progress, Results
from kit.papers.offloading import OffloadingWorld, evaluate, experiment, figures, schedule, size
from kit.papers.offloading import train as training
from kit.papers.offloading.joint import Episodes, JointRecipe, PolicyTrainingSet, train_jointly
from kit.papers.offloading.policy import Policy, allocation_by, costs_of, fit, loss_of, summary
from kit.papers.offloading.schedule import Imitation, Scheduler
from kit.papers.offloading.train import AllocatorLearner, Recipe, Workload
from kit.papers.results import check_figures
from kit.papers.streams import generator
from kit.records import SizeTiming

WORLD = OffloadingWorld(users=6)
TINY = Recipe(steps=6, tasks=48, watched=3)
SEEDS = st.integers(0, 2**31 - 1)
SIZES = (Size(10, 3), Size(2, 1))


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    with learning.one_thread():
        yield


def slots(seed: int, samples: int = 4, world: OffloadingWorld = WORLD) -> tuple[offloading.Tasks, np.ndarray]:
    rng = np.random.default_rng(seed)
    tasks = offloading.sample(world, samples, rng)
    offloaded = rng.random(tasks.size_bit.shape) < 0.7
    offloaded[:, 0] = True
    return tasks, offloaded


def untrained(seed: int = 0, network: training.AllocatorKind = "paper") -> allocator.Allocator:
    return allocator.make(training.spec_of(network), seed).eval()


# ------------------------------------------------------------------------------------------------------------------ losses


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_the_losses_are_the_worlds_delays_over_their_optima(seed: int) -> None:
    tasks, offloaded = slots(seed)
    shares = torch.rand(4, 2, 6, generator=torch.Generator().manual_seed(seed)).double() + 0.05
    shares = torch.where(torch.from_numpy(offloaded)[:, None], shares, 0.0)
    shares = shares / shares.sum(-1, keepdim=True)
    work = Workload.of(WORLD, tasks, offloaded)
    best = training.optima_s(WORLD, tasks, offloaded)
    allocation = offloading.shared(WORLD, offloaded, shares[:, 0].numpy(), shares[:, 1].numpy())
    weighted = evaluate(WORLD, tasks, offloaded, allocation).weighted_delay_s
    delay_sum = np.where(offloaded, weighted, 0.0).sum(axis=1)
    loss_sum = work.sending(shares[:, 0]).numpy() * best[0] + work.computing(shares[:, 1]).numpy() * best[1]
    assert loss_sum == pytest.approx(delay_sum, rel=1e-4)
    assert (work.sending(shares[:, 0]) > 1 - 1e-5).all() and (work.computing(shares[:, 1]) > 1 - 1e-5).all()


def test_the_optimum_has_the_loss_one() -> None:
    tasks, offloaded = slots(3)
    best = offloading.best(WORLD, tasks, offloaded, over="weighted_delay")
    work = Workload.of(WORLD, tasks, offloaded)
    assert work.sending(torch.from_numpy(best.band_hz / WORLD.band_hz)).numpy() == pytest.approx(1.0, rel=1e-5)
    assert work.computing(torch.from_numpy(best.server_hz / WORLD.server_hz)).numpy() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("head", [0, 1])
def test_gradients_of_the_losses_against_finite_differences(head: int) -> None:
    tasks, offloaded = slots(5)
    work = Workload.of(WORLD, tasks, offloaded)
    logits = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)

    def loss(x: torch.Tensor) -> torch.Tensor:
        share = x.masked_fill(~work.present, float("-inf")).softmax(-1)
        return (work.sending(share) if head == 0 else work.computing(share)).mean()

    assert torch.autograd.gradcheck(loss, logits, atol=1e-5, rtol=1e-3)


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_a_networks_allocation_keeps_the_budgets_and_gives_nothing_to_tasks_at_home(seed: int) -> None:
    tasks, offloaded = slots(seed)
    allocation = training.allocation_of(untrained(), WORLD, tasks, offloaded, Size(3, 2))
    assert allocation.band_hz.sum(axis=1) == pytest.approx(WORLD.band_hz) and allocation.server_hz.sum(
        axis=1
    ) == pytest.approx(WORLD.server_hz)
    assert not allocation.band_hz[~offloaded].any() and (allocation.band_hz[offloaded] > 0).all()
    alone = training.allocation_of(untrained(), WORLD, tasks.pick([2]), offloaded[[2]], Size(3, 2))
    assert alone.band_hz[0] == pytest.approx(allocation.band_hz[2], rel=1e-4)


def test_nobody_offloaded_gets_nothing() -> None:
    tasks, _ = slots(1)
    allocation = training.allocation_of(untrained(), WORLD, tasks, np.zeros((4, 6), dtype=bool))
    assert not allocation.band_hz.any() and not allocation.server_hz.any()


# ---------------------------------------------------------------------------------------------------------------- training


def test_the_two_heads_touch_only_their_own_columns() -> None:
    net = untrained()
    learner = AllocatorLearner(WORLD, TINY, net)
    for number in range(2):  # Adam remembers: in the second round too
        learner.step(number)
    for head in (0, 1):
        before = {name: value.detach().clone() for name, value in net.named_parameters()}
        learner.heads[1 - head].step = lambda: None  # type: ignore[method-assign,assignment]
        learner.step(2 + head)
        moved = (net.output_weight - before["output_weight"]).abs().sum(0)
        assert moved[head] > 0 and moved[1 - head] == 0
        assert (net.output_bias - before["output_bias"])[1 - head] == 0
        learner = AllocatorLearner(WORLD, TINY, net)


def test_a_batch_has_a_task_in_each_slot_and_crowds_of_all_sizes() -> None:
    crowds = set()
    for step in range(30):
        tasks, offloaded = training.batch(OffloadingWorld(), 1920, generator("a test", step), step)
        assert offloaded.any(axis=1).all() and not (offloaded & ~tasks.present).any()
        crowds.add(tasks.size_bit.shape[1])
        assert step % 2 or tasks.size_bit.shape == (64, 30)
    assert min(crowds) >= 5 and max(crowds) <= 50 and len(crowds) > 10


def test_shrinking_goes_from_the_largest_over_the_widths_to_all() -> None:
    recipe = Recipe(steps=100)
    sizes = training.sizes_of(recipe)
    assert len(sizes) == 30 and sizes[0] == (10, 3) and sizes[-1] == (1, 1)
    pools = [training.phase(recipe, sizes, step) for step in range(100)]
    assert pools[0] == ((Size(10, 3),), 0.0) and len(pools[24][0]) == 1
    assert {s.depth for s in pools[25][0]} == {3} and len(pools[39][0]) == 10
    assert pools[40] == (sizes, 0.0) and pools[99][0] == sizes
    assert all(0 <= progress < 1 for _, progress in pools)
    three = training.drawn(recipe.model_copy(update={"way": "sandwich"}), sizes, generator("a test", 0))
    assert three[:2] == (sizes[0], sizes[-1])


def test_recipes_have_names_of_their_own() -> None:
    names = {Recipe(**change).name for change in ({}, {"seed": 1}, {"inputs": "plain"}, {"only": ((1, 1),)})}
    assert len(names) == 4
    assert training.sizes_of(Recipe(only=((2, 1), (10, 3)))) == (Size(10, 3), Size(2, 1))
    assert training.sizes_of(Recipe(network="static")) == (Size(1, 3),)


@pytest.mark.parametrize(("network", "only"), [("paper", ((10, 3), (4, 1))), ("per_user", ((32, 3), (16, 2)))])
def test_a_few_steps_beat_the_equal_split(network: training.AllocatorKind, only: Any) -> None:
    recipe = Recipe(network=network, way="sandwich", steps=70, tasks=300, only=only)
    tasks = offloading.sample(WORLD, 500, generator(training.EVALUATION, 0))
    present = tasks.present
    equal = evaluate(WORLD, tasks, present, offloading.equal(WORLD, tasks, present)).weighted_delay_s.sum()
    least = training.optima_s(WORLD, tasks, present).sum()
    trained = training.train(WORLD, recipe)
    excesses = training.excesses(trained.net, WORLD, training.sizes_of(recipe))
    assert all(-1e-6 <= e < (equal / least - 1) / 2 for e in excesses), (excesses, equal / least)


def test_shrinking_keeps_the_quality_of_the_large_network() -> None:
    recipe = Recipe(steps=120, tasks=240, only=((10, 3), (2, 3), (2, 1)), watched=30)
    looks = training.train(WORLD, recipe).report.looks
    assert [look.step for look in looks] == [30, 60, 90, 120]
    assert looks[-1].excess[0] < looks[0].excess[0] + 0.02
    assert looks[-1].excess[-1] < looks[0].excess[-1] / 2  # the small ones are nothing before they learn
    assert looks[0].seconds < looks[-1].seconds


def test_a_training_that_was_killed_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uninterrupted = training.train(WORLD, TINY, tmp_path / "whole")
    step, limit = AllocatorLearner.step, [4]

    def killed(self: AllocatorLearner, number: int) -> float:
        if number == limit[0]:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(AllocatorLearner, "step", killed)
    monkeypatch.setattr(learning.learn, "__kwdefaults__", {**learning.learn.__kwdefaults__, "every_s": 0.0})
    with pytest.raises(KeyboardInterrupt):
        training.train(WORLD, TINY, tmp_path)
    assert list(tmp_path.glob("*.checkpoint.npz"))
    limit[0] = -1
    again = training.train(WORLD, TINY, tmp_path)
    for name, value in uninterrupted.net.named_parameters():
        assert torch.equal(value, getattr(again.net, name)), name
    assert [look.excess for look in again.report.looks] == [look.excess for look in uninterrupted.report.looks]
    assert not list(tmp_path.glob("*.checkpoint.npz"))


def test_a_trained_network_is_read_and_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = training.train(WORLD, TINY, tmp_path)
    monkeypatch.setattr(AllocatorLearner, "step", lambda *_: pytest.fail("trained again"))
    loaded_band = training.train(WORLD, TINY, tmp_path)
    assert loaded_band.report == first.report
    tasks, offloaded = slots(2)
    band, loaded_band = (training.allocation_of(t.net, WORLD, tasks, offloaded).band_hz for t in (first, loaded_band))
    assert (band == loaded_band).all()


def test_stored_files_have_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a formula changed nothing of the old one is found: names hold world, recipe and format, of networks, schedulers and points."""
    few = TINY.model_copy(update={"steps": 1})
    models = experiment.TrainedModels(0, {}, Scheduler("kit", 0))

    def train_all() -> set[str]:
        for world in (WORLD, WORLD.model_copy(update={"gain": 2e-4})):
            training.train(world, few, tmp_path)
        experiment.scheduler_of(1, 0, tmp_path)
        return {p.name for p in tmp_path.glob("*.npz")}

    first = train_all()

    def point() -> str:
        return engine.digest(experiment.FORMAT, experiment._key(WORLD, models, experiment.Delays(), SHORT, True))

    before = point()
    assert len(first) == 3 and train_all() == first
    for module in (training, experiment):
        monkeypatch.setattr(module, "FORMAT", 99)
    assert len(train_all()) == 6 and point() != before


# --------------------------------------------------------------------------------------------------------------- scheduler


@given(st.floats(0.01, 0.99), st.floats(-5, 5), st.sampled_from(["corrected", "printed"]))
def test_the_expected_reward_is_eq_23_averaged(p: float, worth: float, form: Any) -> None:
    tensor = schedule.expected_reward(torch.tensor(p, dtype=torch.float64), torch.tensor(worth), form)
    expected = offloading.expected_rewards(np.array(p), np.array(worth), np.array(0.0), form=form)
    assert float(tensor) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(("form", "ends"), [("corrected", 0.0), ("printed", 0.25)])
def test_where_home_is_better_the_corrected_reward_learns_it_and_the_printed_one_offloads_every_fourth(
    form: Any, ends: float
) -> None:
    scheduler, tasks = Scheduler("paper", 0), slots(0, 64)[0]
    x, present = schedule.inputs_of("paper", WORLD, tasks)
    optimizer = torch.optim.Adam(scheduler.parameters(), lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        p = scheduler(x, present)
        (-schedule.expected_reward(p, torch.full_like(p, -1.0), form).mean()).backward()
        optimizer.step()
    assert float(scheduler(x, present).detach().mean()) == pytest.approx(ends, abs=0.02)


def test_schedulers_see_no_order_and_nobody_who_is_absent() -> None:
    world = OffloadingWorld(users=8)
    tasks = offloading.sample(world, 3, np.random.default_rng(0), present=5)
    order = np.random.default_rng(1).permutation(8)
    moved = offloading.Tasks(*(getattr(tasks, name)[:, order] for name in tasks.__dataclass_fields__))
    few = offloading.Tasks(*(getattr(tasks, name)[:, :5] for name in tasks.__dataclass_fields__))
    for kind in ("paper", "kit"):
        scheduler = Scheduler(kind, 3)
        p = scheduler(*schedule.inputs_of(kind, world, tasks))
        assert torch.allclose(p[:, order], scheduler(*schedule.inputs_of(kind, world, moved)), atol=1e-6)
        assert torch.allclose(p[:, :5], scheduler(*schedule.inputs_of(kind, world, few)), atol=1e-6)
        assert not p[:, 5:].any() and not schedule.decide(scheduler, world, tasks)[:, 5:].any()


def test_scaling_the_costs_changes_nothing_for_kits_scheduler() -> None:
    tasks, _ = slots(4)
    bigger = OffloadingWorld(users=6, delay_worth=3.0, energy_worth=0.3)
    one, other = (schedule.inputs_of("kit", world, tasks)[0] for world in (WORLD, bigger))
    assert torch.allclose(one, other, atol=1e-5)


def test_the_macs_of_the_schedulers_are_those_of_their_weights() -> None:
    def count(kind: Any, *first: str) -> int:
        return sum(v.numel() for n, v in Scheduler(kind, 0).named_parameters() if n.startswith(first))

    assert offloading.scheduler_macs(30) == 30 * count("paper", "w") + count("paper", "v")
    ranked = 30 * size.RANKED_OPERATIONS // 2
    assert offloading.scheduler_macs(30, "kit") == 30 * count("kit", "w", "g") + count("kit", "v") + ranked


def test_imitation_lowers_the_cost() -> None:
    world, scheduler = OffloadingWorld(users=10, server_hz=1e9), Scheduler("kit", 0)
    tasks = offloading.sample(world, 60, np.random.default_rng(9))
    _, least = offloading.flips_and_swaps(world, tasks)
    x, present = schedule.inputs_of("kit", world, tasks)

    def gaps() -> tuple[float, float]:
        alone = scheduler(x, present).detach().numpy() >= 0.5
        costs = [
            evaluate(world, tasks, decision, offloading.best(world, tasks, decision)).cost.sum()
            for decision in (schedule.decide(scheduler, world, tasks), alone)
        ]
        return float(costs[0] / least.sum() - 1), float(costs[1] / least.sum() - 1)

    before, imitation = gaps(), Imitation(scheduler, 160, seed=0, slots=12)
    for number in range(160):
        imitation.step(number)
    after = gaps()
    assert len(imitation.examples) == 20  # each learned from eight times
    assert 0 <= after[0] < 0.01 and after[0] < before[0] / 4 and after[0] < after[1] < before[1] / 4


def test_a_scheduler_is_stored(tmp_path: Path) -> None:
    first, again = (experiment.scheduler_of(1, 0, tmp_path) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    next(tmp_path.glob("scheduler-kit-1-0-*.npz")).write_bytes(b"nothing")
    with pytest.raises(BadModel, match="train again"):
        experiment.scheduler_of(1, 0, tmp_path)


def test_an_imitation_that_goes_on_ends_with_the_same_bits() -> None:
    def learner() -> Imitation:
        return Imitation(Scheduler("kit", 1), 16, seed=1, slots=4)

    uninterrupted, first, second = learner(), learner(), learner()
    for n in range(4):
        uninterrupted.step(n)
    for n in range(2):
        first.step(n)
    second.restore(first.state())
    for n in range(2, 4):
        second.step(n)
    assert all(
        torch.equal(a, b)
        for a, b in zip(uninterrupted.scheduler.parameters(), second.scheduler.parameters(), strict=True)
    )


# ------------------------------------------------------------------------------------------------------------------ policy


def test_eq_29_is_the_squared_distance_from_the_label_of_eq_28() -> None:
    costs = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.5, 4.0]])
    outputs = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    assert float(loss_of(outputs, costs, "labels")) == pytest.approx((0.0 + 0.25 + 0.25) / 2)
    certain = torch.tensor([[0.0, 50.0, 0.0], [50.0, 0.0, 0.0]])
    assert float(loss_of(certain, costs, "costs")) == pytest.approx(0.0, abs=1e-6)
    assert float(loss_of(-certain, costs, "costs")) > 50.0


@pytest.mark.parametrize("loss", ["labels", "costs"])
def test_a_policy_learns_to_take_the_large_network_for_large_tasks(loss: Any) -> None:
    tasks = offloading.sample(WORLD, 300, np.random.default_rng(0))
    scale = np.where(np.arange(300) % 2, 4.0, 0.1)[:, None]
    tasks = offloading.Tasks(tasks.size_bit * scale, *(getattr(tasks, n) for n in list(tasks.__dataclass_fields__)[1:]))
    costs = np.stack([np.full(300, 1.0), np.where(scale[:, 0] > 1, 0.8, 1.2)], axis=1)
    policy = Policy(SIZES, 0)
    fit(policy, summary(WORLD, tasks, tasks.present), costs, loss=loss, steps=300, seed=0)
    choice = policy.choose(WORLD, tasks, tasks.present)
    assert (choice == costs.argmin(axis=1)).mean() > 0.98


def test_costs_are_eq_25_of_the_offloaded_and_choosing_gives_each_slot_its_own_size() -> None:
    tasks, offloaded = slots(6, 5)
    net, delay = untrained(), Analytic()
    table = costs_of(net, WORLD, tasks, offloaded, SIZES, delay)
    choice = np.array([0, 1, 1, 0, 1])
    allocation, inference = allocation_by(net, WORLD, tasks, offloaded, SIZES, choice, delay)
    cost = np.where(offloaded, evaluate(WORLD, tasks, offloaded, allocation, inference).cost, 0.0).sum(axis=1)
    assert cost / offloaded.sum(axis=1) == pytest.approx(table[np.arange(5), choice], rel=1e-4)
    sizes = [offloading.inference_of(WORLD, delay, *SIZES[i]).edge_s for i in choice]
    assert inference.edge_s == pytest.approx(sizes)


# ------------------------------------------------------------------------------------------------------------------- joint


@pytest.mark.parametrize("form", ["corrected", "printed"])
def test_the_overall_reward_descends_what_a_task_takes_from_the_others(form: Any) -> None:
    """Eq. 26: the slope of the mean of all rewards in one probability, its own decision and the others' costs averaged out by hand."""
    world, tasks = OffloadingWorld(users=20), slots(8, 1, OffloadingWorld(users=20))[0]
    rng = np.random.default_rng(8)
    p, offloaded = rng.uniform(0.05, 0.95, (1, 20)), rng.random((1, 20)) < 0.6
    home = offloading.home_costs(world, tasks)
    each = offloading.expected_rewards(p, np.ones((1, 20)), np.zeros((1, 20)), form=form)
    taken = offloading.burdens(world, tasks, offloaded, each)
    for i in range(20):
        changed = [offloaded.copy(), offloaded.copy()]
        changed[0][0, i], changed[1][0, i] = False, True
        without, with_ = (offloading.joined_costs(world, tasks, d) for d in changed)
        rewards = [(home - edge) * each for edge in (without, with_)]
        others = np.arange(20) != i
        exact = (rewards[0] - rewards[1])[0, others].sum()
        assert taken[0, i] == pytest.approx(exact, rel=0.25, abs=0.02 * np.abs(taken).max())


def test_crediting_a_task_with_all_rewards_offloads_less_and_costs_less() -> None:
    world = OffloadingWorld(users=12, server_hz=4e8)
    training_set = PolicyTrainingSet.of(untrained(), world, slots(0, 8, world)[0], Analytic(), SIZES)
    tasks = offloading.sample(world, 100, np.random.default_rng(1))
    results = {}
    for credit in ("own", "overall"):
        recipe = JointRecipe(episodes=150, slots=16, pretraining=8, pretraining_steps=5, labelled=1000, credit=credit)
        scheduler = train_jointly(untrained(), world, None, training_set, recipe).scheduler
        decision = schedule.decide(scheduler, world, tasks)
        cost = evaluate(world, tasks, decision, offloading.best(world, tasks, decision)).cost.sum()
        results[credit] = (decision.mean(), cost)
    assert results["overall"][0] < results["own"][0] and results["overall"][1] < 0.98 * results["own"][1]


def test_algorithm_1_runs_and_goes_on_where_it_stopped() -> None:
    recipe = JointRecipe(episodes=4, slots=4, pretraining=8, pretraining_steps=5, labelled=2)
    training_set = PolicyTrainingSet.of(untrained(), WORLD, slots(0, 8)[0], Analytic(), SIZES)
    networks = train_jointly(untrained(), WORLD, Analytic(), training_set, recipe)
    assert np.isfinite(networks.rewards).all() and len(networks.rewards) == 4

    def episodes() -> Episodes:
        return Episodes(untrained(), WORLD, Analytic(), Policy(SIZES, 0), Scheduler("paper", 0), recipe)

    uninterrupted, first, second = episodes(), episodes(), episodes()
    for n in range(4):
        uninterrupted.step(n)
    for n in range(2):
        first.step(n)
    second.restore(first.state())
    for n in range(2, 4):
        second.step(n)
    assert all(
        torch.equal(a, b)
        for a, b in zip(uninterrupted.scheduler.parameters(), second.scheduler.parameters(), strict=True)
    )
    assert all(
        torch.equal(a, b) for a, b in zip(uninterrupted.policy.parameters(), second.policy.parameters(), strict=True)
    )


# ----------------------------------------------------------------------------------------------------------------- figures

SHORT = experiment.Settings(
    seeds=(0, 1),
    steps=4,
    imitation_steps=2,
    joint=JointRecipe(episodes=2, slots=3, pretraining=6, pretraining_steps=3, labelled=1),
    slots=6,
    genetic=0,
    quick=True,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    shares: list[float] = []
    folder = tmp_path_factory.mktemp("networks")
    small = {key: (*sweep[:2], sweep[2][:1], *sweep[3:]) for key, sweep in figures.SWEEPS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "SWEEPS", small)
        patch.setattr(figures, "QUICK_PLACES", (0,))
        patch.setattr(training, "USERS_MAX", 12)
        progress = Progress(lambda text, share: shares.append(share))
        out = figures.results_of(WORLD, experiment.Delays(), SHORT, (), folder, progress)
    assert shares and all(0 <= share <= 1 for share in shares)
    return out


def test_every_figure_is_made(results: Results) -> None:
    names = {f.figure.split("-")[0].rstrip("abcd") for f in results.figures}
    assert names == set(figures.FIGURES) - {"fig12"}
    assert len({f.figure for f in results.figures}) == len(results.figures)
    assert {"fig5a", "fig6b", "fig7c", "fig8d", "fig9a"} <= {f.figure for f in results.figures}
    assert all("quick" in f.title for f in results.figures) and "Quick" in results.figures[0].notes[0]
    assert set(results.trained) == {r.name for s in (0, 1) for r in experiment.recipes(SHORT, s).values()}


def test_nothing_lies_below_the_optimum(results: Results) -> None:
    """Each limit limits what its name says: the figure of that measure, and no other."""
    limits = {
        "fig5": experiment.OPTIMA["delay"], "fig5-weighted": experiment.OPTIMA["weighted_delay"],
        "fig5-cost": experiment.OPTIMA["cost"], "fig7": experiment.REFERENCES["delay"],
        "fig7-cost": experiment.REFERENCES["cost"],
    }  # fmt: skip
    kinds = set()
    for figure in results.figures:
        kind = re.sub("^(fig.)[abcd]", r"\1", figure.figure)
        if kind in limits:
            kinds.add(kind)
            lines = {line.name: line.values for line in figure.lines}
            least = lines.pop(limits[kind])
            for name, values in lines.items():
                assert all(v >= b * (1 - 1e-6) for v, b in zip(values, least, strict=True) if v is not None), (
                    figure.figure,
                    name,
                )
    assert kinds == set(limits)


def test_a_figure_says_whether_its_metric_is_what_is_minimised(results: Results) -> None:
    notes = {f.figure: " ".join(f.notes) for f in results.figures}
    assert (
        "The mean delay is not what is minimised" in notes["fig7a"]
        and "what scheduler and policy learn" in notes["fig7a-cost"]
    )
    assert (
        "The mean delay is not what is minimised" in notes["fig5a"]
        and "what the networks learn" in notes["fig5a-weighted"]
    )
    assert "the paper draws it below" in notes["fig8a"] and "lies random offloading at" in notes["fig7d"]
    lines = {line.name: line.values for f in results.figures if f.figure == "fig7a" for line in f.lines}
    below = sum(a < b for a, b in zip(lines["Policy MoE (random)"], lines[experiment.PMRL], strict=True))
    assert f"below {experiment.PMRL} lies random offloading at {below}," in notes["fig7a"]


def test_the_decisions_alone_are_a_figure(results: Results) -> None:
    lines = {line.name: line for f in results.figures if f.figure == "fig7b-decisions" for line in f.lines}
    assert set(lines) == {experiment.PMRL, experiment.KIT, experiment.SLOW, "all offloaded"}
    assert all(v is not None and v >= -1e-9 for line in lines.values() for v in line.values)


def test_the_quality_is_that_of_every_size(results: Results) -> None:
    quality = results.quality
    assert quality is not None and quality.family == "allocator_b" and quality.task_bit == WORLD.size_mean_bit
    assert len(quality.delay_s) == 30 and {"1,1", "10,3"} <= set(quality.delay_s) and min(quality.delay_s.values()) > 0


def test_table_1_is_exact(results: Results) -> None:
    line = figures.table1(OffloadingWorld()).lines[0]
    assert line.values[:3] == (87_040.0, 5_126_400.0, 2_553_600.0) and line.published[:2] == (87_040.0, 5.126e6)


def test_the_bars_are_numbers(results: Results) -> None:
    bars = results.parameters["bars"]
    assert isinstance(bars, dict) and len(bars) == 10 and all(np.isfinite(value) for value in bars.values())  # type: ignore[arg-type]
    assert bars[f"{experiment.KIT}: decisions above the reference, worst"] >= -1e-9  # type: ignore[operator]


def test_an_unknown_figure() -> None:
    with pytest.raises(UnknownName, match="fig5"):
        check_figures(["fig55"], figures.FIGURES)


def test_what_training_takes_has_three_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "SIZES", (Size(10, 3), Size(2, 3), Size(10, 1)))
    monkeypatch.setattr(
        training, "sizes_of", lambda recipe, of=training.sizes_of: of(recipe) if recipe.only else figures.SIZES
    )
    shown = figures.fig12(WORLD, SHORT, tmp_path, Progress())
    assert [f.figure for f in shown] == ["fig12", "fig12-until", "fig12-quality", "fig12-sizes"]
    times = {line.name: line.values for line in shown[0].lines}
    assert set(times) == {"scratch", "shrinking", "sandwich"} and all(v is not None and v > 0 for v in times["scratch"])


# ------------------------------------------------------------------------------------------------------------------ delays


def timings(*sizes: str) -> tuple[SizeTiming, ...]:
    return tuple(SizeTiming(size=s, clock_hz=2.5e9, median_s=1e-5, macs=1.0, record_id="r") for s in sizes)


def test_a_network_that_was_not_measured_counts_as_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    every = [f"{k},{layers}" for k, layers in experiment.SIZES]
    measured = {"allocator_b": Measured(timings=timings(*every)), "allocator_u_b": Measured(timings=timings("8,3"))}

    def read(text: str, family: str) -> Measured:
        if family not in measured:
            raise UsageError("nothing") if text == "bad" else experiment.BadRecord("nothing")
        return measured[family]

    monkeypatch.setattr(experiment, "delay_of", read)
    delays = experiment.delays_of("measured:x")
    assert any("allocator_b_static" in note for note in delays.notes)
    assert delays.inference(WORLD, "static", Size(1, 3)).edge_s == pytest.approx(1e-5)
    assert delays.inference(WORLD, "per_user", experiment.OWN).edge_s == pytest.approx(1e-5)
    measured["allocator_b"] = Measured(timings=timings("10,3", "1,1"))
    few = experiment.delays_of("measured:x")
    assert few.sizes == (Size(10, 3), Size(1, 1)) and any("among the 2" in note for note in few.notes)
    measured["allocator_b"] = Measured(timings=timings("10,3"))
    with pytest.raises(experiment.BadRecord, match="profile at least"):
        experiment.delays_of("measured:x")
