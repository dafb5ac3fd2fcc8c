"""The decision table: the answers of :func:`kit.knowledge.ask` as arrays, for hot paths. numpy alone loads and reads it.

Rows that an at least as accurate (and as fast, small, frugal) row makes superfluous are dropped; the rest stand in the order of
preference, so the answer is the first that meets every limit, and a minimum accuracy only asks whether that one reaches it.

Each limit is cut into buckets by the leading bits of its floating-point number. For a bucket two sets of rows are known as bits of a
word: those that meet the limit anywhere in it, and those that may. (The deadline's bucket has two sides, because with a link the
download counts towards it.) Sets of several limits are combined by AND; the first sure row answers, once the few doubtful rows before
it have been tried with the same arithmetic as ``ask``. So the answers are not approximate: they are the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kit import store
from kit.errors import BadRecord, UsageError
from kit.knowledge.checks import checks_of, download_bits, rank, select
from kit.records import STORED_PERCENTILES, KnowledgeRow, Need
from kit.stats import Float64Array, Int64Array

SCHEMA = 1
TIME_BITS, LINK_BITS, FINE_BITS = 3, 2, 5  # of the mantissa: 8, 4 and 32 buckets an octave
DOWNLOAD_MAX_S = 100.0  # slower downloads than this share one bucket
BLOCK = 1 << 14  # queries that are answered together: their arrays stay in the cache
WORD = 64
ABOUT = ("artifact_id", "sha256", "device_id", "backend", "point")  # of each variant, as text
COLUMNS = ("row", "latency_s", "bits", "memory_bytes", "energy_j", "accuracy")  # of each percentile

Words = NDArray[np.uint64]
One = Callable[[Any, Any, Any, Any, Any, Any], int]


class Variant(NamedTuple):
    """The variant of one row number of the table."""

    artifact_id: str
    sha256: str
    device_id: str
    backend: str
    point: str
    threads: int
    promised: bool  # False: predicted, so measure it first


@dataclass(frozen=True)
class DecisionTable:
    """Built by :func:`compile_rows` or :meth:`load`. Queries name limits as a :class:`kit.records.Need` does, in SI units."""

    arrays: dict[str, NDArray[Any]]

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """What the row numbers stand for."""
        about = [self.arrays[name].tolist() for name in (*ABOUT, "threads", "promised")]
        return tuple(Variant(*values) for values in zip(*about, strict=True))

    @cached_property
    def percentiles(self) -> tuple[int, ...]:
        """Percentiles of the latency that were compiled."""
        return tuple(int(p) for p in self.arrays["percentiles"])

    @cached_property
    def _layers(self) -> dict[int, _Layer]:
        return {p: _Layer(*(self.arrays[f"p{p}_{name}"] for name in COLUMNS)) for p in self.percentiles}

    @cached_property
    def _ones(self) -> dict[int, One]:
        return {p: layer.one() for p, layer in self._layers.items()}

    def choose(
        self,
        deadline_s: float | None = None,
        memory_bytes: float | None = None,
        min_accuracy: float | None = None,
        link_bps: float | None = None,
        download_s: float | None = None,
        energy_j: float | None = None,
        percentile: int = 99,
    ) -> int:
        """The number of the chosen variant in :attr:`variants`, -1 where none meets every limit.

        Raises UsageError for a limit that is no positive number, or a percentile that was not compiled.
        """
        one = self._ones.get(percentile)
        if one is None:
            raise self._unknown(percentile)
        return one(deadline_s, memory_bytes, min_accuracy, link_bps, download_s, energy_j)

    def choose_many(
        self,
        deadline_s: ArrayLike | None = None,
        memory_bytes: ArrayLike | None = None,
        min_accuracy: ArrayLike | None = None,
        link_bps: ArrayLike | None = None,
        download_s: ArrayLike | None = None,
        energy_j: ArrayLike | None = None,
        percentile: ArrayLike = 99,
    ) -> Int64Array:
        """:meth:`choose` for [n] queries at once; each limit a number, [n] numbers, or None. Inside arrays infinity means
        "no limit" (minus infinity for a minimum accuracy)."""
        values = (deadline_s, memory_bytes, min_accuracy, link_bps, download_s, energy_j)
        limits = [None if v is None else np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in values]
        _refuse(limits)
        percentiles = np.atleast_1d(np.asarray(percentile))
        shape = np.broadcast_shapes(percentiles.shape, *(x.shape for x in limits if x is not None))
        limits = [None if x is None else np.ascontiguousarray(np.broadcast_to(x, shape)) for x in limits]
        kinds = np.unique(percentiles).tolist()
        for kind in kinds:
            if kind not in self._layers:
                raise self._unknown(kind)
        if len(kinds) == 1:
            return self._layers[int(kinds[0])].many(limits, shape[0])
        out = np.full(shape, -1, dtype=np.int64)
        for kind in kinds:
            indices = np.flatnonzero(np.broadcast_to(percentiles, shape) == kind)
            out[indices] = self._layers[int(kind)].many(
                [None if x is None else x[indices] for x in limits], len(indices)
            )
        return out

    def _unknown(self, percentile: object) -> UsageError:
        compiled = ", ".join(map(str, self.percentiles))
        return UsageError(f"This table was not compiled for percentile {percentile}: ask for one of {compiled}.")

    def save(self, path: Path) -> None:
        """As an .npz file without pickle, written atomically."""
        buffer = BytesIO()
        np.savez_compressed(buffer, **self.arrays)  # type: ignore[arg-type]
        store.write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> DecisionTable:
        """Raises UsageError (missing), BadRecord (no table, or one of another schema)."""
        with store.explained(path, "read"):
            data = path.read_bytes()
        try:
            with np.load(BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except Exception:  # numpy raises what zipfile, zlib and its own reader raise
            raise BadRecord(f"{path} is no decision table: make one with kit knowledge compile.") from None
        schema = arrays.get("schema")
        if schema is None or schema.shape != () or int(schema) != SCHEMA:
            raise BadRecord(f"{path} is a decision table of another schema: make it again with kit knowledge compile.")
        return cls(arrays)


def compile_rows(
    rows: Sequence[KnowledgeRow], need: Need | None = None, *, percentiles: Sequence[int] = STORED_PERCENTILES
) -> DecisionTable:
    """The table of one device and state: ``need`` names device, backend, threads, batch, operating point, data set and what the
    device has, as for :func:`kit.knowledge.ask`; its limits belong to the queries. Raises what ``ask`` raises for such a need,
    UsageError where it holds a limit, BadRecord where no row may decide."""
    need = need or Need()
    limits = (need.deadline_s, need.memory_bytes, need.energy_j, need.min_accuracy, need.link_bps, need.download_s)
    if any(x is not None for x in limits):
        raise UsageError("A decision table is compiled without limits: give them to its queries.")
    selection = select(rows, need)
    deciding = [r for r in selection.rows if all(c.met for c in checks_of(r, need, selection.accuracy_required))]
    if not deciding:
        raise BadRecord("None of these rows may decide: profile them again, until their labels are stable or settled.")
    about: dict[str, NDArray[Any]] = {
        "schema": np.array(SCHEMA),
        "percentiles": np.array(sorted(percentiles)),
        "artifact_id": np.array([r.artifact_id for r in deciding]),
        "sha256": np.array([r.sha256 for r in deciding]),
        "device_id": np.array([r.device_id for r in deciding]),
        "backend": np.array([r.backend for r in deciding]),
        "point": np.array([r.point_name for r in deciding]),
        "threads": np.array([r.threads for r in deciding]),
        "promised": np.array([r.origin == "measured" for r in deciding]),
    }
    columns = [_columns(deciding, need.model_copy(update={"percentile": p}), p) for p in percentiles]
    return DecisionTable(about | {name: array for selection in columns for name, array in selection.items()})


def _columns(deciding: Sequence[KnowledgeRow], need: Need, percentile: int) -> dict[str, NDArray[Any]]:
    """The rows in the order of preference, without those that can never be the answer."""
    order = sorted(range(len(deciding)), key=lambda i: rank(deciding[i], need))
    costs = np.array([_costs(deciding[i], need) for i in order])
    undominated: list[int] = []
    for i, cost in enumerate(costs):
        if not np.any(np.all(costs[undominated] <= cost, axis=1)):
            undominated.append(i)
    rows = np.array(order)[undominated]
    accuracy = [-np.inf if (a := deciding[i].accuracy) is None else a for i in rows]
    columns = (rows, *costs[undominated].T, np.array(accuracy, dtype=np.float64))
    return {f"p{percentile}_{name}": np.ascontiguousarray(c) for name, c in zip(COLUMNS, columns, strict=True)}


def _costs(row: KnowledgeRow, need: Need) -> tuple[float, ...]:
    memory = np.inf if row.memory_bytes is None else float(row.memory_bytes)
    energy = np.inf if row.energy_j is None else row.energy_j
    return row.latency_s(need.percentile), download_bits(row, need.have), memory, energy


def _refuse(limits: Sequence[Float64Array | None]) -> None:
    for index, values in enumerate(limits):
        lowest = None if values is None or not values.size else float(values.min())  # NaN spreads to the minimum
        if lowest is not None and (np.isnan(lowest) or (index != 2 and not lowest > 0)):
            raise _no_limit(lowest)


def _no_limit(value: float) -> UsageError:
    return UsageError(f"{value:g} is no limit: give numbers above zero, in SI units.")


# -------------------------------------------------------------------------------------------------------------- buckets


class _Scale:
    """Buckets of positive numbers by their leading bits, 2**``bits`` an octave; the first reaches down to 0, the last up to infinity."""

    def __init__(self, low: float, high: float, bits: int) -> None:
        self.shift = 52 - bits
        self.first = int(np.float64(low).view(np.int64)) >> self.shift
        last = max(self.first, int(np.float64(high).view(np.int64)) >> self.shift)
        edges = (np.arange(self.first, last + 1, dtype=np.int64) << self.shift).view(np.float64)
        self.starts = np.concatenate(([0.0], edges))
        self.ends = np.concatenate((edges, [np.inf]))

    def __len__(self) -> int:
        return len(self.starts)

    def index(self, values: Float64Array) -> Int64Array:
        """The bucket of each value [n], all above zero."""
        buckets = values.view(np.int64) >> self.shift
        buckets -= self.first - 1
        return np.clip(buckets, 0, len(self) - 1, out=buckets)


@dataclass(frozen=True)
class _Sets:
    """For each bucket the rows that meet a limit for sure, and those that may: [words, buckets]."""

    sure: Words
    maybe: Words

    @classmethod
    def of(cls, sure: NDArray[np.bool_], maybe: NDArray[np.bool_]) -> _Sets:
        """From [rows, buckets]."""
        return cls(_packed(sure), _packed(maybe))

    def ints(self) -> tuple[list[int], list[int]]:
        return _ints(self.sure), _ints(self.maybe)


def _packed(fits: NDArray[np.bool_]) -> Words:
    rows, buckets = fits.shape
    padded = np.zeros((-(-rows // WORD) * WORD, buckets), dtype=bool)
    padded[:rows] = fits
    octets = np.packbits(padded, axis=0, bitorder="little")  # [words * 8, buckets]
    octets = octets.reshape(-1, 8, buckets).transpose(0, 2, 1)
    words: Words = np.ascontiguousarray(octets).view("<u8")[..., 0].astype(np.uint64)
    return words


def _ints(words: Words) -> list[int]:
    out = [0] * words.shape[1]
    for word in words[::-1]:
        out = [(high << WORD) | low for high, low in zip(out, word.tolist(), strict=True)]
    return out


def _upper(values: Float64Array, scale: _Scale) -> _Sets:
    """Sets of the limit value <= bound."""
    column = values[:, None]
    return _Sets.of(column <= scale.starts, column <= scale.ends)


def _sums(seconds: Float64Array, bits: Float64Array, bounds: _Scale, links: _Scale) -> _Sets:
    """Sets of the limit seconds + bits / link <= bound, buckets in the order bound * links + link."""
    with np.errstate(divide="ignore", invalid="ignore"):
        slow = np.where(bits[:, None] == 0, 0.0, bits[:, None] / links.starts) + seconds[:, None]
    fast = bits[:, None] / links.ends + seconds[:, None]
    sure = slow[:, None, :] <= bounds.starts[:, None]
    maybe = fast[:, None, :] <= bounds.ends[:, None]
    return _Sets.of(sure.reshape(len(bits), -1), maybe.reshape(len(bits), -1))


def _lowest(words: Words) -> Words:
    """The lowest bit of each word alone."""
    lowest: Words = words & (~words + np.uint64(1))
    return lowest


def _number(bits: Words) -> Int64Array:
    """The index of the only bit of each word: the exponent of it as a floating-point number."""
    return (bits.astype(np.float64).view(np.int64) >> 52) - 1023


class _Layer:
    """The rows of one percentile, [n] in the order of preference, and the sets of their limits."""

    def __init__(
        self,
        row: Int64Array,
        latency_s: Float64Array,
        bits: Float64Array,
        memory_bytes: Float64Array,
        energy_j: Float64Array,
        accuracy: Float64Array,
    ) -> None:
        self.row, self.latency_s, self.bits = row, latency_s, bits
        self.memory_bytes, self.energy_j, self.accuracy = memory_bytes, energy_j, accuracy
        longest = max(DOWNLOAD_MAX_S, 10 * float(latency_s.max()))
        positive = bits[bits > 0]
        least, most = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
        self.links = _Scale(least / longest, 200 * most / float(latency_s.min()), LINK_BITS)
        self.times = _Scale(float(latency_s.min()), float(latency_s.max()) + longest, TIME_BITS)
        self.memories, self.energies = _scale(memory_bytes), _scale(energy_j)

    @cached_property
    def time_sets(self) -> _Sets:
        return _sums(self.latency_s, self.bits, self.times, self.links)

    @cached_property
    def download_sets(self) -> _Sets:
        return _sums(np.zeros(len(self.bits)), self.bits, self.times, self.links)

    @cached_property
    def memory_sets(self) -> _Sets:
        return _upper(self.memory_bytes, self.memories)

    @cached_property
    def energy_sets(self) -> _Sets:
        return _upper(self.energy_j, self.energies)

    # ------------------------------------------------------------------------------------------------------- one query

    def one(self) -> One:
        """A function that answers one query; its data is bound to local names."""
        row, latency, bits = self.row.tolist(), self.latency_s.tolist(), self.bits.tolist()
        memory, energy, accuracy = self.memory_bytes.tolist(), self.energy_j.tolist(), self.accuracy.tolist()
        times, links, count = self.times.starts.tolist(), self.links.starts.tolist(), len(self.links)
        memories, energies = self.memories.starts.tolist(), self.energies.starts.tolist()
        time_sure, time_maybe = self.time_sets.ints()
        memory_sure, memory_maybe = self.memory_sets.ints()
        energy_sure, energy_maybe = self.energy_sets.ints()
        late: list[tuple[list[int], list[int]]] = []  # the sets of downloads, built at the first query that needs them
        everything = (1 << len(row)) - 1

        def fits(i: int, deadline_s: Any, memory_bytes: Any, link_bps: Any, download_s: Any, energy_j: Any) -> bool:
            """The arithmetic of ``ask``."""
            download = bits[i] / link_bps if link_bps is not None else 0.0
            if deadline_s is not None:
                total_s = latency[i] + download if link_bps is not None and download_s is None else latency[i]
                if total_s > deadline_s:
                    return False
            if download_s is not None and link_bps is not None and download > download_s:
                return False
            if memory_bytes is not None and memory[i] > memory_bytes:
                return False
            return energy_j is None or energy[i] <= energy_j

        def one(
            deadline_s: Any, memory_bytes: Any, min_accuracy: Any, link_bps: Any, download_s: Any, energy_j: Any
        ) -> int:
            sure = maybe = everything
            link = count - 1
            if link_bps is not None:
                if not link_bps > 0:
                    raise _no_limit(link_bps)
                link = bisect_right(links, link_bps) - 1
            if deadline_s is not None:
                if not deadline_s > 0:
                    raise _no_limit(deadline_s)
                cell = (bisect_right(times, deadline_s) - 1) * count + (link if download_s is None else count - 1)
                sure, maybe = time_sure[cell], time_maybe[cell]
            if memory_bytes is not None:
                if not memory_bytes > 0:
                    raise _no_limit(memory_bytes)
                cell = bisect_right(memories, memory_bytes) - 1
                sure &= memory_sure[cell]
                maybe &= memory_maybe[cell]
            if energy_j is not None:
                if not energy_j > 0:
                    raise _no_limit(energy_j)
                cell = bisect_right(energies, energy_j) - 1
                sure &= energy_sure[cell]
                maybe &= energy_maybe[cell]
            if download_s is not None:
                if not download_s > 0:
                    raise _no_limit(download_s)
                if link_bps is not None:
                    if not late:
                        late.append(self.download_sets.ints())
                    cell = (bisect_right(times, download_s) - 1) * count + link
                    sure &= late[0][0][cell]
                    maybe &= late[0][1][cell]
            best = sure & -sure
            maybe &= best - 1  # the doubtful before the first sure one; all of them where none is sure
            while maybe:
                bit = maybe & -maybe
                if fits(bit.bit_length() - 1, deadline_s, memory_bytes, link_bps, download_s, energy_j):
                    best = bit
                    break
                maybe ^= bit
            if not best:
                return -1
            i = best.bit_length() - 1
            if min_accuracy is not None and not accuracy[i] >= min_accuracy:
                if min_accuracy != min_accuracy:
                    raise _no_limit(min_accuracy)
                return -1
            return row[i]  # type: ignore[no-any-return]

        return one

    # ---------------------------------------------------------------------------------------------------- many queries

    def many(self, limits: Sequence[Float64Array | None], count: int) -> Int64Array:
        """The row of each of ``count`` queries, -1 where none fits; block by block, so that what is looked up stays in the cache."""
        out = np.empty(count, dtype=np.int64)
        rows = np.append(self.row, -1)
        accuracy = np.append(self.accuracy, np.inf)
        for start in range(0, count, BLOCK):
            deadline, memory, minimum, link, download, energy = (
                None if x is None else x[start : start + BLOCK] for x in limits
            )
            size = min(BLOCK, count - start)
            first = self._first(_Block(self, size, deadline, memory, link, download, energy))
            if minimum is not None:
                first[accuracy[first] < minimum] = -1
            rows.take(first, out=out[start : start + size], mode="wrap")
        return out

    def _first(self, block: _Block) -> Int64Array:
        first = np.full(block.size, -1, dtype=np.int64)
        for word in range(-(-len(self.row) // WORD)):
            sure, maybe = block.sets(word)
            if word:
                answered = first >= 0
                sure[answered] = 0
                maybe[answered] = 0
            lowest = _lowest(sure)
            maybe &= lowest - np.uint64(1)
            settled = np.where(lowest != 0, _number(lowest) + WORD * word, first)
            self._try(block, maybe, settled, word)
            first = settled
            if word + 1 < -(-len(self.row) // WORD) and (first >= 0).all():
                break
        return first

    def _try(self, block: _Block, maybe: Words, first: Int64Array, word: int) -> None:
        """The doubtful rows in their order, until one fits."""
        indices = np.flatnonzero(maybe)
        remaining = maybe[indices]
        while len(indices):
            bit = _lowest(remaining)
            number = _number(bit) + WORD * word
            fits = block.fits(number, indices)
            first[indices[fits]] = number[fits]
            remaining ^= bit
            going = ~fits & (remaining != 0)
            indices, remaining = indices[going], remaining[going]


def _scale(values: Float64Array) -> _Scale:
    finite = values[np.isfinite(values) & (values > 0)]
    return _Scale(float(finite.min()), float(finite.max()), FINE_BITS) if len(finite) else _Scale(1.0, 1.0, FINE_BITS)


class _Block:
    """Some queries, [m]: their buckets, and the exact test of a row for each."""

    def __init__(
        self,
        layer: _Layer,
        size: int,
        deadline: Float64Array | None,
        memory: Float64Array | None,
        link: Float64Array | None,
        download: Float64Array | None,
        energy: Float64Array | None,
    ) -> None:
        self.layer, self.size = layer, size
        self.deadline, self.memory, self.link, self.download, self.energy = deadline, memory, link, download, energy
        self.limits: list[tuple[_Sets, Int64Array]] = []
        count = len(layer.links)
        links = layer.links.index(link) if link is not None else None
        if deadline is not None:
            cell = layer.times.index(deadline) * count
            if links is None:
                cell += count - 1
            else:
                cell += links if download is None else np.where(np.isinf(download), links, count - 1)
            self.limits.append((layer.time_sets, cell))
        if memory is not None:
            self.limits.append((layer.memory_sets, layer.memories.index(memory)))
        if energy is not None:
            self.limits.append((layer.energy_sets, layer.energies.index(energy)))
        if download is not None and links is not None:
            self.limits.append((layer.download_sets, layer.times.index(download) * count + links))

    def sets(self, word: int) -> tuple[Words, Words]:
        """Of 64 rows: which meet every limit of each query, and which may."""
        if not self.limits:
            remaining = min(WORD, len(self.layer.row) - WORD * word)
            all_rows = np.full(self.size, (1 << remaining) - 1, dtype=np.uint64)
            return all_rows, all_rows.copy()
        (first, cell), *others = self.limits
        sure, maybe = first.sure[word].take(cell), first.maybe[word].take(cell)
        for sets, bucket in others:
            sure &= sets.sure[word].take(bucket)
            maybe &= sets.maybe[word].take(bucket)
        return sure, maybe

    def fits(self, row: Int64Array, indices: Int64Array) -> NDArray[np.bool_]:
        """Whether row ``row[i]`` meets every limit of query ``indices[i]``: the arithmetic of ``ask``."""
        layer = self.layer
        fits = np.ones(len(indices), dtype=bool)
        link, wait = (None if x is None else x[indices] for x in (self.link, self.download))
        download = None if link is None else layer.bits[row] / link
        if self.deadline is not None:
            total_s = layer.latency_s[row]
            if download is not None:
                total_s = total_s + (download if wait is None else np.where(np.isinf(wait), download, 0.0))
            fits &= total_s <= self.deadline[indices]
        if wait is not None and download is not None:
            fits &= download <= wait
        if self.memory is not None:
            fits &= layer.memory_bytes[row] <= self.memory[indices]
        if self.energy is not None:
            fits &= layer.energy_j[row] <= self.energy[indices]
        return fits
