"""Which variant meets a requirement: :func:`ask`, and :func:`pareto`, the front of those that no other dominates.

It replaces the papers' analytic delay (A, eq. 5; B, eq. 7) by a measured percentile. A measured row decides only when its label is
``stable`` or ``settled``; a predicted one decides, but is not promised. The most accurate variant that meets every limit is chosen;
among equals the faster. What is rejected says which limit it misses and by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

from kit.errors import NoAnswer, UnknownName
from kit.knowledge.checks import (
    Check,
    Selection,
    checks_of,
    limit_name,
    percentile_name,
    rank,
    select,
    shown,
    time_text,
)
from kit.knowledge.rows import key
from kit.knowledge.uncertainty import UNCERTAIN_LIMITS, command, suggestion, uncertain_rows
from kit.records import Answer, KnowledgeRow, Need, Rejection

Measure = Callable[[KnowledgeRow], "KnowledgeRow | None"]  # measures a row's variant; None: it cannot be measured
SUGGESTIONS_MAX = 10
MEASURES_MAX = 8
AXES = ("latency", "accuracy", "memory", "energy", "size")


def ask(
    rows: Sequence[KnowledgeRow], need: Need, *, measure: Measure | None = None, measures_max: int = MEASURES_MAX
) -> Answer:
    """The most accurate variant that meets every limit of ``need``.

    With ``measure`` a predicted row that is chosen, or whose interval reaches what would make it the choice, is measured and the
    choice made again, ``measures_max`` times at most. Raises NoAnswer (with the nearest variant and what it lacks), UnknownName (a
    device, backend, point or data set without rows), BadRecord (no rows, several devices or data sets and none named).

    Example:
        >>> base = knowledge.build(store.read_profiles([PROFILES]))
        >>> answer = knowledge.ask(base.rows, Need(deadline_s=0.005, percentile=99))
        >>> answer.chosen.latency_s(99) <= 0.005 and answer.promised
        True
    """
    remaining = list(rows)
    tried: set[tuple[str, ...]] = set()
    while True:
        answer, refusal, uncertain = decide(remaining, need)
        next_row = next((r for r in uncertain if r.origin == "predicted" and key(r) not in tried), None)
        if measure is None or next_row is None or len(tried) >= measures_max:
            break
        tried.add(key(next_row))
        measured = measure(next_row)
        remaining = [r for r in remaining if key(r) != key(next_row)] + ([measured] if measured else [])
        if not remaining:
            raise NoAnswer(f"{next_row.artifact_id} was the only variant and could not be measured: add others.")
    if refusal is not None:
        raise refusal
    assert answer is not None
    return answer


def decide(rows: Sequence[KnowledgeRow], need: Need) -> tuple[Answer | None, NoAnswer | None, list[KnowledgeRow]]:
    """The answer, or why there is none; and the rows whose measurement could change that."""
    selection = select(rows, need)
    fitting: list[tuple[KnowledgeRow, list[Check]]] = []
    missing: list[tuple[float, KnowledgeRow, Check]] = []
    movable: list[KnowledgeRow] = []  # those that a measurement might move across a limit
    for row in selection.rows:
        checks = checks_of(row, need, selection.accuracy_required)
        missed = [c for c in checks if not c.met]
        if not missed:
            fitting.append((row, checks))
        else:
            worst = missed[0] if len(missed) == 1 else min(missed, key=attrgetter("slack"))
            missing.append((worst.slack, row, worst))
        if row.origin == "predicted" or (missed and all(c.limit in UNCERTAIN_LIMITS for c in missed)):
            movable.append(row)
    missing.sort(key=lambda entry: -entry[0])
    fitting.sort(key=lambda pair: rank(pair[0], need))
    chosen, checks = fitting[0] if fitting else (None, [])
    uncertain = uncertain_rows(movable, chosen, need, selection.accuracy_required)
    if chosen is None:
        return None, _nothing_fits(selection, need, missing, uncertain), [r for r, _ in uncertain]
    runner_up = next((row for row, _ in fitting[1:] if _variant(row) != _variant(chosen)), None)
    limits = [c for c in checks if c.bound is not None]
    tightest = min(limits, key=attrgetter("slack"), default=None)
    return (
        Answer(
            need=need,
            chosen=chosen,
            runner_up=runner_up,
            margin=tightest.slack if tightest else None,
            binding=tightest.limit if tightest else None,
            rejected=tuple(_rejection(row, check) for _, row, check in missing),
            text=_sentence(chosen, runner_up, tightest, need, uncertain),
            promised=chosen.origin == "measured",
            measure_next=tuple(suggestion(row, why) for row, why in uncertain[:SUGGESTIONS_MAX]),
        ),
        None,
        [r for r, _ in uncertain],
    )


def _variant(row: KnowledgeRow) -> str:
    return row.sha256 or row.artifact_id


# ------------------------------------------------------------------------------------------------------------------ as text


def _rejection(row: KnowledgeRow, check: Check) -> Rejection:
    return Rejection(
        artifact_id=row.artifact_id, backend=row.backend, threads=row.threads, limit=check.limit, value=check.value, bound=check.bound,
        text=check.text,
    )  # fmt: skip


def _nothing_fits(
    selection: Selection,
    need: Need,
    missing: Sequence[tuple[float, KnowledgeRow, Check]],
    uncertain: Sequence[tuple[KnowledgeRow, str]],
) -> NoAnswer:
    _, nearest, check = missing[0]
    text = f"No variant meets every limit; the nearest is {nearest.artifact_id}: {check.text}."
    if ways := _ways_out(selection, need):
        text += f" Each limit alone can be met, not all at once: {' or '.join(ways)}."
    if uncertain:
        text += f" Measuring {uncertain[0][0].artifact_id} could change that: {command(uncertain[0][0])}."
    return NoAnswer(text, nearest=nearest, reasons=[_rejection(row, check) for _, row, check in missing])


def _ways_out(selection: Selection, need: Need) -> list[str]:
    """Of limits that only contradict each other: how far each would have to give while the others stay."""
    all_checks = [checks_of(row, need, selection.accuracy_required) for row in selection.rows]
    all_checks = [
        checks
        for checks in all_checks
        if all(c.bound is not None and isinstance(c.value, (int, float)) for c in checks)
    ]
    names = [c.limit for c in all_checks[0]] if all_checks else []
    each_alone = all(any(c.met for checks in all_checks for c in checks if c.limit == name) for name in names)
    if len(names) < 2 or not each_alone:
        return []
    ways = []
    for name in names:
        others_met = [checks for checks in all_checks if all(c.met or c.limit == name for c in checks)]
        values = [float(c.value) for checks in others_met for c in checks if c.limit == name and c.value is not None]
        if values:
            best = max(values) if name == "accuracy" else min(values)
            ways.append(f"{limit_name(name)} would have to be {shown(name, best)}")
    return ways


def _sentence(
    chosen: KnowledgeRow,
    runner_up: KnowledgeRow | None,
    tightest: Check | None,
    need: Need,
    uncertain: Sequence[tuple[KnowledgeRow, str]],
) -> str:
    accuracy = f"{chosen.accuracy:.2%} accurate, " if chosen.accuracy is not None else "accuracy unknown, "
    latency = f"{percentile_name(need.percentile)} {time_text(chosen.latency_s(need.percentile))}"
    text = f"{chosen.artifact_id}: {accuracy}{latency} with {chosen.backend}, {chosen.threads} thread(s)"
    if tightest is not None:
        text += f"; tightest limit: {tightest.text}, {tightest.slack:.0%} to spare"
    if runner_up is not None:
        text += f"; runner-up {runner_up.artifact_id}"
    text += "."
    if chosen.origin == "predicted":
        low, high = chosen.interval_s(need.percentile)
        text += f" Predicted ({time_text(low)} to {time_text(high)}) and not promised: measure it first with {command(chosen)}."
    elif uncertain:
        row, why = uncertain[0]
        text += f" Unsure: {row.artifact_id} could change this, for {why}: {command(row)}."
    return text


# ------------------------------------------------------------------------------------------------------------------- pareto


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
    selection = select(rows, need)
    met = [r for r in selection.rows if all(c.met for c in checks_of(r, need, selection.accuracy_required))]
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
    """The value of a row on each axis, less being better; None where one is unknown."""
    values = {
        "latency": row.latency_s(need.percentile),
        "accuracy": None if row.accuracy is None else -row.accuracy,
        "memory": row.memory_bytes,
        "energy": row.energy_j,
        "size": row.size_bytes,
    }
    costs = [values[axis] for axis in axes]
    return None if None in costs else tuple(float(c) for c in costs if c is not None)
