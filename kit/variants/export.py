"""A PyTorch network as files: ONNX, the torch.export archive, the sidecar and a sample, compared with the network that they come from.

A latency belongs to one shape, so the files have the shapes of the example inputs; a free dimension (``--dynamic``) is fixed when the file
is opened. Nothing lies in the folder before the files answered like the network.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import kit
from kit import store
from kit.backends import reasons
from kit.errors import BadModel, IntegrityError, KitError, UsageError, first_line
from kit.measure import onnx_files
from kit.nets import export as nets_export
from kit.records import Artifact, FileRef, NumericCheck, Origin
from kit.variants import checkpoints, describe, evaluate, examples, network_files, sources, train
from kit.variants.examples import Examples
from kit.variants.sources import Source, SourceOptions

Outputs = list[NDArray[Any]]
Free = Mapping[str, Mapping[int, str]]
#: Largest difference that is rounding, over 1 + the largest output, where weights have these types.
_ROUNDING = {torch.float16: 2e-2, torch.bfloat16: 1e-1}
_RANDOM = " A network that draws random numbers cannot be compared."
_HEADINGS = ("Constraints violated", "File ", "Traceback", "(", "Error: ", "[1m")
_SAMPLE_BYTES_MAX = 64 << 20


@dataclass(frozen=True)
class _Shapes:
    """Inputs at the sizes that the sidecar describes, and the dimensions that are free: by input and axis, and their sizes."""

    inputs: Examples
    free: Free
    sizes: Mapping[str, int]

    @property
    def traced(self) -> Examples:
        """What the exporter sees: two or more along a free dimension, because torch takes one for a constant."""
        return self._at(1)

    def cases(self) -> list[Examples]:
        """Inputs of the sizes at which the file is compared with the network; the first are those of the sidecar."""
        return [self.inputs, self.traced, self._at(2)] if self.free else [self.inputs]

    def _at(self, factor: int) -> Examples:
        return self.inputs.resized(self.free, {symbol: factor * max(2, size) for symbol, size in self.sizes.items()})


def export_named(
    text: str,
    out: Path,
    options: SourceOptions | None = None,
    *,
    batch: int | None = None,
    dynamic: Sequence[str] = (),
    name: str | None = None,
) -> Artifact:
    """The network that ``text`` names (:func:`kit.variants.sources.source_of`) as ``<name>.onnx``, ``.pt2``, ``.json`` in ``out``.

    ``batch`` is the size of every input's first dimension, ``dynamic`` names the dimensions that stay free
    (:func:`kit.variants.examples.free_dimensions`), ``name`` is the id (default: from ``text``).

    Raises what ``source_of`` raises, UsageError (the network does not take its inputs, a dimension cannot be free, ``out`` holds another
    network of that name), BadModel (torch cannot export it), IntegrityError (the file answers otherwise than the network).
    """
    options = options or SourceOptions()
    with train.deterministic(options.seed):
        return export_source(
            sources.source_of(text, options), out, batch=batch, dynamic=dynamic, name=name, seed=options.seed
        )


def export_module(
    net: nn.Module,
    example: Any,
    out: Path,
    name: str,
    *,
    batch: int | None = None,
    dynamic: Sequence[str] = (),
    checkpoint: Path | None = None,
) -> Artifact:
    """A network that lies in memory. ``example`` is its input: a tensor, several in a sequence, or tensors by name.

    The network is left in the mode that it was in. Raises as :func:`export_named` does.
    """
    modes = [(module, module.training) for module in net.modules()]
    try:
        with train.deterministic(0):
            if checkpoint is not None:
                checkpoints.load(net, checkpoints.read(checkpoint), checkpoint, type(net).__name__)
            inputs = sources.own_inputs(net, example)
            source = Source(net.eval(), name, type(net).__name__, inputs, ("a PyTorch module",))
            return export_source(source, out, batch=batch, dynamic=dynamic)
    finally:
        for module, training in modes:
            module.training = training


def export_source(
    source: Source,
    out: Path,
    *,
    batch: int | None = None,
    dynamic: Sequence[str] = (),
    name: str | None = None,
    seed: int = 0,
) -> Artifact:
    """See :func:`export_named`; call it inside :func:`kit.variants.train.deterministic`."""
    inputs = source.inputs
    free = examples.free_dimensions(dynamic, inputs)
    if batch is not None:
        first = {key: {0: "batch"} for key, tensor in inputs.tensors.items() if tensor.ndim}
        inputs = inputs.resized(first, {"batch": batch})
    shapes = _Shapes(inputs, free, examples.sizes(free, inputs))
    stem = store.slug(name or source.name + _suffix(free, batch))
    store.make_folder(out)
    _refuse_other(out / f"{stem}.json", source, stem)
    if source.random:
        shapes = replace(shapes, inputs=_scaled(source, shapes.traced).resized(free, shapes.sizes))
    _call(source, shapes.traced)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as folder:
        artifact = _written(source, shapes, Path(folder), stem, seed)
        files = [artifact.model, *artifact.data, artifact.torch_program, artifact.sample]
        names = [*(file.file for file in files if file is not None), f"{stem}.json"]  # last: it lists the others
        for file_name in names:
            with store.explained(out / file_name, "write"):
                (Path(folder) / file_name).replace(out / file_name)
    return artifact


def _suffix(free: Free, batch: int | None) -> str:
    if any("batch" in axes.values() for axes in free.values()):
        return "-bfree"
    return f"-b{batch}" if batch is not None and batch > 1 else ""


def _refuse_other(sidecar: Path, source: Source, stem: str) -> None:
    """Raises UsageError where another network has that name: it would be lost."""
    if not sidecar.exists() and not sidecar.with_suffix(".onnx").exists():
        return
    try:
        origin = store.read_record(sidecar, Artifact).origin
    except KitError:
        origin = None
    if origin is None or origin.root != source.root:
        raise UsageError(
            f"{sidecar.parent} holds another network of the name {stem}: export under another (--id NAME), or to another folder (--out)."
        )


def _scaled(source: Source, inputs: Examples) -> Examples:
    """Inputs by which random weights got the scale of trained ones; batch norms take their statistics from two or more."""
    (image, *_) = inputs.tensors.values()
    if len(inputs.tensors) > 1 or image.ndim != 4 or not image.is_floating_point():
        return inputs
    key = next(iter(inputs.tensors))
    several = torch.randn(max(2, image.shape[0]), *image.shape[1:])
    _call(source, Examples({key: several}, inputs.named))
    network_files.scale_activations(source.module, several)
    return Examples({key: several[: image.shape[0]]}, inputs.named)


def _call(source: Source, inputs: Examples) -> Outputs:
    """The network's outputs. Raises UsageError with torch's own message where it does not take the inputs."""
    try:
        with torch.no_grad():
            outputs = source.module(*inputs.args, **inputs.kwargs)
    except Exception as error:  # the user's own code
        if source.resolution_px is not None:
            raise sources.wrong_resolution(source.root, source.resolution_px, error) from None
        shapes = ", ".join(f"{key} {'x'.join(map(str, t.shape)) or 'scalar'}" for key, t in inputs.tensors.items())
        raise UsageError(
            f"{source.root} does not take the inputs {shapes} ({first_line(error)[:300]}): give others of the right shapes and types."
        ) from None
    arrays = [_array(leaf) for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    if not arrays:
        raise UsageError(f"{source.root} returns no tensor: export a network that does.")
    return arrays


def _array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


# ------------------------------------------------------------------------------------------------------------- the files


def _written(source: Source, shapes: _Shapes, folder: Path, stem: str, seed: int) -> Artifact:
    onnx = folder / f"{stem}.onnx"
    try:
        program = _export(source, onnx, shapes)
    except KitError:
        raise
    except Exception as error:  # torch's exporters raise whatever their passes do
        raise BadModel(
            f"torch cannot export {source.root} ({_reason(error)}): give an .onnx file in its place."
        ) from None
    check, output = _checked(source, evaluate.open_session(onnx), shapes)
    artifact = describe.artifact_of(
        onnx, {symbol: n for symbol, n in shapes.sizes.items() if symbol != "batch"} or None
    )
    artifact = artifact.model_copy(
        update={
            "artifact_id": onnx_files.id_with(stem, artifact.dims),
            "torch_program": None if program is None else network_files.save_file(folder, f"{stem}.pt2", program),
            "preprocessing": source.preprocessing,
            "check": check,
            "sample": _sample(folder, stem, artifact, shapes.inputs, output),
            "licence": network_files.LICENCE if source.random else None,
            "origin": Origin(
                root=source.root,
                seed=seed,
                producer=f"kit {kit.__version__}",
                versions=network_files.versions(),
                steps=source.steps,
            ),
        }
    )
    store.write_record(folder / f"{stem}.json", artifact)
    return artifact


def _export(source: Source, onnx: Path, shapes: _Shapes) -> bytes | None:
    """Writes ``onnx``; returns the .pt2 archive, None of TorchScript (which torch.export does not take)."""
    inputs, free = shapes.traced, shapes.free
    if source.is_script:
        store.write_atomic(onnx, nets_export.onnx_of_script(source.net, inputs.args, list(inputs.tensors), free))
        return None
    if source.is_program:
        if free:
            raise UsageError(
                f"{source.root} is a program of torch.export, whose free dimensions were fixed when it was exported: leave --dynamic away."
            )
        program = source.net
    else:
        program = _program(source.net, inputs, free)
    names: dict[str, list[str]] = {}
    if source.resolution_px and len(inputs.tensors) == 1:
        names["input_names"] = ["input"]
        if len(program.graph_signature.user_outputs) == 1:
            names["output_names"] = ["output"]
    nets_export.write_onnx(program, onnx, symbols=_symbols(inputs, free), **names)
    return nets_export.archive_of(program)


def _program(net: nn.Module, inputs: Examples, free: Free) -> torch.export.ExportedProgram:
    """With dimensions of any size; where the network does not take all of them, with those that torch finds it to take."""
    dims: dict[str, Any] = {symbol: torch.export.Dim(symbol) for axes in free.values() for symbol in axes.values()}
    try:
        return nets_export.program_of(net, inputs.args, _dynamic_shapes(net, inputs, free, dims), inputs.kwargs)
    except Exception:
        if not free:
            raise
        inferred = dict.fromkeys(dims, torch.export.Dim.DYNAMIC)
        with contextlib.suppress(Exception):
            return nets_export.program_of(net, inputs.args, _dynamic_shapes(net, inputs, free, inferred), inputs.kwargs)
        raise


def _dynamic_shapes(net: nn.Module, inputs: Examples, free: Free, dims: Mapping[str, Any]) -> Any:
    """As torch.export takes them: by parameter, those of a ``*args`` in a tuple under its name."""
    if not free:
        return None
    of_input = {key: {axis: dims[s] for axis, s in free.get(key, {}).items()} or None for key in inputs.tensors}
    parameters, rest = examples.parameters(net)
    shapes: dict[str, Any] = {key: value for key, value in of_input.items() if key in parameters}
    further = tuple(value for key, value in of_input.items() if key not in parameters)
    return shapes | ({rest: further} if rest and further else {})


def _symbols(inputs: Examples, free: Free) -> dict[tuple[int, int], str]:
    """(input, axis) -> symbol."""
    places = {key: index for index, key in enumerate(inputs.tensors)}
    return {(places[key], axis): symbol for key, axes in free.items() for axis, symbol in axes.items()}


def _reason(error: BaseException) -> str:
    """The line of an exporter's message that says what is wrong: torch wraps it in headings and tracebacks."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip(" -*") for line in str(cause).splitlines()]
    if any("data-dependent" in line for line in lines):
        return "its forward decides by values of a tensor, which torch.export cannot follow: write it with torch.where or torch.cond"
    content = [line for line in lines if line and not line.startswith(_HEADINGS)]
    return (content or [type(cause).__name__])[0][:300]


