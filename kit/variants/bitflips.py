"""A network over a link with bit errors: its weights as bits, the bits that flip, and the network that arrives.

The topology of an ONNX file, and the 1-D tensors in it (biases, statistics, scales), go over a reliable channel; the weights, stored
tensors of two dimensions or more that convolutions, products, recurrent layers and embeddings compute with, go over one that flips each
bit with the probability BER, independently of all others. A :class:`Representation` says how a weight becomes bits and which of them
are exposed to the flips. A tensor that is stored in integers is sent as it is stored.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, inliner, numpy_helper

from kit.errors import BadModel, UnknownName, UsageError
from kit.variants.graph import operators
from kit.variants.graph.reading import all_graphs, dtype_of, subgraphs_of, tensor_bytes

Words = NDArray[Any]  # unsigned integers
Floats = NDArray[np.float32]
#: Flips that are drawn at once: bounds the memory whatever the payload and the BER.
FLIPS_AT_ONCE = 1 << 18
_FLOATS = {"fp32": (32, 23), "fp16": (16, 10), "bf16": (16, 7)}  # bits of a weight, and of its mantissa
_FLOAT_CODES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_NEVER = (TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL)  # shapes, axes and words: topology
_INTEGER = re.compile(r"int([2-8])(?:-g([1-9]\d{0,4}))?")
_UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32}


# ------------------------------------------------------------------------------------------------------------------ the channel


def flip(words: Words, ber: float, rng: np.random.Generator, bits: int | None = None) -> Words:
    """A copy of ``words`` in which each of the low ``bits`` (default: all) of every element is flipped with probability ``ber``.

    Flips are independent: the distance from one to the next is drawn from the geometric distribution, which is exact, takes time and
    memory by the number of flips, and never looks at a bit that stays.
    """
    exposed = bits or 8 * words.dtype.itemsize
    received, total, start = np.array(words).reshape(-1), words.size * exposed, 0
    while ber > 0 and start < total:
        expected = (total - start) * ber
        count = min(FLIPS_AT_ONCE, int(expected + 6 * math.sqrt(expected)) + 16)
        steps = np.minimum(rng.geometric(ber, count), total + 1)
        ends = start + np.cumsum(steps)  # one beyond each flipped bit
        places = ends[ends <= total] - 1
        one = np.left_shift(1, places % exposed).astype(words.dtype)
        np.bitwise_xor.at(received, places // exposed, one)
        start = int(ends[-1])
    return received.reshape(words.shape)


def check_ber(ber: float) -> float:
    """Raises UsageError for what is no bit error rate."""
    if not 0 <= ber <= 1:
        raise UsageError(f"A bit error rate of {ber:g} cannot be: give numbers from 0 to 1, such as 1e-3.")
    return ber


# -------------------------------------------------------------------------------------------------------------- representations


@dataclass(frozen=True)
class Encoded:
    """A tensor as it is sent: ``words``, of each of which the channel may flip the low ``exposed_bits``, and what goes over the reliable
    channel: the shape, and the range of each channel or group (``lower`` and ``step``, or ``lower`` and ``upper`` of a clip)."""

    words: Words
    exposed_bits: int
    shape: tuple[int, ...]
    axis: int | None = None
    lower: Floats | None = None
    step: Floats | None = None

    @property
    def header_bits(self) -> int:
        """Of the ranges, 32 for each number."""
        return 32 * sum(a.size for a in (self.lower, self.step) if a is not None)


@dataclass(frozen=True)
class Representation:
    """How a weight becomes bits.

    ``fp32``, ``fp16``, ``bf16``: raw. ``-clipped``: on arrival to the tensor's known range; what is no number goes to the end that its sign
    names. ``-protected``: sign and exponent go over the reliable channel, mantissas do not. ``int8`` to ``int2``: between the least and the
    largest weight of each output channel, ``-g32``: of each 32 weights in it; the ranges are reliable. ``stored``: as the file has it.
    """

    name: str
    bits: int  # of a weight
    exposed_bits: int  # of them, which the channel may flip
    clipped: bool = False
    group: int | None = None

    @property
    def protected_bits(self) -> int:
        """Bits of a weight that go over the reliable channel."""
        return self.bits - self.exposed_bits

    def encode(self, values: NDArray[Any], axis: int | None = 0) -> Encoded:
        """A tensor of floats, whose output channels lie along ``axis`` (None: nobody knows, one range for all)."""
        floats = np.asarray(values, dtype=np.float32)
        if self.name.startswith("int"):
            return self._integers(floats, axis)
        ends: tuple[Floats | None, Floats | None] = (None, None)
        if self.clipped:
            known = floats[np.isfinite(floats)]
            low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
            ends = (np.array([low], np.float32), np.array([high], np.float32))
        return Encoded(_bits_of(floats, self._format), self.exposed_bits, floats.shape, None, *ends)

    def decode(self, sent: Encoded) -> Floats:
        """The floats of what arrived; raw floats may hold infinities and NaN."""
        if self.name.startswith("int"):
            return _from_integers(sent)
        floats = _floats_of(sent.words, self._format)
        if sent.lower is not None and sent.step is not None:
            end = np.where(np.signbit(floats), sent.lower[0], sent.step[0])
            floats = np.where(np.isnan(floats), end, np.clip(floats, sent.lower[0], sent.step[0]))
        return np.asarray(floats, np.float32).reshape(sent.shape)

    @property
    def _format(self) -> str:
        return self.name.partition("-")[0]

    def _integers(self, floats: Floats, axis: int | None) -> Encoded:
        rows, shape = _rows(floats, axis), floats.shape
        if self.group is not None and rows.size:
            columns = -(-rows.shape[1] // self.group) * self.group
            rows = np.pad(rows, ((0, 0), (0, columns - rows.shape[1])), "edge").reshape(-1, self.group)
        rows = np.nan_to_num(rows)
        top = 2**self.bits - 1
        lower = rows.min(1) if rows.size else np.zeros(len(rows), np.float32)
        span = (rows.max(1) if rows.size else lower).astype(np.float64) - lower
        step = (span / top).astype(np.float32)
        codes = (rows - lower[:, None].astype(np.float64)) / np.where(step == 0, 1, step)[:, None]
        words = np.clip(np.rint(codes), 0, top).astype(np.uint8)
        return Encoded(words, self.bits, shape, axis, lower, step)


def _from_integers(sent: Encoded) -> Floats:
    assert sent.lower is not None and sent.step is not None
    with np.errstate(over="ignore", invalid="ignore"):  # ranges are exposed where a user wants to see it
        rows = sent.lower[:, None] + sent.words * sent.step[:, None]
    shape = sent.shape
    if sent.axis is not None:
        shape = (shape[sent.axis], *shape[: sent.axis], *shape[sent.axis + 1 :])
    channels = shape[0] if sent.axis is not None else 1
    length = math.prod(sent.shape) // max(channels, 1)
    floats = rows.reshape(channels, -1)[:, :length].reshape(shape)
    return np.asarray(floats if sent.axis is None else np.moveaxis(floats, 0, sent.axis), np.float32)


def _rows(floats: Floats, axis: int | None) -> Floats:
    """A row for each output channel."""
    return floats.reshape(1, -1) if axis is None else np.moveaxis(floats, axis, 0).reshape(floats.shape[axis], -1)


def _bits_of(floats: Floats, form: str) -> Words:
    if form == "fp16":
        with np.errstate(over="ignore"):
            return floats.astype(np.float16).view(np.uint16)
    words = np.ascontiguousarray(floats).view(np.uint32) if floats.ndim else floats.reshape(1).view(np.uint32)
    if form != "bf16":
        return words
    # To the nearest, ties to even; a NaN stays one.
    rounded = (words + np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    short: Words = np.where(np.isnan(floats), (words >> np.uint32(16)) | np.uint32(0x40), rounded).astype(np.uint16)
    return short


def _floats_of(words: Words, form: str) -> Floats:
    if form == "fp16":
        return words.view(np.float16).astype(np.float32)
    wide = words.astype(np.uint32) << np.uint32(16) if form == "bf16" else words
    floats: Floats = wide.view(np.float32)
    return floats


def representation(name: str) -> Representation:
    """The representation of that name. Raises UnknownName.

    >>> representation("fp32-protected").protected_bits, representation("int4").bits
    (9, 4)
    """
    form, _, end = name.partition("-")
    if form in _FLOATS and end in ("", "clipped", "protected"):
        bits, mantissa = _FLOATS[form]
        return Representation(name, bits, mantissa if end == "protected" else bits, end == "clipped")
    if match := _INTEGER.fullmatch(name):
        bits = int(match[1])
        return Representation(name, bits, bits, group=int(match[2]) if match[2] else None)
    if name == STORED.name:
        return STORED
    floats = [f"{form}{end}" for form in _FLOATS for end in ("", "-clipped", "-protected")]
    raise UnknownName("payload", name, [*floats, "int8", "int4", "int4-g32", STORED.name])


STORED = Representation("stored", 0, 0)
#: Compared unless a user names others.
PAYLOADS = ("fp32", "fp32-clipped", "fp32-protected", "bf16", "bf16-clipped", "bf16-protected", "int8", "int4")


# ---------------------------------------------------------------------------------------------------------- weights of a network

_Places = dict[int, int | None]
_CONVOLUTION: _Places = {1: 0}
_PRODUCT: _Places = {0: -2, 1: -1}
_RECURRENT: _Places = {1: 1, 2: 1}
#: Operators -> which of their inputs are weights, and the axis of each one's output channels (None: one range for all).
_OPERATORS: dict[str, _Places] = {
    "Conv FusedConv NhwcFusedConv ConvInteger DeformConv": _CONVOLUTION,
    "ConvTranspose": {1: 1},
    "QLinearConv": {3: 0},
    "MatMul FusedMatMul MatMulInteger MatMulIntegerToFloat GemmFloat8 Gemm FusedGemm": _PRODUCT,
    "QLinearMatMul QGemm": {0: -2, 3: -1},
    "DynamicQuantizeMatMul MatMulNBits MatMulBnb4 Attention QAttention": {1: -1},
    "LSTM GRU RNN DynamicQuantizeLSTM": _RECURRENT,
    "Gather GatherBlockQuantized": {0: 0},
    "Einsum": dict.fromkeys(range(8)),
    "EmbedLayerNormalization QEmbedLayerNormalization": {2: 0, 3: 0, 4: 0},
}
_WEIGHTS = {name: places for names, places in _OPERATORS.items() for name in names.split()}


def stored_tensors(model: ModelProto) -> list[tuple[str, TensorProto]]:
    """(name, tensor) of the initializers and constants of all graphs, always in the same order."""
    return [
        *((t.name, t) for graph in all_graphs(model.graph) for t in graph.initializer),
        *(
            (node.output[0], a.t)
            for graph in all_graphs(model.graph)
            for node in graph.node
            if node.op_type == "Constant"
            for a in node.attribute
            if a.name == "value"
        ),
    ]


class _Graph:
    """Who reads which tensor, in all graphs at once, and what is computed of stored tensors alone."""

    def __init__(self, model: ModelProto) -> None:
        self.tensors = stored_tensors(model)
        self.constants = {name for name, _ in self.tensors}
        self.readers: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
        for graph in all_graphs(model.graph):
            for node in graph.node:
                for i, name in enumerate(node.input):
                    self.readers[name].append((node, i))
        waiting = sorted(self.constants)
        while waiting:  # to the results of nodes all of whose inputs are known
            for node, _ in self.readers[waiting.pop()]:
                new = set(node.output) - self.constants
                if not subgraphs_of(node) and all(not i or i in self.constants for i in node.input):
                    self.constants |= new
                    waiting += sorted(new)

    def weight_axis(self, name: str, rank: int) -> tuple[bool, int | None]:
        """Whether a stored tensor is a weight, and the axis of its output channels where that is known."""
        waiting: list[tuple[str, tuple[int, ...] | None]] = [(name, tuple(range(rank)))]
        seen = {name}
        while waiting:
            current, axes = waiting.pop()
            for node, i in self.readers[current]:
                place = _WEIGHTS.get(node.op_type, {})
                if i in place:
                    return True, _axis(node, i, place[i], axes)
                follows = node.output and node.output[0] in self.constants and node.output[0] not in seen
                if follows and current not in operators.settings_of(node):
                    seen.add(node.output[0])
                    waiting.append((node.output[0], _moved(node, axes)))
        return False, None


def _axis(node: NodeProto, i: int, axis: int | None, axes: tuple[int, ...] | None) -> int | None:
    """The output channels' axis of the stored tensor, whose ``axes`` are where the operator reads them."""
    if axes is None or axis is None or not axes:
        return None
    if operators.integer(node, "transB" if i else "transA") and len(axes) == 2:
        axis = -3 - axis
    return axes[axis] if -len(axes) <= axis < len(axes) else None


