"""ONNX Runtime and its execution providers: CPU, OpenVINO, XNNPACK, CUDA, TensorRT.

A board's own build (Jetson's GPU wheel) imports under the same module name. A provider that is requested and does not take
part is refused: onnxruntime itself would go on with the CPU and say nothing. Where a provider takes a part of the graph, the
session's notes say how much.

On a CPU the timed call is ``InferenceSession.run`` (inputs are read in place, outputs are new arrays). On a GPU it is
``run_with_iobinding``: inputs and outputs are allocated on the device beforehand, and the call ends when its stream is idle.
XNNPACK, CUDA and TensorRT are untested on hardware.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from kit import store
from kit.backends import Feeds, Probe, check_batch, cuda, dimensions, onnxgraph, reasons, stages
from kit.errors import BackendUnavailable, BadModel, UsageError
from kit.records import Artifact, Layers, TensorSpec

os.environ.pop(
    "ORT_LOAD_CONFIG_FROM_MODEL", None
)  # a file's own settings never change threads, nor write a trace next to it
Options = dict[str, str]
CPU = "CPUExecutionProvider"
DEVICE = "cuda"  # where a GPU provider's inputs and outputs are allocated
CONTROL_FLOW = ("Loop", "If", "Scan")  # operators whose nodes run inside them
WARMUP_CALLS = 3  # of a profiled session, left out of its means
LISTS_NODES = hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")  # 1.24.1 does
NO_MODEL = ("INVALID_PROTOBUF", "Protobuf parsing failed", "No graph was found", "does not have a graph")
NO_GPU = ("CUDA failure", "CUDNN failure", "Failed to load library", "LoadLibrary", "libcu", "libnvinfer")
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({n})": n for n in ("float16", "bfloat16", "bool", "string")},
    **{f"tensor({sign}int{size})": f"{sign}int{size}" for sign in ("", "u") for size in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class Provider:
    """An execution provider: its name in onnxruntime, whether it runs on a GPU, and what a reader must know of its settings."""

    name: str
    title: str
    gpu: bool = False
    note: str | None = None


PROVIDERS = {
    "cpu": Provider(CPU, "the CPU provider"),
    "cuda": Provider("CUDAExecutionProvider", "CUDA", True, "TF32 is off; cuDNN chose its algorithms by trying all."),
    "tensorrt": Provider(
        "TensorrtExecutionProvider", "TensorRT", True, "TF32 is off; the engine is built here and cached."
    ),
    "openvino": Provider("OpenVINOExecutionProvider", "OpenVINO", note="OpenVINO computes floats in f32."),
    "xnnpack": Provider("XnnpackExecutionProvider", "XNNPACK"),
}


def probe(mode: str) -> Probe:
    """Whether onnxruntime and this provider are installed; see :class:`kit.backends.Probe`."""
    provider = PROVIDERS[mode]
    if provider.name not in ort.get_available_providers():
        return Probe(None, f"This onnxruntime {ort.__version__} was built without {provider.name}.")
    missing = cuda.missing() if provider.gpu else None
    return Probe(None, missing) if missing else Probe(ort.__version__)


def session_options(threads: int) -> Any:
    """The options that kit measures with: ONNX Runtime's defaults but for the thread counts (and its own log silenced)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def provider_options(mode: str, threads: int, stream: int | None, precision: str) -> list[tuple[str, Options]]:
    """The providers in the order of their priority, each with its options. TensorRT leaves to CUDA what it does not take."""
    on_stream = {"user_compute_stream": str(stream)} if stream else {}
    if mode == "cuda":
        return [(PROVIDERS["cuda"].name, {"device_id": "0", "use_tf32": "0", **on_stream})]
    if mode == "tensorrt":
        engine = {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(cuda.cache_folder("onnxruntime-tensorrt")),
        }
        explicit = {"trt_int8_enable": "1"} if precision == "int8" and _tensorrt_wants_flags() else {}
        return [
            (PROVIDERS["tensorrt"].name, {"device_id": "0", **engine, **explicit, **on_stream}),
            *provider_options("cuda", threads, stream, precision),
        ]
    if mode == "openvino":
        how = {
            "INFERENCE_NUM_THREADS": str(threads),
            "NUM_STREAMS": "1",
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": "NO",
        }
        return [(PROVIDERS["openvino"].name, {"device_type": "CPU", "load_config": json.dumps({"CPU": how})})]
    if mode == "xnnpack":
        return [(PROVIDERS["xnnpack"].name, {"intra_op_num_threads": str(threads)})]
    return [(CPU, {})]


def _tensorrt_wants_flags() -> bool:
    """TensorRT 10 runs explicit Q/DQ only with the INT8 flag and 11 has no such flag: which one the provider is linked to."""
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"
    return not (library.is_file() and b"libnvinfer.so.11" in library.read_bytes())