# ------------------------------------------------------------------------------------------------------------- the check


def _checked(
    source: Source, session: onnxruntime.InferenceSession, shapes: _Shapes
) -> tuple[NumericCheck, NDArray[Any]]:
    """The file's outputs beside the network's, at every size of free dimensions; and its first output for the sidecar's inputs."""
    error, agreeing, count = 0.0, 0, 0
    first: list[NDArray[Any]] = []
    for case in shapes.cases():
        try:
            expected = _call(source, case)
        except UsageError:
            if case is shapes.inputs:
                raise
            continue  # a size that the network itself does not take
        computed = _run(session, case)
        error = max(error, _difference(computed, expected, source))
        same, rows = _agreement(computed[0], expected[0])
        agreeing, count = agreeing + same, count + rows
        first.append(computed[0])
    agreement = agreeing / count if count else 1.0
    return NumericCheck(max_abs_error=error, top1_agreement=agreement, count=max(count, 1)), first[0]


def _run(session: onnxruntime.InferenceSession, inputs: Examples) -> Outputs:
    names = [node.name for node in session.get_inputs()]
    by_name = {key: _array(tensor) for key, tensor in inputs.tensors.items()}
    if not set(names) <= set(by_name):  # the only input of a network of images is called "input"
        by_name = dict(zip(names, by_name.values(), strict=False))
    try:
        outputs = session.run(None, {name: by_name[name] for name in names})
    except Exception as error:
        raise BadModel(f"onnxruntime cannot run the exported file: {reasons.cause(str(error))}") from None
    return [np.asarray(output) for output in outputs]


