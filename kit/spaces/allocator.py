"""The mixture-of-experts allocators of papers A and B: a gate picks k experts, and only these are computed.

``allocator_a`` (paper A): importance, size and distance of 30 users (90 numbers) pass an input layer of 36, the gate (eq. 5) picks k
of 30 experts of 36 -> 32 (Relu) -> 30 (LogSoftmax), eq. (4) weighs their outputs. Width is k / 30.

``allocator_b`` (paper B): 10 experts of 5 -> 64 -> 64 -> 64 (LeakyReLU), each seeing one user's five features and shared by all users;
width is k / 10, depth the layers l that are run, resolution the number of users. Two outputs per user (output layers A and B) become
shares of bandwidth and computing by a softmax over the users (eq. 18, 21). The noise of eq. (16) belongs to training.

Readings where the papers are silent: the weights of A's input layer (90 -> 36, Relu); B picks its experts once for all users, by the mean
of their gate values, because a gate per user would move ten times the weights that it saves.

The papers count otherwise than kit: see :func:`papers_count`. They are fp32 only: 2 kB of weights per expert gain nothing from int8.
"""

from __future__ import annotations

from kit.records import SubNetwork
from kit.spaces.graph import ALONE, Net, Node, Part, Plan, Shape, Spread, linear, matmul, relu, reshape, transpose
from kit.spaces.space import Space, ladder

USERS, INPUTS, HIDDEN_A, FEATURES, HIDDEN_B = 30, 36, 32, 5, 64
EXPERTS = {"allocator_a": 30, "allocator_b": 10}
LAYERS_B = 3
LEAK = 0.01  # torch's LeakyReLU


def experts_of(sub: SubNetwork) -> int:
    """How many experts are computed: k."""
    return round(sub.width * EXPERTS[sub.root])


def papers_count(sub: SubNetwork) -> int:
    """The amount of computing as the paper prints it; what lies outside the experts is left out there.

    Paper A, table I, counts multiply-accumulates with biases: 32 * 36 + 32 + 32 * 30 + 30 = 2174 per expert. Paper B, table I, prints as
    "MACs" what are operations: two per multiply-accumulate, and one for each value that the weighted sum takes (5.126M for k = 10, l = 3).
    """
    k = experts_of(sub)
    if sub.root == "allocator_a":
        return k * (INPUTS * HIDDEN_A + HIDDEN_A + HIDDEN_A * USERS + USERS)
    expert = FEATURES * HIDDEN_B + (sub.depth - 1) * HIDDEN_B**2
    return sub.resolution_px * k * (2 * expert + HIDDEN_B)


def whole_a(net: Net, x: str, name: str, k: int) -> str:
    x = relu(net, linear(net, x, "input_layer", INPUTS))
    gate = net.weight("gate.weight", (INPUTS, EXPERTS["allocator_a"]), 1.0 / net.spreads[x].rms / INPUTS**0.5)
    shares, picked = _pick(net, matmul(net, x, gate, "gate", Spread.bell(1.0)), k)
    y = relu(net, _layer(net, x, picked, f"{name}.0", EXPERTS["allocator_a"], HIDDEN_A), ALONE)
    y = _layer(net, y, picked, f"{name}.1", EXPERTS["allocator_a"], USERS)
    y = net.add("LogSoftmax", (y,), f"{name}.log_shares", net.shapes[y], Spread(4.0, -10.0, 0.0), axis=-1)
    y = reshape(net, y, f"{name}.each", (k, USERS))
    return matmul(net, shares, y, "output", Spread(4.0, -10.0, 0.0))


def whole_b(net: Net, x: str, name: str, k: int, layers: int) -> str:
    users = net.shapes[x][1]
    gate = net.weight("gate.weight", (FEATURES, EXPERTS["allocator_b"]), FEATURES**-0.5)
    each = matmul(net, x, gate, "gate", Spread.bell(1.0))
    shape = (1, EXPERTS["allocator_b"])
    mean = net.add(
        "ReduceMean",
        (each, net.integers(1)),
        "gate.mean",
        shape,
        Spread.bell(users**-0.5),
        keepdims=0,
        noop_with_empty_axes=0,
    )
    shares, picked = _pick(net, mean, k)
    y = x
    for layer in range(layers):
        y = _layer(net, y, picked, f"{name}.{layer}", EXPERTS["allocator_b"], HIDDEN_B)
        y = net.add("LeakyRelu", (y,), f"{y}.active", net.shapes[y], Spread(0.7, -0.04, 4.0), alpha=LEAK)
    y = reshape(net, y, f"{name}.each", (k, users * HIDDEN_B))
    y = reshape(net, matmul(net, shares, y, f"{name}.sum", Spread(0.7, -0.04, 4.0)), f"{name}.users", (users, HIDDEN_B))
    y = transpose(net, linear(net, y, "output_layers", 2), "resources", (1, 0))
    return net.add("Softmax", (y,), "output", (2, users), Spread(0.1, 0.0, 1.0), axis=-1)


def _pick(net: Net, gate: str, k: int) -> tuple[str, str]:
    """Shares ``(1, k)`` of the k largest gate values ``(1, experts)``, and the numbers ``(k,)`` of their experts."""
    values = net.tensor("gate.top", (1, k), Spread.bell(1.5))
    numbers = net.tensor("gate.experts", (1, k), Spread.bell(1.0), "int64")
    attributes = {"axis": -1, "largest": 1, "sorted": 1}
    net.nodes.append(Node("TopK", (gate, net.integers(k)), (values, numbers), dict(attributes)))
    shares = net.add("Softmax", (values,), "gate.shares", (1, k), Spread(1.0 / k, 0.0, 1.0), axis=-1)
    flat = reshape(net, numbers, "gate.picked", (k,))
    net.dtypes[flat] = "int64"
    return shares, flat


def _layer(net: Net, x: str, picked: str, name: str, experts: int, out: int) -> str:
    """One layer of the picked experts: their weights are gathered, then one batched product."""
    inner, rms = net.shapes[x][-1], net.spreads[x].rms
    weight = _gather(net, net.weight(f"{name}.weight", (experts, inner, out), 1.0 / rms / inner**0.5), picked)
    bias = _gather(net, net.weight(f"{name}.bias", (experts, 1, out), 0.1), picked)
    product = matmul(net, x, weight, f"{name}.product", Spread.bell(1.0))
    return net.add("Add", (product, bias), name, net.shapes[product], Spread.bell(1.0))


def _gather(net: Net, table: str, picked: str) -> str:
    shape: Shape = (*net.shapes[picked], *net.stored[table].shape[1:])
    return net.add("Gather", (table, picked), f"{table}.picked", shape, Spread.bell(net.stored[table].std), axis=0)


def plan(sub: SubNetwork) -> Plan:
    """The one part of an allocator."""
    k = experts_of(sub)
    if sub.root == "allocator_a":
        return Plan((1, 3 * USERS), (Part(whole_a, 0, ("experts",), (k,)),))
    return Plan((1, sub.resolution_px, FEATURES), (Part(whole_b, 0, ("experts",), (k, sub.depth)),))


SPACES = [
    Space(
        "allocator_a",
        "allocator",
        (2,),
        ladder(1, 30),
        (USERS,),
        USERS,
        plan,
        least_depth=2,
        precisions=("fp32",),
        image=False,
    ),
    Space(
        "allocator_b",
        "allocator",
        (LAYERS_B,),
        ladder(1, 10),
        tuple(range(5, 61, 5)),
        USERS,
        plan,
        precisions=("fp32",),
        image=False,
    ),
]
