"""The verbs ``split make`` and ``split choose``: a network in two halves, and which cut is fastest for a link."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit import units
from kit.cli import options, produce, show, together
from kit.cli.evaluate import ImageOptions, Samples
from kit.cli.table import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kit.cli.table import Table
    from kit.records import Cut, FeatureForm, ProfileRecord, SplitNetwork
    from kit.split import Link, SplitRow

LINK = "Link"
FORMS = ("raw", "int8", "coded")

split_app = typer.Typer(
    no_args_is_help=True, help="Split inference: a network in two halves, and where to cut it for a link."
)


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.add_typer(split_app, name="split", rich_help_panel="Judge")
    split_app.command()(options.grouped(make))
    split_app.command()(options.grouped(choose))


@dataclass(frozen=True)
class LinkOptions:
    """The link between device and server."""

    uplink_mbps: Annotated[float, typer.Option(help="Rate of the uplink in Mbit/s.", rich_help_panel=LINK)] = 10.0
    downlink_mbps: Annotated[float, typer.Option(help="Rate of the downlink in Mbit/s.", rich_help_panel=LINK)] = 50.0
    round_trip_ms: Annotated[float, typer.Option(help="Time of a round trip.", rich_help_panel=LINK)] = 0.0
    samples: Annotated[
        int, typer.Option(min=1, help="Inputs that share the download of the device's half.", rich_help_panel=LINK)
    ] = 1000
    form: Annotated[
        str, typer.Option(help="How features are sent: raw, int8, or coded (int8 after DEFLATE).", rich_help_panel=LINK)
    ] = "coded"
    loss: Annotated[
        float | None, typer.Option(min=0, max=100, help="Points of accuracy that may be lost.", rich_help_panel=LINK)
    ] = None
    server_speed: Annotated[
        float,
        typer.Option(
            help="How many times faster than its measurements the server is: an assumption.", rich_help_panel=LINK
        ),
    ] = 1.0

    def link(self) -> Link:
        """In SI units."""
        from kit.split import Link

        return Link(self.uplink_mbps * 1e6, self.downlink_mbps * 1e6, self.round_trip_ms * 1e-3)

    def feature_form(self) -> FeatureForm:
        """Raises UnknownName."""
        from kit.errors import UnknownName

        if self.form not in FORMS:
            raise UnknownName("--form", self.form, list(FORMS))
        return self.form  # type: ignore[return-value]


def make(
    network: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="A network of one input.")],
    samples: Samples,
    images: ImageOptions,
    cuts: Annotated[int, typer.Option(min=1, max=64, help="Cuts to make.")] = 8,
    dim: options.Dim = None,
    out: Annotated[Path, typer.Option(help="Folder for the halves and their list.", rich_help_panel="Output")] = Path(
        "split"
    ),
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Cut a network in two where one tensor carries everything: both halves as ONNX files, and what the features weigh.

    With --data, each cut is scored with features as they are and in 8 bits. kit split choose measures the halves and finds the cut.
    """
    produce.need_training_tools("onnx", "onnxruntime")
    from kit import evaluation, split
    from kit.backends import dimensions
    from kit.variants import splits

    request = evaluation.Request(
        metric=samples.metric,
        wishes=images.wishes(),
        limit=samples.limit,
        classes=samples.classes,
        dataset=samples.dataset,
    )
    with show.progress("split") as update:
        network_cuts = splits.make(
            network, out, samples.data, request, cuts=cuts, dims=dict(dimensions.parse(dim or [])), progress=update
        )
    file = out / f"{network_cuts.name}{split.SUFFIX}"
    if json:
        show.emit({"file": str(file), "split": network_cuts.model_dump(mode="json")})
        return
    show.print_table(_cuts_table(network_cuts))
    print(file)


ServerProfile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Measurements of the server's halves on the server (default: those of this machine).",
        rich_help_panel=options.OUTPUT,
    ),
]
DeviceProfile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="Measurements of the device's halves; nothing is measured.",
        rich_help_panel=options.OUTPUT,
    ),
]


