"""Where the kernels of an artifact come from: its sidecar, else the space that its sub-network belongs to."""

from __future__ import annotations

from kit import spaces
from kit.records import Artifact, Kernel

AGREES = 0.01  # relative difference of multiply-accumulates up to which a space's kernels are the artifact's


def kernels_of(artifact: Artifact) -> tuple[Kernel, ...] | None:
    """The kernels of a network, or None where nobody listed them.

    A space's kernels count only when their multiply-accumulates agree with the artifact's: two networks of one id need not be one.
    """
    listed = artifact.kernels or spaces.kernels_of(artifact)
    if listed is None or artifact.kernels:
        return listed
    macs = sum(k.macs * k.count for k in listed)
    return listed if artifact.macs and abs(macs - artifact.macs) <= AGREES * artifact.macs else None