def _difference(computed: Outputs, expected: Outputs, source: Source) -> float:
    """The largest difference. Raises IntegrityError when it is more than rounding."""
    if len(computed) != len(expected) or any(c.shape != e.shape for c, e in zip(computed, expected, strict=True)):
        raise IntegrityError(
            f"The exported file has outputs {[c.shape for c in computed]} and {source.root} has {[e.shape for e in expected]}: try another "
            "torch version, or give an .onnx file."
        )
    types = {tensor.dtype for tensor in source.module.state_dict().values()}
    share = max((_ROUNDING.get(dtype, network_files.ROUNDING) for dtype in types), default=network_files.ROUNDING)
    worst = 0.0
    for c, e in zip(computed, expected, strict=True):
        a, b = c.astype(np.float64), e.astype(np.float64)
        with np.errstate(invalid="ignore"):
            difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        error = float(difference.max(initial=0.0))
        network_files.assert_same(error, b[np.isfinite(b)], source.root, share, hint=_RANDOM)
        worst = max(worst, error)
    return worst


def _agreement(computed: NDArray[Any], expected: NDArray[Any]) -> tuple[int, int]:
    """Equal largest entries along the last axis, and their number."""
    if computed.ndim < 2 or not computed.size:
        return 0, 0
    same = computed.argmax(-1) == expected.argmax(-1)
    return int(same.sum()), same.size


def _sample(folder: Path, stem: str, artifact: Artifact, inputs: Examples, output: NDArray[Any]) -> FileRef | None:
    """One call's inputs and outputs for the device that installs it; None where they are large, or cannot be stored by name."""
    arrays = dict(
        zip((spec.name for spec in artifact.inputs), (_array(t) for t in inputs.tensors.values()), strict=False)
    )
    size_bytes = sum(a.nbytes for a in [*arrays.values(), output])
    if size_bytes > _SAMPLE_BYTES_MAX or "output" in arrays or len(arrays) != len(artifact.inputs):
        return None
    if len(arrays) == 1:
        arrays = {"input": next(iter(arrays.values()))}
    return network_files.save_sample(folder, stem, arrays, output)
