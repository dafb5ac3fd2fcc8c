"""TensorRT 10 and 11 straight from the .onnx file: an engine built on this device, cached, and run on one stream.

Networks are strongly typed: what a tensor computes in stands in the file, as TensorRT 11 demands and 10 offers, so int8 comes from
explicit Q/DQ and fp16 from an fp16 file, never from a builder's flag. TF32 is off. TensorRT knows signed, symmetric int8 alone.

An engine belongs to one GPU, driver and TensorRT version; it is stored under ``$XDG_CACHE_HOME/insitu-kit/tensorrt`` by the hash of
all of these and the model, so that every run times the same engine, and built again when it no longer loads. The timed call is
``execute_async_v3`` and the wait for its stream; inputs lie on the device and outputs stay there.

Untested on hardware: written after the 10.x and 11.x documentation and tested on an emulation of the module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt
from numpy.typing import NDArray

from kit import store
from kit.backends import Feeds, Probe, check_batch, cuda, dimensions, onnxdata, onnxgraph, stages
from kit.errors import BackendUnavailable, BadModel, StorageError, UsageError
from kit.records import Artifact, Layers, TensorSpec

OLDEST = 10
WARMUP_CALLS = 3
LOGGER = trt.Logger(trt.Logger.ERROR)


def probe(mode: str) -> Probe:
    """Whether TensorRT is installed and a GPU is there; see :class:`kit.backends.Probe`."""
    if major() < OLDEST:
        return Probe(None, f"TensorRT {trt.__version__} is too old: kit speaks to versions 10 and 11.")
    missing = cuda.missing()
    return Probe(None, missing) if missing else Probe(trt.__version__)


def major() -> int:
    """The major version of TensorRT."""
    return int(trt.__version__.split(".")[0])


class TrtSession:
    """A TensorRT engine, built from ONNX; see :class:`kit.backends.Session`."""

    def __init__(self, path: Path, artifact: Artifact | None, batch: int | None) -> None:
        self._cuda = cuda.load()
        self._path, self._graph = path, onnxgraph.read(path)
        if self._graph is None:
            raise BadModel(
                f"{path} is not an ONNX model: give a file that kit export, kit build or an ONNX exporter wrote."
            )
        refuse_unsigned(path, self._graph)
        fixed = dimensions.of_artifact(self._graph, artifact, batch, path)
        self._shapes = fixed.shapes if dimensions.of(self._graph) else {}
        self._runtime = trt.Runtime(LOGGER)  # must outlive its engines
        self._engine, how = self._ready_engine()
        self._stream = self._cuda.stream()
        self._buffers: dict[str, int] = {}
        self._context = self._new_context()
        self.inputs, self.outputs = self._specs(trt.TensorIOMode.INPUT), self._specs(trt.TensorIOMode.OUTPUT)
        if not dimensions.batch_keys(self._graph):
            check_batch(path, self.inputs, batch, artifact)
        for spec in (*self.inputs, *self.outputs):
            self._buffers[spec.name] = self._cuda.allocate(_bytes(spec))
        self._launch = self._bound(self._context)
        self.notes: tuple[str, ...] = (f"TF32 is off; {how} by TensorRT {trt.__version__} on this device.",)

    # ------------------------------------------------------------------------------------------------------------ engine

    def _ready_engine(self) -> tuple[Any, str]:
        """The engine of this model for this device, from the cache where it still loads, and how it was come by."""
        place = cuda.cache_folder("tensorrt") / f"{engine_key(self._path, self._cuda, self._shapes)}.engine"
        if place.is_file():
            engine = self._runtime.deserialize_cuda_engine(place.read_bytes())
            if engine is not None:
                return engine, "the engine was built earlier and stored"
        plan = build(self._path, self._shapes)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendUnavailable(
                f"TensorRT {trt.__version__} does not load the engine that it just built: free GPU memory and try again."
            )
        try:
            store.write_atomic(place, plan)
        except (StorageError, UsageError):
            return engine, "the engine was built for this process alone (its cache cannot be written)"
        return engine, "the engine was built and stored"

    def _new_context(self) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise MemoryError("TensorRT found no memory for an execution context.")
        for name in self._names(trt.TensorIOMode.INPUT):
            shape = tuple(self._engine.get_tensor_shape(name))
            if -1 in shape and name in self._shapes:
                context.set_input_shape(name, self._shapes[name])
        return context

    def _names(self, mode: Any) -> list[str]:
        every = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        return [name for name in every if self._engine.get_tensor_mode(name) == mode]

    def _specs(self, mode: Any) -> tuple[TensorSpec, ...]:
        specs = []
        for name in self._names(mode):
            shape = tuple(int(size) for size in self._context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise BadModel(
                    f"{self._path} has a dynamic shape in '{name}': a latency belongs to one shape, so export it with a fixed one."
                )
            dtype = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))
            specs.append(TensorSpec(name=name, shape=shape, dtype=str(dtype)))
        return tuple(specs)

    # --------------------------------------------------------------------------------------------------------------- run

    def _bound(self, context: Any) -> Callable[[], Any]:
        """One inference of ``context`` put on the stream, reading and writing this session's buffers."""
        for name, address in self._buffers.items():
            if not context.set_tensor_address(name, address):
                raise BadModel(
                    f"TensorRT takes no buffer for '{name}' of {self._path}: profile it with onnxruntime-cuda."
                )
        return partial(context.execute_async_v3, self._stream)

    def _upload(self, feeds: Feeds) -> None:
        for spec in self.inputs:
            self._cuda.upload(self._buffers[spec.name], np.asarray(feeds[spec.name], dtype=spec.dtype))

    def run(self, feeds: Feeds) -> list[NDArray[Any]]:
        """One call from named arrays to a list of arrays."""
        self.prepare(feeds)()
        outputs = [np.empty(spec.shape, spec.dtype) for spec in self.outputs]
        for spec, array in zip(self.outputs, outputs, strict=True):
            self._cuda.download(array, self._buffers[spec.name])
        return outputs

    def prepare(self, feeds: Feeds) -> Callable[[], Any]:
        """A function of no arguments that runs these inputs once."""
        self._upload(feeds)
        return self._waited(self._launch)

    def _waited(self, launch: Callable[[], Any]) -> Callable[[], None]:
        """The timed call. TensorRT returns False where it could not even start: a time of nothing would look fast."""
        synchronise = partial(self._cuda.synchronise, self._stream)

        def call() -> None:
            if not launch():
                raise BackendUnavailable("TensorRT could not start the inference: its message is on standard error.")
            synchronise()

        return call

    def device_ns(self, loops: int) -> float:
        """Nanoseconds of so many launches, by the GPU's own events."""
        return self._cuda.elapsed_ns(self._stream, self._launch, loops)

    def layers(self, feeds: Feeds, calls: int) -> Layers:
        """Time by layer from TensorRT's profiler."""
        self._upload(feeds)
        context, times = self._new_context(), _LayerTimes()
        context.profiler = times
        call = self._waited(self._bound(context))
        for _ in range(WARMUP_CALLS):
            call()
        times.total_ms.clear()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        total_s = (time.perf_counter() - start) / calls
        graph = self._graph
        kinds = {node.name: node.kind for node in graph.nodes} if graph else {}
        rows = [
            stages.Timed(name, stages.lookup(kinds, name) or "TensorRT", ms * 1e-3)
            for name, ms in times.total_ms.items()
        ]
        nodes = stages.label(rows, graph.stages() if graph else {}, calls)
        return Layers(nodes=nodes, total_s=total_s, calls=calls, source=f"tensorrt {trt.__version__} profiler")

    def gpu_memory(self) -> dict[str, int] | None:
        """Bytes on the GPU."""
        return cuda.process_memory()

    def close(self) -> None:
        """Free engine, context and buffers."""
        del self._launch, self._context, self._engine
        for address in self._buffers.values():
            self._cuda.free(address)
        self._buffers = {}
        self._cuda.close_stream(self._stream)


