"""A network with early exits, run segment after segment until an exit is sure enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit import backends, store
from kit.early_exit import policies
from kit.early_exit.thresholds import entropy_of, softmax
from kit.errors import IntegrityError
from kit.measure import stopwatch
from kit.records import Artifact, ExitNetwork, ExitPolicy


@dataclass(frozen=True)
class CascadeAnswer:
    """The logits ``(1, classes)`` of the exit where the image left, and its number, from 0."""

    logits: NDArray[np.float32]
    exit: int


class Cascade:
    """Runs an :class:`ExitPolicy`; what lies behind the exit where an image leaves is not called.

    ``policy`` is a file of ``kit exits``; the segments lie in its folder. Raises UsageError (missing), BadRecord, IntegrityError (files
    that are not the ones that the policy was chosen for), BackendUnavailable, BadModel.

    Example:
        >>> cascade = kit.Cascade(POLICY)
        >>> answer = cascade(IMAGE)
        >>> answer.logits.shape, answer.exit in (0, 1)
        ((1, 10), True)
    """

    def __init__(self, policy: Path | str, *, backend: str | None = None, threads: int | None = None) -> None:
        path = Path(policy)
        self.policy = store.read_record(path, ExitPolicy)
        self.network = _network_of(path, self.policy)
        leaf = backends.load(backend or self.policy.backend)
        self._sessions = [
            leaf.open(file, store.read_record(file.with_suffix(".json"), Artifact), threads or self.policy.threads)
            for file in policies.segment_paths(path.parent, self.network)
        ]
        self._inputs = [session.inputs[0].name for session in self._sessions]
        self._thresholds = [exit_.threshold for exit_ in self.policy.exits[:-1]]
        self._by_confidence = self.policy.criterion == "confidence"

    def __call__(self, image: NDArray[Any]) -> CascadeAnswer:
        """The answer for one ``image`` ``(1, C, H, W)``, prepared as the network takes it."""
        features = image
        for index, threshold in enumerate(self._thresholds):
            logits, features = self._run(index, features)
            if threshold is not None and self._sure(logits, threshold):
                return CascadeAnswer(logits, index)
        return CascadeAnswer(self._run(len(self._thresholds), features)[0], len(self._thresholds))

    def to_exit(self, image: NDArray[Any], last: int) -> CascadeAnswer:
        """The answer of exit number ``last`` whatever its sureness, with the same checks on the way: what an image costs that
        leaves there."""
        features = image
        for index in range(last):
            logits, features = self._run(index, features)
            self._sure(logits, self._thresholds[index] or 0.0)
        logits = self._run(last, features)[0]
        if last < len(self._thresholds):
            self._sure(logits, self._thresholds[last] or 0.0)
        return CascadeAnswer(logits, last)

    def close(self) -> None:
        """Free the segments."""
        for session in self._sessions:
            session.close()

    def _run(self, index: int, features: NDArray[Any]) -> list[NDArray[Any]]:
        return self._sessions[index].run({self._inputs[index]: features})

    def _sure(self, logits: NDArray[np.float32], threshold: float) -> bool:
        probabilities = softmax(logits)
        if self._by_confidence:
            return bool(probabilities.max() >= threshold)
        return bool(entropy_of(probabilities)[0] <= threshold)


def _network_of(path: Path, policy: ExitPolicy) -> ExitNetwork:
    file = path.parent / policy.network
    network = policies.read_network(file)
    if store.sha256_file(file) != policy.network_sha256:
        raise IntegrityError(f"{path} was chosen for another {policy.network}: choose again with kit exits {file}.")
    return network


def arrival_times_s(
    cascade: Cascade, whole: Path, image: NDArray[Any], *, rounds: int = 7
) -> tuple[list[float], float]:
    """(median seconds to each exit, the same of the network in one piece ``whole``), in this process, taking turns.

    What the sum of the segments' times leaves out is inside: the calls between them, and the check of how sure an exit is.
    """
    leaf = backends.load(cascade.policy.backend)
    session = leaf.open(whole, store.read_record(whole.with_suffix(".json"), Artifact), cascade.policy.threads)
    calls: list[Callable[[], object]] = [
        partial(cascade.to_exit, image, index) for index in range(len(cascade.policy.exits))
    ]
    calls.append(session.prepare({session.inputs[0].name: image}))
    medians_s: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for values, call in zip(medians_s, calls, strict=True):
            values.append(median(stopwatch.measure(call, collect_s=0.05, warmup_max_s=0.1).values_ns) * 1e-9)
    session.close()
    *arrival_s, whole_s = (median(values) for values in medians_s)
    return arrival_s, whole_s
