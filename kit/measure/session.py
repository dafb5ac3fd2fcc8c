"""A session: the state of this machine and a fixed set of networks, measured together, so that days and machines can be compared.

Latencies of one device differ between days and between machines of the same device id, and they do so by what a network touches. A
session holds what is needed to compute by how much: the clock, reading working sets from an L1 cache to beyond all caches, the calibration
workloads, and 25 networks of three families with random weights (kit writes them itself), in six fresh processes each. The state is
read in processes of its own before and after the networks; how far the two agree is the repeat of the state within the session.

The file ``PROFILES/<device_id>/sessions/<utc>.jsonl`` holds one :class:`~kit.records.Session` and then a line for each network. It is
written when all is measured. :func:`kit.store.read_profiles` leaves ``sessions/`` alone: what has several machines behind it is no
profile of one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kit import __version__, backends, spaces, stats, store
from kit.devices import clock, operating_point, telemetry, working_sets
from kit.errors import BadRecord, MeasurementError
from kit.measure import drift, forkserver, profiler, quality, worker
from kit.measure.profiler import Job, Progress
from kit.measure.targets import Target
from kit.packed import Series
from kit.records import (
    DeviceSpec,
    MachineState,
    Measurement,
    MeasureSettings,
    ProfileRecord,
    Record,
    Reference,
    Session,
    SessionNetwork,
    SubNetwork,
    load,
)
from kit.versions import installed

FOLDER = store.SESSIONS
#: From 0.3 to 47 MB of weights and 0.5 to 50 MB of activations, from 0.1 to 30 ms on a 3.7 GHz core with AVX-512.
NETWORKS = (
    "resnet18-d2.1.1.1-w0.25-fp32-144",
    "resnet18-d2.2.1.1-w0.50-fp32-256",
    "resnet18-d1.2.1.2-w0.75-fp32-256",
    "resnet18-d2.1.2.2-w1.00-fp32-144",
    "resnet18-d1.1.1.1-w0.25-int8-192",
    "resnet18-d2.1.2.1-w0.75-int8-224",
    "resnet18-d2.2.1.2-w1.00-int8-96",
    "resnet18-d2.2.2.2-w1.00-int8-224",
    "vgg11-d1.1.1.1.1-w0.25-fp32-144",
    "vgg11-d1.1.2.1.2-w0.50-fp32-128",
    "vgg11-d1.1.1.2.2-w0.62-fp32-240",
    "vgg11-d1.1.2.2.2-w1.00-fp32-96",
    "vgg11-d1.1.1.1.1-w0.25-int8-128",
    "vgg11-d1.1.1.2.1-w0.50-int8-128",
    "vgg11-d1.1.2.2.1-w0.75-int8-208",
    "vgg11-d1.1.2.2.2-w1.00-int8-112",
    "vit_tiny-d1-w0.25-fp32-224",
    "vit_tiny-d2-w0.75-fp32-160",
    "vit_tiny-d9-w0.62-fp32-224",
    "vit_tiny-d12-w1.00-fp32-112",
    "vit_tiny-d3-w0.38-int8-160",
    "vit_tiny-d5-w0.62-int8-224",
    "vit_tiny-d9-w0.88-int8-192",
    "vit_tiny-d12-w1.00-int8-112",
    "resnet18-d2.2.2.2-w1.00-fp32-224",
)
PROCESSES = 6  # of each network
STATES = 5  # processes that read the state, before the networks and again after them
RUN_S = 0.15
WORKLOAD_REPEATS = 40
STATE_TIMEOUT_S = 120.0
BUSY_SHARE = 0.10  # of the machine's CPU time: with more, a session is no session
LOOK_S = 1.0
PACKAGES = ("python", "onnxruntime", "openvino", "numpy", "pydantic", "psutil", "onnx", "torch")
SALT_FILE = "session-salt"
CODE = "import sys; sys.path[:] = [p for p in sys.path if p]; from kit.measure.session import main; main()"


class StateRequest(Record):
    """What the parent asks of a process that reads the state."""

    backend: str
    networks: dict[str, worker.WorkerNetwork]
    avx: bool  # whether this processor has the registers of the reading loop (x86)
    repeats: int = WORKLOAD_REPEATS
    seed: int = 0


@dataclass(frozen=True)
class Recording:
    """A session file: the session itself and its networks as profile records."""

    path: Path
    session: Session
    records: tuple[ProfileRecord, ...]


# ------------------------------------------------------------------------------------------------------------- the session


def run(
    device: DeviceSpec,
    profiles: Path,
    *,
    networks: Sequence[str] = NETWORKS,
    processes: int = PROCESSES,
    states: int = STATES,
    backend: str = "onnxruntime",
    even_if_busy: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Recording:
    """Measure one session on this machine, which should have nothing else to do, and write its file. Takes about four minutes.

    Raises MeasurementError (the machine is busy; a state could not be read), BackendUnavailable, StorageError (another measurement).
    """
    backends.require(backend)
    folder = profiles / device.device_id
    store.make_folder(folder)
    start_s = time.monotonic()
    total = 2 * states + len(networks) * processes
    with profiler.alone(folder), tempfile.TemporaryDirectory(prefix="kit-session-") as scratch:
        _refuse_busy(even_if_busy)
        before = telemetry.Counters.read()
        settings = MeasureSettings(
            backend=backend, rounds_min=processes, rounds_max=processes, run_s=RUN_S, warmup_max_s=0.5
        )
        request = StateRequest(
            backend=backend,
            networks=_calibration_networks(Path(scratch)),
            avx=any(feature.startswith("avx") for feature in device.cpu_features),
        )

        def state(number: int) -> MachineState:
            progress(Progress(number, total, f"state of the machine, process {number % states + 1} of {states}"))
            return _state(request)

        states_before = tuple(state(number) for number in range(states))
        records = _profiled(networks, settings, device, folder, Path(scratch), _shifted(progress, states, total))
        states_after = tuple(state(total - states + number) for number in range(states))
        disturbance = telemetry.disturbance(before, telemetry.Counters.read())
        machine, boot = tags()
        created_utc = store.utc_now()
        session = Session(
            session_id=f"{created_utc[:19].replace(':', '').replace('-', '')}Z-{machine}",
            created_utc=created_utc,
            kit_version=__version__,
            machine_tag=machine,
            boot_tag=boot,
            device=device,
            packages=installed(PACKAGES),
            settings=settings,
            reference=_device_reference(folder, device),
            states_before=states_before,
            states_after=states_after,
            disturbance=disturbance,
            wall_s=time.monotonic() - start_s,
        )
        path = folder / FOLDER / f"{created_utc[:19].replace(':', '')}Z.jsonl"
        _write(path, session, records)
    progress(Progress(total, total, "written"))
    return Recording(path, session, tuple(records))


def _refuse_busy(even_if_busy: bool) -> None:
    """Raises MeasurementError where other processes use the machine now."""
    before = telemetry.Counters.read()
    time.sleep(LOOK_S)
    share = telemetry.disturbance(before, telemetry.Counters.read()).busy_elsewhere_share
    if share is not None and share > BUSY_SHARE and not even_if_busy:
        raise MeasurementError(
            f"Other processes use {share:.0%} of this machine: stop them and run this again, or add --even-if-busy."
        )


def _shifted(progress: Callable[[Progress], None], by: int, total: int) -> Callable[[Progress], None]:
    def shifted(step: Progress) -> None:
        progress(Progress(by + step.steps_done, total, step.text, step.remaining_s))

    return shifted


def _profiled(
    networks: Sequence[str],
    settings: MeasureSettings,
    device: DeviceSpec,
    folder: Path,
    scratch: Path,
    progress: Callable[[Progress], None],
) -> list[ProfileRecord]:
    """The networks, profiled into a scratch folder that starts with the device's own scale, in the order of their ids."""
    jobs = []
    for number, text in enumerate(networks):
        path = scratch / f"network{number}.onnx"
        jobs.append(Job(Target(path, spaces.write(SubNetwork.parse(text), path)), settings))
    out = store.make_folder(scratch / "profile") / "networks.jsonl"
    reference = _device_reference(folder, device)
    if reference is not None:
        store.write_record(out.parent / profiler.REFERENCE, reference)
    return profiler.profile(jobs, device, out, progress=progress)


