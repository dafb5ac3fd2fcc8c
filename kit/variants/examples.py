"""Example inputs of a PyTorch network, and which of their dimensions stay free: ``--input`` and ``--dynamic`` of ``kit export``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kit.errors import UnknownName, UsageError, first_line

DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool",
    )
}  # fmt: skip
SIZE_MAX = 1 << 31  # elements of one input
_SHAPE = re.compile(
    r"(?:(?P<name>[^=]+)=)?(?P<shape>\d+(?:x\d+)*|scalar)(?::(?P<dtype>[a-z]+\d*))?(?::(?P<low>-?[\d.]*\d)\.\.(?P<high>-?[\d.]*\d))?"
)
_FILE = re.compile(r"(?:(?P<name>[^=]+)=)?(?P<file>.+\.npy)")
_SYMBOL = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class InputShape:
    """One ``--input``: a shape with a type and a range of values, or a file with the values. ``name`` None: by position."""

    name: str | None
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    low: float | None = None
    high: float | None = None
    file: Path | None = None

    def tensor(self, generator: torch.Generator) -> Tensor:
        """The values: of the file; else drawn, floats from a standard normal distribution, whole numbers from 0 and 1, bools True."""
        if self.file is not None:
            return _array(self.file)
        dtype: torch.dtype = DTYPES[self.dtype]
        if dtype == torch.bool:
            return torch.ones(self.shape, dtype=dtype)
        if not dtype.is_floating_point:
            low, high = int(self.low or 0), int(1 if self.high is None else self.high)
            return torch.randint(low, high + 1, self.shape, generator=generator, dtype=dtype)
        if self.low is None or self.high is None:
            return torch.randn(self.shape, generator=generator).to(dtype)
        return (self.low + (self.high - self.low) * torch.rand(self.shape, generator=generator)).to(dtype)


def shape_of(text: str) -> InputShape:
    """``[NAME=]1x3x224x224[:DTYPE[:LOW..HIGH]]``, ``[NAME=]scalar:int64:0..9`` or ``[NAME=]FILE.npy``. Raises UsageError.

    >>> shape_of("ids=1x128:int64:0..999")
    InputShape(name='ids', shape=(1, 128), dtype='int64', low=0.0, high=999.0, file=None)
    """
    if match := _FILE.fullmatch(text):
        return InputShape(match["name"], file=Path(match["file"]))
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--input {text} is no input: write a shape (1x3x224x224), with type and range (ids=1x128:int64:0..999), or a .npy file."
        )
    dtype = match["dtype"] or "float32"
    if dtype not in DTYPES:
        raise UnknownName("type of an input", dtype, DTYPES)
    shape = () if match["shape"] == "scalar" else tuple(map(int, match["shape"].split("x")))
    if np.prod(shape, dtype=float) > SIZE_MAX:
        raise UsageError(f"--input {text} has more than {SIZE_MAX} values: give a smaller shape.")
    low, high = (None if match[k] is None else float(match[k]) for k in ("low", "high"))
    if low is not None and high is not None and low > high:
        raise UsageError(f"--input {text}: the range begins above its end; write LOW..HIGH.")
    if low is not None and high is not None and not DTYPES[dtype].is_floating_point and dtype != "bool":
        limits = torch.iinfo(DTYPES[dtype])
        if not limits.min <= low <= high < limits.max or low % 1 or high % 1:
            raise UsageError(f"--input {text}: {dtype} does not hold the range; give whole numbers that it holds.")
    return InputShape(match["name"], shape, dtype, low, high)


def _array(file: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(file, allow_pickle=False))
    except FileNotFoundError:
        raise UsageError(f"{file} does not exist: write it with numpy.save.") from None
    except (OSError, ValueError, TypeError, EOFError) as error:
        reason = first_line(error)
        raise UsageError(f"{file} holds no array of numbers ({reason}): write it with numpy.save.") from None


@dataclass(frozen=True)
class Examples:
    """Inputs of one call, by the names of the network's parameters, in their order."""

    tensors: Mapping[str, Tensor]
    named: bool = False  # passed by name: a parameter before one of them keeps its default

    @property
    def args(self) -> tuple[Tensor, ...]:
        """What is passed by position."""
        return () if self.named else tuple(self.tensors.values())

    @property
    def kwargs(self) -> dict[str, Tensor]:
        """What is passed by name."""
        return dict(self.tensors) if self.named else {}

    def resized(self, free: Mapping[str, Mapping[int, str]], sizes: Mapping[str, int]) -> Examples:
        """The same with free dimensions of other sizes: values are repeated, or cut off."""
        tensors = dict(self.tensors)
        for name, axes in free.items():
            for axis, symbol in axes.items():
                size, tensor = sizes[symbol], tensors[name]
                if tensor.shape[axis] != size:
                    tensors[name] = tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])
        return replace(self, tensors=tensors)


