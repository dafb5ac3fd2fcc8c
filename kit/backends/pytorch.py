"""PyTorch, eager kernels in inference mode, on the CPU.

It runs the ``torch.export`` program (.pt2) that the workshop wrote beside the ONNX file: every operator of it is one eager
call. There is none for int8 variants: they are ONNX graphs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from kit.backends import Feeds, Probe
from kit.errors import BadModel, UsageError
from kit.records import Artifact, TensorSpec


def probe() -> Probe:
    return Probe(torch.__version__)


class TorchSession:
    def __init__(self, program: Path, artifact: Artifact, threads: int) -> None:
        torch.set_num_threads(threads)
        try:
            self._module = torch.export.load(program).module()
        except Exception as error:
            raise BadModel(f"PyTorch {torch.__version__} cannot load {program}: {str(error).splitlines()[0]}") from None
        self.inputs: tuple[TensorSpec, ...] = artifact.inputs
        self.outputs: tuple[TensorSpec, ...] = artifact.outputs
        self._names = [spec.name for spec in artifact.inputs]

    def run(self, feeds: Feeds) -> list[NDArray[Any]]:
        with torch.inference_mode():
            result = self._module(*[torch.from_numpy(feeds[name]) for name in self._names])
        return [t.numpy() for t in (result if isinstance(result, (tuple, list)) else (result,))]

    def close(self) -> None:
        del self._module


def open(path: Path, artifact: Artifact | None, threads: int) -> TorchSession:  # noqa: A001
    if artifact is None or artifact.torch_program is None:
        raise UsageError(
            f"{path} has no PyTorch program (.pt2) beside it, which the pytorch backend runs: profile it with onnxruntime."
        )
    return TorchSession(path.parent / artifact.torch_program.file, artifact, threads)
