"""What came over a link is data. Nothing of it is ever given to a runtime that can be made to run code of it.

A PyTorch program (.pt2) is a zip of pickles, and who loads a pickle runs what it says; a compiled engine is machine code. So the
library takes in ONNX models alone, for the runtimes of :data:`ONNX_BACKENDS`: both sides refuse any other package
(:mod:`kit.library.oci`), and whoever opens a network refuses any other runtime for a file of an install (:mod:`kit.backends`).
Both are lists of what is allowed: a new file type or runtime is refused until it is written here.
"""

from __future__ import annotations

from pathlib import Path

from kit import store
from kit.errors import KitError, UntrustedPackage

#: The backends that read a network from an ONNX file and from nothing beside it.
ONNX_BACKENDS = frozenset(
    {
        "onnxruntime",
        "onnxruntime-cuda",
        "onnxruntime-tensorrt",
        "onnxruntime-openvino",
        "onnxruntime-xnnpack",
        "openvino",
        "tensorrt",
    }
)
RECEIPT_FILE = "install.json"  # what ``kit pull`` writes beside a package's files: a folder with it came over a link
STAGING = ".staging"  # the folder in which packages gather before they are installed


def install_of(path: Path) -> Path | None:
    """The folder of ``kit pull`` in which the file ``path`` lies (a symlink: or its target), installed or still on its way; else None."""
    with store.explained(path, "read"):
        folders = {path.parent.absolute(), path.resolve().parent} if path.is_file() else set()
        return next((f for f in folders if f.parent.name == STAGING or _has_receipt(f)), None)


def _has_receipt(folder: Path) -> bool:
    """Whether ``kit pull`` made ``folder``; a receipt that cannot be read counts, the sidecar of a network named install does not."""
    if not (folder / RECEIPT_FILE).is_file():
        return False
    try:
        data = store.read_json(folder / RECEIPT_FILE)
    except KitError:
        return True
    return not isinstance(data, dict) or data.get("kind") != "artifact"


def refuse_backend(backend: str, subject: str) -> None:
    """Raises UntrustedPackage, a sentence that begins with ``subject``, when ``backend`` is none that runs ONNX models alone."""
    if backend not in ONNX_BACKENDS:
        raise UntrustedPackage(
            f"{subject} is for backend {backend[:80]!r}, and what came over a link runs as an ONNX model only: refused; use "
            "onnxruntime, openvino or tensorrt."
        )


def refuse_install(backend: str, path: Path) -> None:
    """Raises UntrustedPackage when ``path`` lies in an install and ``backend`` is none that runs ONNX models alone."""
    if backend not in ONNX_BACKENDS and install_of(path) is not None:
        raise UntrustedPackage(
            f"{path} was installed by kit pull, and what came over a link runs as an ONNX model only, never in backend "
            f"{backend[:80]!r}: measure it with --backend onnxruntime."
        )
