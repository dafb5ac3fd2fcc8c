"""kit robustness: the accuracy of networks that were downloaded over a link with bit errors.

Every draw is a network that a receiver would have got; it is a file that a runtime opens, scored on the same samples as the clean one.
The flips of a draw follow from all that its cell stands for (seed, file, representation, BER, samples), so a run that was stopped goes on
with the draws that it would have had.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import ModelProto

import kit
from kit import evaluation, store, variants
from kit.backends import onnxdata
from kit.devices import recognise
from kit.errors import BadModel, MeasurementError, UsageError
from kit.records import Record
from kit.variants import bitflips, graph
from kit.variants.bitflips import Representation, Transmission

BERS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
DRAWS = 30
_FORMAT = 1  # raise it when the same settings would give other draws
_ONE_FILE_BYTES = 3 << 29  # above it, weights lie beside the file: a file of ONNX holds less than 2 GiB

Progress = Callable[[str, float], None]
Data = str | Path | Callable[[], Any]


class Cell(Record):
    """A network in one representation at one BER: the accuracy of each draw; of a draw that no runtime opens or runs, 0."""

    key: str  # a digest of all that decides the draws
    file: str
    payload: str
    ber: float
    clean: float  # accuracy of the file itself
    accuracies: tuple[float, ...]
    failures: int = 0  # draws that no runtime opens or runs
    download_bytes: int
    protected_share: float  # of the download, over the reliable channel
    exposed_bits: int
    share_of_root: float  # of the first file's bytes

    @property
    def mean(self) -> float:
        """Of the draws."""
        return statistics.fmean(self.accuracies)

    @property
    def median(self) -> float:
        """Of the draws."""
        return statistics.median(self.accuracies)

    @property
    def worst(self) -> float:
        """Of the draws."""
        return min(self.accuracies)


class Robustness(Record):
    """What ``kit robustness`` found out, raw: every accuracy of every draw."""

    kind: Literal["robustness"] = "robustness"
    schema_version: Literal[1] = 1
    dataset: str
    metric: str
    samples: int
    draws: int
    seed: int
    exposed: Literal["weights", "all"]
    cells: tuple[Cell, ...]
    device_id: str
    ended_utc: str
    producer: str

    def at(self, file: str, payload: str, ber: float) -> Cell:
        """The cell of that name. Raises KeyError."""
        for cell in self.cells:
            if (cell.file, cell.payload, cell.ber) == (file, payload, ber):
                return cell
        raise KeyError((file, payload, ber))


@dataclass(frozen=True)
class Channel:
    """What is sent, and over which links."""

    bers: Sequence[float] = BERS
    payloads: Sequence[str] = bitflips.PAYLOADS
    draws: int = DRAWS
    seed: int = 0
    everything: bool = False  # biases, statistics, scales and ranges are exposed, too

    def check(self) -> None:
        """Raises UsageError, UnknownName."""
        if not self.bers or not self.payloads:
            raise UsageError("Give at least one bit error rate and one payload.")
        for ber in self.bers:
            bitflips.check_ber(ber)
        for name in self.payloads:
            bitflips.representation(name)
        if self.draws < 1:
            raise UsageError(f"--draws {self.draws} cannot be: give 1 or more, 30 to see the worst of them.")


def digest(path: Path) -> str:
    """The sha256 of the file and of those that hold its weights."""
    hashes = [store.sha256_file(path), *(store.sha256_file(path.parent / name) for name in onnxdata.files_of(path))]
    return hashes[0] if len(hashes) == 1 else store.sha256_bytes(store.canonical_json(hashes))


def size_bytes(path: Path) -> int:
    """Of the file and those that hold its weights."""
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in onnxdata.files_of(path))


def robustness(
    files: Sequence[Path],
    data: Data,
    request: evaluation.Request,
    channel: Channel | None = None,
    *,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Robustness:
    """The accuracy of each of ``files`` after each link of ``channel``, on ``data`` as ``kit evaluate`` takes them.

    Sizes are shares of the first file's. ``out`` is written after every cell, and cells that it holds already are not computed again.

    Raises what :class:`kit.evaluation.Trial` raises, BadModel (no weights), UnknownName (a payload), UsageError, StorageError.
    """
    channel = channel or Channel()
    channel.check()
    if not files:
        raise UsageError("Give one .onnx file or more; sizes are in percent of the first one's.")
    for path in files:
        graph.load(path)  # what is missing is reported before an hour of draws
    run = _Run(files, data, request, channel, out, progress or (lambda text, share: None))
    return run.record()


@dataclass
class _Run:
    files: Sequence[Path]
    data: Data
    request: evaluation.Request
    channel: Channel
    out: Path | None
    progress: Progress
    cells: list[Cell] = field(default_factory=list)
    trial: evaluation.Trial | None = None

    def __post_init__(self) -> None:
        self.kept = _kept_cells(self.out)
        self.root_bytes = size_bytes(self.files[0])
        unique = len({path.name for path in self.files}) == len(self.files)
        self.names = [path.name if unique else str(path) for path in self.files]

    def record(self) -> Robustness:
        """Compute what is missing."""
        with tempfile.TemporaryDirectory() as folder:
            for number, path in enumerate(self.files):
                self._file(path, number, Path(folder))
        return self._written()

    def _written(self) -> Robustness:
        assert self.trial is not None
        record = Robustness(
            dataset=self.trial.dataset,
            metric=_name(self.request.metric),
            samples=len(self.trial.samples),
            draws=self.channel.draws,
            seed=self.channel.seed,
            exposed="all" if self.channel.everything else "weights",
            cells=tuple(self.cells),
            device_id=recognise().device_id,
            ended_utc=store.utc_now(),
            producer=f"kit {kit.__version__}",
        )
        if self.out is not None:
            others = [c for c in self.kept.values() if c.key not in {cell.key for cell in self.cells}]
            store.write_record(self.out, record.model_copy(update={"cells": (*record.cells, *others)}))
        return record

    def _file(self, path: Path, number: int, folder: Path) -> None:
        model, sha256, name = graph.load_whole(path), digest(path), self.names[number]
        self.trial = evaluation.Trial(path, self.data, self.request, describe=variants.artifact)
        clean = self.trial.accuracy(path).top1
        if not clean:
            raise UsageError(
                f"{path} answers nothing correctly as it is: check data, classes and preprocessing by kit evaluate."
            )
        payloads = list(bitflips.applicable(model, self.channel.payloads))
        for p, how in enumerate(payloads):
            sent = Transmission(model, how, everything=self.channel.everything, file_bytes=size_bytes(path))
            for b, ber in enumerate(self.channel.bers):
                share = (number + (p + b / len(self.channel.bers)) / len(payloads)) / len(self.files)
                width = 1 / len(self.files) / len(payloads) / len(self.channel.bers)
                key = self._key(sha256, how, ber)
                cell = self.kept.get(key) or self._cell(key, name, clean, sent, ber, folder, (share, width))
                # What a file is called and compared with may have changed since.
                size = {"file": name, "share_of_root": cell.download_bytes / self.root_bytes}
                self.cells.append(cell.model_copy(update=size))
                if key not in self.kept:
                    self._written()

    def _key(self, sha256: str, how: Representation, ber: float) -> str:
        assert self.trial is not None
        decisive = {
            "format": _FORMAT, "file": sha256, "payload": how.name, "ber": ber, "draws": self.channel.draws if ber else 1,
            "seed": self.channel.seed, "everything": self.channel.everything, "samples": self.trial.digest,
            "metric": _name(self.request.metric), "output": self.request.output, "backend": self.request.backend,
        }  # fmt: skip
        return store.sha256_bytes(store.canonical_json(decisive))[:32]

    def _cell(
        self, key: str, name: str, clean: float, sent: Transmission, ber: float, folder: Path, part: tuple[float, float]
    ) -> Cell:
        accuracies: list[float | None] = []
        draws = self.channel.draws if ber else 1  # without errors all are one
        for draw in range(draws):
            text = f"{name}, {sent.how.name}, BER {ber:g}, draw {draw + 1} of {draws}"
            self.progress(text, part[0] + part[1] * draw / draws)
            rng = np.random.default_rng([int(key, 16), draw])
            accuracies.append(self._draw(sent, ber, rng, folder))
        return Cell(
            key=key,
            file=name,
            payload=sent.how.name,
            ber=ber,
            clean=clean,
            accuracies=tuple(a or 0.0 for a in accuracies),
            failures=accuracies.count(None),
            download_bytes=sent.total_bytes,
            protected_share=sent.protected_share,
            exposed_bits=sent.exposed_bits,
            share_of_root=sent.total_bytes / self.root_bytes,
        )

    def _draw(self, sent: Transmission, ber: float, rng: np.random.Generator, folder: Path) -> float | None:
        assert self.trial is not None
        file = folder / "received.onnx"
        _save(sent.received(ber, rng), file)
        try:
            return self.trial.accuracy(file).top1
        except (BadModel, MeasurementError):
            return None  # scales that are no numbers, or a shape: a receiver has no answer


def _save(model: ModelProto, file: Path) -> None:
    for old in file.parent.iterdir():
        old.unlink()
    if model.ByteSize() < _ONE_FILE_BYTES:
        file.write_bytes(model.SerializeToString())
    else:
        onnx.save_model(model, str(file), save_as_external_data=True, location="received.bin")


def _name(metric: Any) -> str:
    return metric if isinstance(metric, str) else getattr(metric, "__qualname__", type(metric).__name__)


def _kept_cells(out: Path | None) -> Mapping[str, Cell]:
    if out is None or not out.exists():
        return {}
    if not store.is_of_kind(out, "robustness"):
        raise UsageError(f"{out} exists and is no result of kit robustness: name another file.")
    return {cell.key: cell for cell in store.read_record(out, Robustness).cells}


def sufficient(result: Robustness, ber: float, share: float = 0.99) -> Iterator[tuple[str, str, bool]]:
    """(file, payload, whether even the worst draw does) for those whose median keeps ``share`` of the clean accuracy at ``ber``."""
    for cell in result.cells:
        if cell.ber == ber and cell.median >= share * cell.clean:
            yield cell.file, cell.payload, cell.worst >= share * cell.clean
