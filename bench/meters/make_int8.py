"""Make the int8 file of the comparison: static QDQ, unsigned activations, signed weights per channel ("U8S8").

    python bench/meters/make_int8.py FP32.onnx INT8.onnx

The ranges are calibrated on four normal random inputs: the file serves to be timed, not to classify.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

CALIBRATION_INPUTS = 4


class Noise(CalibrationDataReader):  # type: ignore[misc]
    """Standard normal inputs, the same ones each time."""

    def __init__(self, node: Any) -> None:
        rng = np.random.default_rng(0)
        draws = [rng.standard_normal(node.shape).astype(np.float32) for _ in range(CALIBRATION_INPUTS)]
        self._feeds = iter({node.name: draw} for draw in draws)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._feeds, None)


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    (node,) = ort.InferenceSession(str(source), providers=["CPUExecutionProvider"]).get_inputs()
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        prepared, made = Path(scratch, "prepared.onnx"), Path(scratch, "int8.onnx")
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(made),
            Noise(node),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        made.replace(target)


if __name__ == "__main__":
    main()
