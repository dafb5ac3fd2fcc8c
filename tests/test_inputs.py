"""What a network is fed: free dimensions, samples and rules, values by what consumes them, and inputs that steer the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit import backends
from kit.backends import dimensions, feeds, onnxgraph, precision, reasons, steering
from kit.errors import BadModel, IntegrityError, UnknownName, UsageError
from kit.measure import jobs, onnx_files, quality
from kit.measure.targets import Inputs, resolve
from kit.records import FedInput, TensorSpec

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper, numpy_helper, T = onnx.helper, onnx.numpy_helper, onnx.TensorProto
value = helper.make_tensor_value_info


def stored(name: str, array: Any) -> Any:
    return numpy_helper.from_array(np.asarray(array), name)


def save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any] | None = None, **more: Any
) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights or [])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10, **more), path)
    return path


def graph_of(path: Path) -> onnxgraph.Graph:
    graph = onnxgraph.read(path)
    assert graph is not None
    return graph


def loop(path: Path, *, condition: str = "true") -> Path:
    """y = x (w ** n): the trip count is an input."""
    body = helper.make_graph(
        [helper.make_node("MatMul", ["s", "w"], ["s2"], name="inner"), helper.make_node("Identity", ["c"], ["c2"])],
        "body",
        [value("i", T.INT64, []), value("c", T.BOOL, []), value("s", T.FLOAT, [4, 8])],
        [value("c2", T.BOOL, []), value("s2", T.FLOAT, [4, 8])],
    )
    inputs = [value("x", T.FLOAT, [4, 8]), value("n", T.INT64, [])]
    weights = [stored("w", np.eye(8, dtype=np.float32))]
    if condition == "true":
        weights.append(stored("true", True))
    else:
        inputs.append(value(condition, T.BOOL, []))
    node = helper.make_node("Loop", ["n", condition, "x"], ["y"], body=body, name="loop")
    return save(path, [node], inputs, [value("y", T.FLOAT, [4, 8])], weights)


# ------------------------------------------------------------------------------------------------------------ dimensions


def test_the_advice_is_a_command_that_works(tmp_path: Path) -> None:
    weight = stored("w", np.ones((16, 3, 3, 3), np.float32))
    node = helper.make_node("Conv", ["image", "w"], ["y"], pads=[1] * 4)
    shape = ["N", 3, "H", None]
    path = save(
        tmp_path / "x.onnx",
        [node],
        [value("image", T.FLOAT, shape)],
        [value("y", T.FLOAT, ["N", 16, "H", None])],
        [weight],
    )
    with pytest.raises(
        BadModel, match=r"'H' in input 'image' and 1 more: .* --dim H=224 --dim image:3=224$"
    ) as refusal:
        resolve([str(path)], backend="onnxruntime")
    options = str(refusal.value).split(f"{path} --dim ")[1].split(" --dim ")
    (target,) = resolve([str(path)], backend="onnxruntime", inputs=Inputs(dims=dimensions.parse(options)))
    assert target.artifact.inputs[0].shape == (1, 3, 224, 224) and target.artifact.outputs[0].shape == (1, 16, 224, 224)
    assert target.artifact.artifact_id == "x-h224-image-3-224"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_shapes_are_fixed_in_every_runtime(backend: str, tmp_path: Path) -> None:
    if not backends.probe(backend).available:
        pytest.skip(f"no {backend}")
    shape = ["batch", "seq", None]
    path = save(
        tmp_path / "x.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        [value("x", T.FLOAT, shape)],
        [value("y", T.FLOAT, shape)],
    )
    dims = dimensions.parse(["seq=5", "x:2=7", "batch=2"])
    (target,) = resolve([str(path)], backend=backend, inputs=Inputs(dims=dims))
    session = backends.load(backend).open(path, target.artifact, 1)
    fed = backends.make_feeds(session.inputs, 1)
    assert session.inputs[0].shape == (2, 5, 7) and np.array_equal(session.run(fed)[0], np.maximum(fed["x"], 0))


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("sec=5", "did you mean 'seq'"),
        ("x:0=5", "dimension 0 of 'x' is fixed at 3"),
        ("seq=-1", "--dim 'seq=-1' cannot be read"),
        ("seq", "--dim 'seq' cannot be read"),
        ("seq=99999999999", "cannot be read"),
    ],
)  # fmt: skip
def test_dimensions_that_cannot_be(option: str, sentence: str, tmp_path: Path) -> None:
    path = save(
        tmp_path / "x.onnx", [helper.make_node("Relu", ["x"], ["y"])], [value("x", T.FLOAT, [3, "seq"])], [value("y", T.FLOAT, [3, "seq"])]
    )  # fmt: skip
    with pytest.raises((UsageError, UnknownName), match=sentence):
        resolve([str(path)], backend="onnxruntime", inputs=Inputs(dims=dimensions.parse([option])))


def test_a_symbol_has_one_size_everywhere(tmp_path: Path) -> None:
    inputs = [value(name, T.FLOAT, ["n", "seq"]) for name in "ab"]
    path = save(
        tmp_path / "x.onnx", [helper.make_node("Add", ["a", "b"], ["y"])], inputs, [value("y", T.FLOAT, ["n", "seq"])]
    )
    graph = graph_of(path)
    assert dimensions.batch_keys(graph) == {"n"}
    assert dimensions.fixed(graph, {"seq": 6}, None, path).shapes == {"a": (1, 6), "b": (1, 6)}
    with pytest.raises(UsageError, match="seq would be 6 and 7 at once"):
        dimensions.fixed(graph, {"a:1": 6, "b:1": 7}, None, path)


def test_a_sweep_over_a_dimension_is_a_network_for_each_size(tmp_path: Path) -> None:
    path = save(
        tmp_path / "x.onnx", [helper.make_node("Relu", ["x"], ["y"])], [value("x", T.FLOAT, [1, "seq"])], [value("y", T.FLOAT, [1, "seq"])]
    )  # fmt: skip
    shapes, rest = jobs.dim_sweeps([], ["dim.seq=64,128", "threads=1,2"])
    from kit.records import MeasureSettings

    listed = jobs.jobs(
        [str(path)],
        jobs.points(MeasureSettings(), rest),
        "onnxruntime",
        tmp_path,
        inputs=[Inputs(dims=d) for d in shapes],
    )
    assert [(j.target.artifact.artifact_id, j.settings.threads) for j in listed] == [
        ("x-seq64", 1), ("x-seq64", 2), ("x-seq128", 1), ("x-seq128", 2),
    ]  # fmt: skip
    assert len({j.target.artifact.content_sha256 for j in listed}) == 2


def test_shapes_that_show_only_when_the_network_runs(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("NonZero", ["r"], ["y"])]
    path = save(tmp_path / "x.onnx", nodes, [value("x", T.FLOAT, [1, 64])], [value("y", T.INT64, [2, "count"])])
    (target,) = resolve([str(path)], backend="onnxruntime")
    rows, count = target.artifact.outputs[0].shape
    assert rows == 2 and 10 < count < 54


def test_an_empty_cache_is_a_shape(tmp_path: Path) -> None:
    inputs = [value("past", T.FLOAT, [1, 0, 8]), value("x", T.FLOAT, [1, 4, 8])]
    path = save(
        tmp_path / "x.onnx",
        [helper.make_node("Concat", ["past", "x"], ["y"], axis=1)],
        inputs,
        [value("y", T.FLOAT, [1, 4, 8])],
    )
    (target,) = resolve([str(path)], backend="onnxruntime")
    assert [spec.shape for spec in target.artifact.inputs] == [(1, 0, 8), (1, 4, 8)]


# -------------------------------------------------------------------------------------------------------------- steering


def branch(path: Path) -> Path:
    """An If whose condition compares an input with 16000, as networks of speech do with the sample rate."""
    branches = [
        helper.make_graph([helper.make_node(op, ["x"], ["z"])], op, [], [value("z", T.FLOAT, [8])])
        for op in ("Relu", "Sin")
    ]
    nodes = [
        helper.make_node("Equal", ["rate", "hz"], ["same"]),
        helper.make_node("If", ["same"], ["y"], then_branch=branches[0], else_branch=branches[1], name="choice"),
    ]
    inputs = [value("x", T.FLOAT, [8]), value("rate", T.INT64, [])]
    return save(path, nodes, inputs, [value("y", T.FLOAT, [8])], [stored("hz", np.int64(16000))])


def test_what_steers_is_followed_through_the_graph(tmp_path: Path) -> None:
    assert steering.steering(graph_of(loop(tmp_path / "a.onnx"))) == {"n": "trip count of Loop 'loop'"}
    of_condition = steering.steering(graph_of(loop(tmp_path / "b.onnx", condition="go")))
    assert of_condition == {"n": "trip count of Loop 'loop'", "go": "condition of Loop 'loop'"}
    assert steering.steering(graph_of(branch(tmp_path / "c.onnx"))) == {"rate": "condition of If 'choice'"}


def test_a_condition_that_is_computed_inside_a_loop_steers(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "step"], ["s2"]), helper.make_node("Less", ["s2", "most"], ["c2"])],
        "body",
        [value("i", T.INT64, []), value("c", T.BOOL, []), value("s", T.FLOAT, [])],
        [value("c2", T.BOOL, []), value("s2", T.FLOAT, [])],
    )
    inputs = [value("x", T.FLOAT, []), value("step", T.FLOAT, []), value("other", T.FLOAT, [])]
    nodes = [
        helper.make_node("Loop", ["", "true", "x"], ["z"], body=body, name="l"),
        helper.make_node("Add", ["z", "other"], ["y"]),
    ]
    path = save(
        tmp_path / "x.onnx",
        nodes,
        inputs,
        [value("y", T.FLOAT, [])],
        [stored("true", True), stored("most", np.float32(9))],
    )
    assert steering.steering(graph_of(path)) == {"x": "condition of Loop 'l'", "step": "condition of Loop 'l'"}


def test_a_shape_is_no_value(tmp_path: Path) -> None:
    nodes = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Reshape", ["z", "s"], ["y"])]
    inputs = [value("x", T.FLOAT, [2, 3]), value("z", T.FLOAT, [6]), value("s2", T.INT64, [2])]
    nodes.append(helper.make_node("Expand", ["y", "s2"], ["out"]))
    path = save(tmp_path / "x.onnx", nodes, inputs, [value("out", T.FLOAT, None)])
    assert steering.steering(graph_of(path)) == {"s2": "shape of Expand"}


def test_a_function_of_the_model_is_looked_into(tmp_path: Path) -> None:
    function = helper.make_function(
        "own", "First", ["data", "count"], ["top"], [helper.make_node("TopK", ["data", "count"], ["top", "places"], name="best")],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("First", ["x", "k"], ["y"], domain="own")], "g",
        [value("x", T.FLOAT, [9]), value("k", T.INT64, [1])], [value("y", T.FLOAT, None)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10), tmp_path / "x.onnx")
    assert steering.steering(graph_of(tmp_path / "x.onnx")) == {"k": "k of TopK 'best'"}


def test_an_input_that_steers_and_that_nobody_gave_decides_nothing() -> None:
    fed = FedInput(name="n", dtype="int64", shape=(), rule="value 8", given=False, steers="trip count of Loop 'loop'")
    label, facts = quality.label_by_inputs("stable", [fed])
    assert label == "assumed" and "--input n=VALUE" in facts[0] and "trip count of Loop 'loop'" in facts[0]
    assert quality.label_by_inputs("inconclusive", [fed])[0] == "inconclusive"
    given = fed.model_copy(update={"given": True})
    assert quality.label_by_inputs("stable", [given]) == ("stable", ())
    assert quality.label_by_inputs("settled", [fed.model_copy(update={"steers": None})]) == ("settled", ())


# ----------------------------------------------------------------------------------------------------------------- feeds


def specs_of(path: Path) -> tuple[TensorSpec, ...]:
    (target,) = resolve([str(path)], backend="onnxruntime")
    return target.artifact.inputs


def fed_to(path: Path, **more: Any) -> tuple[dict[str, Any], dict[str, FedInput]]:
    fed = feeds.fed(specs_of(path), graph=graph_of(path), **more)
    return dict(fed.samples[0]), {f.name: f for f in fed.inputs}


def test_values_follow_their_consumer(tmp_path: Path) -> None:
    arrays, facts = fed_to(loop(tmp_path / "loop.onnx"))
    assert arrays["n"] == feeds.TRIPS and facts["n"].assumed and not facts["x"].assumed
    arrays, facts = fed_to(branch(tmp_path / "branch.onnx"))
    assert arrays["rate"] == 16000 and "asks for it" in facts["rate"].rule
    weights = [
        stored("words", np.ones((50, 4), np.float32)),
        stored("two", np.int64(2)),
        stored("places", np.ones((20, 4), np.float32)),
    ]
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["a"]),
        helper.make_node("Add", ["position", "two"], ["p"]),
        helper.make_node("Gather", ["places", "p"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=1),
        helper.make_node("Mul", ["c", "m"], ["d"]),
        helper.make_node("Cast", ["divisor"], ["e"], to=6),
        helper.make_node("Div", ["number", "e"], ["f"]),
    ]
    inputs = [
        value("ids", T.INT64, [1, 300]),
        value("position", T.INT64, [1, 300]),
        value("attention_mask", T.INT64, [1, 300, 1]),
    ]
    inputs += [value("divisor", T.UINT8, [64]), value("number", T.INT32, [64])]
    outputs = [value("d", T.FLOAT, [1, 300, 4]), value("f", T.INT32, [64])]
    path = save(tmp_path / "text.onnx", nodes, inputs, outputs, weights)
    arrays, facts = fed_to(path)
    assert arrays["ids"].min() >= 0 and 40 < arrays["ids"].max() < 50 and 12 < arrays["position"].max() < 18
    assert (arrays["attention_mask"] == 1).all() and arrays["divisor"].min() > 0 and arrays["number"].min() > 0
    assert not any(f.assumed or f.given for f in facts.values()) and len({f.sha256 for f in facts.values()}) == 5
    backends.load("onnxruntime").open(path, None, 1).run(arrays)


def test_sequence_lengths_and_top_k_do_something(tmp_path: Path) -> None:
    nodes = [helper.make_node("TopK", ["x", "k"], ["best", "places"])]
    path = save(
        tmp_path / "x.onnx",
        nodes,
        [value("x", T.FLOAT, [4, 9]), value("k", T.INT64, [1])],
        [value("best", T.FLOAT, [4, "k"])],
    )
    arrays, facts = fed_to(path)
    assert arrays["k"].tolist() == [1] and facts["k"].assumed


TYPES = [
    "FLOAT",
    "DOUBLE",
    "FLOAT16",
    "BFLOAT16",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "BOOL",
    "STRING",
]


@pytest.mark.parametrize("shape", [[], [3], [2, 3]])
@pytest.mark.parametrize("name", TYPES)
def test_every_type_is_fed(name: str, shape: list[int], tmp_path: Path) -> None:
    kind = getattr(T, name)
    node = helper.make_node("Identity", ["x"], ["y"])
    path = save(tmp_path / "x.onnx", [node], [value("x", kind, shape)], [value("y", kind, shape)])
    (target,) = resolve([str(path)], backend="onnxruntime")
    assert target.artifact.inputs[0].shape == tuple(shape)
    session = backends.load("onnxruntime").open(path, target.artifact, 1)
    fed = feeds.fed(session.inputs, graph=graph_of(path))
    outputs = session.prepare(fed.samples[0])()
    if name != "BFLOAT16":  # comes out as a value of onnxruntime's own
        assert np.array_equal(outputs[0], fed.samples[0]["x"])


def test_what_cannot_be_fed_is_said(tmp_path: Path) -> None:
    tensor = helper.make_tensor_type_proto(T.FLOAT, [2, 3])
    inputs = [helper.make_value_info("x", helper.make_sequence_type_proto(tensor))]
    node = helper.make_node("ConcatFromSequence", ["x"], ["y"], axis=0)
    path = save(tmp_path / "x.onnx", [node], inputs, [value("y", T.FLOAT, [None, 3])])
    with pytest.raises(BadModel, match=r"input 'x' of type seq\(tensor\(float\)\), which kit does not feed"):
        resolve([str(path)], backend="onnxruntime")


def test_an_optional_input_is_fed_its_tensor(tmp_path: Path) -> None:
    optional = helper.make_optional_type_proto(helper.make_tensor_type_proto(T.FLOAT, [2, 3]))
    node = helper.make_node("OptionalGetElement", ["x"], ["y"])
    path = save(tmp_path / "x.onnx", [node], [helper.make_value_info("x", optional)], [value("y", T.FLOAT, [2, 3])])
    arrays, _ = fed_to(path)
    session = backends.load("onnxruntime").open(path, None, 1)
    assert np.array_equal(session.run(arrays)[0], arrays["x"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("n=50", [50]), ("n=zeros", [0]), ("n=random:3..3", [3])],
)
def test_rules_of_the_user_come_first(text: str, expected: list[int], tmp_path: Path) -> None:
    arrays, facts = fed_to(loop(tmp_path / "x.onnx"), rules=[feeds.rule_of(text)])
    assert arrays["n"].reshape(-1).tolist() == expected and facts["n"].given and not facts["n"].assumed


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("n", "cannot be read"),
        ("n=random:5", "is no range"),
        ("n=random:9..1", "is no range"),
        ("n=random:nan..1", "is no range"),
        ("n=missing.npy", "does not exist"),
    ],
)
def test_rules_that_cannot_be(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        feeds.rule_of(text)


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [("m=3", "Unknown input 'm'"), ("n=3.5", "does not fit its type int64"), ("n=many", "is no number")],
)
def test_rules_are_tried_before_anything_runs(rule: str, sentence: str, tmp_path: Path) -> None:
    path = loop(tmp_path / "x.onnx")
    with pytest.raises((UsageError, UnknownName), match=sentence):
        resolve([str(path)], backend="onnxruntime", inputs=Inputs(rules=(feeds.rule_of(rule),)))


def test_samples_take_turns(tmp_path: Path) -> None:
    path = loop(tmp_path / "x.onnx")
    np.savez(tmp_path / "s.npz", n=np.array([3, 5, 7]), x=np.ones((4, 8), np.float32))
    fed = feeds.fed(specs_of(path), graph=graph_of(path), samples=tmp_path / "s.npz")
    assert [int(sample["n"]) for sample in fed.samples] == [3, 5, 7] and all((s["x"] == 1).all() for s in fed.samples)
    assert all(f.given for f in fed.inputs) and [f.samples for f in fed.inputs] == [1, 3]
    folder = tmp_path / "folder"
    folder.mkdir()
    for index in range(4):
        np.savez(folder / f"{index}.npz", n=np.int64(index), x=np.full((4, 8), index, np.float32))
    fed = feeds.fed(specs_of(path), graph=graph_of(path), samples=folder)
    assert [(int(s["n"]), s["x"][0, 0]) for s in fed.samples] == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_samples_that_do_not_fit(tmp_path: Path) -> None:
    specs = specs_of(loop(tmp_path / "x.onnx"))
    np.savez(tmp_path / "shape.npz", x=np.ones((9, 9), np.float32))
    np.savez(tmp_path / "name.npz", z=np.ones(3))
    np.savez(tmp_path / "count.npz", n=np.arange(3), x=np.ones((2, 4, 8), np.float32))
    np.savez(tmp_path / "object.npz", x=np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npz").write_text("no archive")
    for name, error, sentence in [
        ("shape", UsageError, r"shape \[9, 9\] for input 'x', which is \[4, 8\]"),
        ("name", UsageError, "no array with the name of an input: the inputs are x, n"),
        ("count", UsageError, "give every input as many samples"),
        ("object", IntegrityError, "no plain arrays"),
        ("text", IntegrityError, "no plain arrays"),
    ]:
        with pytest.raises(error, match=sentence):
            feeds.fed(specs, samples=tmp_path / f"{name}.npz")


def test_the_sample_of_the_sidecar_is_fed_where_it_fits(tmp_path: Path) -> None:
    spec = TensorSpec(name="x", shape=(2, 3), dtype="float32")
    np.savez(tmp_path / "s.npz", input=np.arange(9, dtype=np.float32).reshape(3, 3), output=np.ones(2))
    fed = feeds.fed((spec,), sidecar=tmp_path / "s.npz")
    assert fed.samples[0]["x"].tolist() == [[0, 1, 2], [3, 4, 5]] and fed.inputs[0].rule == "sample of the sidecar"
    other = spec.model_copy(update={"shape": (2, 4)})
    assert not feeds.fed((other,), sidecar=tmp_path / "s.npz").inputs[0].given


# --------------------------------------------------------------------------------------------------- identity, precision


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("whisper/model.onnx", "whisper-model"),
        ("whisper/onnx/model.onnx", "whisper-model"),
        ("models--a--whisper/snapshots/0123456789abcdef/onnx/model.onnx", "whisper-model"),
        ("whisper/encoder.onnx", "encoder"),
        ("x/größe.onnx", "größe"),
    ],
)
def test_a_file_that_is_called_as_every_other_has_the_name_of_its_folder(path: str, name: str, tmp_path: Path) -> None:
    assert onnx_files.artifact_name(tmp_path / path) == name


def test_two_networks_of_one_name_are_an_error(tmp_path: Path) -> None:
    for folder, size in (("a", 3), ("b", 4)):
        (tmp_path / folder).mkdir()
        for name in ("model", "net"):
            nodes = [helper.make_node("Relu", ["x"], ["y"])]
            save(
                tmp_path / folder / f"{name}.onnx", nodes, [value("x", T.FLOAT, [size])], [value("y", T.FLOAT, [size])]
            )
    both = resolve([str(tmp_path / f / "model.onnx") for f in "ab"], backend="onnxruntime")
    assert [t.artifact.artifact_id for t in both] == ["a-model", "b-model"]
    with pytest.raises(UsageError, match="are two networks and would both be called net: rename one"):
        resolve([str(tmp_path / f / "net.onnx") for f in "ab"], backend="onnxruntime")


def product(path: Path, weight: np.ndarray[Any, Any], kind: int) -> Path:
    inputs, outputs = [value("x", kind, [1, 8])], [value("y", kind, [1, 8])]
    return save(path, [helper.make_node("MatMul", ["x", "w"], ["y"])], inputs, outputs, [stored("w", weight)])


def test_precision_is_read_from_the_graph(tmp_path: Path) -> None:
    for dtype, kind, expected in [
        (np.float32, T.FLOAT, "fp32"),
        (np.float16, T.FLOAT16, "fp16"),
        (np.float64, T.DOUBLE, "fp64"),
    ]:
        path = product(tmp_path / f"{expected}.onnx", np.ones((8, 8), dtype), kind)
        assert precision.of(graph_of(path)) == precision.Formats(expected)
        assert resolve([str(path)], backend="onnxruntime")[0].artifact.precision == expected
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=T.FLOAT16),
        helper.make_node("MatMul", ["b", "v"], ["y"]),
    ]
    weights = [stored("w", np.ones((8, 8), np.float32)), stored("v", np.ones((8, 8), np.float16))]
    path = save(tmp_path / "mixed.onnx", nodes, [value("x", T.FLOAT, [1, 8])], [value("y", T.FLOAT16, [1, 8])], weights)
    assert precision.of(graph_of(path)).mixed == "weights: 50% fp32, 50% fp16"


def test_a_name_is_only_a_name(tmp_path: Path) -> None:
    weights = [stored("QuantizeLinear_scale", np.ones((8, 8), np.float32))]
    node = helper.make_node("MatMul", ["x", "QuantizeLinear_scale"], ["y"], name="DynamicQuantizeLinear")
    path = save(tmp_path / "x.onnx", [node], [value("x", T.FLOAT, [1, 8])], [value("y", T.FLOAT, [1, 8])], weights)
    assert precision.of(graph_of(path)) == precision.Formats("fp32")


def test_forms_of_quantization(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "v"], ["y"]),
    ]
    weights = [
        stored("w", rng.standard_normal((8, 3, 3, 3)).astype(np.float32)),
        stored("v", rng.standard_normal((8, 5)).astype(np.float32)),
    ]
    path = save(
        tmp_path / "x.onnx", nodes, [value("x", T.FLOAT, [1, 3, 16, 16])], [value("y", T.FLOAT, [1, 5])], weights
    )

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.left = 3

        def get_next(self) -> Any:
            self.left -= 1
            return {"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} if self.left >= 0 else None

    expected = {}
    for form in ("QDQ", "QOperator"):
        file = tmp_path / f"{form}.onnx"
        quantization.quantize_static(
            str(path), str(file), Reader(), quant_format=getattr(quantization.QuantFormat, form)
        )
        expected[form] = precision.of(graph_of(file))
    quantization.quantize_dynamic(str(path), str(tmp_path / "dynamic.onnx"))
    expected["dynamic"] = precision.of(graph_of(tmp_path / "dynamic.onnx"))
    assert {form: f.precision for form, f in expected.items()} == dict.fromkeys(("QDQ", "QOperator", "dynamic"), "int8")
    assert [str(f.quantization).rsplit("-", 1)[0] for f in expected.values()] == [
        "static-qdq",
        "static-qoperator",
        "dynamic",
    ]


# ---------------------------------------------------------------------------------------------------------- end to end


def test_python_gives_shapes_and_values(tmp_path: Path) -> None:
    import kit

    path = loop(tmp_path / "x.onnx")
    assumed = kit.profile(path, budget=4, run_s=0.1)
    assert assumed.label in ("assumed", "inconclusive") and not assumed.trusted
    assert any("--input n=VALUE" in sentence for sentence in assumed.evidence)
    given = kit.profile(path, inputs={"n": 400, "x": np.ones((4, 8), np.float32)}, budget=4, run_s=0.1)
    assert given.label != "assumed" and {f.name: f.given for f in given.feeds} == {"x": True, "n": True}
    assert given.measurement is not None and assumed.measurement is not None
    assert given.measurement.median_s > 5 * assumed.measurement.median_s, "400 iterations for 8"
    (comparison,) = kit.compare([assumed], [given])
    assert comparison.label == "not comparable" and "input n differs" in str(comparison.why)
    np.savez(tmp_path / "samples.npz", n=np.array([1, 800]), x=np.ones((4, 8), np.float32))
    several = kit.profile(path, inputs=tmp_path / "samples.npz", budget=4, run_s=0.1)
    assert several.measurement is not None and len(several.measurement.samples_s) == 2
    short_s, long_s = several.measurement.samples_s
    assert long_s > 20 * short_s and any("2 samples took turns" in sentence for sentence in several.evidence)


@pytest.mark.parametrize("words", [np.array(["a", "bcd"]), np.array(["a", "bcd"], dtype=object)])
def test_python_gives_texts(words: np.ndarray, tmp_path: Path) -> None:
    from kit.measure import targets

    ((rule,), samples) = targets.feeding_of({"words": words}, tmp_path)
    assert samples is None and rule.file is not None and np.load(rule.file).tolist() == ["a", "bcd"]
    with pytest.raises(UsageError, match=r"inputs\['words'\] is no array of numbers or texts"):
        targets.feeding_of({"words": np.array([b"raw", 3], dtype=object)}, tmp_path)


def test_a_model_with_its_weights_beside_it_is_described_packed_and_installed(tmp_path: Path) -> None:
    from kit.library import package, swap
    from kit.variants.describe import describe_onnx

    folder = tmp_path / "net"
    (folder / "weights").mkdir(parents=True)
    path = product(folder / "net.onnx", np.full((8, 8), 0.5, np.float32), T.FLOAT)
    model = onnx.load(path)
    for tensor, location in zip(model.graph.initializer, ["weights/w.bin"], strict=True):
        onnx.external_data_helper.set_external_data(tensor, location=location)
    onnx.external_data_helper.write_external_data_tensors(model, str(folder))
    onnx.save(model, path)
    artifact = describe_onnx(path)
    assert artifact.macs == 64 and artifact.parameters == 64 and [d.file for d in artifact.data] == ["weights/w.bin"]
    (manifest,) = package.add(tmp_path / "library", folder, [artifact], {})
    assert {f.file for f in manifest.files} == {"net.onnx", "net.json", "weights/w.bin"}
    assert package.read_packages(tmp_path / "library") == [manifest]
    staged = tmp_path / "staged"
    for ref in manifest.files:
        (staged / ref.file).parent.mkdir(parents=True, exist_ok=True)
        (staged / ref.file).write_bytes(package.blob_path(tmp_path / "library", f"sha256:{ref.sha256}").read_bytes())
    (staged / "weights" / "more.bin").write_bytes(b"never named")
    swap.keep_only(staged, manifest)
    assert {p.relative_to(staged).as_posix() for p in staged.rglob("*.bin")} == {"weights/w.bin"}
    session = backends.load("onnxruntime").open(staged / "net.onnx", manifest.artifact, 1)
    assert np.allclose(session.run({"x": np.ones((1, 8), np.float32)})[0], 4.0)
    (folder / "weights" / "w.bin").write_bytes(bytes(256))
    with pytest.raises(IntegrityError, match="w.bin is not the file"):
        package.add(tmp_path / "library", folder, [artifact], {})


def test_describing_another_shape_writes_another_sidecar(tmp_path: Path) -> None:
    from kit.variants.describe import describe_onnx

    weight = stored("w", np.ones((8, 8), np.float32))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = save(
        tmp_path / "x.onnx",
        nodes,
        [value("x", T.FLOAT, ["n", "seq", 8])],
        [value("y", T.FLOAT, ["n", "seq", 8])],
        [weight],
    )
    with pytest.raises(BadModel, match="--dim seq=128"):
        describe_onnx(path)
    assert not path.with_suffix(".json").exists()
    first = describe_onnx(path, {"seq": 10})
    assert (first.artifact_id, first.macs, first.dims) == ("x-seq10", 10 * 64, (("seq", 10),))
    assert describe_onnx(path) == first
    second = describe_onnx(path, {"seq": 20})
    assert (second.artifact_id, second.macs) == ("x-seq20", 20 * 64)
    (known,) = resolve([str(path)], backend="onnxruntime", inputs=Inputs(dims=(("seq", 20),)))
    (other,) = resolve([str(path)], backend="onnxruntime", inputs=Inputs(dims=(("seq", 30),)))
    assert known.artifact == second and (other.artifact.artifact_id, other.artifact.macs) == ("x-seq30", None)
    named = describe_onnx(path, {"seq": 20}, "mine")
    assert named.artifact_id == "mine" and named.macs == second.macs


def test_layers_count_no_time_twice(tmp_path: Path) -> None:
    session = backends.load("onnxruntime").open(loop(tmp_path / "x.onnx"), None, 1)
    layers = session.layers({"x": np.ones((4, 8), np.float32), "n": np.array(200)}, calls=10)
    parents = {node.name: node.parent for node in layers.nodes}
    assert parents["loop"] is None and parents["inner"] == "loop"
    assert layers.sum_s <= layers.total_s * 1.02
    assert sum(node.time_s for node in layers.nodes if node.parent) > 0


SIGNATURE = (
    "Fail: [ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: /src/core/framework/session_state_utils.cc:294 "
    "onnxruntime::common::Status onnxruntime::Save(const onnxruntime::Env&, const std::function<void(int)>&) index.Max() > -1 was false. "
    "Indexes should\nhave been populated."
)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (SIGNATURE, "Exception during initialization: index.Max() > -1 was false. Indexes should have been populated."),
        (
            "Non-zero status code returned while running If node. Name:'a' Status Message: Non-zero status code returned while running "
            "Conv node. Name:'b' Status Message: Invalid input shape: {192}",
            "The runtime failed in Conv 'b': Invalid input shape: {192}.",
        ),
        ("ValueError: bad", "ValueError: bad."),
        ("x" * 999, "x" * 239 + "…."),
    ],
)
def test_a_runtimes_failure_is_one_sentence(message: str, sentence: str) -> None:
    assert reasons.cause(message) == sentence


def test_inputs_of_what_is_no_onnx_file_are_refused() -> None:
    """Nothing that a person says about inputs is passed over in silence."""
    for inputs in (Inputs(dims=(("seq", 8),)), Inputs(rules=(feeds.rule_of("x=3"),)), Inputs(samples=Path("s.npz"))):
        with pytest.raises(UsageError, match="fake:250us is none: name the file"):
            resolve(["fake:250us"], backend="fake", inputs=inputs)


def test_a_gpu_needs_the_shapes_of_outputs_before(tmp_path: Path) -> None:
    from kit.backends import onnxrt

    known = TensorSpec(name="y", shape=(1, 10), dtype="float32")
    onnxrt.refuse_unknown(tmp_path / "x.onnx", (known,), "CUDA")
    unknown = known.model_copy(update={"shape": (2, -1)})
    with pytest.raises(BadModel, match="output 'y' whose shape shows only when it runs, and CUDA needs it before"):
        onnxrt.refuse_unknown(tmp_path / "x.onnx", (known, unknown), "CUDA")


# ----------------------------------------------------------------------------------------------------------- time is no batch


def recurrent(path: Path, kind: str, first: str | None, layout: int = 0) -> Path:
    """A recurrent operator over a free first dimension, with lengths beside it."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    node = helper.make_node(kind, ["x", "w", "r", "", "lengths"], ["y"], hidden_size=5, layout=layout)
    inputs = [value("x", T.FLOAT, [first, 3, 6]), value("lengths", T.INT32, [3])]
    shapes = {"w": (1, gates * 5, 6), "r": (1, gates * 5, 5)}
    weights = [onnx.numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()]
    return save(path, [node], inputs, [value("y", T.FLOAT, None)], weights)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("first", [None, "a", "time", "n_frames"])
