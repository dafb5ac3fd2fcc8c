"""The allocators of papers A and B and the per-user ones as spaces, and each as an ONNX file that computes what kit.allocators describes.

``allocator_a`` (paper A): importance, size and distance of 30 users (90 numbers) pass an input layer of 36, the gate (eq. 5) selects k
of 30 experts of 36 -> 32 (Relu) -> 30 (LogSoftmax), eq. (4) weighs their outputs, a softmax over the users makes shares of them. Width is
k / 30. ``allocator_a_static`` is its static network: all experts, equal weights.

``allocator_b`` (paper B): 10 experts of 5 -> 64 -> 64 -> 64 (LeakyReLU), each seeing one user's five features and shared by all users;
width is k / 10, depth the layers l that are run, resolution the number of users. Two outputs per user (output layers A and B) become
shares of bandwidth and computing by a softmax over the users (eq. 18, 21). The noise of eq. (16) belongs to training.
``allocator_b_static`` is one network of 384, 384 and 64 neurons.

``allocator_u``, ``allocator_u_b`` (per user, for paper A's world and for paper B's): up to 3 layers of up to 32 units, the same for each
user, who sees the mean of the others. The sum over the users is taken once, with the weights of the others divided by their number:
own state times (own - others) plus sum times others.

Readings where the papers are silent: the weights of A's input layer (90 -> 36, Relu); B selects its experts once for all users, by the mean
of their gate values, because a gate per user would move ten times the weights that it saves.

The papers count the experts alone: paper A, table I, multiply-accumulates with biases (2174 per expert); paper B, table I, as "MACs" two
operations per multiply-accumulate and one per value of the weighted sum. They are fp32 only: 2 kB of weights per expert gain nothing
from int8.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from kit.allocators import fileformat
from kit.allocators.fileformat import LEAK, WIDEST, AllocatorNetwork
from kit.errors import UsageError
from kit.records import SubNetwork
from kit.spaces.graph import (
    ALONE,
    BIAS,
    FLOAT_BACK,
    Architecture,
    Net,
    Node,
    Part,
    Shape,
    Spread,
    linear,
    matmul,
    relu,
    reshape,
    transpose,
)
from kit.spaces.space import Space, ladder

FAMILY = "allocator"
USERS, INPUTS, HIDDEN_A, FEATURES, HIDDEN_B = 30, 36, 32, 5, 64
EXPERTS = {"allocator_a": 30, "allocator_b": 10}
LAYERS_B, LAYERS_U = 3, 3
STATIC_B = (384, 384, 64)
CROWDS = tuple(range(5, 61, 5))  # numbers of users


def build_a(net: Net, x: str, name: str, k: int) -> str:
    """Paper A's mixture of experts with ``k`` of them computed, from the input ``x``."""
    x = relu(net, linear(net, x, "input_layer", INPUTS))
    gate = net.weight("gate.weight", (INPUTS, EXPERTS["allocator_a"]), 1.0 / net.spreads[x].rms / INPUTS**0.5)
    shares, indices = _top_experts(net, matmul(net, x, gate, "gate", Spread.bell(1.0)), k)
    y = relu(net, _layer(net, x, indices, f"{name}.0", EXPERTS["allocator_a"], HIDDEN_A), ALONE)
    y = _layer(net, y, indices, f"{name}.1", EXPERTS["allocator_a"], USERS)
    y = net.add("LogSoftmax", (y,), f"{name}.log_shares", net.shapes[y], Spread(4.0, -10.0, 0.0), axis=-1)
    y = reshape(net, y, f"{name}.each", (k, USERS))
    y = matmul(net, shares, y, "logits", Spread(4.0, -10.0, 0.0))
    return _shares(net, y)


def build_a_static(net: Net, x: str, name: str) -> str:
    """All experts, each with the same weight: their mean."""
    x, experts = relu(net, linear(net, x, "input_layer", INPUTS)), EXPERTS["allocator_a"]
    y = relu(net, _all(net, x, f"{name}.0", experts, HIDDEN_A), ALONE)
    y = _all(net, y, f"{name}.1", experts, USERS)
    y = net.add("LogSoftmax", (y,), f"{name}.log_shares", net.shapes[y], Spread(4.0, -10.0, 0.0), axis=-1)
    return _shares(net, _mean(net, y, 0, "logits", (1, USERS), keepdims=0))


def build_b(net: Net, x: str, name: str, k: int, layers: int) -> str:
    """Paper B's allocator with ``k`` experts and ``layers`` layers, from the input ``x``."""
    users = net.shapes[x][1]
    gate = net.weight("gate.weight", (FEATURES, EXPERTS["allocator_b"]), FEATURES**-0.5)
    each = matmul(net, x, gate, "gate", Spread.bell(1.0))
    shape = (1, EXPERTS["allocator_b"])
    shares, indices = _top_experts(net, _mean(net, each, 1, "gate.mean", shape, keepdims=0, rms=users**-0.5), k)
    y = x
    for layer in range(layers):
        y = _layer(net, y, indices, f"{name}.{layer}", EXPERTS["allocator_b"], HIDDEN_B)
        y = _leaky(net, y)
    y = reshape(net, y, f"{name}.each", (k, users * HIDDEN_B))
    y = reshape(net, matmul(net, shares, y, f"{name}.sum", Spread(0.7, -0.04, 4.0)), f"{name}.users", (users, HIDDEN_B))
    return _shares(net, transpose(net, linear(net, y, "output_layers", 2), "resources", (1, 0)))


