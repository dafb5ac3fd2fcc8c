"""The clock by chains of instructions: the code's bytes and results, and the arithmetic on readings that are made up.

No test rests on how fast this machine is. The aarch64 bytes were compared with an assembler's output once and are run here
wherever an emulator is installed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.devices import clock
from kit.devices.clock import SEED, Chain, ClockReading, Links

HERE = platform.machine()
needs_chain = pytest.mark.skipif(HERE not in clock.CODES, reason=f"no chain is written for {HERE}")


def links(hz: float) -> Links:
    """A chain whose readings say ``hz`` exactly, without running anything."""

    class FixedLinks(Links):
        def read_hz(self) -> float:
            return hz

    return FixedLinks(lambda passes, seed: seed, 1, 1)


# ------------------------------------------------------------------------------------------------------------ the code


def test_x86_code_is_what_the_assembler_makes() -> None:
    code = clock.CODES["x86_64"][0][0]
    assert code[:3] == bytes.fromhex("4889f0")  # mov rax, rsi
    assert code[3:7] == bytes.fromhex("480fafc6")  # imul rax, rsi
    assert code[-10:] == bytes.fromhex("48ffcf0f850ffcffffc3")  # dec rdi; jnz back over 1009 bytes; ret
    assert clock.CODES["x86_64"][1][0][3:7] == bytes.fromhex("48c1c807")  # ror rax, 7


def test_arm_code_is_what_the_assembler_makes() -> None:
    shifted, plain = (struct.unpack("<255I", code) for code, _, _ in clock.CODES["aarch64"])
    assert shifted[:2] == (0xAA0103E2, 0x8B421C22)  # mov x2, x1; add x2, x1, x2, lsr #7
    assert plain[1] == 0x8B010042  # add x2, x2, x1
    assert shifted[-4:] == (0xF1000400, 0x54FFE0A1, 0xAA0203E0, 0xD65F03C0)  # subs; b.ne -251; mov x0, x2; ret


@pytest.mark.parametrize("machine", clock.CODES)
def test_both_chains_of_a_machine_take_the_same_cycles(machine: str) -> None:
    latencies = [cycles for _, cycles, _ in clock.CODES[machine]]
    assert len(set(latencies)) == 2  # a wrong latency must not hide in both
    assert all(clock.CYCLES % (clock.LINKS * cycles) == 0 for cycles in latencies)


@needs_chain
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("place", [clock._from_file, clock._from_anonymous])
def test_code_runs_and_returns_what_it_computes(index: int, place) -> None:
    code, _, step = clock.CODES[HERE][index]
    body = ctypes.PYFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)(place(code))
    for passes in (1, 2, 7):
        assert body(passes, SEED) == clock.expected(step, passes)


@pytest.mark.parametrize("index", [0, 1])
def test_arm_code_under_emulation(index: int, tmp_path: Path) -> None:
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if emulator is None:
        pytest.skip("no aarch64 emulator")
    code, _, step = clock.CODES["aarch64"][index]
    program = tmp_path / "program"
    program.write_bytes(arm_program(code, passes=3))
    program.chmod(0o755)
    completed = subprocess.run([emulator, str(program)], capture_output=True, timeout=60)
    assert completed.returncode == 0
    assert struct.unpack("<Q", completed.stdout)[0] == clock.expected(step, 3)


def arm_program(code: bytes, passes: int) -> bytes:
    """A static ELF file that calls ``code(passes, SEED)`` and writes the eight bytes that it returns."""
    movs = [0xD2800000 | passes << 5]  # movz x0, passes
    movs += [0xF2800001 | n << 21 | (SEED >> 16 * n & 0xFFFF) << 5 for n in (1, 2, 3)]  # movk x1
    movs.insert(1, 0xD2800001 | (SEED & 0xFFFF) << 5)  # movz x1
    tail = [0xF81F0FE0, 0x910003E1, 0xD2800020, 0xD2800102, 0xD2800808, 0xD4000001]  # push x0; write(1, sp, 8)
    tail += [0xD2800000, 0xD2800BA8, 0xD4000001]  # exit(0)
    call = 0x94000000 | 1 + len(tail)  # bl over the tail
    words = [*movs, call, *tail]
    text = struct.pack(f"<{len(words)}I", *words) + code
    base, start = 0x400000, 64 + 56
    size = start + len(text)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 183, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return header + segment + text


@given(st.integers(0, clock.MASK))
def test_every_link_stays_in_64_bits_and_loses_nothing(value: int) -> None:
    for step in (clock.multiply, clock.rotate, clock.add, clock.add_shifted):
        assert 0 <= step(value, SEED) <= clock.MASK
    bits = f"{value:064b}"
    assert clock.rotate(value, 0) == int(bits[-7:] + bits[:-7], 2)
    assert clock.multiply(value, SEED) == value * SEED % 2**64 and clock.add(value, SEED) == (value + SEED) % 2**64
    assert clock.add_shifted(value, SEED) == (SEED + value // 128) % 2**64


# ------------------------------------------------------------------------------------------------------------ readings


@needs_chain
def test_this_machine_reads_its_clock() -> None:
    chain = clock.chain()
    assert chain is not None and chain is clock.chain()
    assert "chain" in chain.source
    assert 1e8 < max(chain.read_hz() for _ in range(20)) < 1e10
    reading = clock.measure()
    assert (reading.hz is None) == (reading.reason is not None)
    assert reading.hz is None or 1e8 < reading.hz < 1e10


def test_chains_that_agree_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "SETTLE_NS", 0)
    assert clock.from_chain(Chain("made", links(2.4e9), links(2.41e9))) == ClockReading(2.4e9, "made")


@pytest.mark.parametrize("other", [1.8e9, 2.46e9, 4.8e9])
def test_chains_that_disagree_are_not(monkeypatch: pytest.MonkeyPatch, other: float) -> None:
    monkeypatch.setattr(clock, "SETTLE_NS", 0)
    reading = clock.from_chain(Chain("made", links(2.4e9), links(other)))
    assert reading.hz is None
    assert reading.reason is not None and "2.40" in reading.reason and f"{other / 1e9:.2f}" in reading.reason


def test_a_reading_leaves_the_cost_of_the_call_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]

    def body(passes: int, seed: int) -> int:
        now[0] += passes * 100 + 500  # 100 ns of work each, 500 ns for the call
        return seed

    monkeypatch.setattr(clock, "perf_counter_ns", lambda: now[0])
    measured = clock._with_overhead(Links(body, 250, 200))
    assert measured.overhead_ns == 500.0
    assert measured.read_hz() == pytest.approx(2e9)


def test_the_cycle_counter_of_shared_registers() -> None:
    readings = [(0, 0, 0), (2_000, 1_000, 1_000), (3_000, 3_000, 1_500), (3_000, 9_000, 1_500), (3_900, 9_500, 2_000)]
    assert clock.counter_hz(readings) == pytest.approx(2e9)
    assert clock.counter_hz([(0, 10, 10), (0, 20, 20)]) is None  # it stands still: a guest without a counter
    assert clock.counter_hz([]) is None


def test_the_counter_is_preferred_to_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "from_perf", lambda: ClockReading(3e9, clock.COUNTER))
    monkeypatch.setattr(clock, "from_chain", lambda: ClockReading(2e9, "chain"))
    assert clock.measure().hz == 3e9
    monkeypatch.setattr(clock, "from_perf", lambda: ClockReading(None, clock.COUNTER, "refused"))
    assert clock.measure() == ClockReading(2e9, "chain")
    monkeypatch.setattr(clock, "from_chain", lambda: ClockReading(None, "chain", "disturbed"))
    assert clock.measure() == ClockReading(None, "unknown", "refused; disturbed")


def test_perf_attributes_have_the_published_size() -> None:
    assert ctypes.sizeof(clock._PerfAttributes) == 64
    reading = clock.from_perf()
    assert (reading.hz is None) == (reading.reason is not None)


# -------------------------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def fresh() -> Iterator[None]:
    clock._chain_or_reason.cache_clear()
    yield
    clock._chain_or_reason.cache_clear()


def refuse(code: bytes) -> int:
    raise OSError(13, "Permission denied")


def test_refused_memory_and_no_numba_leave_the_clock_unknown(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    monkeypatch.setattr(clock.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(clock, "_from_file", refuse)
    monkeypatch.setattr(clock, "_from_anonymous", refuse)
    monkeypatch.setitem(sys.modules, "numba", None)
    clock._compiled.cache_clear()
    assert clock.chain() is None
    reading = clock.from_chain()
    assert reading.reason == "this system refuses executable memory (Permission denied); Numba is not installed"


@needs_chain
def test_numba_stands_in_where_memory_is_refused(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(clock, "executable", refuse)
    clock._compiled.cache_clear()
    chain = clock.chain()
    assert chain is not None and chain.source == "compiled chain (Numba)"
    x = SEED >> 1
    for name, step in (("square", lambda x: x * x), ("mix", lambda x: x ^ (x >> 7)), ("shift", lambda x: x >> 7)):
        expected = ctypes.c_int64(step(x) + 0x2545F4914F6CDD1D).value
        assert clock._compiled()[name](1, SEED) == expected
    assert 1e8 < max(chain.read_hz() for _ in range(20)) < 1e10


def test_code_that_computes_something_else_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "expected", lambda step, passes: 0)
    if HERE in clock.CODES:
        assert clock._machine_code_chain(HERE) == "the chain returned a wrong number"
    assert clock._machine_code_chain("riscv64") == "no chain is written for riscv64"


def test_the_clock_is_read_on_linux_only(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    monkeypatch.setattr(clock.sys, "platform", "darwin")
    assert clock.chain() is None
    assert clock.from_chain().reason == "the clock is measured on Linux only"
    assert clock.from_perf().hz is None


def test_no_memory_is_writable_and_executable() -> None:
    clock.chain()
    maps = Path(f"/proc/{os.getpid()}/maps").read_text().splitlines()
    assert not [line for line in maps if "kit-clock" in line and "w" in line.split()[1]]
