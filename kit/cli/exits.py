"""The verb ``exits``: when to leave a network early on this device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit import units
from kit.cli import options, show, together
from kit.cli.table import Column

if TYPE_CHECKING:
    from kit.cli.table import Table
    from kit.records import Criterion, ExitNetwork, ExitPolicy

CHOICE = "Choice"


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(rich_help_panel="Judge")(options.grouped(exits))


@dataclass(frozen=True)
class ChoiceOptions:
    """What may be lost, and how an exit shows that it is sure."""

    loss: Annotated[
        float,
        typer.Option(
            min=0, max=100, help="Points of accuracy that may be lost, on validation images.", rich_help_panel=CHOICE
        ),
    ] = 1.0
    by: Annotated[
        str,
        typer.Option(help="confidence, entropy, or auto: the faster.", rich_help_panel=CHOICE),
    ] = "auto"

    def criterion(self) -> Criterion | None:
        """None: the faster. Raises UnknownName."""
        from kit.early_exit import CRITERIA
        from kit.errors import UnknownName

        if self.by not in ("auto", *CRITERIA):
            raise UnknownName("--by", self.by, ["auto", *CRITERIA])
        return None if self.by == "auto" else self.by  # type: ignore[return-value]


Network = Annotated[
    Path,
    typer.Argument(metavar="NETWORK.exits.json", help="A network in segments: kit build writes them to BUILD/exits."),
]
From = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        metavar="FILE",
        help="Use these measurements (.jsonl or a folder) and measure nothing.",
        rich_help_panel=options.OUTPUT,
    ),
]


def exits(
    network: Network,
    choice: ChoiceOptions,
    runtime: options.Runtime,
    point: options.PointOptions,
    precision: options.Precision,
    file: options.RecordFile,
    profile: From = None,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """When to leave a network early on this device: thresholds by measured segment times.

    Segments and the network in one piece are measured interleaved; the thresholds of all exits are searched together for the least
    expected latency within --loss on validation images; the test images count what it costs. The policy is written beside the network;
    kit.Cascade runs it, and its times to each exit are measured here, too.
    """
    from kit import early_exit

    criterion = choice.criterion()
    network_of = early_exit.read_network(network)
    if profile is None:
        pieces = [*early_exit.segment_paths(network.parent, network_of), early_exit.whole_path(network, network_of)]
        records = together.measured(pieces, f"{network_of.name}-exits", "exits", runtime, point, precision, file)
    else:
        records = together.stored(profile, runtime, point.threads)
    policy = early_exit.policy_of(network, network_of, records, loss_max=choice.loss / 100, criterion=criterion)
    path = early_exit.write_policy(network, policy)
    cascade_s = _cascade_s(path, network, network_of) if profile is None else None
    if json:
        show.emit(_json(path, policy, cascade_s))
        return
    show.print_table(_table(policy))
    for line in _notes(policy, cascade_s):
        show.note(line)
    print(path)


def _cascade_s(path: Path, network: Path, network_of: ExitNetwork) -> tuple[list[float], float]:
    """Seconds to each exit of the cascade, and of the network in one piece beside it."""
    from kit import early_exit
    from kit.backends import feeds

    cascade = early_exit.Cascade(path)
    first = early_exit.segment_paths(network.parent, network_of)[0]
    image = feeds.unpacked(first.with_suffix(".sample.npz"))["input"][:1]
    times = early_exit.arrival_times_s(cascade, early_exit.whole_path(network, network_of), image)
    cascade.close()
    return times


def _table(policy: ExitPolicy) -> Table:
    sign = "at" if policy.criterion == "confidence" else "below"
    columns = ("depth", f"leaves {sign}", "share", Column("accuracy", 2), "segment ms", "to here ms")
    title = (
        f"{policy.network.removesuffix('.exits.json')} on {policy.device_id}, by {policy.criterion}, validation images"
    )
    table = show.make_table(title, "exit", *columns)
    for number, exit_ in enumerate(policy.exits, 1):
        last = number == len(policy.exits)
        threshold = "all" if last else "never" if exit_.threshold is None else f"{exit_.threshold:.4f}"
        table.add_row(
            str(number), str(exit_.depth), threshold, units.percent(exit_.share), units.percent(exit_.accuracy),
            show.ms(exit_.segment_s), show.ms(exit_.arrival_s),
        )  # fmt: skip
    return table


def _notes(policy: ExitPolicy, cascade_s: tuple[list[float], float] | None) -> list[str]:
    change, low, high = policy.test.change
    lines = [
        f"Expected {units.seconds(policy.expected_s)}, {policy.ratio:.0%} of {units.seconds(policy.whole_s)} in one piece; "
        f"by the shares of the test images {units.seconds(policy.test_s)}.",
        f"Test: {units.percent(policy.test.correct / policy.test.count, 2)} with exits, {100 * change:+.2f} points "
        f"({100 * low:+.2f} to {100 * high:+.2f}), on {policy.test.count} images.",
    ]
    if policy.ratio >= 1:
        lines.append("Early exits do not pay here: run the network in one piece.")
    if cascade_s is not None:
        mean_s, whole_s = _cascade_mean_s(policy, cascade_s), cascade_s[1]
        lines.append(
            f"The cascade itself, calls and checks included: {units.seconds(mean_s)}, {mean_s / whole_s:.0%} of {units.seconds(whole_s)}."
        )
    return lines


def _cascade_mean_s(policy: ExitPolicy, cascade_s: tuple[list[float], float]) -> float:
    return sum(exit_.share * seconds for exit_, seconds in zip(policy.exits, cascade_s[0], strict=True))


def _json(path: Path, policy: ExitPolicy, cascade_s: tuple[list[float], float] | None) -> dict[str, Any]:
    change, low, high = policy.test.change
    cascade = None
    if cascade_s is not None:
        cascade = {"arrival_s": cascade_s[0], "mean_s": _cascade_mean_s(policy, cascade_s), "whole_s": cascade_s[1]}
    return {
        "file": str(path),
        "ratio": policy.ratio,
        "test_change": {"points": 100 * change, "low": 100 * low, "high": 100 * high},
        "cascade": cascade,
        "policy": policy.model_dump(mode="json"),
    }