def build_b_static(net: Net, x: str, name: str) -> str:
    """Paper B's static network, from the input ``x``."""
    users = net.shapes[x][1]
    y = reshape(net, x, f"{name}.each", (users, FEATURES))
    for layer, hidden in enumerate(STATIC_B):
        y = _leaky(net, linear(net, y, f"{name}.{layer}", hidden, transposed=False), fused=True)
    return _shares(net, transpose(net, linear(net, y, "output_layers", 2), "resources", (1, 0)))


def build_u(net: Net, x: str, name: str, outputs: int, units: int, layers: int) -> str:
    """Gemm adds the row that all users share to each user's own."""
    _, users, features = net.shapes[x]
    x = h = reshape(net, x, f"{name}.each", (users, features))
    for layer in range(layers):
        own = f"{name}.{layer}"
        mean = _mean(net, h, 0, f"{own}.mean", (1, net.shapes[h][1]), keepdims=1, rms=net.spreads[h].rms)
        row = linear(net, mean, f"{own}.others", units, rms=BIAS, transposed=False)
        y = _leaky(net, _gemm(net, h, f"{own}.own", units, row), fused=True)
        if layer:
            rms = sqrt(net.spreads[y].rms ** 2 + net.spreads[h].rms ** 2)
            y = net.add("Add", (h, y), f"{own}.sum", net.shapes[y], Spread.bell(rms))
        h = y
    weight = net.weight("direct.weight", (features, outputs), features**-0.5)
    direct = matmul(net, x, weight, "direct", Spread.bell(1.0))
    return _shares(net, transpose(net, _gemm(net, h, "output_layer", outputs, direct), "resources", (1, 0)))


def _shares(net: Net, logits: str) -> str:
    return net.add("Softmax", (logits,), "output", net.shapes[logits], Spread(0.1, 0.0, 1.0), axis=-1)


def _leaky(net: Net, x: str, *, fused: bool = False) -> str:
    folds = FLOAT_BACK if fused else ALONE
    return net.add("LeakyRelu", (x,), f"{x}.active", net.shapes[x], Spread(0.7, -0.04, 4.0), folds=folds, alpha=LEAK)


def _mean(net: Net, x: str, axis: int, name: str, shape: Shape, *, keepdims: int, rms: float = 1.0) -> str:
    inputs = (x, net.integers(axis))
    return net.add("ReduceMean", inputs, name, shape, Spread.bell(rms), keepdims=keepdims, noop_with_empty_axes=0)


def _gemm(net: Net, x: str, name: str, out: int, addend: str) -> str:
    """``x`` times a stored weight plus an activation tensor, broadcast over the rows."""
    rows, inner = net.shapes[x]
    weight = net.weight(f"{name}.weight", (inner, out), 1.0 / net.spreads[x].rms / inner**0.5)
    return net.add(
        "Gemm", (x, weight, addend), name, (rows, out), Spread.bell(1.0), alpha=1.0, beta=1.0, transA=0, transB=0
    )


def _all(net: Net, x: str, name: str, experts: int, out: int) -> str:
    """One layer of all experts: one batched product."""
    inner, rms = net.shapes[x][-1], net.spreads[x].rms
    weight = net.weight(f"{name}.weight", (experts, inner, out), 1.0 / rms / inner**0.5)
    bias = net.weight(f"{name}.bias", (experts, 1, out), 0.1)
    product = matmul(net, x, weight, f"{name}.product", Spread.bell(1.0))
    return net.add("Add", (product, bias), name, net.shapes[product], Spread.bell(1.0))


def _top_experts(net: Net, gate: str, k: int) -> tuple[str, str]:
    """Shares ``(1, k)`` of the k largest gate values ``(1, experts)``, and the numbers ``(k,)`` of their experts."""
    values = net.tensor("gate.top", (1, k), Spread.bell(1.5))
    numbers = net.tensor("gate.experts", (1, k), Spread.bell(1.0), "int64")
    attributes = {"axis": -1, "largest": 1, "sorted": 1}
    net.nodes.append(Node("TopK", (gate, net.integers(k)), (values, numbers), dict(attributes)))
    shares = net.add("Softmax", (values,), "gate.shares", (1, k), Spread(1.0 / k, 0.0, 1.0), axis=-1)
    flat = reshape(net, numbers, "gate.picked", (k,))
    net.dtypes[flat] = "int64"
    return shares, flat


def _layer(net: Net, x: str, indices: str, name: str, experts: int, out: int) -> str:
    """One layer of the selected experts: their weights are gathered, then one batched product."""
    inner, rms = net.shapes[x][-1], net.spreads[x].rms
    weight = _gather(net, net.weight(f"{name}.weight", (experts, inner, out), 1.0 / rms / inner**0.5), indices)
    bias = _gather(net, net.weight(f"{name}.bias", (experts, 1, out), 0.1), indices)
    product = matmul(net, x, weight, f"{name}.product", Spread.bell(1.0))
    return net.add("Add", (product, bias), name, net.shapes[product], Spread.bell(1.0))


