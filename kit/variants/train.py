"""Training: a fixed schedule from an explicit seed, the same weights each time on the same machine and thread count.

All exits of a network learn together, on the mean of their losses; with ``distillation`` the early ones also learn the softened answers of
the last (Hinton et al., 2015). On a GPU where torch finds one. After each epoch all that a run needs to go on is in one file.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit import devices, store
from kit.nets.exits import MultiExit
from kit.variants.datasets import Split

Progress = Callable[[str, float], None]
_TEMPERATURE = 3.0  # of the answers that early exits learn from
_BF16_FEATURES = {"avx512_bf16", "amx_bf16"}
_SCORED = 256  # images at a time
_STEPS_MIN = 8  # of a cycle, which needs some to climb


@dataclass(frozen=True)
class Schedule:
    """One-cycle training (Smith and Topin, 2019): the rate climbs to ``peak_rate`` and falls to nothing over ``epochs``.

    ``shift_px`` and ``flips`` vary the images, ``distillation`` weighs what early exits learn from the last one, and with ``frozen`` the
    stages and the last exit stay as they are and the early exits alone learn. ``channels_last`` is the order in memory: a third faster
    for narrow convolutions on large maps, a quarter slower for wide ones on small maps. With ``bf16`` products are computed in bfloat16
    (weights, statistics and losses stay in fp32): where the processor has instructions for it, in a little over half the time.
    """

    optimizer: Literal["sgd", "adamw"]
    peak_rate: float
    weight_decay: float
    epochs: int
    batch: int = 32
    shift_px: int = 2
    flips: bool = False
    distillation: float = 0.0
    frozen: bool = False
    channels_last: bool = False
    bf16: bool = False


def computes_bf16() -> bool:
    """Whether products in bfloat16 are faster than in fp32 here: the GPU or the processor has instructions for them."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(_BF16_FEATURES & set(devices.recognise().cpu_features))


@contextmanager
def deterministic(seed: int, threads: int | None = None) -> Iterator[None]:
    """Inside, torch is deterministic, seeded, and uses ``threads`` (default: the cores given to this process); all restored after."""
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what CUDA's products need to be deterministic
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


