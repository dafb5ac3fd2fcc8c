"""Early exits on a device: a network in segments, thresholds chosen by measured times, and the cascade that runs it.

An exit inside one graph (an ``If``) saves nothing on the runtimes that kit targets, so the backbone is shipped as one ONNX file per
segment (kit.variants.segments makes them) and what follows an exit is not called.
"""

from kit.early_exit.cascade import Cascade, CascadeAnswer, arrival_times_s
from kit.early_exit.policies import (
    SUFFIX,
    expected,
    policy_of,
    read_network,
    segment_paths,
    whole_path,
    write_policy,
)
from kit.early_exit.thresholds import CRITERIA, Choice, Outcomes, choose, front

__all__ = [
    "CRITERIA",
    "SUFFIX",
    "Cascade",
    "CascadeAnswer",
    "Choice",
    "Outcomes",
    "arrival_times_s",
    "choose",
    "expected",
    "front",
    "policy_of",
    "read_network",
    "segment_paths",
    "whole_path",
    "write_policy",
]
