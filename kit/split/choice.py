"""The cuts of a network as rows: where the time of one input goes, for a link and a number of inputs.

The device downloads its half once (paper D, section 3: more layers on the device cost downlink once and save uplink with every sample), so
its share of an input falls with the number of inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kit import store
from kit.errors import IntegrityError, NoAnswer, UsageError
from kit.records import Accuracy, Cut, FeatureForm, Part, ProfileRecord, SplitNetwork

SUFFIX = ".split.json"


@dataclass(frozen=True)
class Link:
    """Rates in bits a second, and the time of a round trip, which an input takes that is sent."""

    uplink_bps: float
    downlink_bps: float
    round_trip_s: float = 0.0


@dataclass(frozen=True)
class SplitRow:
    """One cut: seconds of one input. ``download_s`` is the device's half over the downlink, shared by all inputs."""

    number: int  # 0: all on the server
    cut: Cut
    uplink_bytes: float
    device_s: float
    uplink_s: float
    server_s: float
    downlink_s: float
    download_s: float
    accuracy: Accuracy | None

    @property
    def total_s(self) -> float:
        """Of one input, its share of the download included."""
        return self.device_s + self.uplink_s + self.server_s + self.downlink_s + self.download_s


def read_network(file: Path) -> SplitNetwork:
    """The cuts of a ``.split.json``, whose parts lie beside it.

    Raises UsageError (missing, another file), BadRecord, IntegrityError (a part is missing or another file).
    """
    if not file.name.endswith(SUFFIX):
        raise UsageError(f"{file} lists no cuts: name the {SUFFIX} that kit split make writes.")
    network = store.read_record(file, SplitNetwork)
    for part in _parts(network):
        if not store.file_matches(file.parent / part.model.file, part.model):
            raise IntegrityError(
                f"{file.parent / part.model.file} is missing or not the file of {file.name}: make the cuts again."
            )
    return network


def _parts(network: SplitNetwork) -> list[Part]:
    both = [part for cut in network.cuts for part in (cut.device, cut.server) if part is not None]
    return list({part.artifact_id: part for part in both}.values())


def part_paths(file: Path, network: SplitNetwork, *, device: bool = True, server: bool = True) -> list[Path]:
    """Files of the device's halves, of the server's, or of both, each once."""
    halves = [part for cut in network.cuts for part in (cut.device if device else None, cut.server if server else None)]
    return [file.parent / name for name in dict.fromkeys(part.model.file for part in halves if part is not None)]


def rows(
    network: SplitNetwork,
    device: Sequence[ProfileRecord],
    server: Sequence[ProfileRecord],
    link: Link,
    *,
    inputs: int,
    form: FeatureForm = "coded",
    server_speed: float = 1.0,
) -> list[SplitRow]:
    """Every cut with measured times of its halves by ``device`` and ``server`` records; ``server_speed`` divides those of the server.

    Raises UsageError (rates or numbers that cannot be), MeasurementError (a half that was not measured).
    """
    if not (
        link.uplink_bps > 0 and link.downlink_bps > 0 and link.round_trip_s >= 0 and inputs >= 1 and server_speed > 0
    ):
        raise UsageError(
            "Rates, the number of inputs and the server's speed are above zero, a round trip takes no less than nothing."
        )
    table = []
    for number, cut in enumerate(network.cuts):
        sent = cut.server is not None
        uplink_bytes = cut.uplink_bytes(form) if sent else 0.0
        table.append(
            SplitRow(
                number=number,
                cut=cut,
                uplink_bytes=uplink_bytes,
                device_s=_seconds(cut.device, device),
                uplink_s=8 * uplink_bytes / link.uplink_bps + link.round_trip_s if sent else 0.0,
                server_s=_seconds(cut.server, server) / server_speed,
                downlink_s=8 * network.answer_bytes / link.downlink_bps if sent else 0.0,
                download_s=8 * cut.device.model.size_bytes / link.downlink_bps / inputs if cut.device else 0.0,
                accuracy=cut.accuracy_in(form),
            )
        )
    return table


def _seconds(part: Part | None, records: Sequence[ProfileRecord]) -> float:
    if part is None:
        return 0.0
    record = store.measured(part.artifact_id, records, part.model.sha256)
    assert record.measurement is not None
    return record.measurement.median_s


def best(table: Sequence[SplitRow], loss_max: float | None = None) -> SplitRow:
    """The row of the least time among those whose accuracy is at most ``loss_max`` (a share) below the best.

    Raises NoAnswer where accuracies are unknown and a loss was named.
    """
    if loss_max is None:
        return min(table, key=lambda row: row.total_s)
    known = [row for row in table if row.accuracy is not None]
    if not known:
        raise NoAnswer(
            "The cuts were made without data, so no accuracy is known: make them again with --data, or leave --loss away."
        )
    most = max(row.accuracy.top1 for row in known if row.accuracy is not None)
    kept = [row for row in known if row.accuracy is not None and row.accuracy.top1 >= most - loss_max - 1e-12]
    return min(kept, key=lambda row: row.total_s)
