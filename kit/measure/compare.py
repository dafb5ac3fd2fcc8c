"""Is B faster than A? Two sets of profiles, artifact by artifact: the ratio of the latencies, its interval, a label.

The unit is the process: calls of one process share its memory layout, clock and neighbours, so a thousand of them are no thousand
witnesses. Each process counts by its median alone. The ratio is the Hodges-Lehmann estimate on the logarithms and its
interval inverts the exact rank-sum test, because that keeps its promise with five or six processes a side, whatever
the distribution; a bootstrap over six medians is too narrow, and a mean follows the one wild process.

What it cannot see by itself: two measurements at two times differ also by what the machine did meanwhile. Where both sides have
drift-corrected values, these are compared. Else the interval is widened: by the half-width of a record that is only settled, and,
where a reference workload moved between the measurements, to hold both the ratio as it is and the ratio per reference workload.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from kit import stats, store, units
from kit.records import AliasedRecord, Measurement, ProfileRecord, Reference

ComparisonLabel = Literal["faster", "slower", "same", "undecided", "not comparable"]
COMPARISON_LABELS: tuple[ComparisonLabel, ...] = ("faster", "slower", "same", "undecided", "not comparable")
#: Stored keys of settings that say how long to measure and not what: records that differ in these alone are comparable.
HOW_LONG = frozenset(
    {"rounds_min", "rounds_max", "visit_s", "warmup_max_s", "precision_target", "budget_s", "timeout_s", "seed"}
)
#: Conditions that are about the calls: the machine is in one state whatever they are.
OF_THE_CALLS = frozenset({"backend", "threads", "batch"})
CONFIDENCE = 0.95


class Comparison(AliasedRecord):
    """One artifact on two sides. ``ratio`` is B over A: below 1, B is faster. ``why`` belongs to the last two labels."""

    artifact_id: str
    device_id: str
    backend: str
    point: str  # the operating point, such as "t1"
    label: ComparisonLabel = Field(alias="verdict")
    why: str | None = None
    a_sha256: str | None = None
    b_sha256: str | None = None
    a_record_id: str | None = None
    b_record_id: str | None = None
    a_median_s: float | None = None
    b_median_s: float | None = None
    a_processes: int | None = None
    b_processes: int | None = None
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    values: Literal["raw", "corrected"] | None = None
    lost: bool = False  # A measured it well, and B failed on it or does not have it
    remarks: tuple[str, ...] = ()

    def slower_by_more_than(self, share: float) -> bool:
        """Whether the whole interval lies above 1 + ``share``: B is slower by more than that, with confidence."""
        return self.interval is not None and self.label != "not comparable" and self.interval[0] > 1 + share

    def summary(self) -> dict[str, str]:
        """The comparison as name and text, for people."""
        rows = {"network": self.artifact_id, "label": self.label, "B over A": ""}
        if self.ratio is not None and self.interval is not None:
            low, high = self.interval
            rows["B over A"] = f"{self.ratio:.4f} ({self.confidence:.0%}: {low:.4f} to {high:.4f})"
            rows["A"] = f"{units.seconds(self.a_median_s)}, {self.a_processes} processes"
            rows["B"] = f"{units.seconds(self.b_median_s)}, {self.b_processes} processes"
        rows |= {
            "because": self.why or "",
            "runtime": f"{self.backend}, {self.point}",
            "remarks": "; ".join(self.remarks),
        }
        return rows


def compare(a: Sequence[ProfileRecord], b: Sequence[ProfileRecord], within: float = 0.02) -> list[Comparison]:
    """Every artifact of both sides, those of A first. ``within``: a ratio that surely lies this close to 1 is "same".

    ``a`` and ``b`` come oldest first, as :func:`kit.store.read_profiles` gives them. Where a side holds several records of one
    artifact under the same conditions, its deciding one counts (the newest trusted one).
    """
    left, right = deciding(a), deciding(b)
    order = {id(record): index for index, record in enumerate(left)}
    pairs: list[tuple[ProfileRecord, ProfileRecord]] = []
    for same in (_same_file, _same_name, _same_file_elsewhere, _same_name_elsewhere):
        for one in list(left):
            candidates = [two for two in right if same(one, two)]
            if candidates:
                two = min(candidates, key=lambda r: len(differences(one, r)))
                pairs.append((one, two))
                left = [record for record in left if record is not one]
                right = [record for record in right if record is not two]
    pairs.sort(key=lambda pair: order[id(pair[0])])
    only = [_alone(record, "A") for record in left] + [_alone(record, "B") for record in right]
    return [compare_pair(one, two, within) for one, two in pairs] + only


def deciding(profiles: Sequence[ProfileRecord]) -> list[ProfileRecord]:
    """The deciding record of each artifact under each set of conditions."""
    groups: dict[str, list[ProfileRecord]] = {}
    for profile in profiles:
        key = json.dumps([profile.device.device_id, conditions(profile)], sort_keys=True)
        groups.setdefault(key, []).append(profile)
    return [record for group in groups.values() for record in store.decisive(group)]


def conditions(profile: ProfileRecord) -> dict[str, Any]:
    """What two records must share besides the device: backend, threads, operating point, whatever else the settings hold, and the values
    of inputs that decide how much is computed."""
    settings = profile.settings.model_dump(mode="json")
    steering = {f"input {f.name}": f"{f.rule}, {(f.sha256 or '')[:8]}" for f in profile.feeds if f.steers}
    return {name: value for name, value in settings.items() if name not in HOW_LONG} | steering


def differences(a: ProfileRecord, b: ProfileRecord) -> list[str]:
    """Why the two cannot be compared, a phrase for each reason; none when they can."""
    return _other_conditions(a, b) + _other_timer(a, b)


def _other_conditions(a: ProfileRecord, b: ProfileRecord) -> list[str]:
    one = {"device": a.device.device_id, **conditions(a)}
    two = {"device": b.device.device_id, **conditions(b)}
    return [
        _differs(name, one.get(name), two.get(name)) for name in sorted(one | two) if one.get(name) != two.get(name)
    ]


def _other_timer(a: ProfileRecord, b: ProfileRecord) -> list[str]:
    if a.measurement is None or b.measurement is None:
        return []
    one, two = a.measurement.runs[0].timer, b.measurement.runs[0].timer
    return [] if one == two else [_differs("timer", one, two)]


def _differs(name: str, one: object, two: object) -> str:
    return f"{name} differs (A {_printed(one)}, B {_printed(two)})"


def _printed(value: object) -> str:
    return "none" if value is None else str(value)


def _same_file(a: ProfileRecord, b: ProfileRecord) -> bool:
    return _same_file_elsewhere(a, b) and not differences(a, b)


def _same_name(a: ProfileRecord, b: ProfileRecord) -> bool:
    return _same_name_elsewhere(a, b) and not differences(a, b)


def _same_file_elsewhere(a: ProfileRecord, b: ProfileRecord) -> bool:
    return a.artifact.content_sha256 == b.artifact.content_sha256


def _same_name_elsewhere(a: ProfileRecord, b: ProfileRecord) -> bool:
    return a.artifact.artifact_id == b.artifact.artifact_id


def _alone(record: ProfileRecord, side: str) -> Comparison:
    return _comparison(record, "not comparable", why=f"only {side} has it", lost=side == "A" and record.trusted)


def compare_pair(a: ProfileRecord, b: ProfileRecord, within: float, *, across: bool = False) -> Comparison:
    """The label of one pair of records. ``across``: they were measured on different devices or under different conditions on purpose
    (another thread count, another runtime), so what differs is a remark and no refusal."""
    conditions_differ = _other_conditions(a, b)
    remarks = _remarks(a, b) + (tuple(conditions_differ) if across else ())
    about: dict[str, Any] = {
        "a_sha256": a.artifact.content_sha256,
        "b_sha256": b.artifact.content_sha256,
        "a_record_id": a.record_id,
        "b_record_id": b.record_id,
        "lost": a.trusted and b.status != "ok",
        "remarks": remarks,
    }
    refused = _other_timer(a, b) if across else conditions_differ + _other_timer(a, b)
    failed_checks = refused + _untrusted(a, "A") + _untrusted(b, "B")
    if failed_checks or a.measurement is None or b.measurement is None:
        return _comparison(b, "not comparable", why="; ".join(failed_checks), **about)
    values, one, two = _values(a.measurement, b.measurement)
    ratio, low, high, confidence = stats.ratio_interval(one, two, CONFIDENCE)
    if values == "raw":
        low, high, why_wider = _widened(a, b, low, high, within)
        remarks += why_wider
        about["remarks"] = remarks
    label, why = _label(low, high, confidence, within)
    about |= {
        "a_median_s": stats.quantile(one, 0.5),
        "b_median_s": stats.quantile(two, 0.5),
        "a_processes": len(one),
        "b_processes": len(two),
        "ratio": ratio,
        "interval": (low, high),
        "confidence": confidence,
        "values": values,
    }
    return _comparison(b, label, why=why, **about)


def _comparison(record: ProfileRecord, label: ComparisonLabel, *, why: str | None, **more: Any) -> Comparison:
    how = record.settings
    return Comparison(
        artifact_id=record.artifact.artifact_id,
        device_id=record.device.device_id,
        backend=how.backend,
        point=how.name,
        label=label,
        why=why,
        **more,
    )


def _label(low: float, high: float, confidence: float, within: float) -> tuple[ComparisonLabel, str | None]:
    """Same: the whole interval lies within the margin (a difference that small is none, also when it is certain)."""
    if confidence < CONFIDENCE:
        return (
            "undecided",
            f"so few processes carry {confidence:.0%} where {CONFIDENCE:.0%} is needed",
        )
    if low >= 1 / (1 + within) and high <= 1 + within:
        return "same", None
    if high < 1:
        return "faster", None
    if low > 1:
        return "slower", None
    return (
        "undecided",
        "the interval holds 1 and reaches beyond the margin",
    )


def _untrusted(record: ProfileRecord, side: str) -> list[str]:
    if record.status != "ok":
        return [f"{side} {record.status}: {(record.reason or 'no reason given').rstrip('.')}"]
    return [] if record.trusted else [f"{side} is {record.label or 'not labelled'}"]


def _values(a: Measurement, b: Measurement) -> tuple[Literal["raw", "corrected"], Sequence[float], Sequence[float]]:
    """One value per process in seconds: drift-corrected where both sides have such values on one scale."""
    if _one_scale(a.reference, b.reference) and a.corrected_medians_s and b.corrected_medians_s:
        return "corrected", a.corrected_medians_s, b.corrected_medians_s
    return "raw", a.medians_s, b.medians_s


def _one_scale(a: Reference | None, b: Reference | None) -> bool:
    """Whether both were corrected to the same usual state of the same device."""
    if a is None or b is None or a.device_id != b.device_id:
        return False
    return (a.workloads, a.nominal_ns, a.weights) == (b.workloads, b.nominal_ns, b.weights)


def _widened(
    a: ProfileRecord, b: ProfileRecord, low: float, high: float, within: float
) -> tuple[float, float, tuple[str, ...]]:
    """The interval of raw values (low, high, remarks), wider by what the machine did during or between the measurements.

    A settled record wandered: its processes follow the drift of the machine and are not independent, so each end moves by its
    half-width. Where a reference workload moved between the measurements, the interval holds the ratio both as it is and per workload.
    """
    assert a.measurement is not None and b.measurement is not None
    remarks = []
    moved = _machine_moved(a.measurement, b.measurement, within) if _one_state(a, b) else {}
    low, high = min([low, *(low / m for m in moved.values())]), max([high, *(high / m for m in moved.values())])
    remarks += [
        f"{n} moved by {m - 1:+.1%} between the measurements: the interval is wider by it" for n, m in moved.items()
    ]
    for side, record, measurement in (("A", a, a.measurement), ("B", b, b.measurement)):
        if record.label == "settled":
            low, high = low / (1 + measurement.half_width), high * (1 + measurement.half_width)
            remarks.append(f"{side} is settled, it moved while it was measured: the interval is wider by its own")
    return low, high, tuple(remarks)


def _one_state(a: ProfileRecord, b: ProfileRecord) -> bool:
    """Whether both were measured on one device in one chosen state: elsewhere its calibration workloads differ for a reason."""
    one, two = conditions(a), conditions(b)
    return a.device.device_id == b.device.device_id and all(one[n] == two[n] for n in one if n not in OF_THE_CALLS)


def _machine_moved(a: Measurement, b: Measurement, within: float) -> dict[str, float]:
    """Each reference workload's time in B over A, when that ratio surely differs from 1 and by more than the margin."""
    moved = {}
    for name in sorted(set.intersection(*(set(run.references) for run in (*a.runs, *b.runs)))):
        one, two = ([float(np.median(run.references[name].array())) for run in side.runs] for side in (a, b))
        ratio, low, high, confidence = stats.ratio_interval(one, two, CONFIDENCE)
        certain = confidence >= CONFIDENCE and not low <= 1 <= high
        if certain and not 1 / (1 + within) <= ratio <= 1 + within:
            moved[name] = ratio
    return moved


def _remarks(a: ProfileRecord, b: ProfileRecord) -> tuple[str, ...]:
    """What else differs: it may be the very thing that is compared."""
    out = []
    one_file = a.artifact.content_sha256 == b.artifact.content_sha256
    names = f"A {a.artifact.artifact_id}, B {b.artifact.artifact_id}"
    if a.artifact.artifact_id != b.artifact.artifact_id:
        out.append(f"one file under two names ({names})" if one_file else f"two networks ({names})")
    elif not one_file:
        out.append("matched by name: the files differ")
    if a.record_id == b.record_id:
        out.append("both sides are the same record")
    one, two = _versions(a), _versions(b)
    changed = sorted(name for name in one.keys() & two.keys() if one[name] != two[name])
    return (*out, *(f"{name} {one[name]} in A, {two[name]} in B" for name in changed))


def _versions(record: ProfileRecord) -> dict[str, str]:
    runtime = dict(record.measurement.runs[0].versions) if record.measurement else {}
    return {"kit": record.kit_version, "kernel": record.device.kernel, **runtime}
