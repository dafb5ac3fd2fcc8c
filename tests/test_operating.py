"""Operating points on a made-up tree of files, with real processes and signals. No board was at hand."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import RECORDED, put

from kit.devices import operating_point
from kit.devices.operating_point import busy, controlled, require_cpus, restore_left_over, unsupported
from kit.errors import BadRecord, KitError, MeasurementError, StorageError, UnknownName, UsageError
from kit.records import OperatingPoint

CONF = (RECORDED / "nvpmodel-orin-nano-super.conf").read_text()
TABLE = "729600 1036800 1344000 1497600 1728000"


class _SignalStack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@pytest.fixture(autouse=True)
def no_foreign_signal_stack() -> None:
    """A runtime that another test loaded into this process may have left an alternate signal stack that is gone by now."""
    ctypes.CDLL(None).sigaltstack(ctypes.byref(_SignalStack(None, 2, 0)), None)  # SS_DISABLE


def machine(root: Path, policies: Sequence[int] = (0, 4), table: str | None = TABLE) -> Path:
    """Two clusters from 0.73 to 1.73 GHz, uncapped; CPUs 0 to 5, of which 5 is offline."""
    put(root, "sys/devices/system/cpu/present", "0-5\n")
    put(root, "sys/devices/system/cpu/online", "0-4\n")
    for policy in policies:
        folder = f"sys/devices/system/cpu/cpufreq/policy{policy}"
        values = {"cpuinfo_min_freq": 729600, "cpuinfo_max_freq": 1728000}
        values |= {"scaling_min_freq": 729600, "scaling_max_freq": 1728000}
        for name, khz in values.items():
            put(root, f"{folder}/{name}", f"{khz}\n")
        if table:
            put(root, f"{folder}/scaling_available_frequencies", f"{table} \n")
    return root


def limits(root: Path) -> list[tuple[int, int]]:
    """(lower, upper) limit of every policy, in kilohertz."""
    folders = sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*"))
    return [(int((f / "scaling_min_freq").read_text()), int((f / "scaling_max_freq").read_text())) for f in folders]


class FakeNvpmodel:
    """nvpmodel of a board in mode ``mode``: a switch brings its own cap, like the real one; 3 needs a reboot, 9 is refused."""

    caps = {0: 1497600, 1: 1344000, 2: 1728000}  # noqa: RUF012

    def __init__(self, root: Path, mode: int = 1, stuck: bool = False) -> None:
        self.root, self.mode, self.stuck = root, mode, stuck
        self.commands: list[str] = []
        put(root, "usr/sbin/nvpmodel", "a tool")
        put(root, "etc/nvpmodel.conf", CONF)

    def __call__(self, arguments: Sequence[str]) -> str | None:
        words = [Path(arguments[0]).name, *arguments[1:]]
        self.commands.append(" ".join(words))
        if words[1] == "-q":
            name = {0: "15W", 1: "25W", 2: "MAXN_SUPER"}[self.mode]
            return f"NV Fan Mode:quiet\nNV Power Mode: {name}\n{self.mode}\n"
        if self.stuck:
            return "NVPM WARN: Reboot required for changing to this power mode: 0\nDO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:\n"
        self.mode = int(words[2])
        for file in self.root.glob("sys/devices/system/cpu/cpufreq/policy*/scaling_max_freq"):
            file.write_text(f"{self.caps[self.mode]}\n")
        return ""


# -------------------------------------------------------------------------------------------------------------- parsers


def test_modes_of_a_board() -> None:
    assert operating_point.parse_power_models(CONF) == {"15W": 0, "25W": 1, "MAXN_SUPER": 2}
    swapped = "< POWER_MODEL NAME=MODE_30W ID=2 >\n  < POWER_MODEL ID=x NAME=broken >\n<POWER_MODEL ID=3 NAME=MAXN>\n"
    assert operating_point.parse_power_models(swapped) == {"30W": 2, "MAXN": 3}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("NV Power Mode: MAXN_SUPER\n2\n", 2),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_30W\n2\n", 2),
        # NVIDIA-AI-IOT/jetbot#49: queried without root
        ("NV Power Mode: 5W\n1\nNVPM ERROR: Error opening /sys/kernel/nvpmodel_emc_cap/emc_iso_cap: 13\n", 1),
        ("NVPM ERROR: failed to read PARAM GPU_POWER_CONTROL_ENABLE\n", None),
        ("", None),
    ],
)
def test_present_mode(text: str, number: int | None) -> None:
    assert operating_point.parse_power_mode_id(text) == number


def test_cpu_lists() -> None:
    assert operating_point.parse_cpu_list("0-3,8,10-11\n") == (0, 1, 2, 3, 8, 10, 11)
    assert operating_point.parse_cpu_list("none") == ()


#: A tool's lines with a word or two of them out of place, and any text.
NVP_LINES = st.sampled_from(
    ["< POWER_MODEL ID=", "> ", " NAME=", "MODE_", "NV Power Mode: ", "15W", "MAXN", "2", "-1", "x", " ", "\n", "9" * 5000]
)  # fmt: skip
NVP_TEXTS = st.text() | st.lists(NVP_LINES, max_size=12).map("".join)


@given(NVP_TEXTS, st.integers(0, 999), st.sampled_from(["15W", "30W_6CORE", "MAXN"]))
def test_what_a_parser_reads_stands_in_the_text(text: str, number: int, name: str) -> None:
    lines = f"< POWER_MODEL ID={number} NAME=MODE_{name} >\n", f"NV Power Mode: MODE_{name}\n{number}\n"
    assert operating_point.parse_power_models(lines[0]) == {name: number}
    assert operating_point.parse_power_mode_id(lines[1]) == number
    for mode, number in operating_point.parse_power_models(text).items():
        assert not set(mode) & set(" \n")
        assert f"NAME={mode}" in text or f"NAME=MODE_{mode}" in text
        assert 0 <= number < 1000 and str(number) in text
    present = operating_point.parse_power_mode_id(text)
    assert present is None or (0 <= present < 1000 and "NV Power Mode:" in text and str(present) in text)


@given(st.sets(st.integers(0, 4095), max_size=20))
def test_a_cpu_list_is_read_as_it_was_written(cpus: set[int]) -> None:
    spans: list[list[int]] = []
    for cpu in sorted(cpus):
        if spans and cpu == spans[-1][-1] + 1:
            spans[-1].append(cpu)
        else:
            spans.append([cpu])
    text = ",".join(f"{s[0]}-{s[-1]}" if len(s) > 1 else f"{s[0]}" for s in spans)
    assert operating_point.parse_cpu_list(f"{text}\n") == tuple(sorted(cpus))


# ---------------------------------------------------------------------------------------------------------- unsupported


def test_points_that_this_machine_can_hold(tmp_path: Path) -> None:
    root = machine(tmp_path)
    run = FakeNvpmodel(root)
    assert unsupported(OperatingPoint(), root, run) is None
    point = OperatingPoint(threads=2, affinity=(0, 1), load=2, clock_cap_hz=1.5e9, power_mode="mode_15w")
    assert unsupported(point, root, run) is None
    assert not [words for words in run.commands if "-m" in words] and limits(root) == [(729600, 1728000)] * 2


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        (OperatingPoint(affinity=(0, 7)), "CPU 7 does not exist; this machine has 0-5"),
        (OperatingPoint(affinity=(5,)), "CPU 5 is offline"),
        (OperatingPoint(affinity=()), "the affinity names no CPU"),
        (OperatingPoint(affinity=(0,), threads=2), "the affinity holds 1 CPUs and 2 threads want one each"),
        (OperatingPoint(clock_cap_hz=0.5e9), "below what policy0 can do: choose one from 0.7296 GHz on"),
        (OperatingPoint(power_mode="30W"), "Unknown power mode '30W'"),
    ],
)
def test_points_that_it_cannot(tmp_path: Path, point: OperatingPoint, reason: str) -> None:
    root = machine(tmp_path)
    assert reason in (unsupported(point, root, FakeNvpmodel(root)) or "")


def test_a_machine_without_any_knob(tmp_path: Path) -> None:
    assert unsupported(OperatingPoint(clock_cap_hz=1e9), tmp_path) == "the kernel offers no cpufreq"
    assert "no nvpmodel" in (unsupported(OperatingPoint(power_mode="15W"), tmp_path) or "")
    put(tmp_path, "usr/sbin/nvpmodel", "a tool")
    assert unsupported(OperatingPoint(power_mode="15W"), tmp_path) == "/etc/nvpmodel.conf names no power mode"
    put(tmp_path, "etc/nvpmodel.conf", CONF)
    message = unsupported(OperatingPoint(power_mode="15W"), tmp_path, lambda _: None)
    assert message == "nvpmodel does not report the present mode: run the command with sudo"


def test_a_question_never_raises(tmp_path: Path) -> None:
    def run(arguments: Sequence[str]) -> str | None:
        raise RuntimeError("bus error")

    root = machine(tmp_path)
    FakeNvpmodel(root)
    assert unsupported(OperatingPoint(power_mode="15W"), root, run) == "bus error"


def test_the_running_machine_knows_its_cpus() -> None:
    here = min(os.sched_getaffinity(0))
    assert unsupported(OperatingPoint(affinity=(here,))) is None
    assert "does not exist" in (unsupported(OperatingPoint(affinity=(4095,))) or "")


def test_the_only_point_of_a_run_has_to_be_one_of_this_machine() -> None:
    here, cpus = min(os.sched_getaffinity(0)), os.cpu_count() or 1
    require_cpus(1, (here,))
    require_cpus(8 * cpus)
    refused: list[tuple[int, tuple[int, ...] | None, str]] = [
        (8 * cpus + 1, None, f"{8 * cpus + 1} threads are more than 8 for each of the {cpus} CPUs"),
        (1, (4095,), "CPU 4095 does not exist; this machine has"),
        (2, (here,), "The affinity holds 1 CPUs and 2 threads want one each"),
    ]
    for threads, affinity, sentence in refused:
        with pytest.raises(UsageError, match=sentence):
            require_cpus(threads, affinity)


# ------------------------------------------------------------------------------------------------------------------ cap


@pytest.mark.parametrize(("cap_hz", "khz"), [(1.5e9, 1497600), (1.4976e9, 1497600), (1.4e9, 1344000), (9e9, 1728000)])
def test_the_cap_is_the_nearest_frequency_not_above_it(tmp_path: Path, cap_hz: float, khz: int) -> None:
    root, state = machine(tmp_path), tmp_path / "state.json"
    with controlled(root, state=state, clock_cap_hz=cap_hz):
        assert limits(root) == [(729600, khz)] * 2
        assert state.is_file()
    assert limits(root) == [(729600, 1728000)] * 2
    assert not state.exists()


@given(cap_hz=st.floats(0.7296e9, 3e9))
def test_a_driver_without_a_table_takes_any_cap(tmp_path_factory: pytest.TempPathFactory, cap_hz: float) -> None:
    root = machine(tmp_path_factory.mktemp("m"), table=None)
    with controlled(root, state=root / "state.json", clock_cap_hz=cap_hz):
        (_, upper), _ = limits(root)
        assert upper <= cap_hz / 1e3 + 0.5
        assert upper == pytest.approx(min(cap_hz / 1e3, 1728000), abs=1)


def test_a_floor_above_the_cap_is_lowered_and_put_back(tmp_path: Path) -> None:
    root = machine(tmp_path)
    put(root, "sys/devices/system/cpu/cpufreq/policy4/scaling_min_freq", "1728000\n")
    with controlled(root, state=tmp_path / "state.json", clock_cap_hz=1.1e9):
        assert limits(root) == [(729600, 1036800), (1036800, 1036800)]
    assert limits(root) == [(729600, 1728000), (1728000, 1728000)]


def test_a_cap_that_does_not_hold_is_an_error_and_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(tmp_path)
    real = operating_point._write_khz

    def write(file: Path, khz: int) -> None:
        real(file, 1036800 if "policy4" in str(file) and khz == 1497600 else khz)  # a thermal limit

    monkeypatch.setattr(operating_point, "_write_khz", write)
    with (
        pytest.raises(MeasurementError, match="policy4 was capped at 1.4976 GHz and reports 1.0368 GHz"),
        controlled(root, state=tmp_path / "state.json", clock_cap_hz=1.5e9),
    ):
        raise AssertionError("the body must not run")
    assert limits(root) == [(729600, 1728000)] * 2 and not (tmp_path / "state.json").exists()


def test_without_permission_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(tmp_path)
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
    with (
        pytest.raises(StorageError, match="Only root may change the clock .*: run the command with sudo"),
        controlled(root, state=tmp_path / "state.json", clock_cap_hz=1.5e9),
    ):
        raise AssertionError("the body must not run")
    assert limits(root) == [(729600, 1728000)] * 2 and not (tmp_path / "state.json").exists()
    monkeypatch.setattr(os, "access", lambda *_: False)
    message = unsupported(OperatingPoint(clock_cap_hz=1.5e9), root)
    assert message == "only root may change the clock: run the command with sudo"


def test_a_refused_value_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(tmp_path)
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(OSError(22, "Invalid argument")))
    with pytest.raises(StorageError, match="The kernel refuses 1.4976 GHz"):
        operating_point._cap(root / "sys/devices/system/cpu/cpufreq/policy0", 1497600)


def test_no_point_changes_nothing(tmp_path: Path) -> None:
    with controlled(tmp_path, state=tmp_path / "state.json"):
        assert not (tmp_path / "state.json").exists()
    with (
        pytest.raises(UsageError, match="offers no cpufreq"),
        controlled(tmp_path, state=tmp_path / "s", clock_cap_hz=1e9),
    ):
        raise AssertionError("the body must not run")
    with pytest.raises(UsageError, match="no nvpmodel"), controlled(tmp_path, state=tmp_path / "s", power_mode="15W"):
        raise AssertionError("the body must not run")
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------------- power mode


@pytest.mark.parametrize("name", ["15W", "mode_15W", "0"])
def test_power_mode_and_cap_together(tmp_path: Path, name: str) -> None:
    root = machine(tmp_path)
    run = FakeNvpmodel(root)
    put(
        root, "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq", "1036800\n"
    )  # set by hand: no mode knows of it
    with controlled(root, state=tmp_path / "state.json", power_mode=name, clock_cap_hz=1.4e9, run=run):
        assert run.mode == 0 and limits(root) == [(729600, 1344000)] * 2
    assert run.mode == 1
    assert limits(root) == [(729600, 1728000), (729600, 1036800)]
    assert [words for words in run.commands if "-m" in words] == ["nvpmodel -m 0", "nvpmodel -m 1"]


def test_the_present_mode_is_not_switched_to(tmp_path: Path) -> None:
    run = FakeNvpmodel(machine(tmp_path))
    with controlled(tmp_path, state=tmp_path / "state.json", power_mode="25W", run=run):
        assert run.mode == 1
    assert not [words for words in run.commands if "-m" in words]
    assert run.mode == 1 and limits(tmp_path) == [(729600, 1728000)] * 2


def test_a_mode_that_needs_a_reboot(tmp_path: Path) -> None:
    run = FakeNvpmodel(machine(tmp_path), stuck=True)
    with (
        pytest.raises(MeasurementError, match="needs a reboot: run 'sudo nvpmodel -m 0'"),
        controlled(tmp_path, state=tmp_path / "state.json", power_mode="15W", run=run),
    ):
        raise AssertionError("the body must not run")
    with (
        pytest.raises(UnknownName, match="did you mean '15W'"),
        controlled(tmp_path, state=tmp_path / "state.json", power_mode="15", run=run),
    ):
        raise AssertionError("the body must not run")
    assert run.mode == 1 and limits(tmp_path) == [(729600, 1728000)] * 2 and not (tmp_path / "state.json").exists()


def test_nested_points_are_undone_from_the_inside_out(tmp_path: Path) -> None:
    root, state = machine(tmp_path), tmp_path / "state.json"
    run = FakeNvpmodel(root)
    with controlled(root, state=state, power_mode="15W", run=run):
        with controlled(root, state=state, clock_cap_hz=1.1e9, run=run):
            assert limits(root) == [(729600, 1036800)] * 2
            assert len(json.loads(state.read_text())["frames"]) == 2
        assert limits(root) == [(729600, 1497600)] * 2 and run.mode == 0
        assert len(json.loads(state.read_text())["frames"]) == 1
    assert limits(root) == [(729600, 1728000)] * 2 and run.mode == 1
    assert not state.exists()


def test_an_exception_undoes_it(tmp_path: Path) -> None:
    root = machine(tmp_path)
    with pytest.raises(ZeroDivisionError), controlled(root, state=tmp_path / "state.json", clock_cap_hz=1.1e9):
        _ = 1 / 0
    assert limits(root) == [(729600, 1728000)] * 2


def test_a_thread_may_hold_a_point(tmp_path: Path) -> None:
    root, observed = machine(tmp_path), []

    def hold() -> None:
        with controlled(root, state=tmp_path / "state.json", clock_cap_hz=1.1e9):
            observed.append(limits(root))

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert observed == [[(729600, 1036800)] * 2] and limits(root) == [(729600, 1728000)] * 2


# -------------------------------------------------------------------------------------------------------------- signals


def holding(root: Path, body: str = "") -> subprocess.Popen[str]:
    """A process that holds two nested points below ``root``, then says so and waits."""
    code = f"""
        import signal, sys, time
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a runner under nohup ignores it, and one in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # of a shell this
        from pathlib import Path
        from kit.devices.operating_point import controlled
        root, state = Path({str(root)!r}), Path({str(root / "state.json")!r})
        with controlled(root, state=state, clock_cap_hz=1.5e9), controlled(root, state=state, clock_cap_hz=1.1e9):
            print("held", flush=True)
            {body or "time.sleep(60)"}
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "held\n", child.communicate()
    return child


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, -signal.SIGINT)]
)
def test_signals_that_end_a_run_undo_it(tmp_path: Path, number: signal.Signals, code: int) -> None:
    root = machine(tmp_path)
    child = holding(root)
    assert limits(root) == [(729600, 1036800)] * 2
    child.send_signal(number)
    child.send_signal(number)  # an impatient user
    try:
        child.communicate(timeout=30)
    finally:
        child.kill()  # else it is a child of the tests that follow
    assert child.returncode == code
    assert limits(root) == [(729600, 1728000)] * 2 and not (root / "state.json").exists()


