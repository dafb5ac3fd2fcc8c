"""A person's own data and metrics: a function of an installed module, or of a file of Python, which is run."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kit.errors import UsageError
from kit.records import TensorSpec

_NAMED = re.compile(r"(?P<place>.+):(?P<function>[A-Za-z_]\w*)")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class Sample(NamedTuple):
    """One input of the network (an array for each of its inputs, without the batch) and what is right for it."""

    inputs: dict[str, NDArray[Any]]
    label: Any


def names_a_function(text: str) -> bool:
    """Whether ``text`` reads like ``module:function`` or ``file.py:function``.

    >>> [names_a_function(t) for t in ("mine.data:test_set", "data/mine.py:test_set", "images.zip/test")]
    [True, True, False]
    """
    match = _NAMED.fullmatch(text)
    return match is not None and (match["place"].endswith(".py") or _MODULE.fullmatch(match["place"]) is not None)


def name_of(function: Callable[..., Any] | str) -> str:
    """What a record calls a function: ``mine.py:test_set``, without the folder of the file."""
    if isinstance(function, str):
        place, _, name = function.rpartition(":")
        return f"{Path(place).name if place.endswith('.py') else place}:{name}"
    return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(function).__name__)}"


def load(text: str) -> Callable[..., Any]:
    """The function that ``text`` names. The module is imported, a file of Python is run, with the rights of who runs kit.

    Raises UsageError: there is none, or the module fails.
    """
    place, _, name = text.rpartition(":")
    path = Path(place)
    if place.endswith(".py") and not path.is_file():
        raise UsageError(f"{place} does not exist: give FILE.py:FUNCTION or MODULE:FUNCTION.")
    try:
        with _importable(path.parent.resolve() if place.endswith(".py") else Path.cwd()):
            module = _run(path) if place.endswith(".py") else importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise UsageError(f"No module named {error.name!r}: for a file give FILE.py:{name}.") from None
        raise _failed(place, error) from error
    except Exception as error:  # somebody's code
        raise _failed(place, error) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{place} has no function {name!r}: correct the name behind the colon.")
    return function  # type: ignore[no-any-return]


def _run(path: Path) -> ModuleType:
    name = f"kit_own_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules of ``folder`` can be imported, after those that are installed."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _failed(name: str, error: Exception) -> UsageError:
    """The error of somebody's code as one sentence, with the line that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f", {Path(trace.tb_frame.f_code.co_filename).name} line {trace.tb_lineno}" if trace else ""
    reason = (str(error).strip().splitlines() or ["no text"])[0][:200].rstrip(".")
    return UsageError(f"{name} failed ({type(error).__name__}: {reason}{where}): correct it and run again.")


def call(function: Callable[..., Any], name: str, *words: Any) -> Any:
    """What the function returns. Raises UsageError with its error as a sentence."""
    try:
        return function(*words)
    except Exception as error:  # somebody's code
        raise _failed(name, error) from error


def samples(items: Iterable[Any], inputs: Sequence[TensorSpec], name: str) -> Iterator[Sample]:
    """Samples one by one out of the pairs, or batches of pairs, that a person's function yields.

    Raises UsageError with the number of the item that is no pair, or whose arrays do not fit the network's ``inputs``.
    """
    if not isinstance(items, Iterable):
        raise UsageError(f"{name} returns {type(items).__name__}: it must yield pairs (inputs, label).")
    iterator, number = iter(items), 0
    while True:
        number += 1
        try:
            item = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # somebody's code
            raise _failed(name, error) from error
        subject = f"Item {number} of {name}"
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise UsageError(f"{subject} is no pair (inputs, label): it is {type(item).__name__}.")
        yield from _of_item(_by_name(item[0], inputs, subject), item[1], inputs, subject)


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
