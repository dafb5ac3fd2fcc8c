"""Images of one colour in class folders, and networks that name the strongest channel: their accuracy is known before they are run."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

#: Class -> the channel that is strong in its images; the networks have an output for each channel.
CHANNELS = {"blue": 2, "green": 1, "red": 0}
ORDER = ("red", "green", "blue")
SIDE = 8


def image(channel: int, *, wide: int = SIDE, high: int = SIDE, form: str = "PNG", seed: int = 0) -> bytes:
    """An image in which the channel is 200 and the others are near 50."""
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(40, 60, size=(high, wide, 3)).astype(np.uint8)
    pixels[..., channel] = 200
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format=form)
    return data.getvalue()


def files(each: int = 4) -> dict[str, bytes]:
    """CLASS/NAME.png -> its bytes, ``each`` of the three classes."""
    return {f"{name}/{i:02}.png": image(c, seed=i) for name, c in CHANNELS.items() for i in range(each)}


def folder(path: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def archive(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in contents.items():
            file.writestr(name, data)
    return path


def network(
    path: Path,
    outputs: Sequence[int] = (0, 1, 2),
    *,
    batch: int | str = "N",
    dtype: str = "float32",
    layout: str = "NCHW",
    side: int = SIDE,
    quantized: bool = False,
    second: bool = False,
) -> Path:
    """An .onnx file whose output ``i`` is the mean of the channel ``outputs[i]``. ``second`` adds an output before it that names the
    weakest channel."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    kind = {"float32": kinds.FLOAT, "float16": kinds.FLOAT16, "uint8": kinds.UINT8}[dtype]
    shape = [batch, 3, side, side] if layout == "NCHW" else [batch, side, side, 3]
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    floats = np.float16 if dtype == "float16" else np.float32
    weights = np.zeros((3, len(outputs)), dtype=floats)
    for i, channel in enumerate(outputs):
        weights[channel, i] = 1
    constants = [onnx.numpy_helper.from_array(weights, "w")]
    nodes, value = [], "x"
    if dtype == "uint8":
        nodes.append(helper.make_node("Cast", [value], ["cast"], to=kinds.FLOAT))
        value = "cast"
    if quantized:
        constants += [
            onnx.numpy_helper.from_array(np.float32(0.02), "s"),
            onnx.numpy_helper.from_array(np.uint8(0), "z"),
        ]
        nodes.append(helper.make_node("QuantizeLinear", [value, "s", "z"], ["q"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]))
        value = "d"
    nodes.append(helper.make_node("ReduceMean", [value], ["mean"], axes=axes, keepdims=0))
    nodes.append(helper.make_node("MatMul", ["mean", "w"], ["y"]))
    result = kinds.FLOAT16 if dtype == "float16" else kinds.FLOAT
    values = [helper.make_tensor_value_info("y", result, [batch, len(outputs)])]
    if second:
        nodes.append(helper.make_node("Neg", ["y"], ["weakest"]))
        values.insert(0, helper.make_tensor_value_info("weakest", result, [batch, len(outputs)]))
    graph = helper.make_graph(
        nodes, "colours", [helper.make_tensor_value_info("x", kind, shape)], values, initializer=constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return path


def identity(path: Path, width: int) -> Path:
    """An .onnx file whose output is its input, [N, width]."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    x, y = (helper.make_tensor_value_info(name, kind, ["N", width]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path
