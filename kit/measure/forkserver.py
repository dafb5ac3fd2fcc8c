"""The fork server: fresh child processes at a low price.

Starting Python and importing a runtime takes longer than a short run. So one *template process* per runtime and thread count is started,
imports the runtime and forks for every request (:func:`kit.measure.worker.main`): each child has a heap, threads and pages of its own.
A template process is replaced after :data:`RECYCLE_LIMIT` children, so that loading the runtime is measured more than once and nothing
hangs on the addresses of one.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import IO, Any

from kit import backends
from kit.measure import worker
from kit.measure.worker import ProcessEnd, WorkerReply, WorkerRequest
from kit.records import Record, RunStatus

log = logging.getLogger(__name__)

RECYCLE_LIMIT = 8


@dataclass
class _Template:
    """A started process, its standard error, and how many children it had."""

    process: subprocess.Popen[bytes]
    complaints: IO[bytes]
    children: int = 0

    def stop(self) -> None:
        """End it; its child ends with it."""
        self.process.kill()
        self.process.wait()
        for channel in (self.process.stdin, self.process.stdout, self.complaints):
            if channel is not None:
                channel.close()


class ForkServer:
    """Asks children; a child that dies is an answer too. Close it, or use it as a context."""

    def __init__(self) -> None:
        self._templates: dict[tuple[str, int], _Template] = {}

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the template processes."""
        while self._templates:
            self._templates.popitem()[1].stop()

    def ask(self, request: WorkerRequest, timeout_s: float) -> WorkerReply:
        """One fresh child process, one answer."""
        key = request.backend, request.threads
        template = self._templates.get(key)
        recycle_limit = RECYCLE_LIMIT if backends.LEAVES[request.backend].forks else 1
        if template is not None and (template.children >= recycle_limit or template.process.poll() is not None):
            self._templates.pop(key).stop()
            template = None
        if template is None:
            template = self._templates[key] = _start_template(*key)
            log.info("started a template process for %s, %d threads", *key)
        template.children += 1
        log.debug("run %d of the template process %d: %s, %d threads", template.children, template.process.pid, *key)
        line = _exchange(template.process, request_line(request), timeout_s)
        if line and line.endswith(b"\n"):
            return _reply(line)
        if line is not None:
            template.process.wait()
        code, complaint = template.process.poll(), worker.last_line(template.complaints)
        self._templates.pop(key).stop()
        if line is None:
            return WorkerReply(status="timeout", reason=_late(timeout_s))
        if line or code == 0:
            return WorkerReply(status="failed", reason=NONSENSE)
        return WorkerReply(**_end(code or 0, complaint))


NONSENSE = "The child process gave an unreadable answer."


def ask(request: WorkerRequest, timeout_s: float) -> WorkerReply:
    """One question to one fresh process."""
    with ForkServer() as fork_server:
        return fork_server.ask(request, timeout_s)


def _start_template(backend: str, threads: int) -> _Template:
    complaints = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
    process = subprocess.Popen(
        [sys.executable, "-c", worker.CODE, backend],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        env=child_environment(threads),
        bufsize=0,
    )
    return _Template(process, complaints)


def _exchange(process: subprocess.Popen[bytes], line: str, timeout_s: float) -> bytes | None:
    """Give ``line``, take a line: without its end where the process closed its output, None when the time is over."""
    assert process.stdin is not None and process.stdout is not None
    until, received = time.monotonic() + timeout_s, bytearray()
    try:
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # what it left on its output, or its exit code, says more
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        while not received.endswith(b"\n"):
            if not waiting.select(max(0.0, until - time.monotonic())):
                return None
            piece = os.read(process.stdout.fileno(), 1 << 20)
            if not piece:
                break
            received += piece
    return bytes(received)


def _reply(line: bytes) -> WorkerReply:
    try:
        answer = ProcessEnd.model_validate_json(line)
        if answer.code:
            return WorkerReply(**_end(answer.code, answer.complaint))
        return parse_reply(answer.line)
    except ValueError:
        return WorkerReply(status="failed", reason=NONSENSE)


def _late(timeout_s: float) -> str:
    return f"No answer within {timeout_s:g} s; the process was ended."


def _end(code: int, complaint: str) -> dict[str, Any]:
    """Status and reason of a process that ended without an answer."""
    if code == -9:
        return {
            "status": "out_of_memory",
            "reason": "The process was killed (signal 9), most often for lack of memory.",
        }
    if code < 0:
        return {"status": "crashed", "reason": f"The process died by signal {-code}."}
    last = complaint or "no message"
    status: RunStatus = "out_of_memory" if worker.is_out_of_memory(last) else "crashed"
    return {"status": status, "reason": f"The process ended with code {code}: {last}"}


def child_environment(threads: int) -> dict[str, str]:
    """The environment of a child: library thread pools held to ``threads``; the reference product always runs on one."""
    blas = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1")  # NumPy's own
    return {
        **os.environ,
        **blas,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONHASHSEED": "0",
        worker.PARENT: str(os.getpid()),
    }


def request_line(request: Record) -> str:
    """A request as one line of JSON."""
    return json.dumps(request.model_dump(mode="json"))


def parse_reply(line: str) -> WorkerReply:
    """A worker's line as a reply. Raises ValueError for a line that is none."""
    data: Any = json.loads(line)
    return WorkerReply.model_validate(data)


def spawn(code: str, line: str, threads: int, timeout_s: float) -> tuple[str | None, RunStatus, str]:
    """Give ``line`` to a fresh Python that runs ``code``: (its answer or None, status, reason in a sentence)."""
    try:
        completed = subprocess.run(
            [sys.executable, "-c", code],
            input=line,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=child_environment(threads),
        )
    except subprocess.TimeoutExpired:
        return None, "timeout", _late(timeout_s)
    if completed.returncode == 0 and completed.stdout.strip():
        return completed.stdout, "ok", ""
    stderr_lines = completed.stderr.strip().splitlines()
    end = _end(completed.returncode, stderr_lines[-1] if stderr_lines else "")
    return None, end["status"], end["reason"]
