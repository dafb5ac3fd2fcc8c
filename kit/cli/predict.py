"""The verb ``predict``, and the tables of ``fit`` about a predictor: networks that were never measured, with an interval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli import options, show
from kit.cli.table import Column, text

if TYPE_CHECKING:
    from kit.cli.table import Table
    from kit.latency import Predictor
    from kit.latency.networks import NetworkKernels, Prediction

LEGEND = (
    "* is the chosen family. An error is |predicted / measured - 1|; half of the predictions are off by the factor of 'half within' or "
    "less.\np: how often random signs would put a family so far behind the best one; below {rejected:g} it is rejected."
)


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(rich_help_panel="Judge")(predict)


def predict(
    targets: Annotated[list[str], typer.Argument(metavar="ID|FILE.onnx...", help="Sub-network ids, or ONNX files.")],
    model: Annotated[Path, typer.Option(help="The model that kit fit --out or kit run wrote.")],
    dim: options.Dim = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads (default: the fewest that were measured).")
    ] = None,
    gap_ms: Annotated[float, typer.Option(min=0, help="Idle time before each call.")] = 0.0,
    clock_ghz: Annotated[float | None, typer.Option(help="Core clock, where the model was fitted to several.")] = None,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Predict latencies of networks that were never measured, each with an interval, and the reason where it extrapolates."""
    from math import isfinite

    from kit import latency, variants
    from kit.backends import dimensions
    from kit.errors import UsageError
    from kit.latency import networks
    from kit.records import OperatingPoint

    if clock_ghz is not None and not (isfinite(clock_ghz) and clock_ghz > 0):
        raise UsageError(f"--clock-ghz {clock_ghz:g} is no clock: give a number above zero.")
    if not isfinite(gap_ms) or gap_ms > 1e6:
        raise UsageError(f"--gap-ms {gap_ms:g} is no gap: give a number from 0 to 1000000.")
    predictor = latency.load(model)
    sizes = dict(dimensions.parse(dim or []))
    requested = [networks.of_name(text, variants.kernels, sizes) for text in targets]
    point = OperatingPoint(threads=threads or predictor.states[0].threads, gap_s=gap_ms * 1e-3)
    predictions = networks.predict(predictor, requested, point, None if clock_ghz is None else clock_ghz * 1e9)
    if json:
        show.emit(_as_json(predictor, requested, predictions))
        return
    show.print_table(_table(predictor, predictions))
    for prediction in predictions:
        if prediction.extrapolates:
            show.say(
                f"{prediction.network} is an extrapolation: {prediction.extrapolates}; measure it before you rest on it."
            )


def _as_json(predictor: Predictor, requested: list[NetworkKernels], predictions: list[Prediction]) -> dict[str, Any]:
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
        for network, prediction in zip(requested, predictions, strict=True)
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
    from kit.latency import FAMILY_NAMES

    where = f"{predictor.device_id}, {predictor.backend}, {predictions[0].point}"
    title = f"{where}: predicted by the model family '{FAMILY_NAMES[predictor.chosen]}', not measured"
    table = show.make_table(
        title, "network", Column("ms"), Column(f"{predictor.level:.0%} interval", 1), text("extrapolates", 2)
    )
    for prediction in predictions:
        low, high = prediction.interval_s
        interval = f"{show.ms(low)} .. {show.ms(high)}"
        table.add_row(prediction.network, show.ms(prediction.seconds), interval, prediction.extrapolates or "no")
    return table


# -------------------------------------------------------------------------------------------------------------- for kit fit


def score_table(predictor: Predictor) -> Table:
    """Errors of each model family and baseline on held-out networks: each column has one definition, given by its name or the legend."""
    from math import exp

    from kit import latency

    title = f"{predictor.backend}: cross-validation, errors on {predictor.scores[0].count} records of networks that were not fitted"
    table = show.make_table(
        title, Column("model family", 0, "left"), Column("mean error"), Column("worst error", 4), Column("within 5 %", 5),
        Column("within 10 %", 2), Column("half within", 3), Column(f"{predictor.level:.0%} interval", 6), Column("p", 1),
    )  # fmt: skip
    for s in predictor.scores:
        q = s.quality
        mark = " *" if s.form == predictor.chosen else ""
        errors = (
            f"{q.mape:.1%}",
            f"{q.worst:.1%}",
            f"{q.within_5:.0%}",
            f"{q.within_10:.0%}",
            f"x{exp(s.median_error):.4g}",
        )
        interval = f"+-{s.reach * s.sd:.1%}" if s.candidate else ""
        p_value = "" if s.p_value is None else f"{s.p_value:.3f}"
        table.add_row(latency.FAMILY_NAMES[s.form] + mark, *errors, interval, p_value)
    table.caption = LEGEND.format(rejected=latency.REJECTED)
    return table


def predictor_json(predictor: Predictor, file: Path | None, plots: Path | None = None) -> dict[str, Any]:
    """What ``kit fit --json`` prints of the predictor; the file holds all of it."""
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
