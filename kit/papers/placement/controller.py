"""One slot's decision for an edge controller: a request in JSON, an answer in JSON, by a trained policy or a named rule.

**Request** (:class:`SlotRequest`), one JSON object. Devices count from 0; device k of gateway i is i * devices + k. A missing field has
the value behind the bar.

| field | is | unit |
|---|---|---|
| ``kind``, ``schema_version`` | "placement-request", 1 | |
| ``slot`` | a number that the answer repeats | none |
| ``tasks`` | a list, one entry for each device that has a task: | |
| ``device`` | whose | |
| ``size_bit``, ``deadline_s`` | D and T^max | bit, s |
| ``noisy`` | theta | false |
| ``first_bps_per_hz``, ``second_bps_per_hz`` | gamma of both hops, bit/s/Hz | the world's |
| ``at_gateways``, ``at_edge`` | name of a variant: devices whose model of it lies in that cache | nothing |

**Answer** (:class:`SlotAnswer`): for each task the node, the variant, its parts of the four pools (already within the budgets), whether its
model is to be brought there, the accuracy that may be expected (0 where the deadline is not promised), the delay in seconds and the slack,
what is left until the deadline (below 0: late); the least slack of all tasks that run; of each pool the share that lies idle; and what both
caches hold after the slot, in the form of the next request. Delays of measured models are promised at their percentile (``measured``). A
node of "none" means that the task is turned away, a delay of null that nothing runs.

Nothing here needs torch, scipy or gymnasium; a trained policy needs onnxruntime.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter
from typing import IO, Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import Field, ValidationError

from kit.errors import BadRecord, KitError, UnknownName
from kit.papers.placement.world import (
    CHOICES,
    MODELS,
    TASKS,
    Decision,
    Models,
    PlacementWorld,
    Policy,
    SlotOutcome,
    State,
    Tasks,
    accepted_tasks,
    empty,
    pooled,
    project,
    sample,
    sample_models,
    separate_pools,
    step,
)
from kit.papers.streams import generator
from kit.records import Record, first_problem
from kit.stats import BoolArray

Node = Literal["gateway", "edge", "none"]
Device: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]


class TaskRequest(Record):
    """One device's task."""

    device: Device
    size_bit: float = Field(gt=0)
    deadline_s: float = Field(gt=0)
    noisy: bool = False
    first_bps_per_hz: float | None = Field(default=None, gt=0)
    second_bps_per_hz: float | None = Field(default=None, gt=0)


class SlotRequest(Record):
    """What the controller knows as a slot begins."""

    kind: Literal["placement-request"] = "placement-request"
    schema_version: Literal[1] = 1
    slot: int | None = Field(default=None, ge=0)
    tasks: tuple[TaskRequest, ...]
    at_gateways: dict[str, tuple[Device, ...]] = Field(default_factory=dict)
    at_edge: dict[str, tuple[Device, ...]] = Field(default_factory=dict)


class TaskAnswer(Record):
    """Where one task runs, with which variant and which parts of the pools."""

    device: int
    node: Node
    variant: str | None
    first_share: float
    second_share: float
    gateway_share: float
    edge_share: float
    download: bool
    accuracy: float
    delay_s: float | None
    slack_s: float | None = Field(description="until the deadline; below 0: late; none: nothing runs")


class Idle(Record):
    """The share of each pool that no task of the slot has: one number, or one for each gateway where these have pools of their own."""

    first: tuple[float, ...] = Field(description="of the devices' band")
    second: tuple[float, ...] = Field(description="of the base station's band")
    gateway: tuple[float, ...] = Field(description="of the gateways' clocks")
    edge: tuple[float, ...] = Field(description="of the edge's clock")


class SlotAnswer(Record):
    """The decision of a slot."""

    kind: Literal["placement-answer"] = "placement-answer"
    schema_version: Literal[2] = 2
    slot: int | None = None
    average_accuracy: float
    promised: int = Field(description="tasks that will end in time")
    least_slack_s: float | None = Field(description="of the tasks that run; none: nothing does")
    idle: Idle
    tasks: tuple[TaskAnswer, ...]
    at_gateways: dict[str, tuple[int, ...]]
    at_edge: dict[str, tuple[int, ...]]


