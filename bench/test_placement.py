"""What deciding for 350 tasks takes, beside its floor: ``pytest bench/test_placement.py -s``.

Kit's own policy against the six rounds of the market that it cannot do without, and against the rounding of the linear program that it
comes close to; the greedy rule against one slot of the world. All interleaved in one run, and only ratios are asserted.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter_ns
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from kit.papers import placement
from kit.papers.placement import own, prices
from kit.papers.placement.options import options_of

ROUNDS = 15
TAUGHT = 60  # steps: prices of a network that learned nothing leave tasks out, and fitting them takes long
MARKET_RATIO, ROUNDING_RATIO, GREEDY_RATIO = 3.0, 0.2, 14.0  # allowed


def timed_ms(call: Any) -> float:
    start = perf_counter_ns()
    call()
    return (perf_counter_ns() - start) / 1e6


def test_a_decision_beside_its_floor() -> None:
    world = placement.PlacementWorld()
    rng = np.random.default_rng(0)
    models, tasks, state = (
        placement.sample_models(world, 1, rng),
        placement.sample(world, 1, rng),
        placement.empty(world, 1),
    )
    option = options_of(world, models, tasks, state)
    log_price = np.full((1, world.gateways, prices.OUTPUTS), prices.START)
    policies = {
        "own": prices.policy_of(own.network_of(own.train(None, 0, TAUGHT)[0])),
        "greedy": placement.greedy,
        "rounding": placement.rounded,
    }
    decision = placement.greedy(world, models, tasks, state, rng)

    def markets() -> None:
        for number in range(prices.ROUNDS + 1):
            prices.market(world, option, log_price, prices.softness(number))

    calls: dict[str, Any] = {
        name: lambda policy=policy: policy(world, models, tasks, state, rng) for name, policy in policies.items()
    }
    calls |= {"markets": markets, "slot": lambda: placement.step(world, models, tasks, state, decision)}
    found = {name: median(column) for name, column in _interleaved(calls).items()}
    print("\n" + ", ".join(f"{name} {value:.2f} ms" for name, value in found.items()))
    assert found["own"] <= MARKET_RATIO * found["markets"]
    assert found["own"] <= ROUNDING_RATIO * found["rounding"]
    assert found["greedy"] <= GREEDY_RATIO * found["slot"]


def _interleaved(calls: dict[str, Any]) -> dict[str, list[float]]:
    for call in calls.values():
        call()
    table = [{name: timed_ms(call) for name, call in calls.items()} for _ in range(ROUNDS)]
    return {name: [row[name] for row in table] for name in calls}
