"""Folders and zips of images in class folders (CLASS/NAME.jpg, as torchvision's ImageFolder reads them).

A zip is read in memory, an image at a time: nothing of it is unpacked and no name in it is ever a path here. How many entries it has and
how large an image may be, in bytes and in pixels, is bounded before either is trusted.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kit import store, units, versions
from kit.errors import BadRecord, UsageError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

ENTRIES_MAX = 2_000_000  # of a zip or a folder
IMAGE_BYTES_MAX = 64 * 2**20
PIXELS_MAX = 50_000_000  # of one image, 150 MB once it is decoded
ENDINGS = frozenset(
    {".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"}
)  # as torchvision has them
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation")  # the first that is there is scored
SPLITS = frozenset({*TRAIN_NAMES, *TEST_NAMES})
MODES = {1: "L", 3: "RGB"}  # channels -> what Pillow calls such an image


@dataclass(frozen=True)
class Pictures:
    """Encoded images and the class of each. ``read(key)`` gives the bytes of the file that ``keys`` names."""

    name: str  # for people and records, without the machine's path: "cifar10/test"
    classes: tuple[str, ...]  # of the folders, sorted
    keys: tuple[str, ...]
    labels: tuple[int, ...]  # of each key, into classes
    read: Callable[[str], bytes]
    fingerprint: Callable[[], str]  # changes when a file does

    def spread(self, limit: int | None) -> Iterator[tuple[str, int]]:
        """(key, label) of ``limit`` images, evenly over all of them and so over the classes: the same for every network."""
        total = len(self.keys)
        count = total if limit is None else min(limit, total)
        for i in range(count):
            yield self.keys[i * total // count], self.labels[i * total // count]

    def decoded(self, key: str, channels: int) -> Image:
        """The image ``key`` in grey (1 channel) or colour (3). Raises BadRecord: it is none, or too large, or of 16 bits."""
        subject = f"The image {key!r} of {self.name}"
        try:
            image = _opened(self.read(key), subject)
            image.load()
        except BadRecord:
            raise
        except Exception as error:  # what a broken image can raise has no list
            reason = first_line(error)[:120].rstrip(".")
            raise BadRecord(f"{subject} cannot be read ({reason}): replace it or take it out.") from None
        return image.convert(MODES[channels])


def _opened(data: bytes, subject: str) -> Image:
    from PIL import Image

    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > PIXELS_MAX:
        raise BadRecord(
            f"{subject} has {image.width} x {image.height} pixels, and kit reads up to {PIXELS_MAX // 10**6} million: make it smaller."
        )
    if image.mode.startswith(("I", "F")):
        raise BadRecord(f"{subject} has more than 8 bits a channel: convert it to 8 bits.")
    return image


@contextmanager
def pictures(data: Path) -> Iterator[Pictures]:
    """The images of a folder, a zip, or a folder inside a zip (``images.zip/test``). Pillow reads them.

    Raises UsageError (no such folder, no class folders in it, only splits such as train/ and test/), BadRecord (a zip that is broken or
    has too many entries), BackendUnavailable (no Pillow).
    """
    versions.need("Reading images needs", "PIL")
    if data.is_dir():
        keys = _files_of(data)
        stamps = partial(_stamps, data, keys)
        yield _sorted_into_classes(_name(data.resolve().parts), data, keys, lambda key: _read_file(data / key), stamps)
        return
    with _zip_below(data) as (archive, file, entries):
        name = _name((*archive.with_suffix("").parts[-1:], *data.parts[len(archive.parts) :]))
        keys = sorted(entries)
        sums = [file.getinfo(entries[key]).CRC for key in keys]
        yield _sorted_into_classes(
            name,
            data,
            keys,
            lambda key: _read_entry(file, entries[key], f"{archive}: {key!r}"),
            lambda: store.sha256_bytes(store.canonical_json(sums)),
        )


def folders(data: Path) -> tuple[str, ...]:
    """The names of the folders at the top of a folder, a zip, or a folder inside a zip, that images lie below; sorted.

    Raises UsageError (no such folder), BadRecord (a broken zip).
    """
    if data.is_dir():
        keys: Iterable[str] = _files_of(data)
    else:
        with _zip_below(data) as (_, _, entries):
            keys = entries
    return tuple(sorted({key.partition("/")[0] for key in keys if "/" in key}))


def _name(parts: Sequence[str]) -> str:
    """The last part of a path, and the one before where the last is a mere split."""
    short = parts[-2:] if parts[-1].lower() in SPLITS else parts[-1:]
    return "/".join(part for part in short if part != os.sep) or "images"


def _is_image(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in ENDINGS and not hidden


def _files_of(folder: Path) -> list[str]:
    keys = []
    with store.explained(folder, "read"):
        tops = sorted(entry.name for entry in os.scandir(folder))
    for top in tops:  # a class folder may be a link, as those of a person's own choice of classes are
        if not (folder / top).is_dir():
            keys += [top] if _is_image(PurePosixPath(top)) else []
            continue
        for root, folders, files in os.walk(folder / top):
            folders.sort()
            below = PurePosixPath(Path(root).relative_to(folder).as_posix())
            keys += [str(below / name) for name in sorted(files) if _is_image(below / name)]
            if len(keys) > ENTRIES_MAX:
                raise BadRecord(f"{folder} holds more than {ENTRIES_MAX:,} images: give a folder inside of it.")
    return keys


def _read_file(path: Path) -> bytes:
    with store.explained(path, "read"), path.open("rb") as file:
        return _bounded(file.read(IMAGE_BYTES_MAX + 1), str(path))


def _bounded(data: bytes, subject: str) -> bytes:
    if len(data) > IMAGE_BYTES_MAX:
        raise BadRecord(f"{subject} is larger than {units.binary_size(IMAGE_BYTES_MAX)}: make it smaller.")
    return data


@contextmanager
def _zip(archive: Path) -> Iterator[zipfile.ZipFile]:
    with store.explained(archive, "read"):
        try:
            file = zipfile.ZipFile(archive)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise BadRecord(
                f"{archive} is no zip that can be read ({error}): give a folder or a zip of class folders."
            ) from None
    with file:
        yield file


@contextmanager
def _zip_below(data: Path) -> Iterator[tuple[Path, zipfile.ZipFile, dict[str, str]]]:
    """The zip that ``data`` is, or leads into; the open file; and key -> entry of the images below ``data``."""
    archive = next((p for p in (data, *data.parents) if p.is_file()), None)
    if archive is None:
        raise UsageError(f"{data} does not exist: give a folder or a zip of class folders, or module:function.")
    prefix = "".join(f"{part}/" for part in data.parts[len(archive.parts) :])
    with _zip(archive) as file:
        yield archive, file, {n.removeprefix(prefix): n for n in _entries(archive, file) if n.startswith(prefix)}


def _entries(archive: Path, file: zipfile.ZipFile) -> list[str]:
    infos = file.infolist()
    if len(infos) > ENTRIES_MAX:
        raise BadRecord(f"{archive} has {len(infos):,} entries, and kit reads up to {ENTRIES_MAX:,}: split it.")
    return [info.filename for info in infos if not info.is_dir() and _is_image(PurePosixPath(info.filename))]


def _read_entry(file: zipfile.ZipFile, name: str, subject: str) -> bytes:
    """The bytes of an entry, no more than an image may have whatever its header says."""
    try:
        with file.open(name) as entry:
            return _bounded(entry.read(IMAGE_BYTES_MAX + 1), subject)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError, ValueError) as error:
        reason = first_line(error)[:120].rstrip(".")
        raise BadRecord(f"{subject} cannot be read ({reason}): make the zip again.") from None


def _stamps(folder: Path, keys: Sequence[str]) -> str:
    """A hash of the files' sizes and times."""
    with store.explained(folder, "read"):
        states = [(folder / key).stat() for key in keys]
    return store.sha256_bytes(store.canonical_json([[state.st_size, state.st_mtime_ns] for state in states]))


