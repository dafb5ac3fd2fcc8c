"""From a torch network to files: ONNX (one file, batch norm folded), the torch.export archive, the sidecar.

The batch is fixed (1 by default): a latency belongs to one shape. With a free batch dimension the backends fix it when
they open the file.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import kit
from kit import store
from kit.backends import onnxdata
from kit.errors import BadRecord, IntegrityError, UsageError
from kit.measure import onnx_files
from kit.nets.export import archive_of, onnx_of, program_of
from kit.records import Artifact, FileRef, NumericCheck, Origin
from kit.variants import evaluate, graph
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


def to_files(net: nn.Module, example: Tensor) -> Exported:
    """``net`` (in evaluation mode, one input, one output) exported for inputs of ``example``'s shape ``(N, C, H, W)``.

    Call it inside :func:`kit.variants.train.deterministic`.
    """
    program = program_of(net, (example,))
    return Exported(onnx_of(program, input_names=["input"], output_names=["output"]), archive_of(program))


def save_file(folder: Path, name: str, data: bytes) -> FileRef:
    """Write ``data`` atomically; returns the reference that a record stores of it."""
    store.write_atomic(folder / name, data)
    return FileRef(file=name, sha256=store.sha256_bytes(data), size_bytes=len(data))


def save_sample(folder: Path, stem: str, inputs: Mapping[str, NDArray[Any]], output: NDArray[Any]) -> FileRef:
    """``<stem>.sample.npz``: inputs by name (the only one is called "input") and the file's own first output for them, by which a device
    checks its install."""
    arrays: dict[str, Any] = {**inputs, "output": output}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return save_file(folder, f"{stem}.sample.npz", buffer.getvalue())


def assert_same(check: NumericCheck, outputs: NDArray[np.float32], what: str) -> None:
    """A float file must have torch's outputs, to rounding. Raises IntegrityError."""
    tolerance = 1e-3 * (1 + float(np.abs(outputs).max()))
    if check.max_abs_error is None or not check.max_abs_error <= tolerance:
        raise IntegrityError(
            f"The exported {what} differs from the torch network by {check.max_abs_error} (at most {tolerance:.2g} is rounding): "
            "do not use it; try another torch or onnxruntime version."
        )


def scale_activations(net: nn.Module, example: Tensor) -> None:
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
