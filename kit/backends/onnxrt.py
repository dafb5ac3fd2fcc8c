"""ONNX Runtime on the CPU. A board's own build (Jetson's GPU wheel) imports under the same module name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from kit.backends import Feeds, Probe
from kit.errors import BadModel
from kit.records import Artifact, TensorSpec

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


def probe() -> Probe:
    return Probe(ort.__version__)


def session_options(threads: int) -> Any:
    """The options that kit measures with: ONNX Runtime's defaults but for the thread counts (and its own log silenced)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


class OrtSession:
    def __init__(self, path: Path, threads: int) -> None:
        try:
            self._session = ort.InferenceSession(
                str(path), session_options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise BadModel(_reason(path, str(error))) from None
        self.inputs = tuple(_spec(path, node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(path, node) for node in self._session.get_outputs())
        self._run = self._session.run

    def run(self, feeds: Feeds) -> list[NDArray[Any]]:
        return self._run(None, feeds)  # type: ignore[no-any-return]

    def close(self) -> None:
        del self._run, self._session


def open(path: Path, artifact: Artifact | None, threads: int) -> OrtSession:  # noqa: A001
    return OrtSession(path, threads)


def _reason(path: Path, text: str) -> str:
    if "INVALID_PROTOBUF" in text or "Protobuf parsing failed" in text or "No graph was found" in text:
        return f"{path} is not an ONNX model: give a file that kit export, kit build or an ONNX exporter wrote."
    first = text.splitlines()[0].split(" : ")[-1].strip().rstrip(".")
    return f"ONNX Runtime {ort.__version__} cannot load {path}: {first}."


def _spec(path: Path, node: Any) -> TensorSpec:
    loose = [d for d in node.shape if not isinstance(d, int)]
    if loose:
        raise BadModel(
            f"{path} has the dynamic dimension '{loose[0]}' in '{node.name}': a latency belongs to one shape, so export it with a fixed "
            f"shape, or fix it with: python -m onnxruntime.tools.make_dynamic_shape_fixed --dim_param {loose[0]} --dim_value 1 IN OUT"
        )
    if node.type not in _DTYPES:
        raise BadModel(f"{path} has the input or output '{node.name}' of type {node.type}, which kit does not feed.")
    return TensorSpec(name=node.name, shape=tuple(node.shape), dtype=_DTYPES[node.type])
