"""Any valid graph goes through describe, profile and add, and any damaged file ends in one sentence: graphs that hypothesis makes.

The usual run tries a part; ``-m slow`` tries 2,000 graphs and 500 damaged files.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from kit.errors import KitError
from kit.library import package
from kit.measure import forkserver, targets, worker
from kit.records import Artifact

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
helper, numpy_helper, T = onnx.helper, onnx.numpy_helper, onnx.TensorProto
info = helper.make_tensor_value_info
PRODUCTS = {"MatMul", "Conv", "Gemm", "Einsum"}
FLOATS = [T.FLOAT, T.DOUBLE, T.FLOAT16]
NUMBERS = [*FLOATS, T.INT64, T.INT32, T.INT8, T.UINT8, T.UINT16, T.INT16, T.UINT32, T.UINT64]
KINDS = [*NUMBERS, T.BOOL, T.STRING, T.BFLOAT16]
NAME = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@dataclass
class Value:
    name: str
    kind: int
    shape: list[int | str | None]

    @property
    def sizes(self) -> list[int]:
        """The shape with a number for each free dimension."""
        return [d if isinstance(d, int) else 2 for d in self.shape]


@dataclass
class Builder:
    """A graph that grows by one operator at a time, each of which fits what is there."""

    draw: Callable[[Any], Any]
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def name(self) -> str:
        name = self.draw(NAME.filter(lambda n: n not in self.names))
        self.names.add(name)
        return str(name)

    def input(self) -> None:
        size = st.one_of(st.integers(1, 3), st.integers(0, 3), st.sampled_from(["batch", "längs", "x:0"]), st.none())
        value = Value(self.name(), self.draw(st.sampled_from(KINDS)), self.draw(st.lists(size, max_size=4)))
        self.inputs.append(value)
        self.values.append(value)

    def stored(self, array: Any) -> str:
        name = self.name()
        if self.draw(st.booleans()):
            self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        else:
            self.nodes.append(
                helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array), "v"))
            )
        return name

    def add(self, op: str, inputs: list[str], kind: int, shape: list[Any], **more: Any) -> None:
        out = self.name()
        named = {"name": self.draw(NAME)} if self.draw(st.booleans()) else {}
        self.nodes.append(helper.make_node(op, inputs, [out], **named, **more))
        self.values.append(Value(out, kind, shape))

    def grow(self) -> None:
        value = self.draw(st.sampled_from(self.values))
        makers = [self.identity, self.shape]
        if value.kind in (T.FLOAT, T.DOUBLE, T.INT64, T.INT32):
            makers += [self.sum, self.cast, self.where, self.loop]
        if value.kind in (T.FLOAT, T.DOUBLE):
            makers += [self.clip, self.branches] + [self.product, self.einsum, self.non_zero] * bool(value.shape)
            makers += [self.convolution] * (len(value.shape) == 4)
        self.draw(st.sampled_from(makers))(value)

    def identity(self, v: Value) -> None:
        self.add("Identity", [v.name], v.kind, v.shape)

    def shape(self, v: Value) -> None:
        self.add("Shape", [v.name], T.INT64, [len(v.shape)])

    def sum(self, v: Value) -> None:
        self.add(self.draw(st.sampled_from(["Add", "Mul"])), [v.name, v.name], v.kind, v.shape)

    def cast(self, v: Value) -> None:
        kind = self.draw(st.sampled_from(NUMBERS))
        self.add("Cast", [v.name], kind, v.shape, to=kind)

    def clip(self, v: Value) -> None:
        self.add(
            "Clip", [v.name, "", self.stored(np.array(1, helper.tensor_dtype_to_np_dtype(v.kind)))], v.kind, v.shape
        )

    def where(self, v: Value) -> None:
        condition = next((x.name for x in self.inputs if x.kind == T.BOOL and x.shape == []), None) or self.stored(
            np.array(True)
        )
        self.add("Where", [condition, v.name, v.name], v.kind, v.shape)

    def non_zero(self, v: Value) -> None:
        self.add("NonZero", [v.name], T.INT64, [len(v.shape), None])

    def product(self, v: Value) -> None:
        if isinstance(v.shape[-1], int):
            columns = self.draw(st.one_of(st.none(), st.integers(1, 3)))
            shape = [v.shape[-1]] + ([] if columns is None else [columns])
            weight = self.stored(np.ones(shape, helper.tensor_dtype_to_np_dtype(v.kind)))
            self.add("MatMul", [v.name, weight], v.kind, v.shape[:-1] + shape[1:])

    def einsum(self, v: Value) -> None:
        letters = "abcd"[: len(v.shape)]
        self.add("Einsum", [v.name, v.name], v.kind, v.shape[:-1], equation=f"{letters},{letters}->{letters[:-1]}")

    def convolution(self, v: Value) -> None:
        if v.kind == T.FLOAT and isinstance(v.shape[1], int) and v.shape[1]:
            weight = self.stored(np.ones((2, v.shape[1], 1, 1), np.float32))
            self.add("Conv", [v.name, weight], v.kind, [v.shape[0], 2, *v.shape[2:]])

    def branches(self, v: Value) -> None:
        condition = next((x.name for x in self.inputs if x.kind == T.BOOL and x.shape == []), None) or self.stored(
            np.array(True)
        )
        parts = {}
        for name, op in (("then_branch", "Neg"), ("else_branch", "Identity")):
            out = self.name()
            parts[name] = helper.make_graph(
                [helper.make_node(op, [v.name], [out])], "part", [], [info(out, v.kind, None)]
            )
        self.add("If", [condition], v.kind, v.shape, **parts)

    def loop(self, v: Value) -> None:
        trips = next((x.name for x in self.inputs if x.kind == T.INT64 and x.shape == []), None) or self.stored(
            np.int64(2)
        )
        i, c, s, c2, s2 = (self.name() for _ in range(5))
        body = helper.make_graph(
            [helper.make_node("Identity", [c], [c2]), helper.make_node("Add", [s, v.name], [s2])],
            "body",
            [info(i, T.INT64, []), info(c, T.BOOL, []), info(s, v.kind, None)],
            [info(c2, T.BOOL, []), info(s2, v.kind, None)],
        )  # fmt: skip
        self.add("Loop", [trips, self.stored(np.array(True)), v.name], v.kind, v.shape, body=body)

    def model(self) -> Any:
        results = [v for v in self.values if v not in self.inputs] or self.values
        chosen = results[-2:]
        graph = helper.make_graph(
            self.nodes,
            self.draw(NAME),
            [info(v.name, v.kind, v.shape) for v in self.inputs],
            [info(v.name, v.kind, [None if isinstance(d, str) else d for d in v.shape]) for v in chosen],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        if self.draw(st.booleans()):
            entry = model.metadata_props.add()
            entry.key, entry.value = self.draw(NAME), self.draw(NAME)
        return model


@st.composite
def models(draw: Any) -> Any:
    builder = Builder(draw)
    for _ in range(draw(st.integers(1, 3))):
        builder.input()
    for _ in range(draw(st.integers(1, 6))):
        builder.grow()
    return builder.model()


def in_this_process(request: worker.WorkerRequest, timeout_s: float) -> worker.WorkerReply:
    return worker.answer(request, worker.Baseline(0, 0, 0.0))


def opens(model: Any) -> bool:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def travels(model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Describe, open, time for milliseconds and pack a model; what became of it."""
    from kit.variants.describe import describe_onnx

    monkeypatch.setattr(forkserver, "ask", in_this_process)
    path = folder / "net.onnx"
    onnx.save(model, path)
    dims = [(f"{v.name}:{i}", d) for v in model.graph.input for i, d in enumerate(v.type.tensor_type.shape.dim)]
    free = {place: 2 for place, dim in dims if not dim.HasField("dim_value")}
    inputs = targets.Inputs(dims=tuple(free.items()))
    try:
        (target,) = targets.resolve([str(path)], backend="onnxruntime", inputs=inputs)
        artifact = describe_onnx(path, free)
    except KitError as error:
        one_sentence(error)
        return str(error)
    has_products = any(node.op_type in PRODUCTS for node in model.graph.node)
    empty = any(0 in spec.shape for spec in artifact.inputs)
    assert artifact.macs != 0 or not has_products or empty, "a sum of nothing for a graph with products"
    assert artifact.inputs == target.artifact.inputs
    assert [s.dtype for s in artifact.outputs] == [s.dtype for s in target.artifact.outputs]
    request = worker.WorkerRequest(
        path=str(path), artifact=artifact, backend="onnxruntime", threads=1, run_s=0.001, warmup_max_s=0.0, energy=False
    )
    reply = worker.answer(request, worker.Baseline(0, 0, 0.0))
    assert reply.status == "ok" or (reply.reason and "\n" not in reply.reason), reply
    (manifest,) = package.add(folder / "library", folder, [artifact], {})
    assert manifest.artifact == artifact
    return reply.status


