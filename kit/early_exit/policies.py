"""From measured segments to a policy: where this device leaves a network, what it saves, and what it costs in accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from kit import store
from kit.early_exit import thresholds
from kit.early_exit.thresholds import Outcomes
from kit.errors import IntegrityError, UsageError
from kit.measure import jobs
from kit.records import Criterion, Exit, ExitNetwork, ExitPolicy, ProfileRecord

SUFFIX = ".exits.json"


def read_network(file: Path) -> ExitNetwork:
    """The network with early exits of a ``.exits.json``, whose files lie beside it.

    Raises UsageError (missing, another file), BadRecord, IntegrityError (a file of it is missing or another).
    """
    if not file.name.endswith(SUFFIX):
        raise UsageError(
            f"{file} is no network with early exits: name the {SUFFIX} that kit build writes to BUILD/exits."
        )
    network = store.read_record(file, ExitNetwork)
    for reference in (network.outcomes, *(segment.model for segment in network.segments)):
        if not store.file_matches(file.parent / reference.file, reference):
            raise IntegrityError(
                f"{file.parent / reference.file} is missing or not the file of {file.name}: build it again."
            )
    return network


def segment_paths(folder: Path, network: ExitNetwork) -> list[Path]:
    """The files of the segments, the first one first."""
    return [folder / segment.model.file for segment in network.segments]


def whole_path(file: Path, network: ExitNetwork) -> Path:
    """The network in one piece, beside ``file`` or in the folder above. Raises UsageError where it is not there."""
    name = f"{network.whole}.onnx"
    path = next((p for p in (file.parent / name, file.parent.parent / name) if p.is_file()), None)
    if path is None:
        raise UsageError(f"{name}, the network in one piece, lies neither beside {file} nor in the folder above.")
    return path


def policy_of(
    file: Path,
    network: ExitNetwork,
    records: Sequence[ProfileRecord],
    *,
    loss_max: float,
    criterion: Criterion | None = None,
) -> ExitPolicy:
    """The policy of the least expected latency by ``records`` (one of each segment and of the whole, of one device and settings).

    Thresholds are chosen on the validation images, with at most ``loss_max`` of their share lost; the test images only count. Raises
    MeasurementError where a segment or the whole was not measured, BadRecord.
    """
    deciding = [store.measured(name, records) for name in (*(s.artifact_id for s in network.segments), network.whole)]
    *segment_s, whole_s = (record.measurement.median_s for record in deciding if record.measurement is not None)
    parts = {
        part: thresholds.read(file.parent / network.outcomes.file, part, len(segment_s))
        for part in ("validation", "test")
    }
    choice = thresholds.choose(parts["validation"], segment_s, loss_max, criterion)
    left_at = {part: outcomes.left_at(choice.criterion, choice.thresholds) for part, outcomes in parts.items()}
    one = deciding[0]
    return ExitPolicy(
        network=file.name,
        network_sha256=store.sha256_file(file),
        device_id=one.device.device_id,
        backend=one.settings.backend,
        threads=one.settings.threads,
        criterion=choice.criterion,
        loss_max=loss_max,
        exits=tuple(_exits(network, choice, parts["validation"], left_at["validation"], segment_s)),
        whole_s=whole_s,
        expected_s=expected(left_at["validation"], segment_s),
        validation=parts["validation"].with_exits(left_at["validation"]),
        test=parts["test"].with_exits(left_at["test"]),
        test_s=expected(left_at["test"], segment_s),
        record_ids=tuple(record.record_id for record in deciding),
    )


def expected(left_at: thresholds.ExitNumbers, segment_s: Sequence[float]) -> float:
    """Mean seconds of images that leave at these exits: the sum over exits of their share times the measured time to there."""
    shares = np.bincount(left_at, minlength=len(segment_s)) / len(left_at)
    return float(shares @ np.cumsum(segment_s))


def _exits(
    network: ExitNetwork,
    choice: thresholds.Choice,
    outcomes: Outcomes,
    left_at: thresholds.ExitNumbers,
    segment_s: Sequence[float],
) -> list[Exit]:
    exits = []
    rows = zip(network.segments, (*choice.thresholds, None), segment_s, accumulate(segment_s), strict=True)
    for index, (segment, threshold, own_s, arrival_s) in enumerate(rows):
        here = left_at == index
        accuracy = float(outcomes.correct[index][here].mean()) if here.any() else None
        exits.append(
            Exit(
                depth=segment.depth,
                threshold=threshold,
                share=float(here.mean()),
                accuracy=accuracy,
                segment_s=own_s,
                arrival_s=arrival_s,
            )
        )
    return exits


def write_policy(file: Path, policy: ExitPolicy) -> Path:
    """Write ``<name>.<device>.policy.json`` beside the network; returns its path."""
    path = jobs.record_file(
        file.parent.parent, file.parent.name, f"{file.name.removesuffix(SUFFIX)}.{policy.device_id}", ".policy.json"
    )
    store.write_record(path, policy)
    return path