def test_a_signal_while_it_is_undone_waits(tmp_path: Path) -> None:
    root, state = machine(tmp_path), tmp_path / "state.json"
    before = signal.getsignal(signal.SIGTERM)
    real, came = operating_point._put_back, []

    def interrupted(*arguments: object) -> list[str]:
        signal.raise_signal(signal.SIGTERM)
        came.append(True)
        return real(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operating_point, "_put_back", interrupted)
        with pytest.raises(SystemExit) as ended, controlled(root, state=state, clock_cap_hz=1.1e9):
            pass
    assert came == [True] and ended.value.code == 143
    assert limits(root) == [(729600, 1728000)] * 2 and not state.exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_handler_of_the_program_stays_and_is_called(tmp_path: Path) -> None:
    root, called = machine(tmp_path), []
    before = signal.signal(signal.SIGHUP, lambda number, frame: called.append(number))
    try:
        with controlled(root, state=tmp_path / "state.json", clock_cap_hz=1.1e9):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
            assert limits(root) == [(729600, 1036800)] * 2
    finally:
        signal.signal(signal.SIGHUP, before)
    assert called == [signal.SIGHUP] * 2 and limits(root) == [(729600, 1728000)] * 2


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    root = machine(tmp_path)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with controlled(root, state=tmp_path / "state.json", clock_cap_hz=1.1e9):
            signal.raise_signal(signal.SIGHUP)
            assert limits(root) == [(729600, 1036800)] * 2
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert limits(root) == [(729600, 1728000)] * 2 and not (tmp_path / "state.json").exists()


