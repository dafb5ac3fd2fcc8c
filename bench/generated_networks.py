"""Small networks of the kinds that public packages rarely ship, written from a seed: what bench/networks.py measures beside those.

Each function writes one file (and what lies beside it) into a folder. The weights are random; the graphs are those that exporters and
quantizers write: a detector that ends in a non-maximum suppression, an encoder with ids and a mask, recurrent networks with lengths, a
decoder with an empty cache, half precision, 8 and 4 bits, weights in another file, branches and loops, text and pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper, numpy_helper

node, info = helper.make_node, helper.make_tensor_value_info
SEED, OPSET = 7, 17
Array = NDArray[Any]


class Net:
    """Nodes and weights that grow in the order of the graph; values are named by the node that writes them."""

    def __init__(self, dtype: Any = np.float32) -> None:
        self.rng = np.random.default_rng(SEED)
        self.dtype = np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """One node; the name of its first output."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        names = [name, *(f"{name}_{i}" for i in range(1, outputs))]
        self.nodes.append(node(kind, list(inputs), names, name=name, **attributes))
        return name

    def stored(self, array: Any, dtype: Any = None) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype=dtype), name))
        return name

    def random(self, *shape: int) -> str:
        scale = 1 / math.sqrt(max(1, math.prod(shape[1:])))
        return self.stored((self.rng.standard_normal(shape) * scale).astype(self.dtype))

    def whole(self, *numbers: int) -> str:
        return self.stored(list(numbers), np.int64)

    def conv(self, x: str, into: int, out: int, size: int = 3, stride: int = 1) -> str:
        pads = [size // 2] * 4
        y = self.add(
            "Conv", x, self.random(out, into, size, size), self.random(out), pads=pads, strides=[stride, stride]
        )
        return self.add("Relu", y)

    def dense(self, x: str, into: int, out: int) -> str:
        return self.add("Add", self.add("MatMul", x, self.random(into, out)), self.random(out))

    def model(
        self, inputs: Sequence[Any], outputs: Sequence[Any], opset: int = OPSET, **domains: int
    ) -> onnx.ModelProto:
        imports = [
            helper.make_opsetid("", opset),
            *(helper.make_opsetid(k.replace("_", "."), v) for k, v in domains.items()),
        ]
        graph = helper.make_graph(self.nodes, "generated", list(inputs), list(outputs), self.weights)
        model = helper.make_model(graph, opset_imports=imports, producer_name="bench/generated_networks.py")
        model.ir_version = 10
        return model


def save(model: onnx.ModelProto, path: Path) -> None:
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _renamed(net: Net, name: str, result: str) -> None:
    net.nodes.append(node("Identity", [name], [result]))


# ----------------------------------------------------------------------------------------------------------------- pictures


def _features(net: Net, x: str = "image", channels: Sequence[int] = (3, 16, 32, 32)) -> str:
    for into, out in pairwise(channels):
        x = net.conv(x, into, out, stride=2)
    return x


def _classifier(net: Net, x: str, channels: int = 32, classes: int = 10) -> None:
    flat = net.add("Flatten", net.add("GlobalAveragePool", x))
    logits = net.add("Gemm", flat, net.random(classes, channels), net.random(classes), transB=1)
    _renamed(net, logits, "logits")


def detector(path: Path) -> None:
    """Boxes and scores of each cell of a free-sized image, then non-maximum suppression: the output's size is the data's."""
    net = Net()
    x = _features(net)
    boxes = net.add("Conv", x, net.random(4, 32, 1, 1), net.random(4))
    scores = net.add("Sigmoid", net.add("Conv", x, net.random(3, 32, 1, 1), net.random(3)))
    flat_boxes = net.add("Transpose", net.add("Reshape", boxes, net.whole(1, 4, -1)), perm=[0, 2, 1])
    flat_scores = net.add("Reshape", scores, net.whole(1, 3, -1))
    limits = net.stored(np.float32(0.5)), net.stored(np.float32(0.4))
    kept = net.add("NonMaxSuppression", flat_boxes, flat_scores, net.whole(20), *limits)
    index = net.add("Gather", kept, net.stored(np.int64(2)), axis=1)
    _renamed(net, net.add("Gather", flat_boxes, index, axis=1), "detections")
    image = info("image", T.FLOAT, [1, 3, "height", "width"])
    save(net.model([image], [info("detections", T.FLOAT, [1, "count", 4])]), path)


def half(path: Path) -> None:
    """A classifier in half precision, inputs and outputs too."""
    net = Net(np.float16)
    _classifier(net, _features(net))
    save(net.model([info("image", T.FLOAT16, [1, 3, 64, 64])], [info("logits", T.FLOAT16, [1, 10])]), path)


def external(path: Path) -> None:
    """A classifier whose weights lie in another file."""
    net = Net()
    _classifier(net, _features(net))
    model = net.model([info("image", T.FLOAT, [1, 3, 64, 64])], [info("logits", T.FLOAT, [1, 10])])
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)


