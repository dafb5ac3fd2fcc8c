"""The core clock where no sensor reports it: count cycles by instructions whose latency is known.

A chain of dependent instructions takes its length times its latency in cycles, whatever else the core could do meanwhile.
Two chains of different latency must agree within 2 %, so the method checks itself: on a core where a latency is another
one, or where a front end folds a chain, they disagree and the clock is unknown. Chains are machine code in executable
memory, called through ctypes: a board needs no compiler, and no compiler can fold them.

=========  =================================  =======  ========================================================================
machine    instruction                        cycles   holds on
=========  =================================  =======  ========================================================================
x86_64     ``imul rax, rsi``                  3        Intel since Nehalem, AMD since Zen (not Silvermont, not Bulldozer)
x86_64     ``ror rax, 7``                     1        the same; renaming never rotates (it does fold moves and added constants)
aarch64    ``add x2, x1, x2, lsr #7``         2        Cortex-A53, A55, A57, A72, A76, A78 (AE), Neoverse N1, V1
aarch64    ``add x2, x2, x1``                 1        the same
=========  =================================  =======  ========================================================================

Sources for Arm: LLVM's AArch64SchedA53.td, -A57.td and -NeoverseN1.td, and the tables of Arm's optimization guides for later cores; A72,
A76 and A78 follow from their siblings A57, N1 and V1 and were not looked up one by one. For x86: the figures that Agner Fog's tables are
known for, measured here on an AMD family 26. On the core at hand the agreement of the two chains decides.
Multiplications do not serve on Arm: a 64-bit one takes 4 cycles on an N1, 5 on an A57, where these two are the same.

Where executable memory is refused (SELinux, a hardened kernel), Numba compiles chains when it is installed. Where the kernel
grants its cycle counter (perf_event_open), that is more reliable and needs no latency. Order of trust for users:
hardware counter, then what firmware measures (:mod:`kit.devices.telemetry`), then the chain.

The x86 chains, and the two that Numba compiles, ran on a virtual machine and agreed within 0.1 %. The aarch64 chains were
assembled, compared byte by byte, and run under emulation, where they return the right numbers and no time means anything:
untested on hardware. So is the cycle counter, which that virtual machine does not have.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from time import perf_counter_ns
from typing import Any

MASK = (1 << 64) - 1
SEED = 0x9E3779B97F4A7C15
LINKS = 250  # instructions per pass of the loop: its branch then costs an in-order core less than 1 %
CYCLES = 192_000  # of one reading: 50 microseconds at 3.8 GHz
AGREEMENT = 0.02
REPEATS = 20
SETTLE_NS = 30_000_000  # governors raise the clock of a core that was idle within some 10 ms
NUMBA_CYCLES = 240_000  # divides by every latency below

Body = Callable[[int, int], int]  # (passes, seed) -> the chain's last value


@dataclass(frozen=True)
class ClockReading:
    """Core clock in hertz while busy, and its source; None and the reason where it is unknown."""

    hz: float | None
    source: str
    reason: str | None = None


@dataclass(frozen=True)
class Links:
    """One chain: ``body(passes, seed)`` takes ``passes * cycles_per_pass`` cycles, and a call costs ``overhead_ns`` more."""

    body: Body
    passes: int
    cycles_per_pass: int
    overhead_ns: float = 0.0

    def elapsed_ns(self, passes: int) -> int:
        """Nanoseconds of a chain of so many links."""
        start = perf_counter_ns()
        self.body(passes, SEED)
        return perf_counter_ns() - start

    def read_hz(self) -> float:
        """The clock by one timing of the chain."""
        return self.passes * self.cycles_per_pass / max(1.0, self.elapsed_ns(self.passes) - self.overhead_ns) * 1e9


@dataclass(frozen=True)
class Chain:
    """Two chains of different latency: ``first`` is read, ``second`` contradicts it where a latency is not the expected one."""

    source: str
    first: Links
    second: Links

    def read_hz(self) -> float:
        """Core clock in hertz by one reading of about 50 microseconds; an interruption makes it too low, nothing too high."""
        return self.first.read_hz()


# --------------------------------------------------------------------------------------------------------- machine code


def x86_code(link: bytes) -> bytes:
    """``f(rdi passes, rsi seed)``: rax = seed, LINKS times ``link`` on rax per pass, return rax."""
    body = link * LINKS + b"\x48\xff\xcf"  # dec rdi
    back = -(len(body) + 6)
    return b"\x48\x89\xf0" + body + b"\x0f\x85" + struct.pack("<i", back) + b"\xc3"  # mov rax, rsi; jnz; ret


def arm_code(link: int) -> bytes:
    """``f(x0 passes, x1 seed)``: x2 = seed, LINKS times ``link`` on x2 per pass, return x2."""
    back = 0x54000001 | (-(LINKS + 1) & 0x7FFFF) << 5  # b.ne
    words = [
        0xAA0103E2,
        *[link] * LINKS,
        0xF1000400,
        back,
        0xAA0203E0,
        0xD65F03C0,
    ]  # mov x2, x1; subs x0, x0, #1; mov; ret
    return struct.pack(f"<{len(words)}I", *words)


def multiply(value: int, seed: int) -> int:
    """What one link computes: a multiplication of 64 bits."""
    return value * seed & MASK


def rotate(value: int, seed: int) -> int:
    """What one link computes: a rotation to the right by seven bits."""
    return value >> 7 | value << 57 & MASK


def add(value: int, seed: int) -> int:
    """What one link computes: an addition of 64 bits."""
    return value + seed & MASK


def add_shifted(value: int, seed: int) -> int:
    """What one link computes: an addition of a shifted value."""
    return seed + (value >> 7) & MASK


#: machine -> (code, cycles per instruction, what one instruction computes) of its two chains
CODES: dict[str, tuple[tuple[bytes, int, Callable[[int, int], int]], ...]] = {
    "x86_64": ((x86_code(b"\x48\x0f\xaf\xc6"), 3, multiply), (x86_code(b"\x48\xc1\xc8\x07"), 1, rotate)),
    "aarch64": ((arm_code(0x8B421C22), 2, add_shifted), (arm_code(0x8B010042), 1, add)),
}


def expected(step: Callable[[int, int], int], passes: int) -> int:
    """What a chain returns: a wrong number means that the code did not run as written."""
    value = SEED
    for _ in range(passes * LINKS):
        value = step(value, SEED)
    return value


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


def executable(code: bytes) -> int:
    """The address of ``code`` in memory that may be executed and not written; it stays for the life of the process.

    Never writable and executable at once, which hardened kernels refuse; the kernel makes the instruction cache of an Arm
    core coherent when it maps a page for execution. Raises OSError where both ways are refused.
    """
    try:
        return _from_file(code)
    except (OSError, AttributeError):
        return _from_anonymous(code)


def _from_file(code: bytes) -> int:
    handle = os.memfd_create("kit-clock")
    try:
        os.write(handle, code)
        return _mapped(len(code), mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, handle)
    finally:
        os.close(handle)


def _from_anonymous(code: bytes) -> int:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = _mapped(len(code), mmap.PROT_READ | mmap.PROT_WRITE, flags, -1)
    ctypes.memmove(address, code, len(code))
    if _libc().mprotect(address, len(code), mmap.PROT_READ | mmap.PROT_EXEC) != 0:
        error = ctypes.get_errno()
        _libc().munmap(address, len(code))
        raise OSError(error, os.strerror(error))
    return address


def _mapped(size: int, protection: int, flags: int, handle: int) -> int:
    address: int | None = _libc().mmap(None, size, protection, flags, handle, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return address


def _machine_code_chain(machine: str) -> Chain | str:
    if machine not in CODES:
        return f"no chain is written for {machine}"
    if sys.maxsize < 2**32:
        return "a 32-bit Python cannot call 64-bit code"
    links = []
    for code, cycles, step in CODES[machine]:
        try:
            address = executable(code)
        except OSError as error:
            return f"this system refuses executable memory ({error.strerror})"
        # PYFUNCTYPE keeps the interpreter's lock: handing it over would cost more than the loop's own overhead.
        body = ctypes.PYFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)(address)
        if body(2, SEED) != expected(step, 2):
            return "the chain returned a wrong number"
        links.append(_with_overhead(Links(body, CYCLES // (LINKS * cycles), LINKS * cycles)))
    return Chain("chain of dependent instructions", *links)


def _with_overhead(links: Links) -> Links:
    """``links`` with the cost of a call: n and 2n passes differ by n passes, so twice the short minus the long is overhead."""
    short, long = (min(links.elapsed_ns(n) for _ in range(REPEATS)) for n in (8, 16))
    return Links(links.body, links.passes, links.cycles_per_pass, max(0.0, 2.0 * short - long))


# ---------------------------------------------------------------------------------------------------------------- Numba


def _numba_chain(machine: str) -> Chain | str:
    """The same idea compiled: operations that LLVM keeps in order, because each mixes shifts or products with sums."""
    if machine not in CODES:
        return f"no chain is written for {machine}"
    try:
        bodies = _compiled()
    except ImportError:
        return "Numba is not installed"
    except Exception as error:  # a broken LLVM or a read-only home says so in many ways
        return f"Numba cannot stand in: {type(error).__name__}"
    loops = {"x86_64": (("square", 4), ("mix", 3)), "aarch64": (("shift", 2), ("turn", 3))}[machine]
    links = [_with_overhead(Links(bodies[name], NUMBA_CYCLES // cycles, cycles)) for name, cycles in loops]
    return Chain("compiled chain (Numba)", *links)


@lru_cache(maxsize=1)
def _compiled() -> dict[str, Body]:
    import numba

    compile_: Any = numba.njit("int64(int64, int64)", cache=True)

    def square(passes: int, x: int) -> int:
        for _ in range(passes):
            x = x * x + 0x2545F4914F6CDD1D
        return x

    def mix(passes: int, x: int) -> int:
        for _ in range(passes):
            x = (x ^ (x >> 7)) + 0x2545F4914F6CDD1D
        return x

    def shift(passes: int, x: int) -> int:
        for _ in range(passes):
            x = 0x2545F4914F6CDD1D + (x >> 7)
        return x

    def turn(passes: int, x: int) -> int:
        for _ in range(passes):
            x = (0x2545F4914F6CDD1D + (x >> 7)) ^ 0x1B873593CC9E2D51
        return x

    return {f.__name__: _signed(compile_(f)) for f in (square, mix, shift, turn)}


def _signed(body: Any) -> Body:
    return lambda passes, seed: body(passes, seed >> 1)


# ------------------------------------------------------------------------------------------------------- perf_event_open


class _PerfAttributes(ctypes.Structure):
    """struct perf_event_attr of linux/perf_event.h in its first published size (64 bytes)."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("bp_addr", ctypes.c_uint64),
    )


PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
PERF_FORMAT_TIMES = 1 | 2  # total time enabled, total time running
PERF_EXCLUDE_KERNEL_AND_HYPERVISOR = 1 << 5 | 1 << 6
COUNTER = "hardware cycle counter"


@contextmanager
def _cycle_counter() -> Iterator[Callable[[], tuple[int, int, int]]]:
    """A function that reads (cycles in user code, ns enabled, ns counted) of this thread. Raises OSError where it is refused."""
    number = PERF_EVENT_OPEN.get(platform.machine())
    if number is None or sys.maxsize < 2**32 or not sys.platform.startswith("linux"):
        raise OSError(0, "perf_event_open is known on 64-bit x86 and Arm Linux only")
    attributes = _PerfAttributes(
        size=ctypes.sizeof(_PerfAttributes),
        read_format=PERF_FORMAT_TIMES,
        flags=PERF_EXCLUDE_KERNEL_AND_HYPERVISOR,
    )
    arguments = [
        ctypes.c_long(number),
        ctypes.byref(attributes),
        0,
        -1,
        -1,
        ctypes.c_ulong(8),
    ]  # this thread, any CPU, cloexec
    handle = _libc().syscall(*arguments)
    if handle < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        yield lambda: struct.unpack("<3Q", os.read(handle, 24))
    finally:
        os.close(handle)


