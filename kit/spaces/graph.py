"""A network as data: nodes in order, stored tensors by name, shapes, and how large the values are to be expected.

From this one description come both the kernels that a runtime executes (kit.spaces.fusion) and the .onnx file that holds it
(kit.spaces.onnxfile), so they cannot disagree. The nodes are those that torch's exporter writes for the same network
after onnxruntime's basic optimisations (batch norm folded, products with their bias as Gemm), because that is the form that is quantized.

Weights are random and latency does not depend on them, but activations must keep the size that they have in a trained
network: no denormal numbers, no infinities, no int8 value that sticks at its limit. So each builder scales its weights by the
expected root mean square of its input (He et al., ICCV 2015, without the taps that fall on padding), and notes the range of its output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod, sqrt
from typing import Literal

Shape = tuple[int, ...]
Attribute = int | float | tuple[int, ...]
DType = Literal["float32", "uint8", "int8", "int32", "int64"]
Fold = Literal["back", "on"]
ITEM_BYTES: dict[DType, int] = {"float32": 4, "uint8": 1, "int8": 1, "int32": 4, "int64": 8}

#: What becomes of a node in onnxruntime's full optimisation, by precision: it runs inside the kernel that writes its first input
#: ("back") or inside the one that reads its output ("on"). Precisions that are not named run it as a kernel of its own.
ALWAYS_BACK: dict[str, Fold] = {"fp32": "back", "int8": "back"}
FLOAT_BACK: dict[str, Fold] = {"fp32": "back"}
FLOAT_ON: dict[str, Fold] = {"fp32": "on"}
ALONE: dict[str, Fold] = {}

SIGMAS = 4.0  # of a bell-shaped tensor lie inside the range that int8 covers
INT8_STD = 32.0  # of int8 weights: four of them reach the limit
BIAS = 0.1  # size of a bias over that of what it is added to
# Root mean square behind an operator over that before it, as measured in these networks with random weights and inputs.
POSITIVE_HALF = 0.76  # sqrt(1/2) for a symmetric tensor; channels have means of their own
POOLED = {2: 1.45, 3: 2.25}
AVERAGED = 0.92


@dataclass(frozen=True)
class Stored:
    """A tensor that the file holds: given ``values``, or drawn from a normal distribution. A ``setting`` (scale, zero point, shape)
    says how to compute and is no parameter."""

    dtype: DType
    shape: Shape
    std: float = 0.0
    mean: float = 0.0
    values: tuple[float, ...] | None = None
    setting: bool = False

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.size * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Node:
    """One ONNX operator. ``leaves_maps``: it reads feature maps that onnxruntime holds in a layout of its own, which are put back
    into the layout of the file first."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute] = field(default_factory=dict)
    folds: dict[str, Fold] = field(default_factory=dict)
    leaves_maps: bool = False


@dataclass(frozen=True)
class Spread:
    """What to expect of a tensor's values: root mean square, and the range that int8 covers."""

    rms: float
    low: float
    high: float

    @classmethod
    def bell(cls, rms: float) -> Spread:
        """A normal distribution of this root mean square around zero."""
        return cls(rms, -SIGMAS * rms, SIGMAS * rms)


class Net:
    """A network as it grows."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.stored: dict[str, Stored] = {}
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, DType] = {}
        self.spreads: dict[str, Spread] = {}
        self.inputs: list[str] = []

    def input(self, name: str, shape: Shape) -> str:
        """An input of the network; returns its name."""
        self.inputs.append(name)
        return self.tensor(name, shape, Spread.bell(1.0))

    def tensor(self, name: str, shape: Shape, spread: Spread, dtype: DType = "float32") -> str:
        """Note a tensor's shape, type and spread of values; returns its name."""
        self.shapes[name], self.spreads[name], self.dtypes[name] = shape, spread, dtype
        return name

    def weight(self, name: str, shape: Shape, std: float, mean: float = 0.0) -> str:
        """A stored weight of this shape, drawn with this deviation; returns its name."""
        self.stored[name] = Stored("float32", shape, std, mean)
        return name

    def scalar(self, name: str, value: float, shape: Shape = ()) -> str:
        """One stored number; returns its name."""
        self.stored[name] = Stored("float32", shape, values=(value,))
        return name

    def integers(self, *values: int, scalar: bool = False) -> str:
        """A stored shape, axis or index; equal ones are stored once."""
        name = ("index_" if scalar else "sizes_") + "_".join(str(v).replace("-", "m") for v in values)
        self.stored[name] = Stored("int64", () if scalar else (len(values),), values=values, setting=True)
        return name

    def add(
        self,
        op: str,
        inputs: tuple[str, ...],
        output: str,
        shape: Shape,
        spread: Spread,
        *,
        folds: dict[str, Fold] = ALONE,
        leaves_maps: bool = False,
        **attributes: Attribute,
    ) -> str:
        """Append an operator with one output of ``shape``; returns the output's name."""
        self.nodes.append(Node(op, inputs, (output,), attributes, folds, leaves_maps))
        return self.tensor(output, shape, spread)

    def nbytes(self, name: str) -> int:
        """Of an activation tensor, in the type of the file."""
        return prod(self.shapes[name]) * ITEM_BYTES[self.dtypes[name]]


