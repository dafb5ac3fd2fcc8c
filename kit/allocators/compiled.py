"""Allocators as machine code (Numba): one call takes features and returns shares, without a framework.

What is not computed: experts that the gate leaves out, and two things that the softmax over the users takes out again, because they
move all users alike: each expert's log-softmax (paper A) and the biases of the output layers (paper B). Shares agree with the torch
network to a few parts in ten million.

Weights lie in the order in which they are read. A vector holds the outputs of a layer (``flat``: a weight is read once, so memory is the
limit) or the users (``shared``, ``per_user``: a weight serves all of them, so arithmetic is). The sizes of a network are constants of its
code; Numba keeps the code on disk. The pieces that the three forms share are in :mod:`kit.allocators.vector_code`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import float32

from kit.allocators.fileformat import LEAK, AllocatorSpec, Float32Array
from kit.allocators.vector_code import (
    VERSION,
    Run,
    add_scaled,
    aligned,
    compiled,
    gate_weights,
    inlined,
    literally,
    look_up,
    normalise,
    padded,
    padded_inside,
    row_sums,
    small,
    softmax,
    start,
    zero_padded,
)

__all__ = ["VERSION", "Code", "aligned", "code"]

INPUTS = 32  # of a flat network's first layer, taken together
STEP_FEATURES, STEP = 8, 16  # rows that are taken together: of features and a user's units, of an expert's
_LEAK = np.float32(LEAK)


# ---------------------------------------------------------------------------------------------------------------- paper A


@small
def _add(w_: Any, wo: Any, x_: Any, xo: Any, y_: Any, yo: Any, inner: Any, columns: Any, factor: Any) -> None:
    """``y += factor * (x W)``, W ``(inner, columns)``. ``inner`` is a constant and its loop unrolled: a sum stays in a register."""
    literally(inner)
    literally(columns)
    w, x, y = w_[wo : wo + inner * columns], x_[xo : xo + inner], y_[yo : yo + columns]
    for j in range(columns):
        total = float32(0.0)
        for i in range(inner):
            total += x[i] * w[i * columns + j]
        y[j] += factor * total


@small
def _rectify(y_: Any, yo: Any, columns: Any) -> None:
    literally(columns)
    y = y_[yo : yo + columns]
    for j in range(columns):
        y[j] = max(y[j], float32(0.0))


@inlined
def _flat(
    w: Any,
    s: Any,
    out: Any,
    n: Any,
    width: Any,
    inputs: Any,
    inner: Any,
    inner_: Any,
    hidden: Any,
    users: Any,
    many_: Any,
    many: Any,
    gated: Any,
) -> None:
    """Paper A's network. Names that end in an underscore, and inputs, hidden and users, are padded."""
    first = inputs
    gate = first + inner_
    acc = gate + many_
    hid = acc + users
    start(s, first, w, inputs * inner_, inner_)
    for i in range(0, inputs, INPUTS):
        _add(w, i * inner_, s, i, s, first, INPUTS, inner_, float32(1.0))
    _rectify(s, first, inner_)
    offset = inputs * inner_
    offset += inner_
    g, a = s[gate : gate + many_], s[acc : acc + users]
    if gated:
        for j in range(many_):
            g[j] = float32(0.0)
        _add(w, offset, s, first, s, gate, inner, many_, float32(1.0))
        gate_weights(s, gate, hid, many, many_, width)
        offset += inner * many_
    else:
        for j in range(many):
            g[j] = float32(1.0 / many)
    for j in range(users):
        a[j] = float32(0.0)
    one = (inner + 1) * hidden
    two = (hidden + 1) * users
    for e in range(many):
        weight = g[e]
        if weight > float32(0.0):
            begin = offset + e * (one + two)
            start(s, hid, w, begin + inner * hidden, hidden)
            _add(w, begin, s, first, s, hid, inner, hidden, float32(1.0))
            _rectify(s, hid, hidden)
            _add(w, begin + one, s, hid, s, acc, hidden, users, weight)
            add_scaled(s, acc, w, begin + one + hidden * users, users, weight)
    softmax(s, acc, users, out, 0, n)


