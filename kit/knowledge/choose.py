"""Which variant meets the need: ask, explain, and the front of those that nothing beats.

It replaces the papers' analytic delay (A, eq. 5; B, eq. 7) by a measured percentile. A measured row decides only when its label is
``stable`` or ``settled``; a predicted one decides, but is not promised. The most accurate variant that meets every limit is chosen;
among equals the faster. What is rejected says which limit it misses and by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log
from typing import NamedTuple

from kit.errors import BadRecord, NoAnswer, UnknownName
from kit.knowledge.rows import key
from kit.records import (
    DECIDING,
    Answer,
    Explanation,
    KnowledgeRow,
    Limit,
    MeasureNext,
    Need,
    Rejection,
)

Measure = Callable[[KnowledgeRow], "KnowledgeRow | None"]  # measures a row's variant; None: it cannot be measured
SUGGESTIONS_MAX = 10
MEASURES_MAX = 8
AXES = ("latency", "accuracy", "memory", "energy", "size")


class Selection(NamedTuple):
    """The rows that a need is about; ``blind`` when a row of unknown accuracy may not compete with the others."""

    rows: list[KnowledgeRow]
    accuracy_required: bool


def ask(
    rows: Sequence[KnowledgeRow], need: Need, *, measure: Measure | None = None, measures_max: int = MEASURES_MAX
) -> Answer:
    """The most accurate variant that meets every limit of ``need``.

    With ``measure`` a predicted row that is chosen, or whose interval reaches what would make it the choice, is measured and the
    question asked again, ``measures_max`` times at most. Raises NoAnswer (with the nearest variant and what it lacks), UnknownName (a
    device, backend, point or data set without rows), BadRecord (no rows, several devices or data sets and none named).
    """
    known = list(rows)
    tried: set[tuple[str, ...]] = set()
    while True:
        answer, refusal, unsure = _decide(known, need)
        wanted = next((r for r in unsure if r.origin == "predicted" and key(r) not in tried), None)
        if measure is None or wanted is None or len(tried) >= measures_max:
            break
        tried.add(key(wanted))
        found = measure(wanted)
        known = [r for r in known if key(r) != key(wanted)] + ([found] if found else [])
        if not known:
            raise NoAnswer(f"{wanted.artifact_id} was the only variant and could not be measured: add others.")
    if refusal is not None:
        raise refusal
    assert answer is not None
    return answer


def _decide(rows: Sequence[KnowledgeRow], need: Need) -> tuple[Answer | None, NoAnswer | None, list[KnowledgeRow]]:
    """The answer, or why there is none; and the rows whose measurement could change that."""
    found = select(rows, need)
    fitting: list[tuple[KnowledgeRow, list[Check]]] = []
    missing: list[tuple[float, KnowledgeRow, Check]] = []
    doubtful: list[KnowledgeRow] = []  # those that a measurement might move across a limit
    for row in found.rows:
        checks = checks_of(row, need, found.accuracy_required)
        missed = [c for c in checks if not c.met]
        if not missed:
            fitting.append((row, checks))
        else:
            worst = missed[0] if len(missed) == 1 else min(missed, key=_slack)
            missing.append((worst.slack, row, worst))
        if row.origin == "predicted" or (missed and all(c.limit in _MOVED for c in missed)):
            doubtful.append(row)
    missing.sort(key=lambda entry: -entry[0])
    fitting.sort(key=lambda pair: rank(pair[0], need))
    chosen, checks = fitting[0] if fitting else (None, [])
    unsure = _unsure(doubtful, chosen, need, found.accuracy_required)
    if chosen is None:
        return None, _nothing_fits(found, need, missing, unsure), [r for r, _ in unsure]
    runner_up = next((row for row, _ in fitting[1:] if _variant(row) != _variant(chosen)), None)
    limits = [c for c in checks if c.bound is not None]
    tightest = min(limits, key=_slack, default=None)
    return (
        Answer(
            need=need,
            chosen=chosen,
            runner_up=runner_up,
            margin=tightest.slack if tightest else None,
            binding=tightest.limit if tightest else None,
            rejected=tuple(_rejection(row, check) for _, row, check in missing),
            text=_sentence(chosen, runner_up, tightest, need, unsure),
            promised=chosen.origin == "measured",
            measure_next=tuple(_suggestion(row, why) for row, why in unsure[:SUGGESTIONS_MAX]),
        ),
        None,
        [r for r, _ in unsure],
    )


def rank(row: KnowledgeRow, need: Need) -> tuple[float, float]:
    """Smaller is preferred: the more accurate (an unknown accuracy comes last), then the faster."""
    return _preference(row), row.latency_s(need.percentile)


def _preference(row: KnowledgeRow) -> float:
    return 1.0 if row.accuracy is None else -row.accuracy


def _variant(row: KnowledgeRow) -> str:
    return row.sha256 or row.artifact_id


# --------------------------------------------------------------------------------------------------- the rows of a need


def select(rows: Sequence[KnowledgeRow], need: Need) -> Selection:
    """The rows of the need's device, backend, threads, batch, operating point and data set. Raises as :func:`ask` does."""
    if not rows:
        raise BadRecord("The knowledge base is empty: build it from measured profiles.")
    found = _named(rows, "device", need.device_id, lambda r: r.device_id)
    devices = sorted({r.device_id for r in found})
    if len(devices) > 1:
        raise BadRecord(
            f"The knowledge base holds {len(devices)} devices ({', '.join(devices)}): say which with --device."
        )
    found = _named(found, "backend", need.backend, lambda r: r.backend)
    if need.point is not None:
        found = _named(found, "operating point", need.point, lambda r: r.point_name)
    found = _of_state(found, need)
    found = _of_dataset(found, need)
    return Selection(found, any(r.accuracy is not None for r in found) and not need.unknown_accuracy)


