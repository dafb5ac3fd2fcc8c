"""The runtimes behind one interface. Only :func:`load` imports a leaf, so a missing runtime costs nothing.

A leaf is a module with two functions; ``mode`` names the flavour of its runtime::

    probe(mode) -> Probe                                     version, or why it cannot be had here
    open(path, artifact, threads, mode, batch) -> Session    a loaded network

and a :class:`Session` runs. ``run`` copies and is for correctness; ``prepare`` gives the call that the stopwatch times: it
returns when the work is complete, never times itself and never copies differently from call to call. A new backend is one
leaf and one line in :data:`LEAVES`; the conformance test in tests/test_backends.py runs on every backend that the machine
has. docs/backends.md says what is inside the timed call of each.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from kit import trust, versions
from kit.backends import onnxdata
from kit.backends.feeds import Feeds as Feeds
from kit.backends.feeds import make_feeds as make_feeds
from kit.backends.feeds import unpacked
from kit.errors import BackendUnavailable, IntegrityError, UnknownName, UsageError, first_line
from kit.records import Artifact, Layers, TensorSpec

Target = Literal["cpu", "gpu"]
_ORT_GPU = "in place of onnxruntime (on a Jetson: NVIDIA's wheel)."
_CUDA = "install a torch build with CUDA on a machine with an NVIDIA GPU and its driver."


@dataclass(frozen=True)
class Leaf:
    """Where a backend lives, which module its runtime is, what installs it, and the flavour of the runtime.

    ``fix`` is a sentence with what to do; where ``distribution`` names a package, after the command that installs it.
    ``target`` is the processor that it times. ``tried`` says whether it has run on such a device, or was written after the
    documentation of its interface and tested on an emulation of it. ``forks``: a process that has imported the runtime, and
    done nothing with it, may fork, and its children run networks.
    """

    module: str
    runtime: str | None
    fix: str
    mode: str = ""
    target: Target = "cpu"
    tried: bool = True
    forks: bool = False
    distribution: str | None = None

    @property
    def remedy(self) -> str:
        """What makes the backend usable here: the command, and what it needs besides."""
        if self.distribution is None:
            return self.fix
        return f"{versions.install(self.distribution)}{' ' * bool(self.fix)}{self.fix or '.'}"


_ORT, _PYTORCH = "kit.backends.onnxrt", "kit.backends.pytorch"
LEAVES = {
    "onnxruntime": Leaf(
        _ORT,
        "onnxruntime",
        "(on a Jetson: NVIDIA's onnxruntime-gpu wheel).",
        "cpu",
        forks=True,
        distribution="onnxruntime",
    ),
    "onnxruntime-cuda": Leaf(_ORT, "onnxruntime", _ORT_GPU, "cuda", "gpu", tried=False, distribution="onnxruntime-gpu"),
    "onnxruntime-tensorrt": Leaf(
        _ORT,
        "onnxruntime",
        f"{_ORT_GPU} It also needs TensorRT's libraries.",
        "tensorrt",
        "gpu",
        tried=False,
        distribution="onnxruntime-gpu",
    ),
    "onnxruntime-openvino": Leaf(
        _ORT, "onnxruntime", "in place of onnxruntime.", "openvino", distribution="onnxruntime-openvino"
    ),
    "onnxruntime-xnnpack": Leaf(
        _ORT,
        "onnxruntime",
        "build onnxruntime with --use_xnnpack.",
        "xnnpack",
        tried=False,
    ),
    "openvino": Leaf("kit.backends.openvino_rt", "openvino", "", distribution="openvino"),
    "pytorch": Leaf(_PYTORCH, "torch", "", "eager", forks=True, distribution="torch"),
    "pytorch-compile": Leaf(
        _PYTORCH, "torch", "and a C++ compiler (apt install g++).", "compile", distribution="torch"
    ),
    "pytorch-cuda": Leaf(_PYTORCH, "torch", _CUDA, "cuda", "gpu", tried=False),
    "pytorch-cudagraphs": Leaf(_PYTORCH, "torch", _CUDA, "cudagraphs", "gpu", tried=False),
    "tensorrt": Leaf(
        "kit.backends.tensorrt_rt",
        "tensorrt",
        "(a Jetson brings its own).",
        "",
        "gpu",
        tried=False,
        distribution="tensorrt",
    ),
    "allocator": Leaf("kit.allocators.runtime", None, "it ships with kit; numba compiles it.", forks=True),
    "allocator-numpy": Leaf("kit.allocators.runtime", None, "it ships with kit.", "numpy", forks=True),
    "fake": Leaf("kit.backends.fake", None, "it ships with kit.", forks=True),
}


@dataclass(frozen=True)
class Probe:
    """``version`` when the runtime is usable; else ``reason`` and ``fix``, the command that would make it so."""

    version: str | None
    reason: str | None = None
    fix: str | None = None

    @property
    def available(self) -> bool:
        """Whether the runtime can measure here."""
        return self.version is not None


class Session(Protocol):
    """A loaded network with fixed input shapes."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...]  # what a reader of its times must know: precision computed in, share of the graph taken

    def run(self, feeds: Feeds) -> list[NDArray[Any]]:
        """One inference; returns the outputs in order when the work is complete. All copies to and from a device included."""
        ...

    def prepare(self, feeds: Feeds) -> Callable[[], Any]:
        """The bare call that is timed; returns when the work is complete. On a GPU the inputs lie there already and the outputs
        stay there: launch and synchronise are inside, copies are not."""
        ...

    @property
    def device_ns(self) -> Callable[[int], float] | None:
        """GPU only, after ``prepare``: run the prepared call ``loops`` times without waiting between them, and return the
        nanoseconds between two device events around them all."""
        ...

    def layers(self, feeds: Feeds, calls: int) -> Layers:
        """Times per node over ``calls`` calls of a second, profiled session. Raises UsageError where the runtime reports none."""
        ...

    def gpu_memory(self) -> dict[str, int] | None:
        """``allocated_bytes`` that this process holds on the GPU (NVML's count of it, else the runtime's own), and what else the
        runtime counts, by name; None on a CPU or where nothing is counted."""
        ...

    def close(self) -> None:
        """Free what the runtime holds."""
        ...