def parse(text: bytes | str, source: str) -> SlotRequest:
    """A request from its JSON. Raises BadRecord, one sentence that names ``source``."""
    try:
        return SlotRequest.model_validate_json(text)
    except ValidationError as error:
        raise BadRecord(f"{source} is no request: {first_problem(error)}. kit place --example prints one.") from None


@dataclass(frozen=True)
class Controller:
    """A policy in its world, with the models of the factory's devices ([1, tasks, ...])."""

    world: PlacementWorld
    policy: Policy
    models: Models
    seed: int = 0  # of a policy that draws

    @classmethod
    def of(cls, world: PlacementWorld, policy: Policy, *, models_seed: int = 0) -> Controller:
        """The controller of the factory whose devices' models ``models_seed`` draws."""
        return cls(world, policy, sample_models(world, 1, generator(MODELS, models_seed)))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The variants' names, lightest first."""
        return tuple(v.name for v in self.world.variants)

    def answer(self, request: SlotRequest, count: int = 0) -> SlotAnswer:
        """The decision; ``count`` numbers the decisions of one run. Raises BadRecord, UnknownName, and what the policy raises."""
        tasks, state = self.tasks(request), self.state(request)
        decision = self.policy(self.world, self.models, tasks, state, generator(CHOICES, self.seed, count))
        outcome = step(self.world, self.models, tasks, state, decision)
        return self._answer(request, tasks, decision, outcome)

    def tasks(self, request: SlotRequest) -> Tasks:
        """The request's tasks as arrays, [1, tasks]. Raises BadRecord for a device that the factory has not, or one twice."""
        world = self.world
        rows = [
            (t.device, t.size_bit, t.deadline_s, t.noisy, t.first_bps_per_hz or 0.0, t.second_bps_per_hz or 0.0)
            for t in request.tasks
        ]
        columns_of_tasks = np.array(rows, dtype=np.float64).reshape(-1, 6)
        device = columns_of_tasks[:, 0].astype(np.int64)
        self._refuse(device, "a task")
        twice = np.flatnonzero(np.bincount(device, minlength=1) > 1)
        if len(twice):
            raise BadRecord(f"Device {twice[0]} has two tasks in this request: a device has one a slot.")
        columns = np.zeros((5, 1, world.tasks))
        columns[1], columns[3:] = world.deadline_s[1], world.bps_per_hz
        columns[:, 0, device] = np.where(
            columns_of_tasks[:, 1:].T > 0, columns_of_tasks[:, 1:].T, columns[:, 0, device]
        )
        return Tasks(columns[0], columns[1], columns[2] > 0, columns[3], columns[4])

    def state(self, request: SlotRequest) -> State:
        """The request's caches. Raises UnknownName (a variant), BadRecord (a device)."""
        state = empty(self.world, 1)
        for models, cache in ((request.at_gateways, state.gateway), (request.at_edge, state.edge)):
            for name, devices in models.items():
                if name not in self.names:
                    raise UnknownName("variant", name, self.names)
                device = np.array(devices, dtype=np.int64)
                self._refuse(device, f"a model {name}")
                cache[0, device, self.names.index(name)] = True
        return state

    def _refuse(self, device: np.ndarray[tuple[int, ...], np.dtype[np.int64]], what: str) -> None:
        beyond = device[device >= self.world.tasks]
        if len(beyond):
            raise BadRecord(
                f"Device {beyond[0]} has {what} and this factory has {self.world.tasks} devices, counted from 0: correct the number."
            )

    def _answer(self, request: SlotRequest, tasks: Tasks, decision: Decision, outcome: SlotOutcome) -> SlotAnswer:
        """The decision by names and numbers: the shares within the budgets, the other node's left out."""
        accepted = accepted_tasks(self.world, tasks, decision)
        shares, _, _ = project(self.world, accepted, decision)
        order = [t.device for t in request.tasks]
        columns = [s[0, order].tolist() for s in shares]
        runs, home, variant = (
            accepted[0, order].tolist(),
            decision.at_gateway[0, order].tolist(),
            decision.variant[0, order].tolist(),
        )
        slack_s = tasks.deadline_s - outcome.delay_s
        placed, accuracy, delay, slack = (
            x[0, order].tolist() for x in (outcome.placed, outcome.accuracy, outcome.delay_s, slack_s)
        )
        rows = zip(order, runs, home, variant, *columns, placed, accuracy, delay, slack, strict=True)
        rows_of_tasks: list[dict[str, Any]] = [
            {
                "device": device,
                "node": ("gateway" if stays else "edge") if served else "none",
                "variant": self.names[level] if served else None,
                "first_share": first,
                "second_share": second,
                "gateway_share": gateway,
                "edge_share": edge,
                "download": fetched,
                "accuracy": earned,
                "delay_s": taken if taken < np.inf else None,
                "slack_s": left if taken < np.inf else None,
            }
            for device, served, stays, level, first, second, gateway, edge, fetched, earned, taken, left in rows
        ]
        sums = (
            pooled(self.world, share, per_gateway).ravel()
            for share, per_gateway in zip(shares, separate_pools(self.world), strict=True)
        )
        return SlotAnswer.model_validate(
            {
                "slot": request.slot,
                "average_accuracy": float(outcome.accuracy.sum()) / max(1, len(order)),
                "promised": int(outcome.promised.sum()),
                "least_slack_s": min((t["slack_s"] for t in rows_of_tasks if t["slack_s"] is not None), default=None),
                "idle": dict(zip(Idle.model_fields, (np.maximum(1.0 - s, 0.0).tolist() for s in sums), strict=True)),
                "tasks": rows_of_tasks,
                "at_gateways": dict(self._models_in(outcome.state.gateway)),
                "at_edge": dict(self._models_in(outcome.state.edge)),
            }
        )

    def _models_in(self, cache: BoolArray) -> Iterator[tuple[str, tuple[int, ...]]]:
        for level, name in enumerate(self.names):
            devices = tuple(np.flatnonzero(cache[0, :, level]).tolist())
            if devices:
                yield name, devices


