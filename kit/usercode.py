"""A person's own Python: an object of an installed module, or of a file, which is run with the rights of who runs kit."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from kit import trust
from kit.errors import UnknownName, UsageError

_NAMED = re.compile(r"(?P<place>.+):(?P<name>[A-Za-z_][\w.]*)")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def names_an_object(text: str) -> bool:
    """Whether ``text`` reads like ``module:name`` or ``file.py:name``.

    >>> [names_an_object(t) for t in ("mine.data:test_set", "data/mine.py:test_set", "images.zip/test")]
    [True, True, False]
    """
    match = _NAMED.fullmatch(text)
    return match is not None and (match["place"].endswith(".py") or _MODULE.fullmatch(match["place"]) is not None)


def name_of(source: Callable[..., Any] | str) -> str:
    """What a record calls an object: ``mine.py:test_set``, without the folder of the file."""
    if isinstance(source, str):
        place, _, name = source.rpartition(":")
        return f"{Path(place).name if place.endswith('.py') else place}:{name}"
    return f"{getattr(source, '__module__', '')}:{getattr(source, '__qualname__', type(source).__name__)}"


def load(text: str) -> Any:
    """The object that ``text`` names. The module is imported, a file of Python is run; what lies beside it can be imported, too.

    Raises UsageError (there is none, the module fails, the file came over a link), UnknownName.
    """
    place, _, name = text.rpartition(":")
    module = _module(place, name)
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            own = [
                n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__ and callable(v)
            ]
            raise UnknownName(f"name in {Path(place).name if place.endswith('.py') else place}", part, own)
        value = getattr(value, part)
    return value


def _module(place: str, name: str) -> ModuleType:
    path = Path(place)
    is_file = place.endswith(".py")
    if is_file and not path.is_file():
        raise UsageError(f"{place} does not exist: give FILE.py:NAME or MODULE:NAME.")
    if is_file and trust.install_of(path) is not None:
        raise UsageError(f"{place} came over a link and is not run: name a file of your own.")
    try:
        with _importable(path.parent.resolve() if is_file else Path.cwd()):
            return _run(path) if is_file else importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise UsageError(f"No module named {error.name!r}: for a file give FILE.py:{name}.") from None
        raise failed(place, error) from error
    except (Exception, SystemExit) as error:  # somebody's code
        raise failed(place, error) from error


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


def pairs(items: Any, name: str, form: str) -> Iterator[tuple[str, Any, Any]]:
    """("Item 3 of NAME", first, second) of each pair that somebody's function returned; ``form`` says what a pair is: "(image, label)".

    Raises UsageError: what is returned cannot be gone through, an item is no pair, or the code fails on the way.
    """
    if not isinstance(items, Iterable):
        raise UsageError(f"{name} returns {type(items).__name__}: it must yield pairs {form}.")
    iterator = iter(items)
    for number in itertools.count(1):
        try:
            item = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # somebody's code
            raise failed(name, error) from error
        subject = f"Item {number} of {name}"
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise UsageError(f"{subject} is no pair {form}: it is {type(item).__name__}.")
        yield subject, item[0], item[1]


def failed(name: str, error: BaseException) -> UsageError:
    """The error of somebody's code as one sentence, with the line that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f", {Path(trace.tb_frame.f_code.co_filename).name} line {trace.tb_lineno}" if trace else ""
    reason = (str(error).strip().splitlines() or ["no text"])[0][:200].rstrip(".")
    return UsageError(f"{name} failed ({type(error).__name__}: {reason}{where}): correct it and run again.")


def call(function: Callable[..., Any], name: str, *words: Any) -> Any:
    """What the function returns. Raises UsageError: it is none, or its error as a sentence."""
    if not callable(function):
        raise UsageError(f"{name} is {type(function).__name__} and no function: name another.")
    try:
        return function(*words)
    except (Exception, SystemExit) as error:  # somebody's code
        raise failed(name, error) from error
