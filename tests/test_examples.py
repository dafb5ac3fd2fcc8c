"""The examples in the docstrings of the latency models and of the knowledge base hold on shipped records."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest

from kit import knowledge, latency, spaces, store
from kit.records import Need

PROFILES = Path(__file__).parent.parent / "profiles" / "amd-epyc-f25m17-2c-kvm" / "resnet18-variants.jsonl"
NAMES = {
    "knowledge": knowledge,
    "latency": latency,
    "spaces": spaces,
    "store": store,
    "Need": Need,
    "PROFILES": PROFILES,
}


@pytest.mark.parametrize("function", [latency.fit, latency.predictor, knowledge.ask], ids=lambda f: f.__name__)
def test_an_example_holds(function: Any) -> None:
    if function is latency.predictor:
        pytest.importorskip("scipy")
    (example,) = doctest.DocTestFinder(recurse=False).find(function, function.__name__, globs=dict(NAMES))
    assert example.examples and doctest.DocTestRunner().run(example).failed == 0
