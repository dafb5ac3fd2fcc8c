"""The functions that the machine code of every allocator is built from: how Numba compiles, vectors, exp and log, look-up, gate, softmax.

exp and log are polynomials (Cephes), because a call per number would take longer than the network. Numba's cache on disk watches the file
of the outermost function, :mod:`kit.allocators.compiled`, alone: after a change here, save that file, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped,import-not-found,unused-ignore]
from numba import float32, int32, types
from numba.extending import intrinsic as numba_intrinsic

from kit.allocators.fileformat import Float32Array

VERSION = f"numba {numba.__version__}"
LANES = 16  # floats in the widest vector
HEAD = 3  # numbers at the front of a table: row of the size, rows and columns of the table
PER_FEATURE = 5
HOW: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "boundscheck": False, "error_model": "numpy"}
_numba: Any = numba
inlined: Callable[[Any], Any] = _numba.njit(inline="always", **HOW)
small: Callable[[Any], Any] = _numba.njit(**HOW)
_intrinsic: Callable[[Any], Any] = numba_intrinsic
literally = _numba.literally  # a machine code of its own for each value of this argument, with it as a constant
Run = Callable[..., Any]


def compiled(function: Run) -> Run:
    """The function compiled by Numba, kept between processes where Numba may write."""
    try:
        machine_code = numba.njit(cache=True, **HOW)(function)
    except RuntimeError:  # no folder in which Numba may cache it
        machine_code = numba.njit(**HOW)(function)
    return machine_code  # type: ignore[no-any-return]


def padded(count: int, to: int = LANES) -> int:
    """``count`` rounded up to a multiple of ``to``."""
    return -(-count // to) * to


def aligned(values: Any) -> Float32Array:
    """A copy that begins where a cache line does."""
    flat = np.ravel(np.asarray(values, np.float32))
    room = np.zeros(flat.size + LANES, np.float32)
    start = (-room.ctypes.data // 4) % LANES
    view = room[start : start + flat.size]
    view[:] = flat
    return view


# ------------------------------------------------------------------------------------------------------------- exp and log


@_intrinsic
def _float_of(context: Any, bits: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@_intrinsic
def _bits_of(context: Any, value: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@small
def exp(x: Any) -> Any:
    """e to the x for x <= 0."""
    x = max(x, float32(-87.0))
    n = np.floor(x * float32(1.44269504) + float32(0.5))
    r = x - n * float32(0.693359375) + n * float32(2.12194440e-4)
    p = float32(1.9875691500e-4)
    p = p * r + float32(1.3981999507e-3)
    p = p * r + float32(8.3334519073e-3)
    p = p * r + float32(4.1665795894e-2)
    p = p * r + float32(1.6666665459e-1)
    p = p * r + float32(5.0000001201e-1)
    return (p * r * r + r + float32(1.0)) * _float_of(int32((int32(n) + int32(127)) << int32(23)))


@small
def log(x: Any) -> Any:
    """Natural logarithm of a positive, normal number."""
    bits = _bits_of(x)
    e = float32(int32(bits >> int32(23)) - int32(127))
    m = _float_of(int32((bits & int32(0x7FFFFF)) | int32(0x3F800000)))
    large = m > float32(1.41421356)
    t = (m * float32(0.5) if large else m) - float32(1.0)
    e = e + float32(1.0) if large else e
    p = float32(7.0376836292e-2)
    p = p * t - float32(1.1514610310e-1)
    p = p * t + float32(1.1676998740e-1)
    p = p * t - float32(1.2420140846e-1)
    p = p * t + float32(1.4249322787e-1)
    p = p * t - float32(1.6668057665e-1)
    p = p * t + float32(2.0000714765e-1)
    p = p * t - float32(2.4999993993e-1)
    p = p * t + float32(3.3333331174e-1)
    squared = t * t
    low = p * t * squared - e * float32(2.12194440e-4) - float32(0.5) * squared
    return t + low + e * float32(0.693359375)


# -------------------------------------------------------------------------------------------------- what all networks share


@inlined
def normalise(table: Any, tasks: Any, s: Any, at: Any, stride: Any, n: Any, count: Any) -> None:
    """Inputs ``s[at + f * stride + user]`` from raw quantities ``tasks[f, user]``."""
    for f in range(count):
        rule = table[HEAD + f * PER_FEATURE : HEAD + (f + 1) * PER_FEATURE]
        row, x = tasks[f], s[at + f * stride : at + f * stride + n]
        inverse = rule[0]
        if inverse == 0.0:
            total = 0.0
            for u in range(n):
                total += row[u]
            inverse = n / total
        least, centre, spread = float32(rule[2]), float32(rule[3]), float32(rule[4])
        if rule[1] > 0.0:
            for u in range(n):
                x[u] = (log(max(float32(row[u] * inverse), least)) - centre) * spread
        else:
            for u in range(n):
                x[u] = (max(float32(row[u] * inverse), least) - centre) * spread


@inlined
def look_up(table: Any, tasks: Any, clock_hz: Any, n: Any, count: Any) -> Any:
    """The cell of the table for the mean task size and the clock: the number of bounds below each."""
    rows, columns = int(table[1]), int(table[2])
    at = HEAD + count * PER_FEATURE
    row = column = 0
    if rows > 0:
        sizes = tasks[int(table[0])]
        total = 0.0
        for u in range(n):
            total += sizes[u]
        row = _below(table[at : at + rows], total / n)
    if columns > 0:
        column = _below(table[at + rows : at + rows + columns], clock_hz)
    return at + rows + columns + row * (columns + 1) + column


@small
def _below(bounds: Any, value: Any) -> Any:
    low, high = 0, bounds.size
    while low < high:
        middle = (low + high) // 2
        if bounds[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def gate_weights(s: Any, at: Any, ranks: Any, many: Any, room: Any, width: Any) -> None:
    """Gate values ``s[at:]`` become the weights of the ``width`` largest, the others zero. Of equal ones the first counts as larger."""
    g, r = s[at : at + room], s[ranks : ranks + room]
    top, best = g[0], 0
    for j in range(1, many):
        if g[j] > top:
            top, best = g[j], j
    if width == 1:
        for j in range(room):
            g[j] = float32(0.0)
        g[best] = float32(1.0)
    else:
        if width < many:
            for j in range(room):
                r[j] = float32(0.0)
            for i in range(many):
                v = g[i]
                for j in range(many):
                    r[j] += float32(1.0) if (v > g[j] or (v == g[j] and i < j)) else float32(0.0)
            for j in range(many):
                g[j] = exp(g[j] - top) if r[j] < float32(width) else float32(0.0)
        else:
            for j in range(many):
                g[j] = exp(g[j] - top)
        total = float32(0.0)
        for j in range(many):
            total += g[j]
        for j in range(many):
            g[j] /= total


@small
def softmax(s: Any, at: Any, lanes: Any, out: Any, begin: Any, n: Any) -> None:
    """Softmax of ``n`` numbers from ``at`` of ``s`` into ``out``; the other lanes are padding."""
    literally(lanes)
    v, answer = s[at : at + lanes], out[begin : begin + n]
    top = v[0]
    for u in range(n):
        top = max(top, v[u])
    for u in range(lanes):
        v[u] = exp(min(v[u] - top, float32(0.0)))
    total = float32(0.0)
    for u in range(n):
        total += v[u]
    share = float32(1.0) / total
    for u in range(n):
        answer[u] = v[u] * share


@small
def start(y_: Any, yo: Any, w_: Any, wo: Any, columns: Any) -> None:
    """Copy ``columns`` numbers of ``w_`` into ``y_``."""
    literally(columns)
    y, w = y_[yo : yo + columns], w_[wo : wo + columns]
    for j in range(columns):
        y[j] = w[j]


@small
def add_scaled(y_: Any, yo: Any, w_: Any, wo: Any, columns: Any, factor: Any) -> None:
    """Add ``factor`` times ``columns`` numbers of ``w_`` to ``y_``."""
    literally(columns)
    y, w = y_[yo : yo + columns], w_[wo : wo + columns]
    for j in range(columns):
        y[j] += factor * w[j]


@small
def row_sums(s: Any, at: Any, onto: Any, rows: Any, lanes: Any, n: Any) -> None:
    """The sum of the first ``n`` numbers of each of ``rows`` rows, written to ``s`` from ``onto``."""
    for i in range(rows):
        row, total = s[at + i * lanes : at + i * lanes + n], float32(0.0)
        for u in range(n):
            total += row[u]
        s[onto + i] = total


def zero_padded(array: Float32Array, *shape: int) -> Float32Array:
    """``array`` with zeros behind it in each direction."""
    return np.pad(array, [(0, after - before) for before, after in zip(array.shape, shape, strict=True)])


@small
def padded_inside(count: Any, to: Any) -> Any:
    """:func:`padded` inside of compiled code."""
    return (count + to - 1) // to * to