def _gather(net: Net, table: str, indices: str) -> str:
    shape: Shape = (*net.shapes[indices], *net.stored[table].shape[1:])
    return net.add("Gather", (table, indices), f"{table}.picked", shape, Spread.bell(net.stored[table].std), axis=0)


def architecture(sub: SubNetwork) -> Architecture:
    """The one part of an allocator."""
    width, users = round(sub.width * WIDEST[sub.root]), sub.resolution_px
    if sub.root == "allocator_a":
        return Architecture((1, 3 * USERS), (Part(build_a, 0, ("experts",), (width,)),))
    if sub.root == "allocator_a_static":
        return Architecture((1, 3 * USERS), (Part(build_a_static, 0, ("experts",)),))
    if sub.root == "allocator_b":
        return Architecture((1, users, FEATURES), (Part(build_b, 0, ("experts",), (width, sub.depth)),))
    if sub.root == "allocator_b_static":
        return Architecture((1, users, FEATURES), (Part(build_b_static, 0, ("expert",)),))
    features, outputs = (3, 1) if sub.root == "allocator_u" else (FEATURES, 2)
    return Architecture((1, users, features), (Part(build_u, 0, ("layer",), (outputs, width, sub.depth)),))


_space = partial(Space, family=FAMILY, full_px=USERS, architecture=architecture, precisions=("fp32",), image=False)
SPACES = [
    _space("allocator_a", stages=(2,), widths=ladder(1, 30), resolutions=(USERS,), least_depth=2),
    _space("allocator_a_static", stages=(2,), widths=(1.0,), resolutions=(USERS,), least_depth=2),
    _space("allocator_b", stages=(LAYERS_B,), widths=ladder(1, 10), resolutions=CROWDS),
    _space("allocator_b_static", stages=(LAYERS_B,), widths=(1.0,), resolutions=CROWDS, least_depth=LAYERS_B),
    _space("allocator_u", stages=(LAYERS_U,), widths=ladder(1, 32), resolutions=CROWDS),
    _space("allocator_u_b", stages=(LAYERS_U,), widths=ladder(1, 32), resolutions=CROWDS),
]

# ---------------------------------------------------------------------------------------------------- the weights of a network


def weights_of(network: AllocatorNetwork) -> dict[str, NDArray[np.float32]]:
    """The weights of ``network`` under the names that its ONNX file gives them, in the shapes that it stores.

    Raises UsageError for a network of other shapes than its id names.
    """
    spec, sub = network.spec, fileformat.subnetwork(network)
    if sub.root not in WIDEST or _trimmed(fileformat.shapes(spec)) != _trimmed(
        fileformat.shapes(fileformat.ROOTS[sub.root](spec.users))
    ):
        raise UsageError(
            f"This allocator has other shapes than {sub.id}, so there is no ONNX file of it: profile it with --backend allocator."
        )
    arrays = network.arrays
    if spec.form == "per_user":
        return _per_user(network)
    plain = {"gate.weight": "gate_weight", "input_layer.bias": "input_bias", "output_layers.bias": "output_bias"}
    weights = {name: arrays[key] for name, key in plain.items() if key in arrays}
    transposed = {"input_layer.weight": "input_weight", "output_layers.weight": "output_weight"}
    weights |= {name: arrays[key].T for name, key in transposed.items() if key in arrays}
    single = spec.form == "shared" and not spec.gated
    for layer in range(fileformat.FLAT_DEPTH if spec.form == "flat" else network.size.depth):
        weight, bias = arrays[f"expert{layer}_weight"], arrays[f"expert{layer}_bias"]
        prefix = f"{'expert' if single else 'experts'}.{layer}"
        weights |= {
            f"{prefix}.weight": weight[0] if single else weight,
            f"{prefix}.bias": bias[0] if single else bias[:, None],
        }
    return weights


def _trimmed(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    return {name: shape for name, shape in shapes.items() if name != "noise_weight"}


def _per_user(network: AllocatorNetwork) -> dict[str, NDArray[np.float32]]:
    """The weights of the others divided by their number; the file takes a mean over all users, so times all of them."""
    arrays, users, width = network.arrays, network.users, network.size.width
    share = 1.0 / max(users - 1, 1)
    weights = {"output_layer.weight": arrays["output_weight"][:width], "direct.weight": arrays["direct_weight"]}
    for layer in range(network.size.depth):
        rows = width if layer else len(network.spec.features)
        own, others = (
            arrays[f"own{layer}_weight"][:rows, :width],
            arrays[f"others{layer}_weight"][:rows, :width] * share,
        )
        weights |= {
            f"layer.{layer}.own.weight": own - others,
            f"layer.{layer}.others.weight": others * users,
            f"layer.{layer}.others.bias": arrays[f"layer{layer}_bias"][:width],
        }
    return {name: np.asarray(value, np.float32) for name, value in weights.items()}