def _sorted_into_classes(
    name: str, data: Path, keys: Sequence[str], read: Callable[[str], bytes], fingerprint: Callable[[], str]
) -> Pictures:
    tops = [PurePosixPath(key).parts[0] for key in keys if "/" in key]
    classes = tuple(sorted(set(tops)))
    if not classes:
        what = "no images in class folders" if keys else "no images"
        raise UsageError(
            f"{data} holds {what}: kit reads CLASS/NAME.jpg (or .png, .bmp, .webp, ...), a folder for each class."
        )
    if {c.lower() for c in classes} <= SPLITS:
        held_out = next((c for c in classes if not c.lower().startswith("train")), classes[0])
        raise UsageError(f"{data} holds the splits {', '.join(classes)}: name one of them, {data}/{held_out}.")
    number = {c: i for i, c in enumerate(classes)}
    inside = sorted((top, key) for top, key in zip(tops, (k for k in keys if "/" in k), strict=True))
    return Pictures(
        name=name,
        classes=classes,
        keys=tuple(key for _, key in inside),
        labels=tuple(number[top] for top, _ in inside),
        read=read,
        fingerprint=fingerprint,
    )


def class_order(file: Path) -> tuple[str, ...]:
    """The classes of a network's outputs: a JSON list of names, or a name a line. Raises BadRecord (none, or one twice), UsageError."""
    with store.explained(file, "read"):
        data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig").strip()
        names = json.loads(text) if text.startswith(("[", "{")) else [line.strip() for line in text.splitlines()]
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not any(names):
        raise BadRecord(f"{file} holds no classes: write one a line, or a JSON list of names.")
    names = [name for name in names if name]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise BadRecord(f"{file} holds the class {twice[0]!r} twice: each output has one class.")
    return tuple(names)


def output_of_classes(classes: Sequence[str], order: Sequence[str] | None, outputs: int, name: str) -> tuple[int, ...]:
    """The index of the network's output for each of ``classes``, which are the folders of ``name``, sorted.

    Raises UsageError: another number of outputs than of classes, or a folder that ``order`` does not hold.
    """
    if order is None:
        if len(classes) != outputs:
            raise UsageError(
                f"{name} holds {units.counted(len(classes), 'class folder')} and the network has {units.counted(outputs, 'output')}: "
                "name the class of each output with --classes FILE, or give other data."
            )
        return tuple(range(outputs))
    if len(order) != outputs:
        raise UsageError(
            f"--classes names {units.counted(len(order), 'class')} and the network has {units.counted(outputs, 'output')}: name one for "
            "each output, in their order."
        )
    number = {c: i for i, c in enumerate(order)}
    absent = [c for c in classes if c not in number]
    if absent:
        raise UsageError(
            f"The class folder {absent[0]!r} of {name} is not among those of --classes: add it or take it out."
        )
    return tuple(number[c] for c in classes)
