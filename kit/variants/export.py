"""From a torch network to files: ONNX (one file, batch norm folded), the torch.export archive, the sidecar.

The batch is fixed (1 by default): a latency belongs to one shape. With a free batch dimension the backends fix it when
they open the file.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

import kit
from kit import store, units
from kit.backends import onnxdata
from kit.errors import BadModel, BadRecord, IntegrityError, UnknownName, UsageError
from kit.measure import onnx_files
from kit.nets.export import archive_of, onnx_of, program_of, quiet
from kit.records import Artifact, FileRef, NumericCheck, Origin, Preprocessing
from kit.variants import evaluate, graph, train
from kit.versions import installed

LICENCE = "Apache-2.0"
_TOOLS = ("python", "torch", "torchvision", "torch-pruning", "onnx", "onnxruntime", "scikit-learn")
_PROTOBUF_LIMIT_BYTES = 2**31 - 2**20


@dataclass(frozen=True)
class Exported:
    """One network in both forms. Its multiply-accumulates are those of the ONNX graph (:func:`kit.variants.graph.facts`): torch's own
    counter leaves out what its registry does not know, and that changes from version to version."""

    onnx: bytes
    program: bytes


def versions() -> dict[str, str]:
    """Versions of the libraries that make the files, as installed."""
    return installed(_TOOLS)


def to_files(net: nn.Module, example: Tensor, *, free_batch: bool = False) -> Exported:
    """``net`` (in evaluation mode, one input, one output) exported for inputs of ``example``'s shape ``(N, C, H, W)``.

    ``free_batch`` leaves N open; ``example`` then needs two images or more, because torch takes one for a constant. Call it inside
    :func:`kit.variants.train.deterministic`. Raises UsageError when it is too large for one ONNX file.
    """
    _refuse_large(net)
    shapes = ({0: torch.export.Dim("batch")},) if free_batch else None
    return _exported(net, (example,), shapes, input_names=["input"], output_names=["output"])


def _refuse_large(net: nn.Module) -> None:
    stored = sum(t.numel() * t.element_size() for t in net.state_dict().values())
    if stored > _PROTOBUF_LIMIT_BYTES:
        raise UsageError(
            f"The network holds {units.size(stored)} of weights and one ONNX file holds at most 2 GB: take a smaller one."
        )


def _exported(net: nn.Module, examples: tuple[Tensor, ...], shapes: Any, **names: list[str]) -> Exported:
    program = program_of(net, examples, shapes)
    return Exported(onnx_of(program, **names), archive_of(program))


def save_file(folder: Path, name: str, data: bytes) -> FileRef:
    """Write ``data`` atomically; returns the reference that a record stores of it."""
    store.write_atomic(folder / name, data)
    return FileRef(file=name, sha256=store.sha256_bytes(data), size_bytes=len(data))


def save_sample(folder: Path, stem: str, image: NDArray[np.float32], output: NDArray[np.float32]) -> FileRef:
    """``<stem>.sample.npz``: inputs and the file's own outputs for them, by which a device checks its install."""
    buffer = io.BytesIO()
    np.savez(buffer, input=image, output=output)
    return save_file(folder, f"{stem}.sample.npz", buffer.getvalue())


def assert_same(check: NumericCheck, outputs: NDArray[np.float32], what: str) -> None:
    """A float file must have torch's outputs, to rounding. Raises IntegrityError."""
    tolerance = 1e-3 * (1 + float(np.abs(outputs).max()))
    if check.max_abs_error is None or not check.max_abs_error <= tolerance:
        raise IntegrityError(
            f"The exported {what} differs from the torch network by {check.max_abs_error} (at most {tolerance:.2g} is rounding): "
            "do not use it; try another torch or onnxruntime version."
        )