class LeafModule(Protocol):
    """What a runtime's module offers."""

    def probe(self, mode: str) -> Probe:
        """Whether the runtime can run here, and why not."""
        ...

    def open(self, path: Path, artifact: Artifact | None, threads: int, mode: str, batch: int | None) -> Session:
        """A session of the model at ``path``. Raises BadModel, BackendUnavailable, UsageError."""
        ...


@dataclass(frozen=True)
class Backend:
    """One name of :data:`LEAVES` with its leaf imported."""

    name: str
    leaf: LeafModule

    @property
    def target(self) -> Target:
        """The processor that it times, for the choice of telemetry."""
        return LEAVES[self.name].target

    def probe(self) -> Probe:
        """Load the runtime's module and ask it."""
        availability = self.leaf.probe(LEAVES[self.name].mode)
        return (
            availability
            if availability.available
            else replace(availability, fix=availability.fix or LEAVES[self.name].remedy)
        )

    def open(self, path: Path, artifact: Artifact | None, threads: int, batch: int | None = None) -> Session:
        """The network in ``path``, ready to run on ``threads`` threads. ``batch`` fixes a free batch dimension (default 1).

        Raises BadModel when ``path`` is no usable model, UsageError when this runtime cannot run this artifact or the batch is
        another one, BackendUnavailable when the device does not take part, UntrustedPackage when this runtime could run code of
        a file that came over a link.
        """
        program = artifact.torch_program if artifact else None
        for file in (path, path.parent / program.file) if program else (path,):
            trust.refuse_install(self.name, file)
        if self.name in trust.ONNX_BACKENDS:
            _refuse_unlisted(path, artifact)
        return self.leaf.open(path, artifact, threads, LEAVES[self.name].mode, batch)


def _refuse_unlisted(path: Path, artifact: Artifact | None) -> None:
    """Every file of weights that the model names has to be one whose hash the artifact holds. Raises BadModel, IntegrityError."""
    names = onnxdata.files_of(path) if path.is_file() else ()
    if artifact is not None and (unlisted := sorted(set(names) - {file.file for file in artifact.data})):
        raise IntegrityError(
            f"{path} keeps weights in {unlisted[0]}, which its sidecar does not list: make the sidecar again with kit describe {path}"
        )


def load(name: str) -> Backend:
    """Backend ``name`` with its leaf imported. Raises UnknownName, or BackendUnavailable with the command that installs it."""
    if name not in LEAVES:
        raise UnknownName("backend", name, LEAVES)
    try:
        leaf = cast(LeafModule, importlib.import_module(LEAVES[name].module))
    except ImportError as error:
        raise BackendUnavailable(f"Backend {name} is not available ({error}): {LEAVES[name].remedy}") from None
    return Backend(name, leaf)


