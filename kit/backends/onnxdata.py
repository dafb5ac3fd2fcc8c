"""The files of an ONNX model: the .onnx, the files that hold its weights, and what none of them may be.

An ONNX file may keep tensors in other files ("external data": what exporters write by default, and the only way beyond 2 GiB). Each
such name is checked here before any runtime opens it: onnxruntime before 1.25 reads whatever path the model names.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

from kit import store
from kit.backends import onnxgraph, protobuf
from kit.errors import BadModel, UntrustedPackage
from kit.records import DataFile, inner_path

COMPILED = (
    b"EPContext"  # onnxruntime's operator that holds what TensorRT, OpenVINO or QNN compiled, or names a file of it
)
FILES_MAX = 10_000  # that one model names
#: Where tensors lie in a model: the fields of each kind of message that lead to them (onnx/onnx.proto).
_WAYS_TO_TENSORS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "sparse": {1: "tensor", 2: "tensor"},
    "training": {1: "graph", 2: "graph"},
}
_LOCATION, _ENTRIES = 14, 13  # data_location and external_data of a tensor


@dataclass(frozen=True)
class Piece:
    """Where the bytes of one tensor lie: a file by the name that the model gives it, and the range in it."""

    file: str
    offset: int
    length: int | None  # None: up to the end


def pieces(model: Path | bytes) -> tuple[Piece, ...] | None:
    """Every tensor of ``model`` that lies in another file, in subgraphs, functions, attributes and sparse tensors, too.

    None of what is no readable ONNX model: a runtime then reports why. Raises ValueError for a range that is no range.
    """
    try:
        if isinstance(model, bytes):
            tensors = _external(memoryview(model))
        else:
            with model.open("rb") as file:
                tensors = _external(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except (OSError, ValueError, IndexError):
        return None
    return tuple(map(_piece, tensors))


def refuse_external(model: bytes, subject: str) -> None:
    """Raises BadModel, a sentence that begins with ``subject``, when a tensor of the ONNX ``model`` lies in another file."""
    try:
        external = pieces(model)
    except ValueError:
        return
    if external:
        raise BadModel(
            f"{subject} keeps its weights in another file, and has to be one file: export with external_data=False, or "
            "onnx.save(onnx.load(FILE), ONE_FILE)."
        )


def files_of(path: Path) -> tuple[str, ...]:
    """The files, besides ``path``, that hold weights of the model: names relative to its folder, in order, each checked.

    A file has to lie in the model's folder or below it; one that is a link (the caches of model hubs) has to lead to where the model's
    own link leads. Raises BadModel for an absolute path, one with "..", one that leads elsewhere, a missing file and a range that the
    file has not.
    """
    try:
        external = pieces(path)
    except ValueError:
        raise BadModel(
            f"{path} names weights in another file by a range that is none: export the network again."
        ) from None
    names = tuple(sorted({piece.file for piece in external or ()}))
    if len(names) > FILES_MAX:
        raise BadModel(f"{path} names {len(names)} files of weights, and kit takes {FILES_MAX}: export into one file.")
    sizes = {name: _size_bytes(path, name) for name in names}
    for piece in external or ():
        end = piece.offset + (piece.length or 0)
        if end > sizes[piece.file]:
            raise BadModel(
                f"{path} expects {end} bytes in {piece.file}, which has {sizes[piece.file]}: the file was cut off or belongs to "
                "another export; copy or export both again."
            )
    return names


def hashed(path: Path) -> tuple[DataFile, ...]:
    """:func:`files_of`, each with its hash and size. Raises as it does."""
    folder = path.parent
    return tuple(
        DataFile(file=name, sha256=store.sha256_file(folder / name), size_bytes=(folder / name).stat().st_size)
        for name in files_of(path)
    )


def _size_bytes(model: Path, name: str) -> int:
    """The size of a file that the model names. Raises BadModel."""
    try:
        file = model.parent / inner_path(name)
    except ValueError:
        raise BadModel(
            f"{model} keeps weights in {name[:80]!r}, outside its own folder: refused; export it with its data file next to it."
        ) from None
    with store.explained(file, "read"):
        if not file.is_file():
            raise BadModel(
                f"{model} keeps weights in {name[:80]}, which is not there: put the file next to the model, as its exporter wrote it."
            )
        allowed = {model.parent.resolve(), model.resolve().parent}
        real = file.resolve()
        if not any(folder in real.parents for folder in allowed):
            raise BadModel(
                f"{model} keeps weights in {name[:80]}, a link out of its folder: refused; put the file itself next to the model."
            )
        return real.stat().st_size


def _external(model: memoryview) -> list[memoryview]:
    """The messages of all tensors that lie in another file. Raises as :func:`kit.backends.protobuf.fields`."""
    tensors = []
    left = [("model", model)]
    while left:
        kind, view = left.pop()
        external = False
        for number, value in protobuf.fields(view):
            if isinstance(value, memoryview):
                if inner := _WAYS_TO_TENSORS.get(kind, {}).get(number):
                    left.append((inner, value))
            elif kind == "tensor" and number == _LOCATION:
                external = protobuf.enum(value) == onnxgraph.EXTERNAL
        if external:
            tensors.append(view)
    return tensors


def _piece(tensor: memoryview) -> Piece:
    entries: dict[str, str] = {}
    for number, value in protobuf.fields(tensor):
        if number == _ENTRIES and isinstance(value, memoryview):
            key = protobuf.text(protobuf.child(value, 1))
            entries[key] = protobuf.text(protobuf.child(value, 2))
    offset, length = entries.get("offset", "") or "0", entries.get("length", "") or None
    if any(not (number.isascii() and number.isdecimal()) for number in (offset, length or "0")):
        raise ValueError("a range that is no range")
    return Piece(entries.get("location", ""), int(offset), None if length is None else int(length))


def refuse_programs(path: Path) -> None:
    """Raises UntrustedPackage unless the file, which came over a link, is an ONNX model of operators and weights alone.

    A compiled part is looked for in the bytes, in which a protobuf holds each name as it is: also of a graph inside an operator.
    """
    if onnxgraph.read(path) is None:
        raise UntrustedPackage(f"{path.name} came over a link and is no ONNX model: refused; add the package again.")
    with (
        store.explained(path, "read"),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        compiled = view.find(COMPILED) >= 0
    if compiled:
        raise UntrustedPackage(
            f"{path.name} came over a link and holds a part that was compiled elsewhere ({COMPILED.decode()}): refused; export the "
            "network itself."
        )
