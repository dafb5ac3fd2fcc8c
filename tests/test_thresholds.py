"""When to leave a network early: every combination is counted right, the choice keeps its loss on images that it does not see."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from kit.early_exit import thresholds
from kit.early_exit.thresholds import Outcomes
from kit.errors import BadRecord

SEGMENT_S = (1.0, 0.5, 2.0, 1.0)


def outcomes(count: int, seed: int, exits: int = 4) -> Outcomes:
    """Exits that are the better the later they come, on images of which some are easy for all."""
    rng = np.random.default_rng(seed)
    labels, ease = rng.integers(0, 10, count), rng.normal(size=count)
    logits = []
    for skill in (1.0, 2.0, 3.0, 3.6)[:exits]:
        scores = rng.normal(size=(count, 10)) * 1.2
        scores[np.arange(count), labels] += skill + 1.5 * ease
        logits.append(scores.astype(np.float32))
    return thresholds.of_logits(logits, labels)


def simulated(given: Outcomes, criterion: thresholds.Criterion, choice: tuple[float | None, ...]) -> tuple[float, int]:
    """(mean seconds, right answers), image by image."""
    seconds, right = [], 0
    for image in range(given.count):
        spent_s = 0.0
        for number in range(len(given.correct)):
            spent_s += SEGMENT_S[number]
            limit = choice[number] if number < len(choice) else None
            value = (given.confidence if criterion == "confidence" else given.entropy)[number, image]
            sure = limit is not None and (value >= limit if criterion == "confidence" else value <= limit)
            if sure or number == len(given.correct) - 1:
                right += bool(given.correct[number, image])
                break
        seconds.append(spent_s)
    return float(np.mean(seconds)), right


@pytest.mark.parametrize("criterion", thresholds.CRITERIA)
@pytest.mark.parametrize("exits", [2, 3, 4])
def test_every_combination_is_counted_as_image_by_image(criterion: thresholds.Criterion, exits: int) -> None:
    given = outcomes(60, 1, exits)
    search = thresholds._Search(given, SEGMENT_S[:exits], criterion)
    places = list(itertools.product(*(range(n) for n in search.right.shape)))
    for place in places[:: max(1, len(places) // 60)]:
        seconds, right = simulated(given, criterion, search._table.thresholds(place))
        assert search.expected_s[place] == pytest.approx(seconds) and search.right[place] == right
    assert search.right[(-1,) * (exits - 1)] == given.correct[-1].sum()


@pytest.mark.parametrize("criterion", thresholds.CRITERIA)
def test_the_choice_is_the_fastest_of_those_that_keep_the_loss(criterion: thresholds.Criterion) -> None:
    given = outcomes(60, 2)
    search = thresholds._Search(given, SEGMENT_S, criterion)
    for loss in (0.0, 0.05, 0.3):
        choice = search.best(loss)
        kept = search.right >= given.correct[-1].sum() - loss * 60
        assert choice.expected_s == pytest.approx(search.expected_s[kept].min())
        seconds, right = simulated(given, criterion, choice.thresholds)
        assert (choice.expected_s, choice.accuracy * 60) == (pytest.approx(seconds), pytest.approx(right))


@pytest.mark.parametrize(("count", "loss_allowed"), [(250, 0.02), (1000, 0.02), (4000, 0.013)])
def test_the_loss_is_kept_on_other_images(count: int, loss_allowed: float) -> None:
    """In the mean of ten data sets, a loss of a point; chosen without held-out images, 250 lose three."""
    lost = []
    for seed in range(10):
        fresh = outcomes(20_000, 1000 + seed)
        choice = thresholds.choose(outcomes(count, seed), SEGMENT_S, 0.01)
        lost.append(-fresh.with_exits(fresh.left_at(choice.criterion, choice.thresholds)).change[0])
        assert choice.expected_s < sum(SEGMENT_S)
    assert np.mean(lost) < loss_allowed


def test_a_network_whose_exits_know_nothing_runs_to_its_end() -> None:
    given = outcomes(400, 3)
    given.correct[:-1] = False
    choice = thresholds.choose(given, SEGMENT_S, 0.0)
    left = given.left_at(choice.criterion, choice.thresholds)
    assert (left == 3).all() and choice.expected_s == pytest.approx(sum(SEGMENT_S))


def test_more_may_be_lost_for_less_time() -> None:
    given = outcomes(3000, 4)
    front = thresholds.front(given, SEGMENT_S, "confidence")
    assert front == sorted(front) and len({accuracy for _, accuracy in front}) == len(front)
    times = [thresholds.choose(given, SEGMENT_S, loss, "confidence").expected_s for loss in (0.0, 0.02, 0.1)]
    assert times == sorted(times, reverse=True) and times[-1] < times[0]


def test_outcomes_are_stored_and_read_again(tmp_path: Path) -> None:
    given = outcomes(20, 5)
    thresholds.save({"validation": given, "test": given.part(np.arange(20) < 7)}, tmp_path / "o.npz")
    again = thresholds.read(tmp_path / "o.npz", "test", 4)
    assert again.count == 7 and np.array_equal(again.entropy, given.entropy[:, :7])


ZEROS, RIGHT = np.zeros((4, 5), np.float32), np.zeros((4, 5), bool)


@pytest.mark.parametrize(
    "arrays",
    [
        (),
        (ZEROS[:3], ZEROS[:3], RIGHT[:3]),
        (np.full((4, 5), np.nan, np.float32), ZEROS, RIGHT),
        (ZEROS[:, :0], ZEROS[:, :0], RIGHT[:, :0]),
        (ZEROS, ZEROS[:, :4], RIGHT),
        (np.array(["a"]), ZEROS, RIGHT),
        (ZEROS, ZEROS, np.array(0)),
    ],
)
def test_outcomes_that_are_none_are_refused(tmp_path: Path, arrays: tuple[np.ndarray, ...]) -> None:
    names = ("test_confidence", "test_entropy", "test_correct")
    np.savez(tmp_path / "o.npz", **dict(zip(names, arrays, strict=False)))  # type: ignore[arg-type]
    with pytest.raises(BadRecord, match=r"o\.npz holds"):
        thresholds.read(tmp_path / "o.npz", "test", 4)


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "o.npz").write_bytes(b"PK\x03\x04" + bytes(50))
    with pytest.raises(BadRecord, match="holds no outcomes"):
        thresholds.read(tmp_path / "o.npz", "test", 4)
