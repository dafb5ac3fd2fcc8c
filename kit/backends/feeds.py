"""What a network is fed: samples, rules of the user, else values chosen by what consumes the input.

In this order: a rule for the input (``--input``), samples (``--inputs``), the sample that lies beside the model, synthetic values. Floats
are standard normal (no denormals, no zeros to skip). Integers are what their consumer takes: indices within the table, lengths and trip
counts that do something, divisors that are not zero.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit import store
from kit.backends import steering
from kit.backends.onnxgraph import Graph
from kit.errors import IntegrityError, UnknownName, UsageError, first_line
from kit.records import FedInput, InputRule, TensorSpec

Feeds = Mapping[str, NDArray[Any]]
SAMPLES_MAX = 1000
SAMPLE_BYTES_MAX = 1 << 30  # of all arrays of a file of samples, unpacked
TRIPS = 8  # iterations of a Loop that nobody gave a trip count
WORD = "kit"  # what a text input is fed


@dataclass(frozen=True)
class Fed:
    """The samples, which take turns, and what each input got."""

    samples: tuple[Feeds, ...]
    inputs: tuple[FedInput, ...]

    @property
    def synthetic(self) -> bool:
        """Whether kit chose whole numbers that a runtime may not take."""
        return any(not f.given and not f.dtype.startswith("float") for f in self.inputs)


def make_feeds(inputs: tuple[TensorSpec, ...], seed: int) -> dict[str, NDArray[Any]]:
    """Inputs of the right shapes where nothing is known of their consumers: standard normal for floats, zeros for the rest."""
    rng = np.random.default_rng(seed)
    return {spec.name: _plain(spec, rng) for spec in inputs}


def fed(
    inputs: tuple[TensorSpec, ...],
    *,
    graph: Graph | None = None,
    rules: Sequence[InputRule] = (),
    samples: Path | None = None,
    sidecar: Path | None = None,
    seed: int = 0,
    zeros: bool = False,
) -> Fed:
    """Samples for ``inputs`` (fixed shapes).

    ``samples`` is a .npz, a .npy or a folder of them; ``sidecar`` the sample that lies beside the model; ``zeros`` feeds zeros where kit
    would choose whole numbers. Raises UnknownName and UsageError (a rule or sample that does not fit), IntegrityError (a broken file).
    """
    by_name = {rule.name: rule for rule in rules}
    if unknown := set(by_name) - {spec.name for spec in inputs}:
        raise UnknownName("input", min(unknown), [spec.name for spec in inputs])
    steered, chosen = _analysed(graph)
    stored, source = (_samples(samples, inputs), samples.name) if samples else (_sidecar(sidecar, inputs), "")
    rng = np.random.default_rng(seed)
    columns: dict[str, list[NDArray[Any]]] = {}
    facts = []
    for spec in inputs:
        arrays, rule, given = _column(spec, by_name.get(spec.name), stored, source, graph, chosen, rng, zeros=zeros)
        columns[spec.name] = arrays
        facts.append(_fact(spec, arrays, rule, given, steered.get(spec.name)))
    count = max(map(len, columns.values()), default=1)
    turns = tuple({name: arrays[i % len(arrays)] for name, arrays in columns.items()} for i in range(count))
    return Fed(turns, tuple(facts))


def _column(
    spec: TensorSpec, rule: InputRule | None, stored: Mapping[str, list[NDArray[Any]]], source: str, graph: Graph | None,
    consumers: Mapping[str, list[steering.Use]], rng: np.random.Generator, *, zeros: bool,
) -> tuple[list[NDArray[Any]], str, bool]:  # fmt: skip
    """The arrays of one input, in turn; the rule that made them, as text; and whether somebody gave it."""
    if rule is not None:
        array, text = _ruled(spec, rule, rng)
        return [array], text, True
    if spec.name in stored:
        return stored[spec.name], f"samples of {source}" if source else "sample of the sidecar", True
    if not consumers.get(spec.name):
        array = _plain(spec, rng)
        return [array], "random normal" if spec.dtype.startswith(("float", "bfloat")) else _word_of(spec), False
    if zeros and not spec.dtype.startswith("float"):
        return [_plain(spec, rng)], "zeros: the network does not take what kit would choose", False
    array, text = _by_consumer(spec, consumers[spec.name], graph, rng)
    return [array], text, False


def _word_of(spec: TensorSpec) -> str:
    return f"the text '{WORD}'" if spec.dtype == "string" else "zeros"


def _fact(spec: TensorSpec, arrays: Sequence[NDArray[Any]], rule: str, given: bool, steers: str | None) -> FedInput:
    first = arrays[0]
    data = (
        "\0".join(map(str, first.reshape(-1))).encode() if first.dtype == object else np.ascontiguousarray(first).data
    )
    return FedInput(
        name=spec.name, dtype=spec.dtype, shape=spec.shape, rule=rule, given=given, steers=steers, samples=len(arrays),
        sha256=store.sha256_bytes(bytes(data)),
    )  # fmt: skip


def _analysed(graph: Graph | None) -> tuple[dict[str, str], dict[str, list[steering.Use]]]:
    """What the inputs steer and where they are used; nothing of a graph that cannot be read."""
    if graph is None:
        return {}, {}
    try:
        return steering.steering(graph), steering.uses(graph)
    except (ValueError, IndexError):
        return {}, {}


# ------------------------------------------------------------------------------------------------------- plain and ruled


def _numpy(spec: TensorSpec) -> np.dtype[Any]:
    """The dtype of the array that is fed; numbers of a bfloat16 travel as the upper halves of floats."""
    return np.dtype({"bfloat16": "uint16", "string": "object"}.get(spec.dtype, spec.dtype))


def _plain(spec: TensorSpec, rng: np.random.Generator) -> NDArray[Any]:
    if spec.dtype == "string":
        return np.full(spec.shape, WORD, dtype=object)
    if spec.dtype == "bfloat16":
        return _as_bfloat16(rng.standard_normal(spec.shape))
    if np.issubdtype(_numpy(spec), np.floating):
        return np.asarray(rng.standard_normal(spec.shape)).astype(spec.dtype)
    return np.zeros(spec.shape, dtype=_numpy(spec))


def _as_bfloat16(values: Any) -> NDArray[np.uint16]:
    halves = np.asarray(values, dtype=np.float32).view(np.uint32) >> 16
    return np.asarray(halves, dtype=np.uint16)


def _cast(spec: TensorSpec, values: Any, what: str) -> NDArray[Any]:
    """``values`` in the type of the input. Raises UsageError where the type cannot hold them."""
    if spec.dtype == "string":
        return np.asarray(values, dtype=object).astype(str).astype(object)
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{what} of input '{spec.name}' is no number: its type is {spec.dtype}.")
    if spec.dtype == "bfloat16":
        return _as_bfloat16(array)
    with np.errstate(all="ignore"):
        converted = array.astype(_numpy(spec))
    exact = np.issubdtype(_numpy(spec), np.floating) or np.array_equal(converted.astype(array.dtype), array)
    if not exact:
        raise UsageError(f"{what} of input '{spec.name}' does not fit its type {spec.dtype}.")
    return converted


def _ruled(spec: TensorSpec, rule: InputRule, rng: np.random.Generator) -> tuple[NDArray[Any], str]:
    if rule.form == "zeros":
        return np.zeros(spec.shape, dtype=_numpy(spec)), "zeros"
    if rule.form == "random":
        low, high = rule.low or 0.0, rule.high or 0.0
        if np.issubdtype(_numpy(spec), np.floating) or spec.dtype == "bfloat16":
            values: Any = rng.uniform(low, high, spec.shape)
        else:
            values = rng.integers(math.ceil(low), math.floor(high), spec.shape, endpoint=True)
        return _cast(spec, values, f"random:{low:g}..{high:g}"), f"random {low:g} to {high:g}"
    if rule.form == "value":
        return np.full(spec.shape, _cast(spec, rule.value, f"The value {rule.value}")[()]), f"value {rule.value}"
    assert rule.file is not None
    (array,) = _arrays(Path(rule.file), (spec,)).values()
    return _shaped(array, spec, rule.file)[0], f"file {Path(rule.file).name}"


def rule_of(text: str) -> InputRule:
    """``NAME=FILE.npy``, ``NAME=VALUE``, ``NAME=random:LOW..HIGH`` or ``NAME=zeros`` as a rule. Raises UsageError.

    >>> rule_of("ids=random:0..99").high
    99.0
    """
    name, equals, how = text.rpartition("=")
    if not equals or not name or not how:
        raise UsageError(
            f"--input '{text}' cannot be read: write NAME=FILE.npy, NAME=5, NAME=random:0..99 or NAME=zeros."
        )
    if how == "zeros":
        return InputRule(name=name, form="zeros")
    if how.startswith("random:"):
        low, dots, high = how.removeprefix("random:").partition("..")
        try:
            bounds = float(low), float(high)
        except ValueError:
            bounds = (1.0, 0.0)
        if not dots or not bounds[0] <= bounds[1] or not all(map(math.isfinite, bounds)):
            raise UsageError(f"--input {name}: '{how}' is no range: write it like random:0..99.")
        return InputRule(name=name, form="random", low=bounds[0], high=bounds[1])
    if how.lower().endswith(".npy"):
        if not Path(how).is_file():
            raise UsageError(f"--input {name}: {how} does not exist.")
        return InputRule(name=name, form="file", file=str(Path(how).absolute()))
    return InputRule(name=name, form="value", value=_value(how))


def _value(text: str) -> float | int | bool | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


# --------------------------------------------------------------------------------------------------------------- samples


def _samples(path: Path, inputs: tuple[TensorSpec, ...]) -> dict[str, list[NDArray[Any]]]:
    """The arrays of a .npz, a .npy or a folder of them, by input. Raises UsageError, IntegrityError."""
    columns: dict[str, list[NDArray[Any]]] = {}
    for file in _sample_files(path)[:SAMPLES_MAX]:
        for name, array in _arrays(file, inputs).items():
            spec = next((s for s in inputs if s.name == name), None)
            if spec is not None:
                columns.setdefault(name, []).extend(_shaped(array, spec, str(file)))
    if not columns:
        names = ", ".join(spec.name for spec in inputs)
        raise UsageError(f"--inputs {path} holds no array with the name of an input: the inputs are {names}.")
    counts = {name: len(arrays) for name, arrays in columns.items()}
    if len({count for count in counts.values() if count > 1}) > 1:
        listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise UsageError(f"--inputs {path} holds {listed}: give every input as many samples.")
    return {name: arrays[:SAMPLES_MAX] for name, arrays in columns.items()}


def _sample_files(path: Path) -> list[Path]:
    """The files of samples at ``path``, in order. Raises UsageError where there is none."""
    if not path.exists():
        raise UsageError(f"--inputs {path} does not exist: give a .npz, a .npy or a folder of them.")
    files = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"--inputs {path} holds no .npz and no .npy: name the arrays in them like the inputs.")
    return files


def given_shapes(names: Sequence[str], rules: Sequence[InputRule], samples: Path | None) -> dict[str, tuple[int, ...]]:
    """The shape of the first array that somebody gives each of the inputs ``names``. Raises UsageError, IntegrityError."""
    specs = tuple(TensorSpec(name=name, shape=(), dtype="float32") for name in names)
    shapes: dict[str, tuple[int, ...]] = {}
    for rule in rules:
        if rule.file is not None:
            (array,) = _arrays(Path(rule.file), specs[:1]).values()
            shapes[rule.name] = array.shape
    for file in _sample_files(samples) if samples is not None else ():
        for name, array in _arrays(file, specs).items():
            shapes.setdefault(name, array.shape)
        if shapes.keys() >= set(names):
            break
    return shapes


def _sidecar(path: Path | None, inputs: tuple[TensorSpec, ...]) -> dict[str, list[NDArray[Any]]]:
    """The first sample that lies beside the model, for each input that it fits; nothing where it was taken for another shape."""
    if path is None or not path.is_file():
        return {}
    columns = {}
    for name, array in _arrays(path, inputs).items():
        spec = next((s for s in inputs if s.name == name), None)
        if spec is not None and array.shape[1:] == spec.shape[1:] and array.ndim and len(array):
            rows = np.resize(np.arange(len(array)), spec.shape[0])
            columns[name] = [_cast(spec, array[rows], path.name)]
    return columns


def _arrays(path: Path, inputs: tuple[TensorSpec, ...]) -> dict[str, NDArray[Any]]:
    """The arrays of a file by input; a .npy, and the array "input" of a sample, are those of the only input.

    Objects, which would have to be unpickled, are refused with everything that is no .npy and no .npz.
    """
    try:
        if path.suffix == ".npy":
            arrays = {"input": np.load(path, mmap_mode="r", allow_pickle=False)}
        else:
            arrays = unpacked(path)
    except UsageError:
        raise
    except Exception as error:  # what a broken or hostile file can raise has no list
        reason = first_line(error)
        raise IntegrityError(
            f"{path} holds no plain arrays ({reason}): write it with numpy.save or numpy.savez."
        ) from None
    if len(inputs) == 1 and inputs[0].name not in arrays and "input" in arrays:
        arrays[inputs[0].name] = arrays.pop("input")
    return arrays


def unpacked(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz by name; nothing is unpickled.

    Raises UsageError (it unpacks to more than :data:`SAMPLE_BYTES_MAX`), and what NumPy and zipfile raise of a broken or hostile file.
    """
    with zipfile.ZipFile(path) as packed:
        size_bytes = sum(entry.file_size for entry in packed.infolist())
    if size_bytes > SAMPLE_BYTES_MAX:
        raise UsageError(f"{path} unpacks to {size_bytes >> 20} MB: give fewer samples (1,024 MB at most).")
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _shaped(array: NDArray[Any], spec: TensorSpec, file: str) -> list[NDArray[Any]]:
    """``array`` as samples of the input's shape: one, or several along its first axis. Raises UsageError."""
    if array.shape == spec.shape:
        return [_cast(spec, array, file)]
    if array.shape[1:] == spec.shape and len(array):
        return [_cast(spec, part, file) for part in array[:SAMPLES_MAX]]
    rows = spec.shape[0] if spec.shape else 0
    if spec.shape and array.shape[1:] == spec.shape[1:] and rows and len(array) >= rows:
        parts = range(0, min(len(array) - rows + 1, SAMPLES_MAX * rows), rows)
        return [_cast(spec, array[i : i + rows], file) for i in parts]
    raise UsageError(
        f"{file} has an array of shape {list(array.shape)} for input '{spec.name}', which is {list(spec.shape)}: give that shape, "
        "or set free dimensions with --dim."
    )