# ----------------------------------------------------------------------------------------------------------- left over


def test_what_a_killed_run_left_is_put_back(tmp_path: Path) -> None:
    root, state = machine(tmp_path), tmp_path / "state.json"
    assert restore_left_over(state, root) is None
    child = holding(root)
    with pytest.raises(MeasurementError, match=f"Process {child.pid} still keeps"):
        restore_left_over(state, root)
    child.kill()
    child.communicate(timeout=30)
    assert limits(root) == [(729600, 1036800)] * 2
    with (
        pytest.raises(MeasurementError, match="restore what it left over first"),
        controlled(root, state=state, clock_cap_hz=1.4e9),
    ):
        raise AssertionError("the body must not run")
    assert limits(root) == [(729600, 1036800)] * 2
    message = restore_left_over(state, root)
    assert message is not None and "killed" in message and "policy4 scaling_max_freq 1.728 GHz" in message
    assert limits(root) == [(729600, 1728000)] * 2
    assert restore_left_over(state, root) is None


def test_a_zombie_holds_nothing(tmp_path: Path) -> None:
    root, state = machine(tmp_path), tmp_path / "state.json"
    child = holding(root)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped
    assert limits(root) == [(729600, 1036800)] * 2
    assert restore_left_over(state, root) is not None
    assert limits(root) == [(729600, 1728000)] * 2 and not state.exists()
    child.communicate(timeout=30)


