"""What follows from the tables that paper A prints, without any network: the map of the best K (Fig. 3) and what knowledge saves (Fig. 4).

With S the average size, T_tra(K; S) = table I * S / 10 kbit (every delay is of degree one in the sizes) and T_com(K; f) is the mean
weight times the computing time. Fig. 4 pools sizes of 0.25 to 10 kbit in steps of 0.25 and, for each size, one clock per user (30),
uniform from 10 MHz to 1 GHz: "the CPU frequency of each user is randomly selected". That reading is ours; other grids give 16 to 97 %
where the paper has 47.1, so state the pooling with every such number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kit.errors import UsageError
from kit.knowledge import TABLE_I
from kit.papers.bandwidth.world import macs_of
from kit.papers.delays import Analytic, Delay, computing_s
from kit.records import AllocationQuality
from kit.stats import Float64Array

STATIC_S = 1.846e-3  # table I, last column: as many experts as the widest, without a gate
TABLE_II: Mapping[str, tuple[float, ...]] = {  # published: T_tra + T_com in ms for 2, 4, 6, 8, 10 kbit at 0.5 GHz
    "1": (0.392, 0.773, 1.159, 1.571, 1.971), "2": (0.389, 0.761, 1.14, 1.539, 1.928), "5": (0.393, 0.757, 1.128, 1.517, 1.889),
    "10": (0.408, 0.769, 1.137, 1.524, 1.892), "20": (0.439, 0.798, 1.163, 1.549, 1.914), "30": (0.470, 0.829, 1.194, 1.574, 1.939),
    "static": (0.471, 0.831, 1.195, 1.577, 1.943),
}  # fmt: skip
FIG4 = (-0.471, -0.128, -0.206)  # published: minimum, median and lower quantile of knowledge against static
SIZES_BIT = tuple(250.0 * step for step in range(1, 41))
CLOCKS_HZ = (10e6, 1e9)
CLOCKS_A_SIZE = 30


@dataclass(frozen=True)
class Gain:
    """Knowledge against static over pooled cells: relative differences of the minimum, the median and the lower quartile, [repeats]."""

    minimum: Float64Array
    median: Float64Array
    quartile: Float64Array

    @property
    def means(self) -> tuple[float, float, float]:
        """Mean over the repeats of minimum, median and lower quartile."""
        return float(self.minimum.mean()), float(self.median.mean()), float(self.quartile.mean())

    @property
    def spreads(self) -> tuple[float, float, float]:
        """Standard deviations over the repeats: how much the drawn clocks alone move the figure."""
        return float(self.minimum.std()), float(self.median.std()), float(self.quartile.std())


def total_delay_s(
    size: str,
    task_bit: Float64Array,
    clock_hz: Float64Array,
    *,
    quality: AllocationQuality = TABLE_I,
    delay: Delay = Analytic(),
) -> Float64Array:
    """T_tra + T_com of a network of this size; ``"static"`` is table I's last column unless ``quality`` holds its own."""
    allocation = STATIC_S if size == "static" and quality is TABLE_I else quality.delay_s.get(size)
    if allocation is None:
        raise UsageError(f"Nobody knows the delay of size {size}: add it to the quality's delay_s.")
    total: Float64Array = allocation * task_bit / quality.task_bit
    return total + quality.weight * computing_s(delay, size, clock_hz, macs=macs_of(size))


def best_sizes(
    task_bit: Sequence[float] | Float64Array,
    clock_hz: Sequence[float] | Float64Array,
    *,
    quality: AllocationQuality = TABLE_I,
    delay: Delay = Analytic(),
) -> NDArray[np.int64]:
    """The best K of each cell (eq. 9; Fig. 3): [sizes, clocks]. Of equal ones the narrowest."""
    bits, clocks = np.meshgrid(np.asarray(task_bit, float), np.asarray(clock_hz, float), indexing="ij")
    widths = sorted(map(int, quality.delay_s))
    delays = [total_delay_s(str(k), bits, clocks, quality=quality, delay=delay) for k in widths]
    best: NDArray[np.int64] = np.array(widths)[np.argmin(delays, axis=0)]
    return best


def pool(
    rng: np.random.Generator, repeats: int = 200, clocks_a_size: int = CLOCKS_A_SIZE
) -> tuple[Float64Array, Float64Array]:
    """The cells of Fig. 4 as read above: (sizes [1, sizes, 1] in bit, random clocks [repeats, sizes, clocks] in hertz)."""
    bits = np.array(SIZES_BIT)[None, :, None]
    return bits, rng.uniform(*CLOCKS_HZ, (repeats, len(SIZES_BIT), clocks_a_size))


def knowledge_gain(
    rng: np.random.Generator,
    repeats: int = 200,
    *,
    quality: AllocationQuality = TABLE_I,
    static_s: float = STATIC_S,
    delay: Delay = Analytic(),
    clocks_a_size: int = CLOCKS_A_SIZE,
) -> Gain:
    """Fig. 4: the best K of each cell against the static network of all experts, over sizes and random clocks pooled as stated above."""
    bits, clocks = pool(rng, repeats, clocks_a_size)
    size_delays = [total_delay_s(k, bits, clocks, quality=quality, delay=delay) for k in quality.delay_s]
    best_delay = np.minimum.reduce(size_delays).reshape(repeats, -1)
    computing = computing_s(delay, "30", clocks, macs=macs_of("static"))
    static = (static_s * bits / quality.task_bit + quality.weight * computing).reshape(repeats, -1)

    def against(statistic: Callable[[Float64Array], Float64Array]) -> Float64Array:
        gain: Float64Array = statistic(best_delay) / statistic(static) - 1.0
        return gain

    return Gain(
        minimum=against(lambda v: v.min(axis=1)),
        median=against(lambda v: np.median(v, axis=1)),
        quartile=against(lambda v: np.quantile(v, 0.25, axis=1)),
    )