def of(net: Any, given: Any, *, seed: int = 0) -> Examples:
    """The inputs of ``net`` from shapes (``--input``), a tensor, a sequence or a mapping of tensors by name.

    Raises UsageError (names and positions mixed, one name twice), UnknownName (no parameter of that name).
    """
    if isinstance(given, Examples):
        return given
    if isinstance(given, Tensor):
        given = (given,)
    generator = torch.Generator().manual_seed(seed)
    items: list[tuple[str | None, Any]] = []
    for item in given.items() if isinstance(given, Mapping) else given:
        name, value = item if isinstance(given, Mapping) else (None, item)
        if isinstance(value, InputShape):
            name, value = value.name, value.tensor(generator)
        items.append((name, value))
    wrong = next((value for _, value in items if not isinstance(value, Tensor)), None)
    if wrong is not None:
        raise UsageError(f"An example input is a {type(wrong).__name__}: give tensors.")
    names = [name for name, _ in items]
    if any(names) and not all(names):
        raise UsageError("Some inputs are named and some are not: name all of them (--input NAME=SHAPE), or none.")
    if len(set(names)) < len(names) and any(names):
        raise UsageError(f"The input {max(names, key=names.count)} is given twice: give each once.")
    names_of_forward, rest = parameters(net)
    if not any(names):
        places = [*names_of_forward, *(f"{rest or 'input'}_{i}" for i in range(len(items)))]
        return Examples(dict(zip(places, (tensor for _, tensor in items), strict=False)))
    by_name = {str(name): tensor for name, tensor in items}
    for name in by_name:
        if names_of_forward and name not in names_of_forward:
            raise UnknownName("input of the network", name, names_of_forward)
    ordered = [p for p in names_of_forward if p in by_name] or list(by_name)
    return Examples({p: by_name[p] for p in ordered}, named=ordered != names_of_forward[: len(ordered)])


def parameters(net: Any) -> tuple[list[str], str | None]:
    """The names of what ``forward`` takes, and the name of a ``*args`` that takes the rest."""
    if isinstance(net, torch.jit.ScriptModule):
        schema: Any = net.forward.schema  # type: ignore[attr-defined]
        return [argument.name for argument in schema.arguments[1:]], None
    try:
        declared = inspect.signature(getattr(net, "forward", net)).parameters.values()
    except (TypeError, ValueError):  # a compiled function has no signature
        return [], None
    names = [p.name for p in declared if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return names, next((p.name for p in declared if p.kind == p.VAR_POSITIONAL), None)


def free_dimensions(texts: Sequence[str], examples: Examples) -> dict[str, dict[int, str]]:
    """Input -> axis -> symbol of each ``--dynamic``: ``batch``, ``seq=1`` (of every input), ``seq=ids:1`` or ``ids:1``.

    Raises UsageError (it reads like none, no such axis), UnknownName (no such input).
    """
    free: dict[str, dict[int, str]] = {}
    for text in texts:
        symbol, equals, place = text.rpartition("=")
        if text == "batch":
            symbol, place = "batch", "0"
        elif not equals:
            symbol = re.sub(r"\W", "_", place) if ":" in place else f"dim_{place}"
        name, _, axis_text = place.rpartition(":")
        if not axis_text.isdecimal() or not _SYMBOL.fullmatch(symbol):
            raise UsageError(
                f"--dynamic {text} names no dimension: write batch, seq=1 (of every input) or seq=INPUT:1 (of one); axes count from 0."
            )
        if name and name not in examples.tensors:
            raise UnknownName("input of the network", name, list(examples.tensors))
        axis = int(axis_text)
        targets = [name] if name else [n for n, t in examples.tensors.items() if axis < t.ndim]
        for target in targets:
            if axis >= examples.tensors[target].ndim:
                raise UsageError(
                    f"--dynamic {text}: {target} has {examples.tensors[target].ndim} dimension(s), counted from 0; give one of them."
                )
            free.setdefault(target, {})[axis] = symbol
        if not targets:
            raise UsageError(f"--dynamic {text}: no input has so many dimensions; axes count from 0.")
    return free


def sizes(free: Mapping[str, Mapping[int, str]], examples: Examples) -> dict[str, int]:
    """The size of each free dimension in ``examples``. Raises UsageError where two inputs differ in one."""
    out: dict[str, int] = {}
    for name, axes in free.items():
        for axis, symbol in axes.items():
            size = examples.tensors[name].shape[axis]
            if out.setdefault(symbol, size) != size:
                raise UsageError(
                    f"The inputs have {symbol} = {out[symbol]} and {size}: give one size, or two names (--dynamic)."
                )
    return out
