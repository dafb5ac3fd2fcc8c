"""Which rows a requirement is about, which of two is preferred, and how each of its limits is met by a row, in numbers and as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from kit import units
from kit.errors import BadRecord, UnknownName
from kit.records import DECIDING, KnowledgeRow, Need


class Selection(NamedTuple):
    """The rows that a need is about; ``accuracy_required`` when a row of unknown accuracy may not compete with the others."""

    rows: list[KnowledgeRow]
    accuracy_required: bool


def select(rows: Sequence[KnowledgeRow], need: Need) -> Selection:
    """The rows of the need's device, backend, threads, batch, operating point and data set. Raises as :func:`ask` does."""
    if not rows:
        raise BadRecord("The knowledge base is empty: build it from measured profiles.")
    candidates = _named(rows, "device", need.device_id, lambda r: r.device_id)
    devices = sorted({r.device_id for r in candidates})
    if len(devices) > 1:
        raise BadRecord(
            f"The knowledge base holds {len(devices)} devices ({', '.join(devices)}): say which with --device."
        )
    candidates = _named(candidates, "backend", need.backend, lambda r: r.backend)
    if need.point is not None:
        candidates = _named(candidates, "operating point", need.point, lambda r: r.point_name)
    candidates = _of_state(candidates, need)
    candidates = _of_dataset(candidates, need)
    return Selection(candidates, any(r.accuracy is not None for r in candidates) and not need.unknown_accuracy)


def _named(
    rows: Sequence[KnowledgeRow], what: str, name: str | None, of: Callable[[KnowledgeRow], str]
) -> list[KnowledgeRow]:
    named = [r for r in rows if name is None or of(r) == name]
    if not named and name is not None:
        raise UnknownName(what, name, sorted({of(r) for r in rows}))
    return named


def _of_state(rows: Sequence[KnowledgeRow], need: Need) -> list[KnowledgeRow]:
    """Those of the thread count and batch; without a named operating point only of a machine in its default state."""
    threads, batch = need.threads, need.batch
    if need.point is None:
        rows = [r for r in rows if r.point is None or r.point.is_default_state]
        if not rows:
            raise BadRecord(
                "The knowledge base has only rows at chosen operating points there: name one of them with --point."
            )
        batch = batch or 1
    candidates = [r for r in rows if threads in (None, r.threads) and batch in (None, r.batch)]
    if candidates:
        return candidates
    counts = ", ".join(map(str, sorted({r.threads for r in rows})))
    batches = ", ".join(map(str, sorted({r.batch for r in rows})))
    raise BadRecord(
        f"The knowledge base has no row for this backend and thread count (threads measured: {counts}; batches: {batches})."
    )


def _of_dataset(rows: list[KnowledgeRow], need: Need) -> list[KnowledgeRow]:
    datasets = sorted({r.dataset for r in rows if r.dataset is not None})
    if need.dataset is not None:
        if need.dataset not in datasets:
            raise UnknownName("data set", need.dataset, datasets)
        return [r for r in rows if r.dataset == need.dataset]
    if len(datasets) > 1:
        raise BadRecord(
            f"The accuracies come from {len(datasets)} data sets ({', '.join(datasets)}) and cannot be compared: "
            "say which with --dataset."
        )
    return rows


def rank(row: KnowledgeRow, need: Need) -> tuple[float, float]:
    """Smaller is preferred: the more accurate (an unknown accuracy comes last), then the faster."""
    return preference(row), row.latency_s(need.percentile)


def preference(row: KnowledgeRow) -> float:
    """By accuracy alone, smaller is preferred; an unknown one comes last."""
    return 1.0 if row.accuracy is None else -row.accuracy


# ------------------------------------------------------------------------------------------------------------------- limits


class Check(NamedTuple):
    """One limit on one row: ``value`` against ``bound``; ``slack`` is the share of the bound that is left (negative: missed)."""

    limit: str
    what: str
    value: float | str | None
    bound: float | None
    met: bool
    slack: float

    @property
    def text(self) -> str:
        """How it is met or missed, as half a sentence."""
        if self.limit == "label":
            return f"its measurement is {self.value}: profile it again"
        if self.value is None:
            return f"{self.what} unknown" + ("" if self.bound is not None else ", which the others know")
        value, bound = shown(self.limit, self.value), _bound_text(self.limit, self.bound)
        if self.limit == "accuracy":
            return f"accuracy {value}, at least {bound} required" if self.met else f"accuracy {value} under {bound}"
        return (
            f"{self.what} {value} of {bound}"
            if self.met
            else f"{self.what} {value} over the {self.limit} limit of {bound}"
        )


