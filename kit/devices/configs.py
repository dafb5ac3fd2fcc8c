"""Device configurations, ``device_configs/*.toml``: facts that vendors publish and operating points, with their sources.

:func:`load_configs` reads them, :func:`best_config` matches one to a machine by device tree, GPU name, CPU model or
architecture, and :func:`save_config` writes one for the machine at hand.
"""

from __future__ import annotations

import json
import re
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from kit import folders, store
from kit.errors import BadRecord, UnknownName, UsageError
from kit.records import DeviceMode, DeviceSpec, GpuSpec, Record, first_problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Match(Record):
    """When a configuration is this machine's: every stated rule must hold, and of a rule's alternatives one.

    ``model`` and ``compatible`` are one rule about the board: prefixes of the device tree's model, and of the parts of
    its compatible entries (``p3767-0005`` fits ``nvidia,p3768-0000+p3767-0005-super``).
    """

    machine: str | None = None
    model: tuple[str, ...] = ()
    compatible: tuple[str, ...] = ()
    cpu_model: str | None = None
    logical_cores: int | None = None
    gpu: tuple[str, ...] = ()  # prefixes of the first GPU's name


class CpuFacts(Record):
    """What a device file says of its CPU."""

    model: str | None = None
    cores: int | None = None
    clock_hz: float | None = None  # the highest clock that the vendor publishes


class MemoryFacts(Record):
    """Memory that CPU (and an integrated GPU) see."""

    sizes_bytes: tuple[int, ...] = ()
    type: str | None = None
    bandwidth_bytes_per_s: float | None = None


class GpuFacts(Record):
    """What a device file says of its GPU."""

    name: str
    memory_bytes: int | None = None
    memory_bandwidth_bytes_per_s: float | None = None
    cuda_cores: int | None = None
    tensor_cores: int | None = None
    max_clock_hz: float | None = None
    power_w: float | None = None


class Peak(Record):
    """An advertised rate. 1 MAC is 2 operations; ``sparse`` rates assume half of the weights to be zero."""

    precision: str
    ops_per_s: float
    sparse: bool = False


class DeviceConfig(Record):
    """One ``device_configs/NAME.toml``: what people know about a device. What is not published is left out."""

    name: str
    title: str
    match: Match
    cpu: CpuFacts = CpuFacts()
    memory: MemoryFacts = MemoryFacts()
    gpu: GpuFacts | None = None
    peaks: tuple[Peak, ...] = ()
    operating_points: tuple[DeviceMode, ...] = ()