def choose(
    network: Annotated[Path, typer.Argument(metavar="NETWORK.split.json", help="Cuts that kit split make wrote.")],
    link: LinkOptions,
    runtime: options.Runtime,
    point: options.PointOptions,
    precision: options.Precision,
    file: options.RecordFile,
    profile: DeviceProfile = None,
    server_profile: ServerProfile = None,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Which cut is fastest for a link: measured times of both halves, features over the uplink, answers over the downlink.

    The download of the device's half is shared by --samples inputs. Halves are measured here, interleaved, unless --profile and
    --server-profile name measurements: kit profile SPLIT/*-server.onnx on the server makes them.
    """
    from kit import split

    form, listed = link.feature_form(), split.read_network(network)
    device, server = _records(network, listed, (profile, server_profile), runtime, point, precision, file)
    table = split.rows(
        listed, device, server, link.link(), inputs=link.samples, form=form, server_speed=link.server_speed
    )
    chosen = split.best(table, None if link.loss is None else link.loss / 100)
    if json:
        show.emit(
            {"network": listed.name, "form": form, "chosen": chosen.number, "rows": [_json(row) for row in table]}
        )
        return
    show.print_table(_choice_table(listed, table, chosen, link))
    show.note(_sentence(chosen, table, link))


def _records(
    network: Path, listed: SplitNetwork, given: tuple[Path | None, Path | None], runtime: options.Runtime,
    point: options.PointOptions, precision: options.Precision, file: options.RecordFile,
) -> tuple[list[ProfileRecord], list[ProfileRecord]]:  # fmt: skip
    """(of the device's halves, of the server's): from the files that are named, else measured here together."""
    from kit import split

    profile, server_profile = given
    device = None if profile is None else together.stored(profile, runtime, point.threads)
    server = None if server_profile is None else together.stored(server_profile)
    if device is not None and server is not None:
        return device, server
    paths = split.part_paths(network, listed, device=device is None, server=server is None)
    records = together.measured(paths, f"{listed.name}-split", "split", runtime, point, precision, file)
    return records if device is None else device, records if server is None else server


def _cuts_table(network_cuts: SplitNetwork) -> Table:
    columns = (
        "device MMACs", "server MMACs", "raw kB", "int8 kB", "coded kB", Column("accuracy", 2), Column("int8 accuracy", 2),
    )  # fmt: skip
    table = show.make_table(f"Cuts of {network_cuts.name}", "cut at", *columns)
    for cut in network_cuts.cuts:
        accuracies = (cut.accuracy, cut.int8_accuracy)
        table.add_row(
            _place(cut),
            *(units.in_unit(part.macs, units.MMAC) if part else "0" for part in (cut.device, cut.server)),
            *(f"{size / 1e3:.3g}" for size in (cut.raw_bytes, cut.int8_bytes, cut.coded_bytes)),
            *("unknown" if a is None else units.percent(a.top1, 2) for a in accuracies),
        )
    return table


def _place(cut: Cut) -> str:
    if cut.device is None:
        return "input (all on the server)"
    return "output (all on the device)" if cut.server is None else str(cut.tensor)


def _choice_table(listed: SplitNetwork, table: Sequence[SplitRow], chosen: SplitRow, link: LinkOptions) -> Table:
    rates = f"{link.uplink_mbps:g} Mbit/s up, {link.downlink_mbps:g} down"
    title = f"{listed.name}: ms of one of {link.samples} inputs, {rates}, features {link.form}"
    columns = ("total", "device", "uplink", "server", Column("answer", 2), "download", Column("accuracy", 2))
    shown = show.make_table(title, "cut at", *columns)
    for row in table:
        times = (row.total_s, row.device_s, row.uplink_s, row.server_s, row.downlink_s, row.download_s)
        accuracy = "unknown" if row.accuracy is None else units.percent(row.accuracy.top1, 2)
        mark = " *" if row is chosen else ""
        shown.add_row(f"{_place(row.cut)}{mark}", *(show.ms(seconds) for seconds in times), accuracy)
    return shown


def _sentence(chosen: SplitRow, table: Sequence[SplitRow], link: LinkOptions) -> str:
    ends = f"all on the server {units.seconds(table[0].total_s)}, all on the device {units.seconds(table[-1].total_s)}"
    assumed = (
        "" if link.server_speed == 1 else f" The server was taken as {link.server_speed:g} times faster than measured."
    )
    return f"Fastest: {_place(chosen.cut)}, {units.seconds(chosen.total_s)} an input; {ends}.{assumed}"


def _json(row: SplitRow) -> dict[str, Any]:
    return {
        "cut": row.number,
        "at": _place(row.cut),
        "total_s": row.total_s,
        "device_s": row.device_s,
        "uplink_s": row.uplink_s,
        "server_s": row.server_s,
        "downlink_s": row.downlink_s,
        "download_s": row.download_s,
        "uplink_bytes": row.uplink_bytes,
        "accuracy": None if row.accuracy is None else row.accuracy.top1,
    }
