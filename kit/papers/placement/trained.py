"""A trained policy on disk: ``NAME.policy.json``, what it was trained for, and ``NAME.onnx``, its network.

The network runs in onnxruntime on one thread; nothing here needs torch, gymnasium or the library that trained it, so a controller at the
edge loads it with the board install and onnxruntime. Its input and output:

| method | input | output |
|---|---|---|
| ``td3``, ``ddpg`` | an observation of ``observation`` for each sample, float32 | its action, 0 to 1 |
| the same, ``shared`` | the row of each task | its row of the action |
| ``own`` | the features of ``prices``, float32 | prices, as ``prices`` reads them |
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from kit import store, versions
from kit.backends import onnxdata
from kit.errors import BackendUnavailable, BadModel, BadRecord, UsageError
from kit.papers.placement.observation import action_width, decision_of, observation_width, observe
from kit.papers.placement.world import Decision, Models, PlacementWorld, Policy, State, Tasks
from kit.records import Record

Method = Literal["td3", "ddpg", "own"]
SUFFIX = ".policy.json"


class TrainedPolicy(Record):
    """What a network was trained for, by which method, and the hash of its file."""

    kind: Literal["placement-policy"] = "placement-policy"
    schema_version: Literal[1] = 1
    method: Method
    world: PlacementWorld = Field(description="where it was trained")
    models_seed: int = Field(description="of the devices' models; td3 and ddpg know only these, unless models_seen")
    models_seen: bool = Field(default=False, description="the observation holds the models' accuracy, size and cycles")
    shared: bool = Field(
        default=False, description="td3 and ddpg: one network decides each task by itself, in any factory"
    )
    seed: int
    steps: int = Field(ge=0)
    train_s: float = Field(ge=0)
    versions: dict[str, str] = Field(default_factory=dict)
    recipe: dict[str, JsonValue] = Field(default_factory=dict, description="the rest of what decides the result")
    network_sha256: str = Field(default="", description="of NAME.onnx; save fills it in")


def save(path: Path, record: TrainedPolicy, onnx: bytes) -> TrainedPolicy:
    """Write ``NAME.onnx``, then ``NAME.policy.json`` with its hash. Raises UsageError (another ending of the name), StorageError."""
    network = network_path(path)
    written = record.model_copy(update={"network_sha256": store.sha256_bytes(onnx)})
    store.write_atomic(network, onnx)
    store.write_record(path, written)
    return written


def load(path: Path) -> tuple[TrainedPolicy, Policy]:
    """The record, and what decides by it.

    Raises UsageError (no such file, another ending), BadModel (a file of another kind), BackendUnavailable (no onnxruntime).
    """
    network = network_path(path)
    try:
        record = store.read_record(path, TrainedPolicy)
    except BadRecord as error:
        raise BadModel(str(error)) from None
    if not network.is_file():
        raise BadModel(f"{path} needs its network beside it: copy {network.name} to the same folder.")
    with store.explained(network, "read"):
        onnx = network.read_bytes()
    if store.sha256_bytes(onnx) != record.network_sha256:
        raise BadModel(f"{network} is not the network that {path.name} describes: copy both files again.")
    return record, policy_of(record, onnx)


def network_path(path: Path) -> Path:
    """``NAME.onnx`` of ``NAME.policy.json``. Raises UsageError for a name with another ending."""
    if not path.name.endswith(SUFFIX) or path.name == SUFFIX:
        raise UsageError(f"{path} is no policy's name: it ends in {SUFFIX}, and its network lies beside it as .onnx.")
    return path.with_name(f"{path.name.removesuffix(SUFFIX)}.onnx")


def policy_of(record: TrainedPolicy, onnx: bytes) -> Policy:
    """What decides by this network. Raises BadModel (no ONNX network of that shape), BackendUnavailable (no onnxruntime)."""
    network = _network(onnx, record.method)
    if record.method == "own":
        from kit.papers.placement import prices

        return prices.policy_of(network)
    each = 1 if record.shared else record.world.tasks
    columns, observation = each * action_width(record.world), np.zeros((1, each * _observed_columns(record)))
    if network(observation).shape != (1, columns):
        raise BadModel(
            f"This network does not turn {observation.shape[1]} observed values into {columns}: export it again."
        )
    return _by_actions(network, record)


def _observed_columns(record: TrainedPolicy) -> int:
    return observation_width(record.world, models_seen=record.models_seen)


def _by_actions(network: Callable[[NDArray[Any]], NDArray[Any]], record: TrainedPolicy) -> Policy:
    trained_tasks, variants = record.world.tasks, len(record.world.variants)

    def decide(world: PlacementWorld, models: Models, tasks: Tasks, state: State, _: np.random.Generator) -> Decision:
        if len(world.variants) != variants or (world.tasks != trained_tasks and not record.shared):
            raise UsageError(
                f"This policy was trained for {trained_tasks} tasks of {variants} variants, and the world has {world.tasks} "
                f"of {len(world.variants)}: train one for it."
            )
        observation = observe(world, models, tasks, state, models_seen=record.models_seen)
        actions = network(observation.reshape(-1, _observed_columns(record)) if record.shared else observation)
        return decision_of(world, actions.astype(np.float32).reshape(len(observation), -1))

    return decide


def _network(onnx: bytes, method: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """The network as a function of one array. Raises BadModel, BackendUnavailable."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise BackendUnavailable(
            f"A trained policy runs in onnxruntime, which is not installed: {versions.install('onnxruntime')}"
        ) from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    onnxdata.refuse_external(onnx, f"This {method} network")
    try:
        session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no common root
        reason = str(error).partition("\n")[0]
        raise BadModel(f"onnxruntime cannot run this {method} network: {reason}") from None
    inputs, outputs = [i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]
    if len(inputs) != 1 or len(outputs) != 1:
        raise BadModel(
            f"A {method} network has one input and one output, and this one has {len(inputs)} and {len(outputs)}."
        )

    def run(values: NDArray[Any]) -> NDArray[Any]:
        try:
            output = session.run(outputs, {inputs[0]: np.ascontiguousarray(values, dtype=np.float32)})[0]
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise BadModel(f"This {method} network does not take an input of shape {values.shape}: {reason}") from None
        result: NDArray[Any] = output.astype(np.float64)
        return result

    return run