def _flat_pack(spec: AllocatorSpec, arrays: Mapping[str, Float32Array], n: int) -> Float32Array:
    inner, hidden = padded(spec.inner), padded(spec.hidden[0])
    inputs, users, many = padded(len(spec.features) * spec.users, INPUTS), padded(spec.users), padded(spec.experts)
    parts = [zero_padded(arrays["input_weight"], inputs, inner), zero_padded(arrays["input_bias"], inner)]
    parts += [zero_padded(arrays["gate_weight"], spec.inner, many)] if spec.gated else []
    for e in range(spec.experts):
        parts += [
            zero_padded(arrays["expert0_weight"][e], spec.inner, hidden),
            zero_padded(arrays["expert0_bias"][e], hidden),
        ]
        parts += [
            zero_padded(arrays["expert1_weight"][e], hidden, users),
            zero_padded(arrays["expert1_bias"][e], users),
        ]
    return aligned(np.concatenate([part.ravel() for part in parts]))


def _flat_code(spec: AllocatorSpec) -> tuple[Run, Run, int]:
    count, users, many, inner, gated = len(spec.features), spec.users, spec.experts, spec.inner, spec.gated
    inputs, inner_, hidden = padded(count * users, INPUTS), padded(inner), padded(spec.hidden[0])
    users_, many_ = padded(users), padded(many)
    scratch_size = inputs + inner_ + many_ + users_ + max(hidden, many_)

    def run(w: Any, x: Any, out: Any, s: Any, n: Any, width: Any, depth: Any) -> None:
        for f in range(count):
            row, values = s[f * users : (f + 1) * users], x[f * n : (f + 1) * n]
            for u in range(n):
                row[u] = values[u]
            for u in range(n, users):
                row[u] = float32(0.0)
        _flat(w, s, out, n, width, inputs, inner, inner_, hidden, users_, many_, many, gated)

    def decide(w: Any, table: Any, tasks: Any, clock_hz: Any, out: Any, s: Any) -> Any:
        n = tasks.shape[1]
        cell = look_up(table, tasks, clock_hz, n, count)
        normalise(table, tasks, s, 0, users, n, count)
        for f in range(count):
            for u in range(n, users):
                s[f * users + u] = float32(0.0)
        _flat(w, s, out, n, int(table[cell]), inputs, inner, inner_, hidden, users_, many_, many, gated)
        return cell

    return compiled(run), compiled(decide), scratch_size


# ------------------------------------------------------------------------------------- paper B, and per user: users in a vector


@small
def _product(
    w_: Any,
    wo: Any,
    bo: Any,
    x_: Any,
    xo: Any,
    y_: Any,
    yo: Any,
    inner: Any,
    columns: Any,
    stride: Any,
    step: Any,
    lanes: Any,
) -> None:
    """``y[j, user] = b[j] + sum over i of W[i, j] x[i, user]``, four columns and ``step`` rows at a time, as :func:`_blocks` lays them.

    ``b`` lies in the scratch at ``bo``, or in the weights where ``bo`` is negative: at ``-bo``.
    """
    literally(step)
    literally(lanes)
    for j in range(0, columns, 4):
        y = y_[yo + j * lanes : yo + (j + 4) * lanes]
        b = y_[bo + j : bo + j + 4] if bo >= 0 else w_[j - bo : j - bo + 4]
        b0, b1, b2, b3 = b[0], b[1], b[2], b[3]
        for u in range(lanes):
            y[u] = b0
            y[lanes + u] = b1
            y[2 * lanes + u] = b2
            y[3 * lanes + u] = b3
        for c in range(0, inner, step):
            begin = wo + j * stride + 4 * c
            w, x = w_[begin : begin + 4 * step], x_[xo + c * lanes : xo + (c + step) * lanes]
            for u in range(lanes):
                t0, t1, t2, t3 = y[u], y[lanes + u], y[2 * lanes + u], y[3 * lanes + u]
                for i in range(step):
                    v = x[i * lanes + u]
                    t0 += w[i] * v
                    t1 += w[step + i] * v
                    t2 += w[2 * step + i] * v
                    t3 += w[3 * step + i] * v
                y[u], y[lanes + u], y[2 * lanes + u], y[3 * lanes + u] = t0, t1, t2, t3


