"""The knowledge base: measured rows; build, ask. It replaces the papers' analytic delay (A, eq. 5; B, eq. 7) by p99 latency.

A row decides only when it was measured and its label is ``stable`` or ``settled``. The most accurate variant that
meets every limit is chosen; among equals the faster. What is rejected says which limit it misses and by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kit import __version__, store
from kit.errors import BadRecord, NoAnswer, UnknownName
from kit.records import DECIDING, Answer, KnowledgeBase, KnowledgeRow, Manifest, Need, ProfileRecord, Rejection


def build(profiles: Sequence[ProfileRecord]) -> KnowledgeBase:
    """One row per model file, device, backend and thread count: the newest trusted record, else the newest.

    Rows are of back-to-back calls on an idle machine; records at other operating points are left out. Raises BadRecord when
    nothing was measured.
    """
    measured = [p for p in profiles if p.measurement and p.label and p.plain and p.settings.backend != "fake"]
    rows = [_row(profile) for profile in store.decisive(measured)]
    if not rows:
        raise BadRecord("None of these profiles holds a measurement: run kit profile first.")
    ordered = tuple(sorted(rows, key=lambda r: (r.artifact_id, r.device_id, r.backend, r.threads, r.sha256)))
    return KnowledgeBase(created_utc=store.utc_now(), kit_version=__version__, rows=ordered)


def _row(profile: ProfileRecord) -> KnowledgeRow:
    assert profile.measurement is not None and profile.label is not None
    artifact = profile.artifact
    return KnowledgeRow(
        artifact_id=artifact.artifact_id,
        sha256=artifact.model.sha256,
        device_id=profile.device.device_id,
        backend=profile.settings.backend,
        threads=profile.settings.threads,
        precision=artifact.precision,
        median_s=profile.measurement.median_s,
        p99_s=profile.measurement.p99_s,
        label=profile.label,
        memory_bytes=profile.measurement.memory_bytes,
        size_bytes=artifact.model.size_bytes,
        macs=artifact.macs,
        accuracy=artifact.accuracy.top1 if artifact.accuracy else None,
        dataset=artifact.accuracy.dataset if artifact.accuracy else None,
        record_id=profile.record_id,
    )


def rows_of(manifests: Iterable[Manifest]) -> list[KnowledgeRow]:
    """The promises of packages as rows: a library decides with the same code as a device."""
    return [
        KnowledgeRow(
            artifact_id=m.artifact.artifact_id,
            sha256=m.artifact.model.sha256,
            device_id=p.device_id,
            backend=p.backend,
            threads=p.threads,
            precision=m.artifact.precision,
            median_s=p.median_s,
            p99_s=p.p99_s,
            label=p.label,
            memory_bytes=p.memory_bytes,
            size_bytes=m.size_bytes,
            macs=m.artifact.macs,
            accuracy=m.artifact.accuracy.top1 if m.artifact.accuracy else None,
            dataset=m.artifact.accuracy.dataset if m.artifact.accuracy else None,
            record_id=p.record_id,
        )
        for m in manifests
        for p in m.promises
    ]


@dataclass(frozen=True)
class _Check:
    """One limit on one row: ``value`` against ``bound``; ``slack`` is the share of the bound that is left (negative: missed)."""

    limit: str
    value: float | None
    bound: float
    slack: float
    text: str  # how it is missed
    met: str  # how it is met


def ask(rows: Sequence[KnowledgeRow], need: Need) -> Answer:
    """The most accurate variant that meets every limit of ``need``.

    Raises NoAnswer (with the nearest variant and what it lacks), UnknownName (a device or backend without rows),
    BadRecord (several devices and none named).
    """
    candidates = _of_need(rows, need)
    fitting: list[tuple[KnowledgeRow, list[_Check]]] = []
    rejected: list[tuple[float, Rejection]] = []
    for row in candidates:
        checks = _checks(row, need)
        worst = min(checks, key=lambda c: c.slack, default=None)
        if row.label not in DECIDING:
            rejected.append((float("-inf"), _label_rejection(row)))
        elif worst is not None and worst.slack < 0:
            rejected.append((worst.slack, _rejection(row, worst)))
        else:
            fitting.append((row, checks))
    rejected.sort(key=lambda pair: -pair[0])
    if not fitting:
        raise NoAnswer(_nothing_fits(rejected))
    fitting.sort(key=lambda pair: (-(pair[0].accuracy or 0.0), pair[0].p99_s))
    chosen, checks = fitting[0]
    runner_up = next((row for row, _ in fitting[1:] if row.sha256 != chosen.sha256), None)
    tightest = min(checks, key=lambda c: c.slack, default=None)
    return Answer(
        need=need,
        chosen=chosen,
        runner_up=runner_up,
        margin=tightest.slack if tightest else None,
        binding=tightest.limit if tightest else None,
        rejected=tuple(r for _, r in rejected),
        text=_sentence(chosen, runner_up, tightest),
    )


def _of_need(rows: Sequence[KnowledgeRow], need: Need) -> list[KnowledgeRow]:
    if not rows:
        raise BadRecord("The knowledge base is empty: build it from measured profiles.")
    devices = sorted({r.device_id for r in rows})
    if need.device_id is not None and need.device_id not in devices:
        raise UnknownName("device", need.device_id, devices)
    if need.device_id is None and len(devices) > 1:
        raise BadRecord(
            f"The knowledge base holds {len(devices)} devices ({', '.join(devices)}): say which with --device."
        )
    backends = sorted({r.backend for r in rows})
    if need.backend is not None and need.backend not in backends:
        raise UnknownName("backend", need.backend, backends)
    found = [
        r
        for r in rows
        if need.device_id in (None, r.device_id)
        and need.backend in (None, r.backend)
        and need.threads in (None, r.threads)
    ]
    if not found:
        threads = ", ".join(map(str, sorted({r.threads for r in rows})))
        raise BadRecord(
            f"The knowledge base has no row for this backend and thread count (threads measured: {threads})."
        )
    datasets = sorted({r.dataset for r in found if r.dataset is not None})
    if len(datasets) > 1:
        raise BadRecord(
            f"The accuracies come from {len(datasets)} data sets ({', '.join(datasets)}) and cannot be compared: "
            "build one knowledge base for each."
        )
    return found


def _checks(row: KnowledgeRow, need: Need) -> list[_Check]:
    checks = []
    download_s = row.size_bytes * 8 / need.link_bps if need.link_bps else 0.0
    counted = need.link_bps is not None and need.download_s is None  # the download counts towards the deadline
    if need.deadline_s is not None:
        total_s = row.p99_s + (download_s if counted else 0.0)
        checks.append(
            _upper("deadline", "p99 with its download" if counted else "p99", total_s, need.deadline_s, _time)
        )
    if need.download_s is not None and need.link_bps:
        checks.append(_upper("download", "download", download_s, need.download_s, _time))
    if need.memory_bytes is not None:
        checks.append(_upper("memory", "peak memory", row.memory_bytes, need.memory_bytes, _mb))
    if need.min_accuracy is not None:
        checks.append(_accuracy(row.accuracy, need.min_accuracy))
    return checks


def _upper(limit: str, what: str, value: float, bound: float, shown: Callable[[float], str]) -> _Check:
    missed = f"{what} {shown(value)} over the {limit} limit of {shown(bound)}"
    return _Check(limit, value, bound, (bound - value) / bound, missed, f"{what} {shown(value)} of {shown(bound)}")


def _accuracy(value: float | None, floor: float) -> _Check:
    if value is None:
        return _Check("accuracy", None, floor, float("-inf"), "accuracy unknown", "")
    missed, met = f"accuracy {value:.2%} under {floor:.2%}", f"accuracy {value:.2%}, at least {floor:.2%} asked"
    return _Check("accuracy", value, floor, (value - floor) / floor if floor else 1.0, missed, met)


def _rejection(row: KnowledgeRow, check: _Check) -> Rejection:
    return Rejection(
        artifact_id=row.artifact_id, backend=row.backend, threads=row.threads, limit=check.limit, value=check.value, bound=check.bound,
        text=check.text,
    )  # fmt: skip


def _label_rejection(row: KnowledgeRow) -> Rejection:
    return Rejection(
        artifact_id=row.artifact_id, backend=row.backend, threads=row.threads, limit="label", value=row.label, bound=None,
        text=f"its measurement is {row.label}: profile it again",
    )  # fmt: skip


def _nothing_fits(rejected: Sequence[tuple[float, Rejection]]) -> str:
    nearest = rejected[0][1]
    return f"No variant meets every limit; the nearest is {nearest.artifact_id}: {nearest.text}."


def _sentence(chosen: KnowledgeRow, runner_up: KnowledgeRow | None, tightest: _Check | None) -> str:
    accuracy = f"{chosen.accuracy:.2%} accurate, " if chosen.accuracy is not None else "accuracy unknown, "
    text = (
        f"{chosen.artifact_id}: {accuracy}p99 {_time(chosen.p99_s)} with {chosen.backend}, {chosen.threads} thread(s)"
    )
    if tightest is not None:
        text += f"; tightest limit: {tightest.met}, {tightest.slack:.0%} to spare"
    if runner_up is not None:
        text += f"; runner-up {runner_up.artifact_id}"
    return text + "."


def _time(seconds: float) -> str:
    return f"{seconds:.4g} s" if seconds >= 1 else f"{seconds * 1e3:.4g} ms"


def _mb(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.4g} MB"
