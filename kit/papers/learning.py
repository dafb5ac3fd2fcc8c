"""Learning that may be killed: numbered steps, a random generator for each, a checkpoint now and then, the same end in any case.

A step draws everything from ``kit.papers.streams.generator`` of its own number, so nothing of a generator needs to be kept, and a run that
goes on after a kill ends with the bits of one that was never stopped. A checkpoint is a file of plain arrays (``.npz``), written whole or
not at all.
"""

from __future__ import annotations

import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from kit import store
from kit.errors import BadModel, UsageError
from kit.nets.export import onnx_of, program_of
from kit.stats import Float64Array

Arrays: TypeAlias = dict[str, NDArray[np.float64]]
#: Steps done, steps in all, the mean loss since the last call.
Said: TypeAlias = Callable[[int, int, float], None]
#: What is being done, and which share of the whole is done.
Told: TypeAlias = Callable[[str, float], None]

CHECKPOINT_S = 20.0
SAID_S = 0.25


class Learner(Protocol):
    """What learns: one gradient step at a time, and its whole state as arrays."""

    def step(self, number: int) -> float:
        """Do step ``number`` (from 0) and return its loss."""
        ...

    def state(self) -> Arrays: ...

    def restore(self, state: Mapping[str, NDArray[np.float64]]) -> None: ...


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread inside: these networks are small, and a sum's order, hence its bits, depends on the threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def learn(
    learner: Learner,
    steps: int,
    *,
    checkpoint: Path | None = None,
    name: str = "",
    said: Said | None = None,
    every_s: float = CHECKPOINT_S,
) -> Float64Array:
    """The loss of each of ``steps`` steps. With a ``checkpoint`` it goes on where another run of the same ``name`` stopped.

    ``name`` says all that decides the result (network, recipe, seed); a checkpoint of another name is refused. The file goes when all is
    done. Raises UsageError (another run's checkpoint), BadModel (a broken one), StorageError.
    """
    losses = np.full(steps, np.nan)
    begun = 0
    if checkpoint is not None and checkpoint.is_file():
        begun, kept, state = _read(checkpoint, name)
        begun = min(begun, steps)
        losses[:begun] = kept[:begun]
        learner.restore(state)
    saved = spoken = time.monotonic()
    unsaid = begun
    for number in range(begun, steps):
        losses[number] = learner.step(number)
        now = time.monotonic()
        if said is not None and (now - spoken > SAID_S or number + 1 == steps):
            said(number + 1, steps, float(np.mean(losses[unsaid : number + 1])))
            spoken, unsaid = now, number + 1
        if checkpoint is not None and now - saved > every_s and number + 1 < steps:
            _write(checkpoint, name, number + 1, losses[: number + 1], learner.state())
            saved = now
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return losses


def arrays_of(modules: Mapping[str, torch.nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]) -> Arrays:
    """The weights of ``modules`` and what ``optimizers`` (Adam's kind) remember, as arrays by name."""
    found: Arrays = {}
    for name, module in modules.items():
        found |= {f"{name}/{key}": value.detach().cpu().numpy().copy() for key, value in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for at, held in optimizer.state_dict()["state"].items():
            found |= {f"{name}/{at}/{key}": torch.as_tensor(v).cpu().numpy().copy() for key, v in held.items()}
    return found


def put_back(
    arrays: Mapping[str, NDArray[np.float64]],
    modules: Mapping[str, torch.nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Undo :func:`arrays_of`. Raises BadModel where the arrays are another network's."""
    try:
        for name, module in modules.items():
            module.load_state_dict({key: torch.tensor(arrays[f"{name}/{key}"]) for key in module.state_dict()})
    except (KeyError, RuntimeError):
        raise BadModel("This checkpoint holds another network's weights: remove it and learn anew.") from None
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in arrays.items():
            owner, _, rest = key.partition("/")
            if owner == name:
                at, _, what = rest.partition("/")
                state.setdefault(int(at), {})[what] = torch.tensor(value)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def check_device(device: str) -> None:
    """Raises UsageError for a device that torch does not find here."""
    if device == "cpu" or (device == "cuda" and torch.cuda.is_available()):
        return
    raise UsageError(f"Torch finds no device '{device}' here: take --device cpu.")


def exported(module: torch.nn.Module, columns: int) -> bytes:
    """A module as ONNX: float32 rows of ``columns`` numbers to rows of numbers, any number of rows. Raises IntegrityError."""
    rows = ({0: torch.export.Dim("rows")},)
    program = program_of(module.eval(), (torch.zeros(2, columns),), rows)
    return onnx_of(program, input_names=["input"], output_names=["output"])


def _write(path: Path, name: str, done: int, losses: Sequence[float] | Float64Array, state: Arrays) -> None:
    buffer = BytesIO()
    held = {f"state/{key}": value for key, value in state.items()}
    np.savez(buffer, name=np.array(name), done=np.array(done), losses=np.asarray(losses), **held)  # type: ignore[arg-type]
    store.write_atomic(path, buffer.getvalue())


def _read(path: Path, name: str) -> tuple[int, Float64Array, Arrays]:
    with store.explained(path, "read"):
        data = path.read_bytes()
    try:
        with np.load(BytesIO(data), allow_pickle=False) as file:
            found, done, losses = str(file["name"]), int(file["done"]), file["losses"]
            state = {key.removeprefix("state/"): file[key] for key in file.files if key.startswith("state/")}
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error):
        raise BadModel(f"{path} is no checkpoint of kit's: remove it and learn anew.") from None
    if found != name:
        raise UsageError(f"{path} is the checkpoint of {found or 'another run'}: give another folder, or remove it.")
    return done, losses, state
