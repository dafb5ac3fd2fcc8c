"""The verb ``ladder``: a family of networks that share their tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit import units
from kit.cli import produce, show
from kit.cli.table import Column

if TYPE_CHECKING:
    from kit.cli.table import Table
    from kit.records import Ladder, ProfileRecord


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(rich_help_panel="Produce (needs the training tools)")(ladder)


Networks = Annotated[
    list[Path], typer.Argument(metavar="BUILD|FILE.onnx...", help="A build folder, or several networks of a family.")
]


def ladder(
    networks: Networks,
    precision: Annotated[
        str | None, typer.Option(help="Only networks of this precision: fp32, int8, ... (default: all).")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measurements of the networks, for the column of latencies.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the ladder.", rich_help_panel="Output")] = "networks",
    out: Annotated[Path, typer.Option(help="Folder of the ladder.", rich_help_panel="Output")] = Path("ladder"),
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Write networks that share weights so that each tensor is stored once, and say after how many bytes which network runs.

    Each rung is an .onnx that any runtime opens; its larger tensors lie in tensors/SHA256, and kit library add packs them so.
    """
    produce.need_training_tools("onnx", "onnxruntime")
    from kit import store
    from kit.errors import UnknownName
    from kit.records import BITS
    from kit.variants import ladder as ladders

    if precision is not None and precision not in BITS:
        raise UnknownName("precision", precision, BITS)
    paths = ladders.networks_of(networks, precision)  # type: ignore[arg-type]
    with show.progress("ladder") as update:
        family = ladders.make(paths, out, name, progress=update)
    _print(
        family, [] if profile is None else store.read_profiles([profile]), out / f"{family.name}{ladders.SUFFIX}", json
    )


def _print(family: Ladder, records: list[ProfileRecord], file: Path, json: bool) -> None:
    if json:
        sizes = {
            "separate_bytes": family.separate_bytes,
            "shared_bytes": family.shared_bytes,
            "overhead": family.overhead,
        }
        latencies = {rung.artifact_id: _median_s(rung.artifact_id, records) for rung in family.rungs}
        show.emit({"file": str(file), **sizes, "median_s": latencies, "ladder": family.model_dump(mode="json")})
        return
    show.print_table(_table(family, records))
    show.note(
        f"{units.size(family.shared_bytes)} in all, {family.overhead:.1%} of the largest network alone; as files of their own "
        f"{units.size(family.separate_bytes)}."
    )


def _table(family: Ladder, records: list[ProfileRecord]) -> Table:
    largest = max(rung.alone_bytes for rung in family.rungs)
    columns = ("adds kB", "total kB", "of the largest", "alone kB", "MMACs", "accuracy", Column("ms", 2))
    table = show.make_table(f"Ladder {family.name}: what each network adds", "network", *columns)
    for rung in family.rungs:
        median_s = _median_s(rung.artifact_id, records)
        table.add_row(
            rung.artifact_id, f"{rung.new_bytes / 1e3:.1f}", f"{rung.total_bytes / 1e3:.1f}", f"{rung.total_bytes / largest:.1%}",
            f"{rung.alone_bytes / 1e3:.1f}", units.in_unit(rung.macs, units.MMAC),
            "unknown" if rung.accuracy is None else units.percent(rung.accuracy.top1), show.ms(median_s) if median_s else "unknown",
        )  # fmt: skip
    return table


def _median_s(artifact_id: str, records: list[ProfileRecord]) -> float | None:
    from contextlib import suppress

    from kit import store
    from kit.errors import MeasurementError

    with suppress(MeasurementError):
        measurement = store.measured(artifact_id, records).measurement
        return measurement.median_s if measurement is not None else None
    return None