# --------------------------------------------------------------------------------------------------- by what consumes it

_COMPARISONS = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"})
_INDEXED = {"Gather": (1, 0), "GatherElements": (1, 0), "ScatterElements": (1, 0), "Scatter": (1, 0), "OneHot": (0, -1)}
_EMBEDDED = {0: 2, 1: 4}  # of EmbedLayerNormalization: ids -> their table


def _by_consumer(
    spec: TensorSpec, consumers: Sequence[steering.Use], graph: Graph | None, rng: np.random.Generator
) -> tuple[NDArray[Any], str]:
    """Values that the operators behind an input take, and why, as text."""
    assert graph is not None
    for use in sorted(consumers, key=_rank):
        where = f"{use.node.kind} '{use.node.name}'" if use.node.name else use.node.kind
        slot = steering.SLOTS.get(use.node.kind, {}).get(use.slot)
        if slot is not None and use.node.kind not in ("NonZero", "Unique", "NonMaxSuppression", "Compress"):
            values, text = _steered(spec, use, rng)
            return _cast(spec, values, "A value"), f"{text}: {slot} of {where}"
        if spec.dtype.startswith(("float", "bfloat", "string")):
            continue
        if use.node.kind in _COMPARISONS and (constant := _compared(use, graph)) is not None:
            return np.full(spec.shape, constant - use.offset).astype(
                _numpy(spec)
            ), f"value {constant}: {where} asks for it"
        if (rows := _table_rows(use, graph)) is not None:
            high = max(rows - max(use.offset, 0), 1)
            low = min(max(-use.offset, 0), high - 1)
            return rng.integers(low, high, spec.shape).astype(
                _numpy(spec)
            ), f"random {low} to {high - 1}: index of {where}"
        if use.node.kind in ("Div", "Mod") and use.slot == 1:
            return rng.integers(1, 10, spec.shape).astype(_numpy(spec)), f"random 1 to 9: divisor of {where}"
    if spec.dtype.startswith(("float", "bfloat", "string")):
        return _plain(spec, rng), "random normal" if spec.dtype != "string" else _word_of(spec)
    if spec.dtype == "bool" or "mask" in spec.name.lower():
        return np.ones(spec.shape, dtype=_numpy(spec)), "ones: a mask that hides nothing"
    low, high = {"uint8": (0, 255), "int8": (-127, 127)}.get(spec.dtype, (1, 9))
    return rng.integers(low, high, spec.shape, endpoint=True).astype(_numpy(spec)), f"random {low} to {high}"