def load_configs(folder: Path | None = None) -> dict[str, DeviceConfig]:
    """Every configuration by name: those of ``folder``, or the shipped ones and the user's own (:func:`kit.folders.configs`).

    Raises UsageError (no such folder, broken TOML), UnknownName (an unknown key), BadRecord (a wrong value).
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(f"{folder} is no folder: name one that holds device configurations (*.toml).")
    places = [folder] if folder is not None else [folders.shipped("device_configs"), folders.configs()]
    files = {file.stem: file for place in places for file in sorted(place.glob("*.toml"))}
    return {name: _read_config(files[name]) for name in sorted(files)}


def _read_config(file: Path) -> DeviceConfig:
    with store.explained(file, "read"):
        data = file.read_bytes()
    return _parse_config(data, file.stem, str(file))


def _parse_config(data: bytes, stem: str, source: str) -> DeviceConfig:
    try:
        parsed = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{source} is not TOML ({error}): correct that line.") from None
    try:
        config = DeviceConfig.model_validate(parsed)
    except ValidationError as error:
        raise _explain(error, source) from None
    if config.name != stem:
        raise BadRecord(f"{source} is named '{config.name}' inside: file name and name must agree.")
    return config


def _explain(error: ValidationError, source: str) -> UsageError:
    unknown = [problem["loc"] for problem in error.errors() if problem["type"] == "extra_forbidden"]
    if not unknown:
        return BadRecord(f"{source} is no device configuration: {first_problem(error)}.")
    *path, last = unknown[0]  # reported before a missing key: a misspelt key is both
    keys: Iterable[str] = _model_at(path).model_fields
    return UnknownName(f"key in {source} [{'.'.join(map(str, path)) or 'top'}]", str(last), keys)


def _model_at(path: Sequence[int | str]) -> type[BaseModel]:
    """The model that holds the keys at ``path`` of a DeviceConfig."""
    model: type[BaseModel] = DeviceConfig
    for key in path:
        if isinstance(key, str):
            kind = model.model_fields[key].annotation
            model = next(k for k in (kind, *typing.get_args(kind)) if isinstance(k, type) and issubclass(k, BaseModel))
    return model


class Hardware(Record):
    """What a configuration is matched against."""

    machine: str
    board: str | None  # the device tree's model
    compatible: tuple[str, ...]
    cpu_model: str
    logical_cores: int
    gpus: tuple[GpuSpec, ...] = ()


def best_config(configs: Iterable[DeviceConfig], hardware: Hardware) -> DeviceConfig | None:
    """The most specific configuration that fits, or None."""
    rated = [(_fit(config.match, hardware), config.name, config) for config in configs]
    fitting = sorted((r for r in rated if r[0] is not None), key=lambda r: (r[0], r[1]))
    return fitting[-1][2] if fitting else None


def _fit(match: Match, hardware: Hardware) -> tuple[int, int] | None:
    """How specific the rules are (their weight, the length of the prefix that fits), or None when one does not hold."""
    board = _prefix(match.model, [hardware.board or ""])
    parts = [part for entry in hardware.compatible for part in re.split(r"[,+]", entry)]
    board = max(board, _prefix(match.compatible, parts))
    gpu = _prefix(match.gpu, [g.name for g in hardware.gpus[:1]])
    rules = (
        (8, bool(match.model or match.compatible), board > 0),
        (8, match.cpu_model is not None, match.cpu_model == hardware.cpu_model),
        (4, match.logical_cores is not None, match.logical_cores == hardware.logical_cores),
        (2, bool(match.gpu), gpu > 0),
        (1, match.machine is not None, match.machine == hardware.machine),
    )
    if not all(holds for _, stated, holds in rules if stated):
        return None
    return sum(weight for weight, stated, _ in rules if stated), board + gpu


def _prefix(prefixes: Iterable[str], texts: Iterable[str]) -> int:
    """Length of the longest prefix that one of ``texts`` starts with; 0 for none."""
    candidates = list(texts)
    return max((len(p) for p in prefixes if any(text.startswith(p) for text in candidates)), default=0)


def save_config(name: str, spec: DeviceSpec, folder: Path, *, force: bool = False) -> Path:
    """Write ``folder``/NAME.toml, which matches this machine (CPU model, cores, GPU), and return its path.

    Raises UsageError for a name that is no file name or is taken (unless ``force``), StorageError when the folder
    cannot be written.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name) or name.endswith(".toml"):
        raise UsageError(
            f"'{name}' cannot name a device: use up to 63 lower-case letters, digits, '.', '_' and '-', without .toml."
        )
    path = folder / f"{name}.toml"
    if path.exists() and not force:
        raise UsageError(f"{path} exists already: choose another name, or add --force to replace it.")
    text = _config_text(name, spec)
    _parse_config(text.encode(), name, str(path))
    store.write_atomic(path, text.encode())
    return path


def _config_text(name: str, spec: DeviceSpec) -> str:
    gpu = spec.gpus[0] if spec.gpus else None
    tables: dict[str, Mapping[str, Any]] = {
        "": {"name": name, "title": f"{spec.cpu_model}, {spec.logical_cores} cores" + (f", {gpu.name}" if gpu else "")},
        "match": {
            "machine": spec.machine,
            "cpu_model": spec.cpu_model,
            "logical_cores": spec.logical_cores,
            "gpu": [gpu.name] if gpu else None,
        },
        "cpu": {
            "model": spec.cpu_model,
            "cores": spec.physical_cores,
            "clock_hz": spec.clock.max_hz or spec.clock.nominal_hz,
        },
        "memory": {"sizes_bytes": [spec.memory_bytes]},
    }
    if gpu:
        tables["gpu"] = {"name": gpu.name, "memory_bytes": gpu.memory_bytes, "max_clock_hz": gpu.max_clock_hz}
    blocks = [_table(f"[{title}]" if title else "", values) for title, values in tables.items()]
    blocks += [_table("[[operating_points]]", point.model_dump()) for point in spec.operating_points]
    head = f"# What kit read from this machine ({spec.device_id}). Facts from its vendor can be added, with their source.\n"
    return head + "\n".join(blocks)


def _table(title: str, values: Mapping[str, Any]) -> str:
    """A TOML table of strings, numbers and lists of them; None is left out. Their notation is JSON's but for DEL."""
    entries = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items() if value is not None}
    lines = [f"{key} = {value}".replace("\x7f", "\\u007f") for key, value in entries.items()]
    return "\n".join([title, *lines] if title else lines) + "\n"
