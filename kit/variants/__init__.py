"""The training tools: from a root network to trained, cut, pruned, quantized and checked files. Needs torch; never on a board."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kit.errors import BadModel
from kit.measure import onnx_files
from kit.records import Artifact, Kernel

__all__ = ["artifact", "kernels"]

NAMED = 3  # operators that a sentence names


def artifact(file: Path) -> Artifact:
    """What the sidecar of an ONNX file holds, by the training tools where they are here; else as onnxruntime reads it, without MACs.

    Nothing is written. Raises UsageError (missing), BadModel.
    """
    try:
        from kit.variants import describe
    except ImportError:
        return onnx_files.artifact_of(file, "onnxruntime")
    return describe.artifact_of(file)


def kernels(file: Path, dims: Mapping[str, int] | None = None) -> tuple[Kernel, ...]:
    """The kernels of an ONNX file with ``dims`` as the sizes of its free dimensions, by the onnx package.

    Raises BadModel, which names what kit cannot count, UnknownName and UsageError (a dimension that is not free).
    """
    from kit.variants import graph

    contents = graph.contents(graph.fixed(graph.load(file), file, dims or {})[0], str(file), file.parent)
    if contents.kernels is None:
        uncounted = contents.facts.uncounted
        names = ", ".join(uncounted[:NAMED]) + (f" and {len(uncounted) - NAMED} more" if len(uncounted) > NAMED else "")
        raise BadModel(f"{file} holds operators that kit cannot count ({names}): measure it with kit profile instead.")
    return contents.kernels