@dataclass(frozen=True)
class Part:
    """A piece of a network: ``build(net, x, name, *settings)`` appends it and returns its output. It stands once for each of
    ``names``, one after the other; a piece that stands several times keeps the shape of its input."""

    build: Callable[..., str]
    stage: int
    names: tuple[str, ...]
    settings: tuple[int, ...] = ()


@dataclass(frozen=True)
class Architecture:
    """A complete sub-network as parts, from an input of ``shape`` (batch first)."""

    shape: Shape
    parts: tuple[Part, ...]

    def net(self) -> Net:
        """The whole graph, part after part."""
        net = Net()
        x = net.input("input", self.shape)
        for part in self.parts:
            for name in part.names:
                x = part.build(net, x, name, *part.settings)
        return net


def channels(base: int, width: float) -> int:
    """``width`` of ``base`` channels, as a multiple of 8 (halves go up), at least 8."""
    return max(8, 8 * int(base * width / 8 + 0.5))


def without_relu(nodes: list[Node]) -> list[Node]:
    """A quantizer leaves out each Relu: the unsigned range of its output cuts off what is negative."""
    renamed = {node.inputs[0]: node.outputs[0] for node in nodes if node.op == "Relu"}
    remaining = (node for node in nodes if node.op != "Relu")
    return [replace(n, outputs=tuple(renamed.get(o, o) for o in n.outputs)) for n in remaining]


# --------------------------------------------------------------------------------------------------------- convolutions


def conv(
    net: Net, x: str, name: str, out: int, size: int = 1, stride: int = 1, pad: int | None = None, rms: float = 1.0
) -> str:
    """``out`` channels by a ``size`` x ``size`` window with a bias, and values of the size ``rms``."""
    _, depth, height, width = net.shapes[x]
    pad = size // 2 if pad is None else pad
    shape = (1, out, _outputs(height, size, stride, pad), _outputs(width, size, stride, pad))
    fan = depth * _taps(height, size, stride, pad) * _taps(width, size, stride, pad)
    weight = net.weight(f"{name}.weight", (out, depth, size, size), rms / net.spreads[x].rms / sqrt(fan))
    bias = net.weight(f"{name}.bias", (out,), BIAS * rms)
    return net.add(
        "Conv", (x, weight, bias), name, shape, Spread.bell(rms),
        kernel_shape=(size, size), strides=(stride, stride), pads=(pad,) * 4, dilations=(1, 1), group=1,
    )  # fmt: skip


def relu(net: Net, x: str, folds: dict[str, Fold] = ALWAYS_BACK) -> str:
    """max(x, 0)."""
    before = net.spreads[x]
    after = Spread(POSITIVE_HALF * before.rms, 0.0, before.high)
    return net.add("Relu", (x,), f"{x}.relu", net.shapes[x], after, folds=folds)


def residual(net: Net, x: str, shortcut: str, name: str) -> str:
    """``x`` + ``shortcut``, then Relu. In float onnxruntime adds the shortcut inside the convolution that writes ``x``."""
    rms = sqrt(net.spreads[x].rms ** 2 + net.spreads[shortcut].rms ** 2)
    added = net.add("Add", (x, shortcut), name, net.shapes[x], Spread.bell(rms), folds=FLOAT_BACK)
    positive = relu(net, added)
    if net.spreads[shortcut].low >= 0:  # a positive tensor plus a smaller one around zero: next to nothing is cut off
        net.spreads[positive] = Spread(rms, 0.0, SIGMAS * rms)
    return positive


