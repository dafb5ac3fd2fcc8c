"""What is fitted to one device's records: the efficiency factors of the papers, and the model that predicts best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kit import latency, store
from kit.errors import BackendUnavailable, BadRecord, UnknownName
from kit.latency.model import Predictor, save
from kit.records import LatencyModel, ProfileRecord, Record


class LatencyFit(Record):
    """``lines`` holds an efficiency factor for each runtime, precision and thread count; ``predictor`` the model for networks that
    nobody measured, or None, and ``missing`` says why (one runtime and scipy are needed, and half a dozen networks)."""

    lines: tuple[LatencyModel, ...]
    predictor: Predictor | None = None
    missing: str | None = None

    def save(self, path: Path | str) -> None:
        """Write the predictor for ``kit predict`` and :func:`kit.predict`. Raises BadRecord where there is none."""
        save(Path(path), self.needed())

    def needed(self) -> Predictor:
        """The predictor. Raises BadRecord with the reason where there is none."""
        if self.predictor is None:
            raise BadRecord(f"There is no predictor: {self.missing}")
        return self.predictor

    def summary(self) -> dict[str, str]:
        """The model and every efficiency factor."""
        about = {} if self.predictor is None else self.predictor.summary()
        rows = {name: text for name, text in about.items() if not name.startswith("efficiency factor")}
        for line in self.lines:
            name = f"efficiency factor, {line.backend} {line.precision} t{line.threads}"
            rows[name] = line.summary()["efficiency factor"]
        return rows | {"device": self.lines[0].device_id, "no predictor": self.missing or ""}


def fit_all(
    profiles: Sequence[ProfileRecord],
    *,
    backend: str | None = None,
    device: str | None = None,
    source: Predictor | Path | Sequence[ProfileRecord] | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> LatencyFit:
    """The lines, and the predictor where there is enough for one. ``source`` (a model, its file, or profiles) is another device whose
    structure is transferred, ``level`` that of the intervals in [0.5, 1).

    Raises BadRecord (several devices, too few records for a line), UnknownName (a device or backend without records).
    """
    profiles = of_backend(of_device(profiles, device), backend)
    lines = tuple(latency.fit(profiles, seed=seed))
    if source is not None:
        return LatencyFit(lines=lines, predictor=predictor_of(profiles, source, level, seed))
    try:
        return LatencyFit(lines=lines, predictor=predictor_of(profiles, None, level, seed))
    except (BadRecord, BackendUnavailable) as error:
        return LatencyFit(lines=lines, missing=str(error))


def predictor_of(
    profiles: Sequence[ProfileRecord],
    source: Predictor | Path | Sequence[ProfileRecord] | None,
    level: float,
    seed: int,
) -> Predictor:
    """The predictor of one backend, with the structure of ``source`` transferred. Raises BadRecord, BackendUnavailable (no scipy)."""
    base = None if source is None else source_predictor(source, profiles[0].settings.backend, level, seed)
    return latency.predictor(profiles, base=base, level=level, seed=seed)


def of_device(profiles: Sequence[ProfileRecord], device: str | None) -> list[ProfileRecord]:
    """The profiles of one device, when it is named. Raises UnknownName."""
    names = sorted({p.device.device_id for p in profiles})
    if device is not None and device not in names:
        raise UnknownName("device", device, names)
    return [p for p in profiles if device in (None, p.device.device_id)]


def of_backend(profiles: Sequence[ProfileRecord], backend: str | None) -> list[ProfileRecord]:
    """The profiles of one backend, when it is named. Raises UnknownName."""
    names = sorted({p.settings.backend for p in profiles})
    if backend is not None and backend not in names:
        raise UnknownName("backend", backend, names)
    return [p for p in profiles if backend in (None, p.settings.backend)]


def source_predictor(
    source: Predictor | Path | Sequence[ProfileRecord], backend: str, level: float, seed: int
) -> Predictor:
    """A model as it is; profiles are fitted first: the same backend where it was measured there, else the one most used."""
    if isinstance(source, Predictor):
        return source
    if isinstance(source, Path) and source.suffix == ".json":
        return latency.load(source)
    profiles = store.read_profiles([source]) if isinstance(source, Path) else source
    backends = [p.settings.backend for p in profiles if p.status == "ok"] or [p.settings.backend for p in profiles]
    chosen_backend = backend if backend in backends else max(sorted(set(backends)), key=backends.count)
    return latency.predictor(
        [p for p in profiles if p.settings.backend == chosen_backend], level=level, seed=seed, baselines=False
    )
