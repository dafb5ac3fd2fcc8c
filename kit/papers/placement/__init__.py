"""Paper C: a factory's gateways and an edge server run its devices' tasks, each with one of its models, placed from the cloud.

``world`` evaluates, ``options`` lists what a task could do, ``rules`` decide without learning, ``bound`` is what nothing exceeds.

``measured`` makes the models from a knowledge base, ``trace`` holds requests to replay, ``controller`` answers a real one; ``environment``
and what learns need the extra ``playground`` and are imported by themselves.
"""

from kit.papers.placement.bound import rounded, upper_bound
from kit.papers.placement.options import Options, decide, options_of, pools
from kit.papers.placement.rules import at_random, constant, equal_shares, greedy, greedy_balanced
from kit.papers.placement.world import (
    HEAVY,
    LIGHT,
    SPECTRUM_MODELS,
    Decision,
    Metrics,
    Models,
    PlacementWorld,
    Policy,
    SlotOutcome,
    State,
    Tasks,
    Variant,
    empty,
    metrics,
    run,
    sample,
    sample_models,
    step,
    with_spectrum,
)

#: What decides without learning, by name.
RULES: dict[str, Policy] = {
    "random": at_random,
    "equal": equal_shares,
    "greedy": greedy,
    "greedy_balanced": greedy_balanced,
    "lp_rounding": rounded,
}

__all__ = [
    "HEAVY",
    "LIGHT",
    "RULES",
    "SPECTRUM_MODELS",
    "Decision",
    "Metrics",
    "Models",
    "Options",
    "PlacementWorld",
    "Policy",
    "SlotOutcome",
    "State",
    "Tasks",
    "Variant",
    "at_random",
    "constant",
    "decide",
    "empty",
    "equal_shares",
    "greedy",
    "greedy_balanced",
    "metrics",
    "options_of",
    "pools",
    "rounded",
    "run",
    "sample",
    "sample_models",
    "step",
    "upper_bound",
    "with_spectrum",
]
