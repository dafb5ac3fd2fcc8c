"""Paper A's networks learn: the loss is the world's delay, its gradient the finite difference's, and what comes out keeps the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kit.allocators import fileformat
from kit.allocators.fileformat import Size
from kit.errors import BadRecord, UnknownName, UsageError
from kit.papers import bandwidth, learning
from kit.papers.bandwidth import BandwidthWorld, Tasks, experiment, figures, train
from kit.papers.bandwidth.experiment import BandwidthPoint, Delays, Experiment, Limits, Settings, size_key
from kit.papers.bandwidth.train import Recipe, TrainedAllocator
from kit.papers.delays import Analytic, Measured
from kit.records import SizeTiming

WORLD = BandwidthWorld(users=6, experts=4)
SEEDS = st.integers(0, 2**32 - 1)
TINY: dict[str, Any] = {"steps": 12, "batch": 16}


@pytest.fixture(scope="module")
def short_trainings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainedAllocator]:
    """One short training of each network."""
    folder = tmp_path_factory.mktemp("networks")
    recipes = {
        "paper": Recipe(steps=150, batch=64, rate=1e-2),
        "static": Recipe(network="static", order="fixed:4", steps=150, batch=64, rate=1e-2),
        "per_user": Recipe(network="per_user", order="sandwich", steps=150, batch=48, rate=1e-2),
    }
    with learning.one_thread():
        return {name: train.train(WORLD, recipe, folder) for name, recipe in recipes.items()}


def frames(seed: int, samples: int = 3, present: int | None = None) -> Tasks:
    return bandwidth.sample(WORLD, samples, np.random.default_rng(seed), present=present)


# ------------------------------------------------------------------------------------------------------------------- loss


@given(SEEDS, st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_the_loss_is_the_worlds_delay_and_its_gradient_the_finite_differences(seed: int, present: int) -> None:
    tasks = frames(seed, samples=2, present=present)
    shares = np.random.default_rng(seed).uniform(0.05, 1.0, tasks.size_bit.shape) * tasks.present
    shares /= shares.sum(axis=1, keepdims=True)

    def exact(shares: np.ndarray) -> float:
        return float(bandwidth.weighted_delay_s(WORLD, tasks, shares * WORLD.band_hz).sum())

    tensor = torch.tensor(shares, requires_grad=True)
    loss = train.mean_delay_s(WORLD, tasks, tensor).sum()
    assert float(loss.detach()) == pytest.approx(exact(shares), rel=1e-9)
    loss.backward()
    assert tensor.grad is not None
    row, user, near = 1, present - 1, 1e-6
    step = np.zeros_like(shares)
    step[row, user] = near
    slope = (exact(shares + step) - exact(shares - step)) / (2 * near)
    assert float(tensor.grad[row, user]) == pytest.approx(slope, rel=1e-4)
    assert not tensor.grad[:, present:].any()


def test_a_share_of_nothing_costs_much_but_not_infinitely() -> None:
    tasks = frames(0, samples=1)
    shares = torch.zeros(1, 6, requires_grad=True)
    loss = train.mean_delay_s(WORLD, tasks, shares).sum()
    assert torch.isfinite(loss) and float(loss.detach()) > 1.0


# ----------------------------------------------------------------------------------------------------------- what comes out


@given(SEEDS, st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_budgets_hold_and_nothing_lies_below_the_optimum(
    short_trainings: dict[str, TrainedAllocator], seed: int, present: int
) -> None:
    tasks = frames(seed, samples=4, present=present)
    least = bandwidth.weighted_delay_s(WORLD, tasks, bandwidth.best_band(WORLD, tasks))
    for trained in short_trainings.values():
        for size in train.sizes_of(trained.net.spec, trained.training.recipe.order)[::3]:
            shares = train.shares_of(WORLD, trained.net, tasks, size)
            assert shares.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-12)
            assert (shares >= 0).all() and not shares[:, present:].any()
            delays = bandwidth.weighted_delay_s(WORLD, tasks, shares * WORLD.band_hz)
            assert (delays >= least * (1 - 1e-9)).all()


def test_a_short_training_beats_the_equal_split(short_trainings: dict[str, TrainedAllocator]) -> None:
    tasks = frames(5, samples=500)
    limits = experiment.limits_of(WORLD, tasks)
    assert limits.optimum_s < limits.root_s < limits.equal_s
    for trained in short_trainings.values():
        assert limits.optimum_s < train.delay_s(WORLD, trained.net, tasks) < limits.equal_s
        curve = trained.training.curve
        assert len(curve) == 100 and np.mean(curve[-10:]) < np.mean(curve[:10])


@given(SEEDS, st.permutations(range(6)))
@settings(max_examples=15, deadline=None)
def test_the_per_user_network_does_not_care_who_comes_first(
    short_trainings: dict[str, TrainedAllocator], seed: int, order: list[int]
) -> None:
    net = short_trainings["per_user"].net
    tasks = frames(seed)
    moved = Tasks(*(a[:, order] for a in (tasks.size_bit, tasks.weight, tasks.distance_m)))
    for size in train.PER_USER:
        assert train.shares_of(WORLD, net, moved, size) == pytest.approx(
            train.shares_of(WORLD, net, tasks, size)[:, order], abs=1e-5
        )


def test_the_per_user_network_serves_any_number_of_users(short_trainings: dict[str, TrainedAllocator]) -> None:
    net = short_trainings["per_user"].net
    assert net.spec.users == 50
    few = frames(1, present=4)
    alone = Tasks(*(a[:, :4] for a in (few.size_bit, few.weight, few.distance_m)))
    shares = train.shares_of(WORLD.model_copy(update={"users": 4}), net, alone)
    assert train.shares_of(WORLD, net, few)[:, :4] == pytest.approx(shares, abs=1e-6)
    crowd = WORLD.model_copy(update={"users": 50})
    assert train.shares_of(crowd, net, bandwidth.sample(crowd, 2, np.random.default_rng(0))).shape == (2, 50)


def test_a_split_does_not_know_the_scale_of_the_sizes(short_trainings: dict[str, TrainedAllocator]) -> None:
    tasks = frames(2)
    larger = Tasks(tasks.size_bit * 7.0, tasks.weight, tasks.distance_m)
    for trained in short_trainings.values():
        shares = train.shares_of(WORLD, trained.net, tasks)
        assert train.shares_of(WORLD, trained.net, larger) == pytest.approx(shares, abs=1e-5)


# ------------------------------------------------------------------------------------------------------ recipes and resuming


def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, order in (("paper", "random_k"), ("per_user", "sandwich")):
        recipe = Recipe(network=kind, order=order, **TINY)  # type: ignore[arg-type]
        uninterrupted = train.train(WORLD, recipe, tmp_path / "whole")
        monkeypatch.setattr(learning, "CHECKPOINT_S", 0.0)
        monkeypatch.setattr(learning.learn, "__kwdefaults__", {**learning.learn.__kwdefaults__, "every_s": 0.0})

        def dies(steps_done: int, steps: int, loss: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(learning, "PROGRESS_S", -1.0)
        for _ in range(3):  # a step each
            with pytest.raises(KeyboardInterrupt):
                train.train(WORLD, recipe, tmp_path / "killed", dies_after(2, dies))
        monkeypatch.undo()
        assert list((tmp_path / "killed").glob("*.checkpoint.npz"))
        again = train.train(WORLD, recipe, tmp_path / "killed")
        assert not list((tmp_path / "killed").glob("*.checkpoint.npz"))
        for one, other in zip(uninterrupted.net.parameters(), again.net.parameters(), strict=True):
            assert torch.equal(one, other)
        files = [tmp_path / run / f"{uninterrupted.name}{fileformat.SUFFIX}" for run in ("whole", "killed")]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert again.training.curve == uninterrupted.training.curve


def dies_after(calls: int, death: Any) -> Any:
    left = [calls]

    def count_down(steps_done: int, steps: int, loss: float) -> None:
        left[0] -= 1
        if left[0] < 0:
            death(steps_done, steps, loss)

    return count_down


def test_what_was_trained_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(**TINY)
    first = train.train(WORLD, recipe, tmp_path)
    monkeypatch.setattr(learning, "learn", None)
    again = train.train(WORLD, recipe, tmp_path)
    assert again.training == first.training
    tasks = frames(0)
    assert (train.shares_of(WORLD, again.net, tasks) == train.shares_of(WORLD, first.net, tasks)).all()
    network = fileformat.read(tmp_path / f"{first.name}{fileformat.SUFFIX}")
    assert network.size == Size(4, 2) and network.users == 6
    with pytest.raises(TypeError):  # another seed is another network: it would have to be trained
        train.train(WORLD, recipe.model_copy(update={"seed": 1}), tmp_path)


def test_a_schedule_that_is_stopped_is_no_short_schedule(tmp_path: Path) -> None:
    """Stopped at step 5 of 12: the first five losses of the whole, not those of a schedule of five."""
    curve = train.train(WORLD, Recipe(**TINY), tmp_path).training.curve
    stopped = train.train(WORLD, Recipe(**TINY, stopped=5), tmp_path).training.curve
    short = train.train(WORLD, Recipe(**{**TINY, "steps": 5}), tmp_path).training.curve
    assert len(stopped) == len(short) == 5 and stopped == curve[:5]
    assert stopped[:2] == short[:2] and stopped[-1] != short[-1]  # the first rate is the same, the later ones are not
    assert Recipe(**TINY, stopped=50).steps_done == 12 and len(list(tmp_path.glob("*.alloc.npz"))) == 3


def test_stored_files_have_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a formula changed nothing of the old one is found: names hold world, recipe and format."""
    worlds = (WORLD, WORLD.model_copy(update={"gain": 2e-4}))
    names = {train.train(world, Recipe(**{**TINY, "steps": 1}), tmp_path).name for world in worlds}
    monkeypatch.setattr(train, "FORMAT", 99)
    names |= {train.train(world, Recipe(**{**TINY, "steps": 1}), tmp_path).name for world in worlds}
    assert len(names) == 4


