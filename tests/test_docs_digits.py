"""docs/networks.md says what bench/digits.json holds, the committed runs of bench/digits.py, and they meet its acceptance criteria."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
pytest.importorskip("torch")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from bench import digits

    return digits


@pytest.fixture
def report() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "bench" / "digits.json").read_text())
    return content


def test_the_page_quotes_the_committed_runs(bench: ModuleType, report: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "networks.md").read_text()
    assert page.endswith(f"{bench.HEADING}\n\n{bench.section(report)}\n")


def test_they_are_about_today_s_images(report: dict[str, Any]) -> None:
    from kit.variants import data

    assert report["images"] == data.NAME


def test_the_runs_show_a_trade_off(bench: ModuleType, report: dict[str, Any]) -> None:
    runs = [one for one in report["runs"] if one["root"] == "resnet18"]
    assert runs
    for one in runs:
        assert bench.gap(one) >= bench.GAP
        assert len(one["front"]) >= bench.ON_FRONT
        assert all(low <= v["accuracy"] <= high for v in one["variants"] for low, high in [v["interval"]])
