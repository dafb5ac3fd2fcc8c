"""From an image to a network's input: what a sidecar or a person says of it, and the doing, as torchvision does it on Pillow images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kit.errors import UsageError
from kit.evaluation.pictures import MODES
from kit.records import Preprocessing, TensorSpec

if TYPE_CHECKING:
    from PIL.Image import Image

Layout = Literal["NCHW", "NHWC"]
WHITE = 255  # of a pixel


@dataclass(frozen=True)
class Wishes:
    """What a person says of the preprocessing; None leaves it to the sidecar. A single ``mean`` or ``std`` is that of every channel."""

    resize_px: int | None = None
    crop_px: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    scale: float | None = None
    layout: Layout | None = None

    @property
    def given(self) -> bool:
        """Whether anything is said."""
        return any(getattr(self, f.name) is not None for f in fields(self))


@dataclass(frozen=True)
class Frame:
    """The image that a network takes: its channels, size in pixels, and where the channels stand."""

    channels: int
    height: int
    width: int
    layout: Layout

    @property
    def side(self) -> int:
        """The shorter side."""
        return min(self.height, self.width)


def frame_of(spec: TensorSpec, layout: Layout | None, subject: str) -> Frame:
    """The image that fits the input ``spec``. Raises UsageError where it takes none, or where its channels could stand in two places."""
    shape = spec.shape
    places: dict[Layout, int] = {"NCHW": 1, "NHWC": 3}
    if len(shape) != 4:
        raise UsageError(
            f"{subject} takes {list(shape)}, which is no image: give your data by a function, --data FILE.py:FUNCTION."
        )
    fitting = [name for name, place in places.items() if shape[place] in MODES and layout in (None, name)]
    if not fitting:
        raise UsageError(
            f"{subject} takes {list(shape)}, which is no image of 1 or 3 channels{f' as {layout}' if layout else ''}: give your data by a "
            "function, --data FILE.py:FUNCTION."
        )
    if fitting[0] == "NHWC":
        return Frame(shape[3], shape[1], shape[2], "NHWC")
    return Frame(shape[1], shape[2], shape[3], "NCHW")


def decide(
    spec: TensorSpec, recorded: Preprocessing | None, wishes: Wishes, classes: int, subject: str
) -> tuple[Preprocessing, Frame]:
    """The preprocessing of a network by what is said of it, else by its sidecar, else by its input.

    Raises UsageError with the flags that are missing, or that contradict the input.
    """
    frame = frame_of(spec, wishes.layout or (recorded.layout if recorded else None), subject)
    values = _values(spec, recorded, wishes, frame, subject)
    resize_px = wishes.resize_px or (recorded.resize_px if recorded else frame.side)
    crop_px = wishes.crop_px or (recorded.crop_px if recorded else None)
    if crop_px is not None and (crop_px, crop_px) != (frame.height, frame.width):
        raise UsageError(f"--crop {crop_px} is not what {subject} takes, {frame.height} x {frame.width} pixels.")
    if resize_px < frame.side:
        raise UsageError(
            f"--resize {resize_px} is below the {frame.side} pixels that {subject} takes: give that, or more to cut out the centre."
        )
    decided = Preprocessing(resize_px=resize_px, crop_px=crop_px, layout=frame.layout, classes=classes, **values)
    return decided, frame


def _values(
    spec: TensorSpec, recorded: Preprocessing | None, wishes: Wishes, frame: Frame, subject: str
) -> dict[str, Any]:
    """Scale, mean and std: raw pixels for uint8, else as said or recorded."""
    if spec.dtype == "uint8":
        if (wishes.mean, wishes.std, wishes.scale) != (None, None, None):
            raise UsageError(f"{subject} takes raw pixels (uint8): leave out --mean, --std and --scale.")
        return {"scale": float(WHITE), "mean": (0.0,) * frame.channels, "std": (1.0,) * frame.channels}
    mean = wishes.mean if wishes.mean is not None or recorded is None else recorded.mean
    std = wishes.std if wishes.std is not None or recorded is None else recorded.std
    if mean is None or std is None:
        missing = " and ".join(flag for flag, value in (("--mean", mean), ("--std", std)) if value is None)
        raise UsageError(
            f"Nothing says how {subject} was trained to see images: add {missing} (of images from 0 to 1, such as --mean "
            "0.485,0.456,0.406 --std 0.229,0.224,0.225, or --mean 0 --std 1; with --scale 255 of pixels as they are)."
        )
    scale = wishes.scale if wishes.scale is not None else recorded.scale if recorded else 1.0
    if not (math.isfinite(scale) and scale > 0):
        raise UsageError(f"--scale {scale:g} cannot be: give a number above 0, such as 255.")
    return {
        "scale": scale,
        "mean": _by_channel("--mean", mean, frame.channels, subject),
        "std": _by_channel("--std", std, frame.channels, subject, positive=True),
    }


def _by_channel(
    flag: str, values: Sequence[float], channels: int, subject: str, *, positive: bool = False
) -> tuple[float, ...]:
    texts = ",".join(f"{value:g}" for value in values)
    if not all(math.isfinite(v) and (v > 0 or not positive) for v in values):
        raise UsageError(f"{flag} {texts} cannot be: give numbers{' above 0' if positive else ''}, one a channel.")
    if len(values) not in (1, channels):
        raise UsageError(
            f"{flag} {texts} is for {len(values)} channels and {subject} has {channels}: give one number a channel, or one for all."
        )
    return tuple(map(float, values)) * (channels if len(values) == 1 else 1)


def size_of(width: int, height: int, frame: Frame, resize_px: int) -> tuple[int, int]:
    """(width, height) of a resized image: the shorter side ``resize_px`` of a square frame, and any frame covered.

    >>> size_of(640, 480, Frame(3, 224, 224, "NCHW"), 256)
    (341, 256)
    """
    if frame.width == frame.height:
        if width <= height:
            return resize_px, int(resize_px * height / width)
        return int(resize_px * width / height), resize_px
    factor = max(frame.width / width, frame.height / height) * resize_px / frame.side
    return max(frame.width, round(width * factor)), max(frame.height, round(height * factor))


def array_of(image: Image, how: Preprocessing, frame: Frame, dtype: str) -> NDArray[Any]:
    """The input for one image, without the batch: ``(C, H, W)`` or ``(H, W, C)`` of the network's ``dtype``."""
    from PIL import Image as Pillow

    wide, high = size_of(image.width, image.height, frame, how.resize_px)
    if (wide, high) != image.size:
        image = image.resize((wide, high), Pillow.Resampling.BILINEAR)
    left, top = round((wide - frame.width) / 2), round((high - frame.height) / 2)
    if (wide, high) != (frame.width, frame.height):
        image = image.crop((left, top, left + frame.width, top + frame.height))
    pixels = np.asarray(image).reshape(frame.height, frame.width, frame.channels)
    target = np.dtype(dtype)
    values = pixels if target == np.uint8 else _normalized(pixels, how, target)
    return np.ascontiguousarray(values if frame.layout == "NHWC" else values.transpose(2, 0, 1))


def _normalized(pixels: NDArray[np.uint8], how: Preprocessing, target: np.dtype[Any]) -> NDArray[Any]:
    values: NDArray[Any] = pixels.astype(np.float32)
    if how.scale != WHITE:
        values = values / np.float32(WHITE) * np.float32(how.scale)
    values = (values - np.asarray(how.mean, np.float32)) / np.asarray(how.std, np.float32)
    if np.issubdtype(target, np.integer):
        bounds = np.iinfo(target)
        values = np.clip(np.rint(values), bounds.min, bounds.max)
    return values.astype(target)