def free_batch(path: Path) -> None:
    """A classifier of any number of images."""
    net = Net()
    _classifier(net, _features(net))
    save(net.model([info("image", T.FLOAT, ["batch", 3, 64, 64])], [info("logits", T.FLOAT, ["batch", 10])]), path)


def pixels(path: Path) -> None:
    """Raw pixels as a camera gives them (bytes, channels last, free size), resized inside."""
    net = Net()
    scaled = net.add("Div", net.add("Cast", "pixels", to=T.FLOAT), net.stored(np.float32(255)))
    first = net.add("Transpose", scaled, perm=[0, 3, 1, 2])
    resized = net.add("Resize", first, "", "", net.whole(1, 3, 64, 64), mode="linear")
    _classifier(net, _features(net, resized))
    frame = info("pixels", T.UINT8, [1, "height", "width", 3])
    save(net.model([frame], [info("logits", T.FLOAT, [1, 10])]), path)


class _Calibration:
    """Twelve random images; what the quantizer of onnxruntime asks for."""

    def __init__(self) -> None:
        rng = np.random.default_rng(SEED)
        self.left = [{"image": rng.standard_normal((1, 3, 64, 64)).astype(np.float32)} for _ in range(12)]

    def get_next(self) -> dict[str, Array] | None:
        return self.left.pop() if self.left else None