def one_sentence(error: KitError) -> None:
    assert "\n" not in str(error) and len(str(error)) < 700 and error.exit_code in (1, 2), str(error)


def try_models(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if opens(model):
        with tempfile.TemporaryDirectory() as folder:
            travels(model, Path(folder), monkeypatch)


def try_damage(model: Any, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with some bytes changed, cut or repeated."""
    from kit.variants.describe import describe_onnx

    monkeypatch.setattr(forkserver, "ask", in_this_process)
    raw = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(raw) - 1, 0)))
        how = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if how == "flip" and raw:
            raw[at] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del raw[at : at + data.draw(st.integers(1, 40))]
        else:
            raw[at:at] = data.draw(st.binary(max_size=20))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "net.onnx").write_bytes(bytes(raw))
        for step in (
            lambda: targets.resolve([str(folder / "net.onnx")], backend="onnxruntime"),
            lambda: describe_onnx(folder / "net.onnx"),
        ):
            try:
                result = step()
            except KitError as error:
                one_sentence(error)
            else:
                assert isinstance(result, (list, Artifact))
        shutil.rmtree(folder / "library", ignore_errors=True)


CHECKS = [
    HealthCheck.function_scoped_fixture,
    HealthCheck.too_slow,
    HealthCheck.filter_too_much,
    HealthCheck.data_too_large,
]


@given(model=models())
@settings(max_examples=25, deadline=None, suppress_health_check=CHECKS)
def test_any_valid_graph_travels(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    try_models(model, monkeypatch)


@given(model=models(), data=st.data())
@settings(max_examples=20, deadline=None, suppress_health_check=CHECKS)
def test_any_damaged_file_ends_in_a_sentence(model: Any, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    try_damage(model, data, monkeypatch)


@pytest.mark.slow
@seed(16)
@given(model=models())
@settings(max_examples=2000, deadline=None, suppress_health_check=CHECKS, database=None)
def test_two_thousand_valid_graphs_travel(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    try_models(model, monkeypatch)


@pytest.mark.slow
@seed(16)
@given(model=models(), data=st.data())
@settings(max_examples=500, deadline=None, suppress_health_check=CHECKS, database=None)
def test_five_hundred_damaged_files_end_in_a_sentence(model: Any, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    try_damage(model, data, monkeypatch)