def test_each_order_names_its_sizes() -> None:
    paper, static = train.spec_of(WORLD, "paper"), train.spec_of(WORLD, "static")
    assert [s.width for s in train.sizes_of(paper, "random_k")] == [1, 2, 3, 4]
    assert train.sizes_of(paper, "fixed:3") == [Size(3, 2)]
    assert train.sizes_of(static, "random_k") == [Size(4, 2)]
    per_user = train.sizes_of(train.spec_of(WORLD, "per_user"), "sandwich")
    assert per_user[0] == Size(4, 1) and per_user[-1] == Size(32, 3) and set(train.PER_USER) <= set(per_user)
    with pytest.raises(UsageError, match="no sub-network of 9 experts"):
        train.sizes_of(paper, "fixed:9")
    with pytest.raises(ValidationError, match="give random_k, sandwich or fixed:K"):
        Recipe(order="random")
    with pytest.raises(UsageError, match="Torch finds no device 'abacus' here: take --device cpu"):
        train.train(WORLD, Recipe(device="abacus"), Path("nowhere"))


# ---------------------------------------------------------------------------------------------------------------- figures


def experiment_of(**changes: Any) -> Experiment:
    """Made-up delays of two seeds in the paper's world: no training."""

    def point(seed: int) -> BandwidthPoint:
        widths = {str(k): 1.63e-3 * (1 + 0.01 / k + 1e-3 * seed) for k in train.WIDTHS}
        return BandwidthPoint(
            seed=seed, mixture=widths, mixture_known=widths, early=widths, early_known=widths, static_s=1.64e-3,
            early_static_s=1.9e-3, stopped=widths, stopped_static_s=1.9e-3,
            per_user=dict.fromkeys(map(size_key, train.PER_USER), 1.625e-3), users_excess=((1e-4,) * 4,) * 4,
        )  # fmt: skip

    settings_ = Settings(seeds=(0, 1), **changes)
    return Experiment(BandwidthWorld(), settings_, Limits(1.62e-3, 1.98e-3, 1.625e-3), (point(0), point(1)), ())


