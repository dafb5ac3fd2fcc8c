"""The CUDA runtime through ctypes: device memory, one stream, two events, and who the GPU is. Untested on hardware.

ctypes on libcudart, because it is the one way that every GPU board has: a Jetson brings the library with JetPack and has no
torch, and cuda-python's wheels follow CUDA's major version. Only functions whose signatures CUDA 11, 12 and 13 share are called.
"""

from __future__ import annotations

import ctypes
import os
import sysconfig
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit.devices import telemetry
from kit.errors import BackendUnavailable, MeasurementError

TO_DEVICE, FROM_DEVICE = 1, 2  # cudaMemcpyKind
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
NON_BLOCKING = 1  # cudaStreamNonBlocking
MAJOR, MINOR = 75, 76  # cudaDevAttrComputeCapability*
VERSIONS = (13, 12, 11)
FIX = "a GPU backend needs an NVIDIA GPU, its driver and the CUDA runtime (libcudart)"


class Cuda:
    """Device 0. Every call that fails raises MeasurementError in CUDA's words; no memory raises MemoryError."""

    def __init__(self, library: Any) -> None:
        self._library = library
        library.cudaGetErrorString.restype = ctypes.c_char_p

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code == OUT_OF_MEMORY:
            raise MemoryError(f"The GPU has no memory left ({function}).")
        if code != 0:
            message = self._library.cudaGetErrorString(code) or b"unknown error"
            raise MeasurementError(f"CUDA failed in {function}: {message.decode()}.")

    def devices(self) -> int:
        """How many GPUs the CUDA runtime finds."""
        count = ctypes.c_int()
        return count.value if self._library.cudaGetDeviceCount(ctypes.byref(count)) == 0 else 0

    def allocate(self, size_bytes: int) -> int:
        """The address of new device memory."""
        pointer = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(max(size_bytes, 1)))
        return pointer.value or 0

    def free(self, address: int) -> None:
        """Free memory on the GPU."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Copy an array to this address on the GPU."""
        data = np.ascontiguousarray(array)
        self._copy(address, data.ctypes.data, data.nbytes, TO_DEVICE)

    def download(self, array: NDArray[Any], address: int) -> None:
        """Fill ``array``, which must be contiguous, from device memory."""
        self._copy(array.ctypes.data, address, array.nbytes, FROM_DEVICE)

    def _copy(self, to: int, origin: int, size_bytes: int, kind: int) -> None:
        self._call(
            "cudaMemcpy", ctypes.c_void_p(to), ctypes.c_void_p(origin), ctypes.c_size_t(size_bytes), ctypes.c_int(kind)
        )

    def stream(self) -> int:
        """A new stream that does not wait for the default one."""
        handle = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(handle), ctypes.c_uint(NON_BLOCKING))
        return handle.value or 0

    def synchronise(self, stream: int) -> None:
        """Wait for a stream."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def close_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def elapsed_ns(self, stream: int, launch: Callable[[], Any], loops: int) -> float:
        """Device nanoseconds from before the first to after the last of ``loops`` launches on ``stream``."""
        start, end, elapsed_ms = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_float()
        for event in (start, end):
            self._call("cudaEventCreate", ctypes.byref(event))
        try:
            self._call("cudaEventRecord", start, ctypes.c_void_p(stream))
            for _ in range(loops):
                launch()
            self._call("cudaEventRecord", end, ctypes.c_void_p(stream))
            self._call("cudaEventSynchronize", end)
            self._call("cudaEventElapsedTime", ctypes.byref(elapsed_ms), start, end)
        finally:
            for event in (start, end):
                self._library.cudaEventDestroy(event)
        return float(elapsed_ms.value) * 1e6

    def compute_capability(self) -> str:
        """Of the first GPU, such as 8.9."""
        parts = []
        for attribute in (MAJOR, MINOR):
            value = ctypes.c_int()
            self._call("cudaDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), ctypes.c_int(0))
            parts.append(str(value.value))
        return ".".join(parts)

    def runtime_version(self) -> int:
        """The CUDA runtime's version."""
        version = ctypes.c_int()
        self._call("cudaRuntimeGetVersion", ctypes.byref(version))
        return version.value

    def driver_version(self) -> str:
        """The driver's release where the kernel module reports it, else the CUDA version that it serves."""
        release = telemetry.read_text(Path("/sys/module/nvidia/version"))
        if release:
            return release
        version = ctypes.c_int()
        self._call("cudaDriverGetVersion", ctypes.byref(version))
        return f"CUDA {version.value}"


@lru_cache(maxsize=1)
def load() -> Cuda:
    """The CUDA runtime of this machine. Raises BackendUnavailable when there is none or no GPU answers."""
    for name in _candidates():
        try:
            runtime = Cuda(ctypes.CDLL(name))
        except (OSError, AttributeError):
            continue
        if runtime.devices():
            return runtime
        raise BackendUnavailable(f"The CUDA runtime finds no NVIDIA GPU: {FIX}.")
    raise BackendUnavailable(f"There is no CUDA runtime here: {FIX}.")


def missing() -> str | None:
    """Why there is no GPU to run on, or None when there is one."""
    try:
        load()
    except BackendUnavailable as error:
        return str(error)
    return None


def _candidates() -> list[str]:
    """Where libcudart may lie: on the loader's path, in NVIDIA's wheels, under the toolkit's folder."""
    site = Path(sysconfig.get_paths()["platlib"]) / "nvidia"
    folders = (site, Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "lib64")
    files = [str(path) for folder in folders for path in sorted(folder.glob("**/libcudart.so.*"), reverse=True)]
    return [*(f"libcudart.so.{version}" for version in VERSIONS), "libcudart.so.11.0", *files]


def cache_folder(name: str) -> Path:
    """Where engines that were built on this device are stored."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "insitu-kit" / name


def gpu_name() -> str:
    """The GPU's name in the driver's words, through libcuda: a Jetson may lack NVML."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        name, device = ctypes.create_string_buffer(256), ctypes.c_int()
        driver.cuInit(0)
        driver.cuDeviceGet(ctypes.byref(device), 0)
        driver.cuDeviceGetName(name, 256, device)
    except (OSError, AttributeError):
        return "unknown GPU"
    return name.value.decode() or "unknown GPU"


def process_memory() -> dict[str, int] | None:
    """Bytes that this process holds on the GPUs as NVML counts them; None where it does not report them (Jetson, other namespaces)."""
    used = telemetry.gpu_memory_bytes()
    return {"allocated_bytes": used} if used else None
