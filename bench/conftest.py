"""What the suites share. Timings are compared with pytest-benchmark's own --benchmark-save and --benchmark-compare."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--build", default="run/build", help="Build folder whose variants are benchmarked (kit run makes one)."
    )
    parser.addoption("--backend", default="onnxruntime", help="Runtime of the sub-network suite.")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, object]) -> None:
    """Say which device it was in kit's own words: comparing across machines gives false alarms."""
    from kit.devices import recognise

    machine_info["kit_device_id"] = recognise().device_id
