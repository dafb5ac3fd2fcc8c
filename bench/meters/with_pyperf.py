"""pyperf: worker processes of its own, as the driver's options say (they are chosen to fit the budget), the median of all values.

The parent opens no session: it only collects. A worker is this file again.
"""

from __future__ import annotations

import pyperf


def nothing() -> None:
    pass


def main() -> None:
    runner = pyperf.Runner()
    call = nothing
    if runner.parse_args().worker:
        from opened import bare_call

        call = bare_call()
    bench = runner.bench_func("call", call)
    if bench is not None and not runner.args.worker:
        from opened import tell

        tell(bench.get_nvalue() * bench.get_total_loops(), median=bench.median(), mean=bench.mean())


if __name__ == "__main__":
    main()