def _named(
    rows: Sequence[KnowledgeRow], what: str, name: str | None, of: Callable[[KnowledgeRow], str]
) -> list[KnowledgeRow]:
    found = [r for r in rows if name is None or of(r) == name]
    if not found and name is not None:
        raise UnknownName(what, name, sorted({of(r) for r in rows}))
    return found


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
    found = [r for r in rows if threads in (None, r.threads) and batch in (None, r.batch)]
    if found:
        return found
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


# ----------------------------------------------------------------------------------------------------------- the limits


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
        value, bound = shown(self.limit, self.value), shown(self.limit, self.bound)
        if self.limit == "accuracy":
            return f"accuracy {value}, at least {bound} asked" if self.met else f"accuracy {value} under {bound}"
        return (
            f"{self.what} {value} of {bound}"
            if self.met
            else f"{self.what} {value} over the {self.limit} limit of {bound}"
        )


UNMET = float("-inf")


def _slack(check: Check) -> float:
    return check.slack


def checks_of(row: KnowledgeRow, need: Need, accuracy_required: bool, latency_s: float | None = None) -> list[Check]:
    """Every limit of the need on a row, by its latency at the need's percentile (or by ``latency_s``)."""
    checks = []
    if row.label not in DECIDING and row.origin == "measured":
        checks.append(Check("label", "label", row.label, None, False, UNMET))
    if need.deadline_s is not None:
        what = _percentile(need.percentile) + (" with its download" if _download_counts(need) else "")
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


def _accuracy(value: float | None, floor: float) -> Check:
    if value is None:
        return Check("accuracy", "accuracy", None, floor, False, UNMET)
    return Check("accuracy", "accuracy", value, floor, value >= floor, (value - floor) / floor if floor else 1.0)


def _percentile(percentile: int) -> str:
    return "median" if percentile == 50 else f"p{percentile}"


# ------------------------------------------------------------------------------------------------- what is not sure yet


