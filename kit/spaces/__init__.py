"""The families as spaces: thousands of sub-networks per root, by id, their kernels and their .onnx files, without torch or onnx.

    space = space_of("resnet18")
    for sub in space.sample(200, seed=0):
        kernels(sub)                                  what a runtime executes: kind, shape, bytes
        write(sub, folder / f"{sub.id}.onnx")         a file to profile, with random weights, and its sidecar

One description of each network (kit.spaces.graph) gives both. kit.nets holds the families that are trained, for small images;
these are for latencies, which do not depend on the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import kit
from kit import store
from kit.errors import UnknownName, UsageError
from kit.records import Artifact, FileRef, Kernel, Origin, Preprocessing, SubNetwork, TensorSpec
from kit.spaces import allocator, fusion, onnxfile, quantization, resnet, vgg, vit
from kit.spaces.graph import ITEM_BYTES, Net
from kit.spaces.space import Ids, Space
from kit.versions import installed

__all__ = [
    "SPACES",
    "Counts",
    "Ids",
    "Space",
    "block_of",
    "counts",
    "kernels",
    "kernels_of",
    "macs",
    "space_of",
    "subnetwork",
    "write",
]

SPACES: dict[str, Space] = {s.name: s for s in (*resnet.SPACES, *vgg.SPACES, *vit.SPACES, *allocator.SPACES)}
BLOCKS = (16, 8, 1)
QUANTIZATION = "static-qdq-u8s8"
# No tensor is written for these: the same bytes under another shape, or a value that stays inside the operator behind it.
_VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "DequantizeLinear"}


@dataclass(frozen=True)
class Counts:
    """What the written file holds and computes for one input, counted as kit.variants.graph counts."""

    macs: int
    parameters: int
    weight_bytes: int
    activation_bytes: int


def space_of(name: str) -> Space:
    """The space of the root of that name. Raises UnknownName with "did you mean"."""
    if name not in SPACES:
        raise UnknownName("space", name, SPACES)
    return SPACES[name]


def subnetwork(text: str) -> SubNetwork:
    """The sub-network that an id names. Raises UsageError: no id, unknown root, outside its space."""
    sub = SubNetwork.parse(text)
    return space_of(sub.root).normal(sub)


def kernels(sub: SubNetwork, block: int = 16) -> tuple[Kernel, ...]:
    """What onnxruntime runs for ``sub`` at its full optimisation level. Raises UsageError, UnknownName.

    ``block`` is :func:`block_of` of the device. The parts that sub-networks share are computed once; a cached one takes microseconds.
    """
    if block not in BLOCKS:
        raise UsageError(
            f"No onnxruntime works on blocks of {block} channels: take one of {', '.join(map(str, BLOCKS))}."
        )
    space = space_of(sub.root)
    normal = space.normal(sub)
    return fusion.kernels(space.architecture(normal), normal.precision, block)


def kernels_of(artifact: Artifact, block: int = 16) -> tuple[Kernel, ...] | None:
    """The kernels of an artifact: by its sub-network where that is a member of its space, else as its sidecar lists them, if it does."""
    sub = artifact.subnetwork
    if sub is not None and sub.root in SPACES and SPACES[sub.root].contains(sub):
        return kernels(sub, block)
    return artifact.kernels


def block_of(cpu_features: Collection[str]) -> int:
    """Channels in a block of onnxruntime's float convolutions: 16 with AVX-512, 8 with AVX, 1 (not blocked) on other CPUs.

    8 and 1 follow onnxruntime's source and are untested on hardware.
    """
    return 16 if "avx512f" in cpu_features else 8 if "avx" in cpu_features else 1


def macs(sub: SubNetwork) -> int:
    """Multiply-accumulates for one input, biases and activations not counted. Raises UsageError, UnknownName."""
    return sum(kernel.macs * kernel.count for kernel in kernels(sub))


def counts(sub: SubNetwork) -> Counts:
    """What the file of ``sub`` will hold, without writing it. Raises UsageError, UnknownName."""
    return _counts(sub, _net(sub))


def write(
    sub: SubNetwork, path: Path, seed: int = 0, weights: Mapping[str, NDArray[np.float32]] | None = None
) -> Artifact:
    """``sub`` with random weights as the ONNX file ``path`` (``x.onnx``), with its sidecar ``x.json``.

    Equal seeds give equal files. ``weights`` are those to use instead, all of them, by name and in the shapes that the file stores
    (:func:`kit.spaces.allocator.weights_of`). Raises UsageError (outside its space, a name that is no .onnx), UnknownName, StorageError.
    """
    if path.suffix != ".onnx":
        raise UsageError(f"{path} is no name for an ONNX file: give it the ending .onnx.")
    normal = space_of(sub.root).normal(sub)
    net = _net(normal)
    shapes = {name: s.shape for name, s in net.stored.items() if not s.setting}
    if weights is not None and {name: w.shape for name, w in weights.items()} != shapes:
        raise ValueError(f"{normal.id} stores {shapes}, not { ({name: w.shape for name, w in weights.items()}) }")
    data = onnxfile.model(net, normal.id, seed, weights)
    store.write_atomic(path, data)
    artifact = _artifact(
        normal, net, FileRef(file=path.name, sha256=store.sha256_bytes(data), size_bytes=len(data)), seed
    )
    store.write_record(path.with_suffix(".json"), artifact)
    return artifact


def _net(sub: SubNetwork) -> Net:
    net = space_of(sub.root).architecture(space_of(sub.root).normal(sub)).net()
    return quantization.quantize(net) if sub.precision == "int8" else net


def _artifact(sub: SubNetwork, net: Net, model: FileRef, seed: int) -> Artifact:
    space, totals = space_of(sub.root), _counts(sub, net)
    steps = ("random weights", "written by kit.spaces")
    image = Preprocessing(
        resize_px=sub.resolution_px,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        classes=net.shapes["output"][-1],
    )
    return Artifact(
        artifact_id=sub.id,
        model=model,
        subnetwork=sub,
        precision=sub.precision,
        quantization=QUANTIZATION if sub.precision == "int8" else None,
        macs=totals.macs,
        parameters=totals.parameters,
        weight_bytes=totals.weight_bytes,
        activation_bytes=totals.activation_bytes,
        inputs=tuple(TensorSpec(name=n, shape=net.shapes[n], dtype=net.dtypes[n]) for n in net.inputs),
        outputs=(TensorSpec(name="output", shape=net.shapes["output"], dtype=net.dtypes["output"]),),
        preprocessing=image if space.image else None,
        licence="Apache-2.0",
        origin=Origin(
            root=sub.root, seed=seed, producer=f"kit {kit.__version__}", versions=installed(("numpy",)), steps=steps
        ),
    )


def _counts(sub: SubNetwork, net: Net) -> Counts:
    parameters = [s for s in net.stored.values() if not s.setting]
    return Counts(
        macs=macs(sub),
        parameters=sum(s.size for s in parameters),
        weight_bytes=sum(s.nbytes for s in parameters),
        activation_bytes=_activation_bytes(net),
    )


def _activation_bytes(net: Net) -> int:
    """Bytes of the tensors that are written for one input; a float tensor that only feeds a quantizer stays inside an operator."""
    readers: dict[str, set[str]] = {}
    for node in net.nodes:
        for name in node.inputs:
            readers.setdefault(name, set()).add(node.op)
    written = (name for node in net.nodes if node.op not in _VIEWS for name in node.outputs)
    materialized = (name for name in written if readers.get(name) != {"QuantizeLinear"})
    return sum(prod(net.shapes[name]) * ITEM_BYTES[net.dtypes[name]] for name in materialized)
