"""What the papers print of how much their allocators compute."""

from __future__ import annotations

from kit.records import SubNetwork
from kit.spaces import allocator


def experts_of(sub: SubNetwork) -> int:
    """How many experts are computed: k."""
    return round(sub.width * allocator.EXPERTS[sub.root])


def printed_count(sub: SubNetwork) -> int:
    """Multiply-accumulates with biases in paper A, operations in paper B (tables I); what lies outside the experts is left out there."""
    experts = experts_of(sub)
    if sub.root == "allocator_a":
        return experts * (36 * 32 + 32 + 32 * 30 + 30)
    return sub.resolution_px * experts * (2 * (5 * 64 + (sub.depth - 1) * 64**2) + 64)
