"""timeit as its command line runs it: autorange to 0.2 s, then as many repetitions as fit; the best of them, and their mean."""

from __future__ import annotations

import timeit

import opened


def main() -> None:
    timer = timeit.Timer(opened.bare_call())
    number, took_s = timer.autorange()
    per_call_s = [t / number for t in timer.repeat(max(1, int(opened.remaining_s() / took_s)), number)]
    opened.tell(len(per_call_s) * number, best=min(per_call_s), mean=sum(per_call_s) / len(per_call_s))


if __name__ == "__main__":
    main()
