"""How much paper B's networks compute (table I), and how long that takes: T_infer of eqs. 34 and 35. The per-user ones, too."""

from __future__ import annotations

from typing import Literal, TypeAlias

from kit.allocators import fileformat
from kit.allocators.fileformat import Size
from kit.papers.delays import Delay, Measured, computing_s
from kit.papers.offloading.world import Inference, OffloadingWorld
from kit.stats import Float64Array

AllocatorKind: TypeAlias = Literal["paper", "static", "per_user"]
SchedulerKind: TypeAlias = Literal["paper", "kit"]

INPUTS, NEURONS = 5, 64  # of an expert: one user's five features; neurons per layer (section V)
EXPERTS, LAYERS = 10, 3  # K, L: table II
SCHEDULER_NEURONS = 32  # section V
RANKED_OPERATIONS = 500  # of ``likeliest`` for each task, at 8 prices; an exponential or a logarithm counts as 10
FIXED_OPERATIONS = 0.302e6  # table I for 30 users: scheduler, policy, gate and output layers; printed as MACs, two per MAC as the others


def parameters_of(experts: int = EXPERTS, layers: int = LAYERS) -> int:
    """Weights and biases of the experts: 87,040 for (10, 3), as table I prints."""
    return experts * (INPUTS * NEURONS + NEURONS + (layers - 1) * (NEURONS * NEURONS + NEURONS))


def macs_of(experts: int, layers: int, users: int = 30) -> int:
    """Multiply-accumulates of the experts for all users, each seeing one user at a time: 2,553,600 for (10, 3) and 30 users."""
    return users * experts * (INPUTS * NEURONS + (layers - 1) * NEURONS * NEURONS)


def operations_of(experts: int, layers: int, users: int = 30) -> int:
    """As table I counts: two operations a MAC, and the sum weighted by the gate: 5,126,400 for (10, 3) and 30 users (printed: 5.126M)."""
    return 2 * macs_of(experts, layers, users) + users * experts * NEURONS


def scheduler_macs(users: int = 30, kind: SchedulerKind = "paper") -> int:
    """Paper B's: one hidden layer of 32 neurons to one probability, from five features of each user and once from their mean.

    The ranked scheduler: six inputs, three hidden layers and two probabilities; the same layers once more for the mean task, and how
    many of the ranking to take.
    """
    if kind == "paper":
        return SCHEDULER_NEURONS * (users * (INPUTS + 1) + INPUTS)
    layers = SCHEDULER_NEURONS * (INPUTS + 1 + 2 * SCHEDULER_NEURONS)
    return (users + 1) * layers + users * (2 * SCHEDULER_NEURONS + RANKED_OPERATIONS // 2)


def allocator_macs(network: AllocatorKind, size: Size, users: int = 30) -> float:
    """What table I's operations are in MACs, the fixed part with them; the per-user network as it is written."""
    fixed = FIXED_OPERATIONS * users / 30
    if network == "paper":
        return (operations_of(*size, users) + fixed) / 2
    spec = (
        fileformat.static_b(users)
        if network == "static"
        else fileformat.per_user(fileformat.FEATURES_B, fileformat.BOTH)
    )
    macs = fileformat.macs(spec, size, users)
    return macs + fixed / 2 if network == "static" else macs + scheduler_macs(users, "kit")


def inference_of(
    world: OffloadingWorld,
    delay: Delay,
    experts: int = EXPERTS,
    layers: int = LAYERS,
    *,
    network: AllocatorKind = "paper",
    clock_hz: Float64Array | float | None = None,
) -> Inference:
    """T_infer of a task that stays at home (the scheduler, eq. 34) and of an offloaded one (scheduler, policy and allocator, eq. 35).

    Analytic: half an operation of table I is a MAC, so factor 2 is its lambda = 1; the fixed part grows with the users. Measured: the
    size ``"k,l"``, with ``scheduler`` and ``policy`` where they were measured (else nothing). ``clock_hz``: the server's unless given.
    The per-user network stands with the ranked scheduler, and without a policy.
    """
    clock = world.server_hz if clock_hz is None else clock_hz
    if isinstance(delay, Measured):
        measured_parts = {"scheduler", "policy"} & set(delay.sizes)
        parts = {part: computing_s(delay, part, clock, macs=0.0) for part in measured_parts}
        local = parts.get("scheduler", 0.0)
        edge = computing_s(delay, f"{experts},{layers}", clock, macs=0.0) + local + parts.get("policy", 0.0)
        return Inference(local_s=local, edge_s=edge)
    macs = allocator_macs(network, Size(experts, layers), world.users)
    scheduling = scheduler_macs(world.users, "kit" if network == "per_user" else "paper")
    return Inference(
        local_s=computing_s(delay, "scheduler", clock, macs=scheduling),
        edge_s=computing_s(delay, f"{experts},{layers}", clock, macs=macs),
    )
