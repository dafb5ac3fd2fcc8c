"""README is short, and what it says to type works: each command and the script, in a folder of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kit import spaces
from kit.records import SubNetwork

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
QUICK_RUN = ".venv/bin/kit run --quick"
#: Run by CI itself, on a fresh clone; test_board_install makes the board's environment.
SCRIPTS = ("scripts/quickstart", "scripts/test", "scripts/board-install")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with somebody's model.onnx and what ``kit run --quick`` leaves behind."""
    folder = tmp_path_factory.mktemp("readme")
    spaces.write(SubNetwork.parse("resnet18-d1.1.1.1-w0.25-fp32-96"), folder / "model.onnx")
    (folder / ".venv" / "bin").mkdir(parents=True)
    program = folder / ".venv" / "bin" / "kit"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kit "$@"\n')
    program.chmod(0o755)
    type_in(folder, QUICK_RUN)
    return folder


def type_in(folder: Path, *lines: str) -> None:
    done = run_shell(folder, *lines)
    assert done.returncode == 0, done.stderr


def run_shell(folder: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-e", "-c", "\n".join(lines)], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_it_fits_on_a_page_or_two() -> None:
    assert len(README.split()) <= 900


def measure_again_until_decisive(folder: Path) -> None:
    """On a busy machine so few records of a quick run decide that kit fit refuses and says to measure again: do so, twice at most."""
    for _ in range(2):
        done = run_shell(folder, ".venv/bin/kit fit run/profiles/*/variants.jsonl")
        if done.returncode == 0:
            return
        assert done.returncode == 2 and "Measure these again when the machine is quieter." in done.stderr, done.stderr
        type_in(folder, QUICK_RUN)


@pytest.mark.timeout(900)
def test_every_command_works(folder: Path) -> None:
    measure_again_until_decisive(folder)
    for block in blocks("sh"):
        lines = [line for line in block.splitlines() if not line.startswith(SCRIPTS)]
        assert all(line.startswith(".venv/bin/kit ") for line in lines), lines
        type_in(folder, *lines)


@pytest.mark.timeout(600)
def test_the_script_works(folder: Path) -> None:
    (script,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-"], input=script, cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.match(r"(stable|settled|inconclusive|throttled) 0\.\d+ \(0\.\d+, 0\.\d+\)", done.stdout), done.stdout


def test_pages_are_wrapped_at_100_columns() -> None:
    """But for tables, code and what people paste; docs/cli.md is made by a script that wraps it itself."""
    long = []
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]:
        fenced = False
        for number, line in enumerate(page.read_text().splitlines(), 1):
            fenced ^= line.lstrip().startswith("```")
            if (
                len(line) > 100
                and not fenced
                and not line.lstrip().startswith(("|", "#", "!["))
                and not line.startswith("    ")
            ):
                long.append(f"{page.relative_to(ROOT)}:{number}")
    assert long == []