def counter_hz(readings: list[tuple[int, int, int]]) -> float | None:
    """The highest clock between successive readings of the cycle counter, in hertz; None where it did not count.

    A counter that had to share its register counts a part of the time: both its cycles and its nanoseconds are of that part.
    The kernel's own work is in the nanoseconds and not in the cycles: below 1 % over 250 microseconds, never too high.
    """
    rates = []
    for (cycles, _, ran), (cycles_after, _, ran_after) in pairwise(readings):
        if ran_after > ran and cycles_after > cycles:
            rates.append((cycles_after - cycles) / (ran_after - ran) * 1e9)
    return max(rates, default=None)


def from_perf() -> ClockReading:
    """The core clock by the kernel's cycle counter over some 35 ms of busy user code; never raises."""
    readings = []
    try:
        with _cycle_counter() as read:
            _spin(SETTLE_NS)
            for _ in range(REPEATS):
                readings.append(read())
                _spin(250_000)
    except OSError as error:
        return ClockReading(None, COUNTER, f"the kernel refuses its cycle counter ({error.strerror})")
    hz = counter_hz(readings)
    return ClockReading(hz, COUNTER, None if hz else "the cycle counter stands still: this machine does not pass it on")


def _spin(ns: int) -> None:
    until = perf_counter_ns() + ns
    while perf_counter_ns() < until:
        sum(range(500))


