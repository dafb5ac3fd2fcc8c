"""Every record under profiles/ still loads, whatever fields and classes are called today."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit import store
from kit.measure import session
from kit.records import ProfileRecord, Reference, load

PROFILES = Path(__file__).parent.parent / "profiles"
SESSIONS = sorted(path for path in PROFILES.rglob("*.jsonl") if path.parent.name == store.SESSIONS)
FILES = sorted(
    path for path in PROFILES.rglob("*") if path.is_file() and not path.name.startswith(".") and path not in SESSIONS
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PROFILES)))
def test_every_shipped_record_loads_and_is_of_its_folders_device(path: Path) -> None:
    device_id = path.relative_to(PROFILES).parts[0]
    if path.suffix == ".json":
        reference = store.read_record(path, Reference)
        assert path.name == "reference.json" and reference.device_id == device_id
        return
    records = [load(ProfileRecord, data, place) for place, data in store.read_lines(path)]
    assert records and {record.device.device_id for record in records} == {device_id}
    assert all(record.status != "ok" or (record.measurement and record.measurement.median_s > 0) for record in records)


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.name)
def test_every_shipped_session_loads(path: Path) -> None:
    recording = session.read(path)
    assert recording.records and recording.session.device.device_id == path.parts[-3]