UNMET = float("-inf")


def checks_of(row: KnowledgeRow, need: Need, accuracy_required: bool, latency_s: float | None = None) -> list[Check]:
    """Every limit of the need on a row, by its latency at the need's percentile (or by ``latency_s``)."""
    checks = []
    if row.label not in DECIDING and row.origin == "measured":
        checks.append(Check("label", "label", row.label, None, False, UNMET))
    if need.deadline_s is not None:
        what = percentile_name(need.percentile) + (" with its download" if _download_counts(need) else "")
        checks.append(_upper("deadline", what, total_latency_s(row, need, latency_s), need.deadline_s))
    if need.download_s is not None and need.link_bps:
        checks.append(_upper("download", "download", download_bits(row, need.have) / need.link_bps, need.download_s))
    if need.memory_bytes is not None:
        checks.append(_upper("memory", "peak memory", row.memory_bytes, need.memory_bytes))
    if need.energy_j is not None:
        checks.append(_upper("energy", "energy", row.energy_j, need.energy_j))
    if need.min_accuracy is not None:
        checks.append(_accuracy(row.accuracy, need.min_accuracy))
    elif accuracy_required and row.accuracy is None:
        checks.append(Check("accuracy", "accuracy", None, None, False, UNMET))
    return checks


def download_bits(row: KnowledgeRow, have: Sequence[str]) -> float:
    """What must be downloaded for a variant, in bits."""
    return 0.0 if have and (row.sha256 in have or row.artifact_id in have) else row.size_bytes * 8.0


def _upper(limit: str, what: str, value: float | None, bound: float) -> Check:
    if value is None:
        return Check(limit, what, None, bound, False, UNMET)
    return Check(limit, what, value, bound, value <= bound, (bound - value) / bound)


def _accuracy(value: float | None, minimum: float) -> Check:
    if value is None:
        return Check("accuracy", "accuracy", None, minimum, False, UNMET)
    return Check(
        "accuracy", "accuracy", value, minimum, value >= minimum, (value - minimum) / minimum if minimum else 1.0
    )


def percentile_name(percentile: int) -> str:
    """``p99``, and ``median`` for 50."""
    return "median" if percentile == 50 else f"p{percentile}"


def total_latency_s(row: KnowledgeRow, need: Need, latency_s: float | None) -> float:
    """What counts against the deadline, in seconds: a latency (the row's own by default) and, with a link, its download."""
    latency = row.latency_s(need.percentile) if latency_s is None else latency_s
    if need.link_bps and _download_counts(need):
        latency += download_bits(row, need.have) / need.link_bps
    return latency


def _download_counts(need: Need) -> bool:
    """Whether the download counts towards the deadline: it has no limit of its own."""
    return need.link_bps is not None and need.download_s is None


# ----------------------------------------------------------------------------------------------------------- limits as text


def limit_name(limit: str) -> str:
    """A limit as a sentence names it."""
    return (
        "the minimum accuracy"
        if limit == "accuracy"
        else "the deadline"
        if limit == "deadline"
        else f"the {limit} limit"
    )


def shown(limit: str, value: float | str | None) -> str:
    """A value of a limit as people write it."""
    if value is None or isinstance(value, str):
        return value or "unknown"
    return _SHOWN[limit](value)


@lru_cache(maxsize=256)
def _bound_text(limit: str, bound: float | None) -> str:
    """A need has a handful of bounds, and every row is compared with them."""
    return shown(limit, bound)


_DEADLINES = units.TIME[:2]


def time_text(seconds: float) -> str:
    """Seconds or milliseconds, in which deadlines are stated."""
    return units.brief(seconds, _DEADLINES)


_SHOWN: dict[str, Callable[[float], str]] = {
    "deadline": time_text,
    "download": time_text,
    "memory": lambda v: units.brief(v, ((units.MB, "MB"),)),
    "energy": lambda v: units.brief(v, units.ENERGY),
    "accuracy": lambda v: f"{v:.2%}",
}
