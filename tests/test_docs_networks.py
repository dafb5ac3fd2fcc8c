"""docs/networks.md says what bench/networks.json holds, the committed run of bench/networks.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("onnx")
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from bench import networks

    return networks


def test_the_tables_are_the_committed_run(networks: Any) -> None:
    data = json.loads((ROOT / "bench" / "networks.json").read_text())
    page = (ROOT / "docs" / "networks.md").read_text()
    assert networks.table(data) in page
    assert networks.ways(data) in page
    ratios = [row["ratio"] for row in data["rows"]]
    close = sum(0.97 <= ratio <= 1.03 for ratio in ratios)
    where = f"`{data['device']}` on {data['date']}"
    sentence = f"{where}: {close} of {len(ratios)} ratios lie between 0.97 and 1.03, the largest is {max(ratios):.3f}"
    assert sentence in " ".join(page.split()) and min(ratios) > 0.995


def test_the_committed_run_is_of_every_file_and_found_no_fault(networks: Any) -> None:
    rows = json.loads((ROOT / "bench" / "networks.json").read_text())["rows"]
    assert {(row["source"], row["file"]) for row in rows} == {(f.source, f.name) for f in networks.FILES}
    assert all(row["exact"] or (row["kit_macs"] is None and row["uncounted"]) for row in rows)
    for row in rows:
        assert set(row["verbs"]) == set(networks.VERBS), row["file"]
        for end in row["verbs"].values():
            assert end == "ok" or (end.strip() and "FAULT" not in end and "Traceback" not in end), row["file"]
