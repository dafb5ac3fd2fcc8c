"""What the functions of ``import kit`` take, and what it stands for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kit import store, versions
from kit.errors import UsageError
from kit.records import (
    ProfileRecord,
)

if TYPE_CHECKING:
    import torch


PathLike: TypeAlias = "str | os.PathLike[str]"
Profiles: TypeAlias = "ProfileRecord | PathLike | Iterable[ProfileRecord | PathLike]"
ExampleInput: TypeAlias = "torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]"
Progress: TypeAlias = Callable[[str, float], None]


def silent(text: str, share: float) -> None:
    """Progress that nobody looks at."""


def exported(network: object, example_input: Any, name: str | None, folder: Path) -> PathLike:
    """The file of a PyTorch network, exported to ``folder``; a file or an id as it is."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(network, torch.nn.Module):
        if not isinstance(network, (str, os.PathLike)):
            raise UsageError(
                f"{type(network).__name__} is no network: give an .onnx file, an id, or a torch.nn.Module."
            )
        if example_input is not None:
            raise UsageError("example_input is for a PyTorch network: leave it away for a file or an id.")
        return network
    if example_input is None:
        raise UsageError("A PyTorch network needs an example_input: a tensor of the shape that it is to be timed with.")
    versions.need("This needs", "onnx", "onnxscript", "onnxruntime")
    from kit.variants.export import export_module

    stem = store.slug(name or type(network).__name__)
    return folder / export_module(network, example_input, folder, stem).model.file


def records_of(profiles: Profiles) -> list[ProfileRecord]:
    """Records as they are, and those of files and folders; the oldest first."""
    if isinstance(profiles, (ProfileRecord, str, os.PathLike)):
        profiles = [profiles]
    items = list(profiles)
    records = [p for p in items if isinstance(p, ProfileRecord)]
    paths = [Path(p) for p in items if not isinstance(p, ProfileRecord)]
    records += store.read_profiles(paths) if paths else []
    return sorted(records, key=lambda record: record.created_utc)
