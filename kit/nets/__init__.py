"""The families: root networks whose sub-networks kit builds. This file is free of torch, the family files are not.

A root is data: which family file makes it, where its exits sit, what input it takes. ``network`` imports the family's file
(and so torch) only when it is called.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kit.errors import UnknownName

if TYPE_CHECKING:
    from kit.nets.exits import MultiExit


@dataclass(frozen=True)
class Root:
    """A root network. ``depths`` counts the blocks kept by each exit, the last one being the full network."""

    name: str
    family: str  # the file kit/nets/<family>.py
    block: str  # what one unit of depth is
    depths: tuple[int, ...]
    resolution_px: int = 32
    channels: int = 1
    classes: int = 10


ROOTS: dict[str, Root] = {
    root.name: root
    for root in (
        Root("resnet18", "resnet", "residual block", (2, 4, 6, 8)),
        Root("resnet20", "resnet", "residual block", (2, 4, 6, 9)),
        Root("resnet56", "resnet", "residual block", (6, 12, 18, 27)),
        Root("vgg11", "vgg", "convolution", (2, 4, 6, 8)),
        Root("vit_tiny", "vit", "encoder block", (2, 4, 6)),
    )
}


def root_of(name: str) -> Root:
    """The root of that name. Raises UnknownName with "did you mean"."""
    if name not in ROOTS:
        raise UnknownName("root", name, ROOTS)
    return ROOTS[name]


def network(root: Root) -> MultiExit:
    """The untrained root network with all its exits, weights drawn from torch's current random state."""
    net: MultiExit = importlib.import_module(f"kit.nets.{root.family}").make(root)
    return net
