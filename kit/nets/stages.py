"""Anyone's network cut into stages with an exit after each: where it narrows to one tensor, and what classifies there.

A network is traced into a graph (torch.fx). Between two operators it may be cut where a single tensor goes on; such places are grouped by
the tensor's size, and the last of each size is where a stage ends, because there the work behind it is done and the next stage begins to
shrink the image, as with BranchyNet's exits. A network of constant size, such as a transformer, is cut at equal shares of the work. The
last exit is the network's own head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from kit.errors import BadModel, first_line
from kit.nets.exits import MultiExit, pooled_classifier

STAGES_MAX = 4
_SHARE_MIN = 0.08  # of the work, below which a stage is none
_GRID = 4  # of an exit's raster where the map is large enough


@dataclass(frozen=True)
class Place:
    """A place where one tensor goes on: its node, the tensor's shape without the batch, and the share of the work before it."""

    node: fx.Node
    shape: tuple[int, ...]
    share: float


class TokenMean(nn.Module):
    """Tokens ``(N, tokens, features)`` to logits: their mean, normalized, one linear layer."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(features), nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """The mean token, normalized, to logits."""
        logits: Tensor = self.head(self.norm(x.mean(1)))
        return logits


def staged(net: nn.Module, example: Tensor, *, count: int = STAGES_MAX) -> MultiExit:
    """``net`` (images ``(N, C, H, W)`` to logits ``(N, classes)``) as up to ``count`` stages, with fresh exits after all but the last.

    The weights are those of ``net``, shared, and the last exit's logits are its own. ``example`` is one input. Raises BadModel where the
    network cannot be traced (its forward decides by values), has several outputs, or nowhere narrows to one tensor.

    >>> from torchvision.models import resnet18
    >>> staged(resnet18().eval(), torch.zeros(1, 3, 64, 64)).depths
    (1, 2, 3, 4)
    """
    name = type(net).__name__
    try:
        traced = fx.symbolic_trace(net)
        with torch.no_grad():
            ShapeProp(traced).propagate(example)
    except Exception as error:  # tracing raises whatever a forward does with a stand-in for a tensor
        reason = first_line(error)
        raise BadModel(
            f"{name} cannot be cut into stages ({reason[:160]}): write its forward without decisions by values, or leave depths away."
        ) from None
    logits = _shape(_output(traced))
    if len(logits) != 1:
        raise BadModel(
            f"{name} gives {list(logits)} for an image and no row of class scores: depths are for classifiers."
        )
    ends = _ends(places(traced), count)
    if not ends:
        raise BadModel(f"{name} nowhere narrows to one tensor between its operators: it has no depths.")
    cuts = [end.node for end in ends]
    stages = [_between(traced, start, stop) for start, stop in zip([None, *cuts], cuts, strict=False)]
    exits: list[nn.Module] = [_classifier(end.shape, logits[0]) for end in ends[:-1]]
    exits.append(_between(traced, cuts[-1], None))
    return MultiExit(range(1, len(ends) + 1), stages, exits).train(net.training)


def places(traced: fx.GraphModule) -> list[Place]:
    """Where ``traced``, whose shapes are known, may be cut, in order."""
    nodes = list(traced.graph.nodes)
    order = {node: index for index, node in enumerate(nodes)}
    last_use = {node: max((order[user] for user in node.users), default=-1) for node in nodes if node.op != "get_attr"}
    work = [_work(traced, node) for node in nodes]
    total, spent, out = sum(work) or 1, 0, []
    live: set[fx.Node] = set()
    for index, node in enumerate(nodes):
        spent += work[index]
        if node in last_use:
            live.add(node)
        live = {value for value in live if last_use[value] > index}
        if live == {node} and node.op.startswith("call") and _is_tensor(node) and nodes[index + 1].op != "output":
            out.append(Place(node, _shape(node), spent / total))
    return out


def _ends(candidates: Sequence[Place], count: int) -> list[Place]:
    """Where stages end: the last place of each size of the map, else equal shares of the work."""
    features = [place for place in candidates if len(place.shape) > 1 and place.share > 0]
    if not features:
        return []
    finished = [
        place for place in features if place.share == features[-1].share
    ]  # all that follows is the head's: pooling, norms
    widest = max(math.prod(place.shape[1:]) for place in finished)
    features = [p for p in features if p not in finished or math.prod(p.shape[1:]) == widest]
    by_size: dict[tuple[int, ...], Place] = {
        place.shape[1:] if len(place.shape) == 3 else place.shape: place for place in features
    }
    groups, before = [], 0.0
    for place in by_size.values():
        if place.share - before >= _SHARE_MIN:
            groups.append(place)
            before = place.share
    last = features[-1]
    if not groups or groups[-1] is not last:
        groups = [*groups[: -1 if groups and last.share - groups[-1].share < _SHARE_MIN else None], last]
    if len(groups) == 1:
        shares = [last.share * step / count for step in range(1, count + 1)]
        nearest = [min(features, key=lambda place: abs(place.share - share)) for share in shares]
        groups = list(dict.fromkeys([*nearest[:-1], last]))
    return groups[-count:]


def _work(traced: fx.GraphModule, node: fx.Node) -> int:
    """Multiply-accumulates of a node with weights, roughly: its weights times the positions of its output."""
    if node.op != "call_module" or not _is_tensor(node):
        return 0
    module = traced.get_submodule(str(node.target))
    matrices = sum(p.numel() for p in module.parameters(recurse=True) if p.ndim > 1)
    shape = _shape(node)
    positions = math.prod(shape[1:]) if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) else math.prod(shape[:-1])
    return matrices * positions


def _is_tensor(node: fx.Node) -> bool:
    return hasattr(node.meta.get("tensor_meta"), "shape")


def _shape(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's tensor without the batch; empty of anything else."""
    return tuple(node.meta["tensor_meta"].shape[1:]) if _is_tensor(node) else ()


def _output(traced: fx.GraphModule) -> fx.Node:
    result = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    if not isinstance(result, fx.Node):
        raise BadModel("The network has several outputs: depths are for classifiers, which have one.")
    return result


def _between(traced: fx.GraphModule, start: fx.Node | None, stop: fx.Node | None) -> fx.GraphModule:
    """The part of the graph behind ``start`` (None: the input) to ``stop`` (None: the output), with the same weights."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    inside = start is None

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:  # a parameter that stands by itself, used here
            copies[node] = graph.node_copy(node)
        return copies[node]

    for node in traced.graph.nodes:
        if start is not None and node is start:
            copies[node] = graph.placeholder("x")
            inside = True
        elif node.op == "output":
            graph.output(copied(node.args[0]))
        elif inside and node.op != "get_attr":
            copies[node] = graph.node_copy(node, copied)
        if stop is not None and node is stop:
            graph.output(copies[node])
            break
    part = fx.GraphModule(traced, graph)
    part.delete_all_unused_submodules()
    return part


def _classifier(shape: tuple[int, ...], classes: int) -> nn.Module:
    if len(shape) == 3:
        return pooled_classifier(shape[0], classes, min(_GRID, *shape[1:]))
    return TokenMean(shape[-1], classes)
