"""The verb ``predict``, and what ``fit`` says about a predictor: networks that were never measured, with an interval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli import show
from kit.cli.table import Column, text

if TYPE_CHECKING:
    from kit.cli.table import Table
    from kit.latency import Predictor
    from kit.latency.networks import NetworkKernels, Prediction

NAMES = {
    "factor": "1 overhead + lambda * MACs",
    "kinds": "2 lambda per kind of kernel",
    "roofline": "3 roofline over kernels",
    "learned": "4 learned efficiency above it",
    "papers": "papers: lambda = 1",
    "forest": "random forest",
    "lookup": "layer-wise lookup table",
}


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Judge")(predict)


def predict(
    targets: Annotated[list[str], typer.Argument(metavar="ID|FILE.onnx...", help="Sub-network ids, or ONNX files.")],
    model: Annotated[Path, typer.Option(help="The model that kit fit --out wrote.")],
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads (default: the fewest that were measured).")
    ] = None,
    gap_ms: Annotated[float, typer.Option(min=0, help="Idle time before each call.")] = 0.0,
    clock_ghz: Annotated[float | None, typer.Option(help="Core clock, where the model was fitted to several.")] = None,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Predict latencies of networks that were never measured, each with an interval and a word when it extrapolates."""
    from math import isfinite

    from kit import latency, variants
    from kit.errors import UsageError
    from kit.latency import networks
    from kit.records import OperatingPoint

    if clock_ghz is not None and not (isfinite(clock_ghz) and clock_ghz > 0):
        raise UsageError(f"--clock-ghz {clock_ghz:g} is no clock: give a number above zero.")
    if not isfinite(gap_ms) or gap_ms > 1e6:
        raise UsageError(f"--gap-ms {gap_ms:g} is no gap: give a number from 0 to 1000000.")
    predictor = latency.load(model)
    wanted = [networks.of_name(text, variants.kernels) for text in targets]
    point = OperatingPoint(threads=threads or predictor.states[0].threads, gap_s=gap_ms * 1e-3)
    predictions = networks.predict(predictor, wanted, point, None if clock_ghz is None else clock_ghz * 1e9)
    if json:
        show.emit(_as_json(predictor, wanted, predictions))
        return
    show.print_table(_table(predictor, predictions))
    for prediction in predictions:
        if prediction.extrapolates:
            show.say(
                f"{prediction.network} is an extrapolation: {prediction.extrapolates}; measure it before you rest on it."
            )


def _as_json(predictor: Predictor, wanted: list[NetworkKernels], predictions: list[Prediction]) -> dict[str, Any]:
    rows = [
        {
            "id": prediction.network,
            "family": network.family,
            "macs": sum(k.macs * k.count for k in network.kernels),
            "predicted_s": prediction.seconds,
            "interval_s": list(prediction.interval_s),
            "sd_s": prediction.sd_s,
            "extrapolates": prediction.extrapolates is not None,
            "why": prediction.extrapolates,
        }
        for network, prediction in zip(wanted, predictions, strict=True)
    ]
    return {
        "device": predictor.device_id,
        "backend": predictor.backend,
        "point": predictions[0].point,
        "form": predictor.chosen,
        "level": predictor.level,
        "predictions": rows,
    }


def _table(predictor: Predictor, predictions: list[Prediction]) -> Table:
    where = f"{predictor.device_id}, {predictor.backend}, {predictions[0].point}"
    title = f"{where}: predicted by form '{predictor.chosen}', not measured"
    table = show.make_table(
        title, "network", Column("ms"), Column(f"{predictor.level:.0%} interval", 1), text("extrapolates", 2)
    )
    for prediction in predictions:
        low, high = prediction.interval_s
        interval = f"{low * 1e3:.4g} .. {high * 1e3:.4g}"
        table.add_row(prediction.network, f"{prediction.seconds * 1e3:.4g}", interval, prediction.extrapolates or "no")
    return table


# -------------------------------------------------------------------------------------------------------------- for kit fit


def score_table(predictor: Predictor) -> Table:
    title = f"{predictor.backend}: cross-validation, errors on networks that were not fitted"
    table = show.make_table(
        title, "form", "mean", "median", "worst", "in 5 %", "in 10 %", f"{predictor.level:.0%} interval", "p"
    )
    for s in predictor.scores:
        q = s.quality
        mark = " *" if s.form == predictor.chosen else ""
        reach = f"+-{s.reach * s.sd:.1%}" if s.candidate else ""
        p = "" if s.p_value is None else f"{s.p_value:.3f}"
        cells = (f"{q.mape:.1%}", f"{s.median_error:.1%}", f"{q.worst:.1%}", f"{q.within_5:.0%}", f"{q.within_10:.0%}")
        table.add_row(NAMES[s.form] + mark, *cells, reach, p)
    return table


def predictor_json(predictor: Predictor, file: Path | None, plots: Path | None = None) -> dict[str, Any]:
    """What ``kit fit --json`` says about the predictor; the whole of it is in the file."""
    return {
        "file": None if file is None else str(file),
        "plots": None if plots is None else str(plots),
        "backend": predictor.backend,
        "chosen": predictor.chosen,
        "reason": predictor.reason,
        "level": predictor.level,
        "points": [s.model_dump(mode="json") for s in predictor.states],
        "records": len(predictor.measured.seconds),
        "borrowed_from": None if predictor.base is None else predictor.base.device_id,
        "scores": [s.model_dump(mode="json") for s in predictor.scores],
        "notes": list(predictor.notes),
    }
