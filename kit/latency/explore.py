"""Measure next: a space of sub-networks is measured until the rest can be predicted, a batch at a time, each chosen by the model so far.

The first ten are chosen by the priors of the latency model, then batches of five: those whose measurement leaves the least
uncertainty about a pool of the space (kit.latency.active_sampling). Each batch is predicted before it is measured, so that its error is
that of unmeasured networks. Of two estimates of the share that is predicted well the smaller counts: that of the calibrated intervals
over the pool, and the cross-validated share of the measured networks (pessimistic, since the networks chosen are the uncertain ones).

Records are appended batch by batch; what the file holds of the space, measured in the same way, counts as measured.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from kit import backends, latency, spaces, store, versions
from kit.errors import BackendUnavailable, BadRecord, MeasurementError, UnknownName, UsageError
from kit.latency import Predictions, Predictor, active_sampling
from kit.latency.features import Table, arrange
from kit.latency.model import ModelFamily
from kit.measure import profiler
from kit.measure.jobs import duration_s
from kit.measure.profiler import Job, Progress
from kit.measure.targets import Target
from kit.records import DeviceSpec, MeasureSettings, ProfileRecord, SubNetwork
from kit.spaces import Space
from kit.stats import BoolArray, Float64Array

POOL = 500
FIRST, BATCH = 10, 5
AT_MOST = 40
_CRITERION = re.compile(r"within(\d+(?:\.\d+)?)=(\d*\.?\d+)(%?)")

Measure = Callable[[list[Job], float | None], list[ProfileRecord]]


@dataclass(frozen=True)
class Criterion:
    """``share`` of a space predicted within the relative error ``within``."""

    within: float = 0.10
    share: float = 0.99

    @property
    def text(self) -> str:
        """As people read it: ``0.99 within 0.1``."""
        return f"{self.share:.4g} within {self.within:.3g}"


@dataclass(frozen=True)
class ExplorationPlan:
    """How a space is explored: ``criterion`` (None: measure until the count or the budget ends), ``deadline_s`` to decide about."""

    space: Space
    settings: MeasureSettings
    criterion: Criterion | None = None
    deadline_s: float | None = None
    at_most: int | None = None
    sample: int | None = None
    budget_s: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """After a batch: how it had been predicted (None: there was no model yet), and what is expected of the rest of the space."""

    measured: int
    batch: int
    predicted: int = 0
    within: float | None = None
    error: float | None = None  # mean, relative
    form: str | None = None
    estimated: float | None = None  # by the calibrated intervals, over the pool
    validated: float | None = None  # by cross-validation, over what was measured
    undecided: float | None = None  # share of the pool whose interval holds the deadline

    @property
    def share(self) -> float | None:
        """The smaller estimate, which counts."""
        return None if self.estimated is None or self.validated is None else min(self.estimated, self.validated)


@dataclass(frozen=True)
class Exploration:
    """The records of a run and of earlier ones, the error of each batch, why it ended, and the model of all records."""

    records: tuple[ProfileRecord, ...]
    new: int
    steps: tuple[Step, ...]
    ended: str
    reached: bool
    model: Predictor | None


# --------------------------------------------------------------------------------------------------------------- the plan


def read_criterion(text: str) -> Criterion:
    """``within10=0.99`` (or ``=99%``): 99 % of the space predicted within 10 %. Raises UsageError."""
    match = _CRITERION.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"--until '{text}' cannot be read: write it like within10=0.99 (99 % of the space within +-10 %)."
        )
    within, share = float(match[1]) / 100, float(match[2]) / (100 if match[3] else 1)
    if not 0 < within < 1 or not 0 < share <= 1:
        raise UsageError(
            f"--until '{text}' cannot be reached: give 0 < P < 100 and a share above 0 and up to 1 in withinP=SHARE."
        )
    return Criterion(within, share)


def read_budget(text: str, size: int) -> tuple[float | None, int | None]:
    """Seconds and networks of ``10m``, ``40`` or ``10m,40``, of a space of ``size``. Raises UsageError."""
    seconds, networks = None, None
    for part in text.split(","):
        if part.strip().isdecimal():
            networks = int(part)
            if not 1 <= networks <= size:
                raise UsageError(f"--budget {part}: the space has {size} sub-networks, ask for 1 to {size} of them.")
        else:
            seconds = duration_s(part, "a time like 90s, 10m or 1h, a number of networks like 40, or both: 10m,40")
    return seconds, networks


def plan(
    space: str,
    settings: MeasureSettings,
    *,
    budget: str | None = None,
    until: str | None = None,
    deadline_s: float | None = None,
    sample: int | None = None,
) -> ExplorationPlan:
    """The plan for a space, checked: with neither a budget nor a criterion until 99 % are predicted within 10 %, ``AT_MOST`` at most.

    Raises UsageError for what does not go together, UnknownName, BackendUnavailable.
    """
    target_space = space_of(space)
    if "," in settings.backend:
        raise UsageError(f"A space is measured with one runtime: take one of {settings.backend}.")
    backends.require(settings.backend)
    budget_s, networks = read_budget(budget, target_space.size) if budget else (None, None)
    if sample is not None and (until or networks or deadline_s):
        raise UsageError(
            "--sample N is a random choice of N: leave --until, --deadline-ms and a count in --budget away, or --sample."
        )
    if deadline_s is not None and not (np.isfinite(deadline_s) and deadline_s > 0):
        raise UsageError(f"--deadline-ms {deadline_s * 1e3:g} is no deadline: give a number above zero.")
    criterion = read_criterion(until) if until else None
    if (
        sample is None and budget is None
    ):  # the default criterion, unless another end is named, and never without a bound
        criterion = criterion or (Criterion() if deadline_s is None else None)
        networks = min(AT_MOST, target_space.size)
    exploration = ExplorationPlan(
        target_space, settings, criterion=criterion, deadline_s=deadline_s, at_most=networks, sample=sample, budget_s=budget_s,
        seed=settings.seed,
    )  # fmt: skip
    check(exploration)
    return exploration


def check(plan: ExplorationPlan) -> None:
    """Raises UsageError for a plan that cannot be, BackendUnavailable where the criterion needs a fit and scipy is missing."""
    size = plan.space.size
    if plan.sample is not None and not 1 <= plan.sample <= size:
        raise UsageError(
            f"--sample {plan.sample}: {plan.space.name} has {size} sub-networks, ask for 1 to {size} of them."
        )
    if plan.settings.backend == "fake":
        raise UsageError("The fake backend runs no networks of a space: take another --backend.")
    if (plan.criterion is not None or plan.deadline_s is not None) and not latency.can_fit():
        raise BackendUnavailable(
            f"Knowing when enough is measured needs scipy: {versions.install('scipy')}, or give --sample N or --budget alone."
        )


def space_of(name: str) -> Space:
    """The space of a root; a member's id is no space. Raises UnknownName, UsageError."""
    try:
        return spaces.space_of(name)
    except UnknownName:
        root = name.split("-")[0]
        if root in spaces.SPACES and root != name:
            raise UsageError(
                f"{name} is one sub-network: measure it with kit profile {name}, or explore its space, {root}."
            ) from None
        raise


