"""Why a variant is, or is not, the choice for a requirement: each limit, what is left of it, and what would have to change."""

from __future__ import annotations

from collections.abc import Sequence

from kit.errors import UnknownName
from kit.knowledge.checks import (
    UNMET,
    Check,
    Selection,
    checks_of,
    limit_name,
    rank,
    select,
    shown,
    time_text,
    total_latency_s,
)
from kit.knowledge.choose import decide
from kit.knowledge.rows import key
from kit.knowledge.uncertainty import command
from kit.records import Explanation, KnowledgeRow, Limit, Need


def explain(rows: Sequence[KnowledgeRow], need: Need, artifact_id: str) -> list[Explanation]:
    """Why a variant is or is not the choice, by each of its rows (backend, threads) that the need is about, the best first.

    Raises UnknownName (no such variant there), and what :func:`ask` raises for the rows of the need.
    """
    selection = select(rows, need)
    mine = [r for r in selection.rows if artifact_id in (r.artifact_id, r.sha256)]
    if not mine:
        raise UnknownName("variant", artifact_id, sorted({r.artifact_id for r in selection.rows}))
    answer, _, _ = decide(rows, need)
    chosen = answer.chosen if answer else None
    out = [_explanation(row, need, selection, chosen) for row in sorted(mine, key=lambda r: rank(r, need))]
    return sorted(out, key=lambda e: (not e.chosen, e.beaten_by is None))


def _explanation(row: KnowledgeRow, need: Need, selection: Selection, chosen: KnowledgeRow | None) -> Explanation:
    checks = checks_of(row, need, selection.accuracy_required)
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
        text = (
            f"{name} meets every limit and is not chosen: {_beaten(row, chosen, need)}. {_when(row, need, selection)}"
        )
    limits = tuple(_limit(c, row) for c in checks)
    return Explanation(row=row, chosen=is_chosen, limits=limits, beaten_by=beaten_by, text=text)


def _better_word(row: KnowledgeRow) -> str:
    return "faster" if row.accuracy is None else "more accurate, or as accurate and faster"


def _beaten(row: KnowledgeRow, chosen: KnowledgeRow, need: Need) -> str:
    if row.accuracy != chosen.accuracy:
        mine, theirs = shown("accuracy", row.accuracy), shown("accuracy", chosen.accuracy)
        return f"{chosen.artifact_id} is more accurate ({theirs} against {mine})"
    mine, theirs = (time_text(r.latency_s(need.percentile)) for r in (row, chosen))
    return f"{chosen.artifact_id} is as accurate and not slower ({theirs} against {mine})"


def _when(row: KnowledgeRow, need: Need, selection: Selection) -> str:
    """The deadlines at which a beaten row would be the choice, the other limits kept."""
    free = need.model_copy(update={"deadline_s": None})
    rivals = [
        total_latency_s(r, need, None)
        for r in selection.rows
        if rank(r, need) < rank(row, need) and all(c.met for c in checks_of(r, free, selection.accuracy_required))
    ]
    own, least = total_latency_s(row, need, None), min(rivals)
    if own < least:
        return f"A deadline from {time_text(own)} to below {time_text(least)} would make it the choice."
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
    return f"{check.what} would have to {direction} {gap} to reach {bound}, or {limit_name(check.limit)} to {limit} to {value}"
