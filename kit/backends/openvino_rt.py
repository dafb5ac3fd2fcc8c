"""OpenVINO on the CPU, straight from the .onnx file: one stream, synchronous calls, floats in the precision of the artifact.

OpenVINO's own default computes fp32 networks in bf16 where the CPU has instructions for it: twice as fast, and another network. So
the precision is set and read back, and the notes state it. Threads are not pinned, so a process affinity holds.

The timed call is ``InferRequest.infer`` on tensors that were bound before; outputs are views of the request's own memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from kit.backends import Feeds, Probe, check_batch, dimensions, onnxgraph, stages
from kit.errors import BackendUnavailable, BadModel, UsageError
from kit.records import Artifact, Layers, TensorSpec

PRECISION = {"fp16": "f16", "bf16": "bf16"}  # everything else computes its floats in f32
NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}  # as OpenVINO's types read back
WARMUP_CALLS = 3


def probe(mode: str) -> Probe:
    """Whether OpenVINO is installed; see :class:`kit.backends.Probe`."""
    if "CPU" not in ov.Core().available_devices:
        return Probe(None, f"OpenVINO {version()} has no plugin for this CPU.")
    return Probe(version())


def version() -> str:
    """The installed version of OpenVINO."""
    return str(ov.__version__).split("-")[0]


class OpenvinoSession:
    """A compiled OpenVINO model; see :class:`kit.backends.Session`."""

    device_ns: Callable[[int], float] | None = None

    def __init__(self, path: Path, artifact: Artifact | None, threads: int, batch: int | None) -> None:
        self._core = ov.Core()
        self._path, self._graph = path, onnxgraph.read(path)
        self._model = self._read(path, artifact, batch)
        hint = PRECISION.get(artifact.precision if artifact else "fp32", "f32")
        self._settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": hint,
            "ENABLE_CPU_PINNING": False,
        }
        self._compiled = self._compile({})
        self._request = self._compiled.create_infer_request()
        self.inputs = tuple(_spec(path, port) for port in self._compiled.inputs)
        self.outputs = tuple(_spec(path, port, output=True) for port in self._compiled.outputs)
        if self._graph is None or not dimensions.batch_keys(self._graph):
            check_batch(path, self.inputs, batch, artifact)
        used = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.notes: tuple[str, ...] = (precision_note(hint, NAMES.get(used, used)),)
        self._bound: list[Any] = []

    def _read(self, path: Path, artifact: Artifact | None, batch: int | None) -> Any:
        if self._graph is None:
            raise BadModel(
                f"{path} is not an ONNX model: give a file that kit export, kit build or an ONNX exporter wrote."
            )
        fixed = dimensions.of_artifact(self._graph, artifact, batch, path)
        try:
            model = self._core.read_model(str(path))
            if dimensions.of(self._graph):
                model.reshape({port: list(fixed.shapes[port.get_any_name()]) for port in model.inputs})
        except Exception as error:
            raise BadModel(_reason(path, error)) from None
        return model

    def _compile(self, more: dict[str, Any]) -> Any:
        try:
            return self._core.compile_model(self._model, "CPU", {**self._settings, **more})
        except Exception as error:
            raise BadModel(_reason(self._path, error)) from None

    def run(self, feeds: Feeds) -> list[NDArray[Any]]:
        """One call from named arrays to a list of arrays."""
        outputs = self._request.infer({spec.name: feeds[spec.name] for spec in self.inputs}, share_inputs=False)
        self._bound = []
        return [np.array(outputs[index]) for index in range(len(self.outputs))]

    def prepare(self, feeds: Feeds) -> Callable[[], Any]:
        """A function of no arguments that runs these inputs once; each further one has a request of its own."""
        request = self._request if not self._bound else self._compiled.create_infer_request()
        return self._bind(request, feeds)

    def _bind(self, request: Any, feeds: Feeds) -> Callable[[], Any]:
        tensors = [ov.Tensor(np.ascontiguousarray(feeds[spec.name]), shared_memory=True) for spec in self.inputs]
        self._bound.append(tensors)  # a request reads where they lie
        for index, tensor in enumerate(tensors):
            request.set_input_tensor(index, tensor)
        return partial(request.infer, share_outputs=True)

    def layers(self, feeds: Feeds, calls: int) -> Layers:
        """Time by operator from OpenVINO's own counters."""
        compiled = self._compile({"PERF_COUNT": True})
        request = compiled.create_infer_request()
        call = self._bind(request, feeds)
        for _ in range(WARMUP_CALLS):
            call()
        early = _means_us(request)
        start = time.perf_counter()
        for _ in range(calls):
            call()
        total_s = time.perf_counter() - start
        late, kinds = _means_us(request), {node.node_name: node.node_type for node in request.profiling_info}
        if not early.keys() | late.keys():
            raise UsageError(
                f"OpenVINO reports a node's time in whole microseconds, and every node of {self._path} takes less: "
                "take its layers with onnxruntime."
            )
        shapes = _shapes(compiled)
        rows = [
            stages.Timed(
                name, kinds[name], calls * mean_s(early.get(name, 0), late.get(name, 0), calls), shapes.get(name)
            )
            for name in kinds
            if name in early or name in late
        ]
        stage_of = self._graph.stages() if self._graph else {}
        return Layers(
            nodes=stages.label(rows, stage_of, calls),
            total_s=total_s / calls,
            calls=calls,
            source=f"openvino {version()} profiling",
        )

    def gpu_memory(self) -> dict[str, int] | None:
        """None: it runs on the CPU."""
        return None

    def close(self) -> None:
        """Free the compiled model."""
        del self._request, self._compiled, self._model


