"""Which inputs of a network steer how much work it does, and what each input is used for.

Most inputs are numbers that pass through: their values change nothing about the time. A trip count of a Loop, a condition of an If, a
length, a shape or the data of a NonZero decide what is computed. The values of an input are followed through the graph, its subgraphs
and functions; where a tensor's shape alone is read (Shape, Size) the trail ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kit.backends.onnxgraph import Graph, Node, Value

DEPTH_MAX = 16  # of subgraphs and functions inside each other
ROUNDS_MAX = 8  # of a Loop's body, until nothing new goes round
#: Operators whose work follows the values of some of their inputs: place of the input -> what it is.
SLOTS: Mapping[str, Mapping[int, str]] = {
    "Loop": {0: "trip count", 1: "condition"},
    "If": {0: "condition"},
    "LSTM": {4: "sequence lengths"},
    "GRU": {4: "sequence lengths"},
    "RNN": {4: "sequence lengths"},
    "Range": {0: "start", 1: "limit", 2: "step"},
    "TopK": {1: "k"},
    "NonZero": {0: "data"},
    "Unique": {0: "data"},
    "Compress": {1: "condition"},
    "NonMaxSuppression": {0: "boxes", 1: "scores", 2: "limit", 3: "threshold", 4: "threshold"},
    "Slice": {1: "starts", 2: "ends", 3: "axes", 4: "steps"},
    "Reshape": {1: "shape"},
    "Expand": {1: "shape"},
    "ConstantOfShape": {0: "shape"},
    "Tile": {1: "repeats"},
    "Resize": {2: "scales", 3: "sizes"},
    "Upsample": {1: "scales"},
    "Pad": {1: "pads"},
    "Split": {1: "lengths"},
    "SplitToSequence": {1: "lengths"},
    "OneHot": {1: "depth"},
    "CenterCropPad": {1: "shape"},
    "HannWindow": {0: "size"},
    "HammingWindow": {0: "size"},
    "BlackmanWindow": {0: "size"},
    "GroupQueryAttention": {5: "sequence lengths", 6: "sequence length"},
}
_SHAPE_ONLY = frozenset(
    {"Shape", "Size", "SequenceLength", "OptionalHasElement", "EyeLike", "RandomNormalLike", "RandomUniformLike"}
)
#: Operators that hand the numbers of an input on: what reads their output uses the input.
_PASSING: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("Cast", "Identity", "Flatten", "Transpose", "Abs", "Squeeze", "Unsqueeze", "Reshape", "Slice"), (0,)),
    **dict.fromkeys(("Expand", "Tile", "Split", "Gather", "Clip", "ReduceMax", "ReduceMin", "ReduceSum"), (0,)),
    **dict.fromkeys(("Concat", "Min", "Max"), tuple(range(64))),
    "Optional": (0,),
    "OptionalGetElement": (0,),
}  # fmt: skip


@dataclass(frozen=True)
class Use:
    """Where the numbers of an input end: the operator, the place among its inputs, and what was added on the way."""

    node: Node
    slot: int
    offset: int = 0


def steering(graph: Graph) -> dict[str, str]:
    """Input -> what it steers, such as ``trip count of Loop 'loop'``; inputs that steer nothing are left out.

    Raises ValueError, IndexError of a damaged file.
    """
    trail = _Trail(graph)
    trail.follow(graph, {value.name: 1 << i for i, value in enumerate(graph.inputs)}, 0)
    return {value.name: trail.steered[i] for i, value in enumerate(graph.inputs) if i in trail.steered}


class _Trail:
    """Follows sets of inputs (bits of a number) from tensor to tensor."""

    def __init__(self, graph: Graph) -> None:
        self.functions = graph.functions
        self.steered: dict[int, str] = {}

    def follow(self, graph: Graph, sources: dict[str, int], depth: int) -> None:
        """Adds to ``sources``, tensor -> inputs that its values come from, in the order of the nodes."""
        for node in graph.nodes:
            bits = self._sources(node, sources)
            slots = SLOTS.get(node.kind, {})
            for slot, what in slots.items():
                if slot < len(node.inputs):
                    self._mark(sources.get(node.inputs[slot], 0), what, node)
            if node.kind in _SHAPE_ONLY:
                bits = 0
            elif depth < DEPTH_MAX:
                bits |= self._inside(node, sources, bits, depth)
            if bits:
                sources.update(dict.fromkeys(node.outputs, bits))
            else:
                for name in node.outputs:
                    sources.pop(name, None)

    def _sources(self, node: Node, sources: Mapping[str, int]) -> int:
        bits = 0
        for name in node.inputs:
            bits |= sources.get(name, 0)
        return bits

    def _mark(self, bits: int, what: str, node: Node) -> None:
        index = 0
        while bits:
            if bits & 1:
                name = f" '{node.name}'" if node.name else ""
                self.steered.setdefault(index, f"{what} of {node.kind}{name}")
            bits >>= 1
            index += 1

    def _inside(self, node: Node, sources: dict[str, int], bits: int, depth: int) -> int:
        """What comes out of the subgraphs or the function that a node runs."""
        function = self.functions.get((node.domain, node.kind))
        if function is not None:
            inner = {v.name: sources.get(name, 0) for v, name in zip(function.inputs, node.inputs, strict=False)}
            self.follow(function, inner, depth + 1)
            return self._results(function, inner)
        result = 0
        for body in node.graphs.values() if node.views else ():
            entering = self._entering(node, body, sources)
            for _ in range(ROUNDS_MAX):  # what goes round in a Loop comes in again
                inner = sources | entering
                self.follow(body, inner, depth + 1)
                result |= self._results(body, inner)
                if node.kind == "Loop" and body.outputs:
                    self._mark(inner.get(body.outputs[0].name, 0), "condition", node)
                again = {v.name: entering.get(v.name, 0) | inner.get(o.name, 0) for v, o in _carried(node, body)}
                if all(entering.get(name, 0) == bits for name, bits in again.items()):
                    break
                entering |= again
        return result

    def _entering(self, node: Node, body: Graph, sources: Mapping[str, int]) -> dict[str, int]:
        if node.kind not in ("Loop", "Scan"):
            return {}
        return {v.name: sources.get(name, 0) for v, name in zip(body.inputs, node.inputs, strict=False)}

    def _results(self, graph: Graph, sources: Mapping[str, int]) -> int:
        bits = 0
        for value in graph.outputs:
            bits |= sources.get(value.name, 0)
        return bits


def _carried(node: Node, body: Graph) -> list[tuple[Value, Value]]:
    """(input, output) of a body that hold the same thing from one iteration to the next."""
    if node.kind == "Loop":  # inputs: iteration, condition, carried ...; outputs: condition, carried ..., scanned
        return list(zip(body.inputs[1:], body.outputs, strict=False))
    if node.kind == "Scan":
        states = max(len(body.inputs) - node.integer("num_scan_inputs", 1), 0)
        return list(zip(body.inputs[:states], body.outputs, strict=False))
    return []


def uses(graph: Graph) -> dict[str, list[Use]]:
    """Input -> where its numbers end, through casts, reshapes and sums with a constant, in subgraphs, too."""
    readers: dict[str, list[tuple[Node, int]]] = {}
    aliases: dict[str, list[str]] = {}
    for part in graph.every():
        for node in part.nodes:
            for slot, name in enumerate(node.inputs):
                readers.setdefault(name, []).append((node, slot))
            if node.kind in ("Loop", "Scan") and node.views:
                for body in node.graphs.values():
                    for name, value in zip(node.inputs, body.inputs, strict=False):
                        aliases.setdefault(name, []).append(value.name)
    return {value.name: list(_ends(value.name, readers, aliases, graph)) for value in graph.inputs}


def _ends(
    start: str, readers: Mapping[str, list[tuple[Node, int]]], aliases: Mapping[str, list[str]], graph: Graph
) -> Iterator[Use]:
    left, visited = [(start, 0)], {start}
    while left:
        name, offset = left.pop()
        following: list[tuple[str, int]] = [(inner, offset) for inner in aliases.get(name, ())]
        for node, slot in readers.get(name, ()):
            shift = _shift(node, slot, graph)
            if shift is not None:
                following += [(out, offset + shift) for out in node.outputs]
            elif slot in _PASSING.get(node.kind, ()):
                following += [(out, offset) for out in node.outputs]
            else:
                yield Use(node, slot, offset)
        left += [(out, by) for out, by in following if out not in visited]
        visited.update(out for out, _ in following)


def _shift(node: Node, slot: int, graph: Graph) -> int | None:
    """What an Add or Sub of one stored number adds; None of any other node."""
    if node.kind not in ("Add", "Sub") or len(node.inputs) != 2 or (node.kind == "Sub" and slot):
        return None
    other = graph.stored.get(node.inputs[1 - slot])
    if other is None or other.size != 1 or other.code not in (6, 7):
        return None
    values = other.values()
    if values is None:
        return None
    number = int(values.reshape(-1)[0])
    return -number if node.kind == "Sub" else number
