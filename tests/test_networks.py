"""Foreign networks from end to end, by the verbs: bench/networks.py holds the files and what each verb has to say of them.

Three kinds go in the usual run; ``-m slow`` takes all that the bench writes.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import simulated

from kit import latency

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("scipy")
sys.path.append(str(Path(__file__).parent.parent))
from bench import networks

USUAL = ("detector.onnx", "encoder.onnx", "external.onnx")


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fit") / "latency.json"
    latency.save(path, latency.predictor(simulated.Machine(0).profiles(simulated.sample(12, 0))))
    return path


def ends(file: Any, folder: Path, predictor: Path) -> dict[str, str]:
    path = networks.placed(file, folder, folder / "way")
    row = networks.counted(file, path)
    way = networks.Way(file, path, folder, predictor, row.seen_macs if row.exact else None)
    return dict(replace(way, run=networks.command_here, quick=True).ends())


def by_kind(names: tuple[str, ...] | None = None) -> list[Any]:
    return [pytest.param(file, id=file.name) for file in networks.GENERATED if names is None or file.name in names]


@pytest.mark.parametrize("file", by_kind(USUAL))
def test_the_whole_way_of_three_kinds(file: Any, tmp_path: Path, predictor: Path) -> None:
    assert ends(file, tmp_path, predictor) == dict.fromkeys(networks.VERBS, "ok")


@pytest.mark.slow
@pytest.mark.parametrize("file", by_kind())
def test_the_whole_way_of_every_kind(file: Any, tmp_path: Path, predictor: Path) -> None:
    assert ends(file, tmp_path, predictor) == dict.fromkeys(networks.VERBS, "ok")


@pytest.mark.slow
@pytest.mark.parametrize("file", by_kind())
def test_a_generated_file_is_the_same_each_time(file: Any, tmp_path: Path) -> None:
    first, second = (networks.placed(file, tmp_path, tmp_path / name) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_a_verb_that_neither_ends_well_nor_says_why_is_a_fault() -> None:
    with pytest.raises(networks.Fault, match="Traceback"):
        networks.refused(networks.End(1, "", "Traceback (most recent call last):\nKeyError: 'x'"))
    with pytest.raises(networks.Fault, match="exit code 1"):
        networks.refused(networks.End(1, "", ""))
    assert (
        networks.refused(networks.End(2, "", "profile: 3 %\nkit: x.onnx does not exist."))
        == "kit: x.onnx does not exist."
    )
    assert networks.refused(networks.End(0, "{}", "a warning")) is None
