"""Child process: open a session, call the stopwatch, answer with one JSON line.

It reads one JSON request on standard input and writes one JSON line to what was standard output;
whatever a runtime prints goes to standard error. It is a fresh process each time, so that no visit inherits another's heap,
threads or caches.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from kit import backends, telemetry, timing
from kit.errors import KitError, UsageError
from kit.records import Artifact, Memory, Record, TensorSpec, Visit

PR_SET_PDEATHSIG = 1
REFERENCE_SIZE = 192
REFERENCE_CALLS = 15


class Request(Record):
    """What the parent asks for. ``describe`` only loads the model and tells its tensors."""

    path: str
    artifact: Artifact | None
    backend: str
    threads: int
    round: int = 0
    visit_s: float = 0.5
    warmup_max_s: float = 1.0
    seed: int = 0
    describe: bool = False


class Reply(Record):
    """Exactly one of ``visit``, ``tensors`` or ``reason`` is there; ``outcome`` says which."""

    outcome: str  # "ok", "unsupported", "failed", "out_of_memory"
    reason: str | None = None
    visit: Visit | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


def main() -> None:
    _die_with_parent()
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    reply = answer(Request.model_validate_json(sys.stdin.read()))
    channel.write(json.dumps(reply.model_dump(mode="json")) + "\n")
    channel.flush()
    os._exit(0)  # a runtime's tear-down must not turn a good measurement into a crash


def _die_with_parent() -> None:
    """Ask the kernel to end this process when the parent is killed: an orphan would disturb the next run for ever."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def answer(request: Request) -> Reply:
    try:
        return _describe(request) if request.describe else Reply(outcome="ok", visit=_visit(request))
    except UsageError as error:
        return Reply(outcome="unsupported", reason=str(error))
    except MemoryError:
        return Reply(outcome="out_of_memory", reason="The process ran out of memory.")
    except KitError as error:
        return Reply(outcome="failed", reason=str(error))
    except Exception as error:  # a runtime's own exception: a failure is a record, not a traceback
        first = str(error).splitlines()[0] if str(error) else ""
        return Reply(outcome="failed", reason=f"{type(error).__name__}: {first}")


def _describe(request: Request) -> Reply:
    session = backends.load(request.backend).open(Path(request.path), request.artifact, request.threads)
    return Reply(outcome="ok", inputs=session.inputs, outputs=session.outputs)


def _visit(request: Request) -> Visit:
    at_start = resident_bytes()
    backend = backends.load(request.backend)
    version = backend.probe().version
    runtime = resident_bytes()
    start = time.perf_counter()
    session = backend.open(Path(request.path), request.artifact, request.threads)
    open_s = time.perf_counter() - start
    opened = resident_bytes()
    feeds = backends.make_feeds(session.inputs, request.seed)
    readers = telemetry.discover()
    before, reference_before = telemetry.read_environment(readers), reference_ns()
    watch = timing.measure(partial(session.run, feeds), collect_s=request.visit_s, warmup_max_s=request.warmup_max_s)
    reference_after, after = reference_ns(), telemetry.read_environment(readers)
    return Visit(
        round=request.round,
        values_ns=watch.values_ns,
        loops=watch.loops,
        warmup_calls=watch.warmup_calls,
        warmup_s=watch.warmup_ns * 1e-9,
        warm=watch.warm,
        timer_resolution_ns=watch.resolution_ns,
        reference_ns=(reference_before, reference_after),
        open_s=open_s,
        first_ns=watch.first_ns,
        memory=Memory(at_start_bytes=at_start, runtime_bytes=runtime, opened_bytes=opened, peak_bytes=peak_bytes()),
        before=before,
        after=after,
        versions={request.backend: version or "unknown", **_versions()},
    )


def _versions() -> dict[str, str]:
    import platform

    import numpy

    return {"python": platform.python_version(), "numpy": numpy.__version__}


def reference_ns() -> float:
    """Median time of a small fixed matrix product, in nanoseconds: it moves when the machine does, not when the model does."""
    import numpy as np

    rng = np.random.default_rng(0)
    a = rng.standard_normal((REFERENCE_SIZE, REFERENCE_SIZE)).astype(np.float32)
    out = np.empty_like(a)
    times = []
    for _ in range(REFERENCE_CALLS):
        start = time.perf_counter_ns()
        np.matmul(a, a, out=out)
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times))


def resident_bytes() -> int:
    return _status_bytes("VmRSS")


def peak_bytes() -> int:
    """Peak resident memory of this process alone (ru_maxrss would carry over the parent's across fork)."""
    return _status_bytes("VmHWM")


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KitError(f"/proc/self/status has no {key}: kit measures memory on Linux only.")


def child_environment(threads: int) -> dict[str, str]:
    """The environment of a child: library thread pools held to ``threads``; the reference product always runs on one."""
    pools = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return {**os.environ, **pools, "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


def request_line(request: Request) -> str:
    return json.dumps(request.model_dump(mode="json"))


def parse_reply(line: str) -> Reply:
    data: Any = json.loads(line)
    return Reply.model_validate(data)
