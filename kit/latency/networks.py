"""What is to be predicted: an id of a space, a sidecar or a file becomes a list of kernels, kernels become a latency with an interval."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit import spaces, store, units
from kit.errors import BackendUnavailable, BadModel, BadRecord, UsageError
from kit.latency.kernels import kernels_of
from kit.latency.model import Predictor
from kit.records import Artifact, Kernel, OperatingPoint, Record, SubNetwork

#: Of a graph at sizes of its free dimensions, by the onnx package: kit.variants.kernels.
CountKernels = Callable[[Path, Mapping[str, int]], "tuple[Kernel, ...]"]


@dataclass(frozen=True)
class NetworkKernels:
    """The kernels of one network; ``family`` is None for one that kit did not make."""

    name: str
    family: str | None
    kernels: tuple[Kernel, ...]


class Prediction(Record):
    """The latency that a model predicts for a network on its device: nobody measured it.

    ``extrapolates`` says why the network is unlike what the model was fitted to; None: it is not.
    """

    network: str
    device_id: str
    backend: str
    point: str
    seconds: float
    interval_s: tuple[float, float]
    level: float  # of the interval
    sd_s: float
    extrapolates: str | None = None

    def summary(self) -> dict[str, str]:
        """The latency, its interval, and whether it is an extrapolation."""
        interval = units.interval(*self.interval_s, units.TIME)
        return {
            "network": self.network,
            "predicted": f"{units.seconds(self.seconds)} ({self.level:.0%}: {interval})",
            "extrapolates": self.extrapolates or "no",
            "runtime": f"{self.backend}, {self.point}",
            "device": self.device_id,
        }


def predict(
    predictor: Predictor,
    networks: Sequence[NetworkKernels],
    point: OperatingPoint | None = None,
    clock_hz: float | None = None,
) -> list[Prediction]:
    """One prediction for each of ``networks``; ``point`` is the fewest threads that were measured unless given.

    Raises UsageError for a point or a clock outside of the measured ones.
    """
    at = point or OperatingPoint(threads=predictor.states[0].threads)
    predictions = predictor.predict(
        [n.kernels for n in networks], at, clock_hz=clock_hz, families=[n.family for n in networks]
    )
    return [
        Prediction(
            network=network.name,
            device_id=predictor.device_id,
            backend=predictor.backend,
            point=at.name,
            seconds=float(predictions.seconds[i]),
            interval_s=(float(predictions.low[i]), float(predictions.high[i])),
            level=predictor.level,
            sd_s=float(predictions.sd[i]),
            extrapolates=predictions.why[i],
        )
        for i, network in enumerate(networks)
    ]


def of_name(text: str, count: CountKernels, dims: Mapping[str, int] | None = None) -> NetworkKernels:
    """The kernels of an .onnx file or of a sub-network's id. ``count`` lists those of a graph without a sidecar, or at other sizes of
    its free dimensions (``dims``) than its sidecar has.

    Raises UsageError (no such file, no such id, sizes for what is no file), BadModel (operators that kit cannot count),
    BackendUnavailable (a board has no onnx).
    """
    path = Path(text)
    if path.suffix.lower() == ".onnx":
        return of_file(path, count, dims)
    if dims:
        raise UsageError(f"--dim is about an .onnx file, and {text} is none: name the file, or leave it away.")
    sub = SubNetwork.parse(text)
    return NetworkKernels(text, sub.family, spaces.kernels(sub))


def of_file(path: Path, count: CountKernels, dims: Mapping[str, int] | None = None) -> NetworkKernels:
    """A file's kernels from its sidecar, else from its graph. Raises as :func:`of_name` does."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist.")
    sidecar, sizes = _sidecar(path), dict(dims or {})
    if not sizes and sidecar is not None and (kernels := kernels_of(sidecar)) is not None:
        return NetworkKernels(path.name, _family(sidecar), kernels)
    if importlib.util.find_spec("onnx") is None:
        raise BackendUnavailable(
            f"{path} has no sidecar that lists its kernels{' at these sizes' if sizes else ''} and this machine has no onnx: run kit "
            f"describe {path.name} on a PC and copy the .json next to the file."
        )
    with store.explained(path, "read"):
        listed = count(path, {**dict(sidecar.dims if sidecar else ()), **sizes})
    if not listed:
        raise BadModel(f"{path} holds no work that takes time: measure it with kit profile instead.")
    return NetworkKernels(path.name, None if sidecar is None else _family(sidecar), listed)


def of_artifact(artifact: Artifact) -> NetworkKernels:
    """The kernels of a sidecar. Raises BadModel where nobody listed them."""
    kernels = kernels_of(artifact)
    if kernels is None:
        raise BadModel(
            f"The kernels of {artifact.artifact_id} are unknown: run kit describe on its file, or name the file."
        )
    return NetworkKernels(artifact.artifact_id, _family(artifact), kernels)


def _family(artifact: Artifact) -> str | None:
    """The family of a file by its sidecar: of its sub-network, else of the root that it was exported from."""
    if artifact.subnetwork is not None:
        return artifact.subnetwork.family
    root = artifact.origin.root if artifact.origin else None
    return spaces.SPACES[root].family if root in spaces.SPACES else None


def _sidecar(path: Path) -> Artifact | None:
    """The sidecar of a file, when it is kit's and of this very file."""
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return None
    try:
        artifact = store.read_record(sidecar, Artifact)
    except BadRecord:
        return None
    return artifact if artifact.model.sha256 == store.sha256_file(path) else None
