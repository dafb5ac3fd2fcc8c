"""torch.utils.benchmark: blocked_autorange for the rest of the budget, its median."""

from __future__ import annotations

import opened
from torch.utils.benchmark import Timer


def main() -> None:
    timer = Timer("call()", globals={"call": opened.bare_call()}, num_threads=1)
    measured = timer.blocked_autorange(min_run_time=opened.remaining_s(closing_s=0.7))
    opened.tell(len(measured.raw_times) * measured.number_per_run, median=measured.median)


if __name__ == "__main__":
    main()
