"""The yardstick: a plain loop over InferenceSession.run and its median."""

from __future__ import annotations

import statistics
import time

import opened


def main() -> None:
    call = opened.bare_call()
    clock, times = time.perf_counter_ns, []
    until = clock() + int(opened.remaining_s() * 1e9)
    while clock() < until:
        start = clock()
        call()
        times.append(clock() - start)
    opened.tell(len(times), median=statistics.median(times) * 1e-9)


if __name__ == "__main__":
    main()