def test_the_time_of_a_recurrent_operator_is_no_batch(kind: str, first: str | None, tmp_path: Path) -> None:
    path = recurrent(tmp_path / "x.onnx", kind, first)
    graph = graph_of(path)
    key = first or "x:0"
    assert dimensions.batch_keys(graph) == frozenset()
    with pytest.raises(
        BadModel, match=rf"describe keeps them beside the file.*: kit profile .*x.onnx --dim {key}=\d+$"
    ):
        dimensions.fixed(graph, {}, None, path)
    assert dimensions.fixed(graph, {key: 9}, None, path).chosen == ((key, 9),)


def test_with_the_batch_first_it_is_one(tmp_path: Path) -> None:
    assert dimensions.batch_keys(graph_of(recurrent(tmp_path / "x.onnx", "LSTM", None, layout=1))) == {"x:0"}
    assert dimensions.batch_keys(graph_of(recurrent(tmp_path / "y.onnx", "LSTM", "batch_of_sequences"))) == {
        "batch_of_sequences"
    }


def test_what_a_scan_runs_over_is_no_batch(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "f"], ["t"]), helper.make_node("Identity", ["t"], ["o"])], "body",
        [value("s", T.FLOAT, [4]), value("f", T.FLOAT, [4])], [value("t", T.FLOAT, [4]), value("o", T.FLOAT, [4])],
    )  # fmt: skip
    node = helper.make_node("Scan", ["z", "x"], ["last", "y"], num_scan_inputs=1, body=body)
    path = save(
        tmp_path / "x.onnx", [node], [value("x", T.FLOAT, ["a", 4])], [value("y", T.FLOAT, ["a", 4])],
        [onnx.numpy_helper.from_array(np.zeros(4, np.float32), "z")],
    )  # fmt: skip
    assert dimensions.batch_keys(graph_of(path)) == frozenset()


