"""The page of a latency model and of the decisions, from simulated devices."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulated
import typer.testing

from kit import latency, spaces, store
from kit.cli import app
from kit.errors import BadRecord
from kit.records import ProfileRecord

pytest.importorskip("plotly")

from kit.report import latency as pages

SUBS = [sub for sub in spaces.space_of("resnet18").sample(60, 2) if sub.precision == "fp32"][:14]


@pytest.fixture(scope="module")
def profiles() -> list[ProfileRecord]:
    records = [simulated.Machine(1).profile(sub.id, spaces.kernels(sub)) for sub in SUBS]
    return [p.model_copy(update={"record_id": f"made-{p.artifact.artifact_id}"}) for p in records]


@pytest.fixture(scope="module")
def predictor(profiles: list[ProfileRecord]) -> latency.Predictor:
    return latency.predictor(profiles)


def figures(page: str) -> dict[str, Any]:
    return json.loads(re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index, no-any-return]


def test_the_held_out_predictions_survive_the_file(tmp_path: Path, predictor: latency.Predictor) -> None:
    latency.save(tmp_path / "m.json", predictor)
    for mine, theirs in zip(predictor.held_out(), latency.load(tmp_path / "m.json").held_out(), strict=True):
        assert np.array_equal(mine, theirs)
    seconds, _, _ = predictor.held_out()
    errors = np.abs(seconds / np.array(predictor.measured.seconds) - 1)
    (score,) = [s for s in predictor.scores if s.form == predictor.chosen]
    assert errors.mean() == pytest.approx(score.quality.mape)


def test_every_dot_is_a_held_out_prediction(predictor: latency.Predictor, profiles: list[ProfileRecord]) -> None:
    drawn = pages.dots(predictor, profiles)
    assert len(drawn) == len(SUBS) and [d.measured_s for d in drawn] == sorted(d.measured_s for d in drawn)
    for dot in drawn:
        assert dot.low_s < dot.predicted_s < dot.high_s and dot.series == "resnet fp32"
        if predictor.roofline is not None:
            assert sum(p.share for p in dot.stages) == pytest.approx(1) == sum(p.share for p in dot.kinds)
            assert any(p.s_per_mac for p in dot.stages)
    assert pages.dots(predictor, profiles[:3]) and not pages.dots(predictor, [])


def test_the_page_loads_nothing_and_has_every_figure(
    tmp_path: Path, predictor: latency.Predictor, profiles: list[ProfileRecord]
) -> None:
    curve = latency.learning_curve(profiles, counts=(8,), repeats=1)
    page = pages.write_page(tmp_path / "f.html", predictor, profiles, curve).read_text()
    assert "Content-Security-Policy" in page and "<html" in page
    page_figures = figures(page)
    assert set(page_figures) == {"meeting", "errors", "stage_errors", "kind_errors", "cost", "learning"}
    drawn = [t for t in page_figures["errors"]["data"] if t["mode"] == "markers"]
    assert sum(len(t["customdata"]) for t in drawn) == len(SUBS)
    assert all(f'id="{name}"' in page for name in page_figures) and "The largest errors" in page


def test_nothing_to_draw_is_reported(tmp_path: Path, predictor: latency.Predictor) -> None:
    page = pages.write_page(tmp_path / "f.html", predictor, []).read_text()
    assert "None of these profiles" in page and "Too few networks were measured" in page
    with pytest.raises(BadRecord, match="without its held-out predictions"):
        pages.write_page(tmp_path / "g.html", predictor.model_copy(update={"held_out_s": ()}), [])
    assert not (tmp_path / "g.html").exists()


def test_fit_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profiles: list[ProfileRecord]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kit.cli.judge.CURVE", (8,))
    for one in profiles:
        store.append_line(Path("p.jsonl"), one)
    completed = typer.testing.CliRunner().invoke(
        app, ["fit", "p.jsonl", "--plots", "f.html", "--out", "m.json", "--json"]
    )
    assert completed.exit_code == 0, completed.output
    assert json.loads(completed.stdout)["predictor"]["plots"] == "f.html" and "learning" in figures(
        Path("f.html").read_text()
    )
    words = ["knowledge", "build", "p.jsonl", "--model", "m.json", "--space", "resnet18", "--sample", "200"]
    shares = {sub.id: 0.4 + 0.05 * float(np.log10(spaces.macs(sub))) for sub in spaces.space_of("resnet18")}
    Path("a.json").write_text(json.dumps(shares))
    runner = typer.testing.CliRunner()
    bare = [*words, "--out", "knowledge.json"]
    assert runner.invoke(app, [*bare, "--accuracy", "a.json"]).exit_code == 0
    drawn = runner.invoke(
        app, ["knowledge", "map", "--model", "m.json", "--needs", "20", "--against", "link", "--json"]
    )
    assert drawn.exit_code == 0, drawn.output
    about = json.loads(drawn.stdout)
    assert about["regret"]["predictions, the choice measured first"]["missed"] == 0 or about["why_no_regret"]
    page = Path("decisions.html").read_text()
    assert "map" in figures(page) and "Content-Security-Policy" in page


def test_records_too_few_for_any_form_are_one_sentence() -> None:
    """Held-out folds of five records in two precisions leave no line to any of them."""
    subs = spaces.space_of("resnet18").sample(40, 0)
    mixed = [s for s in subs if s.precision == "fp32"][:3] + [s for s in subs if s.precision == "int8"][:2]
    few = [simulated.Machine(0).profile(s.id, spaces.kernels(s)) for s in mixed]
    with pytest.raises(BadRecord, match="too few for any latency model"):
        latency.predictor(few, baselines=False)