def probe(name: str) -> Probe:
    """Like the backend's own ``probe``, also where its leaf cannot be imported."""
    try:
        return load(name).probe()
    except BackendUnavailable as error:
        fix = LEAVES[name].remedy
        return Probe(None, str(error).removesuffix(f": {fix}") + ".", fix)


def require(name: str) -> None:
    """Check that backend ``name`` can be had here without importing its runtime: the parent of a measurement stays light.

    Whether the runtime also finds its device shows when a session is opened. Raises UnknownName, BackendUnavailable.
    """
    if name not in LEAVES:
        raise UnknownName("backend", name, LEAVES)
    runtime = LEAVES[name].runtime
    if runtime and importlib.util.find_spec(runtime) is None:
        raise BackendUnavailable(f"Backend {name} is not installed: {LEAVES[name].remedy}")


def is_torch(name: str) -> bool:
    """Whether backend ``name`` runs PyTorch programs (.pt2) and no ONNX files.

    >>> is_torch("pytorch-compile"), is_torch("onnxruntime")
    (True, False)
    """
    return name in LEAVES and LEAVES[name].module == LEAVES["pytorch"].module


def check_batch(path: Path, inputs: Sequence[TensorSpec], batch: int | None, artifact: Artifact | None = None) -> None:
    """Raises UsageError when ``batch`` is set and the network's own, fixed batch is another.

    ``inputs`` are the session's; the artifact knows which first dimension is time.
    """
    own = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    over_time = artifact is not None and artifact.batch != own and tuple(inputs) == artifact.inputs
    if batch is not None and batch != (artifact.batch if artifact is not None and over_time else own):
        raise UsageError(
            f"{path} has the fixed batch {own}, not {batch}: export it for that batch (kit export NAME --batch {batch})."
        )


def _read_sample(path: Path, inputs: Sequence[TensorSpec]) -> tuple[Feeds, NDArray[Any]]:
    """Inputs by name and promised outputs; objects, which would have to be unpickled, are refused with everything that is no .npz."""
    try:
        sample = unpacked(path)
        promised = sample.pop("output")
        feeds = {inputs[0].name: sample["input"]} if len(inputs) == 1 else {i.name: sample[i.name] for i in inputs}
        return feeds, promised
    except Exception as error:  # what a file from a link can raise has no list
        reason = first_line(error)
        raise IntegrityError(
            f"{path.name} is no sample of plain numbers ({reason}): refused; add the package again."
        ) from None


def _sample_outputs(session: Session, feeds: Feeds) -> tuple[NDArray[Any], int]:
    """The first output, and for how many inputs: one call, or of a network of one input as many as the sample holds batches."""
    (name, array), *others = feeds.items()
    shape = session.inputs[0].shape
    if others or array.shape == shape or not shape or not shape[0]:
        return session.run(feeds)[0], 1
    parts = [session.run({name: array[i : i + shape[0]]})[0] for i in range(0, len(array), shape[0])]
    return np.concatenate(parts), len(array)


def run_sample(path: Path, artifact: Artifact, backend: str = "onnxruntime") -> str:
    """Run the model on the sample that travels with it and compare the logits with the promised ones.

    Returns a sentence with what was compared. Raises IntegrityError when they differ: other kernels may round differently (a
    thousandth of the largest logit for floats, a twentieth for integers), but not answer differently.
    """
    if artifact.sample is None:
        return "no sample in the package: nothing was compared"
    session = load(backend).open(path, artifact, threads=1)
    feeds, promised = _read_sample(path.parent / artifact.sample.file, session.inputs)
    computed, count = _sample_outputs(session, feeds)
    session.close()
    if computed.shape != promised.shape:
        raise IntegrityError(
            f"{path.name} gives {list(computed.shape)} for its own sample and promised {list(promised.shape)}: it was not installed."
        )
    difference = np.abs(computed.astype(np.float64) - promised.astype(np.float64))
    error = float(difference.max(initial=0.0) / max(float(np.abs(promised).max(initial=0.0)), 1e-12))
    limit = 1e-3 if artifact.precision == "fp32" else 5e-2
    same = computed.ndim < 2 or not computed.size or bool((computed.argmax(-1) == promised.argmax(-1)).all())
    if not np.isfinite(error) or error > limit or not same:
        raise IntegrityError(
            f"{path.name} does not answer its own sample as promised (relative error {error:.2g}): it was not installed."
        )
    return f"{count} sample inputs, largest relative difference {error:.2g}, same answers"
