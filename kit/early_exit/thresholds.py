"""When to leave a network early: thresholds that cost the least time for the accuracy that may be lost.

BranchyNet (Teerapittayanon et al., ICPR 2016) leaves where the entropy of an exit's answer is low. Here the thresholds of all exits are
searched together, on a grid of the levels that occur: the images are sorted into a table by how sure each exit is of them, and sums over
the table give the shares and right answers of every combination at once.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kit import store
from kit.backends import feeds
from kit.errors import BadRecord
from kit.records import Criterion, ExitAccuracy

CRITERIA: tuple[Criterion, ...] = ("confidence", "entropy")
_COMBINATIONS_MAX = 200_000
_IMAGES_PER_LEVEL = 50  # fewer would be a threshold for a handful of images
_LEVELS_MIN = 6
_FOLDS = 10
_ERRORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # standard errors by which the search is stricter

Floats = NDArray[np.float64]
ExitNumbers = NDArray[np.int64]


@dataclass(frozen=True)
class Outcomes:
    """What each exit answered: ``confidence`` (largest probability), ``entropy`` (in nats) and ``correct``, each ``(exits, images)``."""

    confidence: NDArray[np.float32]
    entropy: NDArray[np.float32]
    correct: NDArray[np.bool_]

    @property
    def count(self) -> int:
        """Images."""
        return int(self.correct.shape[1])

    def part(self, which: NDArray[np.bool_]) -> Outcomes:
        """Those of some images."""
        return Outcomes(self.confidence[:, which], self.entropy[:, which], self.correct[:, which])

    def sureness(self, criterion: Criterion) -> NDArray[np.float32]:
        """``(exits, images)``, higher where an exit is surer."""
        return self.confidence if criterion == "confidence" else -self.entropy

    def left_at(self, criterion: Criterion, thresholds: Sequence[float | None]) -> ExitNumbers:
        """Which exit each image leaves at, for the ``thresholds`` of all exits but the last."""
        sure = self.sureness(criterion)
        sign = 1.0 if criterion == "confidence" else -1.0
        leaves = np.ones(sure.shape, bool)
        for index, threshold in enumerate(thresholds):
            leaves[index] = False if threshold is None else sure[index] >= sign * threshold
        return np.asarray(leaves.argmax(axis=0), np.int64)

    def with_exits(self, left_at: ExitNumbers) -> ExitAccuracy:
        """Right answers with early exits, beside those of the last exit."""
        early = np.take_along_axis(self.correct, left_at[None], axis=0)[0]
        whole = self.correct[-1]
        return ExitAccuracy(
            count=self.count, correct=int(early.sum()), whole_correct=int(whole.sum()),
            gained=int((early & ~whole).sum()), lost=int((whole & ~early).sum()),
        )  # fmt: skip


def of_logits(logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64]) -> Outcomes:
    """Outcomes from the logits ``(images, classes)`` of each exit."""
    confidence, entropy, correct = [], [], []
    for scores in logits:
        probabilities = softmax(scores)
        confidence.append(probabilities.max(axis=1))
        entropy.append(entropy_of(probabilities))
        correct.append(scores.argmax(axis=1) == labels)
    return Outcomes(np.stack(confidence), np.stack(entropy), np.stack(correct))


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of each row, ``(images, classes)``."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def entropy_of(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each row, in nats."""
    logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return np.asarray(-(probabilities * logs).sum(axis=1), np.float32)


def save(parts: dict[str, Outcomes], path: Path) -> None:
    """Write the outcomes of each part ("validation", "test") as one .npz."""
    buffer = io.BytesIO()
    arrays = {
        f"{part}_{name}": getattr(outcomes, name)
        for part, outcomes in parts.items()
        for name in ("confidence", "entropy", "correct")
    }
    np.savez_compressed(buffer, **arrays)
    store.write_atomic(path, buffer.getvalue())


