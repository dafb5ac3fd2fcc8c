"""docs/networks.md says what bench/digits.json holds, the committed runs of bench/digits.py, and they meet its acceptance criteria."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import synthetic

from kit import store

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


def test_a_run_folder_becomes_a_row_for_each_variant(bench: ModuleType, tmp_path: Path) -> None:
    """Records as ``kit run`` leaves them: the whole network first, the front as the report draws it, the table's latencies in ms."""
    device = synthetic.device()
    rows = {
        "d8-w1.00-fp32": (0.002, 0.95), "d8-w1.00-int8": (0.001, 0.94),
        "d2-w0.30-fp32": (0.0002, 0.74), "d2-w0.30-int8": (0.0001, 0.72),
    }  # fmt: skip
    records = [
        synthetic.profile(f"resnet18-{name}-32", latency_s, accuracy=share, macs=1_500_000, on=device)
        for name, (latency_s, share) in reversed(rows.items())
    ]
    folder = tmp_path / "profiles" / device.device_id
    folder.mkdir(parents=True)
    for record in records:
        store.append_line(folder / "variants.jsonl", record)
    (tmp_path / "summary.json").write_text(json.dumps({"device": device.model_dump(mode="json")}))
    one = bench.of_records("resnet18", 0, tmp_path) | {"note": "Synthetic."}
    assert [v["variant"] for v in one["variants"]] == [f"resnet18-{name}-32" for name in rows]
    assert one["front"] == [f"resnet18-{name}-32" for name in reversed(rows)]
    assert bench.gap(one) == pytest.approx(0.23)
    text = bench.section({"runs": [one, {**one, "seed": 1}]})
    assert "| `d2-w0.30` | 1.5 | 0.2 | 0.1 | 74.0 / 74.0 | 72.0 / 72.0 |" in text
    assert "23.0, 23.0 points more accurate" in " ".join(text.split())
    assert max(map(len, text.split("\n\n")[0].splitlines())) <= 100


def test_they_are_about_today_s_images(report: dict[str, Any]) -> None:
    from kit.variants import digits

    assert report["images"] == digits.NAME


def test_the_runs_show_a_trade_off(bench: ModuleType, report: dict[str, Any]) -> None:
    runs = [one for one in report["runs"] if one["root"] == "resnet18"]
    assert runs
    for one in runs:
        assert bench.gap(one) >= bench.GAP
        assert len(one["front"]) >= bench.ON_FRONT
        assert all(low <= v["accuracy"] <= high for v in one["variants"] for low, high in [v["interval"]])