UNLIKELY = 0.002  # a smaller chance to be better is not worth a measurement
ENDS = log(19.0)  # the logit of 95 %, where an interval of nine tenths ends
MEMORY_DOUBT = 0.05  # a predicted memory is an upper one: what is so much over the limit fits e times more rarely
_MOVED = ("deadline", "label")  # limits that another measurement may come out differently on


def _unsure(
    doubtful: Sequence[KnowledgeRow], chosen: KnowledgeRow | None, need: Need, accuracy_required: bool
) -> list[tuple[KnowledgeRow, str]]:
    """The rows whose measurement could change the choice, and why: first what is most probably the best of all.

    That is a row that meets the need while no preferred one does. Preferred rows that hardly can are not worth a measurement yet; the
    rows below a likely one are not either.
    """
    found = []
    best = None
    if chosen is not None:
        best = rank(chosen, need)
        if why := _doubt(chosen, need):
            found.append((chosen, why, _chance(chosen, need, accuracy_required)))
    for row in doubtful:
        low_s, _ = row.interval_s(need.percentile)
        if row is chosen or (best is not None and (_preference(row), low_s) >= best):
            continue
        chance = _chance(row, need, accuracy_required)
        if chance > UNLIKELY and (why := _doubt(row, need)):
            found.append((row, why, chance))
    found.sort(key=lambda entry: rank(entry[0], need))
    none_yet, placed = 1.0, []
    for row, why, chance in found:
        placed.append((none_yet * chance, row, why))
        none_yet *= 1.0 - chance
    return [(row, why) for _, row, why in sorted(placed, key=lambda entry: -entry[0])]


def _chance(row: KnowledgeRow, need: Need, accuracy_required: bool) -> float:
    """The probability that a row meets the need when it is measured (again).

    Its latency counts as logistic in the logarithm, with nine tenths inside its interval: tails heavier than normal ones, as the errors
    of predictions are. What a prediction does not know may turn out well.
    """
    chance = 1.0
    for check in checks_of(row, need, accuracy_required):
        if not check.met and check.limit not in _MOVED:
            chance *= _hope(check) if row.origin == "predicted" else 0.0
    if need.deadline_s is None or not chance:
        return chance
    value = row.latency_s(need.percentile)
    spare_s = need.deadline_s - (total_latency_s(row, need, value) - value)  # what the download leaves
    if spare_s <= 0:
        return 0.0
    low, high = row.interval_s(need.percentile)
    reach = log(max(high / value if spare_s > value else value / max(low, 1e-12), 1.0 + 1e-9))
    return chance / (1.0 + exp(-min(max(ENDS * log(spare_s / value) / reach, -50.0), 50.0)))


def _hope(missed: Check) -> float:
    """The probability that a limit that a predicted row misses, its latency aside, is met when it is measured."""
    if missed.value is None:
        return float(missed.limit != "accuracy")
    return 0.5 * exp(max(missed.slack, -10.0) / MEMORY_DOUBT) if missed.limit == "memory" else 0.0


def _doubt(row: KnowledgeRow, need: Need) -> str | None:
    """Why a row is not what it seems for sure."""
    if row.origin == "predicted":
        return "it is predicted, not measured"
    if row.label not in DECIDING:
        return f"its measurement is {row.label}"
    if need.deadline_s is None:
        return None
    low, high = (total_latency_s(row, need, value) for value in row.interval_s(need.percentile))
    if low <= need.deadline_s < high:
        return f"the interval of its {_percentile(need.percentile)} reaches across the deadline"
    return None


def total_latency_s(row: KnowledgeRow, need: Need, latency_s: float | None) -> float:
    """What counts against the deadline, in seconds: a latency (the row's own by default) and, with a link, its download."""
    latency = row.latency_s(need.percentile) if latency_s is None else latency_s
    if need.link_bps and _download_counts(need):
        latency += download_bits(row, need.have) / need.link_bps
    return latency


def _download_counts(need: Need) -> bool:
    """Whether the download counts towards the deadline: it has no limit of its own."""
    return need.link_bps is not None and need.download_s is None


