"""The sidecar of a network that is evaluated: read where there is one, described where there is none, and never somebody else's file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kit import store, trust
from kit.errors import UsageError
from kit.measure import onnx_files
from kit.records import Artifact

#: Makes the sidecar of an ONNX file without writing it, as ``kit describe`` does.
Describe = Callable[[Path], Artifact]


def path_of(network: Path) -> Path:
    """Where the sidecar of an .onnx file lies."""
    return network.with_suffix(".json")


def sidecar(network: Path, backend: str, describe: Describe) -> Artifact:
    """What is known of ``network``. Raises UsageError (no .onnx file; an install of ``kit pull``; a file of another kind where the sidecar
    belongs), and what :func:`kit.measure.onnx_files.described` and ``describe`` raise.
    """
    if not onnx_files.is_onnx(network):
        raise UsageError(f"{network} is no .onnx file: give one.")
    if not network.is_file():
        raise UsageError(f"{network} does not exist.")
    if trust.install_of(network) is not None:
        raise UsageError(
            f"{network} was installed by kit pull, which keeps its sidecar as it came: copy it and its .json to a folder of yours."
        )
    place = path_of(network)
    if not place.exists():
        return describe(network)
    if not store.is_of_kind(place, "artifact"):
        raise UsageError(
            f"{place} exists and is no sidecar of kit's: move it or rename the model, it is not overwritten."
        )
    return onnx_files.described(network, backend)
