"""Reading working sets: the loops' bytes and what they do, cycles through memory, and the arithmetic on times that are made up."""

from __future__ import annotations

import ctypes
import platform
import struct

import numpy as np
import pytest

from kit.devices import clock, working_sets
from kit.devices.working_sets import BLOCK_BYTES, LINE_BYTES, MIB
from kit.packed import Series
from kit.records import WorkingSet

HERE = platform.machine()
needs_loops = pytest.mark.skipif(HERE not in working_sets.CODES, reason=f"no loops are written for {HERE}")


def chased(chase: working_sets.Chase, start: int, loads: int) -> list[int]:
    """The addresses after each of ``loads`` loads."""
    places = []
    for _ in range(loads):
        start = chase(1, start)
        places.append(start)
    return places


def test_x86_loops_are_what_the_assembler_makes() -> None:
    read, chase = working_sets.CODES["x86_64"]
    assert read[:14] == bytes.fromhex("4889f84889f1c5fc108000000000")  # mov rax, rdi; mov rcx, rsi; vmovups ymm0, [rax]
    assert read[62:76] == bytes.fromhex("c5fc10b8e0000000480500010000")  # vmovups ymm7, [rax + 224]; add rax, 256
    assert read[76:] == bytes.fromhex(
        "48ffc90f85b1ffffff48ffca0f85a2ffffffc5f877c3"
    )  # dec; jnz; dec; jnz; vzeroupper; ret
    assert chase == bytes.fromhex("488b3648ffcf75f84889f0c3")


def test_arm_loops_are_what_the_assembler_makes() -> None:
    read = struct.unpack("<15I", working_sets.CODES["aarch64"][0])
    assert read[:3] == (0xAA0003E3, 0xAA0103E4, 0xACC10460)  # mov x3, x0; mov x4, x1; ldp q0, q1, [x3], #32
    assert read[6] == 0xACC14470  # ldp q16, q17: v8 to v15 belong to the caller
    assert read[10:] == (0xF1000484, 0x54FFFEE1, 0xF1000442, 0x54FFFE61, 0xD65F03C0)
    chase = struct.unpack("<5I", working_sets.CODES["aarch64"][1])
    assert chase == (0xF9400021, 0xF1000400, 0x54FFFFC1, 0xAA0103E0, 0xD65F03C0)


@needs_loops
def test_a_cycle_visits_every_line_once_and_comes_back() -> None:
    memory = working_sets.aligned((MIB // 4,))
    size = 64 << 10
    start = working_sets._cycle(memory, size, np.random.default_rng(1))
    chase = working_sets.loops(avx=True).chase
    assert chase is not None
    places = chased(chase, start, size // LINE_BYTES)
    base = memory.ctypes.data
    assert sorted(places) == [base + LINE_BYTES * i for i in range(size // LINE_BYTES)]
    assert places[-1] == start
    assert chase(size // LINE_BYTES + 3, start) == places[2]
    steps = np.diff(places)
    assert len(np.unique(steps)) > len(steps) / 4  # no stride that a prefetcher could follow


@needs_loops
def test_the_read_loop_reads_its_blocks_and_nothing_behind_them() -> None:
    """The block behind the last lies on a page that may not be touched."""
    page = 4096
    libc = ctypes.CDLL(None, use_errno=True)
    memory = clock._mapped(2 * page, 3, 0x22, -1)  # readable and writable, private and anonymous
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert libc.mprotect(memory + page, page, 0) == 0
    working_sets.loops(avx=True).read(memory, page // BLOCK_BYTES, 5)


def test_without_machine_code_reading_goes_through_numpy_and_the_latency_is_unknown() -> None:
    for loops in (working_sets.loops(avx=False, machine="x86_64"), working_sets.loops(avx=True, machine="riscv64")):
        assert loops.source == "numpy"
        assert loops.chase is None
        small = working_sets.measure(loops, (32 << 10, 128 << 10), repeats=2)
        assert [s.latency_s for s in small] == [None, None]
        assert all(s.bandwidth_bytes_s > 0 for s in small)


def test_every_size_is_timed_in_turns() -> None:
    sizes = (32 << 10, MIB)
    sets = working_sets.measure(working_sets.loops(avx=True), sizes, repeats=3)
    assert [s.size_bytes for s in sets] == list(sizes)
    assert [s.read_passes * s.size_bytes for s in sets] == [working_sets.READ_BYTES] * 2
    assert all(len(s.read_ns) == 3 for s in sets)


def test_sizes_leave_most_of_the_memory_free() -> None:
    assert working_sets.sizes(24 << 30) == working_sets.SIZES_BYTES
    assert working_sets.sizes(300 * MIB) == (*(32 << 10 << 2 * i for i in range(6)),)
    assert max(working_sets.SIZES_BYTES) == 256 * MIB
    assert len(working_sets.SIZES_BYTES) == 8


def test_bandwidth_and_latency_come_from_the_lower_quartile() -> None:
    sets = WorkingSet(
        size_bytes=1_000_000, source="machine code", read_passes=4,
        read_ns=Series([100_000, 100_000, 200_000, 900_000, 900_000]),
        chase_loads=1000, chase_ns=Series([5_000, 5_000, 9_000, 70_000, 80_000]),
    )  # fmt: skip
    assert sets.bandwidth_bytes_s == pytest.approx(4e6 / 1e-4)
    assert sets.latency_s == pytest.approx(5e-9)


@pytest.mark.parametrize("shape", [(49, 2304), (1,), (1 << 20,), (7, 3, 5)])
def test_arrays_start_on_a_huge_page_and_hold_ones(shape: tuple[int, ...]) -> None:
    array = working_sets.aligned(shape)
    assert array.ctypes.data % working_sets.HUGE_PAGE == 0 and array.shape == shape and array.dtype == np.float32
    assert (array == 1).all() and array.flags.writeable


def test_arrays_do_not_share_their_pages() -> None:
    one, two = working_sets.aligned((1000,)), working_sets.aligned((1000,))
    one[...] = 5
    assert (two == 1).all()
    address = one.ctypes.data
    del two
    assert ctypes.c_float.from_address(address).value == 5  # the mapping lives as long as its array