def _device_reference(folder: Path, device: DeviceSpec) -> Reference | None:
    """The scale of the device's profile, where it is one of this kit's workloads."""
    path = folder / profiler.REFERENCE
    reference = store.read_record(path, Reference) if path.is_file() else None
    return reference if reference is not None and drift.fits(reference, device.device_id) else None


# --------------------------------------------------------------------------------------------------------------- the state


def _calibration_networks(folder: Path) -> dict[str, worker.WorkerNetwork]:
    networks = {}
    for name, text in drift.NETWORKS.items():
        path = folder / f"calibration-{name}.onnx"
        networks[name] = worker.WorkerNetwork(path=str(path), artifact=spaces.write(SubNetwork.parse(text), path))
    return networks


def _state(request: StateRequest) -> MachineState:
    """The state as a fresh process reads it. Raises MeasurementError when that process dies."""
    line, _, reason = forkserver.spawn(CODE, forkserver.request_line(request), 1, STATE_TIMEOUT_S)
    if line is None:
        raise MeasurementError(f"The state of the machine could not be read: {reason}")
    return MachineState.model_validate_json(line)


def main() -> None:
    """Entry of the child that reads the state."""
    worker.serve(lambda line: read_state(StateRequest.model_validate_json(line)))


def read_state(request: StateRequest) -> MachineState:
    """The machine as this process sees it: calibration workloads in turns, then the working sets. Takes about three seconds."""
    environment, counters = telemetry.read_environment(), telemetry.Counters.read()
    calls = {name: worker.calibration_call(request.backend, network) for name, network in request.networks.items()}
    workloads = drift.workloads({name: call for name, call in calls.items() if call is not None})
    times: dict[str, list[int]] = {name: [] for name in workloads}
    for _ in range(request.repeats):
        for name, workload in workloads.items():
            times[name].append(workload())
    sizes = working_sets.sizes(psutil.virtual_memory().available)
    sets = working_sets.measure(working_sets.loops(avx=request.avx), sizes, seed=request.seed)
    reading = clock.measure()
    return MachineState(
        before=environment,
        clock_hz=reading.hz,
        clock_source=reading.source,
        working_sets=sets,
        workloads={name: Series(values) for name, values in times.items()},
        disturbance=telemetry.disturbance(counters, telemetry.Counters.read()),
    )