def read(path: Path, part: str, exits: int) -> Outcomes:
    """The outcomes of a part. Raises BadRecord for a file that does not hold them."""
    try:
        arrays = feeds.unpacked(path)
        outcomes = Outcomes(*(arrays[f"{part}_{name}"] for name in ("confidence", "entropy", "correct")))
    except Exception as error:  # a zip of a stranger's may raise anything
        raise BadRecord(
            f"{path} holds no outcomes of exits ({type(error).__name__}): build the variants again."
        ) from None
    shapes = {outcomes.confidence.shape, outcomes.entropy.shape, outcomes.correct.shape}
    kinds = (outcomes.confidence.dtype.kind, outcomes.entropy.dtype.kind, outcomes.correct.dtype.kind)
    finite = kinds == ("f", "f", "b") and np.isfinite(outcomes.confidence).all() and np.isfinite(outcomes.entropy).all()
    if (
        not finite
        or shapes != {(exits, outcomes.correct.shape[-1] if outcomes.correct.ndim else 0)}
        or not outcomes.correct.size
    ):
        raise BadRecord(
            f"{path} holds outcomes of other shapes than {exits} exits times images: build the variants again."
        )
    return outcomes


@dataclass(frozen=True)
class Choice:
    """Thresholds of all exits but the last (None: no image leaves there), and what they give on the images they were chosen by."""

    criterion: Criterion
    thresholds: tuple[float | None, ...]
    expected_s: float
    accuracy: float


def choose(
    outcomes: Outcomes, segment_s: Sequence[float], loss_max: float, criterion: Criterion | None = None
) -> Choice:
    """The thresholds of the least expected latency whose accuracy is at most ``loss_max`` (a share) below that of the last exit.

    ``segment_s`` is the time of each segment. Where no ``criterion`` is named, the one that is faster. The best of many combinations looks
    better on the images that it was chosen by than on others, so the search is as much stricter as thresholds chosen on nine tenths of
    the images need to keep ``loss_max`` on the rest.

    >>> exits = of_logits([np.float32([[4, 0], [0, .1]]), np.float32([[9, 0], [8, 0]])], np.array([0, 0]))
    >>> choose(exits, [1.0, 2.0], loss_max=0.0).expected_s
    2.0
    """
    searches = [_Search(outcomes, segment_s, one) for one in ([criterion] if criterion else CRITERIA)]
    candidates = [search.best(search.budget(loss_max)) for search in searches]
    return min(candidates, key=lambda choice: (choice.expected_s, -choice.accuracy))


def front(outcomes: Outcomes, segment_s: Sequence[float], criterion: Criterion) -> list[tuple[float, float]]:
    """(expected seconds, accuracy) of every combination of thresholds that no other beats in both, the fastest first."""
    search = _Search(outcomes, segment_s, criterion)
    expected_s, right = search.expected_s.ravel(), search.right.ravel()
    points, most = [], -1
    for index in np.lexsort((-right, expected_s)):
        if right[index] > most:
            most = int(right[index])
            points.append((float(expected_s[index]), most / outcomes.count))
    return points