def export_root(name: str, resolution_px: int, out: Path, *, batch: int | None = 1, seed: int = 0) -> Artifact:
    """A torchvision classification architecture (1000 classes, random weights) as ``<name>-<px>.onnx``, ``.pt2``, ``.json``.

    ``batch`` other than 1 is in the name; None leaves it free, and the sidecar describes a batch of 1.

    Nothing is downloaded, and there is no accuracy to state. Batch norms take their statistics from random images, so that
    activations have the scale they would have after training: the time of an inference does not depend on more than that.
    Raises UnknownName ("did you mean"), UsageError (a resolution that the network does not take), StorageError.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise UnknownName("network", name, names)
    store.make_folder(out)
    with train.deterministic(seed):
        net = _architecture(name, resolution_px)
        example = torch.randn(max(2, batch or 2), 3, resolution_px, resolution_px)
        _try_forward(net, example, name)
        _scale_activations(net, example)
        expected = _try_forward(net, example, name)
        files = to_files(net, example if batch is None else example[:batch], free_batch=batch is None)
    stem = f"{name}-{resolution_px}" + ("-bfree" if batch is None else f"-b{batch}" if batch > 1 else "")
    model = save_file(out, f"{stem}.onnx", files.onnx)
    described = graph.with_batch(graph.load(out / model.file), batch or 1)
    contents = graph.contents(described, stem)
    outputs = evaluate.logits(out / model.file, example)
    check = evaluate.compare(outputs, expected)
    assert_same(check, outputs, stem)
    artifact = Artifact(
        artifact_id=stem,
        model=model,
        torch_program=save_file(out, f"{stem}.pt2", files.program),
        **stated(contents),
        preprocessing=Preprocessing(
            resize_px=resolution_px, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), classes=outputs.shape[1]
        ),
        check=check,
        sample=save_sample(out, stem, example[: batch or 1].numpy(), outputs[: batch or 1]),
        licence=LICENCE,
        origin=Origin(
            root=name, seed=seed, producer=f"kit {kit.__version__}", versions=versions(), steps=("random weights",)
        ),
    )
    store.write_record(out / f"{stem}.json", artifact)
    return artifact


def _architecture(name: str, resolution_px: int) -> nn.Module:
    sizes: dict[str, dict[str, Any]] = {
        "vit": {"image_size": resolution_px},
        "maxvit": {"input_size": (resolution_px,) * 2},
    }
    try:
        with quiet():
            net: nn.Module = torchvision.models.get_model(name, weights=None, **sizes.get(name.split("_")[0], {}))
    except (ValueError, AssertionError, RuntimeError) as error:
        raise _wrong_resolution(name, resolution_px, error) from None
    return net.eval()


def _scale_activations(net: nn.Module, example: Tensor) -> None:
    """Give random weights the scale of trained ones, because timing and checks depend on it: untouched, the activations of a
    deep network fade towards denormal numbers or blow up, and a head that starts at zero outputs zero for everything."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = 1.0  # take this batch's statistics
    for head in (m for m in net.modules() if isinstance(m, nn.Linear) and not m.weight.any()):
        nn.init.trunc_normal_(head.weight, std=0.02)
    with torch.no_grad():
        net(example)
    for norm in norms:
        norm.eval()


def _try_forward(net: nn.Module, example: Tensor, name: str) -> NDArray[np.float32]:
    try:
        with torch.no_grad():
            outputs: NDArray[np.float32] = net(example).numpy()
    except (ValueError, AssertionError, RuntimeError) as error:
        raise _wrong_resolution(name, example.shape[-1], error) from None
    return outputs


def _wrong_resolution(name: str, resolution_px: int, error: Exception) -> UsageError:
    return UsageError(f"{name} does not take {resolution_px}x{resolution_px} pixels ({first_line(error)}): try 224.")


def export_module(net: nn.Module, example: Tensor | Sequence[Tensor], out: Path, name: str) -> Artifact:
    """The user's own network, in evaluation mode, as ``<name>.onnx``, ``.pt2`` and ``.json`` in the folder ``out``.

    ``example`` is its input (several in a sequence), batch first: the files have exactly these shapes. The network is left in the mode
    that it was in. Raises UsageError (it does not take the example, or is too large), BadModel (torch cannot export it), IntegrityError
    (the file's outputs differ from the network's).
    """
    examples = (example,) if isinstance(example, Tensor) else tuple(example)
    _refuse_large(net)
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        expected = _first_output(net, examples)
        try:
            files = _exported(net, examples, None)
        except Exception as error:  # torch's exporters raise whatever their passes do
            raise BadModel(
                f"torch cannot export {type(net).__name__} ({first_line(error)}): give an .onnx file in its place."
            ) from None
    finally:
        for module, training in modes:
            module.training = training
    model = save_file(out, f"{name}.onnx", files.onnx)
    session = evaluate.open_session(out / model.file)
    feeds = {node.name: x.detach().cpu().numpy() for node, x in zip(session.get_inputs(), examples, strict=True)}
    outputs = np.asarray(session.run(None, feeds)[0], dtype=np.float32)
    check = NumericCheck(
        max_abs_error=float(np.abs(outputs - expected).max(initial=0.0)), top1_agreement=1.0, count=len(examples[0])
    )
    assert_same(check, expected, name)
    described = describe_onnx(out / model.file)
    program = save_file(out, f"{name}.pt2", files.program)
    origin = Origin(root=name, producer=f"kit {kit.__version__}", versions=versions(), steps=("a PyTorch module",))
    artifact = described.model_copy(update={"torch_program": program, "origin": origin})
    store.write_record(out / f"{name}.json", artifact)
    return artifact


