"""How fast this core reads working sets of several sizes: bytes per second in order, seconds per dependent load in random order.

A network slows down by what it touches, and the levels of the memory hierarchy slow down one by one: a core's own caches with its
clock, the shared cache and the memory with the neighbours. Two loops of machine code show each level, called like the chains of
:mod:`kit.devices.clock`:

=========  ==========================================  ==========================================================================
loop       instruction                                 what it measures
=========  ==========================================  ==========================================================================
read       32-byte loads (x86_64, AVX), pairs of       bandwidth: the loads are independent, the prefetchers help
           16-byte loads (aarch64), in order
chase      a load whose address is the load before it  latency: a random cycle through all cache lines of the set, one at a time
=========  ==========================================  ==========================================================================

The memory lies on huge pages where the kernel grants them, so that a set's pages are few and address translation is a small part of
the latency. Both loops read; nothing is written while time runs. Where the machine has no loop here (another architecture, an x86
without AVX, executable memory refused), reading is timed through NumPy and the latency is unknown.

The aarch64 loops were assembled and compared with an assembler's bytes, and are untested on hardware.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from kit.devices import clock
from kit.packed import Series
from kit.records import WorkingSet

KIB, MIB = 1 << 10, 1 << 20
#: From inside an L1 cache to beyond every cache, bytes.
SIZES_BYTES = (32 * KIB, 128 * KIB, 512 * KIB, 2 * MIB, 8 * MIB, 32 * MIB, 128 * MIB, 256 * MIB)
LINE_BYTES = 64
BLOCK_BYTES = 256  # what one pass of the read loop takes
REPEATS = 15
READ_BYTES = 48 * MIB  # read between two looks at the timer: 0.3 ms inside an L1 cache, some 5 ms beyond all of them
CHASE_LOADS = 20_000  # followed between two looks: 25 us inside an L1 cache, 2 ms beyond all of them
HUGE_PAGE = 2 << 20
MEMORY_SHARE = 0.25  # of the free memory: a larger set is left out

Read = Callable[[int, int, int], None]  # (address, blocks, passes): reads that many blocks of BLOCK_BYTES in order
Chase = Callable[[int, int], int]  # (loads, address): follows that many pointers, returns the last


@dataclass(frozen=True)
class Loops:
    """How sets are read here: ``read`` in order, ``chase`` in dependent order; None where the machine has no loop of its own."""

    source: str
    read: Read
    chase: Chase | None


def x86_read() -> bytes:
    """``f(rdi address, rsi blocks, rdx passes)``: eight 32-byte loads a block into eight registers."""
    loads = b"".join(b"\xc5\xfc\x10" + bytes([0x80 | i << 3]) + struct.pack("<i", 32 * i) for i in range(8))
    block = loads + b"\x48\x05" + struct.pack("<i", BLOCK_BYTES) + b"\x48\xff\xc9"  # add rax, 256; dec rcx
    block += b"\x0f\x85" + struct.pack("<i", -(len(block) + 6))  # jnz
    once = b"\x48\x89\xf8\x48\x89\xf1" + block + b"\x48\xff\xca"  # mov rax, rdi; mov rcx, rsi; ...; dec rdx
    return once + b"\x0f\x85" + struct.pack("<i", -(len(once) + 6)) + b"\xc5\xf8\x77\xc3"  # jnz; vzeroupper; ret


def x86_chase() -> bytes:
    """``f(rdi loads, rsi address)``: rsi = [rsi], ``loads`` times; returns rsi."""
    body = b"\x48\x8b\x36\x48\xff\xcf"  # mov rsi, [rsi]; dec rdi
    return body + b"\x75" + struct.pack("<b", -(len(body) + 2)) + b"\x48\x89\xf0\xc3"  # jnz; mov rax, rsi; ret


def arm_read() -> bytes:
    """``f(x0 address, x1 blocks, x2 passes)``: eight pairs of 16-byte loads a block."""
    registers = (0, 2, 4, 6, 16, 18, 20, 22)  # v8 to v15 are the caller's
    loads = [0xACC10060 | (q + 1) << 10 | q for q in registers]  # ldp q, q+1, [x3], #32
    block = [*loads, 0xF1000484, _back(len(loads) + 1)]  # subs x4, x4, #1; b.ne
    once = [0xAA0003E3, 0xAA0103E4, *block, 0xF1000442]  # mov x3, x0; mov x4, x1; ...; subs x2, x2, #1
    words = [*once, _back(len(once)), 0xD65F03C0]  # b.ne; ret
    return struct.pack(f"<{len(words)}I", *words)


def _back(words: int) -> int:
    """``b.ne`` over that many instructions back."""
    return 0x54000001 | (-words & 0x7FFFF) << 5


def arm_chase() -> bytes:
    """``f(x0 loads, x1 address)``: x1 = [x1], ``loads`` times; returns x1."""
    words = [0xF9400021, 0xF1000400, _back(2), 0xAA0103E0, 0xD65F03C0]  # ldr x1, [x1]; subs; b.ne; mov x0, x1; ret
    return struct.pack(f"<{len(words)}I", *words)


CODES: dict[str, tuple[bytes, bytes]] = {"x86_64": (x86_read(), x86_chase()), "aarch64": (arm_read(), arm_chase())}


def loops(*, avx: bool, machine: str | None = None) -> Loops:
    """The loops of this machine; NumPy's own reading where there are none. ``avx`` says whether an x86 processor has it."""
    machine = machine or platform.machine()
    if machine not in CODES or (machine == "x86_64" and not avx) or sys.maxsize < 2**32:
        return Loops("numpy", _numpy_read, None)
    try:
        read, chase = (clock.executable(code) for code in CODES[machine])
    except OSError:
        return Loops("numpy", _numpy_read, None)
    # PYFUNCTYPE keeps the interpreter's lock: handing it over would cost more than a short loop takes.
    return Loops(
        "machine code",
        ctypes.PYFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)(read),
        ctypes.PYFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)(chase),
    )


