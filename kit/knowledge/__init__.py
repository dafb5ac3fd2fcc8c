"""The knowledge base: measured and predicted rows, and what they decide.

``rows`` makes them, ``predicted`` adds those of a latency model, ``choose`` asks and explains, ``table`` compiles the answers for hot
paths, ``dynamic`` builds the size tables of papers A and B, ``regret`` judges choices by what was measured later.
"""

from kit.knowledge.choose import ask, explain, pareto
from kit.knowledge.deadlines import choices, three_answers
from kit.knowledge.dynamic import TABLE_I, dynamic_table, size_of, timings_of
from kit.knowledge.predicted import Predicted, held_out_rows, papers_rows, predicted_rows
from kit.knowledge.regret import Regret, random_needs, regret
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
    "papers_rows",
    "pareto",
    "predicted_row",
    "predicted_rows",
    "promise_of",
    "random_needs",
    "regret",
    "row_of",
    "rows_of",
    "size_of",
    "three_answers",
    "timings_of",
    "with_accuracies",
]