class OrtSession:
    """An onnxruntime session on one provider; see :class:`kit.backends.Session`."""

    def __init__(self, path: Path, artifact: Artifact | None, threads: int, mode: str, batch: int | None) -> None:
        self._path, self._threads, self._mode = path, threads, mode
        self._provider = PROVIDERS[mode]
        self._precision = artifact.precision if artifact else "fp32"
        self._batch = batch
        self._device = _Device() if self._provider.gpu else None
        self._graph = onnxgraph.read(path)
        self._fixed = dimensions.of_artifact(self._graph, artifact, batch, path) if self._graph else None
        self._session, takes_all = self._open(self._options())
        self.inputs = tuple(_input(path, node, self._fixed) for node in self._session.get_inputs())
        self.outputs = tuple(_output(node, self._fixed) for node in self._session.get_outputs())
        if self._provider.gpu:
            refuse_unknown(path, self.outputs, self._provider.title)
        if self._graph is None or not dimensions.batch_keys(self._graph):
            check_batch(path, self.inputs, batch, artifact)
        self.notes = tuple(filter(None, (self._provider.note, self._coverage(takes_all), self._overridden())))
        self._codes = {spec.name: onnxgraph.BFLOAT16 for spec in self.inputs if spec.dtype == "bfloat16"}

    def _options(self) -> Any:
        own_pool = self._mode == "xnnpack"  # it has threads of its own: two pools that spin would share the cores
        options = session_options(1 if own_pool else self._threads)
        if own_pool:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        for symbol, size in (self._fixed.symbols if self._fixed else {}).items():
            options.add_free_dimension_override_by_name(symbol, size)
        return options

    def _overridden(self) -> str | None:
        """What a session of one's own has to set to run as fast."""
        if not self._fixed or not self._fixed.symbols:
            return None
        calls = ", ".join(f"{symbol}={size}" for symbol, size in self._fixed.symbols.items())
        return (
            f"Free dimensions were fixed before the graph was optimized (add_free_dimension_override_by_name: {calls})."
        )

    def _open(self, options: Any) -> tuple[Any, bool | None]:
        """The session, and whether its provider takes every node of the graph (None: onnxruntime can list the nodes itself)."""
        if self._mode == "cpu":
            return self._create(options), None
        if LISTS_NODES:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            return self._create(options), None
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            return self._create(options), True
        except BadModel:  # also when some node needs the CPU; another fault shows again below
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")
            return self._create(options), False

    def _create(self, options: Any) -> Any:
        stream = self._device.stream if self._device else None
        if self._mode == "tensorrt":
            store.make_folder(cuda.cache_folder("onnxruntime-tensorrt"))
        providers = provider_options(self._mode, self._threads, stream, self._precision)
        try:
            session = ort.InferenceSession(str(self._path), options, providers=providers, enable_fallback=0)
        except Exception as error:
            if self._provider.gpu and any(word in str(error) for word in NO_GPU):
                first = str(error).splitlines()[0].rstrip(".")
                raise BackendUnavailable(
                    f"{self._provider.title} does not start in onnxruntime ({first}): {cuda.FIX}."
                ) from None
            raise BadModel(_reason(self._path, str(error))) from None
        if self._provider.name not in session.get_providers():
            raise BackendUnavailable(
                f"onnxruntime {ort.__version__} could not start {self._provider.name} and would have run on "
                f"{', '.join(session.get_providers())}: check that its libraries (CUDA, cuDNN, TensorRT) are of the versions that it wants."
            )
        return session

    def _coverage(self, takes_all: bool | None) -> str | None:
        """How much of the graph the provider takes, as a sentence. Raises UsageError when it takes nothing."""
        title = self._provider.title
        if self._mode == "cpu" or takes_all:
            return None
        if takes_all is False:
            return f"{title} takes a part of the graph; this onnxruntime {ort.__version__} does not report how much, the CPU runs the rest."
        kinds: dict[str, Counter[str]] = {}
        for group in self._session.get_provider_graph_assignment_info():
            kinds.setdefault(group.ep_name, Counter()).update(node.op_type for node in group.get_nodes())
        return coverage(self._path, self._provider, kinds)

    def run(self, feeds: Feeds) -> list[NDArray[Any]]:
        """One call from named arrays to a list of arrays."""
        if self._device is None:
            return self._called(self._session, feeds)()
        self.prepare(feeds)()
        return self._device.outputs()

    def prepare(self, feeds: Feeds) -> Callable[[], Any]:
        """A function of no arguments that runs these inputs once."""
        if self._device is None:
            return self._called(self._session, feeds)
        return self._device.bind(self._session, feeds, self.inputs, self.outputs)

    def _called(self, session: Any, feeds: Feeds) -> Callable[[], list[NDArray[Any]]]:
        """A call on the CPU; numbers of types that NumPy has not go in as values of onnxruntime's own, and come out so."""
        if not self._codes and not any(spec.dtype in onnxgraph.NOT_NUMPY for spec in self.outputs):
            return partial(session.run, None, feeds)
        of_numpy = ort.OrtValue.ortvalue_from_numpy
        typed = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
        values = {k: typed(v, self._codes[k]) if k in self._codes else of_numpy(v) for k, v in feeds.items()}
        return partial(session.run_with_ort_values, None, values)

    @property
    def device_ns(self) -> Callable[[int], float] | None:
        """Times launches on the GPU's stream where a GPU provider runs; else None."""
        return self._device.elapsed_ns if self._device else None

    def layers(self, feeds: Feeds, calls: int) -> Layers:
        """Time by operator from onnxruntime's own profile."""
        if self._provider.gpu:
            raise UsageError(
                "onnxruntime's profiler times the launches on a GPU, not the work: take the layers with tensorrt or pytorch-cuda."
            )
        if self._mode == "openvino":
            raise UsageError(
                "onnxruntime sees the graph inside OpenVINO as one node: take the layers with --backend openvino."
            )
        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "ort")
            session = self._create(options)
            call = self._called(session, feeds)
            for _ in range(WARMUP_CALLS + calls):
                call()
            events = json.loads(Path(session.end_profiling()).read_text())
        return parse_profile(events, self._graph.stages() if self._graph else {}, calls)

    def gpu_memory(self) -> dict[str, int] | None:
        """Bytes on the GPU, where a GPU provider runs."""
        return cuda.process_memory() if self._device else None

    def close(self) -> None:
        """Free the session."""
        if self._device:
            self._device.close()
        del self._session


