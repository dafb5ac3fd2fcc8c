"""Outputs of the shipped file: ONNX Runtime on held-out images, one at a time, as on a device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from torch import Tensor

from kit.backends import reasons
from kit.errors import BadModel
from kit.evaluation import metrics
from kit.records import Accuracy, NumericCheck
from kit.variants.datasets import Split

Logits = NDArray[np.float32]
_READ = 256  # images at a time


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """A session of one thread on the CPU. Raises BadModel when the runtime refuses the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BadModel(f"onnxruntime cannot open {path.name}: {reasons.cause(str(error))}") from None


def logits(path: Path, images: Tensor | Split) -> Logits:
    """The file's first output for each of ``images`` ``(N, C, H, W)``, stacked to ``(N, classes)``.

    N is a multiple of the file's batch; a file with a free batch is run on one image at a time.
    """
    session = open_session(path)
    node = session.get_inputs()[0]
    step = node.shape[0] if isinstance(node.shape[0], int) else 1
    parts = (
        [images] if isinstance(images, Tensor) else (part for part, _ in images.batches(max(1, _READ // step) * step))
    )
    inputs = (part[i : i + step].numpy() for part in parts for i in range(0, len(part), step))
    return np.concatenate([session.run(None, {node.name: array})[0] for array in inputs])


def accuracy(outputs: Logits, split: Split, dataset: str) -> Accuracy:
    """The share of the labels that the logits hit."""
    correct = int(metrics.hits(outputs, split.labels.numpy()).sum())
    return Accuracy(top1=correct / len(split), count=len(split), dataset=dataset, correct=correct)


def compare(outputs: Logits, expected: Logits) -> NumericCheck:
    """The file's logits ``(N, classes)`` against the torch network's."""
    return NumericCheck(
        max_abs_error=float(np.abs(outputs - expected).max()),
        top1_agreement=float(np.mean(outputs.argmax(1) == expected.argmax(1))),
        count=len(expected),
    )
