"""What counts as a correct answer: top-1, top-5, or a person's own function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kit import usercode
from kit.errors import UnknownName, UsageError
from kit.records import Accuracy

BoolArray = NDArray[np.bool_]
TOP = {"top1": 1, "top5": 5}
OwnMetric = Callable[[NDArray[Any], Any], Any]


def hits(outputs: NDArray[Any], labels: NDArray[np.int64], k: int = 1) -> BoolArray:
    """Whether each label is among the ``k`` largest outputs: ``(N, classes)`` and ``(N,)`` to ``(N,)``.

    Among equal outputs the first counts as the largest, as with argmax. A row that holds no number (NaN) is no hit.

    >>> hits(np.array([[0.1, 0.9], [0.5, 0.5]]), np.array([1, 1])).tolist()
    [True, False]
    """
    own_output = np.take_along_axis(outputs, labels[:, None], axis=1)
    before = np.arange(outputs.shape[1])[None, :] < labels[:, None]
    ahead = (outputs > own_output).sum(1) + ((outputs == own_output) & before).sum(1)
    numbers = ~np.isnan(outputs).any(1) if np.issubdtype(outputs.dtype, np.floating) else True
    return np.asarray((ahead < k) & numbers, dtype=np.bool_)


class Metric(Protocol):
    """Collects batches of outputs ``(n, ...)`` with their labels, and makes an accuracy of them."""

    name: str

    def add(self, outputs: NDArray[Any], labels: Sequence[Any]) -> None:
        """One batch, of real samples only."""
        ...

    def accuracy(self, dataset: str) -> Accuracy:
        """Of all that was added."""
        ...


class Top:
    """The share of the samples whose label is among the ``k`` largest outputs."""

    def __init__(self, name: str) -> None:
        self.name, self._k = name, TOP[name]
        self._correct = self._count = 0

    def add(self, outputs: NDArray[Any], labels: Sequence[Any]) -> None:
        """Raises UsageError: outputs that are no row of classes, labels that are no class."""
        rows = (
            outputs.reshape(outputs.shape[:2]) if outputs.ndim > 2 and outputs[0].size == outputs.shape[1] else outputs
        )
        if rows.ndim != 2 or rows.shape[1] < 2:
            raise UsageError(
                f"The output has the shape {list(outputs.shape)} and {self.name} needs [N, classes]: name another with --output, or give a "
                "--metric FILE.py:FUNCTION."
            )
        if rows.shape[1] <= self._k:
            raise UsageError(f"The network has {rows.shape[1]} outputs, so {self.name} is always right: take top1.")
        numbers = np.array([self._class(label, rows.shape[1], self._count + i) for i, label in enumerate(labels)])
        self._correct += int(hits(rows, numbers, self._k).sum())
        self._count += len(labels)

    def _class(self, label: Any, classes: int, index: int) -> int:
        array = np.asarray(label)
        number = int(array.item()) if array.size == 1 and np.issubdtype(array.dtype, np.integer) else None
        if number is None:
            raise UsageError(
                f"The label of sample {index + 1} is {str(label)[:40]!r}: {self.name} needs a whole number."
            )
        if not 0 <= number < classes:
            raise UsageError(
                f"The label {number} of sample {index + 1} is no class of the network: it has 0 to {classes - 1}."
            )
        return number

    def accuracy(self, dataset: str) -> Accuracy:
        """The share, with the counts."""
        return Accuracy(
            top1=self._correct / self._count,
            count=self._count,
            dataset=dataset,
            metric=self.name,
            correct=self._correct,
        )


class Own:
    """A person's function of all outputs and labels at once."""

    def __init__(self, function: OwnMetric, name: str) -> None:
        self.name, self._function = name, function
        self._outputs: list[NDArray[Any]] = []
        self._labels: list[Any] = []

    def add(self, outputs: NDArray[Any], labels: Sequence[Any]) -> None:
        """Keeps them: the function may need all at once."""
        self._outputs.append(np.array(outputs))
        self._labels += labels

    def accuracy(self, dataset: str) -> Accuracy:
        """The mean of the scores, or the number. Raises UsageError: the function fails, or gives neither."""
        count = len(self._labels)
        given = usercode.call(self._function, self.name, np.concatenate(self._outputs), _stacked(self._labels))
        try:
            scores = np.asarray(given, dtype=np.float64)
        except (ValueError, TypeError, RuntimeError):
            scores = np.full(0, np.nan)
        if scores.shape not in ((), (count,)) or not (
            np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()
        ):
            raise UsageError(
                f"{self.name} must return a number from 0 to 1, or an array of {count} of them, one for each sample: correct it."
            )
        counted = scores.shape == (count,) and bool(np.isin(scores, (0.0, 1.0)).all())
        share = float(scores.mean())
        return Accuracy(
            top1=share, count=count, dataset=dataset, metric=self.name, correct=int(scores.sum()) if counted else None
        )


def _stacked(labels: list[Any]) -> Any:
    """An array of all labels; a list where they differ in shape."""
    try:
        return np.asarray(labels)
    except ValueError:
        return labels


def of(metric: str | OwnMetric) -> Metric:
    """The metric by its name, or by ``module:function``. Raises UnknownName, UsageError."""
    if not isinstance(metric, str):
        return Own(metric, usercode.name_of(metric))
    if metric in TOP:
        return Top(metric)
    if not usercode.names_an_object(metric):
        raise UnknownName("metric", metric, [*TOP, "FILE.py:FUNCTION", "MODULE:FUNCTION"])
    return Own(usercode.load(metric), usercode.name_of(metric))