def fit(
    net: MultiExit,
    data: Split,
    schedule: Schedule,
    *,
    seed: int,
    progress: Callable[[float], None],
    resume: Path | None = None,
) -> None:
    """Train all exits of ``net`` together, in place; leaves it in evaluation mode and on the CPU.

    ``progress`` is called after each batch with the share done in [0, 1]. ``resume`` is a file: written after each epoch, read where it
    exists, and removed at the end. A resumed run ends with the weights of an uninterrupted one.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch_size = min(schedule.batch, len(data))
    batches = len(data) // batch_size  # the odd rest is left out: batch norm of a tiny batch is noise
    steps = schedule.epochs * batches
    generator = torch.Generator().manual_seed(seed)
    order_in_memory = torch.channels_last if schedule.channels_last else torch.contiguous_format
    net.to(device, memory_format=order_in_memory)  # type: ignore[call-overload]
    learning = _learning(net, schedule)
    optimizer = _optimizer(learning, schedule)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.peak_rate, total_steps=max(steps, _STEPS_MIN), pct_start=0.25
    )
    run = _Run(net, optimizer, scheduler, generator, resume)
    start = run.resumed()
    _mode(net, schedule)
    for step in range(start, steps):
        if step % batches == 0:
            order = torch.randperm(len(data), generator=generator)
        rows = order[step % batches * batch_size :][:batch_size]
        images = varied(data.take(rows), schedule, generator).to(device, memory_format=order_in_memory)
        with torch.autocast(device, torch.bfloat16, enabled=schedule.bf16):
            outputs = net(images)
        loss = _loss(tuple(logits.float() for logits in outputs), data.labels[rows].to(device), schedule)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learning.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        progress((step + 1) / steps)
        if (step + 1) % batches == 0 and step + 1 < steps:
            run.save(step + 1)
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    net.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    if resume is not None:
        resume.unlink(missing_ok=True)


def _loss(outputs: tuple[Tensor, ...], labels: Tensor, schedule: Schedule) -> Tensor:
    early = outputs[:-1] if schedule.frozen else outputs
    loss = torch.stack([F.cross_entropy(logits, labels) for logits in early]).mean()
    if schedule.distillation and len(outputs) > 1:
        answers = (outputs[-1].detach() / _TEMPERATURE).softmax(1)
        softened = [(logits / _TEMPERATURE).log_softmax(1) for logits in outputs[:-1]]
        apart = torch.stack([F.kl_div(logits, answers, reduction="batchmean") for logits in softened]).mean()
        loss = loss + schedule.distillation * _TEMPERATURE**2 * apart
    return loss


def _learning(net: MultiExit, schedule: Schedule) -> nn.Module:
    """The part whose weights move; those of the rest ask for no gradient."""
    if not schedule.frozen:
        return net
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    early = nn.ModuleList(list(net.exits)[:-1])
    for parameter in early.parameters():
        parameter.requires_grad_(True)
    return early


def _mode(net: MultiExit, schedule: Schedule) -> None:
    """Training mode; a frozen backbone keeps its statistics."""
    net.train()
    if schedule.frozen:
        net.stages.eval()
        net.exits[-1].eval()


@dataclass
class _Run:
    """All that a training needs to go on."""

    net: MultiExit
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    generator: torch.Generator
    file: Path | None

    def save(self, step: int) -> None:
        if self.file is None:
            return
        state = {
            "step": step,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "generator": self.generator.get_state(),
            "torch": torch.get_rng_state(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        store.write_atomic(self.file, buffer.getvalue())

    def resumed(self) -> int:
        """The step to go on with: 0 where there is no file, or one that is broken or of another network."""
        if self.file is None or not self.file.exists():
            return 0
        try:
            state: dict[str, Any] = torch.load(self.file, weights_only=True)
            self.net.load_state_dict(state["net"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.generator.set_state(state["generator"])
            torch.set_rng_state(state["torch"])
            return int(state["step"])
        except (OSError, ValueError, KeyError, RuntimeError, EOFError, pickle.UnpicklingError):
            return 0


def _optimizer(net: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """Weight decay on matrices and kernels only: it has no business on biases, norms and the class token."""
    decayed = [p for p in net.parameters() if p.ndim in (2, 4)]
    free = [p for p in net.parameters() if p.ndim not in (2, 4)]
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": free, "weight_decay": 0.0}]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.peak_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=schedule.peak_rate, fused=True)


def varied(images: Tensor, schedule: Schedule, generator: torch.Generator) -> Tensor:
    """Each image of ``(N, C, H, W)`` moved, and half of them mirrored where the schedule says so."""
    if schedule.flips:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return shifted(images, schedule.shift_px, generator)


def shifted(images: Tensor, by_px: int, generator: torch.Generator) -> Tensor:
    """Each image of ``(N, C, H, W)`` moved by up to ``by_px`` pixels in each direction; the border is repeated."""
    count, _, height, width = images.shape
    padded = F.pad(images, (by_px,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * by_px + 1, (2, count), generator=generator)
    rows = (down[:, None] + torch.arange(height))[:, None, :, None]
    columns = (right[:, None] + torch.arange(width))[:, None, None, :]
    which = torch.arange(count)[:, None, None, None]
    channel = torch.arange(images.shape[1])[None, :, None, None]
    return padded[which, channel, rows, columns]


@torch.inference_mode()
def accuracies(net: MultiExit, data: Split) -> dict[int, float]:
    """Top-1 share in [0, 1] of every exit, by depth, on ``data``."""
    net.eval()
    correct = torch.zeros(len(net.depths))
    for images, labels in data.batches(_SCORED):
        correct += torch.stack([(logits.argmax(1) == labels).sum() for logits in net(images)])
    return dict(zip(net.depths, (correct / len(data)).tolist(), strict=True))
