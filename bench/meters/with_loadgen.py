"""MLCommons LoadGen, single stream, for the rest of the budget: its 50th percentile and, what it reports by, its 90th.

The query is answered on the thread that issues it. The log goes to the driver's scratch folder, whose summary is read back.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import mlperf_loadgen as loadgen
import opened

LINE = r"{} percentile latency \(ns\)\s*: (\d+)"


def settings() -> Any:
    wanted = loadgen.TestSettings()
    wanted.scenario = loadgen.TestScenario.SingleStream
    wanted.mode = loadgen.TestMode.PerformanceOnly
    wanted.single_stream_expected_latency_ns = int(opened.expected_call_s() / 2 * 1e9)  # it ends early if told too much
    wanted.min_query_count = 1
    wanted.min_duration_ms = int(opened.remaining_s(closing_s=0.3) * 1e3)
    return wanted


def log_settings(folder: str) -> Any:
    output = loadgen.LogOutputSettings()
    output.outdir = folder
    output.copy_summary_to_stdout = False
    log = loadgen.LogSettings()
    log.log_output = output
    log.enable_trace = False
    return log


def main() -> None:
    call = opened.bare_call()
    folder, calls = os.environ["METER_SCRATCH"], 0

    def issue(samples: list[Any]) -> None:
        nonlocal calls
        for sample in samples:
            call()
            calls += 1
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample.id, 0, 0)])

    system = loadgen.ConstructSUT(issue, lambda: None)
    library = loadgen.ConstructQSL(1, 1, lambda _: None, lambda _: None)
    loadgen.StartTestWithLogSettings(system, library, settings(), log_settings(folder))
    summary = Path(folder, "mlperf_log_summary.txt").read_text()
    median, tail = (int(re.findall(LINE.format(share), summary)[0]) * 1e-9 for share in (r"50\.00", r"90\.00"))
    opened.tell(calls, median=median, p90=tail)
    loadgen.DestroyQSL(library)
    loadgen.DestroySUT(system)


if __name__ == "__main__":
    main()