# ------------------------------------------------------------------------------------------------------- sizes by the samples


def two_inputs(path: Path) -> Path:
    """ids and a mask of a free batch and length."""
    inputs = [value(name, T.FLOAT, ["batch", "tokens", 3]) for name in ("a", "b")]
    return save(path, [helper.make_node("Add", ["a", "b"], ["y"])], inputs, [value("y", T.FLOAT, None)])


@pytest.mark.parametrize("shape", [(1, 6, 3), (4, 6, 3), (2, 1, 6, 3)])
def test_sizes_are_those_of_the_samples(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = two_inputs(tmp_path / "x.onnx")
    np.savez(tmp_path / "s.npz", a=np.ones(shape, np.float32), b=np.ones(shape, np.float32))
    (target,) = resolve([str(path)], backend="onnxruntime", inputs=Inputs(samples=tmp_path / "s.npz"))
    assert [spec.shape for spec in target.artifact.inputs] == [(1, 6, 3)] * 2
    assert target.artifact.dims == (("tokens", 6),)


def test_one_given_input_sizes_the_others(tmp_path: Path) -> None:
    path = two_inputs(tmp_path / "x.onnx")
    np.save(tmp_path / "b.npy", np.ones((1, 9, 3), np.float32))
    rules = (feeds.rule_of(f"b={tmp_path / 'b.npy'}"),)
    (target,) = resolve([str(path)], backend="onnxruntime", inputs=Inputs(rules=rules))
    assert [spec.shape for spec in target.artifact.inputs] == [(1, 9, 3)] * 2
    with pytest.raises(UsageError, match="which is .1, 5, 3."):
        resolve([str(path)], backend="onnxruntime", inputs=Inputs(dims=(("tokens", 5),), rules=rules))
    with pytest.raises(BadModel, match="dynamic dimension 'tokens'"):
        resolve([str(path)], backend="onnxruntime", inputs=Inputs(rules=(feeds.rule_of("b=1"),)))


def test_a_folder_of_samples_sizes_by_its_first_file(tmp_path: Path) -> None:
    path = save(
        tmp_path / "x.onnx", [helper.make_node("Relu", ["x"], ["y"])],
        [value("x", T.FLOAT, [1, None, None])], [value("y", T.FLOAT, None)],
    )  # fmt: skip
    (tmp_path / "s").mkdir()
    for name, width in (("1.npy", 4), ("2.npy", 4)):
        np.save(tmp_path / "s" / name, np.ones((1, 7, width), np.float32))
    (target,) = resolve([str(path)], backend="onnxruntime", inputs=Inputs(samples=tmp_path / "s"))
    assert target.artifact.inputs[0].shape == (1, 7, 4)
    np.save(tmp_path / "s" / "3.npy", np.ones((1, 7, 5), np.float32))
    with pytest.raises(UsageError, match="3.npy has an array of shape .1, 7, 5."):
        resolve([str(path)], backend="onnxruntime", inputs=Inputs(samples=tmp_path / "s"))


def test_a_session_over_time_is_of_batch_one(tmp_path: Path) -> None:
    path = recurrent(tmp_path / "x.onnx", "GRU", "n_frames")
    (target,) = resolve([str(path)], backend="onnxruntime", inputs=Inputs(dims=(("n_frames", 9),)))
    runtime = backends.load("onnxruntime")
    for batch in (None, 1):
        assert runtime.open(path, target.artifact, 1, batch).inputs[0].shape == (9, 3, 6)
    with pytest.raises(UsageError, match="has the fixed batch"):
        runtime.open(path, target.artifact, 1, 9)


def test_a_batch_that_is_not_first_can_be_chosen(tmp_path: Path) -> None:
    shape = ["n_frames", "batch", 2]
    path = save(
        tmp_path / "x.onnx", [helper.make_node("Relu", ["x"], ["y"])], [value("x", T.FLOAT, shape)], [value("y", T.FLOAT, shape)]
    )  # fmt: skip
    (target,) = resolve([str(path)], backend="onnxruntime", inputs=Inputs(dims=(("n_frames", 9),)))
    assert backends.load("onnxruntime").open(path, target.artifact, 1, 4).inputs[0].shape == (9, 4, 2)