def max_pool(net: Net, x: str, size: int, stride: int, pad: int = 0) -> str:
    """The largest of each window."""
    _, depth, height, width = net.shapes[x]
    shape = (1, depth, _outputs(height, size, stride, pad), _outputs(width, size, stride, pad))
    before = net.spreads[x]
    return net.add(
        "MaxPool", (x,), f"{x}.pool", shape, Spread(POOLED[size] * before.rms, before.low, before.high),
        kernel_shape=(size, size), strides=(stride, stride), pads=(pad,) * 4, dilations=(1, 1), ceil_mode=0, storage_order=0,
    )  # fmt: skip


def classifier(net: Net, x: str, name: str, classes: int) -> str:
    """Mean over the feature maps, one linear layer: the network's output."""
    depth = net.shapes[x][1]
    spread = Spread(AVERAGED * net.spreads[x].rms, 0.0, 0.75 * net.spreads[x].high)
    mean = net.add(
        "ReduceMean", (x, net.integers(-1, -2)), f"{x}.mean", (1, depth, 1, 1), spread,
        leaves_maps=True, keepdims=1, noop_with_empty_axes=0,
    )  # fmt: skip
    flat = reshape(net, mean, f"{x}.flat", (1, depth))
    return linear(net, flat, name, classes, output="output")


def _outputs(length: int, size: int, stride: int, pad: int) -> int:
    return (length + 2 * pad - size) // stride + 1


@lru_cache(maxsize=4096)
def _taps(length: int, size: int, stride: int, pad: int) -> float:
    """How many of a window's ``size`` places lie on the map and not on its padding, on average over the outputs."""
    starts = [o * stride - pad for o in range(_outputs(length, size, stride, pad))]
    return sum(min(length, s + size) - max(0, s) for s in starts) / len(starts)


# ------------------------------------------------------------------------------------------------------------- the rest


def linear(
    net: Net, x: str, name: str, out: int, *, rms: float = 1.0, transposed: bool = True, output: str = ""
) -> str:
    """``(rows, inner)`` to ``(rows, out)`` with a bias; ``transposed`` stores the weight as ``(out, inner)``, as torch does."""
    rows, inner = net.shapes[x]
    shape = (out, inner) if transposed else (inner, out)
    weight = net.weight(f"{name}.weight", shape, rms / net.spreads[x].rms / sqrt(inner))
    bias = net.weight(f"{name}.bias", (out,), BIAS * rms)
    return net.add(
        "Gemm", (x, weight, bias), output or name, (rows, out), Spread.bell(rms),
        alpha=1.0, beta=1.0, transA=0, transB=int(transposed),
    )  # fmt: skip


def reshape(net: Net, x: str, name: str, shape: Shape, *, own: bool = True, leaves_maps: bool = False) -> str:
    """``own``: one that the network asks for, which torch marks so that onnxruntime does not merge it with its neighbours; the others stand
    around a Gemm."""
    return net.add(
        "Reshape", (x, net.integers(*shape)), name, shape, net.spreads[x], leaves_maps=leaves_maps, allowzero=int(own)
    )


def transpose(net: Net, x: str, name: str, perm: tuple[int, ...], folds: dict[str, Fold] = ALONE) -> str:
    """The same tensor with its axes in another order."""
    shape = tuple(net.shapes[x][i] for i in perm)
    return net.add("Transpose", (x,), name, shape, net.spreads[x], folds=folds, perm=perm)


def matmul(net: Net, a: str, b: str, name: str, spread: Spread) -> str:
    """A product of two tensors that flow, or of one with a stored one; batch dimensions are broadcast."""
    left, right = net.shapes[a], net.shapes[b] if b in net.shapes else net.stored[b].shape
    batch = left[:-2] if len(left) >= len(right) and prod(left[:-2]) >= prod(right[:-2]) else right[:-2]
    return net.add("MatMul", (a, b), name, (*batch, left[-2], right[-1]), spread)
