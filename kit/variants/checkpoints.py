"""Weights from a file into a network. Nothing of the file is run: what holds more than tensors is refused."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kit import versions
from kit.errors import IntegrityError, UsageError, first_line

Weights = dict[str, Tensor]
_USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")
_SHOWN = 3


def read(path: Path) -> Weights:
    """The tensors of a checkpoint by name: a ``state_dict`` of torch.save, alone or among other entries, a .safetensors, a .npz.

    Raises UsageError (missing, no tensors, it could not be read without running code of it), IntegrityError (broken),
    BackendUnavailable (.safetensors without that package).
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist: give a file of weights.")
    try:
        content = _content(path)
    except pickle.UnpicklingError:
        raise UsageError(
            f"{path} holds more than tensors, and loading it would run code of it: write it with torch.save(net.state_dict(), ...), or as "
            ".safetensors."
        ) from None
    except (OSError, ValueError, RuntimeError, EOFError, KeyError) as error:
        reason = first_line(error)
        raise IntegrityError(f"{path} cannot be read as weights ({reason[:160]}): write it again.") from None
    weights = _tensors(content)
    if not weights:
        raise UsageError(f"{path} holds no tensors with names: write it with torch.save(net.state_dict(), ...).")
    return weights


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        versions.need("Reading .safetensors needs", "safetensors")
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:  # its own class, of a module without a name of its own
            raise ValueError(str(error)) from None
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return torch.load(path, map_location="cpu", weights_only=True)


def _tensors(content: Any) -> Weights:
    """The state_dict in what a training script stored: itself, under a usual key, else the entry with the most tensors."""
    if not isinstance(content, Mapping):
        return {}
    own = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    inner = [content[key] for key in _USUAL if isinstance(content.get(key), Mapping)]
    for candidate in inner:
        if weights := _tensors(candidate):
            return weights
    return max((own, *(_tensors(value) for value in content.values())), key=len)


def load(net: nn.Module, weights: Weights, file: Path, name: str) -> None:
    """Fill ``net``. Raises UsageError naming the tensors that are missing, unknown or of another shape."""
    fitting = renamed(weights, net)
    own = net.state_dict()
    missing = [key for key in own if key not in fitting and not key.endswith("num_batches_tracked")]
    unknown = [key for key in fitting if key not in own]
    other = [key for key, value in fitting.items() if key in own and value.shape != own[key].shape]
    faults = [
        _listed(f"{len(missing)} of its {len(own)} tensors are not in the file", missing),
        _listed(f"{len(unknown)} of the file are not in the network", unknown),
        _listed(
            f"{len(other)} have another shape", [f"{k}: {_shape(fitting[k])}, not {_shape(own[k])}" for k in other]
        ),
    ]
    if any(faults):
        reason = "; ".join(filter(None, faults))
        raise UsageError(f"{file} does not fit {name}: {reason}. Give the checkpoint of this network.")
    net.load_state_dict(fitting, strict=False)


def _listed(text: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = ", ..." if len(keys) > _SHOWN else ""
    return f"{text} ({', '.join(keys[:_SHOWN])}{more})"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def renamed(weights: Weights, net: nn.Module) -> Weights:
    """``weights`` under the network's names: what wrappers (DataParallel, torch.compile, a trainer) put before all of them is gone or
    added. The tensors of anything else in the same file are left out."""
    own = set(net.state_dict())
    prefixes = Counter({"": 0})
    for key in weights:
        for wrapper in ("", *_prefixes_of(key)):
            if key[len(wrapper) :] in own:
                prefixes[wrapper] += 1
    prefix, hits = prefixes.most_common(1)[0]
    for added in _WRAPPERS:
        if sum(f"{added}{key}" in own for key in weights) > hits:
            return {f"{added}{key}": value for key, value in weights.items()}
    return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}


def _prefixes_of(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:count]) + "." for count in range(1, len(parts))]


def classes(weights: Weights, net: nn.Module) -> int | None:
    """The number of classes of a checkpoint whose network differs from ``net`` by that alone; None where it does not, or by more."""
    fitting, own = renamed(weights, net), net.state_dict()
    other = {key for key, value in fitting.items() if key in own and value.shape != own[key].shape}
    counts = {
        fitting[key].shape[0] for key in other if fitting[key].ndim and fitting[key].shape[1:] == own[key].shape[1:]
    }
    same_rest = all(fitting[key].shape[1:] == own[key].shape[1:] for key in other)
    return int(counts.pop()) if len(counts) == 1 and same_rest else None


def without_head(weights: Weights, net: nn.Module) -> Weights:
    """``weights`` with the tensors of ``net`` in place of those that are of another number of classes (:func:`classes`)."""
    own, fitting = net.state_dict(), renamed(weights, net)
    return {key: own[key] if key in own and value.shape != own[key].shape else value for key, value in fitting.items()}
