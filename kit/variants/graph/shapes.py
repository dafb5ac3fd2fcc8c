"""A model with the shape and type of each tensor: as its file states them, as ONNX infers them, else as a run writes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    inliner,
    numpy_helper,
    shape_inference,
)

from kit.backends import feeds, onnxgraph
from kit.errors import BadModel
from kit.records import TensorSpec
from kit.variants.graph import running
from kit.variants.graph.branches import with_branches, with_constants
from kit.variants.graph.links import Links
from kit.variants.graph.operators import CONTROL_FLOW
from kit.variants.graph.products import Shape, UnknownExtent
from kit.variants.graph.reading import captured, constants_of, other_form, tensor_bytes, true_inputs

#: Stored tensors that decide shapes are small; larger ones only make the inference slow.
_SHAPE_BYTES_MAX = 1 << 14
_FOLDED_NODES_MAX = 1000
#: How often shapes are inferred anew, and for how many nodes in all: a run shows what is left.
_ROUNDS_MAX, _INFERRED_NODES_MAX = 50, 100_000
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
_SEED = 0


class Graph:
    """A graph with its shapes looked up by tensor name; a body of a loop or branch is one of its own (:meth:`nested`)."""

    def __init__(
        self, model: ModelProto, name: str, outer: Graph | None = None, bound: frozenset[str] = frozenset(),
        folder: Path | None = None,
    ) -> None:  # fmt: skip
        """``name`` is what errors call it, ``folder`` where weights lie that are in other files; ``bound`` are the inputs that a body is
        given anew each time.

        Raises BadModel: dynamic shapes, or a broken graph that no runtime runs either.
        """
        self.name, self.source, self.outer, self.bound = name, model, outer, bound
        self.folder = folder
        self._read(model)
        for _ in range(min(_ROUNDS_MAX, 1 + _INFERRED_NODES_MAX // max(1, len(self.nodes)))):
            if taken := self._decided_branches():
                self._read(with_branches(self.model, taken))
            elif known := self._deciding_values():
                self._read(with_constants(self.model, known))
            else:
                break
        if outer is None:
            self._learn()

    def _read(self, model: ModelProto) -> None:
        self.__dict__.pop("links", None)
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.inputs = true_inputs(model.graph)
        self.outputs = [value.name for value in model.graph.output]
        self.constants = constants_of(model.graph)
        self.shapes: dict[str, Shape] = {}
        self.types: dict[str, int] = {}
        self._problem = self._infer()
        self.shapes |= {key: tuple(t.dims) for key, t in self.constants.items()}

    def _decided_branches(self) -> dict[int, str]:
        """Index of each If with a constant condition -> the branch that it takes."""
        conditions = {i: node.input[0] for i, node in enumerate(self.nodes) if node.op_type == "If"}
        values = {i: self.whole_number(name) for i, name in conditions.items()}
        return {i: "then_branch" if value else "else_branch" for i, value in values.items() if value is not None}

    def _deciding_values(self) -> dict[str, TensorProto]:
        """Computed whole numbers that ONNX's inference does not follow, where the first unknown shapes depend on them."""
        known: dict[str, TensorProto] = {}
        for node in self.nodes:
            if all(name in self.shapes for name in node.output if name) or node.op_type in CONTROL_FLOW:
                continue
            if not all(name in self.shapes for name in node.input if name):  # it waits for an earlier one
                continue
            for name in node.input[1:] if node.op_type != "ConstantOfShape" else node.input:
                index = self.links.producer.get(name)
                if name in self.constants or name in known or index is None or len(self.nodes[index].output) > 1:
                    continue
                if (value := self.value(name)) is not None:
                    known[name] = _tensor(name, value)
        return known

    @classmethod
    def of(cls, model: ModelProto, name: str, folder: Path | None = None) -> Graph:
        """The graph of a whole model, its functions put in place. Raises BadModel as the constructor."""
        inlined = inliner.inline_local_functions(model) if model.functions else model
        _refuse_dynamic(true_inputs(inlined.graph), name)
        return cls(inlined, name, folder=folder)

    def _infer(self) -> str | None:
        """Shapes by ONNX's inference; its complaint where it finds the graph broken."""
        try:
            graph = shape_inference.infer_shapes(_without_weights(self.model), data_prop=True).graph
            problem = None
        except shape_inference.InferenceError as error:
            graph, problem = self.model.graph, str(error).splitlines()[0]
        for value in (*graph.input, *graph.value_info, *graph.output):
            if (shape := _shape(value)) is not None:
                self.shapes[value.name] = shape
            self.types[value.name] = value.type.tensor_type.elem_type
        return problem

    def _learn(self) -> None:
        """What no inference knows, from one run. Raises BadModel for a graph that is broken and does not run."""
        written = [name for node in self.nodes for name in node.output if name]
        missing = [name for name in written if self._problem or name not in self.shapes or not self.types.get(name)]
        if not missing:
            return
        seen: dict[str, running.Seen] = {}
        for values in self._feeds():
            seen = seen or running.seen_tensors(self.model, values, missing, self.folder)
        for name, tensor in seen.items():
            self.shapes.setdefault(name, tensor.shape)
            self.types[name] = self.types.get(name) or tensor.code
        if self._problem is not None and not seen:
            raise BadModel(f"{self.name} is a broken ONNX graph ({self._problem}): export it again.")

    def _feeds(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Inputs of a run, chosen by what consumes them; should it fail, with zeros for whole numbers."""
        try:
            specs = self.specs([value.name for value in self.inputs])
            graph = onnxgraph.parse(self.source.SerializeToString())
            for zeros in (False, True):
                yield dict(feeds.fed(specs, graph=graph, seed=_SEED, zeros=zeros).samples[0])
        except (BadModel, TypeError, ValueError):  # inputs that are no tensors of numbers
            return

    def runs(self) -> bool | None:
        """Whether onnxruntime runs the graph; None where kit cannot feed it."""
        values = list(self._feeds())
        return any(running.run(self.model, one, self.outputs, self.folder) for one in values) if values else None

    def specs(self, names: Iterable[str]) -> tuple[TensorSpec, ...]:
        """Shape and type of each tensor. Raises BadModel where the graph states no shape."""
        return tuple(self._spec(name) for name in names)

    @cached_property
    def _other_forms(self) -> dict[str, str]:
        """Outputs that are no tensors (sequences, maps) and their types. An input of such a type is refused, as kit feeds none."""
        forms = {value.name: other_form(value) for value in self.source.graph.output}
        return {name: form for name, form in forms.items() if form is not None}

    def _spec(self, name: str) -> TensorSpec:
        if name in self._other_forms:
            return TensorSpec(name=name, shape=(), dtype=self._other_forms[name])
        if name not in self.shapes:
            raise BadModel(
                f"{self.name} does not state the shape of '{name}', and does not run at these sizes either: give others with --dim, or "
                "export it with fixed shapes."
            )
        return TensorSpec(name=name, shape=self.shapes[name], dtype=onnxgraph.DTYPES.get(self.types[name], "unknown"))

    # ------------------------------------------------------------------------------------------------- for counting products

    def shape(self, name: str) -> Shape:
        """The shape of a tensor. Raises UnknownExtent where nobody knows it."""
        if not name or name not in self.shapes:
            raise UnknownExtent(name)
        return self.shapes[name]

    def is_fixed(self, name: str) -> bool:
        """Whether a tensor is stored, or computed from stored ones alone."""
        return name in self.links.fixed

    def whole_number(self, name: str) -> int | None:
        """The value of a tensor of one whole number or truth value that every run computes alike; else None."""
        value = self.value(name)
        return int(value.reshape(())) if value is not None and value.size == 1 else None

    @cached_property
    def links(self) -> Links:
        """Who writes and reads each tensor."""
        outer = {} if self.outer is None else self.outer.links.stored
        return Links(self.nodes, self.constants, self.outputs, self.shapes, outer)

    # ------------------------------------------------------------------------------------------------------- constant values

    def value(self, name: str) -> NDArray[Any] | None:
        """The whole numbers of a small tensor that depends on nothing but constants and shapes; else None."""
        if not name:
            return None
        if name in self.constants:
            return _whole_numbers(numpy_helper.to_array(self.constants[name]))
        if name not in self.links.producer:
            return self._value_around(name)
        sources = self._sources(name)
        if sources is None:
            return None
        graph = helper.make_graph(sources[0], "value", [], [ValueInfoProto(name=name)], sources[1])
        model = helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        return _whole_numbers(running.run(model, {}, [name]).get(name))

    def _value_around(self, name: str) -> NDArray[Any] | None:
        """The value of a tensor that a body reads from the graph around it."""
        return None if self.outer is None or name in self.bound else self.outer.value(name)

    def _sources(self, name: str) -> tuple[list[NodeProto], list[TensorProto]] | None:
        """The nodes, in order, and stored tensors that ``name`` is computed from; None where an input of the network is among them."""
        indices: set[int] = set()
        stored: dict[str, TensorProto] = {}
        waiting = [name]
        while waiting:
            one = waiting.pop()
            if one in self.constants:
                constant = self._small_constant(one)
                if constant is None:
                    return None
                stored[one] = constant
                continue
            index = self.links.producer.get(one)
            if index is None and (around := self._value_around(one)) is not None:
                stored[one] = _tensor(one, around)
                continue
            if index is None or len(indices) > _FOLDED_NODES_MAX:
                return None
            node = self.nodes[index]
            if node.op_type in ("Shape", "Size") and node.input[0] in self.shapes:
                stored[one] = _shape_value(node, one, self.shapes[node.input[0]])
            elif node.op_type in _RANDOM or any(a.HasField("g") for a in node.attribute):
                return None
            elif index not in indices:
                indices.add(index)
                waiting += [source for source in node.input if source]
        return [self.nodes[i] for i in sorted(indices)], list(stored.values())

    # ------------------------------------------------------------------------------------------------------ loops and branches

    def nested(self, body: GraphProto, given: Mapping[str, tuple[Shape | None, int]]) -> Graph:
        """The body of a loop or a branch. ``given`` says shape (None: unknown) and type of its inputs where the node decides them;
        other inputs are as the body declares them."""
        graph = GraphProto()
        graph.CopyFrom(body)
        for value in graph.input:
            if value.name in given:
                _declare(value, *given[value.name])
        for name in captured(body):
            stored = self._small_constant(name)
            if stored is not None:
                graph.initializer.append(stored)
            elif name in self.shapes and self.types.get(name):
                _declare(graph.input.add(name=name), self.shapes[name], self.types[name])
        model = helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        return Graph(model, self.name, self, frozenset(value.name for value in body.input))

    def _small_constant(self, name: str) -> TensorProto | None:
        """A small tensor of the graph that is stored, or whose whole numbers are known, under its own name."""
        if name in self.constants:
            if _bytes_of(self.constants[name]) > _SHAPE_BYTES_MAX:
                return None
            stored = TensorProto()
            stored.CopyFrom(self.constants[name])
            stored.name = name  # that in a Constant node has none
            return stored
        if self.types.get(name) not in (TensorProto.INT64, TensorProto.INT32) or len(self.shapes.get(name, (1, 1))) > 1:
            return None
        value = self.value(name)
        return None if value is None else _tensor(name, value)


def _refuse_dynamic(values: Iterable[ValueInfoProto], name: str) -> None:
    for value in values:
        for index, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") or dim.dim_value < 0:
                key = dim.dim_param or f"{value.name}:{index}"
                raise BadModel(
                    f"{name} has a dynamic shape (dimension {index} of input '{value.name}'): fix it with "
                    f"kit describe FILE --dim {key}=SIZE."
                )


def _without_weights(model: ModelProto) -> ModelProto:
    """A model of the same shapes whose larger stored tensors are inputs: inference copies what it is given several times."""
    graph = model.graph
    large = [t for t in graph.initializer if _bytes_of(t) > _SHAPE_BYTES_MAX]
    if not large:
        return model
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    names = {t.name for t in large}
    light.graph.name = graph.name
    light.graph.node.extend(graph.node)
    light.graph.input.extend(graph.input)
    light.graph.output.extend(graph.output)
    light.graph.value_info.extend(graph.value_info)
    light.graph.sparse_initializer.extend(graph.sparse_initializer)
    light.graph.initializer.extend(t for t in graph.initializer if t.name not in names)
    declared = {value.name for value in graph.input}
    for tensor in large:
        if tensor.name not in declared:
            _declare(light.graph.input.add(name=tensor.name), tuple(tensor.dims), tensor.data_type)
    return light


def _whole_numbers(value: NDArray[Any] | None) -> NDArray[Any] | None:
    return value if value is not None and value.dtype.kind in "biu" and value.size <= _SHAPE_BYTES_MAX else None


def _declare(value: ValueInfoProto, shape: Shape | None, code: int) -> None:
    value.type.CopyFrom(helper.make_tensor_type_proto(code, shape))


def _shape_value(node: NodeProto, name: str, shape: Shape) -> TensorProto:
    if node.op_type == "Size":
        return _tensor(name, np.array(math.prod(shape), dtype=np.int64))
    bounds = {a.name: int(a.i) for a in node.attribute}
    return _tensor(name, np.array(shape[bounds.get("start", 0) : bounds.get("end", len(shape))], dtype=np.int64))


def _tensor(name: str, value: NDArray[Any]) -> TensorProto:
    return TensorProto(
        name=name,
        dims=value.shape,
        data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
        raw_data=np.ascontiguousarray(value).tobytes(),
    )


def _bytes_of(tensor: TensorProto) -> int:
    return tensor_bytes(math.prod(tensor.dims), tensor.data_type)


def _shape(value: ValueInfoProto) -> Shape | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or any(not d.HasField("dim_value") or d.dim_value < 0 for d in kind.shape.dim):
        return None
    return tuple(d.dim_value for d in kind.shape.dim)
