"""PyTorch in inference mode: eager kernels or torch.compile on the CPU, eager kernels or a CUDA graph on a GPU.

It runs the ``torch.export`` program (.pt2) that the training tools wrote next to the ONNX file: in eager mode every operator of it is one
call. There is none for int8 variants: they are ONNX graphs. torch.compile uses its defaults and compiles while the session opens,
never in a timed call. On a GPU channels and precision stay as exported and TF32 is off; the timed call is launch and synchronise
on inputs that lie there, outputs stay there. The GPU modes are untested on hardware.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from kit.backends import Feeds, Probe, check_batch, cuda, make_feeds, stages
from kit.errors import BadModel, KitError, UsageError, first_line
from kit.records import Artifact, Layers, TensorSpec

GPU = ("cuda", "cudagraphs")
NOTES = {
    "eager": (),
    "compile": ("torch.compile with its defaults (inductor, no freezing of weights).",),
    "cuda": ("TF32 is off; cuDNN chose its algorithms by its heuristics.",),
    "cudagraphs": ("TF32 is off; one CUDA graph is replayed.",),
}
WARMUP_CALLS = 3
CALL, NODE = "kit: whole call", "kit: node "
WRAPPERS = ("TorchDynamo", "Torch-Compiled Region", "## Call", "Pregraph", "AOTDispatcher", CALL)


def probe(mode: str) -> Probe:
    """Whether PyTorch is installed; see :class:`kit.backends.Probe`."""
    if mode == "compile" and not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
        return Probe(None, "torch.compile needs a C++ compiler and finds none.")
    if mode in GPU and torch.version.cuda is None:
        return Probe(None, f"This torch {torch.__version__} was built without CUDA.")
    if mode in GPU and not torch.cuda.is_available():
        return Probe(None, f"torch {torch.__version__} finds no NVIDIA GPU.")
    return Probe(torch.__version__)


class TorchSession:
    """A ``.pt2`` program in PyTorch; see :class:`kit.backends.Session`."""

    def __init__(self, program: Path, artifact: Artifact, threads: int, mode: str) -> None:
        torch.set_num_threads(threads)
        self._mode, self._device = mode, "cuda" if mode in GPU else "cpu"
        if mode in GPU:
            _no_tf32()
        self._module = _load(program, self._device, artifact)
        self.inputs: tuple[TensorSpec, ...] = artifact.inputs
        self.outputs: tuple[TensorSpec, ...] = artifact.outputs
        self.notes: tuple[str, ...] = NOTES[mode]
        self._call: Callable[..., Any] = self._module
        self._launch: Callable[[], Any] | None = None
        self._graph_outputs: Any = None
        if mode == "compile":
            self._call = _compiled(self._module, {}, self._tensors(make_feeds(self.inputs, seed=0)))

    def _tensors(self, feeds: Feeds) -> list[torch.Tensor]:
        return [torch.from_numpy(feeds[spec.name]).to(self._device) for spec in self.inputs]

    def run(self, feeds: Feeds) -> list[NDArray[Any]]:
        """One call from named arrays to a list of arrays."""
        with torch.inference_mode():
            result = self._call(*self._tensors(feeds))
        return [t.cpu().numpy() for t in (result if isinstance(result, (tuple, list)) else (result,))]

    def prepare(self, feeds: Feeds) -> Callable[[], Any]:
        """A function of no arguments that runs these inputs once."""
        call, tensors, inference = self._call, self._tensors(feeds), torch.inference_mode

        def launch() -> Any:
            with inference():
                return call(*tensors)

        if self._mode not in GPU:
            return launch
        start: Callable[[], Any] = launch
        if self._mode == "cudagraphs":
            graph, self._graph_outputs = _captured(launch)
            start = graph.replay
        self._launch = start
        synchronise = torch.cuda.current_stream().synchronize

        def waited() -> None:
            start()
            synchronise()

        return waited

    @property
    def device_ns(self) -> Callable[[int], float] | None:
        """Times launches by the GPU's own events; None on a CPU."""
        return self._device_ns if self._mode in GPU else None

    def _device_ns(self, loops: int) -> float:
        if self._launch is None:
            raise UsageError("The device times a prepared call: call prepare(feeds) first.")
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        for _ in range(loops):
            self._launch()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e6

    def layers(self, feeds: Feeds, calls: int) -> Layers:
        """Time by operator from torch's profiler."""
        if self._mode == "cudagraphs":
            raise UsageError("A CUDA graph is one launch and reports no layers: take them with --backend pytorch-cuda.")
        tensors = self._tensors(feeds)
        if self._mode == "compile":
            named = {"cpp.enable_kernel_profile": True}
            return _profile(_compiled(self._module, named, tensors), tensors, calls, _kernels(calls), self._device)
        return _profile(_Marked(self._module).run, tensors, calls, _operators(self._module, calls), self._device)

    def gpu_memory(self) -> dict[str, int] | None:
        """Bytes on the GPU, where it ran on one."""
        if self._mode not in GPU:
            return None
        memory = {
            "allocated_bytes": int(torch.cuda.memory_reserved()),  # without CUDA's own context, which NVML counts
            "torch_used_bytes": int(torch.cuda.memory_allocated()),
            "torch_used_peak_bytes": int(torch.cuda.max_memory_allocated()),
        }
        return memory | (cuda.process_memory() or {})

    def close(self) -> None:
        """Free the program."""
        self._launch = self._graph_outputs = None
        del self._call, self._module


