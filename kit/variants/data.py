"""Real images that ship with a dependency: scikit-learn's digits (1,797 handwritten digits, 8x8; UCI, CC BY 4.0).

Upsampled to 32x32 (bilinear), one channel. The split is fixed and stratified, independent of any training seed, so that
accuracies of different builds are about the same held-out images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

from kit.records import Preprocessing

NAME = "scikit-learn digits, held-out quarter (fixed split)"
RESOLUTION_PX = 32
CLASSES = 10
_SPLIT_SEED = 20201


@dataclass(frozen=True)
class Split:
    """Images ``(N, 1, 32, 32)`` float32, normalized by :func:`preprocessing`; labels ``(N,)`` int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Split:
        """The first ``count`` samples."""
        return Split(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class Digits:
    """``train`` fits weights and calibrates, ``validation`` decides between candidates, ``test`` is only ever scored."""

    train: Split
    validation: Split
    test: Split


@cache
def digits() -> Digits:
    """The three parts: 1,197 images to train, 150 to decide, 450 held out."""
    images, labels = load_digits(return_X_y=True)
    indices = np.arange(len(labels))
    rest, test = train_test_split(indices, test_size=450, stratify=labels, random_state=_SPLIT_SEED)
    train, validation = train_test_split(rest, test_size=150, stratify=labels[rest], random_state=_SPLIT_SEED)
    pixels = torch.from_numpy(images.astype(np.float32) / 16).reshape(-1, 1, 8, 8)
    large = F.interpolate(pixels, size=RESOLUTION_PX, mode="bilinear", align_corners=False)
    record = preprocessing()
    ready = (large - record.mean[0]) / record.std[0]
    targets = torch.from_numpy(labels.astype(np.int64))
    return Digits(*(Split(ready[part], targets[part]) for part in (train, validation, test)))


def preprocessing() -> Preprocessing:
    """From an image in [0, 1] to the network's input; mean and deviation of the upsampled training images, rounded."""
    return Preprocessing(resize_px=RESOLUTION_PX, mean=(0.305,), std=(0.324,), classes=CLASSES)


def shifted(images: Tensor, by_px: int, generator: torch.Generator) -> Tensor:
    """Each image of ``(N, C, H, W)`` moved by up to ``by_px`` pixels in each direction; the border is repeated."""
    count, _, height, width = images.shape
    padded = F.pad(images, (by_px,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * by_px + 1, (2, count), generator=generator)
    rows = (down[:, None] + torch.arange(height))[:, None, :, None]
    columns = (right[:, None] + torch.arange(width))[:, None, None, :]
    which = torch.arange(count)[:, None, None, None]
    channel = torch.arange(images.shape[1])[None, :, None, None]
    return padded[which, channel, rows, columns]
