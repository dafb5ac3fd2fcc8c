"""Multiply-accumulates of a graph: of each operator's products, of a loop's body as often as it runs, of one branch of an If.

What kit cannot count is named and never counts as 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from onnx import GraphProto, NodeProto

from kit.variants.graph import operators
from kit.variants.graph.products import Product, Shape, UnknownExtent, is_product, products_of
from kit.variants.graph.reading import subgraphs_of
from kit.variants.graph.shapes import Graph

#: Shape (None: unknown) and type of the inputs of a body that its node decides.
Given = dict[str, tuple[Shape | None, int]]
_TRIPS_MAX = 1 << 31  # of a loop that counts to the largest number it is the condition that ends it
_SCAN_OPSET_MIN = 9  # before it had a batch


@dataclass(frozen=True)
class Work:
    """What one node computes: its own products, and bodies as often as they run. ``uncounted`` names what is missing."""

    products: tuple[Product, ...] = ()
    bodies: tuple[tuple[Workload, int], ...] = ()
    uncounted: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        """Of what could be counted."""
        return sum(p.macs for p in self.products) + sum(body.counted_macs * times for body, times in self.bodies)


class Workload:
    """The work of each node of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    @cached_property
    def works(self) -> list[Work]:
        """Of each node, in the order of the file."""
        return [self._work(node) for node in self.graph.nodes]

    @cached_property
    def counted_macs(self) -> int:
        """The sum over what could be counted."""
        return sum(work.macs for work in self.works)

    @property
    def macs(self) -> int | None:
        """The sum; None where something is missing in it."""
        return None if self.uncounted else self.counted_macs

    @cached_property
    def uncounted(self) -> tuple[str, ...]:
        """The nodes that could not be counted, such as ``Loop 'decoder'``; inside of bodies, too."""
        return tuple(
            name for work in self.works for name in (*work.uncounted, *(n for b, _ in work.bodies for n in b.uncounted))
        )

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What was assumed, such as which branch runs."""
        return tuple(
            note for work in self.works for note in (*work.notes, *(n for b, _ in work.bodies for n in b.notes))
        )

    def _work(self, node: NodeProto) -> Work:
        if node.domain in operators.STANDARD and node.op_type in operators.CONTROL_FLOW:
            return _CONTROL_FLOW[node.op_type](node, self.graph)
        try:
            products = products_of(node, self.graph)
        except UnknownExtent:
            return Work(uncounted=(operators.label(node),))
        if products is not None:
            return Work(products)
        return Work() if operators.has_no_products(node) else Work(uncounted=(operators.label(node),))


def _repeated(node: NodeProto, body: Workload, times: int | None) -> Work:
    """``body`` so often; unknown times matter only where it multiplies at all."""
    if not body.uncounted and not body.counted_macs:
        times = 1 if times is None else times
    if times is None:
        return Work(uncounted=(operators.label(node),))
    return Work(bodies=((body, times),)) if times else Work()


@dataclass(frozen=True)
class _State:
    """What a loop's body hands on: its name as the body's input and output, and as the node's own output ("" without one)."""

    given: str
    left: str
    result: str


def _stable(body: GraphProto, graph: Graph, given: Given, states: list[_State]) -> Graph:
    """The body of a loop with shapes that hold in every round: a state that leaves in another shape has none."""
    while True:
        nested = graph.nested(body, given)
        changing = [
            state.given
            for state in states
            if state.given in given
            and (shape := given[state.given][0]) is not None
            and nested.shapes.get(state.left, graph.shapes.get(state.result)) != shape
        ]
        if not changing:
            return nested
        given = {**given, **{name: (None, given[name][1]) for name in changing}}