def answer_line(answer: SlotAnswer) -> bytes:
    """The answer as one line of JSON."""
    return answer.model_dump_json().encode()


def error_line(error: Exception, line: int) -> bytes:
    """What a controller reads in place of an answer, as one line of JSON."""
    reply: Mapping[str, object] = {"kind": "placement-error", "schema_version": 1, "line": line, "error": str(error)}
    return json.dumps(reply, ensure_ascii=False).encode()


def example(world: PlacementWorld, seed: int = 0) -> SlotRequest:
    """A valid request of this world: a task from each device, nothing in the caches."""
    tasks = sample(world, 1, generator(TASKS, seed))
    return SlotRequest(
        slot=0,
        tasks=tuple(
            TaskRequest(
                device=device,
                size_bit=round(float(tasks.size_bit[0, device])),
                deadline_s=round(float(tasks.deadline_s[0, device]), 3),
                noisy=bool(tasks.noisy[0, device]),
                first_bps_per_hz=float(tasks.first_bps_per_hz[0, device]),
                second_bps_per_hz=float(tasks.second_bps_per_hz[0, device]),
            )
            for device in range(world.tasks)
        ),
    )


@dataclass
class ServeStatistics:
    """What a stream of requests came to: seconds from a line read to its answer written, and how many were refused."""

    decisions_s: list[float] = field(default_factory=list)
    refused: int = 0


def serve(controller: Controller, requests: Iterable[bytes], answers: IO[bytes], statistics: ServeStatistics) -> None:
    """A line in, a line out, until the input ends; a request that is none is answered by what is wrong with it.

    ``statistics`` counts meanwhile, so that an interrupted stream is counted, too. Raises as writing to ``answers`` does.
    """
    for number, line in enumerate(requests, start=1):
        if not line.strip():
            continue
        start_s = perf_counter()
        try:
            answer = controller.answer(parse(line, f"line {number}"), len(statistics.decisions_s))
            answers.write(answer_line(answer) + b"\n")
            answers.flush()
            statistics.decisions_s.append(perf_counter() - start_s)
        except KitError as error:
            statistics.refused += 1
            answers.write(error_line(error, number) + b"\n")
            answers.flush()
