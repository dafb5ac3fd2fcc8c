"""Operating points: put the machine into one and, whatever happens, back.

:func:`unsupported` returns why this machine cannot be put into a point, :func:`controlled` holds a clock cap or a power mode and
restores the earlier state, :func:`busy` holds a background load. The affinity and the gaps between calls are the measuring
process's own affair.

The earlier state is written to a state file before anything changes. It is put back on every exit of the context: the normal
one, an exception, SIGINT, SIGTERM and SIGHUP (in the main thread; the process then ends with 128 + the signal's number).
After a SIGKILL or a power cut the file is still there and :func:`restore_left_over` puts the values back at the next start.

A cap is written to cpufreq's ``scaling_max_freq``, which reports the smallest limit that is set: where the machine was
throttled when the context began, the limit that is restored is the throttled one. Boards whose power modes need a reboot
refuse them with a sentence.

Tested on a fake tree with real processes and signals, against the published texts of nvpmodel: untested on hardware.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from kit import records, store
from kit.devices.telemetry import RunCommand, Site, clock_files, read_number, read_text
from kit.errors import BadRecord, MeasurementError, StorageError, UnknownName, UsageError
from kit.records import OperatingPoint, Record

HERE = Path("/")


def state_file() -> Path:
    """The file in which this machine records what a command has changed: one file per user, because the clock belongs to no folder."""
    home = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(home) / "insitu-kit" / "operating-point.json"


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CPUFREQ = re.compile(r"sys/devices/system/cpu/(cpufreq/policy\d+|cpu\d+/cpufreq)/scaling_(max|min)_freq")
CAP_TOLERANCE = 0.02  # drivers without a table round a cap to their own steps
READY_S = 30.0
OVERSUBSCRIBED = 8  # threads for each CPU: more only measures the scheduler
BUSY = "import sys; sys.path[:] = [p for p in sys.path if p]; from kit.devices.operating_point import burn; burn(sys.argv[1:])"
PR_SET_PDEATHSIG = 1


class SavedFrequency(Record):
    """A cpufreq limit as it was: ``file`` below the root, kilohertz as the file has them."""

    file: str
    khz: int


class Frame(Record):
    """The state before one context: its process, the power mode's id and the cpufreq limits, in the order they are put back."""

    pid: int
    started: str  # of that process, in clock ticks since boot: a number that is used again is another process
    power_mode_id: int | None = None
    frequencies: tuple[SavedFrequency, ...] = ()


class State(Record):
    """The state file: nested contexts, the outermost first."""

    kind: Literal["operating_state"] = "operating_state"
    schema_version: Literal[1] = 1
    frames: tuple[Frame, ...]


