"""Versions of the packages that made a file or moved a number, as they are installed."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata


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