def _suggestion(row: KnowledgeRow, why: str) -> MeasureNext:
    return MeasureNext(
        artifact_id=row.artifact_id, backend=row.backend, threads=row.threads, point=row.point_name, why=why,
        command=command(row),
    )  # fmt: skip


def command(row: KnowledgeRow) -> str:
    """The command that measures a row: of a file where one was measured before, of an id where it is predicted."""
    words = ["kit", "profile", row.artifact_id if row.origin == "predicted" else f"{row.artifact_id}.onnx"]
    words += ["--backend", row.backend, "--threads", str(row.threads)]
    point = row.point
    if point is not None:
        words += ["--batch", str(point.batch)] if point.batch is not None else []
        words += ["--gap-ms", f"{point.gap_s * 1e3:g}"] if point.gap_s else []
        words += ["--load", str(point.load)] if point.load else []
        words += ["--affinity", ",".join(map(str, point.affinity))] if point.affinity is not None else []
        words += ["--sweep", f"clock-ghz={point.clock_cap_hz / 1e9:g}"] if point.clock_cap_hz is not None else []
        words += ["--sweep", f"power-mode={point.power_mode}"] if point.power_mode is not None else []
        words += ["--control"] if point.clock_cap_hz is not None or point.power_mode is not None else []
    return " ".join(words)


# ---------------------------------------------------------------------------------------------------------------- words


def _rejection(row: KnowledgeRow, check: Check) -> Rejection:
    return Rejection(
        artifact_id=row.artifact_id, backend=row.backend, threads=row.threads, limit=check.limit, value=check.value, bound=check.bound,
        text=check.text,
    )  # fmt: skip


def _nothing_fits(
    found: Selection,
    need: Need,
    missing: Sequence[tuple[float, KnowledgeRow, Check]],
    unsure: Sequence[tuple[KnowledgeRow, str]],
) -> NoAnswer:
    _, nearest, check = missing[0]
    text = f"No variant meets every limit; the nearest is {nearest.artifact_id}: {check.text}."
    if ways := _ways_out(found, need):
        text += f" Each limit alone can be met, not all at once: {' or '.join(ways)}."
    if unsure:
        text += f" Measuring {unsure[0][0].artifact_id} could change that: {command(unsure[0][0])}."
    return NoAnswer(text, nearest=nearest, reasons=[_rejection(row, check) for _, row, check in missing])


def _ways_out(found: Selection, need: Need) -> list[str]:
    """Of limits that only contradict each other: how far each would have to give while the others stay."""
    every = [checks_of(row, need, found.accuracy_required) for row in found.rows]
    every = [
        checks for checks in every if all(c.bound is not None and isinstance(c.value, (int, float)) for c in checks)
    ]
    names = [c.limit for c in every[0]] if every else []
    alone = all(any(c.met for checks in every for c in checks if c.limit == name) for name in names)
    if len(names) < 2 or not alone:
        return []
    ways = []
    for name in names:
        others_met = [checks for checks in every if all(c.met or c.limit == name for c in checks)]
        values = [float(c.value) for checks in others_met for c in checks if c.limit == name and c.value is not None]
        if values:
            best = max(values) if name == "accuracy" else min(values)
            ways.append(f"{_bound(name)} would have to be {shown(name, best)}")
    return ways


def _bound(limit: str) -> str:
    return (
        "the accuracy floor" if limit == "accuracy" else "the deadline" if limit == "deadline" else f"the {limit} limit"
    )


