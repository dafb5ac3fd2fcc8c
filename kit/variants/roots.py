"""The network that a build starts from, with exits after its stages: a small root of kit's, torchvision's, timm's, or one's own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn

from kit import nets, usercode
from kit.errors import UsageError
from kit.nets import stages
from kit.nets.exits import MultiExit
from kit.variants import checkpoints, sources
from kit.variants.datasets import SMALL_PX, Dataset
from kit.variants.examples import InputShape
from kit.variants.sources import SourceOptions


@dataclass(frozen=True)
class RootNetwork:
    """A root, and what makes its network: with the given weights where ``trained``, else random from torch's current state."""

    root: nets.Root
    make: Callable[[], MultiExit]
    trained: bool
    is_transformer: bool
    steps: tuple[str, ...] = ()
    fingerprint: str = (
        ""  # of somebody's code and the weights that it starts from; empty where kit's own code decides both
    )


def is_small(name: str, resolution_px: int) -> bool:
    """Whether ``name`` is one of kit's small roots at this size of images: torchvision has larger ones of the same names."""
    return name in nets.ROOTS and resolution_px <= SMALL_PX


def root_network(name: str, data: Dataset, checkpoint: Path | None = None, *, seed: int = 0) -> RootNetwork:
    """The root ``name`` for the images and classes of ``data``; ``checkpoint`` is a file of weights for it.

    Raises UnknownName, UsageError (weights that do not fit, another number of classes), BadModel (it cannot be cut into stages).
    """
    if is_small(name, data.resolution_px):
        return _small(name, data, checkpoint)
    shape = InputShape(None, (1, data.channels, data.resolution_px, data.resolution_px))
    own = usercode.names_an_object(name)
    options = SourceOptions(
        inputs=(shape,),
        checkpoint=checkpoint,
        resolution_px=None if own else data.resolution_px,
        seed=seed,
        classes=len(data.classes),
    )
    source = sources.source_of(name, options)
    if not isinstance(source.net, nn.Module) or source.is_script:
        raise UsageError(
            f"{name} is no PyTorch network that can be trained: name its code (FILE.py:NAME), torchvision's or timm's."
        )
    (image,) = source.inputs.tensors.values()
    net = stages.staged(source.net, image)
    scores = _scores(net, image)
    if scores != len(data.classes):
        raise UsageError(
            f"{name} gives {scores} scores and {data.name} has {len(data.classes)} classes: give the network so many outputs."
        )
    root = nets.Root(
        name=_root_name(source.name.removesuffix(f"-{data.resolution_px}")), family=_family(source.name), block="stage", depths=net.depths,
        resolution_px=data.resolution_px, channels=data.channels, classes=len(data.classes),
    )  # fmt: skip
    return RootNetwork(root, lambda: net, checkpoint is not None, _is_transformer(net), source.steps, _fingerprint(net))


def _small(name: str, data: Dataset, checkpoint: Path | None) -> RootNetwork:
    root = replace(
        nets.root_of(name), resolution_px=data.resolution_px, channels=data.channels, classes=len(data.classes)
    )

    def make() -> MultiExit:
        net = nets.network(root)
        if checkpoint is not None:
            checkpoints.load(net, checkpoints.read(checkpoint), checkpoint, name)
        return net

    steps = () if checkpoint is None else (f"weights of {checkpoint.name}",)
    return RootNetwork(root, make, checkpoint is not None, root.family == "vit", steps)


def _scores(net: MultiExit, image: Tensor) -> int:
    with torch.no_grad():
        return int(net(image)[-1].shape[1])


def _fingerprint(net: MultiExit) -> str:
    """A hash of what the traced stages compute and of their weights before training."""
    content = hashlib.sha256()
    content.update(repr(net).encode())  # the layers and their settings
    for part in net.modules():
        if isinstance(part, fx.GraphModule):
            content.update(part.code.encode())  # and what is called in which order
    for name, tensor in net.state_dict().items():
        content.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        content.update(np.ascontiguousarray(tensor.numpy()).data)
    return content.hexdigest()


def _is_transformer(net: nn.Module) -> bool:
    return any(isinstance(module, (nn.LayerNorm, nn.MultiheadAttention)) for module in net.modules())


def _family(name: str) -> str:
    """The letters that an id begins with, as those who read ids take them."""
    match = re.match(r"[a-z]+", _root_name(name))
    assert match is not None
    return match[0]


def _root_name(text: str) -> str:
    """What ids begin with: small letters, digits and underscores, a letter first."""
    name = re.sub(r"[^a-z0-9_]+", "_", text.lower()).strip("_")
    return name if name[:1].isalpha() else f"net_{name}"
