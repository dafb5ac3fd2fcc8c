"""docs/networks.md says what bench/shipped_models.json holds, the committed run of bench/shipped_models.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_table_of_shipped_files_is_the_committed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from bench import shipped_models

    data = json.loads((ROOT / "bench" / "shipped_models.json").read_text())
    page = (ROOT / "docs" / "networks.md").read_text()
    assert shipped_models.table(data) in page
    assert f"`{data['device']}` on {data['date']}" in " ".join(page.split())
    assert {(row["package"], row["file"]) for row in data["rows"]} == {
        (f.package, f.name) for f in shipped_models.FILES
    }
    assert all(row["exact"] for row in data["rows"])
