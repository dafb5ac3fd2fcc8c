"""How good are the latency models? Few networks of a measured random sample, the rest predicted, beside baselines and the repeat.

    python bench/latency_models.py profiles/DEVICE/resnet18-space.jsonl ... [--count 40] [--seeds 5] [--json | --markdown]

Of each file's networks ``--count`` are "measured": chosen as `kit explore` would (active sampling), or at random. Each form is
fitted to them and asked for all others. Beside it stand the papers' line through the same networks, a random forest and a layer-wise
lookup table, and, where NAME-again.jsonl lies beside NAME.jsonl, how well a second measurement of the same networks repeats the first.
Truth is the drift-corrected median. Transfer (--transfer FILE=BASE ...): ten networks of FILE with the model of all of BASE behind
them; FILE:int8 takes one precision. Records that list no kernels (those of `kit build`) take them from the ONNX files in --build.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kit import latency, store
from kit.cli import show
from kit.errors import BadRecord, KitError
from kit.latency import MODEL_FAMILIES, Predictor, active_sampling, baselines
from kit.latency.features import arrange
from kit.latency.fitting import Data
from kit.latency.kernels import kernels_of
from kit.latency.parametric import Cases
from kit.records import ProfileRecord
from kit.stats import Float64Array

FIRST, BATCH = 10, 5  # as kit explore measures
TRANSFERRED = 10
NAMES = {
    "factor": "line (papers' form, fitted)",
    "forest": "random forest",
    "lookup": "layer-wise lookup",
    "repeat": "measured again",
}


@dataclass(frozen=True)
class Score:
    """Errors of one method on the networks that it was not fitted to, over all seeds; coverage of its 90 % intervals."""

    networks: str
    choice: str
    method: str
    seeds: int
    count: int
    mape: float
    within_5: float
    within_10: float
    worst: float
    coverage: float | None = None


class Sample:
    """The trusted records of one file with their kernels and drift-corrected seconds."""

    def __init__(self, path: Path, count: int, precision: str = "", build: Path | None = None) -> None:
        self.path, self.name = path, f"{path.parent.name} {path.stem} {precision}".strip()
        usable = [with_kernels(p, build) for p in store.decisive(store.read_profiles([path])) if p.trusted]
        usable = [p for p in usable if kernels_of(p.artifact)]
        self.profiles = [p for p in usable if not precision or p.artifact.precision == precision]
        if len(self.profiles) <= count:
            raise BadRecord(f"{path} holds {len(self.profiles)} trusted networks: more than {count} are needed.")
        self.table = arrange([kernels_of(p.artifact) or () for p in self.profiles])
        self.seconds = np.array([seconds(p) for p in self.profiles])

    def pick(self, index: Sequence[int]) -> list[ProfileRecord]:
        return [self.profiles[i] for i in index]

    def chosen(self, how: str, count: int, seed: int) -> list[int]:
        """Indices of the networks that are measured."""
        if how == "random":
            return [int(i) for i in np.random.default_rng(seed).permutation(len(self.profiles))[:count]]
        taken = active_sampling.first(active_sampling.pool_posterior(self.table), min(FIRST, count), seed)
        while len(taken) < count:
            model = latency.predictor(self.pick(taken), baselines=False)
            free = np.ones(len(self.profiles), dtype=bool)
            free[taken] = False
            taken += active_sampling.choose(
                active_sampling.pool_posterior(self.table, model), free, min(BATCH, count - len(taken))
            )
        return taken


def with_kernels(profile: ProfileRecord, build: Path | None) -> ProfileRecord:
    """The record with the kernels of its file in ``build``, where it lists none itself and the file has its multiply-accumulates."""
    path = None if build is None else build / f"{profile.artifact.artifact_id}.onnx"
    if path is None or not path.is_file() or kernels_of(profile.artifact):
        return profile
    from kit.variants import graph

    kernels = graph.kernels(graph.load(path), str(path)) or ()
    if sum(k.macs * k.count for k in kernels) != profile.artifact.macs:
        return profile
    return profile.model_copy(update={"artifact": profile.artifact.model_copy(update={"kernels": kernels})})


def seconds(profile: ProfileRecord) -> float:
    assert profile.measurement is not None
    return profile.measurement.usual_s


def score(
    networks: str, choice: str, method: str, count: int, errors: list[Float64Array], held: list[Float64Array] | None
) -> Score:
    sizes = np.abs(np.concatenate(errors))
    return Score(
        networks=networks, choice=choice, method=method, seeds=len(errors), count=count, mape=float(sizes.mean()),
        within_5=float(np.mean(sizes <= 0.05)), within_10=float(np.mean(sizes <= 0.10)), worst=float(sizes.max()),
        coverage=float(np.mean(np.concatenate(held))) if held else None,
    )  # fmt: skip


def scores(sample: Sample, choice: str, count: int, seeds: int) -> list[Score]:
    errors: dict[str, list[Float64Array]] = {}
    held: dict[str, list[Float64Array]] = {}
    for seed in range(seeds):
        taken = sample.chosen(choice, count, seed)
        rest = np.setdiff1d(np.arange(len(sample.profiles)), taken)
        model, table, truth = (
            latency.predictor(sample.pick(taken), baselines=False),
            sample.table.pick(rest),
            sample.seconds[rest],
        )
        for family in ("chosen", *MODEL_FAMILIES):
            try:
                predictions = model.of_table(table, model_family=None if family == "chosen" else family)
            except KitError:
                continue
            errors.setdefault(family, []).append(predictions.seconds / truth - 1.0)
            held.setdefault(family, []).append(
                ((predictions.low <= truth) & (truth <= predictions.high)).astype(np.float64)
            )
        for name, values in others(model, sample, rest, seed).items():
            errors.setdefault(name, []).append(values / truth - 1.0)
    name = sample.path.stem
    return [score(name, choice, method, count, predictions, held.get(method)) for method, predictions in errors.items()]


def others(model: Predictor, sample: Sample, rest: Float64Array, seed: int) -> dict[str, Float64Array]:
    """Seconds by the methods that kit never chooses, fitted to what ``model`` was fitted to."""
    train = Data(
        model.measured.cases(model.states), np.array(model.measured.seconds), np.array(model.measured.spread),
        np.arange(len(model.measured.seconds)),
    )  # fmt: skip
    test = Cases.of(sample.table.pick(rest), model.states)
    return {"forest": baselines.forest(train, test, seed), "lookup": baselines.lookup(train, test)}


def repeat(sample: Sample) -> Score | None:
    """The second measurement of the same networks against the first."""
    again = sample.path.with_name(f"{sample.path.stem}-again.jsonl")
    if not again.is_file():
        return None
    first = {p.artifact.artifact_id: seconds(p) for p in sample.profiles}
    second = [p for p in store.read_profiles([again]) if p.trusted and p.artifact.artifact_id in first]
    errors = np.array([seconds(p) / first[p.artifact.artifact_id] - 1.0 for p in second])
    return score(sample.path.stem, "", "repeat", len(second), [errors], None)


def named(text: str, build: Path | None) -> Sample:
    """``FILE`` or ``FILE:precision``."""
    path, _, precision = text.partition(":")
    return Sample(Path(path), TRANSFERRED, precision, build)


def transfer(pair: str, seeds: int, choice: str, build: Path | None = None) -> list[Score]:
    """Ten networks of one sample alone and with the model of the whole other one behind them."""
    sample, base = (named(text, build) for text in pair.split("=", 1))
    source = latency.predictor(base.profiles, baselines=False)
    scores = []
    for method, behind in (("alone", None), (f"from {base.name}", source)):
        errors, held = [], []
        for seed in range(seeds):
            taken = sample.chosen(choice, TRANSFERRED, seed)
            rest = np.setdiff1d(np.arange(len(sample.profiles)), taken)
            model = latency.predictor(sample.pick(taken), base=behind, baselines=False)
            predictions = model.of_table(sample.table.pick(rest), sample.profiles[0].settings)
            truth = sample.seconds[rest]
            errors.append(predictions.seconds / truth - 1.0)
            held.append(((predictions.low <= truth) & (truth <= predictions.high)).astype(np.float64))
        scores.append(score(sample.name, choice, method, TRANSFERRED, errors, held))
    return scores


def rows(scores: Sequence[Score]) -> list[list[str]]:
    return [
        [
            s.networks, s.choice, NAMES.get(s.method, s.method), str(s.count), f"{s.mape:.1%}", f"{s.within_5:.1%}", f"{s.within_10:.1%}",
            f"{s.worst:.0%}", "" if s.coverage is None else f"{s.coverage:.0%}",
        ]
        for s in scores
    ]  # fmt: skip


HEAD = ("networks", "chosen", "method", "measured", "mean error", "within 5 %", "within 10 %", "worst", "90 % held")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--choice", nargs="+", default=["active", "random"], choices=["active", "random"])
    parser.add_argument("--transfer", nargs="+", default=[], metavar="FILE=BASE")
    parser.add_argument("--build", type=Path, help="folder of kit build, for records that list no kernels")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    results: list[Score] = []
    try:
        for path in given.files:
            sample = Sample(path, given.count)
            for choice in given.choice:
                results += scores(sample, choice, given.count, given.seeds)
            results += [again] if (again := repeat(sample)) else []
        for pair in given.transfer:
            for choice in given.choice:
                results += transfer(pair, given.seeds, choice, given.build)
    except KitError as error:
        sys.exit(f"latency_models: {error}")
    if given.json:
        print(json.dumps([asdict(s) for s in results], indent=2))
    elif given.markdown:
        print("\n".join("| " + " | ".join(cells) + " |" for cells in [list(HEAD), ["---"] * len(HEAD), *rows(results)]))
    else:
        table = show.make_table("Latency models", *HEAD)
        for cells in rows(results):
            table.add_row(*cells)
        show.print_table(table)


if __name__ == "__main__":
    main()
