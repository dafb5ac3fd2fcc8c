"""What an ONNX file contains: tensors, multiply-accumulates, parameters, bytes, kernels. Also for networks that kit did not make.

Counted is every product of an operator that kit knows, over the graph's shapes, so that a quantized graph counts like the float
graph it came from. 1 MAC = 2 FLOP; additions of a bias, normalizations, activations and softmax are not counted (torch's flop
counter does the same; thop counts batch norm too, which an exported graph has folded). A graph with an operator that kit does not
know, a loop of unknown length or a product of unknown shapes has no sum; what is missing in it is named.

Shapes are those that ONNX infers. What it cannot infer, one run with onnxruntime on the CPU shows (:func:`seen_shapes`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from kit.records import Kernel, Precision, TensorSpec
from kit.variants.graph.formats import Formats, formats_of, precision_of
from kit.variants.graph.fusion import Fusion
from kit.variants.graph.macs import Workload
from kit.variants.graph.operators import VIEWS, settings_of
from kit.variants.graph.reading import dtype_of, fixed, load, load_whole, with_batch
from kit.variants.graph.running import seen_shapes
from kit.variants.graph.shapes import Graph
from kit.variants.graph.weights import weights_of

__all__ = [
    "Contents",
    "Facts",
    "Formats",
    "contents",
    "distinct",
    "facts",
    "fixed",
    "kernels",
    "load",
    "load_whole",
    "precision_of",
    "seen_shapes",
    "settings_of",
    "with_batch",
]


@dataclass(frozen=True)
class Facts:
    """``macs`` is None where something is missing in the sum: ``uncounted`` names it, such as "Loop 'decoder'", and ``counted_macs``
    is the sum of the rest. ``activation_bytes`` is None where the graph does not determine them.

    ``quantization`` (None: floats) and ``mixed`` are those of :class:`Formats`; ``notes`` say what the count assumes.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: Precision
    macs: int | None
    parameters: int
    weight_bytes: int
    activation_bytes: int | None
    counted_macs: int = 0
    uncounted: tuple[str, ...] = ()
    quantization: str | None = None
    mixed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """``kernels`` is None where ``facts.macs`` is."""

    facts: Facts
    kernels: tuple[Kernel, ...] | None


def contents(model: ModelProto, name: str, folder: Path | None = None) -> Contents:
    """Facts and kernels of a graph in one go. ``name`` is what errors call it, ``folder`` holds weights that lie in other files.

    Raises BadModel: dynamic shapes, or a broken graph.
    """
    workload = Workload(Graph.of(model, name, folder))
    return Contents(_facts(workload), _kernels(workload))


def facts(model: ModelProto, name: str) -> Facts:
    """Everything that the graph states. ``name`` is what errors call it. Raises BadModel: dynamic shapes or a broken graph.

    >>> facts(load(Path("resnet18-224.onnx")), "resnet18").macs
    1814073344
    """
    return _facts(Workload(Graph.of(model, name)))


def kernels(model: ModelProto, name: str) -> tuple[Kernel, ...] | None:
    """The work of a graph as a runtime runs it: convolutions and products with what is fused to them, and the lighter operators between.

    Fusion follows onnxruntime on a CPU: batch norm, bias, activation and residual addition into the convolution before them, bias
    into a product, the parts of GELU and layer norm into one, quantizers into the int8 operators next to them. None where
    the graph does not state its shapes or holds operators that cannot be counted. Raises BadModel as :func:`facts` does.
    """
    return _kernels(Workload(Graph.of(model, name)))


def _facts(workload: Workload) -> Facts:
    graph, formats = workload.graph, formats_of(workload)
    weights = weights_of(graph.source.graph)
    return Facts(
        inputs=graph.specs(value.name for value in graph.inputs),
        outputs=graph.specs(graph.outputs),
        precision=formats.precision,
        macs=workload.macs,
        parameters=sum(w.size for w in weights),
        weight_bytes=sum(w.nbytes for w in weights),
        activation_bytes=_activation_bytes(graph),
        counted_macs=workload.counted_macs,
        uncounted=workload.uncounted,
        quantization=formats.quantization,
        mixed=formats.mixed,
        notes=workload.notes,
    )


def _kernels(workload: Workload) -> tuple[Kernel, ...] | None:
    return None if workload.macs is None else Fusion(workload).kernels()


def _activation_bytes(graph: Graph) -> int | None:
    """Bytes of the tensors that the nodes write for one input. Views are free; a float tensor that only feeds a quantizer
    stays inside the quantized operator, so its int8 form is what counts."""
    total = 0
    for node in graph.nodes:
        for name in () if node.op_type in VIEWS else filter(None, node.output):
            readers = {graph.nodes[i].op_type for i in graph.links.readers.get(name, [])}
            if readers == {"QuantizeLinear"}:
                continue
            if name not in graph.shapes or not graph.types.get(name):
                return None
            total += math.prod(graph.shapes[name]) * dtype_of(graph.types[name]).itemsize
    return total


def distinct(kernels: tuple[Kernel, ...] | None) -> tuple[Kernel, ...] | None:
    """Equal kernels as one with their count, in the order of the first of each: what a sidecar keeps, a few kB for any network."""
    if kernels is None:
        return None
    counts: dict[Kernel, int] = {}
    for kernel in kernels:
        one = kernel.model_copy(update={"count": 1})
        counts[one] = counts.get(one, 0) + kernel.count
    return tuple(one.model_copy(update={"count": count}) for one, count in counts.items())