# ------------------------------------------------------------------------------------------------------------- readings


@lru_cache(maxsize=1)
def _chain_or_reason() -> Chain | str:
    """This machine's chain, built once: machine code, else Numba, else why not."""
    if not sys.platform.startswith("linux"):
        return "the clock is measured on Linux only"
    machine_code = _machine_code_chain(platform.machine())
    if not isinstance(machine_code, str):
        return machine_code
    compiled = _numba_chain(platform.machine())
    return f"{machine_code}; {compiled}" if isinstance(compiled, str) else compiled


def chain() -> Chain | None:
    """This machine's chain for cheap readings (built once), or None; :func:`measure` says why, and whether it can be trusted."""
    own = _chain_or_reason()
    return None if isinstance(own, str) else own


def agrees(links: Chain, repeats: int = 8) -> bool:
    """Whether both chains give the same clock on this busy core, by the quietest of ``repeats`` readings of each."""
    pairs = [(links.first.read_hz(), links.second.read_hz()) for _ in range(repeats)]
    first, second = (max(values) for values in zip(*pairs, strict=True))
    return bool(abs(first - second) <= AGREEMENT * first)


def from_chain(links: Chain | None = None) -> ClockReading:
    """The core clock by the quietest of 20 readings of each chain after 30 ms of work, if both agree within 2 %; never raises."""
    pair = _chain_or_reason() if links is None else links
    if isinstance(pair, str):
        return ClockReading(None, "chain of dependent instructions", pair)
    until = perf_counter_ns() + SETTLE_NS
    while perf_counter_ns() < until:
        pair.read_hz()
    pairs = [(pair.first.read_hz(), pair.second.read_hz()) for _ in range(REPEATS)]
    first, second = (max(values) for values in zip(*pairs, strict=True))
    if abs(first - second) > AGREEMENT * first:
        difference = f"the two chains say {first / 1e9:.2f} and {second / 1e9:.2f} GHz"
        return ClockReading(
            None, pair.source, f"{difference}: this core's latencies are not the expected ones, or it was disturbed"
        )
    return ClockReading(first, pair.source)


def measure() -> ClockReading:
    """The core clock while busy: by the hardware's cycle counter where the kernel grants it, else by the chains."""
    counted = from_perf()
    if counted.hz is not None:
        return counted
    chained = from_chain()
    if chained.hz is not None:
        return chained
    return ClockReading(None, "unknown", f"{counted.reason}; {chained.reason}")
