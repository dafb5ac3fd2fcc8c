"""The knowledge base: measured and predicted rows, and what they decide.

``rows`` builds them, ``predicted`` adds those of a latency model. ``limits`` turns options into a requirement, ``checks`` compares it
with rows, ``choose`` answers it, ``uncertainty`` lists what to measure, ``measuring`` measures it, ``explanation`` explains.
``table`` compiles the answers for hot paths, ``deadlines`` chooses over deadlines, ``regret`` counts what a choice lost by what was
measured later, ``dynamic`` builds the size tables of papers A and B.
"""

from kit.knowledge.choose import ask, pareto
from kit.knowledge.deadlines import choices, three_answers
from kit.knowledge.dynamic import TABLE_I, dynamic_table, size_of, timings_of
from kit.knowledge.explanation import explain
from kit.knowledge.predicted import Predicted, held_out_rows, members_of, papers_rows, predicted_rows, rows_by_model
from kit.knowledge.regret import Regret, random_needs, regret, regrets
from kit.knowledge.rows import (
    build,
    joined,
    key,
    predicted_row,
    promise_of,
    row_of,
    rows_of,
    with_accuracies,
)
from kit.knowledge.table import DecisionTable
from kit.knowledge.table import compile_rows as compile  # noqa: A004

__all__ = [
    "TABLE_I",
    "DecisionTable",
    "Predicted",
    "Regret",
    "ask",
    "build",
    "choices",
    "compile",
    "dynamic_table",
    "explain",
    "held_out_rows",
    "joined",
    "key",
    "members_of",
    "papers_rows",
    "pareto",
    "predicted_row",
    "predicted_rows",
    "promise_of",
    "random_needs",
    "regret",
    "regrets",
    "row_of",
    "rows_by_model",
    "rows_of",
    "size_of",
    "three_answers",
    "timings_of",
    "with_accuracies",
]
