"""The benchmark suites and scripts of bench/ start: they are run by hand, so nothing else would notice that a name in them moved."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BENCH = ROOT / "bench"
SCRIPTS = sorted(p.name for p in BENCH.glob("*.py") if "__main__" in p.read_text())


def run(*words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_suites_collect() -> None:
    done = run("-m", "pytest", "-q", "--collect-only", BENCH)
    assert done.returncode == 0, done.stdout


def test_the_variants_of_a_build_are_benchmarked(tiny_build: Path) -> None:
    """Once each, without timing."""
    suite = BENCH / "test_subnetworks.py"
    done = run("-m", "pytest", "-q", suite, "--benchmark-disable", "--build", tiny_build, "-k", "not resnet18-224")
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_says_what_it_does(name: str) -> None:
    done = run(BENCH / name, "--help")
    assert done.returncode == 0 and "usage" in done.stdout.lower(), done.stderr
