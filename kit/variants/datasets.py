"""What networks are trained and scored on: the embedded digits, folders or a zip of images, CIFAR by torchvision, a person's own function.

Each is four parts that share no image: *train* fits weights, *calibration* sets the ranges of integers, *validation* makes every choice,
and *test* is scored once, at the end. A test part that is there (``test/`` or ``val/`` beside ``train/``) stays as it is; what is cut off
is cut by class with a fixed seed, so that every build and every training seed has the same images in the same part.

Images are decoded once into one file of pixels in the build's folder, at the size that the network takes, and read from there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor

from kit import store, units, usercode
from kit.errors import UnknownName, UsageError, first_line
from kit.evaluation import pictures, preprocess
from kit.evaluation.pictures import Pictures
from kit.records import Preprocessing

Progress = Callable[[str, float], None]
DIGITS = "digits"
TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}
SEED = 20201  # of what is cut off: never that of a training
VALIDATION_SHARE, VALIDATION_MAX = 0.1, 5000
CALIBRATION_SHARE, CALIBRATION_MAX = 0.05, 512
TEST_SHARE = 0.2  # where the data come without a test part
SMALL_PX, USUAL_PX = 64, 224
BYTES_MAX = 64 << 30
CLASSES_MAX = 1_000_000
USUAL_CACHE = Path("data")
_PER_CLASS_MIN = 8
_MOMENTS = 5000  # images from which mean and deviation are taken


@dataclass(frozen=True)
class Split:
    """Images ``(N, C, H, W)`` and their labels ``(N,)`` int64.

    ``pixels`` are float32 as the network takes them, or uint8; these become ``(x / 255 - mean) / std`` per channel when they are taken.
    ``rows`` are those of ``pixels`` that belong to this part (None: all): what lies in a file is read when it is taken.
    """

    pixels: Tensor
    labels: Tensor
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """All of them, as the network takes them."""
        return self.take(slice(None))

    def take(self, which: slice | Tensor) -> Tensor:
        """Some of them, as the network takes them."""
        chosen = self.pixels[which if self.rows is None else self.rows[which]]
        if chosen.dtype != torch.uint8:
            return chosen
        mean, std = (torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1) for values in (self.mean, self.std))
        return (chosen.float() / 255 - mean) / std

    def first(self, count: int) -> Split:
        """The first ``count``."""
        rows = torch.arange(len(self))[:count] if self.rows is None else self.rows[:count]
        return replace(self, labels=self.labels[:count], rows=rows)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) in order, ``size`` at a time; the last is what remains."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self.take(part), self.labels[part]


@dataclass(frozen=True)
class Dataset:
    """Four parts that share no image, the names of the classes, and how an image becomes an input."""

    name: str
    classes: tuple[str, ...]
    train: Split
    calibration: Split
    validation: Split
    test: Split
    preprocessing: Preprocessing
    flips: bool = False  # an image and its mirror image are of one class

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return int(self.train.pixels.shape[1])

    @property
    def resolution_px(self) -> int:
        """Height and width."""
        return int(self.train.pixels.shape[-1])


@dataclass(frozen=True)
class Request:
    """Which data, at which size (None: their own where they are small, else 224), where pixels and downloads are kept."""

    data: str = DIGITS
    resolution_px: int | None = None
    channels: int | None = None  # None: 1 where all images are grey, else 3
    cache: Path | None = None  # None: of a build, its folder
    download: bool = False
    flips: bool | None = None  # None: of colour images


def load(request: Request, progress: Progress | None = None) -> Dataset:
    """The data that ``request.data`` names: ``digits``, ``cifar10``, ``cifar100``, a folder, a zip, or ``module:function``.

    A folder or zip holds class folders, or ``train/`` and ``test/`` (or ``val/``) with class folders. A function yields pairs of an image
    (uint8, ``(H, W)`` or ``(H, W, C)``) and a label; one that takes an argument is called with "train" and with "test".

    Raises UsageError (no such data, too few images of a class, sizes that differ), BadRecord (an image that cannot be read).
    """
    step = progress or (lambda text, share: None)
    if request.data == DIGITS:
        from kit.variants import digits

        return digits.dataset()
    if request.data in TORCHVISION:
        return _of_torchvision(request, step)
    if usercode.names_an_object(request.data) and not Path(request.data).exists():
        return _of_function(request)
    if not Path(request.data).exists() and not any(p.is_file() for p in Path(request.data).parents):
        names = [DIGITS, *TORCHVISION, "FOLDER", "FILE.zip", "FILE.py:FUNCTION"]
        raise UnknownName("data set", request.data, names)
    return _of_pictures(request, step)


# ------------------------------------------------------------------------------------------------------ folders and zips


def _of_pictures(request: Request, progress: Progress) -> Dataset:
    path = Path(request.data)
    train, test = _parts(path)
    with pictures.pictures(train) as images:
        channels = request.channels or _channels(images)
        px = request.resolution_px or _usual_px(images)
        pixels = _decoded(images, px, channels, request.cache, progress)
        labels, classes = torch.tensor(images.labels), images.classes
        name = images.name if test is None else images.name.rpartition("/")[0] or images.name
    if test is None:
        return _carved(name, classes, pixels, labels, request)
    with pictures.pictures(test) as images:
        if images.classes != classes:
            strangers = sorted(set(images.classes) ^ set(classes))
            raise UsageError(
                f"{train} and {test} differ in the class folder {strangers[0]!r}: give both the same classes."
            )
        test_pixels = _decoded(images, px, channels, request.cache, progress)
        test_labels = torch.tensor(images.labels)
    return _with_test(name, classes, (pixels, labels), (test_pixels, test_labels), request)


def _parts(path: Path) -> tuple[Path, Path | None]:
    """The folders of the train and the test part; without a test part, the folder itself. Raises UsageError."""
    tops = pictures.folders(path)
    splits = {name.lower(): name for name in tops}
    if not splits or not set(splits) <= pictures.SPLITS:
        return path, None
    train = next((splits[n] for n in pictures.TRAIN_NAMES if n in splits), None)
    test = next((splits[n] for n in pictures.TEST_NAMES if n in splits), None)
    if train is None or test is None:
        raise UsageError(
            f"{path} holds {', '.join(tops)}: kit needs train/ and test/ (or val/), or class folders alone."
        )
    return path / train, path / test


def _channels(images: Pictures) -> int:
    """1 where the first images of all classes are grey, else 3."""
    keys = [key for key, _ in images.spread(32)]
    grey = all(_is_grey(images.decoded(key, 3)) for key in keys)
    return 1 if grey else 3


def _is_grey(image: Any) -> bool:
    red, green, blue = image.split()
    return bool(np.array_equal(red, green) and np.array_equal(green, blue))


def _usual_px(images: Pictures) -> int:
    size = min(images.decoded(images.keys[0], 3).size)
    return size if size <= SMALL_PX else USUAL_PX


def _decoded(images: Pictures, px: int, channels: int, cache: Path | None, progress: Progress) -> Tensor:
    """All images ``(N, C, px, px)`` uint8: the shorter side to ``px``, the centre cut out. Kept as one file in ``cache``."""
    shape = (len(images.keys), channels, px, px)
    size_bytes = int(np.prod(shape, dtype=np.int64))
    if size_bytes > BYTES_MAX:
        raise UsageError(
            f"{images.name} at {px} pixels takes {units.size(size_bytes)} and kit takes up to {units.size(BYTES_MAX)}: give a smaller "
            "--resolution, or fewer images."
        )
    key = store.sha256_bytes(
        store.canonical_json([list(images.keys), list(images.labels), px, channels, images.fingerprint()])
    )[:16]
    cache = cache or USUAL_CACHE
    file = cache / f"{store.slug(images.name.replace('/', '-'))}-{px}-{key}.npy"
    if not file.exists():
        store.make_folder(cache)
        partial = file.with_suffix(".partial")
        frame = preprocess.Frame(channels, px, px, "NCHW")
        how = Preprocessing(
            resize_px=px, scale=255.0, mean=(0.0,) * channels, std=(1.0,) * channels, classes=len(images.classes)
        )
        with store.explained(partial, "write"):
            array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
            for number, image_key in enumerate(images.keys):
                array[number] = preprocess.array_of(images.decoded(image_key, channels), how, frame, "uint8")
                if number % 256 == 0:
                    progress(f"read {images.name}", number / shape[0])
            array.flush()
            partial.replace(file)
    return _mapped(file)


def _mapped(file: Path) -> Tensor:
    with store.explained(file, "read"):
        array = np.load(file, mmap_mode="c")  # copy on write: torch warns of what it could not write to
    return torch.from_numpy(array)


# ----------------------------------------------------------------------------------------------- torchvision, own functions


def _of_torchvision(request: Request, progress: Progress) -> Dataset:
    import torchvision

    make = getattr(torchvision.datasets, TORCHVISION[request.data])
    progress(f"read {request.data}", 0.0)
    try:
        train, test = (
            make(str(request.cache or USUAL_CACHE), train=part, download=request.download) for part in (True, False)
        )
    except Exception as error:  # torchvision's own text, or a link's
        reason = first_line(error)
        raise UsageError(
            f"{request.data} is not in {request.cache or USUAL_CACHE} ({reason}): fetch it with --download, or name its folder "
            "(--data-cache)."
        ) from None
    parts = [(torch.from_numpy(p.data).permute(0, 3, 1, 2), torch.tensor(p.targets)) for p in (train, test)]
    return _with_test(request.data, tuple(train.classes), parts[0], parts[1], request)


def _of_function(request: Request) -> Dataset:
    name = usercode.name_of(request.data)
    function = usercode.load(request.data)
    try:
        takes_part = bool(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        takes_part = False
    if not takes_part:
        pixels, labels = _collected(usercode.call(function, name), name)
        return _carved(name, _numbered(labels), pixels, labels, request)
    train = _collected(usercode.call(function, name, "train"), name)
    test = _collected(usercode.call(function, name, "test"), name)
    if test[0].shape[1:] != train[0].shape[1:]:
        raise UsageError(
            f"{name} gives images of {list(train[0].shape[1:])} to train and {list(test[0].shape[1:])} to test: give one size."
        )
    return _with_test(name, _numbered(torch.cat([train[1], test[1]])), train, test, request)


def _numbered(labels: Tensor) -> tuple[str, ...]:
    return tuple(map(str, range(int(labels.max()) + 1)))


def _collected(items: Any, name: str) -> tuple[Tensor, Tensor]:
    """The images and labels that a function yields. Raises UsageError with the number of the first item that does not fit."""
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for subject, image, label in usercode.pairs(items, name, "(image, label)"):
        pixels = _pixels(image, subject)
        if images and pixels.shape != images[0].shape:
            raise UsageError(f"{subject} is {list(pixels.shape)}, the first {list(images[0].shape)}: give one size.")
        images.append(pixels)
        labels.append(_label(label, subject))
    if not images:
        raise UsageError(f"{name} yields nothing: let it yield pairs (image, label).")
    return torch.from_numpy(np.stack(images)), torch.tensor(labels, dtype=torch.int64)


def _pixels(image: Any, subject: str) -> NDArray[np.uint8]:
    """An image as ``(C, H, W)``."""
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise UsageError(
            f"{subject} is an image of {array.dtype} {list(array.shape)}: give uint8, (H, W) or (H, W, C) with 1 or 3 channels."
        )
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def _label(label: Any, subject: str) -> int:
    try:
        number = -1 if isinstance(label, (bool, str, bytes)) else int(label)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if number != label or not 0 <= number < CLASSES_MAX:
        raise UsageError(f"{subject} has the label {label!r}: give the number of its class, from 0.")
    return number


# ----------------------------------------------------------------------------------------------------------------- parts


def _carved(name: str, classes: Sequence[str], pixels: Tensor, labels: Tensor, request: Request) -> Dataset:
    """Data without a test part: a fifth of each class becomes it."""
    rest, test = _cut(np.arange(len(labels)), labels, round(TEST_SHARE * len(labels)), classes, name)
    return _divided(
        name, classes, Split(pixels, labels), rest, Split(pixels, labels[test], rows=torch.from_numpy(test)), request
    )


def _with_test(
    name: str, classes: Sequence[str], train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], request: Request
) -> Dataset:
    return _divided(name, classes, Split(*train), np.arange(len(train[1])), Split(*test), request)


def _divided(
    name: str, classes: Sequence[str], source: Split, which: NDArray[np.int64], test: Split, request: Request
) -> Dataset:
    """``which`` of ``source`` become training, calibration and validation."""
    channels, height, width = source.pixels.shape[1:]
    if height != width:
        raise UsageError(f"The images of {name} are {height} x {width} pixels: kit trains on square ones.")
    labels, count = source.labels, len(which)
    rest, validation = _cut(which, labels, min(VALIDATION_MAX, round(VALIDATION_SHARE * count)), classes, name)
    fit, calibration = _cut(rest, labels, min(CALIBRATION_MAX, round(CALIBRATION_SHARE * count)), classes, name)
    mean, std = _moments(source.pixels[torch.from_numpy(fit[:: max(1, len(fit) // _MOMENTS)])])
    parts = [
        Split(source.pixels, labels[rows], mean, std, rows)
        for rows in map(torch.from_numpy, (fit, calibration, validation))
    ]
    return Dataset(
        name=name,
        classes=tuple(classes),
        train=parts[0],
        calibration=parts[1],
        validation=parts[2],
        test=replace(test, mean=mean, std=std),
        preprocessing=Preprocessing(resize_px=height, mean=mean, std=std, classes=len(classes)),
        flips=channels == 3 if request.flips is None else request.flips,
    )


def _cut(
    which: NDArray[np.int64], labels: Tensor, count: int, classes: Sequence[str], name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``which`` without ``count`` of them, by class, and those. Raises UsageError where a class has too few images."""
    own = labels.numpy()[which]
    numbers, counts = np.unique(own, return_counts=True)
    if counts.min() < _PER_CLASS_MIN or len(numbers) < 2:
        rare = classes[int(numbers[counts.argmin()])]
        raise UsageError(
            f"{name} has {counts.min()} images of the class {rare!r} to train on: give {_PER_CLASS_MIN} or more of each of 2 or more."
        )
    rest, part = train_test_split(which, test_size=max(count, len(numbers)), stratify=own, random_state=SEED)
    return np.sort(rest), np.sort(part)


def _moments(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    values = pixels.float() / 255
    mean, std = values.mean((0, 2, 3)), values.std((0, 2, 3))
    return tuple(round(m.item(), 3) for m in mean), tuple(round(max(s.item(), 1e-3), 3) for s in std)