def _sentence(
    chosen: KnowledgeRow,
    runner_up: KnowledgeRow | None,
    tightest: Check | None,
    need: Need,
    unsure: Sequence[tuple[KnowledgeRow, str]],
) -> str:
    accuracy = f"{chosen.accuracy:.2%} accurate, " if chosen.accuracy is not None else "accuracy unknown, "
    latency = f"{_percentile(need.percentile)} {_time(chosen.latency_s(need.percentile))}"
    text = f"{chosen.artifact_id}: {accuracy}{latency} with {chosen.backend}, {chosen.threads} thread(s)"
    if tightest is not None:
        text += f"; tightest limit: {tightest.text}, {tightest.slack:.0%} to spare"
    if runner_up is not None:
        text += f"; runner-up {runner_up.artifact_id}"
    text += "."
    if chosen.origin == "predicted":
        low, high = chosen.interval_s(need.percentile)
        text += f" Predicted ({_time(low)} to {_time(high)}) and not promised: measure it first with {command(chosen)}."
    elif unsure:
        row, why = unsure[0]
        text += f" Unsure: {row.artifact_id} could change this, for {why}: {command(row)}."
    return text


def shown(limit: str, value: float | str | None) -> str:
    """A value of a limit as people write it."""
    if value is None or isinstance(value, str):
        return value or "unknown"
    return _SHOWN[limit](value)


def _time(seconds: float) -> str:
    return f"{seconds:.4g} s" if seconds >= 1 else f"{seconds * 1e3:.4g} ms"


def _mb(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.4g} MB"


def _energy(joules: float) -> str:
    return f"{joules:.4g} J" if joules >= 1 else f"{joules * 1e3:.4g} mJ"


_SHOWN: dict[str, Callable[[float], str]] = {
    "deadline": _time, "download": _time, "memory": _mb, "energy": _energy, "accuracy": lambda v: f"{v:.2%}",
}  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- explain


def explain(rows: Sequence[KnowledgeRow], need: Need, artifact_id: str) -> list[Explanation]:
    """Why a variant is or is not the choice, by each of its rows (backend, threads) that the need is about, the best first.

    Raises UnknownName (no such variant there), and what :func:`ask` raises for the rows of the need.
    """
    found = select(rows, need)
    mine = [r for r in found.rows if artifact_id in (r.artifact_id, r.sha256)]
    if not mine:
        raise UnknownName("variant", artifact_id, sorted({r.artifact_id for r in found.rows}))
    answer, _, _ = _decide(rows, need)
    chosen = answer.chosen if answer else None
    out = [_explanation(row, need, found, chosen) for row in sorted(mine, key=lambda r: rank(r, need))]
    return sorted(out, key=lambda e: (not e.chosen, e.beaten_by is None))


def _explanation(row: KnowledgeRow, need: Need, found: Selection, chosen: KnowledgeRow | None) -> Explanation:
    checks = checks_of(row, need, found.accuracy_required)
    missed = [c for c in checks if not c.met]
    is_chosen = chosen is not None and key(row) == key(chosen) and row.sha256 == chosen.sha256
    name = f"{row.artifact_id} ({row.backend}, t{row.threads})"
    beaten_by = None
    if is_chosen:
        text = f"{name} is chosen: no other that meets every limit is {_better_word(row)}."
    elif missed:
        text = f"{name} is not chosen: {'; '.join(c.text for c in missed)}."
    else:
        assert chosen is not None
        beaten_by = chosen.artifact_id
        text = f"{name} meets every limit and is not chosen: {_beaten(row, chosen, need)}. {_when(row, need, found)}"
    limits = tuple(_limit(c, row) for c in checks)
    return Explanation(row=row, chosen=is_chosen, limits=limits, beaten_by=beaten_by, text=text)


def _better_word(row: KnowledgeRow) -> str:
    return "faster" if row.accuracy is None else "more accurate, or as accurate and faster"


def _beaten(row: KnowledgeRow, chosen: KnowledgeRow, need: Need) -> str:
    if row.accuracy != chosen.accuracy:
        mine, theirs = shown("accuracy", row.accuracy), shown("accuracy", chosen.accuracy)
        return f"{chosen.artifact_id} is more accurate ({theirs} against {mine})"
    mine, theirs = (_time(r.latency_s(need.percentile)) for r in (row, chosen))
    return f"{chosen.artifact_id} is as accurate and not slower ({theirs} against {mine})"


