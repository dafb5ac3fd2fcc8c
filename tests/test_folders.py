"""A user's records and configurations go to the user's own folder; what is shipped is found by device id, and said."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kit import folders, store
from kit.cli import app
from kit.devices.configs import load_configs
from kit.measure import profiler

SHIPPED = Path(__file__).parent.parent / "profiles"
ID = "amd-epyc-f26m2-2c-kvm"
FAST = ("--rounds-max", "2", "--rounds-min", "2", "--json")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_records_go_to_the_users_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KIT_PROFILES", raising=False)
    before = {path: path.stat().st_mtime_ns for path in SHIPPED.rglob("*.json*")}
    first = json.loads(run("profile", "fake:200us", "--backend", "fake", *FAST).stdout)
    assert Path(first["file"]).parts[0] == "kit-profiles"
    monkeypatch.setenv("KIT_PROFILES", str(tmp_path / "mine"))
    second = json.loads(run("profile", "fake:200us", "--backend", "fake", *FAST).stdout)
    assert Path(second["file"]).is_relative_to(tmp_path / "mine") and Path(second["file"]).is_file()
    assert {path: path.stat().st_mtime_ns for path in SHIPPED.rglob("*.json*")} == before


def test_a_device_id_names_the_users_profiles_and_else_what_is_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KIT_PROFILES", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert folders.of_devices([Path(ID)]) == [SHIPPED / ID]
    assert "reading what is shipped" in caplog.text and str(SHIPPED / ID) in caplog.text
    (tmp_path / ID).mkdir()
    source = SHIPPED / ID / "resnet18-224-runtimes.jsonl"
    (tmp_path / ID / "mine.jsonl").write_bytes(source.read_bytes())
    caplog.clear()
    assert folders.of_devices([Path(ID)]) == [tmp_path / ID] and not caplog.text
    assert store.read_profiles([Path(ID)]) == store.read_profiles([source])


@pytest.mark.parametrize("name", ["nowhere", "../profiles", ".", "/"])
def test_what_is_no_device_stays_the_path_that_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIT_PROFILES", str(tmp_path))
    assert folders.of_devices([Path(name)]) == [Path(name)]


def test_a_verb_reads_the_shipped_profile_of_a_device_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIT_PROFILES", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    result = subprocess.run([sys.executable, "-m", "kit", "compare", ID, ID, "--json"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) and f"reading what is shipped of it, {SHIPPED / ID}" in result.stderr


def test_a_shipped_reference_is_no_scale_for_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that only shares the id measures into a folder of its own, where no scale lies yet; named, the shipped one counts."""
    monkeypatch.setenv("KIT_PROFILES", str(tmp_path))
    device = store.read_profiles([SHIPPED / ID / "resnet18-224-runtimes.jsonl"])[0].device
    assert profiler._stored_reference(folders.profiles() / ID, device) is None
    assert profiler._stored_reference(SHIPPED / ID, device) is not None


def test_a_users_configuration_lies_beside_the_profiles_and_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIT_PROFILES", str(tmp_path))
    shipped = load_configs()
    assert "generic-x86_64" in shipped
    done = run("device", "save", "lab", "--json")
    assert json.loads(done.stdout) == {"config": "lab", "file": str(tmp_path / "device_configs" / "lab.toml")}
    assert set(load_configs()) == {*shipped, "lab"}
