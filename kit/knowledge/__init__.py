"""The knowledge base: measured and predicted rows, and what they decide.

``rows`` makes them, ``choose`` asks and explains, ``table`` compiles the answers for hot paths, ``dynamic`` builds the size tables of
papers A and B, ``regret`` judges choices by what was measured later.
"""

from kit.knowledge.choose import ask, explain, pareto
from kit.knowledge.dynamic import TABLE_I, dynamic_table, size_of, timings_of
from kit.knowledge.regret import Regret, random_needs, regret
from kit.knowledge.rows import build, key, predicted_row, promise_of, rows_of, tail_ratios
from kit.knowledge.table import DecisionTable
from kit.knowledge.table import compile_rows as compile  # noqa: A004

__all__ = [
    "TABLE_I",
    "DecisionTable",
    "Regret",
    "ask",
    "build",
    "compile",
    "dynamic_table",
    "explain",
    "key",
    "pareto",
    "predicted_row",
    "promise_of",
    "random_needs",
    "regret",
    "rows_of",
    "size_of",
    "tail_ratios",
    "timings_of",
]
