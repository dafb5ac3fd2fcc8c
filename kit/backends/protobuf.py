"""The wire format of protobuf messages, as far as ONNX uses it: fields by number, read in place from a memory map.

ONNX field numbers never change their meaning, so a board needs neither the onnx package nor protobuf to read a graph.
"""

from __future__ import annotations

from collections.abc import Iterator

Wire = int | memoryview  # a number, or the bytes of a text, a message or packed numbers
_UINT32 = 2**32 - 1  # what protobuf keeps of a tag or an enum that is written longer
_SIGN = 1 << 63


def fields(view: memoryview) -> Iterator[tuple[int, Wire]]:
    """The fields of one message: its number, and its value as an integer or as bytes; numbers of fixed width come as their bytes.

    Raises ValueError, IndexError (what is no protobuf message).
    """
    at = 0
    while at < len(view):
        key, at = _varint(view, at)
        key &= _UINT32
        kind = key & 7
        if kind == 0:
            value, at = _varint(view, at)
            yield key >> 3, value
            continue
        if kind in (3, 4):  # the ends of a group, which ONNX has none of: what is inside counts like what is around
            continue
        if kind == 2:
            size, at = _varint(view, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("no protobuf message")
        if at + size > len(view):
            raise ValueError("a message that is cut off")
        if kind == 2:
            yield key >> 3, view[at : at + size]
        at += size


def child(message: Wire | None, field: int) -> memoryview | None:
    """The last message, text or bytes in ``field``; None where there is none."""
    if not isinstance(message, memoryview):
        return None
    value = None
    for number, content in fields(message):
        if number == field and isinstance(content, memoryview):
            value = content
    return value


def integers(value: Wire) -> Iterator[int]:
    """The signed numbers of a repeated integer field, of which ``value`` is one occurrence: one number, or several packed."""
    if isinstance(value, int):
        yield signed(value)
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield signed(number)


def signed(value: int) -> int:
    """An int64 from its 64 bits."""
    value &= 2**64 - 1
    return value - 2**64 if value & _SIGN else value


def enum(value: int) -> int:
    """What protobuf keeps of an enum or a bool."""
    return value & _UINT32


def text(view: Wire | None) -> str:
    """A string field; empty where there is none. Raises ValueError (no UTF-8)."""
    return bytes(view).decode() if isinstance(view, memoryview) else ""


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("no protobuf number")