class _LayerTimes(trt.IProfiler):  # type: ignore[misc]
    """Sums what TensorRT reports of each layer after each call, in milliseconds."""

    def __init__(self) -> None:
        trt.IProfiler.__init__(self)
        self.total_ms: dict[str, float] = {}

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        self.total_ms[layer_name] = self.total_ms.get(layer_name, 0.0) + ms


def open(  # noqa: A001
    path: Path, artifact: Artifact | None, threads: int, mode: str = "", batch: int | None = None
) -> TrtSession:
    """Open an ONNX file; the engine is built, or read from the cache. Raises BadModel."""
    return TrtSession(path, artifact, batch)


# ---------------------------------------------------------------------------------------------------------------- build


def refuse_unsigned(path: Path, graph: onnxgraph.Graph) -> None:
    """Raises UsageError for quantization that TensorRT does not know; its own message names an internal assertion."""
    for node in graph.nodes:
        zero_point = node.inputs[2] if node.kind.endswith("QuantizeLinear") and len(node.inputs) > 2 else ""
        if graph.weights.get(zero_point) == onnxgraph.UINT8:
            raise UsageError(
                f"{path} is quantized with unsigned activations, and TensorRT takes symmetric signed int8 alone: quantize it S8S8."
            )


def engine_key(path: Path, device: cuda.Cuda, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The hash of everything that an engine depends on."""
    return store.sha256_bytes(
        store.canonical_json(
            {
                "model": store.sha256_file(path),
                "weights": [file.sha256 for file in onnxdata.hashed(path)],
                "gpu": cuda.gpu_name(),
                "compute_capability": device.compute_capability(),
                "driver": device.driver_version(),
                "cuda": device.runtime_version(),
                "tensorrt": trt.__version__,
                "shapes": {name: list(shape) for name, shape in shapes.items()},
                "settings": "strongly typed, no tf32",
            }
        )
    )


def build(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """The serialized engine of the model in ``path``. Raises BadModel when it is not read, UsageError when it cannot be built."""
    builder = trt.Builder(LOGGER)
    network = builder.create_network(creation_flags())
    parser = trt.OnnxParser(network, LOGGER)
    if not parser.parse(path.read_bytes(), str(path)):  # the path, because weights may lie beside the file
        message = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise BadModel(f"TensorRT {trt.__version__} cannot read {path}: {message.splitlines()[0].rstrip('.')}.")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if shapes:
        config.add_optimization_profile(_profile(builder, network, shapes))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UsageError(
            f"TensorRT {trt.__version__} cannot build an engine of {path}: its message is on standard error."
        )
    return bytes(plan)


def creation_flags() -> int:
    """Strong typing is requested in TensorRT 10 and is the only way in 11, where the flag is deprecated."""
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if major() < 11 else 0


def _profile(builder: Any, network: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """One shape of each input: smallest, usual and largest are the same."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = shapes[tensor.name]
        profile.set_shape(tensor.name, shape, shape, shape)
    return profile


def _bytes(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