def _quantized(path: Path, form: str) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    source = path.with_name(f"{path.stem}-float.onnx")
    net = Net()
    _classifier(net, _features(net))
    save(net.model([info("image", T.FLOAT, [1, 3, 64, 64])], [info("logits", T.FLOAT, [1, 10])]), source)
    quantize_static(
        str(source), str(path), _Calibration(), quant_format=getattr(QuantFormat, form), per_channel=form == "QDQ",
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    source.unlink()


def int8_qdq(path: Path) -> None:
    """8 bits, quantizers around each operator."""
    _quantized(path, "QDQ")


def int8_qoperator(path: Path) -> None:
    """8 bits, operators of integers."""
    _quantized(path, "QOperator")


# --------------------------------------------------------------------------------------------------------- words and sequences

WIDTH, HEADS, VOCABULARY = 64, 4, 200


def _heads(net: Net, x: str) -> str:
    split = net.add("Reshape", x, net.whole(0, 0, HEADS, WIDTH // HEADS))
    return net.add("Transpose", split, perm=[0, 2, 1, 3])


def _attended(net: Net, query: str, key: str, value: str, mask: str | None) -> str:
    scores = net.add("MatMul", query, net.add("Transpose", key, perm=[0, 1, 3, 2]))
    scores = net.add("Mul", scores, net.stored(np.float32(1 / math.sqrt(WIDTH // HEADS))))
    if mask is not None:
        scores = net.add("Add", scores, mask)
    context = net.add("MatMul", net.add("Softmax", scores, axis=-1), value)
    joined = net.add("Transpose", context, perm=[0, 2, 1, 3])
    return net.dense(net.add("Reshape", joined, net.whole(0, 0, WIDTH)), WIDTH, WIDTH)


def _normed(net: Net, x: str) -> str:
    return net.add("LayerNormalization", x, net.random(WIDTH), net.random(WIDTH), axis=-1)


def _block_end(net: Net, x: str, context: str) -> str:
    x = _normed(net, net.add("Add", x, context))
    inner = net.add("Relu", net.dense(x, WIDTH, 4 * WIDTH))
    return _normed(net, net.add("Add", x, net.dense(inner, 4 * WIDTH, WIDTH)))


def _encoder(net: Net) -> list[Any]:
    """Two layers over ids and a mask; writes ``last_hidden_state``."""
    x = net.add("Gather", net.random(VOCABULARY, WIDTH), "input_ids")
    mask = net.add("Unsqueeze", net.add("Cast", "attention_mask", to=T.FLOAT), net.whole(1, 2))
    mask = net.add("Mul", net.add("Sub", net.stored(np.float32(1)), mask), net.stored(np.float32(-1e4)))
    for _ in range(2):
        query, key, value = (_heads(net, net.dense(x, WIDTH, WIDTH)) for _ in range(3))
        x = _block_end(net, x, _attended(net, query, key, value, mask))
    _renamed(net, x, "last_hidden_state")
    return [info(name, T.INT64, ["batch", "seq"]) for name in ("input_ids", "attention_mask")]


def encoder(path: Path) -> None:
    """A transformer encoder of ids and a mask; batch and length are free."""
    net = Net()
    inputs = _encoder(net)
    save(net.model(inputs, [info("last_hidden_state", T.FLOAT, ["batch", "seq", WIDTH])]), path)


def encoder_dynamic_int8(path: Path) -> None:
    """The encoder with products of 8 bits whose ranges each run finds."""
    from onnxruntime.quantization import quantize_dynamic

    source = path.with_name(f"{path.stem}-float.onnx")
    encoder(source)
    quantize_dynamic(str(source), str(path))
    source.unlink()


def encoder_int4(path: Path) -> None:
    """The encoder with weights of 4 bits in blocks of 32 (MatMulNBits)."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    net = Net()
    inputs = _encoder(net)
    model = net.model(inputs, [info("last_hidden_state", T.FLOAT, ["batch", "seq", WIDTH])])
    quantizer = MatMulNBitsQuantizer(model, block_size=32, is_symmetric=True)
    quantizer.process()
    onnx.save(quantizer.model.model, path)


def decoder(path: Path) -> None:
    """One step of a decoder with a cache of keys and values, which is empty at first (an input of no elements)."""
    net = Net()
    x = net.add("Gather", net.random(VOCABULARY, WIDTH), "input_ids")
    query, key, value = (_heads(net, net.dense(x, WIDTH, WIDTH)) for _ in range(3))
    keys = net.add("Concat", "past_key", key, axis=2)
    values = net.add("Concat", "past_value", value, axis=2)
    x = _block_end(net, x, _attended(net, query, keys, values, None))
    _renamed(net, net.dense(x, WIDTH, VOCABULARY), "logits")
    _renamed(net, keys, "present_key")
    _renamed(net, values, "present_value")
    past = [info(f"past_{k}", T.FLOAT, [1, HEADS, "past", WIDTH // HEADS]) for k in ("key", "value")]
    present = [info(f"present_{k}", T.FLOAT, [1, HEADS, "total", WIDTH // HEADS]) for k in ("key", "value")]
    ids = info("input_ids", T.INT64, [1, "seq"])
    save(net.model([ids, *past], [info("logits", T.FLOAT, [1, "seq", VOCABULARY]), *present]), path)


def text(path: Path) -> None:
    """A classifier of words: text becomes ids by a table in the file (ai.onnx.ml)."""
    net = Net()
    words = [f"word{i}" for i in range(50)]
    ids = net.add(
        "LabelEncoder",
        "words",
        domain="ai.onnx.ml",
        keys_strings=words,
        values_int64s=list(range(1, 51)),
        default_int64=0,
    )
    x = net.add("ReduceMean", net.add("Gather", net.random(51, WIDTH), ids), axes=[1], keepdims=0)
    x = net.add("Relu", net.dense(x, WIDTH, 4 * WIDTH))
    _renamed(net, net.dense(x, 4 * WIDTH, 5), "logits")
    model = net.model([info("words", T.STRING, [1, "count"])], [info("logits", T.FLOAT, [1, 5])], ai_onnx_ml=3)
    save(model, path)


# --------------------------------------------------------------------------------------------------------------- recurrent nets

UNITS, FRAMES = 48, 40


def _recurrent(net: Net, kind: str, gates: int, directions: int, **attributes: Any) -> str:
    weights = net.random(directions, gates * UNITS, FRAMES), net.random(directions, gates * UNITS, UNITS)
    bias = net.random(directions, 2 * gates * UNITS)
    return net.add(
        kind, "frames", *weights, bias, "lengths", outputs=2 + (kind == "LSTM"), hidden_size=UNITS, **attributes
    )


def lstm(path: Path) -> None:
    """A bidirectional LSTM over frames, with the length of each sequence as an input; time is free."""
    net = Net()
    y = _recurrent(net, "LSTM", 4, 2, direction="bidirectional")
    joined = net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3]), net.whole(0, 0, 2 * UNITS))
    _renamed(net, net.dense(joined, 2 * UNITS, 30), "letters")
    frames = [info("frames", T.FLOAT, ["time", 2, FRAMES]), info("lengths", T.INT32, [2])]
    save(net.model(frames, [info("letters", T.FLOAT, ["time", 2, 30])]), path)


def gru(path: Path) -> None:
    """A GRU over frames with lengths."""
    net = Net()
    y = _recurrent(net, "GRU", 3, 1, linear_before_reset=1)
    _renamed(net, net.dense(net.add("Squeeze", y, net.whole(1)), UNITS, 30), "letters")
    frames = [info("frames", T.FLOAT, ["time", 2, FRAMES]), info("lengths", T.INT32, [2])]
    save(net.model(frames, [info("letters", T.FLOAT, ["time", 2, 30])]), path)


def _step(net: Net, weights: tuple[str, str]) -> list[onnx.NodeProto]:
    """state, frame -> tanh(frame W + state U), as the body of a Scan or a Loop reads them."""
    return [
        node("MatMul", ["frame", weights[0]], ["step_in"], name="step_in"),
        node("MatMul", ["state", weights[1]], ["step_state"], name="step_state"),
        node("Add", ["step_in", "step_state"], ["step_sum"]),
        node("Tanh", ["step_sum"], ["next"]),
    ]


def scan(path: Path) -> None:
    """A recurrent network that is a Scan over the frames of a free time."""
    net = Net()
    weights = net.random(FRAMES, UNITS), net.random(UNITS, UNITS)
    nodes = [*_step(net, weights), node("Identity", ["next"], ["emitted"])]
    body = helper.make_graph(
        nodes, "step",
        [info("state", T.FLOAT, [1, UNITS]), info("frame", T.FLOAT, [1, FRAMES])],
        [info("next", T.FLOAT, [1, UNITS]), info("emitted", T.FLOAT, [1, UNITS])],
    )  # fmt: skip
    start = net.stored(np.zeros((1, UNITS), np.float32))
    net.nodes.append(node("Scan", [start, "frames"], ["last", "states"], name="steps", body=body, num_scan_inputs=1))
    _renamed(net, net.dense("states", UNITS, 30), "letters")
    save(net.model([info("frames", T.FLOAT, ["time", 1, FRAMES])], [info("letters", T.FLOAT, ["time", 1, 30])]), path)


def control(path: Path) -> None:
    """A Loop whose trip count is an input, then an If whose condition is one: two branches of different work."""
    net = Net()
    square = net.random(WIDTH, WIDTH)
    body = helper.make_graph(
        [
            node("MatMul", ["turning", square], ["product"], name="turn"),
            node("Tanh", ["product"], ["turned"]),
            node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [info("i", T.INT64, []), info("go", T.BOOL, []), info("turning", T.FLOAT, [1, WIDTH])],
        [info("go_on", T.BOOL, []), info("turned", T.FLOAT, [1, WIDTH])],
    )
    net.nodes.append(node("Loop", ["steps", "", "x"], ["settled"], name="refine", body=body))
    wide = net.random(WIDTH, 4 * WIDTH)
    narrow = net.random(4 * WIDTH, WIDTH)
    then = helper.make_graph(
        [
            node("MatMul", ["settled", wide], ["widened"], name="widen"),
            node("Relu", ["widened"], ["cut"]),
            node("MatMul", ["cut", narrow], ["thorough"], name="narrow"),
        ],
        "then", [], [info("thorough", T.FLOAT, [1, WIDTH])],
    )  # fmt: skip
    other = helper.make_graph([node("Relu", ["settled"], ["quick"])], "else", [], [info("quick", T.FLOAT, [1, WIDTH])])
    net.nodes.append(node("If", ["careful"], ["y"], name="choose", then_branch=then, else_branch=other))
    inputs = [info("x", T.FLOAT, [1, WIDTH]), info("steps", T.INT64, []), info("careful", T.BOOL, [])]
    save(net.model(inputs, [info("y", T.FLOAT, [1, WIDTH])]), path)


def einsum(path: Path) -> None:
    """Attention written as Einsum, as some exporters do."""
    net = Net()
    parts = [net.add("Einsum", "x", net.random(WIDTH, HEADS, 16), equation="btd,dhk->bhtk") for _ in range(3)]
    scores = net.add("Softmax", net.add("Einsum", *parts[:2], equation="bhtk,bhsk->bhts"), axis=-1)
    context = net.add("Einsum", scores, parts[2], equation="bhts,bhsk->bthk")
    _renamed(net, net.add("Einsum", context, net.random(HEADS, 16, WIDTH), equation="bthk,hkd->btd"), "y")
    shape = ["batch", "seq", WIDTH]
    save(net.model([info("x", T.FLOAT, shape)], [info("y", T.FLOAT, shape)]), path)


Write = Callable[[Path], None]
