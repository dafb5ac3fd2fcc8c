"""Disturb one core: busy in random bursts, idle between them, 20 % of the time busy on average.

    python bench/meters/burn.py CPU SEED

A burst lasts 10 to 200 ms and the pause after it four times as long, give or take a half. The same seed gives the same sequence,
so every meter of a round meets the same disturbance. It ends when its parent does.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator

DUTY = 0.2
BURST_S = (0.01, 0.2)


def bursts(seed: str) -> Iterator[tuple[float, float]]:
    """Endless (busy, pause) in seconds; busy / (busy + pause) is ``DUTY`` on average."""
    chance = random.Random(seed)
    while True:
        busy_s = chance.uniform(*BURST_S)
        yield busy_s, busy_s * (1 / DUTY - 1) * chance.uniform(0.5, 1.5)


def main() -> None:
    cpu, seed = sys.argv[1:]
    os.sched_setaffinity(0, {int(cpu)})
    parent = os.getppid()
    for busy_s, pause_s in bursts(seed):
        until = time.perf_counter() + busy_s
        while time.perf_counter() < until:
            pass
        if os.getppid() != parent:
            return
        time.sleep(pause_s)


if __name__ == "__main__":
    main()