def _rank(use: steering.Use) -> int:
    """Comparisons first, because what is compared is a choice; then what steers, then indices, then the rest."""
    if use.node.kind in _COMPARISONS:
        return 0
    if use.slot in steering.SLOTS.get(use.node.kind, {}):
        return 1
    return 2 if use.node.kind in _INDEXED or use.node.kind == "EmbedLayerNormalization" else 3


def _steered(spec: TensorSpec, use: steering.Use, rng: np.random.Generator) -> tuple[Any, str]:
    """Values for an input that steers: what does some work and breaks nothing."""
    kind, slot, shape = use.node.kind, use.slot, spec.shape
    if spec.dtype == "bool":
        return np.ones(shape, dtype=bool), "true"
    if kind == "Reshape":
        values = np.ones(shape, dtype=np.int64)
        values[..., -1:] = -1
        return values, "one row"
    fixed = {("Range", 0): 0, ("Range", 2): 1, ("Slice", 1): 0, ("Slice", 2): 2**31 - 1, ("Slice", 4): 1, ("Pad", 1): 0}
    if kind in ("Loop", "Range", "OneHot", "ConstantOfShape") and (kind, slot) not in fixed:
        return np.full(shape, TRIPS), f"value {TRIPS}"
    if (kind, slot) == ("Slice", 3):
        return np.arange(math.prod(shape)).reshape(shape), "the first axes"
    if kind in ("HannWindow", "HammingWindow", "BlackmanWindow"):
        return np.full(shape, 64), "value 64"
    number = fixed.get((kind, slot), 1)
    return np.full(shape, number), f"value {number}"