# ------------------------------------------------------------------------------------------------------------------ the run


def run(
    plan: ExplorationPlan,
    device: DeviceSpec,
    out: Path,
    folder: Path,
    *,
    fresh: bool = False,
    spent_s: float = 0.0,
    progress: Callable[[Progress], None] = lambda _: None,
    on_step: Callable[[Step], None] = lambda _: None,
    measure: Measure | None = None,
) -> Exploration:
    """Measure what ``plan`` asks for; records go to ``out`` (.jsonl), the files of the networks to ``folder``.

    ``on_step`` is called after each batch, ``spent_s`` counts towards the budget already, ``measure`` replaces
    the profiler. Raises UsageError,
    BackendUnavailable, StorageError, MeasurementError (nothing of a batch could be measured).
    """
    check(plan)
    start_s = time.monotonic() - spent_s

    def profile(jobs: list[Job], budget_s: float | None) -> list[ProfileRecord]:
        limited = [Job(j.target, j.settings.model_copy(update={"budget_s": budget_s})) for j in jobs]
        return profiler.profile(limited, device, out, fresh=fresh, progress=progress)

    records = {} if fresh else _measured(plan, device, out)
    session = _Session(plan, folder, records, measure or profile, start_s, on_step)
    return session.sample() if plan.sample is not None else session.choose()


def _measured(plan: ExplorationPlan, device: DeviceSpec, out: Path) -> dict[str, ProfileRecord]:
    """What ``out`` holds of the space at the same backend and operating point, by id; failures count, so as not to be tried forever."""
    if not out.is_file() or not out.stat().st_size:
        return {}
    records = {}
    for record in store.decisive(store.read_profiles([out])):
        sub = record.artifact.subnetwork
        same = (record.device.device_id, record.settings.backend, record.settings.name) == (
            device.device_id, plan.settings.backend, plan.settings.name,
        )  # fmt: skip
        if same and sub is not None and plan.space.contains(sub):
            records[record.artifact.artifact_id] = record
    return records