# --------------------------------------------------------------------------------------------------------------- the tags


def tags(root: Path = Path("/"), salt_file: Path | None = None) -> tuple[str, str]:
    """(of this machine, of its present boot): twelve hexadecimal digits each.

    Keyed hashes of what Linux knows the machine by, under a random key that never leaves the machine: nobody can turn them back or test
    a guess. A machine that is cloned differs by its addresses, one that is new by its key. Raises StorageError when no key can be kept.
    """
    salt = _salt(salt_file or operating_point.state_file().with_name(SALT_FILE))
    addresses = [telemetry.read_text(path) or "" for path in sorted(root.glob("sys/class/net/*/address"))]
    fixed = [telemetry.read_text(root / name) or "" for name in ("etc/machine-id", "sys/class/dmi/id/product_uuid")]
    boot = telemetry.read_text(root / "proc/sys/kernel/random/boot_id") or ""

    def tag(*facts: str) -> str:
        return hmac.new(salt, "\n".join(facts).encode(), hashlib.sha256).hexdigest()[:12]

    machine = tag("machine", *fixed, *(a for a in addresses if _is_hardware(a)))
    return machine, tag("boot", machine, boot)


def _is_hardware(address: str) -> bool:
    """Whether a network address belongs to the machine: one that is locally administered may be drawn again at each start."""
    return (
        bool(re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", address))
        and not int(address[:2], 16) & 2
        and address[:8] != "00:00:00"
    )


def _salt(path: Path) -> bytes:
    if not path.is_file():
        store.write_atomic(path, os.urandom(32))
        path.chmod(0o600)
    with store.explained(path, "read"):
        return path.read_bytes()


# --------------------------------------------------------------------------------------------------------------- the file


def _write(path: Path, session: Session, records: Sequence[ProfileRecord]) -> None:
    """One line for the session and one for each network. A session is small, so that many are kept: what is unknown, a default or stated by
    the session is left out, and :func:`read` puts it back."""
    lines = [
        SessionNetwork(
            artifact=record.artifact,
            status=record.status,
            reason=record.reason,
            runs=record.measurement.runs if record.measurement else (),
        )
        for record in records
    ]
    data = [{"kind": session.kind, "schema_version": session.schema_version, **_small(session)}, *map(_small, lines)]
    store.write_atomic(path, b"".join(store.canonical_json(line) + b"\n" for line in data))


def _small(line: Session | SessionNetwork) -> dict[str, Any]:
    left_out = {"runs": {"__all__": {"versions"}}} if isinstance(line, SessionNetwork) else None
    return line.model_dump(mode="json", exclude_defaults=True, exclude=left_out)


def _with_versions(data: dict[str, Any], session: Session) -> dict[str, Any]:
    """The line of a network with the versions that the session states once."""
    names = {session.settings.backend, "python", "numpy"}
    versions = {name: version for name, version in session.packages.items() if name in names}
    return data | {"visits": [{"versions": versions, **run_values} for run_values in data.get("visits", ())]}


def read(path: Path) -> Recording:
    """A session file. Raises UsageError (missing), BadRecord (no session, or one of another schema)."""
    lines = store.read_lines(path)
    if not lines or not isinstance(lines[0][1], dict) or lines[0][1].get("kind") != "session":
        raise BadRecord(f"{path} is no session: give a file that kit session wrote.")
    session = load(Session, lines[0][1], lines[0][0])
    records = [
        _record(session, number, load(SessionNetwork, _with_versions(data, session), place))
        for number, (place, data) in enumerate(lines[1:])
    ]
    return Recording(path, session, tuple(records))


def _record(session: Session, number: int, network: SessionNetwork) -> ProfileRecord:
    """A network of a session as the profile record that it was; its label follows from the raw values."""
    scale = session.reference
    if scale is not None and network.runs:
        scale = drift.of_job(scale, network.artifact.precision, session.settings.backend, network.runs)
    measurement = Measurement(runs=network.runs, reference=scale) if network.runs else None
    label, evidence = quality.label_of(measurement, session.settings) if measurement else (None, ())
    return ProfileRecord(
        record_id=f"{session.session_id}-{number:03d}",
        created_utc=session.created_utc,
        kit_version=session.kit_version,
        device=session.device,
        artifact=network.artifact,
        settings=session.settings,
        status=network.status,
        reason=network.reason,
        measurement=measurement,
        label=label,
        evidence=evidence,
    )


def read_all(profiles: Path) -> list[Recording]:
    """Every session below ``profiles``, the oldest first. Raises BadRecord."""
    recordings = [read(path) for path in sorted(profiles.glob(f"*/{FOLDER}/*.jsonl"))]
    return sorted(recordings, key=lambda recording: recording.session.created_utc)


# ------------------------------------------------------------------------------------------------------------- its figures


def state_figures(states: Sequence[MachineState]) -> dict[str, float]:
    """The state variables as numbers in SI, medians over the processes that read them: ``clock_hz``, ``read_32KiB_bytes_s``,
    ``chase_32KiB_s``, ``calibration_network_s`` and so on. What no process could read is missing."""
    by_name: dict[str, list[float]] = {}
    for state in states:
        for name, value in _figures(state).items():
            by_name.setdefault(name, []).append(value)
    return {name: stats.quantile(values, 0.5) for name, values in by_name.items()}


def _figures(state: MachineState) -> dict[str, float]:
    figures: dict[str, float] = {} if state.clock_hz is None else {"clock_hz": state.clock_hz}
    for sets in state.working_sets:
        figures[f"read_{_size(sets.size_bytes)}_bytes_s"] = sets.bandwidth_bytes_s
        if sets.latency_s is not None:
            figures[f"chase_{_size(sets.size_bytes)}_s"] = sets.latency_s
    return figures | {f"calibration_{name}_s": state.workload_s(name) for name in state.workloads}


def _size(size_bytes: int) -> str:
    return f"{size_bytes >> 20}MiB" if size_bytes >= 1 << 20 else f"{size_bytes >> 10}KiB"


def repeats(session: Session) -> dict[str, float]:
    """After the networks over before them, of each state variable: how far the state's own figures repeat within the session."""
    before, after = state_figures(session.states_before), state_figures(session.states_after)
    return {name: after[name] / before[name] for name in before if name in after}


def ratios(recording: Recording, to: Recording) -> tuple[dict[str, float], dict[str, float]]:
    """(state variables, networks) of one session over those of another: medians of all its state processes, raw medians of networks."""
    state, base = (state_figures((*r.session.states_before, *r.session.states_after)) for r in (recording, to))
    times, base_times = (medians_s(r) for r in (recording, to))
    return (
        {name: state[name] / base[name] for name in base if name in state},
        {name: times[name] / base_times[name] for name in base_times if name in times},
    )


def medians_s(recording: Recording) -> dict[str, float]:
    """Raw median latency in seconds of each network that was measured."""
    return {r.artifact.artifact_id: r.measurement.median_s for r in recording.records if r.measurement is not None}
