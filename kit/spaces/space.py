"""A space of sub-networks: what may be chosen (depth by stage, width, resolution, precision), numbered from 0 to its size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import overload

import numpy as np

from kit.errors import UsageError
from kit.records import Precision, SubNetwork
from kit.spaces.graph import Architecture

_PRINTED = 0.0051  # how far the two digits of an id may lie off the width


def ladder(first: int, last: int) -> tuple[float, ...]:
    """The widths ``first / last`` to 1 in steps of ``1 / last``."""
    return tuple(i / last for i in range(first, last + 1))


@dataclass(frozen=True)
class Space(Sequence[SubNetwork]):
    """The sub-networks of one root. ``stages`` are its blocks in each stage; a sub-network keeps ``least_depth`` of them or more.

    It is a sequence: ``space[0]``, ``len(space)``, ``for sub in space``; nothing is stored. The precision changes fastest, then
    resolution, width, and the depth of the last stage.
    """

    name: str
    family: str
    stages: tuple[int, ...]
    widths: tuple[float, ...]
    resolutions: tuple[int, ...]  # pixels; users, for an allocator
    full_px: int
    architecture: Callable[[SubNetwork], Architecture]
    least_depth: int = 1
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    image: bool = True

    @cached_property
    def _radices(self) -> tuple[int, ...]:
        depths = (blocks - self.least_depth + 1 for blocks in self.stages)
        return (*depths, len(self.widths), len(self.resolutions), len(self.precisions))

    @cached_property
    def size(self) -> int:
        """How many sub-networks it has."""
        return prod(self._radices)

    @cached_property
    def root(self) -> SubNetwork:
        """The full network at its own resolution, in float."""
        return self._make(self.stages, 1.0, self.full_px, "fp32")

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> SubNetwork: ...
    @overload
    def __getitem__(self, index: slice) -> list[SubNetwork]: ...
    def __getitem__(self, index: int | slice) -> SubNetwork | list[SubNetwork]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.size))]
        if not -self.size <= index < self.size:
            raise IndexError(f"{self.name} has {self.size} sub-networks")
        rest, digits = index % self.size, []
        for radix in reversed(self._radices):
            rest, digit = divmod(rest, radix)
            digits.append(digit)
        precision, resolution, width, *depths = digits
        blocks = tuple(d + self.least_depth for d in reversed(depths))
        return self._make(blocks, self.widths[width], self.resolutions[resolution], self.precisions[precision])

    def __iter__(self) -> Iterator[SubNetwork]:
        return (self[i] for i in range(self.size))

    def __contains__(self, value: object) -> bool:
        return isinstance(value, SubNetwork) and self.contains(value)

    def ids(self) -> Ids:
        """All ids in order, each built on access."""
        return Ids(self)

    def sample(self, count: int, seed: int) -> list[SubNetwork]:
        """``count`` different sub-networks, each equally likely; the same for equal seeds. Raises UsageError when there are fewer."""
        if not 1 <= count <= self.size:
            raise UsageError(f"{self.name} has {self.size} sub-networks: ask for 1 to {self.size} of them.")
        numbers = np.random.default_rng(seed).choice(self.size, count, replace=False)
        return [self[int(i)] for i in numbers]

    def contains(self, sub: SubNetwork) -> bool:
        """Whether a sub-network belongs to it."""
        return self.outside(sub) is None

    def outside(self, sub: SubNetwork) -> str | None:
        """Why ``sub`` is no member, in a sentence with what is; None for a member."""
        try:
            self.normal(sub)
        except UsageError as error:
            return str(error)
        return None

    def normal(self, sub: SubNetwork) -> SubNetwork:
        """``sub`` with the exact width that its id prints in two digits. Raises UsageError: what of it lies outside this space."""
        if sub.root != self.name or sub.family != self.family:
            raise UsageError(f"{sub.id} is a sub-network of {sub.root}, not of {self.name}: name its own space.")
        width = min(self.widths, key=lambda w: abs(w - sub.width))
        if abs(width - sub.width) > _PRINTED:
            raise UsageError(
                f"{sub.id}: {self.name} has no width {sub.width:.2f}; take one of {_listed(self.widths, '.2f')}."
            )
        if sub.resolution_px not in self.resolutions:
            what = "resolution" if self.image else "number of users"
            raise UsageError(
                f"{sub.id}: {self.name} has no {what} {sub.resolution_px}; take one of {_listed(self.resolutions)}."
            )
        if sub.precision not in self.precisions:
            raise UsageError(
                f"{sub.id}: {self.name} is not made in {sub.precision}; take {' or '.join(self.precisions)}."
            )
        return self._make(self._blocks(sub), width, sub.resolution_px, sub.precision)

    def _blocks(self, sub: SubNetwork) -> tuple[int, ...]:
        blocks = sub.blocks or (sub.depth,)
        fits = len(blocks) == len(self.stages)
        if not fits or not all(self.least_depth <= b <= most for b, most in zip(blocks, self.stages, strict=True)):
            largest = ".".join(map(str, self.stages))
            how = f"its {len(self.stages)} stages keep" if len(self.stages) > 1 else "it keeps"
            raise UsageError(
                f"{sub.id}: {self.name} cannot be cut so; {how} {self.least_depth} to {largest} blocks, as in {self.root.id}."
            )
        return blocks

    def _make(self, blocks: tuple[int, ...], width: float, resolution: int, precision: Precision) -> SubNetwork:
        return SubNetwork(
            family=self.family,
            root=self.name,
            depth=sum(blocks),
            width=width,
            precision=precision,
            resolution_px=resolution,
            blocks=blocks if len(blocks) > 1 else None,
        )


@dataclass(frozen=True)
class Ids(Sequence[str]):
    """The ids of a space, in its order."""

    space: Space

    def __len__(self) -> int:
        return self.space.size

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [sub.id for sub in self.space[index]]
        return self.space[index].id


def _listed(values: Sequence[float], form: str = "") -> str:
    return ", ".join(format(v, form) for v in values)
