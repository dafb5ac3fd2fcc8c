"""Paper C's factories for tests."""

from __future__ import annotations

from kit.papers.placement import PlacementWorld


def scaled(world: PlacementWorld, gateways: int, devices: int) -> PlacementWorld:
    """A factory of another size with as much for each task: pools of a gateway by its devices, those that all share by all tasks."""
    own_part, all_part = devices / world.devices, gateways * devices / world.tasks
    by = {
        "edge_band_hz": all_part,
        "edge_hz": all_part,
        "edge_cache_bytes": all_part,
        "band_hz": own_part if world.band == "per_gateway" else all_part,
        "gateway_hz": own_part if world.pools == "per_gateway" else all_part,
        "gateway_cache_bytes": own_part if world.pools == "per_gateway" else all_part,
    }
    sized = {name: getattr(world, name) * part for name, part in by.items()}
    return world.model_copy(update={"gateways": gateways, "devices": devices, **sized})
