"""The training tools: from a root network to trained, cut, pruned, quantized and checked files. Needs torch; never on a board."""

from __future__ import annotations

from pathlib import Path

from kit.records import Kernel

__all__ = ["kernels"]


def kernels(file: Path) -> tuple[Kernel, ...] | None:
    """The kernels of an ONNX file, by the onnx package; None where kit cannot count them. Raises BadModel."""
    from kit.variants import graph

    return graph.contents(graph.fixed(graph.load(file), file, {})[0], str(file), file.parent).kernels
