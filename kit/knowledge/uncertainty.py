"""What is not sure yet: the rows whose measurement could change a choice, the most probable best first, and how to measure them."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

from kit.knowledge.checks import Check, checks_of, percentile_name, preference, rank, total_latency_s
from kit.records import DECIDING, KnowledgeRow, MeasureNext, Need

UNLIKELY = 0.002  # a smaller probability to be better is not worth a measurement
ENDS = log(19.0)  # the logit of 95 %, where an interval of nine tenths ends
MEMORY_TOLERANCE = 0.05  # a predicted memory is an upper one: at so much over the limit it fits e times more rarely
UNCERTAIN_LIMITS = ("deadline", "label")  # limits that another measurement may meet


def uncertain_rows(
    movable: Sequence[KnowledgeRow], chosen: KnowledgeRow | None, need: Need, accuracy_required: bool
) -> list[tuple[KnowledgeRow, str]]:
    """The rows whose measurement could change the choice, and why: first what is most probably the best of all.

    That is a row that meets the need while no preferred one does. Preferred rows that hardly can are not worth a measurement yet; the
    rows below a likely one are not either.
    """
    uncertain = []
    best = None
    if chosen is not None:
        best = rank(chosen, need)
        if why := uncertainty_of(chosen, need):
            uncertain.append((chosen, why, probability_met(chosen, need, accuracy_required)))
    for row in movable:
        low_s, _ = row.interval_s(need.percentile)
        if row is chosen or (best is not None and (preference(row), low_s) >= best):
            continue
        probability = probability_met(row, need, accuracy_required)
        if probability > UNLIKELY and (why := uncertainty_of(row, need)):
            uncertain.append((row, why, probability))
    uncertain.sort(key=lambda entry: rank(entry[0], need))
    none_yet, placed = 1.0, []
    for row, why, probability in uncertain:
        placed.append((none_yet * probability, row, why))
        none_yet *= 1.0 - probability
    return [(row, why) for _, row, why in sorted(placed, key=lambda entry: -entry[0])]


def probability_met(row: KnowledgeRow, need: Need, accuracy_required: bool) -> float:
    """The probability that a row meets the need when it is measured (again).

    Its latency counts as logistic in the logarithm, with nine tenths inside its interval: tails heavier than normal ones, as the errors
    of predictions are. What a prediction does not know may turn out well.
    """
    probability = 1.0
    for check in checks_of(row, need, accuracy_required):
        if not check.met and check.limit not in UNCERTAIN_LIMITS:
            probability *= _probability_of_limit(check) if row.origin == "predicted" else 0.0
    if need.deadline_s is None or not probability:
        return probability
    value = row.latency_s(need.percentile)
    spare_s = need.deadline_s - (total_latency_s(row, need, value) - value)  # what the download leaves
    if spare_s <= 0:
        return 0.0
    low, high = row.interval_s(need.percentile)
    reach = log(max(high / value if spare_s > value else value / max(low, 1e-12), 1.0 + 1e-9))
    return probability / (1.0 + exp(-min(max(ENDS * log(spare_s / value) / reach, -50.0), 50.0)))


def _probability_of_limit(missed: Check) -> float:
    """The probability that a limit that a predicted row misses, its latency aside, is met when it is measured."""
    if missed.value is None:
        return float(missed.limit != "accuracy")
    return 0.5 * exp(max(missed.slack, -10.0) / MEMORY_TOLERANCE) if missed.limit == "memory" else 0.0


def uncertainty_of(row: KnowledgeRow, need: Need) -> str | None:
    """Why a row is not what it seems for sure."""
    if row.origin == "predicted":
        return "it is predicted, not measured"
    if row.label not in DECIDING:
        return f"its measurement is {row.label}"
    if need.deadline_s is None:
        return None
    low, high = (total_latency_s(row, need, value) for value in row.interval_s(need.percentile))
    if low <= need.deadline_s < high:
        return f"the interval of its {percentile_name(need.percentile)} reaches across the deadline"
    return None


def suggestion(row: KnowledgeRow, why: str) -> MeasureNext:
    """A row with the command that measures it, and why."""
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
