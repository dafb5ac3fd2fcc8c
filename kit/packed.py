"""A long series of whole numbers, kept small: raw nanoseconds travel in records as one short string.

The string is ``I`` or ``Q`` (four or eight bytes a number), then base85 of the zlib-compressed, byte-shuffled little-endian
numbers: about two bytes a timing, where a JSON list takes twelve. It is unpacked when it is read.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

BYTES_MAX = 1 << 26  # eight million numbers: a small string must not unpack to gigabytes
_WIDTHS = {"I": 4, "Q": 8}


class Series:
    """An immutable sequence of integers from 0 to 2**63 - 1. In JSON it is the packed string; a list of numbers reads as well."""

    __slots__ = ("_array", "packed")

    def __init__(self, values: Iterable[float] | str) -> None:
        """Raises ValueError when ``values`` is neither a packed string nor a list of numbers that are not negative."""
        self.packed = values if isinstance(values, str) else _pack(values)
        self._array = self._unpacked()  # a string that cannot be unpacked is refused here

    def array(self) -> NDArray[np.int64]:
        """The numbers, [n], not to be written to."""
        return self._array

    def _unpacked(self) -> NDArray[np.int64]:
        width = _WIDTHS.get(self.packed[:1])
        if width is None:
            raise ValueError("a packed series starts with I or Q")
        unpacking = zlib.decompressobj()
        try:
            data = unpacking.decompress(base64.b85decode(self.packed[1:]), BYTES_MAX)
        except (zlib.error, ValueError):
            raise ValueError("the packed series is damaged") from None
        if len(data) % width or not unpacking.eof:
            raise ValueError("the packed series is cut off, or too long")
        shuffled = np.frombuffer(data, dtype=np.uint8).reshape(width, -1)
        array = np.ascontiguousarray(shuffled.T).view(f"<u{width}").ravel().astype(np.int64)
        if array.size and array.min() < 0:
            raise ValueError("a series holds whole numbers from 0 to 2**63 - 1")
        array.flags.writeable = False
        return array

    def __len__(self) -> int:
        return len(self._array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Series) and self.packed == other.packed

    def __hash__(self) -> int:
        return hash(self.packed)

    def __repr__(self) -> str:
        return f"Series({self.array().tolist()})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _checked, serialization=core_schema.plain_serializer_function_ser_schema(lambda series: series.packed)
        )


def _checked(value: object) -> Series:
    if isinstance(value, Series):
        return value
    if isinstance(value, (str, list, tuple, np.ndarray)):
        return Series(value)
    raise ValueError("a packed series or a list of numbers was expected")


def _pack(values: Iterable[float]) -> str:
    try:
        array = np.asarray(list(values)).round()
    except (TypeError, ValueError):
        raise ValueError("a series holds numbers") from None
    if array.ndim != 1 or not np.isfinite(array).all() or (array.size and not 0 <= array.min() <= array.max() < 2**63):
        raise ValueError("a series holds whole numbers from 0 to 2**63 - 1")
    letter = "I" if not array.size or array.max() < 2**32 else "Q"
    numbers = array.astype(f"<u{_WIDTHS[letter]}")
    shuffled = numbers.view(np.uint8).reshape(-1, _WIDTHS[letter]).T
    return letter + base64.b85encode(zlib.compress(shuffled.tobytes(), 9)).decode()