def test_a_power_mode_is_put_back_after_a_kill(tmp_path: Path) -> None:
    root, state = machine(tmp_path), tmp_path / "state.json"
    run = FakeNvpmodel(root, mode=0)
    frame = operating_point.Frame(
        pid=1 << 30, started="0@gone", power_mode_id=2, frequencies=operating_point._saved_frequencies(root)
    )
    operating_point._push(state, frame)
    assert "power mode 2" in (restore_left_over(state, root, run) or "")
    assert run.mode == 2 and limits(root) == [(729600, 1728000)] * 2


def test_a_state_that_cannot_be_put_back_stays(tmp_path: Path) -> None:
    root, state = machine(tmp_path), tmp_path / "state.json"
    saved = operating_point._saved_frequencies(root)
    operating_point._push(
        state, operating_point.Frame(pid=1 << 30, started="0@gone", power_mode_id=2, frequencies=saved)
    )
    put(root, "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "729600\n")
    with pytest.raises(MeasurementError, match="could not be put back to 2: no nvpmodel"):
        restore_left_over(state, root)
    assert state.is_file() and limits(root) == [(729600, 1728000)] * 2  # what could be put back was


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"kind": "operating_state", "frames": [{"pid": 1, "started": "x", "frequencies": [{"file": "etc/passwd", "khz": 1}]}]}',
    ],
)
def test_a_broken_state_file_is_named(tmp_path: Path, text: str) -> None:
    put(tmp_path, "state.json", text)
    with pytest.raises(BadRecord, match="state.json"):
        restore_left_over(tmp_path / "state.json", tmp_path)
    assert "passwd" not in text or not (tmp_path / "etc/passwd").exists()