def timed(*rows: tuple[str, float]) -> Measured:
    return Measured(
        timings=tuple(SizeTiming(size=k, clock_hz=2e9, median_s=s, record_id="") for k, s in rows), source="a test"
    )


def test_every_figure_of_the_paper_is_made() -> None:
    by_name = {f.figure: f for f in figures.figures_of(experiment_of(), Delays())}
    assert {name.partition("-")[0] for name in by_name} == set(figures.FIGURES)
    one = by_name["table1"].lines[0]
    assert one.published == (1.967e-3, 1.922e-3, 1.873e-3, 1.859e-3, 1.849e-3, 1.841e-3, 1.846e-3)
    assert one.low and one.low[0] < one.values[0] < one.high[0]  # type: ignore[operator]
    assert by_name["table2"].lines[0].values[-1] == pytest.approx(one.values[0] + 0.375 * 2 * 2174 / 0.5e9)  # type: ignore[operator]
    assert by_name["table2"].lines[0].published[-1] == pytest.approx(1.971e-3)
    best = np.array([line.values for line in by_name["fig3-printed"].lines])
    assert (np.diff(best, axis=0) >= 0).all() and (np.diff(best, axis=1) >= 0).all()
    knowledge = by_name["fig4-printed"].lines[0]
    assert knowledge.published == bandwidth.FIG4
    for ours, printed in zip(knowledge.values, knowledge.published, strict=True):
        assert ours == pytest.approx(printed, abs=0.01)
    assert len(figures.figures_of(experiment_of(), Delays(), ["fig2"])) == 1
    with pytest.raises(UnknownName, match="did you mean 'table1'"):
        figures.figures_of(experiment_of(), Delays(), ["table11"])
    short = figures.figures_of(experiment_of(quick=True, steps=7), Delays(None, None, None), ["table2"])[0]
    assert short.title.endswith("(quick)") and "7 steps" in short.notes[0]