def open(  # noqa: A001
    path: Path, artifact: Artifact | None, threads: int, mode: str = "eager", batch: int | None = None
) -> TorchSession:
    """Open a ``.pt2`` archive. Raises UsageError (none beside the model), BadModel."""
    if artifact is None or artifact.torch_program is None:
        raise UsageError(
            f"{path} has no PyTorch program (.pt2) next to it, which the pytorch backend runs: profile it with onnxruntime."
        )
    check_batch(path, artifact.inputs, batch)
    return TorchSession(path.parent / artifact.torch_program.file, artifact, threads, mode)


def _load(program: Path, device: str, artifact: Artifact | None = None) -> Any:
    try:
        exported = torch.export.load(program)
        if artifact is not None:
            _refuse_other(exported, program, artifact)
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            exported = move_to_device_pass(exported, device)
        try:
            return _bare(exported.module(check_guards=False))  # guards would check the shapes in each timed call
        except TypeError:  # an older torch, which has no such checks to leave out
            return _bare(exported.module())
    except KitError:
        raise
    except Exception as error:
        message = first_line(error)
        raise BadModel(f"PyTorch {torch.__version__} cannot load {program}: {message}") from None


def _refuse_other(exported: torch.export.ExportedProgram, program: Path, artifact: Artifact) -> None:
    """Raises UsageError where the program takes other inputs than the model beside it: it is another network, or of another size."""
    nodes = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    shapes = [_sizes(nodes[str(name)]) for name in exported.graph_signature.user_inputs if str(name) in nodes]
    own = [spec.shape for spec in artifact.inputs]
    fits = len(shapes) == len(own) and all(
        len(s) == len(o) and all(a in (None, b) for a, b in zip(s, o, strict=True))
        for s, o in zip(shapes, own, strict=True)
    )
    if not fits:
        raise UsageError(
            f"{program.name} takes inputs {_listed(shapes)} and {artifact.model.file} takes {_listed(own)}: export both again "
            "(kit export), or profile it with onnxruntime."
        )


def _sizes(node: torch.fx.Node) -> tuple[int | None, ...]:
    """A placeholder's shape; None for a free dimension."""
    value = node.meta.get("val")
    return (
        tuple(size if isinstance(size, int) else None for size in value.shape)
        if isinstance(value, torch.Tensor)
        else ()
    )


def _listed(shapes: Iterable[Iterable[int | None]]) -> str:
    return ", ".join("x".join("?" if size is None else str(size) for size in shape) or "scalar" for shape in shapes)


def _bare(module: Any) -> Any:
    """``module`` without what torch.export does around each call: unpacking of nested inputs, checks of their shapes (30 to 40 us)."""
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        hooks.clear()
    return module


