"""Ten classes of colour images that are stripes of ten frequencies: a data set that is made in no time."""

from __future__ import annotations

import numpy as np
import torch

from kit.records import Preprocessing
from kit.variants import datasets


def images(count: int, seed: int) -> datasets.Split:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    waves = np.sin(np.arange(32)[None, :] * (labels[:, None] + 1) * 0.15)
    pixels = waves[:, None, None, :] + 0.7 * rng.normal(size=(count, 3, 32, 32))
    return datasets.Split(torch.tensor(pixels, dtype=torch.float32), torch.tensor(labels))


DATA = datasets.Dataset(
    "stripes", tuple("0123456789"), images(320, 0), images(16, 1), images(120, 2), images(60, 3),
    Preprocessing(resize_px=32, mean=(0.0,) * 3, std=(1.0,) * 3, classes=10),
)  # fmt: skip
