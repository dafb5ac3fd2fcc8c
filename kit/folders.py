"""Where profiles and device configurations lie: the user's own folder, and what is shipped with kit.

A user's records go to ``KIT_PROFILES``, or to ``./kit-profiles`` where that is not set. What is shipped (the repository's
``profiles/`` and ``device_configs/``, inside of an installed kit ``_profiles`` and ``_device_configs``) is read and never
written unless it is named: whoever adds to it says ``--profiles profiles``. In particular a shipped ``reference.json``, the
scale of the drift-corrected latencies of the machine that it names, does not become the scale of another machine that only
shares its device id.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

#: The environment variable, and the folder where it is not set.
VARIABLE, DEFAULT = "KIT_PROFILES", Path("kit-profiles")
#: The user's configurations, in the folder of profiles.
CONFIGS = "device_configs"


def profiles() -> Path:
    """The user's own folder of profiles: ``KIT_PROFILES``, or ``./kit-profiles``."""
    return Path(os.environ.get(VARIABLE) or DEFAULT)


def configs() -> Path:
    """The folder of the user's own device configurations, beside the profiles: the user's other facts about devices."""
    return profiles() / CONFIGS


def shipped(name: str) -> Path:
    """``profiles`` or ``device_configs`` as shipped: of the installed wheel, or of the repository that this file lies in."""
    package = Path(__file__).resolve().parent
    wheel = package / f"_{name}"
    return wheel if wheel.is_dir() else package.parent / name


def of_devices(paths: Iterable[Path]) -> list[Path]:
    """``paths``, where one that does not exist and is the id of a device becomes that device's folder of profiles.

    The user's own folder comes first. Where it has none, the shipped one is taken, and a warning names it.

    Example:
        >>> [path.name for path in of_devices([Path("amd-epyc-f26m2-2c-kvm")])]
        ['amd-epyc-f26m2-2c-kvm']
    """
    return [path if path.exists() else _of_device(path) for path in paths]


def _of_device(path: Path) -> Path:
    if path.name != str(path) or path.name.startswith("."):
        return path
    if (own := profiles() / path).is_dir():
        return own
    if (other := shipped("profiles") / path).is_dir():
        log.warning("%s holds nothing of %s: reading what is shipped of it, %s.", profiles(), path, other)
        return other
    return path