def _numpy_read(address: int, blocks: int, passes: int) -> None:
    values = np.ctypeslib.as_array((ctypes.c_float * (blocks * BLOCK_BYTES // 4)).from_address(address))
    for _ in range(passes):
        values.max()


def sizes(free_bytes: int) -> tuple[int, ...]:
    """The sizes of which a machine with that much free memory should take one, bytes."""
    return tuple(size for size in SIZES_BYTES if size <= free_bytes * MEMORY_SHARE)


def measure(
    with_: Loops, sizes_bytes: Sequence[int], *, seed: int = 0, repeats: int = REPEATS
) -> tuple[WorkingSet, ...]:
    """Time reading and chasing sets of each size, all of them ``repeats`` times, in turns, so that a disturbance hits all alike.

    The largest set's memory is taken once and its beginning serves the smaller ones. Takes about two seconds with all sizes.
    """
    memory = aligned((max(sizes_bytes) // 4,))
    base = memory.ctypes.data
    reads: dict[int, list[int]] = {size: [] for size in sizes_bytes}
    for _ in range(repeats):
        for size in sizes_bytes:
            reads[size].append(_read_ns(with_.read, base, size))
    chases = _chases(with_.chase, memory, sizes_bytes, seed, repeats) if with_.chase else {}
    return tuple(
        WorkingSet(
            size_bytes=size,
            source=with_.source,
            read_passes=_passes(size),
            read_ns=Series(reads[size]),
            chase_loads=CHASE_LOADS if chases else None,
            chase_ns=Series(chases[size]) if chases else None,
        )
        for size in sizes_bytes
    )


def _passes(size_bytes: int) -> int:
    return max(1, READ_BYTES // size_bytes)


def _read_ns(read: Read, base: int, size_bytes: int) -> int:
    blocks = size_bytes // BLOCK_BYTES
    read(base, blocks, 1)  # finds its caches
    start = perf_counter_ns()
    read(base, blocks, _passes(size_bytes))
    return perf_counter_ns() - start


def _chases(
    chase: Chase, memory: NDArray[np.float32], sizes_bytes: Sequence[int], seed: int, repeats: int
) -> dict[int, list[int]]:
    """Nanoseconds of :data:`CHASE_LOADS` dependent loads, by size. Sets lie one over the other, so one size is done before the next."""
    times: dict[int, list[int]] = {}
    for size in sizes_bytes:
        place = _cycle(memory, size, np.random.default_rng((seed, size)))
        place = chase(min(size // LINE_BYTES, 1 << 19), place)  # finds its caches
        times[size] = []
        for _ in range(repeats):
            start = perf_counter_ns()
            place = chase(CHASE_LOADS, place)
            times[size].append(perf_counter_ns() - start)
    return times


def _cycle(memory: NDArray[np.float32], size_bytes: int, rng: np.random.Generator) -> int:
    """Write one random cycle through all lines of the first ``size_bytes``; returns the address of a line of it."""
    lines = memory[: size_bytes // 4].view(np.uint64).reshape(-1, LINE_BYTES // 8)
    order = rng.permutation(len(lines)).astype(np.uint64)
    addresses = np.uint64(memory.ctypes.data) + order * np.uint64(LINE_BYTES)
    lines[order, 0] = np.roll(addresses, -1)
    return int(addresses[0])


def aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A float32 array of ones that starts on a huge page's boundary."""
    size = int(np.prod(shape)) * 4
    room = mmap.mmap(-1, (size // HUGE_PAGE + 2) * HUGE_PAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(room)) % HUGE_PAGE
    with suppress(AttributeError, OSError):
        room.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(room, dtype=np.float32, count=size // 4, offset=start).reshape(shape)
    array[...] = 1.0
    return array