def _compared(use: steering.Use, graph: Graph) -> int | None:
    other = next((name for i, name in enumerate(use.node.inputs) if i != use.slot), "")
    for part in graph.every():
        tensor = part.stored.get(other)
        if tensor is not None and tensor.size == 1 and (values := tensor.values()) is not None:
            number = values.reshape(-1)[0]
            return int(number) if np.isfinite(number) else None
    return None


def _table_rows(use: steering.Use, graph: Graph) -> int | None:
    """How many rows the table has that an index goes into; None of what is no index, or a table of unknown size."""
    if use.node.kind == "EmbedLayerNormalization" and use.slot in _EMBEDDED:
        table, axis = _EMBEDDED[use.slot], 0
    elif use.node.kind in _INDEXED and _INDEXED[use.node.kind][0] == use.slot:
        table, axis = _INDEXED[use.node.kind][1], use.node.integer("axis")
    else:
        return None
    if table < 0:
        return 2
    name = use.node.inputs[table] if table < len(use.node.inputs) else ""
    for dims in _shapes_of(name, graph):
        if -len(dims) <= axis < len(dims) and isinstance(dims[axis], int):
            return int(dims[axis])
    return 1


def _shapes_of(name: str, graph: Graph) -> Iterator[tuple[int | str, ...]]:
    for part in graph.every():
        if (tensor := part.stored.get(name)) is not None:
            yield tensor.dims
    yield from (value.shape for value in graph.inputs if value.name == name)
