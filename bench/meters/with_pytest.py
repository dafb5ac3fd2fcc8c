"""pytest-benchmark: one test that calibrates itself for the rest of the budget. The driver reads the median from its JSON report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import opened
import pytest

CALL = opened.bare_call()


@pytest.mark.benchmark(max_time=opened.remaining_s(closing_s=0.3), min_rounds=1, warmup=False)
def test_call(benchmark: Callable[..., Any]) -> None:
    benchmark(CALL)
