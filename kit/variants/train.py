"""Training: a fixed schedule from an explicit seed, the same weights each time on the same machine and thread count."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from kit.nets.exits import MultiExit
from kit.variants.data import Split, shifted

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Schedule:
    """One-cycle training (Smith and Topin, 2019): the rate climbs to ``peak_rate`` and falls to nothing over ``epochs``."""

    optimizer: Literal["sgd", "adamw"]
    peak_rate: float
    weight_decay: float
    epochs: int
    batch: int = 32
    shift_px: int = 2


@contextmanager
def deterministic(seed: int, threads: int | None = None) -> Iterator[None]:
    """Inside, torch is deterministic, seeded, and uses ``threads`` (default: the cores given to this process); all restored after."""
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    )
    with torch.random.fork_rng(devices=[]):
        try:
            torch.manual_seed(seed)
            torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
            torch.use_deterministic_algorithms(True)
            # The fused attention of inference mode is one opaque operator: not exported, not counted.
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.use_deterministic_algorithms(before[1])
            torch.backends.mha.set_fastpath_enabled(before[2])


def fit(net: MultiExit, data: Split, schedule: Schedule, *, seed: int, progress: Callable[[float], None]) -> None:
    """Train all exits of ``net`` together, in place, on the mean of their cross-entropies; leaves it in evaluation mode.

    ``progress`` is called after each batch with the share done in [0, 1].
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = _optimizer(net, schedule)
    batches = len(data) // schedule.batch  # the odd rest is left out: batch norm of a tiny batch is noise
    steps = schedule.epochs * batches
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.peak_rate, total_steps=steps, pct_start=0.25)
    net.train()
    for step in range(steps):
        if step % batches == 0:
            order = torch.randperm(len(data), generator=generator)
        batch = order[step % batches * schedule.batch :][: schedule.batch]
        images = shifted(data.images[batch], schedule.shift_px, generator)
        loss = torch.stack([F.cross_entropy(logits, data.labels[batch]) for logits in net(images)]).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        progress((step + 1) / steps)
    net.eval()


def _optimizer(net: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Weight decay on matrices and kernels only: it has no business on biases, norms and the class token."""
    decayed = [p for p in net.parameters() if p.ndim in (2, 4)]
    free = [p for p in net.parameters() if p.ndim not in (2, 4)]
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": free, "weight_decay": 0.0}]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.peak_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=schedule.peak_rate, fused=True)


@torch.inference_mode()
def accuracies(net: MultiExit, data: Split) -> dict[int, float]:
    """Top-1 share in [0, 1] of every exit, by depth, on ``data``."""
    outputs = net.eval()(data.images)
    shares = [(logits.argmax(1) == data.labels).float().mean().item() for logits in outputs]
    return dict(zip(net.depths, shares, strict=True))
