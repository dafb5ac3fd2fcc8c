"""The verb ``robustness``: the accuracy of a network that was downloaded over a link with bit errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit import units
from kit.cli import options, produce, show
from kit.cli.evaluate import ImageOptions, Running, Samples, request_of
from kit.cli.table import Column

if TYPE_CHECKING:
    from kit.cli.table import Table
    from kit.variants.bad_link import Channel, Robustness

LINK = "Link"
CLAIM_BER, KEPT_SHARE = 1e-3, 0.99


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(rich_help_panel="Judge")(options.grouped(robustness))


@dataclass(frozen=True)
class Link:
    """What is sent, and over which links."""

    ber: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…", help="Bit error rates (default: 0,1e-6,1e-5,1e-4,1e-3,1e-2).", rich_help_panel=LINK
        ),
    ] = None
    payload: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="How a weight is sent: fp32, fp16 or bf16, also -clipped (on arrival) or -protected (sign and exponent); int8 to int2, "
            "also by groups as int4-g32; stored. Weights stored in integers are sent as they are. Default: fp32 and bf16 of each kind, "
            "int8, int4.",
            rich_help_panel=LINK,
        ),
    ] = None
    draws: Annotated[int, typer.Option(min=1, help="Downloads at each rate.", rich_help_panel=LINK)] = 30
    expose: Annotated[
        str,
        typer.Option(
            help="weights: biases, statistics, scales and topology are reliable; all: only the topology is.",
            rich_help_panel=LINK,
        ),
    ] = "weights"
    seed: show.Seed = 0

    def channel(self) -> Channel:
        """The options as settings. Raises UsageError, UnknownName."""
        from kit.errors import UnknownName
        from kit.variants.bad_link import BERS, Channel
        from kit.variants.bitflips import PAYLOADS

        if self.expose not in ("weights", "all"):
            raise UnknownName("--expose", self.expose, ["weights", "all"])
        channel = Channel(
            BERS if self.ber is None else tuple(map(_rate, _parts(self.ber))),
            PAYLOADS if self.payload is None else _parts(self.payload),
            self.draws,
            self.seed,
            self.expose == "all",
        )
        channel.check()
        return channel


def _parts(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _rate(text: str) -> float:
    from kit.errors import UsageError

    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--ber {text} is no number: give rates with commas, such as 0,1e-4,1e-3.") from None


Networks = Annotated[
    list[Path], typer.Argument(metavar="FILE.onnx...", help="Networks; sizes are in percent of the first one's.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Keep every draw in this JSON file; a run that was stopped goes on from it.",
        rich_help_panel="Output",
    ),
]


def robustness(
    networks: Networks,
    samples: Samples,
    link: Link,
    images: ImageOptions,
    running: Running,
    out: Out = None,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """The accuracy of your own ONNX networks after a download with bit errors, by how their weights are sent.

    Every bit of a weight flips with the probability BER, independently. Data and preprocessing are those of kit evaluate.
    """
    from kit.errors import UsageError

    channel, wishes = link.channel(), images.wishes()
    if samples.data is None:
        raise UsageError("kit robustness needs --data FOLDER, ZIP or FILE.py:FUNCTION, as kit evaluate does.")
    produce.need_training_tools("onnx", "onnxruntime")
    from kit.variants import bad_link

    with show.progress("robustness", resumes=out is not None) as update:
        result = bad_link.robustness(
            networks, samples.data, request_of(samples, wishes, running), channel, out=out, progress=update
        )
    _print(result, json)


def _print(result: Robustness, json: bool) -> None:
    if json:
        show.emit(_json(result))
        return
    show.print_table(_table(result))
    for line in _notes(result):
        show.note(line)


def _table(result: Robustness) -> Table:
    data = f"{units.counted(result.samples, 'sample')} of {result.dataset}"
    title = f"Accuracy over that of the clean file, {result.draws} downloads a rate, {data}"
    columns = ("payload", "size", Column("reliable", 2), "BER", "clean", "mean", "median", "worst")
    table = show.make_table(title, "network", *columns)
    for cell in result.cells:
        kept = (cell.mean, cell.median, cell.worst)
        table.add_row(
            cell.file.removesuffix(".onnx"), cell.payload, f"{cell.share_of_root:.1%}", f"{cell.protected_share:.1%}", f"{cell.ber:g}",
            f"{cell.clean:.2%}", *(f"{value / cell.clean:.3f}" for value in kept),
        )  # fmt: skip
    return table


def _notes(result: Robustness) -> list[str]:
    """What was not run, and which representations make a BER of 1e-3 sufficient."""
    from kit.variants import bad_link

    lines = []
    if failed := sum(cell.failures for cell in result.cells):
        lines.append(f"{units.counted(failed, 'download')} no runtime opens or runs: each counts as 0.")
    if not any(cell.ber == CLAIM_BER for cell in result.cells):
        return lines
    enough = list(bad_link.sufficient(result, CLAIM_BER, KEPT_SHARE))
    subject = f"at a BER of {CLAIM_BER:g}, {KEPT_SHARE:.0%} of the accuracy is kept"
    for name in dict.fromkeys(cell.file for cell in result.cells):
        median = [payload for file, payload, _ in enough if file == name]
        worst = [payload for file, payload, always in enough if file == name and always]
        lines.append(
            f"{name}: {subject} in the median by {units.listed(median) or 'none'}, in every draw by {units.listed(worst) or 'none'}."
        )
    return lines


def _json(result: Robustness) -> dict[str, Any]:
    """The record, each cell with the mean, the median and the worst of its draws."""
    cells = [
        {"mean": cell.mean, "median": cell.median, "worst": cell.worst, **cell.model_dump(mode="json")}
        for cell in result.cells
    ]
    return {**result.model_dump(mode="json"), "cells": cells}
