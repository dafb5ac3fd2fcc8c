"""From a torch module to bytes: the one ONNX export of the project, and the torch.export archive. Equal networks give equal bytes."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kit import store
from kit.errors import IntegrityError
from kit.spaces.onnxfile import OPSET

#: What one protobuf message holds at most; weights of more lie in a file of their own.
PROTOBUF_BYTES_MAX = 2**31 - 2**20
Symbols = Mapping[tuple[int, int], str]


def program_of(
    net: nn.Module, examples: Sequence[Tensor], dynamic_shapes: Any = None, named: Mapping[str, Tensor] | None = None
) -> torch.export.ExportedProgram:
    """``net`` as a program for inputs of these shapes (``named`` ones by parameter), or of ``dynamic_shapes`` as
    :func:`torch.export.export` takes them.

    It holds no paths of this machine, which torch writes at every node. Raises what torch's exporter raises.
    """
    with quiet(), torch.no_grad():
        program = torch.export.export(net, tuple(examples), dict(named or {}), dynamic_shapes=dynamic_shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def onnx_of(program: torch.export.ExportedProgram, **names: Any) -> bytes:
    """``program`` as an ONNX file of :data:`kit.spaces.onnxfile.OPSET`, batch norm folded; ``names`` are ``input_names`` and
    ``output_names``. Raises IntegrityError where torch exports nothing, and what torch's exporter raises.

    >>> program = program_of(torch.nn.Linear(4, 2).eval(), [torch.zeros(1, 4)])
    >>> file = onnx_of(program, input_names=["input"], output_names=["output"])
    """
    return _cleaned(_converted(program, **names).model_proto, {})


def write_onnx(program: torch.export.ExportedProgram, path: Path, *, symbols: Symbols, **names: Any) -> None:
    """``program`` as the ONNX file ``path``, with its weights in ``<path>.data`` where one file does not hold them.

    ``symbols`` name free dimensions by (input, axis). Raises as :func:`onnx_of` does, and StorageError.
    """
    onnx = _converted(program, **names)
    stored_bytes = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if stored_bytes <= PROTOBUF_BYTES_MAX:
        store.write_atomic(path, _cleaned(onnx.model_proto, symbols))
        return
    import onnx as onnx_package
    import onnx_ir

    with store.explained(path, "write"):
        onnx_ir.save(onnx.model, path, external_data=f"{path.name}.data")
    store.write_atomic(path, _cleaned(onnx_package.load(path, load_external_data=False), symbols))


def onnx_of_script(
    net: Any, examples: Sequence[Tensor], input_names: list[str], free: Mapping[str, Mapping[int, str]]
) -> bytes:
    """A TorchScript module as an ONNX file, by torch's older exporter: torch.export takes none. Raises what that raises."""
    import onnx as onnx_package

    axes = {name: dict(symbols) for name, symbols in free.items()}
    with tempfile.TemporaryDirectory(prefix="kit-") as folder, quiet(), torch.no_grad():
        file = Path(folder) / "script.onnx"
        torch.onnx.export(
            net, tuple(examples), file, opset_version=OPSET, dynamo=False, input_names=input_names, dynamic_axes=axes
        )
        return _cleaned(onnx_package.load(file), {})


def _converted(program: torch.export.ExportedProgram, **names: Any) -> Any:
    with quiet(), torch.no_grad():
        onnx = torch.onnx.export(program, opset_version=OPSET, dynamo=True, verbose=False, **names)
    if onnx is None:
        raise IntegrityError("torch exported nothing: try another torch version.")
    return onnx


def _cleaned(model: Any, symbols: Symbols) -> bytes:
    """Without what names this machine; free dimensions under their own names."""
    graph = model.graph
    # Every tool infers the shapes again; kept, those of a weight turn stale when a tool transposes it, and it then refuses.
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
    named = {}
    for (index, axis), symbol in symbols.items():
        if index < len(graph.input):
            named[graph.input[index].type.tensor_type.shape.dim[axis].dim_param] = symbol
    named.pop("", None)
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:  # of an output also a formula: "2*s23 + 1"
                dim.dim_param = re.sub(r"\w+", lambda word: named.get(word[0], word[0]), dim.dim_param)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def archive_of(program: torch.export.ExportedProgram) -> bytes:
    """``program`` as a .pt2 archive, for the pytorch backend."""
    archive = io.BytesIO()
    torch.export.save(program, archive)
    return archive.getvalue()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings, no log and no progress of torch on the screen."""
    disabled = logging.root.manager.disable
    logging.disable()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