def _moved(node: NodeProto, axes: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if node.op_type in ("Identity", "Cast", "DequantizeLinear", "QuantizeLinear"):
        return axes
    if node.op_type == "Transpose" and axes is not None:
        order = operators.integers(node, "perm") or tuple(reversed(range(len(axes))))
        return tuple(axes[k] for k in order)
    return None


@dataclass(frozen=True)
class Weight:
    """A stored tensor that is sent over the unreliable channel: its number among :func:`stored_tensors`, and its channels' axis."""

    number: int
    name: str
    is_float: bool
    axis: int | None


def weights(model: ModelProto, everything: bool = False) -> list[Weight]:
    """The weights of a network that has no functions; with ``everything`` its biases, statistics, scales and zero points, too."""
    graph = _Graph(model)
    chosen = []
    for number, (name, tensor) in enumerate(graph.tensors):
        if tensor.data_type in _NEVER or not math.prod(tensor.dims):
            continue
        is_weight, axis = graph.weight_axis(name, len(tensor.dims)) if len(tensor.dims) > 1 else (False, None)
        if is_weight or everything:
            chosen.append(Weight(number, name, tensor.data_type in _FLOAT_CODES, axis))
    return chosen


# ------------------------------------------------------------------------------------------------------------------ transmission


@dataclass(frozen=True)
class _Piece:
    weight: Weight
    how: Representation
    sent: Encoded
    bits: int


class Transmission:
    """A network in one representation, encoded once and received as often as one likes.

    ``everything`` exposes what the reliable channel would hold, too: 1-D tensors, scales and ranges; the topology stays reliable.
    ``file_bytes`` is the size of the file (default: of the model as it would be written).

    Raises BadModel where the network holds no weights that kit knows.
    """

    def __init__(
        self, model: ModelProto, how: Representation, *, everything: bool = False, file_bytes: int | None = None
    ) -> None:
        self.model = inliner.inline_local_functions(model) if model.functions else model
        self.how, self.everything = how, everything
        tensors = stored_tensors(self.model)
        chosen = weights(self.model, everything)
        if not chosen:
            raise BadModel(
                "The network holds no weights of two dimensions or more that a convolution, a product, a recurrent layer or an embedding "
                "computes with: nothing of it would go over the unreliable link."
            )
        self.pieces = [self._piece(w, tensors[w.number][1]) for w in chosen]
        replaced = sum(tensor_bytes(math.prod(t.dims), t.data_type) for t in (tensors[w.number][1] for w in chosen))
        rest_bytes = (file_bytes or model.ByteSize()) - replaced
        headers = sum(piece.sent.header_bits for piece in self.pieces)
        protected = sum(piece.bits - self._exposed_of(piece) for piece in self.pieces)
        # What is received is a copy of this model with new weights: those of the file need not be copied each time.
        self.skeleton = ModelProto()
        self.skeleton.CopyFrom(self.model)
        emptied = stored_tensors(self.skeleton)
        for w in chosen:
            for field in ("raw_data", *_TYPED):
                emptied[w.number][1].ClearField(field)
        self.exposed_bits = sum(map(self._exposed_of, self.pieces)) + headers * everything
        self.reliable_bits = 8 * rest_bytes + protected + headers * (not everything)

    @property
    def total_bytes(self) -> int:
        """Of the download: exposed and reliable."""
        return -(-(self.exposed_bits + self.reliable_bits) // 8)

    @property
    def protected_share(self) -> float:
        """Of the download, over the reliable channel."""
        return self.reliable_bits / (self.reliable_bits + self.exposed_bits)

    @property
    def float_weights(self) -> bool:
        """Whether the representation changes anything: a tensor stored in integers is sent as it is."""
        return any(piece.weight.is_float for piece in self.pieces)

    def received(self, ber: float, rng: np.random.Generator) -> ModelProto:
        """The network as it arrives. Raises UsageError for a BER that is none."""
        check_ber(ber)
        arrived = ModelProto()
        arrived.CopyFrom(self.skeleton)
        tensors = stored_tensors(arrived)
        for piece in self.pieces:
            sent = replace(piece.sent, words=flip(piece.sent.words, ber, rng, piece.sent.exposed_bits))
            if self.everything:
                sent = replace(sent, lower=_flipped(sent.lower, ber, rng), step=_flipped(sent.step, ber, rng))
            _write(tensors[piece.weight.number][1], piece.how, sent)
        return arrived

    def _piece(self, weight: Weight, tensor: TensorProto) -> _Piece:
        size = math.prod(tensor.dims)
        if self.how is STORED or not weight.is_float:
            words = np.frombuffer(_raw(tensor), np.uint8)
            bits = 8 * tensor_bytes(size, tensor.data_type)
            return _Piece(weight, STORED, Encoded(words, 8, tuple(tensor.dims)), bits)
        # Of the tensors that only --expose all sends, the integers' ranges would be as long as they are.
        how = representation("fp32") if self.how.name.startswith("int") and len(tensor.dims) < 2 else self.how
        return _Piece(weight, how, how.encode(numpy_helper.to_array(tensor), weight.axis), size * how.bits)

    def _exposed_of(self, piece: _Piece) -> int:
        return piece.bits if piece.how is STORED else piece.bits * piece.how.exposed_bits // piece.how.bits


def received(
    model: ModelProto, how: Representation, ber: float, rng: np.random.Generator, *, everything: bool = False
) -> ModelProto:
    """``model`` as it arrives in this representation over a channel of this bit error rate; its weights lie in it.

    Raises BadModel (no weights), UsageError (a BER that is none).
    """
    return Transmission(model, how, everything=everything).received(ber, rng)


def _flipped(values: Floats | None, ber: float, rng: np.random.Generator) -> Floats | None:
    return None if values is None else flip(values.view(np.uint32), ber, rng).view(np.float32)


def _raw(tensor: TensorProto) -> bytes:
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    return numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data


_TYPED = ("float_data", "double_data", "int32_data", "int64_data", "uint64_data")  # where a tensor holds no raw bytes


def _write(tensor: TensorProto, how: Representation, sent: Encoded) -> None:
    tensor.raw_data = sent.words.tobytes() if how is STORED else _as_type(how.decode(sent), tensor.data_type)


def _as_type(floats: Floats, code: int) -> bytes:
    if code == TensorProto.BFLOAT16:
        return _bits_of(floats, "bf16").tobytes()
    dtype = dtype_of(code)
    with np.errstate(over="ignore", invalid="ignore"):
        return floats.astype(dtype).tobytes()


def applicable(model: ModelProto, names: Sequence[str]) -> Iterator[Representation]:
    """The representations ``names`` for this network; where all of its weights are stored in integers, ``stored`` alone.

    Raises UnknownName, BadModel (no weights).
    """
    chosen = [representation(name) for name in dict.fromkeys(names)]
    as_stored = Transmission(model, STORED)
    yield from chosen if as_stored.float_weights else [STORED]
