"""Rows for sub-networks that nobody measured: their latency from a predictor, their tail and memory from measured rows like them.

What measured rows do not hold stays unknown. Memory is estimated only between measured networks of the same family and precision, and
only where leaving one of them out shows that it works; it is the value that nine in ten of them stayed below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np

from kit import spaces, store
from kit.errors import BadRecord, KitError
from kit.knowledge.rows import Tail, predicted_row, tail_of
from kit.latency.features import PRECISIONS
from kit.latency.model import Predictor, load
from kit.records import DECIDING, Kernel, KnowledgeBase, KnowledgeRow, OperatingPoint, SubNetwork
from kit.stats import Float64Array

MEMORY_LEAST = 10  # measured rows that an estimate of memory needs
MEMORY_LEVEL = 0.9  # share of the measured rows that stay below it, each when it was left out
MEMORY_WORST = 1.25  # an estimate that must be stretched by more than this is of no use
MEMORY_SIZE_MARGIN = 1.1  # how far outside of the measured sizes it is still made


@dataclass(frozen=True)
class Predicted:
    """Rows, and remarks on them: id -> why it is an extrapolation; id -> why there is no row for it."""

    rows: tuple[KnowledgeRow, ...]
    extrapolations: dict[str, str]
    left_out: dict[str, str]


def members_of(names: Sequence[str], count: int | None, seed: int) -> list[SubNetwork]:
    """``count`` random members of each space (None: all), drawn with ``seed``. Raises UnknownName."""
    members: list[SubNetwork] = []
    for name in dict.fromkeys(names):
        space = spaces.space_of(name)
        members += list(space) if count is None or count >= len(space) else space.sample(count, seed)
    return members


def rows_by_model(base: KnowledgeBase, file: Path, members: Sequence[SubNetwork]) -> Predicted:
    """Rows of ``members`` by the model in ``file``, at each of its thread counts at which something trusted was measured.

    Raises what :func:`kit.latency.load` and :func:`predicted_rows` raise.
    """
    predictor = load(file)
    counts = sorted({s.threads for s in predictor.states if not s.gap_s and not s.load}) or [
        predictor.states[0].threads
    ]
    of_predictor = [r for r in base.rows if (r.device_id, r.backend) == (predictor.device_id, predictor.backend)]
    measured = {r.threads for r in of_predictor if r.label in DECIDING and r.point is None}
    name = f"{file.name} {store.sha256_file(file)[:12]}"
    parts = [
        predicted_rows(predictor, members, base.rows, threads=threads, model=name)
        for threads in ([t for t in counts if t in measured] or counts[:1])
    ]
    return Predicted(
        tuple(row for part in parts for row in part.rows),
        {name: why for part in parts for name, why in part.extrapolations.items()},
        {name: why for part in parts for name, why in part.left_out.items()},
    )


def predicted_rows(
    predictor: Predictor,
    members: Sequence[SubNetwork],
    like: Sequence[KnowledgeRow],
    *,
    threads: int,
    model: str,
) -> Predicted:
    """A row for each of ``members`` at ``threads`` threads, back-to-back calls on an idle machine.

    ``like`` are measured rows: of the predictor's device and backend they give the tail and the memory. ``model`` names the predictor.
    Members of a precision that was not measured there are left out. Raises BadRecord where nothing trusted was measured there, UsageError
    for a thread count outside of the measured ones or a member outside of its space.
    """
    tail = tail_of(like, predictor.device_id, predictor.backend, None, threads)
    predictable, left_out = _of_measured_precision(predictor, members, threads)
    if not predictable:
        return Predicted((), {}, left_out)
    kernels = [spaces.kernels(sub) for sub in predictable]
    predictions = predictor.predict(
        kernels, OperatingPoint(threads=threads), families=[sub.family for sub in predictable]
    )
    alike = [r for r in like if (r.device_id, r.backend, r.point_name) == _conditions(predictor, threads)]
    memory = _memories(alike, predictable, kernels)
    rows = tuple(
        predicted_row(
            sub, float(predictions.seconds[i]), float(predictions.low[i]), float(predictions.high[i]),
            like=like, model=model, device_id=predictor.device_id, backend=predictor.backend, threads=threads, tail=tail,
            size_bytes=spaces.counts(sub).weight_bytes, macs=sum(k.macs * k.count for k in kernels[i]), memory_bytes=memory[i],
        )
        for i, sub in enumerate(predictable)
    )  # fmt: skip
    why = {sub.id: text for sub, text in zip(predictable, predictions.why, strict=True) if text is not None}
    return Predicted(rows, why, left_out)


def _conditions(predictor: Predictor, threads: int) -> tuple[str, str, str]:
    return predictor.device_id, predictor.backend, OperatingPoint(threads=threads).name


def _of_measured_precision(
    predictor: Predictor, members: Sequence[SubNetwork], threads: int
) -> tuple[list[SubNetwork], dict[str, str]]:
    """Those whose precision was measured at this point, and why not the others: of it nothing at all would be known."""
    states = [i for i, s in enumerate(predictor.states) if s.threads == threads]
    pairs = zip(predictor.measured.precision, predictor.measured.state, strict=True)
    precisions = {PRECISIONS[precision] for precision, state in pairs if state in states or not states}
    predictable = [sub for sub in members if sub.precision in precisions]
    return predictable, {
        sub.id: f"{sub.precision} was not measured" for sub in members if sub.precision not in precisions
    }


# --------------------------------------------------------------------------------------------------------------- memory


@dataclass(frozen=True)
class MemoryModel:
    """Peak memory = base + per weight byte + per byte of the largest kernel's activations + per kernel; ``stretch`` makes it an upper
    estimate."""

    coefficients: Float64Array
    stretch: float
    low: Float64Array
    high: Float64Array

    def estimate(self, features: Float64Array) -> int | None:
        """None outside of the measured sizes."""
        inside = np.all(features >= self.low / MEMORY_SIZE_MARGIN) and np.all(
            features <= self.high * MEMORY_SIZE_MARGIN
        )
        return ceil(float(features @ self.coefficients) * self.stretch) if inside else None


def fit_memory(features: Float64Array, memory_bytes: Float64Array) -> MemoryModel | None:
    """``features`` [n, 4] and what was measured [n]; None where these are too few, or do not predict the memory of a row left out."""
    if len(memory_bytes) < MEMORY_LEAST:
        return None
    scaled = features / memory_bytes[:, None]  # relative errors
    coefficients = _above_zero(scaled)
    left_out = np.array([scaled[i] @ _above_zero(np.delete(scaled, i, axis=0)) for i in range(len(scaled))])
    if np.any(left_out <= 0):
        return None
    index = min(len(scaled), ceil((len(scaled) + 1) * MEMORY_LEVEL)) - 1
    stretch = max(1.0, float(np.sort(1.0 / left_out)[index]))
    if stretch > MEMORY_WORST:
        return None
    return MemoryModel(coefficients, stretch, features.min(axis=0), features.max(axis=0))


def _above_zero(scaled: Float64Array) -> Float64Array:
    """Least squares to 1 without negative coefficients: the most negative is left out until none is."""
    out = np.zeros(scaled.shape[1])
    columns = list(range(scaled.shape[1]))
    while columns:
        solution = np.linalg.lstsq(scaled[:, columns], np.ones(len(scaled)), rcond=None)[0]
        if solution.min() >= 0:
            out[columns] = solution
            break
        columns.pop(int(solution.argmin()))
    return out


def _memories(
    rows: Sequence[KnowledgeRow], members: Sequence[SubNetwork], kernels: Sequence[Sequence[Kernel]]
) -> list[int | None]:
    """An upper estimate for each member, None where the measured rows are no base for one."""
    groups: dict[tuple[str, str], list[tuple[Float64Array, int]]] = {}
    for row in rows:
        sub = _member(row.artifact_id)
        if sub is not None and row.memory_bytes and row.label in DECIDING:
            groups.setdefault((sub.family, sub.precision), []).append(
                (_features(spaces.kernels(sub)), row.memory_bytes)
            )
    models = {
        name: fit_memory(np.array([f for f, _ in measured]), np.array([float(m) for _, m in measured]))
        for name, measured in groups.items()
    }
    fitted = [models.get((sub.family, sub.precision)) for sub in members]
    return [m.estimate(_features(listed)) if m else None for m, listed in zip(fitted, kernels, strict=True)]


def _features(kernels: Sequence[Kernel]) -> Float64Array:
    weights = sum(k.weight_bytes * k.count for k in kernels)
    largest = max(k.read_bytes + k.written_bytes for k in kernels)
    return np.array([1.0, float(weights), float(largest), float(sum(k.count for k in kernels))])


def _member(artifact_id: str) -> SubNetwork | None:
    """The member of a space that an id names."""
    try:
        return spaces.subnetwork(artifact_id)
    except KitError:
        return None


# ------------------------------------------------------------------------------------------- what predictions would choose


def held_out_rows(predictor: Predictor, rows: Sequence[KnowledgeRow]) -> tuple[list[KnowledgeRow], list[KnowledgeRow]]:
    """(predicted, measured): of each trusted row that the predictor was fitted to, the prediction from the fold that it was left out of.

    Everything but the latency is the measured row's. Raises BadRecord where the predictor knows none of these rows.
    """
    index = {record_id: i for i, record_id in enumerate(predictor.measured.record_ids)}
    measured = [r for r in rows if r.record_id in index and r.label in DECIDING]
    if not measured:
        raise BadRecord(
            "This model was fitted to none of these measurements: fit it to the profiles that the base is built from."
        )
    seconds, low, high = predictor.held_out()
    tails = {r.point_name: tail_of(measured, r.device_id, r.backend, r.point, r.threads) for r in measured}
    predicted = []
    for row in measured:
        i, tail = index[row.record_id], tails[row.point_name]
        predicted.append(_as_predicted(row, float(seconds[i]), float(low[i]), float(high[i]), tail))
    return predicted, measured


def papers_rows(rows: Sequence[KnowledgeRow]) -> list[KnowledgeRow]:
    """The rows with the papers' latency, MACs / clock (A, eq. 5), in place of their own; the formula knows no tail.

    Rows without MACs or clock are left out.
    """
    delays = [(r, r.macs / r.clock_hz) for r in rows if r.macs and r.clock_hz]
    return [_as_predicted(r, s, s, s, Tail({90: 1.0, 95: 1.0, 99: 1.0}, 1.0, 1.0)) for r, s in delays]


def _as_predicted(row: KnowledgeRow, seconds: float, low: float, high: float, tail: Tail) -> KnowledgeRow:
    return row.model_copy(update={**tail.times(seconds, low, high), "origin": "predicted", "label": None})