def test_printed_values_are_shown_for_the_papers_world_alone() -> None:
    papers = experiment_of()
    other = Experiment(
        BandwidthWorld(size_mean_bit=1e5), papers.settings, Limits(1.62e-4, 1.98e-4, 1.625e-4), papers.points, ()
    )
    for of, printed in ((papers, True), (other, False)):
        by_name = {f.figure: f for f in figures.figures_of(of, Delays(), ["table1", "table2", "fig2"])}
        assert any(line.published for f in by_name.values() for line in f.lines) is printed
        assert any("The printed delays lie" in note for note in by_name["table1"].notes) is printed
        assert any(line.name == figures.PRINTED for line in by_name["table1-excess"].lines) is printed
    assert "average size 100 kbit" in by_name["table1"].title


def test_both_readings_of_fifty_steps_are_shown() -> None:
    names = [line.name for line in figures.figures_of(experiment_of(), Delays(), ["table1"])[0].lines]
    assert names[1:3] == ["mixture, a schedule of 50 steps", "mixture, stopped at step 50 of 4,000"]


def test_measured_times_change_the_choice_and_say_so() -> None:
    calls = timed(*((str(k), 50e-6) for k in train.WIDTHS))  # a call overhead hides the width
    delays = Delays(calls, calls, None, per_user_sizes=(), notes=("left out",))
    by_name = {f.figure: f for f in figures.figures_of(experiment_of(), delays)}
    assert all(v == 30 for line in by_name["fig3-printed"].lines for v in line.values)
    assert "chooses another width in" in by_name["fig3-printed"].notes[1]
    saved = by_name["fig4-saved"]
    assert saved.x[-1] == figures.FORMULA and "With measured times (a test)" in saved.notes[0]
    assert saved.lines[1].name == "table I as printed, at 2 GHz"
    assert saved.lines[1].values[1] == pytest.approx(0.0, abs=1e-12)  # K = 30 is the choice
    assert all((v or 0) >= 0 for line in saved.lines for v in line.values)
    assert "per-user" not in " ".join(line.name for line in by_name["table2"].lines)


def test_knowledge_is_evaluated_on_other_frames() -> None:
    """A knowledge of wrong delays loses: the figure shows how much at worst."""
    of = experiment_of()
    wrong = of.points[0].model_copy(update={"mixture_known": {str(k): 1e-3 * k for k in train.WIDTHS}})
    saved = figures.figures_of(
        Experiment(of.world, of.settings, of.limits, (wrong,), ()), Delays(None, None, None), ["fig4"]
    )
    assert "more than 0.97 % above the best fixed width" in " ".join(saved[-1].notes)


def test_delays_of_each_network(monkeypatch: pytest.MonkeyPatch) -> None:
    assert experiment.delays_of("none") == Delays(None, None, None)
    assert experiment.delays_of("analytic:lambda=0.5").mixture == Analytic(factor=0.5)
    with pytest.raises(UsageError, match="write none, analytic"):
        experiment.delays_of("fast")
    measured_times = {"allocator_a": timed(("1", 1e-6), ("30", 8e-6)), "allocator_u": timed(("4,1", 1e-6))}

    def measured(text: str, family: str) -> Measured:
        if family not in measured_times:
            raise BadRecord("not there")
        return measured_times[family]

    monkeypatch.setattr(experiment, "delay_of", measured)
    delays = experiment.delays_of("measured:k.json")
    assert (
        delays.widths == ("1", "30")
        and delays.per_user_sizes == (Size(4, 1),)
        and "static network was not measured" in delays.notes[0]
    )
    assert float(delays.mixture_s("static", 2e9)) == pytest.approx(8e-6)
    assert delays.clock_hz(BandwidthWorld()) == 2e9
    measured_times["allocator_u"] = timed(*((f"{s.width},{s.depth}", 1e-6) for s in train.PER_USER))
    measured_times["allocator_a_static"] = timed(("30", 7e-6))
    delays = experiment.delays_of("measured:k.json")
    assert (
        delays.per_user_sizes == train.PER_USER
        and not delays.notes
        and float(delays.mixture_s("static", 1e9)) == pytest.approx(14e-6)
    )
    assert float(delays.per_user_s(BandwidthWorld(), Size(4, 1), 2e9)) == pytest.approx(1e-6)
    measured_times["allocator_a"] = timed(("2", 1e-6), ("30", 8e-6))
    with pytest.raises(BadRecord, match=r"Too few widths of allocator_a were measured \(2 30\): profile 1 2 5"):
        experiment.delays_of("measured:k.json")