def run_tool(arguments: Sequence[str]) -> str | None:
    """All output of a command within a minute; None when there is none. A question (nvpmodel's "reboot now?") is answered no."""
    try:
        completed = subprocess.run(
            list(arguments),
            input="no\n",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
            start_new_session=True,  # a second Ctrl-C must not end the tool that puts the mode back
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return completed.stdout


# -------------------------------------------------------------------------------------------------------------- parsers


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """The CPUs that a kernel list such as ``0-3,8`` names, in order; () for none or nonsense."""
    spans = re.findall(r"(\d+)(?:-(\d+))?", text)
    return tuple(sorted({n for first, last in spans for n in range(int(first), int(last or first) + 1)}))


def parse_power_models(text: str) -> dict[str, int]:
    """Power modes of an nvpmodel.conf by name, without MODE_: its lines ``< POWER_MODEL ID=2 NAME=MODE_15W >``."""
    modes = {}
    for inside in re.findall(r"^\s*<\s*POWER_MODEL\s([^>\n]*)>", text, re.MULTILINE):
        fields = dict(re.findall(r"(\w+)=(\S+)", inside))
        if "NAME" in fields and re.fullmatch("[0-9]{1,3}", fields.get("ID", "")):
            modes[fields["NAME"].removeprefix("MODE_")] = int(fields["ID"])
    return modes


def parse_power_mode_id(text: str) -> int | None:
    """The id of ``nvpmodel -q``: the number alone on the line after ``NV Power Mode: 15W``."""
    match = re.search(r"^NV Power Mode: *\S+ *\n([0-9]{1,3}) *$", text, re.MULTILINE)
    return int(match[1]) if match else None


# -------------------------------------------------------------------------------------------------------------- cpufreq


def _limit_khz(folder: Path, cap_hz: float) -> int:
    """The highest frequency of a policy that is not above the cap, in kilohertz. Raises UsageError when even the lowest is."""
    table = [int(n) for n in (read_text(folder / "scaling_available_frequencies") or "").split() if n.isdecimal()]
    low, high = read_number(folder / "cpuinfo_min_freq"), read_number(folder / "cpuinfo_max_freq")
    cap_khz = int(cap_hz / 1e3 + 0.5)
    choices = table or ([int(low), max(int(low), min(cap_khz, int(high)))] if low and high else [cap_khz])
    fitting = [khz for khz in choices if khz <= cap_khz]
    if not fitting:
        raise UsageError(
            f"A clock cap of {cap_hz / 1e9:g} GHz is below what {folder.name} can do: "
            f"choose one from {min(choices) / 1e6:g} GHz on."
        )
    return max(fitting)


def _write_khz(file: Path, khz: int) -> None:
    try:
        file.write_text(f"{khz}\n")
    except PermissionError:
        raise StorageError(f"Only root may change the clock ({file}): run the command with sudo.") from None
    except OSError as error:
        raise StorageError(
            f"The kernel refuses {khz / 1e6:g} GHz in {file} ({error.strerror}): choose another cap."
        ) from None


def _cap(folder: Path, khz: int) -> None:
    """Hold one policy at ``khz``; a floor above it is lowered first, which old kernels require. Verified by reading back."""
    floor = read_number(folder / "scaling_min_freq")
    if floor is not None and floor > khz:
        _write_khz(folder / "scaling_min_freq", khz)
    _write_khz(folder / "scaling_max_freq", khz)
    limit_khz = read_number(folder / "scaling_max_freq")
    if limit_khz is None or abs(limit_khz - khz) > CAP_TOLERANCE * khz:
        reading = "nothing" if limit_khz is None else f"{limit_khz / 1e6:g} GHz"
        raise MeasurementError(
            f"{folder.name} was capped at {khz / 1e6:g} GHz and reports {reading}: another program or a thermal limit sets it."
        )


def _policies(root: Path) -> list[Path]:
    return [file.parent for file in clock_files(root, "scaling_max_freq")]


def _saved_frequencies(root: Path) -> tuple[SavedFrequency, ...]:
    """Both limits of every policy; the upper one first, so that the lower one always fits under it when they are put back."""
    files = [folder / name for folder in _policies(root) for name in ("scaling_max_freq", "scaling_min_freq")]
    limits = [(file, read_number(file)) for file in files]
    return tuple(SavedFrequency(file=str(f.relative_to(root)), khz=int(khz)) for f, khz in limits if khz)


# ------------------------------------------------------------------------------------------------------------- nvpmodel


@dataclass(frozen=True)
class _Nvpmodel:
    """A Jetson's power modes. ``modes``: id by name."""

    command: str
    run: RunCommand
    modes: dict[str, int]

    def find(self, name: str) -> int:
        """The id of a mode by its name (``15W``, ``MODE_15W``, any case) or its number. Raises UnknownName."""
        requested = name.upper().removeprefix("MODE_")
        for mode, number in self.modes.items():
            if requested in (mode.upper(), str(number)):
                return number
        raise UnknownName("power mode", name, self.modes)

    def current(self) -> int | None:
        return parse_power_mode_id(self.run([self.command, "-q"]) or "")

    def set(self, number: int) -> None:
        """Switch, and verify by reading it. Raises MeasurementError with nvpmodel's last line."""
        output = self.run([self.command, "-m", str(number)]) or ""
        if self.current() == number:
            return
        if "reboot" in output.lower():
            raise MeasurementError(
                f"Power mode {number} needs a reboot: run 'sudo nvpmodel -m {number}', then measure again."
            )
        last = (output.strip().splitlines() or ["no output"])[-1]
        raise MeasurementError(f"nvpmodel did not switch to power mode {number} ({last}): run the command with sudo.")


def _nvpmodel(root: Path, run: RunCommand) -> _Nvpmodel | str:
    command = Site(root, run, None, "cpu").command("nvpmodel")
    if command is None:
        return "no nvpmodel: power modes are known on Jetson boards only"
    modes = parse_power_models(read_text(root / "etc/nvpmodel.conf") or "")
    return _Nvpmodel(command, run, modes) if modes else "/etc/nvpmodel.conf names no power mode"


# ------------------------------------------------------------------------------------------------------------ the point


def unsupported(point: OperatingPoint, root: Path = HERE, run: RunCommand = run_tool) -> str | None:
    """Why the machine below ``root`` cannot be put into this point, or None when it can. Changes nothing and never raises."""
    try:
        return (
            (_no_affinity(root, point.affinity, point.threads) if point.affinity is not None else None)
            or (_no_cap(root, point.clock_cap_hz) if point.clock_cap_hz is not None else None)
            or (_no_mode(root, point.power_mode, run) if point.power_mode is not None else None)
        )
    except Exception as error:  # the answer is recorded in place of a measurement: any reason is better than none
        return str(error) or type(error).__name__


def require_cpus(threads: int, affinity: Sequence[int] | None = None) -> None:
    """Raises UsageError where the CPUs of one point are none that this process may use, or its threads are far too many.

    For what is requested as the only point, before anything runs; in a sweep such a point is a record (:func:`unsupported`).
    """
    cpus = os.cpu_count() or 1
    if threads > OVERSUBSCRIBED * cpus:
        raise UsageError(
            f"{threads} threads are more than {OVERSUBSCRIBED} for each of the {cpus} CPUs of this machine: give at most "
            f"{OVERSUBSCRIBED * cpus}."
        )
    if affinity is not None and (reason := _no_affinity(HERE, affinity, threads)):
        raise UsageError(f"{reason[:1].upper()}{reason[1:]}: change the affinity or the threads.")


def _no_affinity(root: Path, affinity: Sequence[int], threads: int) -> str | None:
    folder = root / "sys/devices/system/cpu"
    online = parse_cpu_list(read_text(folder / "online") or "")
    present = read_text(folder / "present") or read_text(folder / "online") or "none"
    if not affinity:
        return "the affinity names no CPU"
    for cpu in affinity:
        if online and cpu not in online:
            exists = cpu in parse_cpu_list(present)
            return f"CPU {cpu} is offline" if exists else f"CPU {cpu} does not exist; this machine has {present}"
        if root == HERE and cpu not in os.sched_getaffinity(0):
            return f"this process may not run on CPU {cpu} (a container or a parent pinned it)"
    if len(set(affinity)) < threads:
        return f"the affinity holds {len(set(affinity))} CPUs and {threads} threads want one each"
    return None


def _no_cap(root: Path, cap_hz: float) -> str | None:
    folders = _policies(root)
    if not folders:
        return "the kernel offers no cpufreq"
    for folder in folders:
        _limit_khz(folder, cap_hz)
        if not os.access(folder / "scaling_max_freq", os.W_OK):
            return "only root may change the clock: run the command with sudo"
    return None


def _no_mode(root: Path, name: str, run: RunCommand) -> str | None:
    model = _nvpmodel(root, run)
    if isinstance(model, str):
        return model
    model.find(name)
    return (
        None if model.current() is not None else "nvpmodel does not report the present mode: run the command with sudo"
    )


@contextmanager
def controlled(
    root: Path = HERE,
    *,
    state: Path,
    clock_cap_hz: float | None = None,
    power_mode: str | None = None,
    run: RunCommand = run_tool,
) -> Iterator[None]:
    """Hold a clock cap and a power mode while the body runs, and restore the earlier state; contexts may be nested.

    ``state`` is the file that records it (the same one for nested contexts). Raises UsageError (a mode or a cap that this
    machine does not have), StorageError (no permission), MeasurementError (it does not keep what was set).
    """
    if clock_cap_hz is None and power_mode is None:
        yield
        return
    model = _nvpmodel(root, run) if power_mode is not None else None
    if isinstance(model, str):
        raise UsageError(f"The power mode {power_mode} cannot be set: {model}.")
    if clock_cap_hz is not None and not _policies(root):
        raise UsageError("The clock cannot be capped: the kernel offers no cpufreq.")
    mode_id = model.find(power_mode) if model and power_mode is not None else None
    before = model.current() if model else None
    if model and before is None:
        raise MeasurementError("nvpmodel does not report the present mode: run the command with sudo.")
    frame = Frame(
        pid=os.getpid(),
        started=_started(os.getpid()) or "unknown",
        power_mode_id=before,
        frequencies=_saved_frequencies(root),
    )
    with _deferred_signals() as deferred:
        _push(state, frame)
        try:
            if model and mode_id is not None and mode_id != before:
                model.set(mode_id)
            if clock_cap_hz is not None:
                for folder in _policies(root):
                    _cap(folder, _limit_khz(folder, clock_cap_hz))
            yield
        finally:
            deferred.closing = True
            _put_back(root, frame, run)
            _pop(state)


def restore_left_over(state: Path, root: Path = HERE, run: RunCommand = run_tool) -> str | None:
    """Put back what a killed command left changed and report it in a sentence; None when nothing was left.

    Raises MeasurementError while the command that wrote ``state`` still lives, StorageError (no permission), BadRecord (a broken file).
    """
    if not state.is_file():
        return None
    frames = _frames(state)
    for frame in frames:
        if frame.pid != os.getpid() and _started(frame.pid) == frame.started:
            raise MeasurementError(
                f"Process {frame.pid} still keeps this machine at an operating point: wait for it, or stop it first."
            )
    restored = [line for frame in reversed(frames) for line in _put_back(root, frame, run)]
    state.unlink()
    return f"A run that was killed had left the machine changed; put back: {', '.join(dict.fromkeys(restored)) or 'nothing'}."


def _put_back(root: Path, frame: Frame, run: RunCommand) -> list[str]:
    """Restore one frame and return what was restored. The power mode goes first: it brings back its CPUs, and limits of its own.

    Everything is tried; then the first error is raised.
    """
    restored, errors = [], []
    if frame.power_mode_id is not None:
        try:
            restored += _put_back_mode(root, frame.power_mode_id, run)
        except (MeasurementError, StorageError) as error:
            errors.append(error)
    for saved in frame.frequencies:
        file = root / saved.file
        if not file.exists() or read_number(file) == saved.khz:
            continue
        try:
            _write_khz(file, saved.khz)
        except StorageError as error:
            errors.append(error)
        else:
            restored.append(f"{file.parent.name} {file.name} {saved.khz / 1e6:g} GHz")
    if errors:
        raise errors[0]
    return restored


def _put_back_mode(root: Path, number: int, run: RunCommand) -> list[str]:
    model = _nvpmodel(root, run)
    if isinstance(model, str):
        raise MeasurementError(f"The power mode could not be put back to {number}: {model}.")
    if model.current() == number:
        return []
    model.set(number)
    return [f"power mode {number}"]


# ------------------------------------------------------------------------------------------------------- the state file


def _frames(state: Path) -> tuple[Frame, ...]:
    data = store.read_json(state)
    frames = records.load(State, data, str(state)).frames
    for saved in (saved for frame in frames for saved in frame.frequencies):
        if not CPUFREQ.fullmatch(saved.file):  # it is written to as root: nothing but a cpufreq limit
            raise BadRecord(
                f"{state} names {saved.file}, which is no cpufreq limit: delete the file and set the clocks by hand."
            )
    return frames


def _push(state: Path, frame: Frame) -> None:
    """Write ``frame`` to the disk. Raises MeasurementError when another process's frames are still there."""
    frames = _frames(state) if state.is_file() else ()
    if any(f.pid != frame.pid or f.started != frame.started for f in frames):
        raise MeasurementError(f"{state} records an operating point of another run: restore what it left over first.")
    store.write_record(state, State(frames=(*frames, frame)))


def _pop(state: Path) -> None:
    frames = _frames(state) if state.is_file() else ()
    if len(frames) > 1:
        store.write_record(state, State(frames=frames[:-1]))
    else:
        state.unlink(missing_ok=True)


def _started(pid: int) -> str | None:
    """When a process began, in clock ticks since boot and with the boot's id; None when there is no such process."""
    fields = (read_text(Path(f"/proc/{pid}/stat")) or "").rpartition(")")[2].split()
    boot = read_text(Path("/proc/sys/kernel/random/boot_id")) or "?"
    return f"{fields[19]}@{boot}" if fields and fields[0] not in "ZX" else None


# -------------------------------------------------------------------------------------------------------------- signals


@dataclass
class _DeferredSignals:
    """Signals of one context. The first one ends its body; later ones, and those during the restoring, wait for its end."""

    closing: bool = False
    waiting: list[int] = field(default_factory=list)


@contextmanager
def _deferred_signals() -> Iterator[_DeferredSignals]:
    """Let the ending signals unwind the body instead of killing the process. Outside the main thread nothing can be deferred."""
    deferred = _DeferredSignals()
    if threading.current_thread() is not threading.main_thread():
        yield deferred
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handlers = {number: how for number, how in before.items() if how not in (signal.SIG_IGN, None)}

    def end(number: int, frame: FrameType | None) -> None:
        if deferred.closing:
            deferred.waiting.append(number)
            return
        deferred.closing = True
        how = handlers[signal.Signals(number)]
        if callable(how):
            how(number, frame)  # Python's own handler of SIGINT raises KeyboardInterrupt
            deferred.closing = False  # a handler that returns lets the body go on
            return
        raise SystemExit(128 + number)

    for number in handlers:
        signal.signal(number, end)
    body_ended = False
    try:
        yield deferred
        body_ended = True
    finally:
        for number, how in handlers.items():
            signal.signal(number, how)
        if body_ended and deferred.waiting:
            _deliver(deferred.waiting[0], handlers)


def _deliver(number: int, handlers: dict[signal.Signals, Any]) -> None:
    """A signal that came while the machine was put back: its handler is called now."""
    how = handlers[signal.Signals(number)]
    if callable(how):
        how(number, None)
    else:
        raise SystemExit(128 + number)


# ----------------------------------------------------------------------------------------------------- background load


@contextmanager
def busy(load: int, cpus: Sequence[int] | None = None) -> Iterator[list[int]]:
    """``load`` processes that each burn a core with integer and memory work while the body runs; yields their pids.

    They run at the normal priority, on ``cpus`` or wherever the kernel puts them, all work before the body begins, die with
    this thread whatever ends it, and are ended and reaped on every exit. Raises MeasurementError when one does not start, or
    ended before the body did.
    """
    with ExitStack() as stack:
        children = [stack.enter_context(_burning(cpus)) for _ in range(load)]
        _wait_until_ready(children)
        yield [child.pid for child in children]
        if ended := sum(child.poll() is not None for child in children):
            raise MeasurementError(
                f"{ended} of {load} background processes ended early: the load was not the one requested."
            )


@contextmanager
def _burning(cpus: Sequence[int] | None) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(os.getpid()), ",".join(map(str, cpus or ()))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


def _wait_until_ready(children: Sequence[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + READY_S
    for child in children:
        assert child.stdout is not None
        readable, _, _ = select.select([child.stdout], [], [], max(0.0, until - time.monotonic()))
        if not readable or child.stdout.read(1) != b"r":
            raise MeasurementError("A background process of the load did not start: is the memory full?")


def burn(words: Sequence[str]) -> None:
    """The background process: says ``r`` after its first round of work, then works until it is killed.

    ``words``: the parent's pid, and the CPUs to run on (empty: all that this machine grants).
    """
    parent, cpus = int(words[0]), parse_cpu_list(words[1])
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew
        return
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, cpus or range(os.cpu_count() or 1))  # a pinned parent must not pin its load
    work = _rounds()
    next(work)
    os.write(1, b"r")
    for _ in work:
        pass


def _rounds() -> Iterator[None]:
    """Rounds of about 10 ms: half of the time integers in the core, half of it 16 MiB streamed, more than a board's caches hold."""
    import numpy as np

    source = np.arange(1 << 21, dtype=np.int64)
    target = np.empty_like(source)
    total = 1
    while True:
        for step in range(60_000):
            total = (total * 31 + step) & 0xFFFF_FFFF
        np.add(source, total & 0xFF, out=target)
        source, target = target, source
        yield
