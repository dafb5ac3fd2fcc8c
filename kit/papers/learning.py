"""Training that may be killed: numbered steps, a random generator for each, a checkpoint now and then, the same end in any case.

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
StepProgress: TypeAlias = Callable[[int, int, float], None]

CHECKPOINT_S = 20.0
PROGRESS_S = 0.25


class Learner(Protocol):
    """What learns: one gradient step at a time, and its whole state as arrays."""

    def step(self, number: int) -> float:
        """Do step ``number`` (from 0) and return its loss."""
        ...

    def state(self) -> Arrays:
        """Everything that the next step depends on but its number."""
        ...

    def restore(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """Go on from a :meth:`state`."""
        ...


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
    progress: StepProgress | None = None,
    every_s: float = CHECKPOINT_S,
) -> Float64Array:
    """The loss of each of ``steps`` steps. With a ``checkpoint`` it goes on where another run of the same ``name`` stopped.

    ``name`` says all that decides the result (network, recipe, seed); a checkpoint of another name is refused. The file goes when all is
    done. Raises UsageError (another run's checkpoint), BadModel (a broken one), StorageError.
    """
    losses = np.full(steps, np.nan)
    first = 0
    if checkpoint is not None and checkpoint.is_file():
        first, stored_losses, state = _read(checkpoint, name)
        first = min(first, steps)
        losses[:first] = stored_losses[:first]
        learner.restore(state)
    saved_s = reported_s = time.monotonic()
    unreported = first
    for number in range(first, steps):
        losses[number] = learner.step(number)
        now_s = time.monotonic()
        if progress is not None and (now_s - reported_s > PROGRESS_S or number + 1 == steps):
            progress(number + 1, steps, float(np.mean(losses[unreported : number + 1])))
            reported_s, unreported = now_s, number + 1
        if checkpoint is not None and now_s - saved_s > every_s and number + 1 < steps:
            _write(checkpoint, name, number + 1, losses[: number + 1], learner.state())
            saved_s = now_s
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return losses


def arrays_of(modules: Mapping[str, torch.nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]) -> Arrays:
    """The weights of ``modules`` and what ``optimizers`` (Adam's kind) remember, as arrays by name."""
    arrays: Arrays = {}
    for name, module in modules.items():
        arrays |= {f"{name}/{key}": value.detach().cpu().numpy().copy() for key, value in module.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            arrays |= {f"{name}/{index}/{key}": torch.as_tensor(v).cpu().numpy().copy() for key, v in moments.items()}
    return arrays


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
        raise BadModel("This checkpoint holds another network's weights: remove it and train again.") from None
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in arrays.items():
            owner, _, rest = key.partition("/")
            if owner == name:
                index, _, moment = rest.partition("/")
                state.setdefault(int(index), {})[moment] = torch.tensor(value)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def check_device(device: str) -> None:
    """Raises UsageError for a device that torch does not have here."""
    if device == "cpu" or (device == "cuda" and torch.cuda.is_available()):
        return
    raise UsageError(f"Torch finds no device '{device}' here: take --device cpu.")


def exported(module: torch.nn.Module, columns: int) -> bytes:
    """A module as ONNX: float32 rows of ``columns`` numbers to rows of numbers, any number of rows. Raises IntegrityError."""
    rows = ({0: torch.export.Dim("rows")},)
    program = program_of(module.eval(), (torch.zeros(2, columns),), rows)
    return onnx_of(program, input_names=["input"], output_names=["output"])


def _write(path: Path, name: str, steps_done: int, losses: Sequence[float] | Float64Array, state: Arrays) -> None:
    buffer = BytesIO()
    arrays = {f"state/{key}": value for key, value in state.items()}
    np.savez(buffer, name=np.array(name), done=np.array(steps_done), losses=np.asarray(losses), **arrays)  # type: ignore[arg-type]
    store.write_atomic(path, buffer.getvalue())


def _read(path: Path, name: str) -> tuple[int, Float64Array, Arrays]:
    with store.explained(path, "read"):
        data = path.read_bytes()
    try:
        with np.load(BytesIO(data), allow_pickle=False) as file:
            stored_name, steps_done, losses = str(file["name"]), int(file["done"]), file["losses"]
            state = {key.removeprefix("state/"): file[key] for key in file.files if key.startswith("state/")}
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error):
        raise BadModel(f"{path} is no checkpoint of kit's: remove it and train again.") from None
    if stored_name != name:
        raise UsageError(
            f"{path} is the checkpoint of {stored_name or 'another run'}: give another folder, or remove it."
        )
    return steps_done, losses, state
