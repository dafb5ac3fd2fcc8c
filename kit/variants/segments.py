"""A trained network with exits as one ONNX file per segment, and what each exit answered on held-out images.

A segment is the stages up to an exit and its classifier: features in, logits and features out. A device runs them one after another and
stops where an exit is sure (:mod:`kit.early_exit`), so what lies behind is not computed, which an ``If`` inside one graph does not save.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kit import early_exit, store
from kit.early_exit import thresholds
from kit.errors import KitError
from kit.nets.exits import MultiExit
from kit.nets.export import onnx_of, program_of
from kit.records import Artifact, ExitNetwork, FileRef, NumericCheck, Segment
from kit.variants import describe, evaluate, graph, network_files, quantize
from kit.variants.datasets import Dataset, Split

FOLDER = "exits"  # in the build folder, in which every .onnx is a variant
_CHECKED_IMAGES = 64
_SAMPLE_IMAGES = 4
_READ = 256  # images at a time

Features = NDArray[np.float32]
Step = Callable[[float], None]


class SegmentNetwork(nn.Module):
    """A stage and its exit: ``x`` to logits ``(N, classes)``, and, unless it is the ``last``, the stage's features."""

    def __init__(self, stage: nn.Module, leave: nn.Module, *, last: bool) -> None:
        super().__init__()
        self.stage, self.leave, self.last = stage, leave, last

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits, and the features that go on."""
        features: Tensor = self.stage(x)
        logits: Tensor = self.leave(features)
        return logits if self.last else (logits, features)


def segments_of(net: MultiExit) -> list[SegmentNetwork]:
    """The segments of ``net``, with its weights, in evaluation mode."""
    last = len(net.stages) - 1
    pairs = zip(net.stages, net.exits, strict=True)
    return [SegmentNetwork(stage, leave, last=index == last).eval() for index, (stage, leave) in enumerate(pairs)]


@dataclass(frozen=True)
class Whole:
    """The variant that is taken apart: its sidecar, its file, and the trained network ``net`` that it was exported from."""

    artifact: Artifact
    path: Path
    net: MultiExit


def write(whole: Whole, data: Dataset, test: Split, folder: Path, progress: Step = lambda share: None) -> ExitNetwork:
    """Write the segments of ``whole`` to ``folder``, in its precision, and ``<name>.exits.json``; files of the same build are kept.

    ``test`` is the part that is scored. Raises IntegrityError (the segments do not answer as the network), BadModel, StorageError.
    """
    artifact = whole.artifact
    assert artifact.subnetwork is not None
    base = artifact.subnetwork.model_copy(update={"depth": whole.net.depths[-1]}).id
    name = base.replace(f"-d{whole.net.depths[-1]}", "", 1)
    listing = folder / f"{name}{early_exit.SUFFIX}"
    if (existing := _existing(listing, artifact)) is not None:
        progress(1.0)
        return existing
    store.make_folder(folder)
    writer = _Writer(whole, data, folder, name)
    segments = writer.segments()
    progress(0.2)
    parts = {"validation": data.validation, "test": test}
    outcomes, done = {}, 0
    for part, split in parts.items():
        logits = []
        for images, _ in split.batches(_READ):
            logits.append([writer.chained(images[i : i + 1].numpy()) for i in range(len(images))])
            done += len(images)
            progress(0.2 + 0.8 * done / (len(data.validation) + len(test)))
        rows = [row for batch in logits for row in batch]
        exits = [np.concatenate([row[index] for row in rows]) for index in range(len(segments))]
        outcomes[part] = thresholds.of_logits(exits, split.labels.numpy())
    thresholds.save(outcomes, folder / f"{name}.outcomes.npz")
    network = ExitNetwork(
        name=name, whole=artifact.artifact_id, dataset=data.name, classes=len(data.classes), segments=tuple(segments),
        outcomes=store.file_ref(folder / f"{name}.outcomes.npz"),
    )  # fmt: skip
    store.write_record(listing, network)  # last: it lists the others
    return network


def _existing(listing: Path, whole: Artifact) -> ExitNetwork | None:
    """What an earlier start of the same build wrote, complete."""
    with suppress(KitError):
        network = early_exit.read_network(listing)
        sidecars = [
            store.read_record(p.with_suffix(".json"), Artifact)
            for p in early_exit.segment_paths(listing.parent, network)
        ]
        if all(_source(sidecar) == whole.content_sha256 for sidecar in sidecars):
            return network
    return None


def _source(segment: Artifact) -> str | None:
    return segment.origin.versions.get("whole") if segment.origin else None


class _Writer:
    """One network's segments: exported, quantized as the whole is, checked against it, and run in a chain."""

    def __init__(self, whole: Whole, data: Dataset, folder: Path, name: str) -> None:
        self._whole, self._data, self._folder, self._name = whole, data, folder, name
        self._sessions: list[onnxruntime.InferenceSession] = []

    def segments(self) -> list[Segment]:
        """The files, written and checked."""
        image = self._data.test.take(slice(1))
        features, calibration = image, self._data.calibration.images
        written = []
        for index, segment in enumerate(segments_of(self._whole.net)):
            names = ["output"] if segment.last else ["output", "features"]
            program = program_of(segment, (features,))
            data = self._in_precision(onnx_of(program, input_names=["input"], output_names=names), calibration)
            artifact_id = self._name.replace("-", f"-s{index + 1}-", 1)
            model = network_files.save_file(self._folder, f"{artifact_id}.onnx", data)
            self._sessions.append(evaluate.open_session(self._folder / model.file))
            written.append((artifact_id, model))
            if not segment.last:
                with torch.inference_mode():
                    features = segment(features)[1]
                    calibration = torch.cat([segment(part)[1] for part in torch.split(calibration, _READ)])
        check = self._check()
        for (artifact_id, model), inputs in zip(written, self._inputs(), strict=True):
            self._write_sidecar(artifact_id, model, inputs, check)
        depths = zip(written, self._whole.net.depths, strict=True)
        return [Segment(artifact_id=name, model=model, depth=depth) for (name, model), depth in depths]

    def chained(self, image: Features) -> list[Features]:
        """The logits ``(1, classes)`` of every exit for one image."""
        logits, features = [], image
        for session in self._sessions:
            outputs = session.run(None, {"input": features})
            logits.append(outputs[0])
            features = outputs[-1]
        return logits

    def _in_precision(self, model: bytes, calibration: Tensor) -> bytes:
        how = self._whole.artifact.quantization
        if how is None:
            return model
        with quantize.scratch() as folder:
            source = folder / "segment.onnx"
            source.write_bytes(model)
            return quantize.dynamic(source) if how == quantize.DYNAMIC else quantize.static(source, calibration)

    def _inputs(self) -> list[Features]:
        """What each segment is given for some test images, ``(N, ...)``."""
        rows: list[list[Features]] = [[] for _ in self._sessions]
        for image in torch.split(self._data.test.take(slice(_SAMPLE_IMAGES)), 1):
            features = image.numpy()
            for row, session in zip(rows, self._sessions, strict=True):
                row.append(features)
                features = session.run(None, {"input": features})[-1]
        return [np.concatenate(row) for row in rows]

    def _check(self) -> NumericCheck:
        """The chain against the whole file on test images. Raises IntegrityError where floats differ by more than rounding."""
        images = self._data.test.take(slice(_CHECKED_IMAGES))
        chained = np.concatenate([self.chained(image.numpy())[-1] for image in torch.split(images, 1)])
        check = evaluate.compare(chained, evaluate.logits(self._whole.path, images))
        if self._whole.artifact.quantization is None:
            network_files.assert_same(check.max_abs_error, chained, f"segments of {self._name}")
        return check

    def _write_sidecar(self, artifact_id: str, model: FileRef, inputs: Features, check: NumericCheck) -> None:
        path = self._folder / model.file
        outputs = evaluate.logits(path, torch.from_numpy(inputs))
        whole = self._whole.artifact
        assert whole.origin is not None
        versions = {**whole.origin.versions, "whole": whole.content_sha256}
        artifact = Artifact(
            artifact_id=artifact_id,
            model=model,
            precision=whole.precision,
            quantization=whole.quantization,
            **describe.stated(graph.contents(graph.load(path), artifact_id)),
            check=check,
            sample=network_files.save_sample(self._folder, artifact_id, {"input": inputs}, outputs),
            licence=whole.licence,
            origin=whole.origin.model_copy(
                update={"versions": versions, "steps": (*whole.origin.steps, "cut into segments at its exits")}
            ),
        )
        store.write_record(path.with_suffix(".json"), artifact)


def names(networks: Sequence[ExitNetwork]) -> list[str]:
    """The listings, relative to the build folder."""
    return [f"{FOLDER}/{network.name}{early_exit.SUFFIX}" for network in networks]
