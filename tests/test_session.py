"""Sessions: measured for real with one small network, written small, read back whole, compared, and left alone by what reads profiles."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import invoke
import pytest
from typer.testing import CliRunner

from kit import spaces, store
from kit.cli import app
from kit.devices import recognise
from kit.errors import BadRecord, MeasurementError, StorageError
from kit.measure import session as sessions
from kit.measure.session import NETWORKS, Recording
from kit.records import SubNetwork

SMALL = ("resnet18-d1.1.1.1-w0.25-fp32-96", "resnet18-d1.1.1.1-w0.25-int8-96")
SHIPPED = Path(__file__).parent.parent / "profiles"


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture(scope="module")
def recording(profiles: Path) -> Recording:
    return sessions.run(recognise(), profiles, networks=SMALL, processes=2, states=1, even_if_busy=True)


def test_a_session_holds_state_networks_and_raw_values(recording: Recording) -> None:
    session = recording.session
    assert recording.path.parent.name == "sessions"
    assert recording.path.parent.parent.name == session.device.device_id
    assert len(session.states_before) == len(session.states_after) == 1
    state = session.states_before[0]
    assert len(state.working_sets) == 8
    assert {"network", "network8", "weights"} <= set(state.workloads)
    assert all(len(series) == sessions.WORKLOAD_REPEATS for series in state.workloads.values())
    assert [r.artifact.artifact_id for r in recording.records] == list(SMALL)
    for record in recording.records:
        assert record.status == "ok"
        assert record.measurement is not None
        assert len(record.measurement.runs) == 2
        assert all(len(v.elapsed_ns) for v in record.measurement.runs)
    assert session.packages["onnxruntime"]
    assert session.packages["python"]
    assert session.disturbance is not None


def test_what_was_written_is_read_back_whole(recording: Recording) -> None:
    again = sessions.read(recording.path)
    assert again.session == recording.session
    for before, after in zip(recording.records, again.records, strict=True):
        assert before.measurement is not None
        assert after.measurement is not None
        assert after.measurement.runs == before.measurement.runs
        assert (after.artifact, after.label, after.settings) == (before.artifact, before.label, before.settings)


def test_the_scale_of_the_device_goes_along_and_is_not_changed(recording: Recording, tmp_path: Path) -> None:
    """A profile folder with a scale: networks are corrected by it. One without gets none from a session."""
    device = recording.session.device
    assert not (recording.path.parent.parent / "reference.json").exists()
    reference = SHIPPED / "amd-epyc-f26m2-2c-kvm" / "reference.json"
    data = json.loads(reference.read_text()) | {"device_id": device.device_id}
    folder = tmp_path / device.device_id
    folder.mkdir()
    (folder / "reference.json").write_text(json.dumps(data))
    before = (folder / "reference.json").read_bytes()
    corrected = sessions.run(device, tmp_path, networks=SMALL[:1], processes=1, states=1, even_if_busy=True)
    assert (folder / "reference.json").read_bytes() == before
    assert corrected.session.reference is not None
    again = sessions.read(corrected.path).records[0].measurement
    assert again is not None
    assert corrected.records[0].measurement is not None
    assert again.corrected_s == corrected.records[0].measurement.corrected_s
    assert again.corrected_s is not None


def test_profiles_are_read_without_the_sessions_beside_them(
    recording: Recording, profiles: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadRecord, match=r"holds no \.jsonl profile"):
        store.read_profiles([profiles])
    other = tmp_path / "device"
    shutil.copytree(recording.path.parent, other / "sessions")
    source = next(SHIPPED.glob("*/resnet18-224-runtimes.jsonl"))
    shutil.copy(source, other / source.name)
    assert len(store.read_profiles([other])) == len(source.read_text().splitlines())


def test_a_session_compared_with_itself_is_one(recording: Recording) -> None:
    state, networks = sessions.ratios(recording, recording)
    assert set(networks) == set(SMALL)
    assert {"clock_hz"} | set(state) >= {"read_32KiB_bytes_s", "chase_256MiB_s", "calibration_network_s"}
    assert set(networks.values()) | set(state.values()) == {1.0}


def test_state_figures_are_medians_over_processes(recording: Recording) -> None:
    session = recording.session
    both = sessions.state_figures((*session.states_before, *session.states_after))
    before, after = sessions.state_figures(session.states_before), sessions.state_figures(session.states_after)
    for name, ratio in sessions.repeats(session).items():
        assert both[name] == pytest.approx((before[name] + after[name]) / 2)
        assert ratio == pytest.approx(after[name] / before[name])


@pytest.mark.parametrize(
    ("text", "why"), [("", "no session"), ('{"kind":"profile"}\n', "no session"), ("[1]\n", "no session")]
)
def test_what_is_no_session_is_refused(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(BadRecord, match=why):
        sessions.read(path)


def test_a_session_of_a_later_kit_is_refused(recording: Recording, tmp_path: Path) -> None:
    lines = recording.path.read_text().splitlines()
    path = tmp_path / "later.jsonl"
    path.write_text(json.dumps(json.loads(lines[0]) | {"schema_version": 99}) + "\n" + "\n".join(lines[1:]))
    with pytest.raises(BadRecord):
        sessions.read(path)


def test_a_busy_machine_is_refused_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "LOOK_S", 0.01)
    monkeypatch.setattr(sessions.telemetry, "disturbance", lambda *_: SimpleNamespace(busy_elsewhere_share=0.5))
    with pytest.raises(MeasurementError, match="Other processes use 50% of this machine"):
        sessions.run(recognise(), tmp_path, networks=SMALL)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_two_measurements_into_one_folder_are_refused(tmp_path: Path) -> None:
    device = recognise()
    folder = tmp_path / device.device_id
    folder.mkdir()
    with sessions.profiler.alone(folder), pytest.raises(StorageError, match="Another kit profile"):
        sessions.run(device, tmp_path, networks=SMALL)


# --------------------------------------------------------------------------------------------------------------- the tags


def machine(root: Path, *, machine_id: str = "a" * 32, boot: str = "1", mac: str = "00:16:3e:00:00:01") -> Path:
    for name, text in {
        "etc/machine-id": machine_id,
        "proc/sys/kernel/random/boot_id": boot,
        "sys/class/net/eth0/address": mac,
        "sys/class/net/veth1/address": "4e:6e:c7:b1:2b:" + boot.zfill(2)[:2],
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_tags_tell_machines_and_boots_apart(tmp_path: Path) -> None:
    salt = tmp_path / "salt"
    one = sessions.tags(machine(tmp_path / "one"), salt)
    assert one == sessions.tags(machine(tmp_path / "same"), salt)
    rebooted = sessions.tags(machine(tmp_path / "rebooted", boot="2"), salt)
    assert rebooted[0] == one[0]  # an interface that is named again at each start changes nothing
    assert rebooted[1] != one[1]
    clone = sessions.tags(machine(tmp_path / "clone", mac="00:16:3e:00:00:02"), salt)
    fresh = sessions.tags(machine(tmp_path / "fresh"), tmp_path / "other-salt")
    assert len({one[0], clone[0], fresh[0]}) == 3
    assert all(len(tag) == 12 and int(tag, 16) >= 0 for pair in (one, clone, fresh) for tag in pair)


def test_the_key_of_the_tags_is_drawn_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    salt = tmp_path / "state" / "salt"
    sessions.tags(machine(tmp_path / "one"), salt)
    key = salt.read_bytes()
    sessions.tags(machine(tmp_path / "one"), salt)
    assert salt.read_bytes() == key
    assert len(key) == 32
    assert salt.stat().st_mode & 0o777 == 0o600


def test_no_name_of_the_machine_is_in_the_file(recording: Recording) -> None:
    text = recording.path.read_text()
    for name in ("/etc/machine-id", "/etc/hostname", "/proc/sys/kernel/random/boot_id"):
        path = Path(name)
        if path.is_file() and len(secret := path.read_text().strip()) > 5:
            assert secret not in text


# ---------------------------------------------------------------------------------------------------------- the networks


def test_the_fixed_networks_span_sizes_families_and_precisions() -> None:
    members = [SubNetwork.parse(text) for text in NETWORKS]
    counts = [spaces.counts(sub) for sub in members]
    assert len(set(NETWORKS)) == 25
    assert {(s.root, s.precision) for s in members} == {
        (root, precision) for root in ("resnet18", "vgg11", "vit_tiny") for precision in ("fp32", "int8")
    }
    assert min(c.weight_bytes for c in counts) < 0.5e6
    assert max(c.weight_bytes for c in counts) > 45e6
    assert 45e6 < max(c.activation_bytes for c in counts) < 51e6
    assert NETWORKS[-1] == spaces.space_of("resnet18").root.id


def test_shipped_sessions_are_whole_and_small() -> None:
    recordings = sessions.read_all(SHIPPED)
    assert recordings
    for recording in recordings:
        assert recording.path.stat().st_size < 250_000
        assert recording.session.wall_s < 240
        assert [r.artifact.artifact_id for r in recording.records] == list(NETWORKS)
        assert all(r.measurement and len(r.measurement.runs) == 6 for r in recording.records)
        assert recording.path.parent.parent.name == recording.session.device.device_id


def test_docs_say_which_state_variables_repeat() -> None:
    folder = SHIPPED / "amd-epyc-f26m2-2c-kvm" / "sessions"
    first, second = (sessions.read(folder / f"{at}Z.jsonl") for at in ("2026-11-25T233804", "2026-11-26T015120"))
    repeats = [sessions.repeats(recording.session) for recording in (first, second)]
    within = {name for name in repeats[0] if all(abs(r[name] - 1) <= 0.02 for r in repeats)}
    text = " ".join((SHIPPED.parent / "docs" / "measuring.md").read_text().split())
    listed = re.search(r"these repeat within 2 % inside a session: (.*?)\. The others do not", text)
    assert listed
    assert set(re.findall(r"`(\w+)`", listed[1])) == within
    calibrations = [abs(r[n] - 1) for n in repeats[0] if n.startswith("calibration_") for r in repeats]
    assert 0.025 < max(abs(r["calibration_clock_s"] - 1) for r in repeats) < 0.035
    assert max(calibrations) < 0.055
    state, networks = sessions.ratios(second, first)
    assert abs(state["clock_hz"] - 1) < 0.0025
    beyond = [state[f"chase_{size}_s"] for size in ("128MiB", "256MiB")]
    beyond += [1 / state[f"read_{size}_bytes_s"] for size in ("128MiB", "256MiB")]
    assert 1.08 < min(beyond) < max(beyond) < 1.12
    assert (round(min(networks.values()), 2), round(max(networks.values()), 2)) == (0.98, 1.08)


def test_the_verb_says_what_it_measured(monkeypatch: pytest.MonkeyPatch, recording: Recording, profiles: Path) -> None:
    monkeypatch.setattr(sessions, "run", lambda *_, **__: recording)
    summary = json.loads(invoke.kit("session", "--profiles", profiles, "--json"))
    assert summary["session"] == recording.session.session_id
    assert set(summary["medians_s"]) == set(SMALL)
    assert summary["against_previous"]["networks"] == dict.fromkeys(SMALL, 1.0)
    printed = CliRunner().invoke(app, ["session", "--profiles", str(profiles)])
    assert printed.exit_code == 0
    assert "resnet18-d1.1.1.1-w0.25-fp32-96" in printed.output
    assert "calibration network8" in printed.output
