"""Latency models: fitted to what was measured, and asked about what was not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from kit import latency, variants
from kit.api.arguments import ExampleInput, PathLike, Profiles, exported, records_of
from kit.errors import UsageError
from kit.latency import fits, networks
from kit.latency.fits import LatencyFit
from kit.latency.networks import NetworkKernels, Prediction
from kit.records import (
    Artifact,
    OperatingPoint,
    ProfileRecord,
)

if TYPE_CHECKING:
    import torch

    from kit.latency.model import Predictor


def fit(
    profiles: Profiles,
    *,
    backend: str | None = None,
    device: str | None = None,
    transfer_from: Predictor | Profiles | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> LatencyFit:
    """Latency models of measured networks: the papers' efficiency factor with its interval, and the model that predicts best.

    ``profiles`` are records, files or folders of one device; ``backend`` and ``device`` take a part of them. ``transfer_from`` is another
    device (its model, the model's file, or its profiles) whose structure helps where few networks were measured here. ``level`` is that
    of a prediction's interval. Without scipy (a board) the factors are fitted and ``predictor`` is None.

    Raises BadRecord (several devices, fewer than three networks), UnknownName.

    Example:
        >>> models = kit.fit(PROFILES)
        >>> [line.precision for line in models.lines]
        ['fp32', 'int8']
        >>> models.predictor.backend
        'onnxruntime'
    """
    source = transfer_from
    if isinstance(source, (str, os.PathLike)):
        source = Path(source)
    elif source is not None and not isinstance(source, latency.Predictor):
        source = records_of(source)
    return fits.fit_all(records_of(profiles), backend=backend, device=device, source=source, level=level, seed=seed)


Network: TypeAlias = "PathLike | Artifact | ProfileRecord | torch.nn.Module"


@overload
def predict(  # type: ignore[overload-overlap]  # a text is a sequence of texts, too
    model: LatencyFit | Predictor | PathLike, network: Network, *, threads: int | None = None, gap_ms: float = 0.0,
    clock_ghz: float | None = None, example_input: ExampleInput | None = None,
) -> Prediction: ...  # fmt: skip
@overload
def predict(
    model: LatencyFit | Predictor | PathLike, network: Sequence[Network], *, threads: int | None = None, gap_ms: float = 0.0,
    clock_ghz: float | None = None, example_input: ExampleInput | None = None,
) -> list[Prediction]: ...  # fmt: skip
def predict(
    model: LatencyFit | Predictor | PathLike,
    network: Network | Sequence[Network],
    *,
    threads: int | None = None,
    gap_ms: float = 0.0,
    clock_ghz: float | None = None,
    example_input: ExampleInput | None = None,
) -> Prediction | list[Prediction]:
    """The latency of a network that was not measured, on the model's device, with an interval; several networks give a list.

    ``model`` comes from ``kit.fit``, or is the file that ``kit fit --out`` wrote. ``network`` is the id of a sub-network, an .onnx file, a
    sidecar, a record, or a ``torch.nn.Module`` with an ``example_input``. ``threads`` (default: the fewest measured), ``gap_ms`` and
    ``clock_ghz`` name the operating point.

    Raises UsageError (an unknown id, a point outside of what was measured), BadModel (operators that kit cannot count).

    Example:
        >>> guess = kit.predict(kit.fit(PROFILES), "resnet18-d2.1.1.1-w0.50-fp32-96")
        >>> guess.interval_s[0] < guess.seconds < guess.interval_s[1]
        True
    """
    if isinstance(model, LatencyFit):
        model = model.needed()
    elif isinstance(model, (str, os.PathLike)):
        model = latency.load(Path(model))
    for name, value in (("gap_ms", gap_ms), ("clock_ghz", clock_ghz)):
        if value is not None and not 0 <= value <= 1e6:
            raise UsageError(f"{name} {value:g} cannot be: give a number from 0 to 1000000.")
    requested = list(network) if isinstance(network, (list, tuple)) else [network]
    kernels = [_kernels(n, example_input) for n in requested]
    point = OperatingPoint(threads=threads or model.states[0].threads, gap_s=gap_ms * 1e-3)
    predictions = networks.predict(model, kernels, point, None if clock_ghz is None else clock_ghz * 1e9)
    return predictions if isinstance(network, (list, tuple)) else predictions[0]


def _kernels(network: Any, example_input: Any) -> NetworkKernels:
    if isinstance(network, (Artifact, ProfileRecord)):
        return networks.of_artifact(network.artifact if isinstance(network, ProfileRecord) else network)
    with tempfile.TemporaryDirectory(prefix="kit-") as folder:
        return networks.of_name(str(exported(network, example_input, None, Path(folder))), variants.kernels)
