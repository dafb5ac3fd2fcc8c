"""Paper D's data rates: the numbers that the paper prints, exactly; published rates; kit's variants."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from invoke import kit

from kit import store
from kit.errors import UnknownName, UsageError
from kit.papers import downloading as d
from kit.papers.results import Figure, Line, Simulation
from kit.report.svg import line_chart


@pytest.mark.parametrize(
    ("parameters", "latency_s", "share", "bit_s"),
    [
        (23e6, 1, 1, 0.736e9),
        (23e6, 1, 0.2, 0.1472e9),
        (135e6, 1, 1, 4.32e9),
        (135e6, 1, 0.2, 0.864e9),
        (307e6, 1, 1, 9.824e9),
        (307e6, 1, 0.2, 1.9648e9),
        (23e6, 0.2, 0.3, 1.104e9),
        (23e6, 1e-3, 1, 736e9),
    ],
)
def test_rates_are_the_papers(parameters: float, latency_s: float, share: float, bit_s: float) -> None:
    assert d.rate_bit_s(parameters, latency_s, share) == pytest.approx(bit_s, rel=1e-12)


def test_shares() -> None:
    assert d.largest_share(23e6, 0.2, 1e9) == pytest.approx(0.2717, abs=5e-5)
    assert d.largest_share(23e6, 1, 1e9) == 1
    assert d.rate_bit_s(135e6, 0.2, d.largest_share(135e6, 0.2, 1e9)) == pytest.approx(1e9)


def test_counts_are_torchvisions() -> None:
    models = pytest.importorskip("torchvision").models
    weights = (models.ResNet50_Weights, models.VGG16_Weights, models.ViT_L_16_Weights)
    assert [m.torchvision for m in d.MODELS] == [w.DEFAULT.meta["num_params"] for w in weights]


def test_3gpp_asks_for_what_its_models_need() -> None:
    for row in d.REQUIREMENTS:
        assert 8 * row.model_bytes / row.latency_s == pytest.approx(row.bit_s, rel=0.005)


def test_the_verb_prints_and_keeps_the_figures(tmp_path: Path, tiny_build: Path) -> None:
    pytest.importorskip("plotly")
    out = tmp_path / "out"
    printed = kit("simulate", "downloading", "--variants", tiny_build, "--out", out)
    assert "0.864" in printed and "9.824" in printed and "27.17" in printed
    record = store.read_record(out / "simulation.json", Simulation)
    assert record.world == "downloading" and record.seeds == () and "M.2410" in str(record.parameters)
    names = {line.name for f in record.figures if f.figure == "variants" for line in f.lines}
    sizes = d.variants_in(tiny_build)
    assert names == set(sizes) and len(sizes) >= 2
    marks = next(f for f in record.figures if f.figure == "variants-curve")
    assert marks.lines[0].values[-1] == 8 * max(sizes.values())
    assert "seeds" not in (out / "page.html").read_text().partition("<section")[0]
    one = json.loads(kit("simulate", "downloading", "--figure", "shares", "--out", out, "--json"))
    assert [f["figure"] for f in one["figures"]] == ["shares"]


def test_the_variants_of_a_library_are_read(tmp_path: Path, tiny_build: Path) -> None:
    kit("library", "add", tiny_build, "--to", tmp_path / "library")
    assert d.variants_in(tmp_path / "library") == d.variants_in(tiny_build)


def test_what_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="figure"):
        d.simulate(["fig5"], out=tmp_path)
    with pytest.raises(UsageError, match="holds no variants"):
        d.simulate(variants=tmp_path, out=tmp_path)
    with pytest.raises(UsageError, match="needs --variants"):
        d.simulate(["variants"], out=tmp_path)


def test_a_chart_holds_lines_bands_and_names() -> None:
    line = Line(name="a < b", values=(0.5, 1.0), low=(0.1, 0.9), high=(0.7, 1.0))
    many = [Line(name=str(i), values=(1.0, None)) for i in range(7)]
    figure = Figure(figure="f", title="T", x_name="x", x=(10.0, 100.0), y_name="y", unit="1", lines=(line, *many))
    chart = line_chart(figure)
    assert chart.count("<polyline") == 8 and chart.count("<polygon") == 1 and "a &lt; b" in chart
    assert "nan" not in chart and chart.count('"') % 2 == 0
    words = figure.model_copy(update={"x": ("0", "1e-3"), "unit": "bit/s"})
    assert ">1e-3</text>" in line_chart(words)
