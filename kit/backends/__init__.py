"""One runtime per file behind one door. Only :func:`load` imports a leaf, so a missing runtime costs nothing.

A backend is a module with two functions::

    probe() -> Probe                                   version, or why it is missing and how to get it
    open(path, artifact, threads) -> Session           a loaded network

and a session has ``inputs``, ``outputs``, ``run(feeds)`` and ``close()``. ``run`` returns when the work is complete, never times
itself and never copies differently from call to call. A new backend is one file and one line in :data:`LEAVES`; the
conformance test in tests/test_backends.py runs on every backend that the machine has.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from kit.errors import BackendUnavailable, IntegrityError, UnknownName
from kit.records import Artifact, TensorSpec

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Leaf:
    """Where a backend lives, which module its runtime is, and the command that brings it."""

    module: str
    runtime: str | None
    fix: str


LEAVES = {
    "onnxruntime": Leaf(
        "kit.backends.onnxrt",
        "onnxruntime",
        "pip install 'insitu-kit[onnxruntime]' (on a Jetson: NVIDIA's onnxruntime-gpu wheel).",
    ),
    "pytorch": Leaf("kit.backends.pytorch", "torch", "pip install 'insitu-kit[workshop]'."),
    "fake": Leaf("kit.backends.fake", None, "it ships with kit."),
}


@dataclass(frozen=True)
class Probe:
    """``version`` when the runtime is usable; else ``reason`` and ``fix``, the command that would make it so."""

    version: str | None
    reason: str | None = None
    fix: str | None = None

    @property
    def available(self) -> bool:
        return self.version is not None


class Session(Protocol):
    """A loaded network with fixed input shapes."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Feeds) -> list[NDArray[Any]]:
        """One inference; returns the outputs in order when the work is complete."""
        ...

    def close(self) -> None: ...


class Backend(Protocol):
    def probe(self) -> Probe: ...

    def open(self, path: Path, artifact: Artifact | None, threads: int) -> Session:
        """Raises BadModel when ``path`` is no usable model, UsageError when this runtime cannot run this artifact."""
        ...


def load(name: str) -> Backend:
    """The leaf module of backend ``name``. Raises UnknownName, or BackendUnavailable with the command that brings it."""
    if name not in LEAVES:
        raise UnknownName("backend", name, LEAVES)
    try:
        leaf = cast(Backend, importlib.import_module(LEAVES[name].module))
    except ImportError as error:
        raise BackendUnavailable(f"Backend {name} is not available ({error}): {LEAVES[name].fix}") from None
    return leaf


def probe(name: str) -> Probe:
    """Like the leaf's own ``probe``, also where the leaf cannot be imported."""
    try:
        return load(name).probe()
    except BackendUnavailable as error:
        return Probe(None, str(error), LEAVES[name].fix)


def require(name: str) -> None:
    """Check that backend ``name`` can be had here without importing its runtime: the parent of a measurement stays light.

    Raises UnknownName, BackendUnavailable.
    """
    if name not in LEAVES:
        raise UnknownName("backend", name, LEAVES)
    runtime = LEAVES[name].runtime
    if runtime and importlib.util.find_spec(runtime) is None:
        raise BackendUnavailable(f"Backend {name} is not installed: {LEAVES[name].fix}")


def make_feeds(inputs: tuple[TensorSpec, ...], seed: int) -> dict[str, NDArray[Any]]:
    """Inputs of the right shapes: standard normal for floats (no denormals, no zeros to skip), zeros for integers."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, NDArray[Any]] = {}
    for spec in inputs:
        if np.issubdtype(np.dtype(spec.dtype), np.floating):
            feeds[spec.name] = rng.standard_normal(spec.shape).astype(spec.dtype)
        else:
            feeds[spec.name] = np.zeros(spec.shape, dtype=spec.dtype)
    return feeds


def run_sample(path: Path, artifact: Artifact, backend: str = "onnxruntime") -> str:
    """Run the model on the sample that travels with it and compare the logits with the promised ones.

    Returns what was compared, in words. Raises IntegrityError when they differ: other kernels may round differently (a
    thousandth of the largest logit for floats, a twentieth for integers), but not answer differently.
    """
    if artifact.sample is None:
        return "no sample in the package: nothing was compared"
    with np.load(path.parent / artifact.sample.file, allow_pickle=False) as sample:
        given, promised = sample["input"], sample["output"]
    session = load(backend).open(path, artifact, threads=1)
    name, batch = session.inputs[0].name, session.inputs[0].shape[0]
    parts = [session.run({name: given[i : i + batch]})[0] for i in range(0, len(given), batch)]
    session.close()
    computed = np.concatenate(parts)
    error = float(np.abs(computed - promised).max() / max(float(np.abs(promised).max()), 1e-12))
    limit = 1e-3 if artifact.precision == "fp32" else 5e-2
    same = bool((computed.argmax(1) == promised.argmax(1)).all())
    if not np.isfinite(error) or error > limit or not same:
        raise IntegrityError(
            f"{path.name} does not answer its own sample as promised (relative error {error:.2g}): it was not installed."
        )
    return f"{len(given)} sample inputs, largest relative difference {error:.2g}, same answers"