def _when(row: KnowledgeRow, need: Need, found: Selection) -> str:
    """The deadlines at which a beaten row would be the choice, the other limits kept."""
    free = need.model_copy(update={"deadline_s": None})
    rivals = [
        total_latency_s(r, need, None)
        for r in found.rows
        if rank(r, need) < rank(row, need) and all(c.met for c in checks_of(r, free, found.accuracy_required))
    ]
    own, least = total_latency_s(row, need, None), min(rivals)
    if own < least:
        return f"A deadline from {_time(own)} to below {_time(least)} would make it the choice."
    return "No deadline makes it the choice: another is at least as accurate and as fast."


def _limit(check: Check, row: KnowledgeRow) -> Limit:
    return Limit(
        limit=check.limit,
        value=check.value,
        bound=check.bound,
        slack=check.slack if check.slack != UNMET else None,
        met=check.met,
        text=check.text,
        change=None if check.met else _change(check, row),
    )


def _change(check: Check, row: KnowledgeRow) -> str:
    """What would have to change for a missed limit to be met."""
    if check.limit == "label":
        return f"measure it again: {command(row)}"
    if check.value is None or check.bound is None:
        todo = "evaluate it" if check.limit == "accuracy" else f"measure it: {command(row)}"
        return todo + (", or add --unknown-accuracy" if check.bound is None else "")
    assert not isinstance(check.value, str)
    value, bound = shown(check.limit, check.value), shown(check.limit, check.bound)
    gap = shown(check.limit, abs(check.value - check.bound))
    direction, limit = ("gain", "fall") if check.limit == "accuracy" else ("lose", "rise")
    return (
        f"{check.what} would have to {direction} {gap} to reach {bound}, or {_bound(check.limit)} to {limit} to {value}"
    )


# --------------------------------------------------------------------------------------------------------------- pareto


def pareto(
    rows: Sequence[KnowledgeRow], need: Need, axes: Sequence[str] = ("latency", "accuracy")
) -> list[KnowledgeRow]:
    """The rows that no other beats on every axis, the fastest first: of those that meet the need's limits.

    ``axes`` out of latency (at the need's percentile), accuracy, memory, energy and size; a row that does not know one of them is left
    out. Raises UnknownName (an axis), NoAnswer (no row meets the limits and knows every axis), and what :func:`ask` raises.
    """
    for axis in axes:
        if axis not in AXES:
            raise UnknownName("axis", axis, AXES)
    found = select(rows, need)
    met = [r for r in found.rows if all(c.met for c in checks_of(r, need, found.accuracy_required))]
    costs = {id(r): _costs(r, need, axes) for r in met}
    placed = [(cost, r) for r in met if (cost := costs[id(r)]) is not None]
    if not placed:
        raise NoAnswer(
            f"No variant meets the limits and knows its {', '.join(axes)}: measure more, or ask for fewer axes."
        )
    placed.sort(key=lambda pair: (pair[0], pair[1].artifact_id))
    front: list[tuple[tuple[float, ...], KnowledgeRow]] = []
    for cost, row in placed:  # in the order of cost: only an earlier one can dominate a later one
        if not any(all(a <= b for a, b in zip(other, cost, strict=True)) for other, _ in front):
            front.append((cost, row))
    return sorted((r for _, r in front), key=lambda r: r.latency_s(need.percentile))


def _costs(row: KnowledgeRow, need: Need, axes: Sequence[str]) -> tuple[float, ...] | None:
    """The place of a row on each axis, less being better; None where one is unknown."""
    places = {
        "latency": row.latency_s(need.percentile),
        "accuracy": None if row.accuracy is None else -row.accuracy,
        "memory": row.memory_bytes,
        "energy": row.energy_j,
        "size": row.size_bytes,
    }
    costs = [places[axis] for axis in axes]
    return None if None in costs else tuple(float(c) for c in costs if c is not None)