def _compiled(module: Any, options: dict[str, Any], tensors: list[torch.Tensor]) -> Callable[..., Any]:
    """``module`` compiled for inputs like ``tensors``; the compiler's own helper processes would outlive it, so it has none."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # read when inductor is first imported, which is now
    compiled: Callable[..., Any] = torch.compile(module, options=options)
    try:
        with torch.inference_mode():
            compiled(*tensors)
    except Exception as error:
        message = first_line(error)
        raise UsageError(
            f"torch.compile cannot compile this network ({message}): profile it with --backend pytorch."
        ) from None
    return compiled


def _no_tf32() -> None:
    """Full fp32 products: TF32 keeps 10 of 23 bits, which would be another network."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def _captured(launch: Callable[[], Any]) -> tuple[Any, Any]:
    """A CUDA graph of ``launch`` and the outputs that it writes to, after calls on a side stream that let libraries choose and
    allocate. Who drops the outputs gives their memory to another tensor."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARMUP_CALLS):
            launch()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = launch()
    return graph, outputs


# ---------------------------------------------------------------------------------------------------------------- layers


class _Marked(torch.fx.Interpreter):
    """Runs a program node by node, each inside a range of its own name."""

    def run_node(self, node: torch.fx.Node) -> Any:
        if node.op != "call_function":
            return super().run_node(node)
        with torch.profiler.record_function(NODE + node.name):
            return super().run_node(node)


Rows = Callable[[list[Any]], tuple[Any, ...]]


def _profile(call: Callable[..., Any], tensors: list[torch.Tensor], calls: int, rows: Rows, device: str) -> Layers:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.inference_mode():
        for _ in range(WARMUP_CALLS):
            call(*tensors)
        with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
            for _ in range(calls):
                with torch.profiler.record_function(CALL):
                    call(*tensors)
                    if device == "cuda":
                        torch.cuda.synchronize()
    call_events = [event for event in profiler.events() if event.name == CALL and event.cpu_children]
    return Layers(
        nodes=rows(call_events),
        total_s=sum(event.cpu_time_total for event in call_events) * 1e-6 / calls,
        calls=calls,
        source=f"torch {torch.__version__} profiler",
    )


def _operators(module: Any, calls: int) -> Rows:
    """Times of the marked nodes: what their operators took, without the interpreter around them."""
    nodes = {node.name: node for node in module.graph.nodes}

    def rows(call_events: list[Any]) -> tuple[Any, ...]:
        timed: dict[str, stages.Timed] = {}
        for mark in (child for event in call_events for child in event.cpu_children if child.name.startswith(NODE)):
            name = mark.name.removeprefix(NODE)
            on_device = getattr(mark, "device_time_total", 0.0)
            spent_s = (on_device or sum(child.cpu_time_total for child in mark.cpu_children)) * 1e-6
            before = timed[name].total_s if name in timed else 0.0
            timed[name] = stages.Timed(name, _kind(nodes[name].target), before + spent_s, _shape(nodes[name]))
        return stages.label(timed.values(), _scopes(module), calls)

    return rows


def _kernels(calls: int) -> Rows:
    """Times of the kernels that inductor generated or called; they belong to no node, so the resolution of an input is their stage."""

    def rows(call_events: list[Any]) -> tuple[Any, ...]:
        timed: dict[int, stages.Timed] = {}
        for event in call_events:
            for index, kernel in enumerate(_leaves(event)):
                name = kernel.name.split("::")[-1]
                kind = "fused" if "fused" in name else name
                shape = next((tuple(s) for s in kernel.input_shapes or [] if len(s) == 4), None)
                before = timed[index].total_s if index in timed else 0.0
                timed[index] = stages.Timed(f"{index}_{name}", kind, before + kernel.cpu_time_total * 1e-6, shape)
        return stages.label(timed.values(), {}, calls)

    return rows


def _leaves(event: Any) -> list[Any]:
    """The outermost events below ``event`` that are work, in order: wrappers are looked into."""
    out = []
    for child in event.cpu_children:
        wraps = child.name.startswith(WRAPPERS)
        out += _leaves(child) if wraps else [child]
    return out


def _scopes(module: Any) -> dict[str, str]:
    """Stage of every node of an exported program, from the modules that its operators came from."""
    stage_of: dict[str, str] = {}
    numbered = False
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        scope = stages.of_parameter(f"{stack[-1][0]}.x") if stack and stack[-1][0] else None
        numbered = numbered or any(c.isdigit() for c in scope or "")
        stage_of[node.name] = stages.place(scope or stages.TOP, numbered)
    return stage_of


def _kind(target: Any) -> str:
    """``conv2d`` of ``aten.conv2d.default``."""
    parts = str(target).split(".")
    return parts[-2] if len(parts) > 1 else parts[-1]


def _shape(node: Any) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, torch.Tensor) else None
