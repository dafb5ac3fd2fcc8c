"""Versions of the packages that made a file or moved a number, as they are installed, and the command that installs what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from kit.errors import BackendUnavailable

DISTRIBUTION = "insitu-kit"
#: Module -> the distribution that holds it, of those whose names differ.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "stable_baselines3": "stable-baselines3",
    "torch_pruning": "torch-pruning",
}
_REQUIREMENT = re.compile(r"""([\w.-]+).*\bextra\s*==\s*['"]([\w-]+)['"]""")


def installed(names: Iterable[str]) -> dict[str, str]:
    """Distribution -> version, of those ``names`` that are installed; "python" is the interpreter's.

    >>> sorted(installed(["python", "numpy", "no-such-distribution"]))
    ['numpy', 'python']
    """
    versions = {}
    for name in names:
        try:
            versions[name] = platform.python_version() if name == "python" else metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def extra(*names: str) -> list[str]:
    """The distributions of these extras of kit that are not installed: ``extra("playground")`` may be ``["gymnasium"]``."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # a source folder on the path: nobody knows the extras
        return [f"{DISTRIBUTION}[{','.join(names)}]"]
    named = (match[1] for text in requirements if (match := _REQUIREMENT.match(text)) and match[2] in names)
    distributions = list(dict.fromkeys(named))
    here = installed(distributions)
    return [name for name in distributions if name not in here]


def install(*distributions: str) -> str:
    """The command that installs ``distributions`` into the Python that runs this, from where its user stands.

    >>> install("openvino").endswith("pip install openvino")
    True
    """
    return f"{_pip()} install {' '.join(distributions)}"


def need(what: str, *modules: str) -> None:
    """Raises BackendUnavailable ("WHAT a, b, which are not installed: COMMAND") when ``modules`` are not here."""
    missing = [DISTRIBUTIONS.get(m, m) for m in modules if importlib.util.find_spec(m) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise BackendUnavailable(
            f"{what} {', '.join(missing)}, which {verb} not installed: {install(*missing)}", missing=missing
        )


def _pip() -> str:
    """pip of the environment: by ``python`` where that is this one, else by its path, a short one where it lies below."""
    prefix = Path(sys.prefix)
    if sys.prefix == sys.base_prefix or os.environ.get("VIRTUAL_ENV") == sys.prefix:
        return "python -m pip"
    pip = prefix / "bin" / "pip"
    program, words = (pip, "") if pip.is_file() else (Path(sys.executable), " -m pip")
    with suppress(ValueError):
        below = program.relative_to(Path.cwd())
        program = below if len(below.parts) > 1 else program  # a bare name would be another program's
    return shlex.quote(str(program)) + words
