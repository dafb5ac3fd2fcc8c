"""What lies in a folder of variants: the ONNX file, the torch.export archive, the sample; whether a file answers like its network.

The batch is fixed (1 by default): a latency belongs to one shape.
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

from kit import store
from kit.errors import IntegrityError
from kit.nets.export import archive_of, onnx_of, program_of
from kit.records import FileRef
from kit.versions import installed

LICENCE = "Apache-2.0"
ROUNDING = 1e-3  # of 1 + the largest output, of fp32 weights
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


def assert_same(error: float | None, outputs: NDArray[Any], what: str, share: float = ROUNDING, hint: str = "") -> None:
    """A float file must have torch's outputs, up to ``share`` of 1 + the largest of them. Raises IntegrityError."""
    tolerance = share * (1 + float(np.abs(outputs).max(initial=0.0)))
    if error is None or not error <= tolerance:
        raise IntegrityError(
            f"The exported {what} differs from the torch network by {error} (at most {tolerance:.2g} is rounding): "
            f"do not use it; try another torch or onnxruntime version.{hint}"
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
