"""Models in which what is constant stands as such: branches in place of the If that takes them, values in place of their nodes."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from kit.variants.graph.reading import subgraphs_of


def with_branches(model: ModelProto, taken: Mapping[int, str]) -> ModelProto:
    """A copy of ``model`` in which the If nodes ``taken`` (index -> name of the attribute) are the nodes of that branch."""
    copy = _without_nodes(model)
    graph = copy.graph
    for index, node in enumerate(model.graph.node):
        if index in taken:
            _append_branch(graph, node, subgraphs_of(node)[taken[index]])
        else:
            graph.node.append(node)
    return copy


def with_constants(model: ModelProto, values: Mapping[str, TensorProto]) -> ModelProto:
    """A copy of ``model`` in which the tensors ``values`` are stored in place of the nodes that compute them."""
    copy = _without_nodes(model)
    copy.graph.initializer.extend(values.values())
    copy.graph.node.extend(node for node in model.graph.node if not any(name in values for name in node.output))
    return copy


def _without_nodes(model: ModelProto) -> ModelProto:
    copy = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    copy.graph.name = model.graph.name
    for field in ("input", "output", "initializer", "sparse_initializer", "value_info"):
        getattr(copy.graph, field).extend(getattr(model.graph, field))
    return copy


def _append_branch(graph: GraphProto, node: NodeProto, branch: GraphProto) -> None:
    """The nodes and weights of ``branch`` under names that no other tensor has, and its results as those of ``node``."""
    own = [t.name for t in branch.initializer] + [name for inner in branch.node for name in inner.output if name]
    names = {name: f"{node.output[0]}/{name}" for name in own}
    copy = GraphProto()
    copy.CopyFrom(branch)
    for tensor in copy.initializer:
        tensor.name = names[tensor.name]
    for value in copy.value_info:
        value.name = names.get(value.name, value.name)
    for inner in copy.node:
        _rename(inner, names)
    graph.initializer.extend(copy.initializer)
    graph.value_info.extend(copy.value_info)
    graph.node.extend(copy.node)
    for value, result in zip(branch.output, node.output, strict=False):
        if result:
            graph.node.append(helper.make_node("Identity", [names.get(value.name, value.name)], [result]))


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    """The tensors of ``node`` by their new names, also where a subgraph reads them; what that one defines itself keeps its name."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for body in subgraphs_of(node).values():
        own = {v.name for v in body.input} | {t.name for t in body.initializer}
        own |= {name for inner in body.node for name in inner.output}
        visible = {old: new for old, new in names.items() if old not in own}
        for inner in body.node:
            _rename(inner, visible)
        for value in body.output:
            value.name = visible.get(value.name, value.name)
