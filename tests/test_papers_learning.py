"""Learning that may be killed ends with the same bits; checkpoints of others and broken ones are refused. What a figure holds."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import kit
from kit.errors import BadModel, UsageError
from kit.papers import learning
from kit.papers.results import Figure, Line, line_of, place, rows, written
from kit.papers.streams import generator


class Line1:
    """A line fitted to noisy places by Adam: the least learner that has all that a checkpoint must hold."""

    def __init__(self, dies_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.net = torch.nn.Linear(1, 1)
        self.adam = torch.optim.Adam(self.net.parameters(), lr=0.1)
        self.dies_at = dies_at

    def step(self, number: int) -> float:
        if number == self.dies_at:
            raise KeyboardInterrupt
        x = torch.tensor(generator("a test", 3, number).standard_normal((8, 1)), dtype=torch.float32)
        loss = ((self.net(x) - 2 * x - 1) ** 2).mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return float(loss.detach())

    def state(self) -> learning.Arrays:
        return learning.arrays_of({"net": self.net}, {"adam": self.adam})

    def restore(self, state: Mapping[str, Any]) -> None:
        learning.put_back(state, {"net": self.net}, {"adam": self.adam})


def weights(learner: Line1) -> list[float]:
    return [float(p.detach()) for p in learner.net.parameters()]


def test_a_killed_run_ends_with_the_bits_of_an_unbroken_one(tmp_path: Path) -> None:
    uninterrupted = Line1()
    losses = learning.learn(uninterrupted, 30)
    assert losses[-1] < losses[0] and np.isfinite(losses).all()
    checkpoint = tmp_path / "run.checkpoint.npz"
    with pytest.raises(KeyboardInterrupt):
        learning.learn(Line1(dies_at=17), 30, checkpoint=checkpoint, name="line", every_s=0.0)
    assert checkpoint.is_file()
    again = Line1()
    resumed = learning.learn(again, 30, checkpoint=checkpoint, name="line")
    assert weights(again) == weights(uninterrupted) and (resumed == losses).all()
    assert not checkpoint.exists()


def test_checkpoints_of_others_and_broken_ones_are_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.checkpoint.npz"
    with pytest.raises(KeyboardInterrupt):
        learning.learn(Line1(dies_at=5), 9, checkpoint=checkpoint, name="line", every_s=0.0)
    with pytest.raises(UsageError, match="is the checkpoint of line: give another folder, or remove it"):
        learning.learn(Line1(), 9, checkpoint=checkpoint, name="circle")
    checkpoint.write_bytes(b"nothing")
    with pytest.raises(BadModel, match="no checkpoint of kit's: remove it and train again"):
        learning.learn(Line1(), 9, checkpoint=checkpoint, name="line")
    with pytest.raises(BadModel, match="another network's weights"):
        learning.put_back({"net/weight": np.zeros((3, 3))}, {"net": torch.nn.Linear(1, 1)}, {})


def test_progress_ends_with_the_last_step_and_means_of_the_losses() -> None:
    reports: list[tuple[int, int, float]] = []
    losses = learning.learn(Line1(), 7, progress=lambda *report: reports.append(report))
    assert reports[-1][:2] == (7, 7)
    assert reports[0][2] == pytest.approx(losses[: reports[0][0]].mean())


def test_no_two_random_streams_share_a_key() -> None:
    keys = [
        ("frames", 7),
        ("frames", 7, 0),
        ("frames", 7, 0, 0),
        ("slots", 7),
        ("frames", 8),
        ("frames", 0, 7),
        ("frames", 7, 1),
    ]
    drawn = {key: tuple(generator(*key).random(3)) for key in keys}
    assert len(set(drawn.values())) == len(keys)
    assert tuple(generator("frames", 7).random(3)) == drawn["frames", 7]
    assert tuple(np.random.default_rng(7).random(3)) not in drawn.values()


def test_every_stream_of_the_papers_has_a_name_of_its_own() -> None:
    """Two uses of one name would draw the same numbers; the short digests of the names must differ, too."""
    folder = Path(kit.__file__).parent / "papers"
    text = "\n".join(p.read_text() for p in sorted(folder.rglob("*.py")))
    names = re.findall(r'"((?:bandwidth|offloading|placement): [^"]+)"', text)
    assert len(names) >= 20 and len(set(names)) == len(names) == len({zlib.crc32(name.encode()) for name in names})
    for world in ("bandwidth", "offloading", "placement"):
        assert "default_rng" not in "".join(p.read_text() for p in (folder / world).glob("*.py"))


def test_nothing_is_no_number_in_a_line() -> None:
    line = line_of("agents", [[0.2, float("nan")], [0.4, float("nan")]])
    assert line.values == (pytest.approx(0.3), None) and line.low == (0.2, None) and line.high == (0.4, None)


def test_one_thread_inside_and_as_before_after() -> None:
    before = torch.get_num_threads()
    with learning.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


# ---------------------------------------------------------------------------------------------------------------- results


def figure(**changes: Any) -> Figure:
    lines = (line_of("ours", [[1e-3, 2e-3], [3e-3, 4e-3]], published=(1.5e-3, None)), line_of("one", [[5e-3, 6e-3]]))
    return Figure(
        **{"figure": "table1", "title": "t", "x_name": "K", "x": ("1", "2"), "y_name": "T", "lines": lines} | changes
    )


def test_a_line_holds_the_mean_and_the_range_of_its_seeds() -> None:
    ours, one = figure().lines
    assert ours.values == pytest.approx((2e-3, 3e-3)) and ours.low == (1e-3, 2e-3) and ours.high == (3e-3, 4e-3)
    assert one.low == one.high == ()
    with pytest.raises(ValidationError, match="ours has 1 values for 2 places"):
        figure(lines=(Line(name="ours", values=(1.0,)),))


def test_tables_are_in_milliseconds_and_percent() -> None:
    head, body = rows(figure())
    assert head == ["K", "1", "2"]
    assert body == [["ours", "2", "3"], ["  seeds ±", "1", "1"], ["  paper", "1.5", ""], ["one", "5", "6"]]
    assert written(0.123456, figure(unit="1")) == "12.35" and written(1.234e-5, figure(unit="1")) == "0.001234"
    assert written(None, figure()) == "" and written(5.0, figure(unit="number")) == "5"
    assert [place(x) for x in ("static", 29.4e6, 2e9, 500.0, 0.25)] == ["static", "29.4 M", "2 G", "500", "0.25"]