# ----------------------------------------------------------------------------------------------------------------- load


def gone(pid: int) -> bool:
    return operating_point._started(pid) is None


def wait_until(true: Callable[[], bool]) -> bool:
    for _ in range(400):
        if true():
            return True
        time.sleep(0.02)
    return False


def test_a_load_works_before_the_body_and_is_reaped_after() -> None:
    with busy(2, cpus=sorted(os.sched_getaffinity(0))[:1]) as pids:
        assert len(set(pids)) == 2
        first = min(os.sched_getaffinity(0))
        assert [os.sched_getaffinity(pid) for pid in pids] == [{first}, {first}]
        assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in pids} == {os.getpriority(os.PRIO_PROCESS, 0)}
    with contextlib.suppress(ChildProcessError):
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)  # no zombie of ours
    assert all(not Path(f"/proc/{pid}").exists() for pid in pids)
    with busy(0) as none:
        assert none == []


def test_a_load_that_dies_early_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="1 of 1 background processes ended early"), busy(1) as (pid,):
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_load_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operating_point, "BUSY", "raise SystemExit(1)")
    with pytest.raises(KitError, match="did not start"), busy(2):
        pass


def test_a_load_dies_with_its_parent() -> None:
    code = (
        "import time\nfrom kit.devices.operating_point import busy\n"
        "with busy(1) as pids:\n    print(*pids, flush=True)\n    time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert not gone(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: gone(pid))


def test_an_orphan_does_not_begin() -> None:
    completed = subprocess.run(
        [sys.executable, "-c", operating_point.BUSY, "1073741824", ""], capture_output=True, timeout=60
    )
    assert (completed.returncode, completed.stdout) == (0, b"")


def test_the_tool_answers_no_and_never_raises() -> None:
    assert operating_point.run_tool(["sh", "-c", "read answer; echo $answer; echo loud >&2; exit 3"]) == "no\nloud\n"
    assert operating_point.run_tool(["no-such-tool-anywhere"]) is None
