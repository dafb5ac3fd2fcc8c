"""docs/latency.md says what bench/foreign_networks.json holds, the committed run of bench/foreign_networks.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_summary_of_foreign_networks_is_the_committed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from bench import foreign_networks

    data = json.loads((ROOT / "bench" / "foreign_networks.json").read_text())
    page = " ".join((ROOT / "docs" / "latency.md").read_text().split())
    assert " ".join(foreign_networks.summary_table(data).split()) in page
    assert f"`{data['device']}` on {data['date']}" in page and data["clock"] in page
    assert data["summary"] == foreign_networks.summaries(data["rows"], list(data["summary"]))
    assert {row["network"] for row in data["rows"]} == {n.name for n in foreign_networks.foreign_networks()}
    assert all(row["refused"] is None and row["measured_s"] for row in data["rows"])
    assert all(summary["coverage"] >= 0.9 for summary in data["summary"].values())
