"""The allocators that are trained: the mixtures of experts of papers A and B, their static networks, and the per-user network.

:mod:`kit.allocators.fileformat` says which networks there are and how they are stored, this file trains them::

    net = make(paper_a(), seed=0)
    shares = net(features, width=8)            (samples, resources, users), each row of users adds up to one
    write(net, path, width=8)                  x.alloc.npz for the allocator backend

Inputs are ``(samples, users, features)``, normalised by :func:`normalise`. A mask ``(samples, users)`` says who is present; who is not gets
nothing and moves nothing. Readings where paper B is silent: experts are picked once for all users, by the mean of their features, and the
noise of eq. (16) is drawn once per sample and expert. Eq. (14) is read as the softmax that its text says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kit.allocators import fileformat
from kit.allocators.fileformat import LEAK, AllocatorNetwork, AllocatorSpec, Feature, Size
from kit.errors import BadModel
from kit.records import Artifact

DENSE_SHARE = 0.5  # from this share of the experts on, all are computed for many samples at once
_ABSENT = float("-inf")


class Allocator(nn.Module):
    """One network of a spec; a sub-network is chosen at each call. Raises UsageError for a size that it has not."""

    def __init__(self, spec: AllocatorSpec, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        super().__init__()
        self.spec = spec
        for name, shape in fileformat.shapes(spec).items():
            if arrays[name].shape != shape:
                raise BadModel(
                    f"{spec.root}: array {name} has the shape {arrays[name].shape}, not {shape}: export it again."
                )
            self.register_parameter(name, nn.Parameter(torch.tensor(arrays[name], dtype=torch.float32)))

    def forward(
        self,
        features: Tensor,
        width: int | None = None,
        depth: int | None = None,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Shares ``(samples, resources, users)`` from ``(samples, users, features)``.

        ``width`` experts (units) and ``depth`` layers, all by default. While it trains, paper B's gate is noisy (``generator``).
        """
        most = self.spec.largest
        size = Size(most.width if width is None else width, most.depth if depth is None else depth)
        fileformat.check_size(self.spec, size, features.shape[1])
        if mask is not None:
            features = features * mask[..., None]
        logits = {"flat": self._flat, "shared": self._shared, "per_user": self._per_user}[self.spec.form](
            features, size, mask, generator
        )
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None], _ABSENT)
        return logits.softmax(-1)

    def _flat(self, features: Tensor, size: Size, mask: Tensor | None, _: torch.Generator | None) -> Tensor:
        """Paper A, eqs. (4) to (6), with the log-softmax of each expert over the users that are present."""
        spec, users = self.spec, features.shape[1]
        x = functional.pad(features.transpose(1, 2), (0, spec.users - users)).flatten(1)
        h = (x @ self._of("input_weight") + self._of("input_bias")).relu()
        weights, experts = self._gate(h @ self._of("gate_weight") if spec.gated else None, size.width, len(x))
        w0, b0, w1, b1 = (self._of(f"expert{i}_{what}", experts) for i in (0, 1) for what in ("weight", "bias"))
        if experts is None:
            y = (torch.einsum("sp,eph->seh", h, w0) + b0).relu()
            y = torch.einsum("seh,ehu->seu", y, w1) + b1
        else:
            y = (torch.einsum("sp,seph->seh", h, w0) + b0).relu()
            y = torch.einsum("seh,sehu->seu", y, w1) + b1
        y = y[..., :users]
        present = y if mask is None else y.masked_fill(~mask[:, None], _ABSENT)
        y = y - present.logsumexp(-1, keepdim=True)
        return torch.einsum("se,seu->su", weights, y)[:, None]

    def _gate(self, values: Tensor | None, width: int, samples: int) -> tuple[Tensor, Tensor | None]:
        """Weights of the experts that are computed and, for one sample, which they are (None: all, many with weight zero)."""
        if values is None:
            return self._of("expert0_bias").new_full((samples, self.spec.experts), 1.0 / self.spec.experts), None
        if width == self.spec.experts:
            return values.softmax(-1), None
        top, experts = values.topk(width, dim=-1)
        if samples == 1:
            return top.softmax(-1), experts
        return torch.zeros_like(values).scatter(-1, experts, top.softmax(-1)), None

    def _of(self, name: str, experts: Tensor | None = None) -> Tensor:
        parameter: Tensor = getattr(self, name)
        return parameter if experts is None else parameter[experts]

    def _shared(self, features: Tensor, size: Size, mask: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """Paper B, eqs. (12) to (20)."""
        spec, samples = self.spec, len(features)
        gate = None
        if spec.gated:
            mean = features.mean(1) if mask is None else features.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
            gate = mean @ self._of("gate_weight")
            if self.training:
                noise = torch.randn(gate.shape, generator=generator, device=gate.device)
                gate = gate + noise * functional.softplus(mean @ self._of("noise_weight"))
        weights, experts = self._gate(gate, size.width, samples)
        if experts is not None:
            y = self._experts(features, size.depth, experts[0])
            together = torch.einsum("e,euh->uh", weights[0], y)[None]
        elif gate is None or size.width >= DENSE_SHARE * spec.experts:
            flat = self._experts(features.flatten(0, 1), size.depth, None).reshape(
                -1, *features.shape[:2], self.spec.hidden[size.depth - 1]
            )
            together = torch.einsum("se,esuh->suh", weights, flat)
        else:
            together = self._dispatched(features, weights, size.depth)
        return (together @ self._of("output_weight") + self._of("output_bias")).transpose(1, 2)

    def _experts(self, x: Tensor, depth: int, experts: Tensor | None) -> Tensor:
        """``(experts, rows, hidden)`` of all users as rows: each expert is shared by them."""
        x = x.reshape(-1, x.shape[-1])
        for layer in range(depth):
            w, b = self._of(f"expert{layer}_weight", experts), self._of(f"expert{layer}_bias", experts)
            x = functional.leaky_relu(x @ w + b[:, None], LEAK)
        return x

    def _dispatched(self, features: Tensor, weights: Tensor, depth: int) -> Tensor:
        """Each expert computes only the samples that picked it: the cost of training follows the width."""
        hidden = self.spec.hidden[depth - 1]
        together = features.new_zeros(*features.shape[:2], hidden)
        for expert in range(self.spec.experts):
            rows = weights[:, expert].nonzero()[:, 0]
            if len(rows):
                y = self._experts(features[rows], depth, torch.tensor([expert]))[0].reshape(len(rows), -1, hidden)
                together = together.index_add(0, rows, weights[rows, expert, None, None] * y)
        return together

    def _per_user(self, features: Tensor, size: Size, mask: Tensor | None, _: torch.Generator | None) -> Tensor:
        """Per user: own state and the mean of the others in each layer, and a direct path that can represent the square-root rule."""
        present = features.new_ones(features.shape[:2]) if mask is None else mask.to(features.dtype)
        others_count = (present.sum(1) - 1).clamp(min=1)[:, None, None]
        h = features
        for layer in range(size.depth):
            rows = h.shape[-1]
            masked = h * present[..., None]
            others = (masked.sum(1, keepdim=True) - masked) / others_count
            own_weight, others_weight = getattr(self, f"own{layer}_weight"), getattr(self, f"others{layer}_weight")
            z = h @ own_weight[:rows, : size.width] + others @ others_weight[:rows, : size.width]
            z = functional.leaky_relu(z + getattr(self, f"layer{layer}_bias")[: size.width], LEAK)
            h = h + z if layer else z
        return (h @ self._of("output_weight")[: size.width] + features @ self._of("direct_weight")).transpose(1, 2)


def make(spec: AllocatorSpec, seed: int) -> Allocator:
    """An untrained network; equal seeds give equal weights, whatever torch's random state is."""
    return Allocator(spec, fileformat.random_arrays(spec, seed))


def export_arrays(net: Allocator) -> dict[str, NDArray[np.float32]]:
    """The weights as plain arrays, ``(inputs, outputs)``, experts first."""
    return {name: np.array(p.detach().cpu().numpy(), np.float32) for name, p in net.named_parameters()}


def network_of(
    net: Allocator, width: int | None = None, depth: int | None = None, users: int | None = None
) -> AllocatorNetwork:
    """A sub-network without torch. Raises UsageError for a size that it has not."""
    return AllocatorNetwork(net.spec, export_arrays(net), net.spec.largest, net.spec.users).cut(width, depth, users)


def write(
    net: Allocator,
    path: Path,
    width: int | None = None,
    depth: int | None = None,
    users: int | None = None,
    *,
    seed: int | None = None,
    steps: Sequence[str] = (),
) -> Artifact:
    """A sub-network as ``x.alloc.npz`` with its sidecar. Raises UsageError, StorageError."""
    return fileformat.write(network_of(net, width, depth, users), path, seed=seed, steps=tuple(steps))


def read(path: Path) -> Allocator:
    """The trained network of an ``.alloc.npz``. Raises as :func:`kit.allocators.fileformat.read` does."""
    network = fileformat.read(path)
    return Allocator(network.spec, network.arrays).eval()


def normalise(features: Sequence[Feature], tasks: Tensor, mask: Tensor | None = None) -> Tensor:
    """Inputs ``(samples, users, features)`` from raw quantities ``(samples, features, users)``, in the units of the features' names."""
    present = torch.ones_like(tasks[:, 0]) if mask is None else mask.to(tasks.dtype)
    columns = []
    for index, feature in enumerate(features):
        value: Any = tasks[:, index]
        mean = (value * present).sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp(min=1)
        ratio = (value / (mean if feature.scale is None else feature.scale)).clamp(min=feature.least).float()
        columns.append(((ratio.log() if feature.log else ratio) - feature.centre) / feature.spread)
    return torch.stack(columns, -1)
