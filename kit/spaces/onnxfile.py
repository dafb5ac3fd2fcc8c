"""An .onnx file without the onnx package: a network and its random weights in the protobuf wire format.

Field numbers are those of onnx/onnx.proto, which never change their meaning. Weights are cut out of one block of normal numbers
that is repeated: its length is prime and larger than any row of a weight, so that no two rows are equal.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

import kit
from kit.spaces.graph import Attribute, DType, Net, Node, Shape, Stored

OPSET = (
    18  # of every file that kit writes (kit.nets.export, too): the newest that every onnxruntime in use on boards runs
)
IR_VERSION = 8  # the one that came with this opset: read by every onnxruntime since 1.14
_BLOCK = 65537
_CODES: dict[DType, int] = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}  # TensorProto.DataType
_FLOAT, _INT, _INTS = 1, 2, 7  # AttributeProto.AttributeType


def model(net: Net, name: str, seed: int, weights: Mapping[str, NDArray[np.generic]] | None = None) -> bytes:
    """The whole file. ``net`` ends in the tensor "output". ``weights`` take the place of random ones, by name."""
    graph = b"".join(_graph(net, name, seed, weights or {}))
    opset = _message(8, _text(1, "") + _number(2, OPSET))
    head = _number(1, IR_VERSION) + _text(2, "kit") + _text(3, kit.__version__) + opset
    return b"".join((head, _tag(7, 2), _varint(len(graph)), graph))


def numbers(stored: Stored, seed: int, place: int) -> NDArray[np.generic]:
    """The values of a stored tensor; ``place`` says where in the block of normal numbers it begins."""
    dtype = np.dtype(stored.dtype)
    if stored.values is not None:
        return np.array(stored.values, dtype=dtype).reshape(stored.shape)
    drawn = np.roll(_normals(seed), -place) * np.float32(stored.std) + np.float32(stored.mean)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        drawn = np.clip(np.rint(drawn), max(limits.min, -(2**30)), min(limits.max, 2**30))
    return np.resize(drawn.astype(dtype), stored.shape)


@lru_cache(maxsize=2)
def _normals(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(_BLOCK, dtype=np.float32)


def _graph(net: Net, name: str, seed: int, weights: Mapping[str, NDArray[np.generic]]) -> Iterator[bytes]:
    for node in net.nodes:
        yield _message(1, _node(node))
    yield _text(2, name)
    place = 0
    for key, stored in net.stored.items():
        yield from _tensor(key, stored, weights[key] if key in weights else numbers(stored, seed, place))
        place = (place + stored.size) % _BLOCK
    for key in net.inputs:
        yield _message(11, _value(key, net.dtypes[key], net.shapes[key]))
    yield _message(12, _value("output", net.dtypes["output"], net.shapes["output"]))


def _node(node: Node) -> bytes:
    return b"".join(
        (
            *(_text(1, name) for name in node.inputs),
            *(_text(2, name) for name in node.outputs),
            _text(3, node.outputs[0]),
            _text(4, node.op),
            *(_message(5, _attribute(name, value)) for name, value in node.attributes.items()),
        )
    )


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, tuple):
        return _text(1, name) + b"".join(_number(8, v) for v in value) + _number(20, _INTS)
    if isinstance(value, float):
        return _text(1, name) + _tag(2, 5) + struct.pack("<f", value) + _number(20, _FLOAT)
    return _text(1, name) + _number(3, value) + _number(20, _INT)


def _tensor(name: str, stored: Stored, values: NDArray[np.generic]) -> Iterable[bytes]:
    """As pieces, because a weight is too large to be copied for the sake of its envelope."""
    head = b"".join(_number(1, size) for size in stored.shape) + _number(2, _CODES[stored.dtype]) + _text(8, name)
    raw = np.ascontiguousarray(values, dtype=np.dtype(stored.dtype).newbyteorder("<")).tobytes()
    head += _tag(9, 2) + _varint(len(raw))
    return _tag(5, 2), _varint(len(head) + len(raw)), head, raw


def _value(name: str, dtype: DType, shape: Shape) -> bytes:
    dims = b"".join(_message(1, _number(1, size)) for size in shape)
    tensor = _number(1, _CODES[dtype]) + _message(2, dims)
    return _text(1, name) + _message(2, _message(1, tensor))


def _message(field: int, content: bytes) -> bytes:
    return _tag(field, 2) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _number(field: int, value: int) -> bytes:
    return _tag(field, 0) + _varint(value)


def _tag(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _varint(value: int) -> bytes:
    """Seven bits at a time, the lowest first; negative numbers as 64 bits of two's complement."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))
