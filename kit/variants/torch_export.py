"""A PyTorch network as files: ONNX, the torch.export archive, the sidecar and a sample, compared with the network that they come from.

A latency belongs to one shape, so the files have the shapes of the example inputs; a free dimension (``--dynamic``) is fixed when the file
is opened. Nothing lies in the folder before the files answered like the network.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import kit
from kit import store
from kit.backends import reasons
from kit.errors import BadModel, IntegrityError, KitError, UsageError
from kit.measure import onnx_files
from kit.nets import export as nets_export
from kit.records import Artifact, NumericCheck, Origin
from kit.variants import checkpoints, evaluate, examples, export, sources, train
from kit.variants.examples import Examples
from kit.variants.sources import Source, Wishes, first_line

Outputs = list[NDArray[Any]]
Free = Mapping[str, Mapping[int, str]]
#: Largest difference that is rounding, over 1 + the largest output, by the coarsest type of the weights.
_ROUNDING = {torch.float16: 2e-2, torch.bfloat16: 1e-1}
_ROUNDING_FP32 = 1e-3
_HEADINGS = ("Constraints violated", "File ", "Traceback", "(", "Error: ", "[1m")
_SAMPLE_BYTES_MAX = 64 << 20


def export_named(
    text: str,
    out: Path,
    wishes: Wishes | None = None,
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
    wishes = wishes or Wishes()
    with train.deterministic(wishes.seed):
        return export_source(
            sources.source_of(text, wishes), out, batch=batch, dynamic=dynamic, name=name, seed=wishes.seed
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
    sizes = examples.sizes(free, inputs)
    traced = inputs.resized(
        free, {symbol: max(2, size) for symbol, size in sizes.items()}
    )  # torch takes one for a constant
    stem = store.slug(name or source.name + _suffix(free, batch))
    store.make_folder(out)
    _refuse_other(out / f"{stem}.json", source, stem)
    if source.random:
        traced = _scaled(source, traced, free)
        inputs = traced.resized(free, sizes) if free else traced
    _call(source, traced)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as folder:
        artifact = _written(source, Path(folder), stem, inputs, traced, free, sizes, seed)
        files = [artifact.model, *artifact.data, artifact.torch_program, artifact.sample]
        for file in [
            *(f.file for f in files if f is not None),
            f"{stem}.json",
        ]:  # the sidecar last: it lists the others
            with store.explained(out / file, "write"):
                (Path(folder) / file).replace(out / file)
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


def _scaled(source: Source, inputs: Examples, free: Free) -> Examples:
    """Random weights get the scale of trained ones; batch norms take their statistics from two inputs or more."""
    (image, *_) = inputs.tensors.values()
    if len(inputs.tensors) == 1 and image.ndim == 4 and image.is_floating_point():
        key = next(iter(inputs.tensors))
        several = torch.randn(max(2, image.shape[0]), *image.shape[1:])
        _call(source, Examples({key: several}, inputs.named))
        export.scale_activations(source.module, several)
        return Examples({key: several[: image.shape[0]]}, inputs.named)
    return inputs


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


def _written(
    source: Source,
    folder: Path,
    stem: str,
    inputs: Examples,
    traced: Examples,
    free: Free,
    sizes: Mapping[str, int],
    seed: int,
) -> Artifact:
    onnx = folder / f"{stem}.onnx"
    try:
        program = _export(source, onnx, traced, free)
    except KitError:
        raise
    except Exception as error:  # torch's exporters raise whatever their passes do
        raise BadModel(
            f"torch cannot export {source.root} ({_reason(error)}): give an .onnx file in its place."
        ) from None
    check = _checked(source, onnx, inputs, traced, free, sizes)
    dims = {symbol: size for symbol, size in sizes.items() if symbol != "batch"}
    artifact = export.artifact_of(onnx, dims or None, None)
    outputs = _run(onnx, inputs)
    artifact = artifact.model_copy(
        update={
            "artifact_id": onnx_files.id_with(stem, artifact.dims),
            "torch_program": None if program is None else export.save_file(folder, f"{stem}.pt2", program),
            "preprocessing": source.preprocessing,
            "check": check,
            "sample": _sample(folder, stem, artifact, onnx, inputs, outputs),
            "licence": export.LICENCE if source.random else None,
            "origin": Origin(
                root=source.root,
                seed=seed,
                producer=f"kit {kit.__version__}",
                versions=export.versions(),
                steps=source.steps,
            ),
        }
    )
    store.write_record(folder / f"{stem}.json", artifact)
    return artifact


def _export(source: Source, onnx: Path, inputs: Examples, free: Free) -> bytes | None:
    """Writes ``onnx``; returns the .pt2 archive, None of TorchScript (which torch.export does not take)."""
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
    source: Source, onnx: Path, inputs: Examples, traced: Examples, free: Free, sizes: Mapping[str, int]
) -> NumericCheck:
    """The file's outputs beside the network's, for the example inputs and, where dimensions are free, for other sizes."""
    cases = [inputs]
    if free:
        cases.append(traced)
        cases.append(traced.resized(free, {symbol: 2 * max(2, size) for symbol, size in sizes.items()}))
    error, agreeing, count = 0.0, 0, 0
    for case in cases:
        try:
            expected = _call(source, case)
        except UsageError:
            if case is inputs:
                raise
            continue  # a size that the network itself does not take
        computed = _run(onnx, case)
        error = max(error, _assert_same(computed, expected, source))
        same, rows = _agreement(computed[0], expected[0])
        agreeing, count = agreeing + same, count + rows
    return NumericCheck(max_abs_error=error, top1_agreement=agreeing / count if count else 1.0, count=max(count, 1))


def _run(onnx: Path, inputs: Examples) -> Outputs:
    session = evaluate.open_session(onnx)
    taken = {node.name for node in session.get_inputs()}
    by_name = {key: _array(tensor) for key, tensor in inputs.tensors.items()}
    if not taken <= set(by_name):  # the only input of a network of images is called "input"
        by_name = dict(zip([node.name for node in session.get_inputs()], by_name.values(), strict=False))
    try:
        outputs = session.run(None, {key: value for key, value in by_name.items() if key in taken})
    except Exception as error:
        raise BadModel(f"onnxruntime cannot run the exported file: {reasons.cause(str(error))}") from None
    return [np.asarray(output) for output in outputs]


def _assert_same(computed: Outputs, expected: Outputs, source: Source) -> float:
    """The largest difference. Raises IntegrityError when it is more than rounding."""
    if len(computed) != len(expected) or any(c.shape != e.shape for c, e in zip(computed, expected, strict=True)):
        raise IntegrityError(
            f"The exported file has outputs {[c.shape for c in computed]} and {source.root} has {[e.shape for e in expected]}: try another "
            "torch version, or give an .onnx file."
        )
    types = {tensor.dtype for tensor in source.module.state_dict().values()}
    share = max((_ROUNDING.get(dtype, _ROUNDING_FP32) for dtype in types), default=_ROUNDING_FP32)
    worst = 0.0
    for c, e in zip(computed, expected, strict=True):
        a, b = c.astype(np.float64), e.astype(np.float64)
        with np.errstate(invalid="ignore"):
            difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        error = float(difference.max(initial=0.0))
        limit = share * (1 + float(np.abs(b[np.isfinite(b)]).max(initial=0.0)))
        if not error <= limit:
            raise IntegrityError(
                f"The exported {source.root} differs from the torch network by {error:.3g} (at most {limit:.2g} is rounding): do not use "
                "it; try another torch or onnxruntime version. A network that draws random numbers cannot be compared."
            )
        worst = max(worst, error)
    return worst


def _agreement(computed: NDArray[Any], expected: NDArray[Any]) -> tuple[int, int]:
    """Equal largest entries along the last axis, and their number."""
    if computed.ndim < 2 or not computed.size:
        return 0, 0
    same = computed.argmax(-1) == expected.argmax(-1)
    return int(same.sum()), same.size


def _sample(folder: Path, stem: str, artifact: Artifact, onnx: Path, inputs: Examples, outputs: Outputs) -> Any:
    """One call's inputs and outputs for the device that installs it; None where they are large, or cannot be stored by name."""
    arrays = dict(
        zip((spec.name for spec in artifact.inputs), (_array(t) for t in inputs.tensors.values()), strict=False)
    )
    size_bytes = sum(a.nbytes for a in [*arrays.values(), outputs[0]])
    if size_bytes > _SAMPLE_BYTES_MAX or "output" in arrays or len(arrays) != len(artifact.inputs):
        return None
    if len(arrays) == 1:
        arrays = {"input": next(iter(arrays.values()))}
    return export.save_sample(folder, stem, arrays, outputs[0])
