"""Simulated devices for the latency models: networks made by hand, and machines whose kernels follow a roofline with a smooth
efficiency that no model is told."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import synthetic

from kit.records import Kernel, Measurement, MeasureSettings, ProfileRecord

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


def convolution(px: int, cin: int, cout: int, size: int, precision: str, stride: int = 1, reads: int = 1) -> Kernel:
    rows, byte = (px // stride) ** 2, BYTES[precision]
    return Kernel(
        kind="conv" if size > 1 else "pointwise", precision=precision, rows=rows, inner=cin * size * size, columns=cout, size=size,
        stride=stride, weight_bytes=cin * cout * size * size * byte, read_bytes=(px * px * cin + (reads - 1) * rows * cout) * byte,
        written_bytes=rows * cout * byte,
    )  # type: ignore[arg-type]  # fmt: skip


def resnet(blocks: Sequence[int], width: float, px: int, precision: str = "fp32") -> tuple[Kernel, ...]:
    """Basic blocks in four stages, channels in multiples of 8."""
    channels = [max(8, round(c * width / 8) * 8) for c in (64, 128, 256, 512)]
    out = [convolution(px, 3, channels[0], 7, precision, 2)]
    side, cin, byte = px // 4, channels[0], BYTES[precision]
    out.append(
        Kernel(
            kind="pool", precision=precision, rows=side * side, inner=9, columns=cin, size=3, stride=2,
            read_bytes=4 * side * side * cin * byte, written_bytes=side * side * cin * byte,
        )  # type: ignore[arg-type]
    )  # fmt: skip
    for stage, (count, cout) in enumerate(zip(blocks, channels, strict=True)):
        for block in range(count):
            stride = 2 if stage and not block else 1
            if stride > 1:
                out.append(convolution(side, cin, cout, 1, precision, 2))
            out.append(convolution(side, cin, cout, 3, precision, stride))
            side //= stride
            out.append(convolution(side, cout, cout, 3, precision, 1, reads=2))
            cin = cout
    out.append(
        Kernel(
            kind="linear", precision=precision, rows=1, inner=cin, columns=1000, weight_bytes=cin * 1000 * byte,
            read_bytes=cin * byte, written_bytes=1000 * byte,
        )  # type: ignore[arg-type]
    )  # fmt: skip
    return tuple(out)


def sample(count: int, seed: int, precision: str = "fp32") -> list[tuple[str, tuple[Kernel, ...]]]:
    """Random sub-networks (name, kernels), all different."""
    rng = np.random.default_rng(seed)
    out: dict[str, tuple[Kernel, ...]] = {}
    while len(out) < count:
        blocks = [int(b) for b in rng.integers(1, 3, 4)]
        width, px = float(rng.choice(np.arange(5, 21) / 20)), int(rng.choice((96, 128, 160, 192, 224)))
        out[f"net-{''.join(map(str, blocks))}-{width:.2f}-{px}-{precision}"] = resnet(blocks, width, px, precision)
    return list(out.items())


class Machine:
    """True kernel times: a roofline, times a smooth efficiency hidden from the models, plus overheads. Relative noise 1 %."""

    def __init__(
        self, seed: int = 0, *, speed: float = 1.0, memory: float = 1.0, hidden: float = 0.25, noise: float = 0.01
    ) -> None:
        self.noise, self.hidden, self.speed, self.memory = noise, hidden, speed, memory
        rng = np.random.default_rng(seed)
        self.waves = rng.normal(0, 0.35, (6, 4))
        self.phases = rng.uniform(0, 6.28, 6)

    def kernel_s(self, kernel: Kernel, held_bytes: int) -> float:
        bits = {"fp32": 1.0, "fp16": 0.6, "int8": 0.3}[kernel.precision]
        waste = -(-kernel.columns // 16) * 16 / kernel.columns if kernel.macs else 1.0
        arithmetic = kernel.macs * waste / (100e9 * self.speed) * bits * (1 + 4 / kernel.rows)
        slow = 1.0 + 2.0 / (1.0 + np.exp(-(np.log(max(held_bytes, 1)) - np.log(8e6)) / 0.5))
        weights = kernel.weight_bytes * slow / (40e9 * self.memory)
        moved = (kernel.read_bytes + kernel.written_bytes) / (30e9 * self.memory)
        place = np.log([kernel.rows, kernel.inner, kernel.columns, kernel.size * 2.0])
        wave = float(np.mean(np.sin(self.waves @ place * 1.2 + self.phases)))
        return (max(arithmetic, weights) + 0.5 * moved) * (1 + 2 * self.hidden * wave) + 2e-6

    def seconds(self, kernels: Sequence[Kernel], threads: int = 1) -> float:
        held = sum(k.weight_bytes * k.count for k in kernels)
        whole = sum(k.count * self.kernel_s(k, held) for k in kernels)
        return 20e-6 + whole / threads**0.8

    def profile(
        self, name: str, kernels: Sequence[Kernel], *, threads: int = 1, device: str = "simulated", **more: Any
    ) -> ProfileRecord:
        rng = np.random.default_rng(zlib.crc32(f"{name}{threads}{device}".encode()))
        seconds = self.seconds(kernels, threads) * float(np.exp(self.noise * rng.standard_normal()))
        settings = more.pop("settings", MeasureSettings(threads=threads))
        found = synthetic.profile(
            name, seconds, macs=sum(k.macs * k.count for k in kernels), on=synthetic.device(device), settings=settings
        )
        artifact = found.artifact.model_copy(update={"kernels": tuple(kernels), "precision": kernels[0].precision})
        runs = tuple(synthetic.run([seconds * f] * 3, i) for i, f in enumerate((0.999, 1.0, 1.001, 1.0, 1.0, 1.0)))
        return found.model_copy(update={"artifact": artifact, "measurement": Measurement(runs=runs), **more})

    def profiles(self, nets: Sequence[tuple[str, tuple[Kernel, ...]]], **more: Any) -> list[ProfileRecord]:
        return [self.profile(name, kernels, **more) for name, kernels in nets]
