"""What every meter is given: the same bare call of the same session, and the moment by which its process shall have ended.

The driver (bench/meters.py) says both in the environment. ``METER_UNTIL_S`` is a reading of the monotonic clock, which all processes
of a Linux machine share, so that starting Python and importing the tool count towards the budget.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort

WARM_CALLS = 10  # every tool gets them, also those that have no warm-up of their own


def bare_call() -> Callable[[], Any]:
    """One inference without arguments: kit's session options (one thread), kit's inputs (standard normal, seed 0), warmed up."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    session = ort.InferenceSession(os.environ["METER_MODEL"], options, providers=["CPUExecutionProvider"])
    (node,) = session.get_inputs()
    feeds = {node.name: np.random.default_rng(0).standard_normal(node.shape).astype(np.float32)}
    call = partial(session.run, None, feeds)
    for _ in range(WARM_CALLS):
        call()
    return call


def remaining_s(closing_s: float = 0.1) -> float:
    """Seconds left for measuring when the tool needs ``closing_s`` afterwards; never less than a tenth of a second."""
    return max(0.1, float(os.environ["METER_UNTIL_S"]) - time.monotonic() - closing_s)


def expected_call_s() -> float:
    """Seconds per call that the driver saw before the run, for tools that must be told beforehand how much fits."""
    return float(os.environ["METER_CALL_S"])


def tell(calls: int, **readings_s: float) -> None:
    """Answer the driver with one JSON line: seconds per call by the name of the statistic, and how many calls were timed."""
    print(json.dumps({"readings": readings_s, "calls": calls}), flush=True)