@dataclass
class _Session:
    """One run: its plan, and the records so far."""

    plan: ExplorationPlan
    folder: Path
    records: dict[str, ProfileRecord]
    measure: Measure
    start_s: float
    on_step: Callable[[Step], None]
    new: int = 0
    each_s: float | None = None  # wall time of a network, estimated as the run goes on

    def __post_init__(self) -> None:
        self.steps: list[Step] = []
        self.model: Predictor | None = None

    # -------------------------------------------------------------------------------------------------------- random sample

    def sample(self) -> Exploration:
        """The sample in fixed pieces, so that a killed run resumes from the journal of its last piece."""
        assert self.plan.sample is not None
        subs = self.plan.space.sample(self.plan.sample, self.plan.seed)
        names = {sub.id for sub in subs}
        ended = f"all {len(subs)} are measured"
        for start in range(0, len(subs), profiler.BATCH_JOBS):
            missing = [s for s in subs[start : start + profiler.BATCH_JOBS] if s.id not in self.records]
            while missing:
                count = self._affordable(len(missing))
                if not count:
                    return self._end("the budget is spent", reached=False, only=names)
                self._batch(missing[:count])
                missing = missing[count:]
        return self._end(ended, reached=True, only=names)

    # -------------------------------------------------------------------------------------------------------- chosen by the model

    def choose(self) -> Exploration:
        """Batches until the criterion is met or something is spent."""
        self._fit()
        if self.records:
            self._report(0, None)
        while True:
            if ended := self._reached():
                return self._end(ended, reached=True)
            remaining = len(self.pool) if self.plan.at_most is None else self.plan.at_most - len(self.records)
            free = [s.id not in self.records for s in self.pool]
            batch = min(BATCH if len(self.records) >= FIRST else FIRST - len(self.records), remaining, sum(free))
            if batch <= 0:
                ended = (
                    f"{len(self.records)} networks are measured"
                    if remaining <= 0
                    else "every network of the pool is measured"
                )
                return self._end(ended, reached=self.plan.criterion is None)
            count = self._affordable(batch)
            if not count:
                return self._end("the budget is spent", reached=self.plan.criterion is None)
            chosen = [self.pool[i] for i in self._next(np.array(free), count)]
            before = self._predict(chosen)
            records = self._batch(chosen)
            self._fit()
            self._report(len(records), before, records)

    @cached_property
    def pool(self) -> list[SubNetwork]:
        """A random part of the space, or all of a small one."""
        return self.plan.space.sample(min(POOL, self.plan.space.size), self.plan.seed)

    @cached_property
    def table(self) -> Table:
        return arrange([spaces.kernels(s) for s in self.pool])

    @property
    def model_family(self) -> ModelFamily | None:
        return None if self.model is None else active_sampling.richest_family(self.model)

    def _next(self, free: BoolArray, count: int) -> list[int]:
        if not latency.can_fit():
            return active_sampling.farthest(_features(self.pool, self.table), free, count, self.plan.seed)
        if self.model is None and not self.records:
            return active_sampling.first(
                active_sampling.pool_posterior(self.table, threads=self.plan.settings.threads), count, self.plan.seed
            )
        posterior = active_sampling.pool_posterior(self.table, self.model, self.plan.settings.threads)
        for index in np.flatnonzero(~free).tolist() if self.model is None else []:
            posterior = posterior.after(index)
        return active_sampling.choose(posterior, free, count, self._weights())

    def _weights(self) -> Float64Array | None:
        if self.plan.deadline_s is None or self.model is None:
            return None
        open_nets = active_sampling.undecided(
            self.model.of_table(self.table, model_family=self.model_family), self.plan.deadline_s
        )
        return open_nets if open_nets.any() else None

    def _batch(self, subs: Sequence[SubNetwork]) -> list[ProfileRecord]:
        """Write and measure; the folder is the caller's to delete."""
        start_s = time.monotonic()
        targets = [Target(self.folder / f"{s.id}.onnx", spaces.write(s, self.folder / f"{s.id}.onnx")) for s in subs]
        records = self.measure([Job(target, self.plan.settings) for target in targets], self._limit(len(subs)))
        self.each_s = (time.monotonic() - start_s) / len(subs)
        self.records |= {r.artifact.artifact_id: r for r in records}
        self.new += len(records)
        if all(r.status != "ok" for r in records):
            raise MeasurementError(f"Nothing of this batch was measured: {(records[0].reason or '').rstrip('.')}.")
        return records

    # --------------------------------------------------------------------------------------------------------------- budget

    def _left_s(self) -> float | None:
        return None if self.plan.budget_s is None else self.plan.budget_s - (time.monotonic() - self.start_s)

    def _cost_s(self, rounds: int) -> float:
        return rounds * (self.plan.settings.run_s + profiler.OVERHEAD_S)

    def _affordable(self, count: int) -> int:
        """How many of ``count`` networks the budget is enough for; one at least where nothing was measured yet."""
        left_s = self._left_s()
        if left_s is None:
            return count
        fits = int(max(left_s, 0.0) / (self.each_s or self._cost_s(self.plan.settings.rounds_min)))
        return min(count, max(fits, 0 if self.new else 1))

    def _limit(self, count: int) -> float | None:
        """The budget for a batch: None where it would fit in any case, so that a killed batch is taken up again."""
        left_s = self._left_s()
        if left_s is None or left_s > count * self._cost_s(self.plan.settings.rounds_max):
            return None
        return max(left_s, 0.1)

    # -------------------------------------------------------------------------------------------------------------- the estimate

    def _fit(self) -> None:
        if not latency.can_fit() or not self.records:
            return
        try:
            self.model = latency.predictor(list(self.records.values()), baselines=False, seed=self.plan.seed)
        except BadRecord:  # too few that can be trusted
            self.model = None

    def _predict(self, subs: Sequence[SubNetwork]) -> Predictions | None:
        if self.model is None:
            return None
        return self.model.predict([spaces.kernels(s) for s in subs], model_family=self.model_family)

    def _report(self, batch: int, before: Predictions | None, records: Sequence[ProfileRecord] = ()) -> None:
        within = (self.plan.criterion or Criterion()).within
        step = Step(len(self.records), batch)
        errors = _errors(before, records)
        if len(errors):
            share, error = float(np.mean(errors <= within)), float(np.mean(errors))
            step = Step(step.measured, batch, len(errors), share, error)
        if self.model is not None and self.model_family is not None:
            step = self._evaluated(step, self.model, self.model_family, within)
        self.steps.append(step)
        self.on_step(step)

    def _evaluated(self, step: Step, model: Predictor, family: ModelFamily, within: float) -> Step:
        rest = np.array([i for i, s in enumerate(self.pool) if s.id not in self.records], dtype=np.int64)
        predictions = model.of_table(self.table.pick(rest), model_family=family) if len(rest) else None
        deadline_s = self.plan.deadline_s
        return replace(
            step,
            form=family,
            estimated=1.0 if predictions is None else active_sampling.share_within(predictions, model.level, within),
            validated=_validated(model, family, within),
            undecided=None
            if deadline_s is None or predictions is None
            else float(active_sampling.undecided(predictions, deadline_s).mean()),
        )

    def _reached(self) -> str | None:
        """Why this is enough, as a sentence's end; None while it is not."""
        if not self.steps or self.model is None:
            return None
        last, criterion, decided = self.steps[-1], self.plan.criterion, True
        if self.plan.deadline_s is not None:
            decided = last.undecided is None or last.undecided == 0.0
            if criterion is None:
                return f"no interval holds {self.plan.deadline_s * 1e3:g} ms any more" if decided else None
        if criterion is None or last.share is None or last.share < criterion.share or not decided:
            return None
        return f"{last.share:.1%} of {self.plan.space.name} are expected within +-{criterion.within:.0%}"

    def _end(self, ended: str, *, reached: bool, only: set[str] | None = None) -> Exploration:
        records = [r for name, r in self.records.items() if only is None or name in only]
        return Exploration(tuple(records), self.new, tuple(self.steps), ended, reached, self.model)


