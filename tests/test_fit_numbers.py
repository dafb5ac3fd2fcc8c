"""Every number that ``kit fit`` prints and writes, computed again from the raw lines of the profiles by plain statistics."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulated
import synthetic
from invoke import kit

from kit import latency, store
from kit.records import Measurement, ProfileRecord

pytest.importorskip("scipy")

CLOCK_HZ = synthetic.CLOCK_HZ
NETS = simulated.sample(9, 3)  # fewer than ten: each is left out alone, whatever the seed


class Fit:
    """One run of kit fit, and what the lines of its profiles say: MACs and seconds [records], clock."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        for i, profile in enumerate(simulated.Machine(3, noise=0.1).profiles(NETS)):
            assert profile.measurement is not None
            level = profile.measurement.median_s * rng.lognormal(0, 0.03, 6)  # processes differ, and calls within one
            runs = tuple(
                synthetic.run((v * rng.lognormal(0, 0.02, 5)).tolist(), round_) for round_, v in enumerate(level)
            )
            changes = {"created_utc": f"2026-01-01T00:00:{i:02}.000000Z", "measurement": Measurement(runs=runs)}
            store.append_line(folder / "p.jsonl", profile.model_copy(update=changes))
        words = ("fit", folder / "p.jsonl", "--out", folder / "m.json")
        self.printed = kit(*words)
        self.json = json.loads(kit(*words, "--json"))
        self.written = json.loads((folder / "m.json").read_text())
        rows = [json.loads(line) for line in (folder / "p.jsonl").read_text().splitlines()]
        self.macs = np.array([row["artifact"]["macs"] for row in rows], dtype=float)
        runs = [ProfileRecord.model_validate(row).measurement.runs for row in rows]  # type: ignore[union-attr]
        self.seconds = np.array([
            statistics.median(statistics.median(v.elapsed_ns.array().tolist()) / v.loops * 1e-9 for v in of_one) for of_one in runs
        ])  # fmt: skip

    def score(self, form: str) -> dict[str, Any]:
        (match,) = [s for s in self.json["predictor"]["scores"] if s["form"] == form]
        return match  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    return Fit(tmp_path_factory.mktemp("fit"))


