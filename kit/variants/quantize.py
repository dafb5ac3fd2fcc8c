"""int8 by onnxruntime: static QDQ, and dynamic where measuring prefers it.

Activations are unsigned and weights signed per channel ("U8S8"): on x86 with VNNI the runtime's signed form is slower than
fp32. Dynamic quantization computes each activation's range at run time; convolutions become slower by it, so it is a
candidate only for the transformer's matrix products.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from kit.measure import stopwatch
from kit.variants import evaluate
from kit.variants.datasets import Split

STATIC = "static-qdq-u8s8"
DYNAMIC = "dynamic-u8s8"


@dataclass(frozen=True)
class Quantized:
    """One way to make the network int8: its name, the file's bytes, and a text on how it was chosen."""

    how: str
    model: bytes
    steps: tuple[str, ...]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Tensor, name: str) -> None:
        self._feeds = iter({name: images[i : i + 1].numpy()} for i in range(len(images)))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._feeds, None)


def static(source: Path, images: Tensor) -> bytes:
    """The float ONNX file ``source`` as static QDQ int8, ranges calibrated on ``images`` ``(N, C, H, W)``."""
    with scratch() as folder:
        prepared, target = folder / "prepared.onnx", folder / "int8.onnx"
        # Shapes are fixed, so the plain inference of ONNX is enough; the symbolic one fails on transformers.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Reader(images, "input"),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        return target.read_bytes()


def dynamic(source: Path) -> bytes:
    """The float ONNX file ``source`` with int8 weights and ranges of the activations computed at run time."""
    with scratch() as folder:
        target = folder / "int8.onnx"
        quantize_dynamic(
            onnx.load(str(source)),
            str(target),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        return target.read_bytes()


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder; inside, onnxruntime's advice to the console is suppressed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory(prefix="kit-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield Path(folder)
    finally:
        logging.disable(before)


def best(source: Path, calibration: Split, validation: Split, *, try_dynamic: bool) -> Quantized:
    """``source`` in int8, ranges from ``calibration``. With ``try_dynamic`` the static and the dynamic form are both built and both timed:
    the faster one is returned, unless its accuracy is more than a point worse on ``validation`` than the other.
    """
    step = f"quantized to int8 (static QDQ, U8S8, per channel, calibrated on {len(calibration)} images)"
    static_form = Quantized(STATIC, static(source, calibration.images), (step,))
    if not try_dynamic:
        return static_form
    dynamic_form = Quantized(
        DYNAMIC, dynamic(source), ("quantized to int8 (dynamic, U8S8, per channel, matrix products only)",)
    )
    return _choose([static_form, dynamic_form], validation)


def _choose(candidates: list[Quantized], validation: Split) -> Quantized:
    with scratch() as folder:
        paths = [folder / f"{c.how}.onnx" for c in candidates]
        for path, candidate in zip(paths, candidates, strict=True):
            path.write_bytes(candidate.model)
        seconds = medians_in_turns(paths, validation.take(slice(1)))
        shares = [evaluate.accuracy(evaluate.logits(p, validation), validation, "").top1 for p in paths]
    fit = [i for i, share in enumerate(shares) if share >= max(shares) - 0.01]
    fastest = min(fit, key=lambda i: seconds[i])
    comparison = "; ".join(
        f"{c.how} {s * 1e6:.1f} us, validation accuracy {share:.4f}"
        for c, s, share in zip(candidates, seconds, shares, strict=True)
    )
    winner = candidates[fastest]
    return Quantized(winner.how, winner.model, (*winner.steps, f"chose {winner.how} by measuring here: {comparison}"))


def medians_in_turns(paths: list[Path], image: Tensor, *, rounds: int = 5) -> list[float]:
    """Median seconds of one inference of each file, one thread, by kit's stopwatch; the files take turns so that a busy moment
    hits all alike."""
    sessions = [evaluate.open_session(path) for path in paths]
    calls = [partial(s.run, None, {s.get_inputs()[0].name: image.numpy()}) for s in sessions]
    values: list[list[tuple[float, ...]]] = [[] for _ in paths]
    for _ in range(rounds):
        for medians_ns, call in zip(values, calls, strict=True):
            medians_ns.append(stopwatch.measure(call, collect_s=0.05, warmup_max_s=0.1).values_ns)
    return [median(median(call_ns) for call_ns in medians_ns) * 1e-9 for medians_ns in values]