class _Device:
    """Inputs and outputs bound to GPU memory, and the stream that they are used on."""

    def __init__(self) -> None:
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # TensorRT's provider has no option for it
        self._cuda = cuda.load()
        self.stream = self._cuda.stream()
        self._launch: Callable[[], Any] | None = None
        self._bound: list[Any] = []

    def bind(
        self, session: Any, feeds: Feeds, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> Callable[[], Any]:
        binding = session.io_binding()
        for spec in inputs:
            value = np.ascontiguousarray(feeds[spec.name])
            binding.bind_ortvalue_input(spec.name, ort.OrtValue.ortvalue_from_numpy(value, DEVICE, 0))
        self._bound = [
            ort.OrtValue.ortvalue_from_shape_and_type(list(spec.shape), np.dtype(spec.dtype).type, DEVICE, 0)
            for spec in outputs
        ]
        for spec, place in zip(outputs, self._bound, strict=True):
            binding.bind_ortvalue_output(spec.name, place)
        unwaited = ort.RunOptions()
        unwaited.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._launch = launch = partial(session.run_with_iobinding, binding, unwaited)
        synchronise = partial(self._cuda.synchronise, self.stream)

        def call() -> None:
            launch()
            synchronise()

        return call

    def outputs(self) -> list[NDArray[Any]]:
        return [value.numpy() for value in self._bound]

    def elapsed_ns(self, loops: int) -> float:
        if self._launch is None:
            raise UsageError("The device times a prepared call: call prepare(feeds) first.")
        return self._cuda.elapsed_ns(self.stream, self._launch, loops)

    def close(self) -> None:
        self._bound, self._launch = [], None


def open(  # noqa: A001
    path: Path, artifact: Artifact | None, threads: int, mode: str = "cpu", batch: int | None = None
) -> OrtSession:
    """Open an ONNX file. Raises BadModel, BackendUnavailable."""
    return OrtSession(path, artifact, threads, mode, batch)


def coverage(path: Path, provider: Provider, kinds: Mapping[str, Counter[str]]) -> str | None:
    """What a reader must know of a graph whose nodes went to several providers. Raises UsageError when ``provider`` has none."""
    taken, total = sum(kinds.get(provider.name, Counter()).values()), sum(sum(c.values()) for c in kinds.values())
    if taken == total and total:
        return None
    left = Counter[str]()
    for name, counted in kinds.items():
        if name != provider.name:
            left += counted
    listed = ", ".join(f"{count} {kind}" for kind, count in left.most_common(4)) + (", …" if len(left) > 4 else "")
    if not taken:
        raise UsageError(f"{provider.title} takes no node of {path} ({listed}): profile it with --backend onnxruntime.")
    return f"{provider.title} takes {taken} of {total} nodes; others run the rest ({listed})."


def parse_profile(events: list[dict[str, Any]], stage_of: Mapping[str, str], calls: int) -> Layers:
    """The last ``calls`` runs of an onnxruntime profile: kernel times in microseconds by node, in the order of the first run.

    Raises UsageError when it holds fewer.
    """
    runs = [event for event in events if event.get("name") == "model_run"][-calls:]
    if len(runs) < calls:
        raise UsageError("onnxruntime's profile holds too few runs: time fewer calls, it stores a million events.")
    begin = runs[0]["ts"]
    rows: dict[tuple[str, ...], stages.Timed] = {}
    for event, outer in _nested([e for e in events if _is_kernel(e) and e["ts"] >= begin]):
        name, arguments = _name(event), event["args"]
        parent = _name(outer) if outer else None
        key = (parent or "", name, str(arguments.get("node_index")))
        before = rows[key].total_s if key in rows else 0.0
        shapes = [tuple(size) for kind in arguments.get("output_type_shape", [])[:1] for size in kind.values()]
        shape = shapes[0] if shapes else None
        rows[key] = stages.Timed(name, arguments["op_name"], before + event["own_us"] * 1e-6, shape, parent)
    total_s = sum(event["dur"] for event in runs) * 1e-6 / calls
    nodes = stages.label(rows.values(), stage_of, calls)
    return Layers(nodes=nodes, total_s=total_s, calls=calls, source=f"onnxruntime {ort.__version__} profiler")


def _is_kernel(event: dict[str, Any]) -> bool:
    return event.get("cat") == "Node" and event["name"].endswith("_kernel_time")


def _name(event: dict[str, Any]) -> str:
    return str(event["name"].removesuffix("_kernel_time"))


def _nested(events: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Each event, with its own time (``own_us``: without what runs inside it), and the event of a Loop, If or Scan around it."""
    ordered = sorted((dict(e, own_us=float(e["dur"])) for e in events), key=lambda e: (e["ts"], -e["dur"]))
    pairs: list[tuple[dict[str, Any], dict[str, Any] | None]] = []
    around: list[dict[str, Any]] = []
    for event in ordered:
        end = event["ts"] + event["dur"]
        while around and around[-1]["ts"] + around[-1]["dur"] < end:
            around.pop()
        outer = around[-1] if around else None
        if outer is not None:
            outer["own_us"] = max(0.0, outer["own_us"] - event["dur"])
        pairs.append((event, outer))
        if event["args"].get("op_name") in CONTROL_FLOW:
            around.append(event)
    return pairs


def _reason(path: Path, text: str) -> str:
    if any(word in text for word in NO_MODEL):
        return f"{path} is not an ONNX model: give a file that kit export, kit build or an ONNX exporter wrote."
    return f"ONNX Runtime {ort.__version__} cannot load {path}: {reasons.cause(text)}"


def _input(path: Path, node: Any, fixed: dimensions.Fixed | None) -> TensorSpec:
    """Raises BadModel: a kind of input that kit does not feed, or a dimension that nothing fixes."""
    dtype = _dtype(node.type)
    if dtype is None:
        raise BadModel(
            f"{path} has the input '{node.name}' of type {node.type}, which kit does not feed: give it tensors."
        )
    shape = fixed.shapes.get(node.name) if fixed else None
    if shape is None:
        shape = tuple(node.shape)
    if any(not isinstance(size, int) for size in shape):
        raise BadModel(
            f"{path} has a dynamic dimension in '{node.name}': a latency belongs to one shape, so export it with a fixed one."
        )
    return TensorSpec(name=node.name, shape=tuple(shape), dtype=dtype)


def _output(node: Any, fixed: dimensions.Fixed | None) -> TensorSpec:
    """An output; a dimension that nothing states before the network runs is -1."""
    shape = (fixed or dimensions.Fixed({}, {}, ())).known(tuple(node.shape))
    return TensorSpec(name=node.name, shape=shape, dtype=_dtype(node.type) or node.type)


def refuse_unknown(path: Path, outputs: tuple[TensorSpec, ...], title: str) -> None:
    """Raises BadModel for an output whose shape shows only when the network runs: on a GPU its memory is allocated before."""
    for spec in outputs:
        if -1 in spec.shape:
            raise BadModel(
                f"{path} has the output '{spec.name}' whose shape shows only when it runs, and {title} needs it before: export it with "
                "fixed shapes, or profile it with --backend onnxruntime."
            )


def _dtype(name: str) -> str | None:
    """NumPy's name of an onnxruntime type, also of an optional one; None of what is no tensor, or none that kit fills."""
    inner = name.removeprefix("optional(").removesuffix(")" if name.startswith("optional(") else "")
    return _DTYPES.get(inner)
