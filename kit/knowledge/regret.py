"""What a choice from incomplete knowledge loses against the choice with everything measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kit.errors import BadRecord, NoAnswer
from kit.knowledge.checks import checks_of
from kit.knowledge.choose import MEASURES_MAX, Measure, ask
from kit.knowledge.predicted import held_out_rows, papers_rows
from kit.knowledge.rows import key
from kit.latency import Predictor
from kit.records import DECIDING, KnowledgeRow, Need
from kit.stats import Float64Array


@dataclass(frozen=True)
class Regret:
    """Of n needs, in their order. An accuracy of a choice that misses a limit in truth, or of no choice, counts as 0."""

    needs: tuple[Need, ...]
    chosen: tuple[str | None, ...]  # from the rows at hand
    best: tuple[str | None, ...]  # with everything measured
    accuracy: Float64Array  # [n] of the choice
    best_accuracy: Float64Array  # [n]
    missed: Float64Array  # [n] 1 where the choice misses its deadline in truth, else 0

    @property
    def loss(self) -> Float64Array:
        """Accuracy lost, [n]; never below zero."""
        return self.best_accuracy - self.accuracy

    @property
    def equal_share(self) -> float:
        """Share of the needs in which the choice is as accurate as the best."""
        return float(np.mean(self.loss <= 0))

    @property
    def missed_share(self) -> float:
        """Share of the needs in which the choice misses its deadline when it is measured."""
        return float(np.mean(self.missed))


def regret(
    rows: Sequence[KnowledgeRow],
    truth: Sequence[KnowledgeRow],
    needs: Sequence[Need],
    *,
    measure: Measure | None = None,
    measures_max: int = MEASURES_MAX,
) -> Regret:
    """Choices from ``rows`` (some predicted, or measured earlier) evaluated by ``truth``, measured rows of the same variants.

    ``measure`` and ``measures_max`` go to :func:`kit.knowledge.ask`.

    Raises BadRecord on no needs, and where a choice is not among the rows of ``truth``.
    """
    if not needs:
        raise BadRecord("A regret needs at least one need.")
    true_rows = {key(r): r for r in truth}
    chosen = [_choice(rows, need, measure, measures_max) for need in needs]
    best = [_choice(truth, need, None) for need in needs]
    if absent := next((r for r in chosen if r is not None and key(r) not in true_rows), None):
        raise BadRecord(
            f"{absent.artifact_id} was chosen and never measured: the truth must hold every row that can be chosen."
        )
    evaluated = [
        _evaluated(None if r is None else true_rows[key(r)], need) for r, need in zip(chosen, needs, strict=True)
    ]
    return Regret(
        needs=tuple(needs),
        chosen=tuple(r.artifact_id if r else None for r in chosen),
        best=tuple(r.artifact_id if r else None for r in best),
        accuracy=np.array([accuracy for accuracy, _ in evaluated]),
        best_accuracy=np.array([(r.accuracy or 0.0) if r else 0.0 for r in best]),
        missed=np.array([float(missed) for _, missed in evaluated]),
    )


def regrets(
    rows: Sequence[KnowledgeRow], need: Need, predictor: Predictor, count: int, *, seed: int = 0
) -> dict[str, Regret]:
    """What choices lose that rest on predictions, on predictions with the choice measured, and on the papers' formula, for ``count``
    random needs about the rows of ``need``'s device and threads.

    Each network is predicted by the model that was fitted without it. Raises BadRecord where nothing can be said about it: a model of
    other measurements, or rows that do not know their accuracy.
    """
    plain_rows = [
        r
        for r in rows
        if r.is_default_state and need.threads in (None, r.threads) and need.device_id in (None, r.device_id)
    ]
    predicted, truth = held_out_rows(predictor, plain_rows)
    if any(r.accuracy is None for r in truth):
        raise BadRecord(
            "A regret counts lost accuracy, and not every measured row knows its own: build the base with --accuracy FILE.json."
        )
    true_rows = {key(r): r for r in truth}
    needs = random_needs(truth, count, seed=seed)
    sources: dict[str, tuple[Sequence[KnowledgeRow], Measure | None]] = {
        "predictions alone": (predicted, None),
        "predictions, the choice measured first": (predicted, lambda row: true_rows[key(row)]),
        "the papers' latency, MACs / clock": (papers_rows(truth), None),
    }
    return {
        name: regret(source_rows, truth, needs, measure=measure)
        for name, (source_rows, measure) in sources.items()
        if source_rows
    }


def _choice(
    rows: Sequence[KnowledgeRow], need: Need, measure: Measure | None, measures_max: int = MEASURES_MAX
) -> KnowledgeRow | None:
    try:
        return ask(rows, need, measure=measure, measures_max=measures_max).chosen
    except NoAnswer:
        return None


def _evaluated(row: KnowledgeRow | None, need: Need) -> tuple[float, bool]:
    """(accuracy that counts, whether the deadline is missed) of a choice by its true row."""
    if row is None:
        return 0.0, False
    missed = {c.limit for c in checks_of(row, need, accuracy_required=False) if not c.met and c.limit != "label"}
    return (0.0 if missed else row.accuracy or 0.0), "deadline" in missed


def random_needs(rows: Sequence[KnowledgeRow], count: int, *, seed: int = 0) -> list[Need]:
    """Needs that these rows can decide: deadlines over the range of their latencies (uniform in the logarithm, a tenth beyond), with a
    memory limit, a minimum accuracy or a link in a third of the cases each. Raises BadRecord without a trusted row."""
    deciding = [r for r in rows if r.label in DECIDING or r.origin == "predicted"]
    if not deciding:
        raise BadRecord("None of these rows may decide, so there is nothing to choose from: profile them again.")
    rng = np.random.default_rng(seed)
    latency = [r.p99_s for r in deciding]
    accuracy = [r.accuracy for r in deciding if r.accuracy is not None]
    memory = [r.memory_bytes for r in deciding if r.memory_bytes]
    bits = [8.0 * r.size_bytes for r in deciding if r.size_bytes]
    out = []
    for _ in range(count):
        deadline_s = _between(rng, min(latency) * 0.9, max(latency) * 1.1)
        limits: dict[str, float | int] = {"deadline_s": deadline_s}
        limited = rng.random(3) < 1 / 3
        if limited[0] and memory:
            limits["memory_bytes"] = round(_between(rng, min(memory), max(memory) * 1.1))
        if limited[1] and accuracy:
            limits["min_accuracy"] = float(rng.uniform(min(accuracy), max(accuracy)))
        if limited[2] and bits:
            limits["link_bps"] = _between(rng, min(bits) / deadline_s, 100 * max(bits) / deadline_s)
        out.append(Need.model_validate(limits))
    return out


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
