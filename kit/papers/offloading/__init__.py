"""Paper B: one cell, N tasks per slot, each computed at home or at an edge server.

``world`` evaluates, ``allocate`` shares band and server, ``decide`` offloads, ``size`` is the time of deciding, ``reward`` what it earns.

The networks learn in ``train`` (allocators), ``policy``, ``schedule`` and ``joint`` (Algorithm 1); ``experiment`` sets every method before
the same slots, ``figures`` makes the paper's figures of it. These need torch and are imported by themselves, as is ``genetic`` with the
extra of that name.
"""

from kit.papers.offloading.allocate import Goal, Prices, best, equal, least_costs, prices_of, shared
from kit.papers.offloading.decide import (
    all_local,
    all_offloaded,
    at_random,
    burdens,
    exhaustive,
    flips_and_swaps,
    half,
    joined_costs,
    likeliest,
    marginal_costs,
)
from kit.papers.offloading.reward import expected_rewards, home_costs, rewards, shares
from kit.papers.offloading.size import inference_of, macs_of, operations_of, parameters_of, scheduler_macs
from kit.papers.offloading.world import (
    FREE,
    Allocation,
    Inference,
    OffloadingOutcome,
    OffloadingWorld,
    Tasks,
    evaluate,
    features,
    importance,
    sample,
)

__all__ = [
    "FREE",
    "Allocation",
    "Goal",
    "Inference",
    "OffloadingOutcome",
    "OffloadingWorld",
    "Prices",
    "Tasks",
    "all_local",
    "all_offloaded",
    "at_random",
    "best",
    "burdens",
    "equal",
    "evaluate",
    "exhaustive",
    "expected_rewards",
    "features",
    "flips_and_swaps",
    "half",
    "home_costs",
    "importance",
    "inference_of",
    "joined_costs",
    "least_costs",
    "likeliest",
    "macs_of",
    "marginal_costs",
    "operations_of",
    "parameters_of",
    "prices_of",
    "rewards",
    "sample",
    "scheduler_macs",
    "shared",
    "shares",
]
