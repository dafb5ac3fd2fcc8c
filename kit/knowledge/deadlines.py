"""Choices over deadlines: a few that a person would ask for, and many over a range. For pages that show what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from math import ceil, floor, log10

import numpy as np

from kit.errors import NoAnswer
from kit.knowledge.choose import ask
from kit.records import DECIDING, Answer, KnowledgeBase, KnowledgeRow, Need

POINTS = 60


def three_answers(base: KnowledgeBase, device_id: str) -> list[Answer]:
    """The answers to three deadlines: one that few variants meet, one in the middle, one that all meet; fewer where rows cannot decide.

    The middle is that of the Pareto front where there is one: in the middle of all variants the choice is often that of no hurry already.
    """
    rows = sorted([r for r in base.rows if r.label in DECIDING] or base.rows, key=lambda r: r.p99_s)
    p99s = [r.p99_s for r in rows]
    corners = _corners(rows)
    middle = corners[len(corners) // 2] if len(corners) > 2 else p99s[len(p99s) // 2]
    picks = [p99s[0], middle, p99s[-1]]
    answers = []
    for deadline_s in dict.fromkeys(round_up(p99_s * 1.1) for p99_s in picks):
        with suppress(NoAnswer):  # every row may be too uncertain to decide
            answers.append(ask(base.rows, Need(deadline_s=deadline_s, device_id=device_id)))
    return answers


def _corners(rows: Sequence[KnowledgeRow]) -> list[float]:
    """The p99 of each of ``rows``, which come by rising p99, that is more accurate than all before it."""
    best, corners = -1.0, []
    for row in rows:
        if row.accuracy is not None and row.accuracy > best:
            best = row.accuracy
            corners.append(row.p99_s)
    return corners


def round_up(seconds: float) -> float:
    """To two significant digits, upwards: a deadline that a person would write."""
    scale: float = 10.0 ** (floor(log10(seconds)) - 1)
    return ceil(seconds / scale - 1e-9) * scale


def choices(base: KnowledgeBase, device_id: str, points: int = POINTS) -> list[tuple[float, KnowledgeRow | None]]:
    """The choice at each of many deadlines in seconds, from below the fastest variant to above the slowest, every p99 among them."""
    p99s = [r.p99_s for r in base.rows]
    along: list[tuple[float, KnowledgeRow | None]] = []
    for deadline_s in sorted({*p99s, *np.geomspace(min(p99s) * 0.7, max(p99s) * 1.3, points)}):
        try:
            chosen = ask(base.rows, Need(deadline_s=float(deadline_s), device_id=device_id)).chosen
        except NoAnswer:
            chosen = None
        along.append((float(deadline_s), chosen))
    return along
