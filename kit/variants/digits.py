"""The embedded images: the middle digit among clutter, made from scikit-learn's digits (1,797 handwritten digits, 8x8; UCI, CC BY 4.0).

A scene is 32x32 pixels, one channel. Its label is the digit in the middle, enlarged, turned, sheared and moved at random; four other
digits, smaller and turned more, reach in from the edges in the same ink, and there is noise. Plain digits are too easy for the trade-off
that kit is about (a cut and pruned network recognises them as well as the whole one): clutter takes a network that sees much of the scene
at once and can tell the middle from the rest.

===========  =========  ======  =====================================================
part         originals  scenes  what for
===========  =========  ======  =====================================================
train        1,197      6,000   weights
calibration  the same   128     ranges of integers
validation   150        500     decide between candidates
test         450        2,000   only ever scored
===========  =========  ======  =====================================================

The originals are split first (stratified) and each part's scenes hold digits of that part only: no network has seen a test digit, neither
as a label nor as clutter. Split and scenes have a fixed seed of their own, independent of any training seed, so that accuracies of
different builds are about the same held-out scenes. Several scenes share an original: an interval over scenes says nothing about other
writers.
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
from kit.variants.datasets import Dataset, Split

NAME = "scikit-learn digits among clutter, test scenes of seed 20201"
RESOLUTION_PX = 32
CLASSES = 10
_SEED = 20201

# Chosen so that the whole ResNet-18 is near 94 % after one epoch and its smallest variant some 20 points below (bench/digits.json). Pairs
# are ranges; lengths are pixels of the scene.
_SIDE_PX = (16.0, 22.0)  # of the 8x8 digit in the middle
_TURN_DEG = (-15.0, 15.0)
_SHEAR = (-0.15, 0.15)
_MOVE_PX = (-2.0, 2.0)
_INK = (0.6, 1.0)  # brightness of a digit, in the middle or not
_CLUTTER = 4  # digits around the middle, evenly over the circle but for _ANGLE_DEG
_CLUTTER_SIDE_PX = (12.0, 18.0)
_CLUTTER_TURN_DEG = (-30.0, 30.0)
_CLUTTER_FROM_MIDDLE_PX = (15.0, 18.0)
_ANGLE_DEG = (-17.0, 17.0)
_NOISE = 0.05  # standard deviation, of a range of 1


@cache
def dataset() -> Dataset:
    """The scenes: 6,000 to train, 128 to calibrate, 500 to decide, 2,000 held out. About a second the first time."""
    images, labels = load_digits(return_X_y=True)
    indices = np.arange(len(labels))
    rest, test = train_test_split(indices, test_size=450, stratify=labels, random_state=_SEED)
    train, validation = train_test_split(rest, test_size=150, stratify=labels[rest], random_state=_SEED)
    pixels = torch.from_numpy(images.astype(np.float32) / 16).reshape(-1, 1, 8, 8)
    originals = Split(pixels, torch.from_numpy(labels.astype(np.int64)))
    counts = ((train, 6000), (validation, 500), (test, 2000), (train, 128))
    streams = np.random.SeedSequence(_SEED).spawn(len(counts))
    parts = [
        _normalized(scenes(Split(originals.pixels[part], originals.labels[part]), count, np.random.default_rng(s)))
        for (part, count), s in zip(counts, streams, strict=True)
    ]
    return Dataset(
        name=NAME,
        classes=tuple(map(str, range(CLASSES))),
        train=parts[0],
        calibration=parts[3],
        validation=parts[1],
        test=parts[2],
        preprocessing=preprocessing(),
    )


def scenes(originals: Split, count: int, rng: np.random.Generator) -> Split:
    """``count`` scenes of ``originals`` ``(N, 1, 8, 8)`` with values in [0, 1]; each original is in the middle about equally often."""
    middle = rng.permutation(np.arange(count) % len(originals))
    draw = _Draws(rng, count)
    canvas = _placed(
        originals.images[middle],
        side_px=draw(_SIDE_PX),
        turn_deg=draw(_TURN_DEG),
        shear=draw(_SHEAR),
        right_px=draw(_MOVE_PX),
        down_px=draw(_MOVE_PX),
    ) * draw(_INK).reshape(-1, 1, 1, 1)
    start_deg = draw((0.0, 360.0))
    for place in range(_CLUTTER):
        angle = torch.deg2rad(start_deg + 360 * place / _CLUTTER + draw(_ANGLE_DEG))
        distance_px = draw(_CLUTTER_FROM_MIDDLE_PX)
        other = _placed(
            originals.images[rng.integers(len(originals), size=count)],
            side_px=draw(_CLUTTER_SIDE_PX),
            turn_deg=draw(_CLUTTER_TURN_DEG),
            shear=draw(_SHEAR),
            right_px=distance_px * angle.cos(),
            down_px=distance_px * angle.sin(),
        )
        # The brighter stroke wins, as where two pens cross: a sum would mark the crossings.
        canvas = torch.maximum(canvas, other * draw(_INK).reshape(-1, 1, 1, 1))
    noise = torch.from_numpy(rng.standard_normal(canvas.shape, dtype=np.float32))
    return Split((canvas + _NOISE * noise).clamp(0, 1), originals.labels[middle])


@dataclass(frozen=True)
class _Draws:
    """One uniform number for each of ``count`` scenes; from NumPy, so that another torch makes the same scenes."""

    rng: np.random.Generator
    count: int

    def __call__(self, bounds: tuple[float, float]) -> Tensor:
        return torch.from_numpy(self.rng.uniform(*bounds, self.count).astype(np.float32))


def _placed(
    images: Tensor, *, side_px: Tensor, turn_deg: Tensor, shear: Tensor, right_px: Tensor, down_px: Tensor
) -> Tensor:
    """Each of ``images`` ``(N, 1, 8, 8)`` in an empty scene, bilinear, its centre off the middle by ``right_px`` and ``down_px``."""
    turn, zoom = torch.deg2rad(turn_deg), RESOLUTION_PX / side_px
    # grid_sample wants the way back: from a place in the scene to one in the digit, both from -1 to 1.
    row = torch.stack([turn.cos(), turn.sin()], -1)
    column = torch.stack([shear * turn.cos() - turn.sin(), turn.cos() + shear * turn.sin()], -1)
    turned = torch.stack([row, column], -2) * zoom[:, None, None]
    centre = torch.stack([right_px, down_px], -1)[..., None] * (2 / RESOLUTION_PX)
    grid = F.affine_grid(
        torch.cat([turned, -turned @ centre], -1), [len(images), 1, RESOLUTION_PX, RESOLUTION_PX], align_corners=False
    )
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _normalized(split: Split) -> Split:
    record = preprocessing()
    return Split((split.images - record.mean[0]) / record.std[0], split.labels)


def preprocessing() -> Preprocessing:
    """From an image in [0, 1] to the network's input; mean and deviation of the training scenes, rounded."""
    return Preprocessing(resize_px=RESOLUTION_PX, mean=(0.218,), std=(0.251,), classes=CLASSES)