def _loop(node: NodeProto, graph: Graph) -> Work:
    body, carried = subgraphs_of(node)["body"], list(node.input[2:])
    results = [*node.output, *("" for _ in carried)]
    given: Given = {}
    states = []
    for inner, left, name, result in zip(body.input[2:], body.output[1:], carried, results, strict=False):
        states.append(_State(inner.name, left.name, result))
        if name in graph.shapes and graph.types.get(name):
            given[inner.name] = (graph.shapes[name], graph.types[name])
    nested = _stable(body, graph, given, states)
    return _repeated(node, Workload(nested), _trips(node, graph, nested))


def _trips(node: NodeProto, graph: Graph, body: Graph) -> int | None:
    """How often a Loop runs, where only its count ends it."""
    started = True if not node.input[1] else graph.whole_number(node.input[1])
    if started is not None and not started:
        return 0
    trips = graph.whole_number(node.input[0])
    if started is None or trips is None or trips >= _TRIPS_MAX:
        return None
    return max(0, trips) if _goes_on(body) or trips <= 1 else None


def _goes_on(body: Graph) -> bool:
    """Whether the body's condition is the one it was given (true, or it would not run), or always true."""
    condition, given = body.outputs[0], body.model.graph.input[1].name
    while condition != given:
        index = body.links.producer.get(condition)
        if index is None or body.nodes[index].op_type not in ("Identity", "Cast"):
            return bool(body.whole_number(condition))
        condition = body.nodes[index].input[0]
    return True


def _scan(node: NodeProto, graph: Graph) -> Work:
    opset = next((o.version for o in graph.model.opset_import if o.domain in operators.STANDARD), 0)
    body, scanned = subgraphs_of(node)["body"], operators.integer(node, "num_scan_inputs")
    names, first = list(node.input), len(node.input) - scanned
    if opset < _SCAN_OPSET_MIN:
        return Work(uncounted=(operators.label(node),))
    axes = operators.integers(node, "scan_input_axes") or (0,) * scanned
    given: Given = {}
    length: int | None = None
    for position, (inner, name) in enumerate(zip(body.input, names, strict=False)):
        if name not in graph.shapes or not graph.types.get(name):
            continue
        shape = graph.shapes[name]
        if position >= first:
            axis = axes[position - first] % len(shape)
            length, shape = shape[axis], (*shape[:axis], *shape[axis + 1 :])
        given[inner.name] = (shape, graph.types[name])
    states = [
        _State(inner.name, left.name, result)
        for inner, left, result in zip(body.input[:first], body.output, node.output, strict=False)
    ]
    return _repeated(node, Workload(_stable(body, graph, given, states)), length)


def _branch(node: NodeProto, graph: Graph) -> Work:
    """The larger branch of an If without a constant condition (kit.variants.graph.branches has the others), which is said where they
    differ. A branch that no runtime runs at these shapes is none."""
    bodies = subgraphs_of(node)
    both = [Workload(graph.nested(bodies[name], {})) for name in ("then_branch", "else_branch")]
    possible = [body for body in both if not _is_impossible(body)]
    if len(possible) == 1:
        note = f"one branch of {operators.label(node)} does not run at these shapes: the other counts"
        return Work(bodies=((possible[0], 1),), notes=(note,))
    larger, other = sorted(both, key=lambda body: body.counted_macs, reverse=True)
    differ = larger.counted_macs != other.counted_macs
    note = f"the larger branch of {operators.label(node)} counts"
    return Work(bodies=((larger, 1),), uncounted=other.uncounted, notes=(note,) if differ else ())


def _is_impossible(body: Workload) -> bool:
    """Whether a branch of known operators lacks extents because its shapes do not fit together."""
    if not body.uncounted or not all(operators.is_known(node) or is_product(node) for node in body.graph.nodes):
        return False
    return body.graph.runs() is False


def _sequence_map(node: NodeProto, graph: Graph) -> Work:
    return _repeated(node, Workload(graph.nested(subgraphs_of(node)["body"], {})), None)


_CONTROL_FLOW = {"Loop": _loop, "Scan": _scan, "If": _branch, "SequenceMap": _sequence_map}