def open(  # noqa: A001
    path: Path, artifact: Artifact | None, threads: int, mode: str = "", batch: int | None = None
) -> OpenvinoSession:
    """Open an ONNX file. Raises BadModel."""
    return OpenvinoSession(path, artifact, threads, batch)


def precision_note(requested: str, used: str) -> str:
    """What the floats are computed in. Raises BackendUnavailable when that is not what the artifact is."""
    if used != requested:
        raise BackendUnavailable(
            f"OpenVINO {version()} computes in {used} on this CPU where {requested} was requested: profile this network with onnxruntime."
        )
    return f"OpenVINO computes floats in {used} (requested: its own default may be bf16)."


def _means_us(request: Any) -> dict[str, int]:
    """Microseconds of each node whose time is reported: the mean over all calls of the compiled network so far.

    OpenVINO (perf_count.h of its CPU plugin) cuts the time of each call to whole microseconds, sums, and cuts the mean again.
    A node whose mean is below one microsecond reads as not run.
    """
    executed = [node for node in request.profiling_info if node.status == ov.ProfilingInfo.Status.EXECUTED]
    return {node.node_name: round(node.real_time / timedelta(microseconds=1)) for node in executed}


def mean_s(early_us: int, late_us: int, calls: int) -> float:
    """Seconds per call of a node over the ``calls`` after the warm-up, from its mean after the warm-up and after all calls.

    After n calls a mean of m stands for a sum between n m and n m + n - 1: the middle is taken, and no sum is below an earlier
    one. Without that, a first call that is slow (fresh code and memory) makes a short node's time zero or negative. What is
    left is about one microsecond per node, of which no number of calls frees: OpenVINO cuts the time of every call.
    """
    warm, total = WARMUP_CALLS, WARMUP_CALLS + calls
    before = early_us * warm
    low, high = max(late_us * total, before), max(late_us * total + total - 1, before + warm - 1)
    return max(0.0, (low + high) / 2 - (before + (warm - 1) / 2)) / calls * 1e-6


def _shapes(compiled: Any) -> dict[str, tuple[int, ...]]:
    """Output shapes of the nodes that are run, by name."""
    shapes = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        if node.get_output_size() and node.get_output_partial_shape(0).is_static:
            shapes[node.get_friendly_name()] = tuple(node.get_output_shape(0))
    return shapes


def _spec(path: Path, port: Any, *, output: bool = False) -> TensorSpec:
    shape = port.get_partial_shape()
    if not shape.is_static and not output:
        raise BadModel(
            f"{path} has the dynamic shape {shape} in '{port.get_any_name()}': a latency belongs to one shape, export it with a fixed one."
        )
    try:
        dtype = port.get_element_type().to_dtype()
    except Exception:
        raise BadModel(
            f"{path} has the input or output '{port.get_any_name()}' of a type that kit does not feed."
        ) from None
    sizes = tuple(d.get_length() if d.is_static else -1 for d in shape) if shape.rank.is_static else (-1,)
    return TensorSpec(name=port.get_any_name(), shape=sizes, dtype=str(np.dtype(dtype)))


def _reason(path: Path, error: Exception) -> str:
    """One sentence of OpenVINO's several lines, the last of which is the most specific."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"OpenVINO {version()} cannot load {path}: {(lines or [type(error).__name__])[-1].rstrip('.')}."