def _first_output(net: nn.Module, examples: tuple[Tensor, ...]) -> NDArray[np.float32]:
    """The network's first output. Raises UsageError with torch's own message where it does not take the examples."""
    try:
        with torch.no_grad():
            output = net(*examples)
    except Exception as error:  # the user's own code
        raise UsageError(
            f"{type(net).__name__} does not take the example input ({first_line(error)}): give one of the right shapes and types."
        ) from None
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output.detach().cpu().float().numpy()


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def describe_onnx(path: Path, dims: Mapping[str, int] | None = None, name: str | None = None) -> Artifact:
    """The sidecar ``x.json`` of the user's own ``x.onnx``, written next to it, with ``dims`` as the sizes of its free dimensions (the batch
    is 1 where they do not say) and ``name`` as its id.

    A sidecar that already fits the file and the sizes is kept; what an older kit could not count or list of the graph is added to it. One
    of other sizes keeps its accuracy and origin.

    Raises UsageError (missing; ``x.json`` is some other file of the user's), UnknownName, BadModel (no ONNX, a dimension left free).
    """
    sidecar = path.with_suffix(".json")
    artifact = artifact_of(path, dims, name, _existing(sidecar))
    if not sidecar.exists() or store.read_record(sidecar, Artifact) != artifact:
        store.write_record(sidecar, artifact)
    return artifact


def artifact_of(
    path: Path, dims: Mapping[str, int] | None = None, name: str | None = None, existing: Artifact | None = None
) -> Artifact:
    """What :func:`describe_onnx` writes, and writes nothing. ``existing`` is the sidecar so far. Raises as it does."""
    plain = graph.load(path)
    evaluate.open_session(path)  # before anything is counted: what no runtime opens is not worth a number
    same = {"model": store.file_ref(path), "data": onnxdata.hashed(path)}
    if existing is not None and any(getattr(existing, key) != value for key, value in same.items()):
        existing = None
    model, chosen = graph.fixed(plain, path, dims or dict(existing.dims if existing else ()))
    contents = graph.contents(model, str(path), path.parent)
    if (
        existing is not None
        and name in (None, existing.artifact_id)
        and not (dims and existing.inputs != contents.facts.inputs)
    ):
        return _completed(existing, contents)
    artifact = existing or _foreign(path, contents)
    new_id = name or onnx_files.id_with(onnx_files.base_id(artifact), chosen)
    return artifact.model_copy(update={**same, **stated(contents), "dims": chosen, "artifact_id": new_id})


def _foreign(path: Path, contents: graph.Contents) -> Artifact:
    """The sidecar of a file that kit did not make."""
    name = store.slug(onnx_files.artifact_name(path))
    return Artifact(
        artifact_id=name,
        model=store.file_ref(path),
        origin=Origin(
            root=name,
            producer=f"kit {kit.__version__}",
            versions=installed(("onnx", "onnxruntime", "numpy")),
            steps=("a file that kit did not make, described",),
        ),
        **stated(contents),
        precision=contents.facts.precision,
        quantization=contents.facts.quantization,
        notes=(*contents.facts.notes, *contents.facts.mixed),
    )


def stated(contents: graph.Contents) -> dict[str, Any]:
    """The fields of an artifact that its graph decides: what it computes, holds, takes and gives."""
    facts = contents.facts
    return {
        "macs": facts.macs,
        "counted_macs": facts.counted_macs if facts.macs is None else None,
        "uncounted": facts.uncounted,
        "parameters": facts.parameters,
        "weight_bytes": facts.weight_bytes,
        "activation_bytes": facts.activation_bytes,
        "inputs": facts.inputs,
        "outputs": facts.outputs,
        "kernels": graph.distinct(contents.kernels),
    }


def _completed(existing: Artifact, contents: graph.Contents) -> Artifact:
    """A sidecar of an older kit with the multiply-accumulates and kernels that it lacks."""
    counts = stated(contents)
    added = {name: counts[name] for name in ("macs", "counted_macs", "uncounted") if existing.macs is None}
    if existing.kernels is None:
        added["kernels"] = counts["kernels"]
    return existing.model_copy(update=added)


def _existing(sidecar: Path) -> Artifact | None:
    if not sidecar.exists():
        return None
    try:
        return store.read_record(sidecar, Artifact)
    except BadRecord:
        raise UsageError(
            f"{sidecar} exists and is no sidecar of kit's: move it or rename the model, it is not overwritten."
        ) from None
