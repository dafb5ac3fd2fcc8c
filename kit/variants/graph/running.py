"""Shapes and values that a graph does not state, learned by running it once on the CPU with onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, helper

from kit.backends import Feeds

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Seen:
    """A tensor as a run wrote it: its shape and its TensorProto.DataType (0 where numpy has no such type)."""

    shape: Shape
    code: int


def seen_shapes(model: ModelProto, feeds: Feeds) -> dict[str, Shape]:
    """The shape of every tensor that the nodes of ``model`` write when it runs on ``feeds``: name -> shape.

    Tensors inside of loops and branches are not among them, nor are sequences. Empty where onnxruntime cannot run the model.
    """
    names = [name for node in model.graph.node for name in node.output]
    return {name: seen.shape for name, seen in seen_tensors(model, feeds, names).items()}


def seen_tensors(model: ModelProto, feeds: Feeds, names: Iterable[str], folder: Path | None = None) -> dict[str, Seen]:
    """Of the tensors ``names``, those that a run writes; empty where onnxruntime cannot run the model on ``feeds``."""
    values = run(model, feeds, names, folder)
    return {name: Seen(value.shape, _code(value)) for name, value in values.items()}


def run(
    model: ModelProto, feeds: Feeds, names: Iterable[str], folder: Path | None = None
) -> Mapping[str, NDArray[Any]]:
    """The arrays that a run of ``model`` on one thread gives the tensors ``names``; nothing where it does not run.

    ``folder`` holds the files of weights, whose names and ranges were checked.

    Optimizations are off, so that each tensor of the file is one of the run.
    """
    exposed = list(dict.fromkeys(name for name in names if name))
    try:
        session = ort.InferenceSession(
            _exposing(model, exposed).SerializeToString(), _options(folder), providers=["CPUExecutionProvider"]
        )
        values = session.run(exposed, dict(feeds))
    except Exception:  # a runtime says in many ways that it cannot
        return {}
    return {name: value for name, value in zip(exposed, values, strict=True) if isinstance(value, np.ndarray)}


def _exposing(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """A copy with further outputs; their types are the runtime's to infer."""
    copy = ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    for name in names:
        if name not in present:
            copy.graph.output.add().name = name
    return copy


def _options(folder: Path | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _code(value: NDArray[Any]) -> int:
    try:
        return int(helper.np_dtype_to_tensor_dtype(value.dtype))
    except (KeyError, ValueError):
        return 0
