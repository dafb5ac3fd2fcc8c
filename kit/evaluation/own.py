"""A person's own data: what the pairs are that a function yields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kit import usercode
from kit.errors import UsageError
from kit.records import TensorSpec


class Sample(NamedTuple):
    """One input of the network (an array for each of its inputs, without the batch) and what is right for it."""

    inputs: dict[str, NDArray[Any]]
    label: Any


def samples(items: Iterable[Any], inputs: Sequence[TensorSpec], name: str) -> Iterator[Sample]:
    """Samples one by one out of the pairs, or batches of pairs, that a person's function yields.

    Raises UsageError with the number of the item that is no pair, or whose arrays do not fit the network's ``inputs``.
    """
    for subject, given, label in usercode.pairs(items, name, "(inputs, label)"):
        yield from _of_item(_by_name(given, inputs, subject), label, inputs, subject)


def _by_name(given: Any, inputs: Sequence[TensorSpec], subject: str) -> dict[str, NDArray[Any]]:
    """An array for each input: of a dict by its names, of a tuple by their order, of an array where there is one input."""
    names = [spec.name for spec in inputs]
    if isinstance(given, Mapping):
        arrays = dict(given)
    elif len(inputs) == 1:
        arrays = {names[0]: given}
    elif isinstance(given, (tuple, list)) and len(given) == len(inputs):
        arrays = dict(zip(names, given, strict=True))
    else:
        arrays = {}
    if set(arrays) != set(names):
        raise UsageError(
            f"{subject} does not give the inputs {', '.join(names)}: yield a dict of arrays with these names."
        )
    return {spec.name: _cast(arrays[spec.name], spec, subject) for spec in inputs}


def _cast(given: Any, spec: TensorSpec, subject: str) -> NDArray[Any]:
    try:
        array = np.asarray(given)
        if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
            raise UsageError(
                f"{subject} gives {array.dtype} where the input '{spec.name}' takes {spec.dtype}: convert it."
            )
        return array.astype(spec.dtype, copy=False)
    except (ValueError, TypeError, RuntimeError):
        raise UsageError(f"{subject} is no array of numbers: yield NumPy arrays.") from None


def _of_item(
    arrays: dict[str, NDArray[Any]], label: Any, inputs: Sequence[TensorSpec], subject: str
) -> Iterator[Sample]:
    if all(arrays[spec.name].shape == spec.shape[1:] for spec in inputs):
        yield Sample(arrays, label)
        return
    sizes = {len(a) if a.ndim else 0 for a in arrays.values()}
    if not all(a.ndim and a.shape[1:] == spec.shape[1:] for spec in inputs for a in (arrays[spec.name],)):
        first = next(s for s in inputs if arrays[s.name].shape[1:] != s.shape[1:])
        raise UsageError(
            f"{subject} has the shape {list(arrays[first.name].shape)} and the input '{first.name}' takes {list(first.shape[1:])} a "
            "sample, or a batch of them."
        )
    labels = np.asarray(label)
    labels = labels.reshape(1) if labels.ndim == 0 else labels
    if sizes != {len(labels)}:
        raise UsageError(f"{subject} is a batch of {max(sizes)} with {len(labels)} labels: give a label for each.")
    for i, one in enumerate(labels):
        yield Sample({name: a[i] for name, a in arrays.items()}, one)