class _Search:
    """Expected seconds and right answers of every combination of thresholds on ``outcomes``."""

    def __init__(self, outcomes: Outcomes, segment_s: Sequence[float], criterion: Criterion) -> None:
        self._outcomes, self._segment_s, self._criterion = outcomes, segment_s, criterion
        self._table = _Table(outcomes, criterion)
        self.expected_s, self.right = self._table.expected(segment_s), self._table.right()

    def best(self, loss: float) -> Choice:
        """The fastest combination that loses at most this share, of equally fast ones the most accurate."""
        enough = self.right >= self._outcomes.correct[-1].sum() - loss * self._outcomes.count - 1e-9
        if not enough.any():  # stricter than any combination: the whole network
            enough[(-1,) * enough.ndim] = True
        cost_s = np.where(enough, self.expected_s, np.inf)
        least = cost_s <= cost_s.min() * (1 + 1e-12)
        place = np.unravel_index(int(np.where(least, self.right, -1).argmax()), cost_s.shape)
        accuracy = float(self.right[place] / self._outcomes.count)
        return Choice(self._criterion, self._table.thresholds(place), float(self.expected_s[place]), accuracy)

    def budget(self, loss_max: float) -> float:
        """The loss that may be seen on ``outcomes``, so that the loss on images that the search does not see keeps ``loss_max``."""
        count = self._outcomes.count
        if count < 2 * _FOLDS:
            return loss_max
        fold = np.arange(count) % _FOLDS
        folds = [(self._part(fold != number), self._outcomes.part(fold == number)) for number in range(_FOLDS)]
        first = self._kept(self._outcomes, self.best(loss_max))
        error = max(1.0, (first.gained + first.lost) ** 0.5) / count  # of a loss that is counted on so many images
        for steps in _ERRORS:
            budget = loss_max - steps * error
            held_out = [self._kept(rest, search.best(budget)) for search, rest in folds]
            if sum(kept.whole_correct - kept.correct for kept in held_out) <= loss_max * count:
                break
        return float(budget)

    def _part(self, which: NDArray[np.bool_]) -> _Search:
        return _Search(self._outcomes.part(which), self._segment_s, self._criterion)

    def _kept(self, outcomes: Outcomes, choice: Choice) -> ExitAccuracy:
        return outcomes.with_exits(outcomes.left_at(choice.criterion, choice.thresholds))


class _Table:
    """Images by the level of sureness at each early exit. Axis k holds the thresholds of exit k: at place t leave those of level t or more;
    at the last place nobody leaves."""

    def __init__(self, outcomes: Outcomes, criterion: Criterion) -> None:
        self._criterion = criterion
        early = len(outcomes.correct) - 1
        sure = outcomes.sureness(criterion)[:early]
        few = max(_LEVELS_MIN, outcomes.count // _IMAGES_PER_LEVEL)
        per_exit = min(few, max(2, floor(_COMBINATIONS_MAX ** (1 / early))) - 1)
        self._levels = [_levels(row, per_exit) for row in sure]
        places = [
            np.searchsorted(levels, row, side="right") - 1 for levels, row in zip(self._levels, sure, strict=True)
        ]
        self._shape = tuple(len(levels) for levels in self._levels)
        self._cells = np.ravel_multi_index(places, self._shape)
        self._correct = outcomes.correct
        self._count = outcomes.count

    def expected(self, segment_s: Sequence[float]) -> Floats:
        """Expected seconds of each combination."""
        total = np.full([n + 1 for n in self._shape], float(segment_s[0]))
        for exit_, seconds in enumerate(segment_s[1:]):
            total += seconds * self._staying(np.ones(self._count), exit_ + 1) / self._count
        return total

    def right(self) -> Floats:
        """Right answers of each combination."""
        right = np.zeros([n + 1 for n in self._shape])
        for index, correct in enumerate(self._correct):
            weights = correct.astype(float)
            right += self._staying(weights, index)
            if index < len(self._shape):
                right -= self._staying(weights, index + 1)
        return right

    def _staying(self, weights: Floats, exits: int) -> Floats:
        """The sum of the ``weights`` of those images that leave at none of the first ``exits`` exits, for each combination."""
        sums = np.bincount(self._cells, weights, int(np.prod(self._shape))).reshape(self._shape)
        for axis in range(len(self._shape)):
            if axis < exits:  # below the threshold
                sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums.cumsum(axis)], axis)
            else:
                sums = sums.sum(axis, keepdims=True)
        return np.asarray(np.broadcast_to(sums, [n + 1 for n in self._shape]), np.float64)

    def thresholds(self, place: Sequence[np.intp | int]) -> tuple[float | None, ...]:
        """In the criterion's own terms."""
        sign = 1.0 if self._criterion == "confidence" else -1.0
        return tuple(
            None if index == len(levels) else sign * float(levels[index])
            for index, levels in zip(map(int, place), self._levels, strict=True)
        )


def _levels(sure: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Up to ``count`` levels, from the least, evenly over the images."""
    distinct = np.unique(sure)
    if len(distinct) <= count:
        return distinct
    return np.unique(np.quantile(sure, np.linspace(0, 1, count), method="lower"))