def _blocks(weight: Float32Array, step: int) -> Float32Array:
    """``(inputs, outputs)`` as :func:`_product` reads it: four outputs a block, in it ``step`` inputs of one, of the next, ..."""
    inner, columns = padded(weight.shape[0], step), padded(weight.shape[1], 4)
    wide = zero_padded(weight, inner, columns)
    blocks: Float32Array = wide.reshape(inner // step, step, columns // 4, 4).transpose(2, 0, 3, 1).ravel()
    return blocks


@small
def _leaky(s: Any, offset: Any, target_at: Any, count: Any, factor: Any, fresh: Any) -> None:
    """``target = factor * leaky(source)`` where ``fresh``, else added to the target: ``count`` values of the scratch at each offset."""
    y, z = s[offset : offset + count], s[target_at : target_at + count]
    if fresh:
        for u in range(count):
            z[u] = factor * max(y[u], _LEAK * y[u])
    else:
        for u in range(count):
            z[u] += factor * max(y[u], _LEAK * y[u])


@small
def _weigh(w: Any, wo: Any, s: Any, offset: Any, target_at: Any, rows: Any, lanes: Any) -> None:
    """``s[target_at + user] += sum over rows of w[row] * s[offset + row, user]``."""
    literally(lanes)
    y = s[target_at : target_at + lanes]
    for j in range(rows):
        factor, x = w[wo + j], s[offset + j * lanes : offset + (j + 1) * lanes]
        for u in range(lanes):
            y[u] += factor * x[u]


@inlined
def _shared(
    w: Any,
    s: Any,
    out: Any,
    n: Any,
    width: Any,
    depth: Any,
    inner: Any,
    columns: Any,
    offsets: Any,
    count: Any,
    rows: Any,
    lanes: Any,
    many: Any,
    many_: Any,
    wide: Any,
    outputs: Any,
    gated: Any,
    experts: Any,
) -> None:
    """Paper B's network, eqs. (12) to (20). ``offsets``: where in the weights the layers of an expert begin, then its length."""
    mean = rows * lanes
    gate = mean + rows
    ping = gate + 2 * many_
    pong, together = ping + wide * lanes, ping + 2 * wide * lanes
    logits = together + wide * lanes
    g = s[gate : gate + many_]
    if gated:
        row_sums(s, 0, mean, count, lanes, n)
        for j in range(many_):
            g[j] = float32(0.0)
        for f in range(count):
            add_scaled(s, gate, w, outputs * wide + f * many_, many_, s[mean + f] / float32(n))
        gate_weights(s, gate, gate + many_, many, many_, width)
    else:
        for j in range(many):
            g[j] = float32(1.0 / many)
    last = columns[depth - 1]
    fresh = True
    for e in range(many):
        weight = g[e]
        if weight > float32(0.0):
            begin = experts + e * offsets[len(inner)]
            _product(
                w, begin, -(begin + rows * columns[0]), s, 0, s, ping, rows, columns[0], rows, STEP_FEATURES, lanes
            )
            source, target = ping, pong
            for layer in range(1, depth):
                _leaky(s, source, source, columns[layer - 1] * lanes, float32(1.0), True)
                wo, i, c = begin + offsets[layer], inner[layer], columns[layer]
                _product(w, wo, -(wo + i * c), s, source, s, target, i, c, i, STEP, lanes)
                source, target = target, source
            _leaky(s, source, together, last * lanes, weight, fresh)
            fresh = False
    for o in range(outputs):
        for u in range(lanes):
            s[logits + u] = float32(0.0)
        _weigh(w, o * wide, s, together, logits, last, lanes)
        softmax(s, logits, lanes, out, o * n, n)


def _shared_code(spec: AllocatorSpec) -> tuple[Run, Run, int]:
    count, outputs = len(spec.features), len(spec.outputs)
    rows, lanes, many_ = padded(count, STEP_FEATURES), padded(spec.users), padded(spec.experts)
    columns = tuple(padded(h, STEP) for h in spec.hidden)
    inner = (rows, *columns[:-1])
    wide = max(columns)
    offsets = tuple(int(x) for x in np.cumsum([0, *(i * c + c for i, c in zip(inner, columns, strict=True))]))
    experts = outputs * wide + (count * many_ if spec.gated else 0)
    many, gated = spec.experts, spec.gated
    scratch_size = rows * lanes + rows + 2 * many_ + 3 * wide * lanes + lanes

    def run(w: Any, x: Any, out: Any, s: Any, n: Any, width: Any, depth: Any) -> None:
        for u in range(n):
            for f in range(count):
                s[f * lanes + u] = x[u * count + f]
        _shared(
            w,
            s,
            out,
            n,
            width,
            depth,
            inner,
            columns,
            offsets,
            count,
            rows,
            lanes,
            many,
            many_,
            wide,
            outputs,
            gated,
            experts,
        )

    def decide(w: Any, table: Any, tasks: Any, clock_hz: Any, out: Any, s: Any) -> Any:
        n = tasks.shape[1]
        cell = look_up(table, tasks, clock_hz, n, count)
        depth = int(table[cell + (int(table[1]) + 1) * (int(table[2]) + 1)])
        normalise(table, tasks, s, 0, lanes, n, count)
        _shared(
            w,
            s,
            out,
            n,
            int(table[cell]),
            depth,
            inner,
            columns,
            offsets,
            count,
            rows,
            lanes,
            many,
            many_,
            wide,
            outputs,
            gated,
            experts,
        )
        return cell

    return compiled(run), compiled(decide), scratch_size


def _shared_pack(spec: AllocatorSpec, arrays: Mapping[str, Float32Array], n: int) -> Float32Array:
    columns = [padded(h, STEP) for h in spec.hidden]
    parts = [zero_padded(arrays["output_weight"].T, len(spec.outputs), max(columns))]
    parts += [zero_padded(arrays["gate_weight"], len(spec.features), padded(spec.experts))] if spec.gated else []
    for e in range(spec.experts):
        for layer, (wide, before) in enumerate(zip(columns, [0, *columns], strict=False)):
            weight, bias = arrays[f"expert{layer}_weight"][e], arrays[f"expert{layer}_bias"][e]
            weight = zero_padded(weight, before or weight.shape[0], wide)
            parts += [_blocks(weight, STEP if layer else STEP_FEATURES), zero_padded(bias, wide)]
    return aligned(np.concatenate([part.ravel() for part in parts]))


@inlined
def _per_user(
    w: Any,
    s: Any,
    out: Any,
    n: Any,
    width: Any,
    depth: Any,
    count: Any,
    rows: Any,
    lanes: Any,
    units: Any,
    outputs: Any,
) -> None:
    """The per-user network. A layer's weights: own minus others / (n - 1), because the mean of the others is (sum - own) / (n - 1); then
    others / (n - 1), which meets the sum and gives one more bias for all users; then the bias."""
    inner = rows
    sums = rows * lanes
    biases = sums + max(units, rows)
    h, z = biases + units, biases + units + units * lanes
    logits = z + units * lanes
    block, up = padded_inside(width, 4), padded_inside(width, STEP_FEATURES)
    begin = outputs * (units + rows)
    for layer in range(depth):
        have = count if layer == 0 else width
        row_sums(s, 0 if layer == 0 else h, sums, have, lanes, n)
        others = begin + inner * units
        start(s, biases, w, others + inner * units, units)
        for i in range(have):
            add_scaled(s, biases, w, others + i * units, units, s[sums + i])
        if layer == 0:
            _product(w, begin, biases, s, 0, s, z, rows, block, rows, STEP_FEATURES, lanes)
        else:
            _product(w, begin, biases, s, h, s, z, up, block, units, STEP_FEATURES, lanes)
        _leaky(s, z, h, width * lanes, float32(1.0), layer == 0)
        for u in range((up - width) * lanes):
            s[h + width * lanes + u] = float32(0.0)
        begin = others + (inner + 1) * units
        inner = units
    for o in range(outputs):
        for u in range(lanes):
            s[logits + u] = float32(0.0)
        _weigh(w, o * (units + rows), s, h, logits, width, lanes)
        _weigh(w, o * (units + rows) + units, s, 0, logits, count, lanes)
        softmax(s, logits, lanes, out, o * n, n)


def _per_user_code(spec: AllocatorSpec) -> tuple[Run, Run, int]:
    count, outputs = len(spec.features), len(spec.outputs)
    rows, lanes, units = padded(count, STEP_FEATURES), padded(spec.users), padded(spec.hidden[0])
    scratch_size = rows * lanes + max(units, rows) + units + 2 * units * lanes + lanes

    def run(w: Any, x: Any, out: Any, s: Any, n: Any, width: Any, depth: Any) -> None:
        for u in range(n):
            for f in range(count):
                s[f * lanes + u] = x[u * count + f]
        _per_user(w, s, out, n, width, depth, count, rows, lanes, units, outputs)

    def decide(w: Any, table: Any, tasks: Any, clock_hz: Any, out: Any, s: Any) -> Any:
        n = tasks.shape[1]
        cell = look_up(table, tasks, clock_hz, n, count)
        depth = int(table[cell + (int(table[1]) + 1) * (int(table[2]) + 1)])
        normalise(table, tasks, s, 0, lanes, n, count)
        _per_user(w, s, out, n, int(table[cell]), depth, count, rows, lanes, units, outputs)
        return cell

    return compiled(run), compiled(decide), scratch_size


def _per_user_pack(spec: AllocatorSpec, arrays: Mapping[str, Float32Array], n: int) -> Float32Array:
    units, rows = padded(spec.hidden[0]), padded(len(spec.features), STEP_FEATURES)
    share = np.float32(1.0 / (n - 1) if n > 1 else 0.0)
    parts = []
    for o in range(len(spec.outputs)):
        parts += [zero_padded(arrays["output_weight"][:, o], units), zero_padded(arrays["direct_weight"][:, o], rows)]
    for layer in range(len(spec.hidden)):
        inner = units if layer else rows
        others = arrays[f"others{layer}_weight"] * share
        own = arrays[f"own{layer}_weight"] - others
        parts += [_blocks(zero_padded(own, inner, units), STEP_FEATURES), zero_padded(others, inner, units)]
        parts.append(zero_padded(arrays[f"layer{layer}_bias"], units))
    return aligned(np.concatenate([part.ravel() for part in parts]))


# ---------------------------------------------------------------------------------------------------------- public


@dataclass(frozen=True)
class Code:
    """Machine code for networks of one shape.

    ``run(weights, x, out, scratch, users, width, depth)`` takes inputs, ``decide(weights, table, tasks, clock_hz, out, scratch)`` raw
    quantities ``(features, users)`` and returns the index in the table of the chosen width. ``out`` holds a row of shares per
    resource; everything but ``tasks`` is one-dimensional.
    """

    run: Run
    decide: Run
    scratch: int  # floats
    pack: Callable[[AllocatorSpec, Mapping[str, Float32Array], int], Float32Array]  # the weights, for a number of users


_FORMS = {
    "flat": (_flat_code, _flat_pack),
    "shared": (_shared_code, _shared_pack),
    "per_user": (_per_user_code, _per_user_pack),
}


@lru_cache(maxsize=64)
def _code_of_shape(shape: AllocatorSpec) -> Code:
    code, pack = _FORMS[shape.form]
    run, decide, scratch_size = code(shape)
    return Code(run, decide, scratch_size, pack)


def code(spec: AllocatorSpec, users: int) -> Code:
    """The code for networks of this shape and so many users; it is compiled at its first call (seconds) or read from the disk (a tenth
    of one). Where users lie in a vector, fewer of them are shorter vectors, whatever the most is that the network takes.
    """
    plain: dict[str, Any] = {
        "root": "", "features": tuple(f.model_copy(update={"name": str(i)}) for i, f in enumerate(spec.features))
    }  # fmt: skip
    if spec.form != "flat":
        plain["users"] = padded(users)
    return _code_of_shape(spec.model_copy(update=plain))