def _validated(model: Predictor, model_family: ModelFamily, within: float) -> float | None:
    """The share of the measured networks that cross-validation predicts within ``within``: as counted at 5 and 10 %, else by the
    spread of the family's errors."""
    score = next((s for s in model.scores if s.form == model_family and s.candidate), None)
    if score is None:
        return None
    counted = {0.05: score.quality.within_5, 0.10: score.quality.within_10}
    if round(within, 6) in counted:
        return counted[round(within, 6)]
    return active_sampling.normal_share(score.reach * score.sd, model.level, within)


def _errors(before: Predictions | None, records: Sequence[ProfileRecord]) -> Float64Array:
    """Relative errors of a batch's predictions, of the records that can be trusted."""
    if before is None:
        return np.zeros(0)
    pairs = [(float(p), _seconds(r)) for p, r in zip(before.seconds, records, strict=True) if r.trusted]
    return np.array([abs(p / s - 1.0) for p, s in pairs if s])


def _seconds(record: ProfileRecord) -> float | None:
    measured = record.measurement
    return None if measured is None else measured.usual_s


def _features(subs: Sequence[SubNetwork], table: Table) -> Float64Array:
    """The coordinates of a network in its space: log MACs, log weight bytes, depth, log width, log resolution, precision."""
    rows = [(s.depth, np.log(s.width), np.log(s.resolution_px), 3.0 * s.bits) for s in subs]
    return np.column_stack(
        [np.log(np.maximum(table.total(table.macs), 1.0)), np.log(table.weight_bytes), np.array(rows)]
    )
