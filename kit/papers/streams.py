"""Where random numbers come from: a generator for each use, seed and place, so that no two draw the same ones by accident.

``numpy.random.default_rng`` pads its key with zeros: ``default_rng(7)`` and ``default_rng((7, 0, 0))`` are the same generator. A child of
a seed sequence (``spawn_key``) is not: whatever the seed, a use of another name or at another place draws other numbers.
"""

from __future__ import annotations

import zlib

import numpy as np


def generator(stream: str, seed: int, *place: int) -> np.random.Generator:
    """The generator of one use (``stream``, a phrase) with this seed, at a place: a step, a slot.

    >>> generator("frames", 7).random() == generator("frames", 7).random()
    True
    >>> generator("frames", 7).random() == generator("frames", 7, 0).random()
    False
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(stream.encode()), *place)))
