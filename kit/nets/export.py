"""From a torch module to bytes: the one ONNX export of the project, and the torch.export archive. Equal networks give equal bytes."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kit.errors import IntegrityError
from kit.spaces.onnxfile import OPSET


def program_of(net: nn.Module, examples: Sequence[Tensor], dynamic_shapes: Any = None) -> torch.export.ExportedProgram:
    """``net`` as a program for inputs of these shapes, or of ``dynamic_shapes`` as :func:`torch.export.export` takes them.

    It holds no paths of this machine, which torch writes at every node. Raises what torch's exporter raises.
    """
    with quiet(), torch.no_grad():
        program = torch.export.export(net, tuple(examples), dynamic_shapes=dynamic_shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def onnx_of(program: torch.export.ExportedProgram, **names: Any) -> bytes:
    """``program`` as an ONNX file of :data:`kit.spaces.onnxfile.OPSET`, batch norm folded; ``names`` are ``input_names`` and
    ``output_names``. Raises IntegrityError where torch exports nothing, and what torch's exporter raises.

    >>> program = program_of(torch.nn.Linear(4, 2).eval(), [torch.zeros(1, 4)])
    >>> file = onnx_of(program, input_names=["input"], output_names=["output"])
    """
    with quiet(), torch.no_grad():
        onnx = torch.onnx.export(program, opset_version=OPSET, dynamo=True, verbose=False, **names)
    if onnx is None:
        raise IntegrityError("torch exported nothing: try another torch version.")
    model = onnx.model_proto
    # Every tool infers the shapes again; kept, those of a weight turn stale when a tool transposes it, and it then refuses.
    del model.graph.value_info[:]
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def archive_of(program: torch.export.ExportedProgram) -> bytes:
    """``program`` as a .pt2 archive, for the pytorch backend."""
    archive = io.BytesIO()
    torch.export.save(program, archive)
    return archive.getvalue()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no progress of torch on the screen."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
