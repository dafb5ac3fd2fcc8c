"""A clean environment with only the board install profiles a small ONNX file, asks and fits: no torch, no onnx."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.board
@pytest.mark.timeout(600)
def test_the_board_install_profiles_fits_and_asks(tmp_path: Path, tiny_build: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    newest = [*Path(sys.prefix).glob(".installed-*-latest-*")]  # scripts/test --latest asks for the newest here, too
    versions = [] if newest else ["--constraint", REPOSITORY / "constraints.txt"]
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *versions, f"{REPOSITORY}[onnxruntime]"],
        capture_output=True,
        text=True,
    )
    if "No matching distribution" in installed.stderr or "Temporary failure in name resolution" in installed.stderr:
        pytest.skip("no package registry within reach")
    assert installed.returncode == 0, installed.stderr

    def kit(*words: object) -> str:
        done = subprocess.run([python, "-m", "kit", *map(str, words)], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    names = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert not names & {
        "torch",
        "torchvision",
        "onnx",
        "tensorrt",
        "gymnasium",
        "scipy",
        "starlette",
        "uvicorn",
        "plotly",
    }
    assert json.loads(kit("device", "--json"))["runtimes"]["torch"] is None

    bare = tmp_path / "x.onnx"
    bare.write_bytes(next(tiny_build.glob("*.onnx")).read_bytes())
    fast = ("--rounds-max", "3", "--run-s", "0.05", "--json")
    assert json.loads(kit("profile", bare, *fast))["variants"][0]["median_s"] > 0
    profiled = json.loads(kit("profile", tiny_build, *fast))
    assert len(profiled["variants"]) == 3
    kit("knowledge", "build", profiled["file"], "--out", "k.json")
    rows = json.loads((tmp_path / "k.json").read_text())["rows"]
    assert len(rows) == 3