def line(macs: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """(overhead, slope) by relative least squares."""
    slope, overhead = np.polyfit(macs, seconds, 1, w=1 / seconds)
    assert overhead >= 0 and slope > 0
    return float(overhead), float(slope)


def of(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    errors = [abs(p - m) / m for p, m in zip(predicted.tolist(), measured.tolist(), strict=True)]
    residual, total = ((measured - predicted) ** 2).sum(), ((measured - measured.mean()) ** 2).sum()
    return {
        "r2": 1 - residual / total, "mape": statistics.fmean(errors), "worst": max(errors),
        "within_5": sum(e <= 0.05 for e in errors) / len(errors), "within_10": sum(e <= 0.1 for e in errors) / len(errors),
    }  # fmt: skip


def row_of(printed: str, beginning: str) -> list[str]:
    """The words of the printed table's row that begins so."""
    (row,) = [text for text in printed.splitlines() if text.strip().startswith(beginning)]
    return row.split()


def test_lambda_and_its_errors(fit: Fit) -> None:
    (model,) = fit.json["latency_models"]
    overhead, slope = line(fit.macs, fit.seconds)
    assert (model["overhead_s"], model["s_per_mac"]) == (
        pytest.approx(overhead, rel=1e-6),
        pytest.approx(slope, rel=1e-6),
    )
    assert model["clock_hz"] == CLOCK_HZ and model["lambda_cycles_per_mac"] == pytest.approx(slope * CLOCK_HZ, rel=1e-6)
    low, high = model["interval"]
    assert [v * CLOCK_HZ for v in model["s_per_mac_interval"]] == pytest.approx([low, high])
    assert low < slope * CLOCK_HZ < high
    fitted, papers = of(overhead + slope * fit.macs, fit.seconds), of(fit.macs / CLOCK_HZ, fit.seconds)
    assert {name: model[name] for name in fitted} == pytest.approx(fitted, rel=1e-6)
    assert {name: model["paper"][name] for name in papers} == pytest.approx(papers, rel=1e-6)
    assert 0 < fitted["within_10"] < 1 and fitted["within_5"] != fitted["within_10"]  # else a wrong share could pass
    assert model["points"] == 9 and model["macs_range"] == [fit.macs.min(), fit.macs.max()]


def test_lambdas_interval_is_a_bootstraps_over_networks_and_processes(fit: Fit) -> None:
    """Drawn again from another stream: the ends agree as far as two bootstraps of this size do."""
    (model,) = fit.json["latency_models"]
    rng = np.random.default_rng(1234)
    slopes = []
    while len(slopes) < 2000:
        rows = rng.integers(0, len(fit.macs), len(fit.macs))
        if len(set(fit.macs[rows])) > 2:
            slope, overhead = np.polyfit(fit.macs[rows], fit.seconds[rows], 1, w=1 / fit.seconds[rows])
            inverse = 1 / fit.seconds[rows]
            through = (inverse**2 * fit.macs[rows] * fit.seconds[rows]).sum() / (inverse**2 * fit.macs[rows] ** 2).sum()
            slopes.append(slope if overhead >= 0 and slope > 0 else through)
    width = np.quantile(slopes, 0.975) - np.quantile(slopes, 0.025)
    for end, level in zip(model["s_per_mac_interval"], (0.025, 0.975), strict=True):
        assert abs(end - np.quantile(slopes, level)) < 0.15 * width


def test_held_out_errors_of_the_line_and_of_the_papers_formula(fit: Fit) -> None:
    held_out = []
    for i in range(len(fit.macs)):
        rest = np.arange(len(fit.macs)) != i
        overhead, slope = line(fit.macs[rest], fit.seconds[rest])
        held_out.append(overhead + slope * fit.macs[i])
    for form, predicted in (("factor", np.array(held_out)), ("papers", fit.macs / CLOCK_HZ)):
        score = fit.score(form)
        assert score["count"] == 9
        assert score["quality"] == pytest.approx(of(predicted, fit.seconds), rel=1e-6), form
        logarithms = np.abs(np.log(predicted / fit.seconds)).tolist()
        assert score["median_error"] == pytest.approx(statistics.median(logarithms), rel=1e-6), form
        if form == "factor":  # of nine, the 90 % interval must hold every one
            assert score["reach"] * score["sd"] == pytest.approx(max(logarithms), rel=1e-6)


def test_the_chosen_familys_errors_are_of_what_it_predicted_for_each_network(fit: Fit) -> None:
    chosen, written = fit.json["predictor"]["chosen"], fit.written
    assert written["chosen"] == chosen and written["measured"]["seconds"] == pytest.approx(
        fit.seconds.tolist(), rel=1e-9
    )
    predicted = np.array(written["held_out_s"])
    score = fit.score(chosen)
    assert score["quality"] == pytest.approx(of(predicted, fit.seconds), rel=1e-9)
    logarithms = np.abs(np.log(predicted / fit.seconds))
    assert score["median_error"] == pytest.approx(statistics.median(logarithms.tolist()), rel=1e-9)
    means = {s["form"]: s["quality"]["mape"] for s in fit.json["predictor"]["scores"] if s["candidate"]}
    assert (
        f"on average a factor of {np.exp(logarithms.mean()):.4g} off (geometric mean over 9 held-out records)"
        in fit.json["predictor"]["reason"]
    )
    assert set(means) <= set(latency.MODEL_FAMILIES)
    assert written["scores"] == fit.json["predictor"]["scores"]


def test_what_is_printed_is_what_is_written(fit: Fit) -> None:
    (model,) = fit.json["latency_models"]
    shown = row_of(fit.printed, "onnxruntime fp32")
    low, high = model["interval"]
    assert shown[3:] == [
        f"{model['lambda_cycles_per_mac']:.4g}", f"{low:.4g}", "..", f"{high:.4g}", f"{model['overhead_s'] * 1e3:.4g}",
        f"{model['r2']:.3f}", f"{model['mape']:.1%}", f"{model['worst']:.1%}", f"{model['within_5']:.0%}", f"{model['within_10']:.0%}",
        f"{model['paper']['mape']:.0%}",
    ]  # fmt: skip
    for form, name in (("factor", "line"), ("papers", "papers' lambda")):
        score = fit.score(form)
        q = score["quality"]
        errors = [f"{v:.1%}" for v in (q["mape"], q["worst"])]
        shares = [f"{v:.0%}" for v in (q["within_5"], q["within_10"])]
        words = row_of(fit.printed, name)
        at = words.index(errors[0])
        assert words[at : at + 5] == [*errors, *shares, f"x{np.exp(score['median_error']):.4g}"]
