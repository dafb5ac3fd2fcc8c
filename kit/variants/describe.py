"""The sidecar of an ONNX file that kit did not make: what its graph computes, holds, takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kit
from kit import store
from kit.backends import onnxdata
from kit.errors import BadRecord, UsageError
from kit.measure import onnx_files
from kit.records import Artifact, Origin
from kit.variants import evaluate, graph
from kit.versions import installed


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
