"""The embedded images: scenes with one digit in the middle and others at the edges, from originals that the parts do not share."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kit.variants import digits as embedded  # noqa: E402
from kit.variants.datasets import Dataset, Split  # noqa: E402


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return embedded.dataset()


def originals(count: int = 6) -> Split:
    """Full squares of ``count`` brightnesses below 1, so that a scene shows which original is where."""
    shades = torch.linspace(0.3, 0.9, count)
    return Split(shades.reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous(), torch.arange(count))


def test_the_parts_have_their_counts_and_all_classes(digits: Dataset) -> None:
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (6000, 500, 2000)
    for split in (digits.train, digits.validation, digits.test):
        assert split.images.shape == (len(split), 1, 32, 32)
        assert split.images.dtype == torch.float32
        assert split.labels.dtype == torch.int64
        assert torch.bincount(split.labels, minlength=10).min() > 0.08 * len(split)


def test_values_are_normalized(digits: Dataset) -> None:
    assert abs(float(digits.train.images.mean())) < 0.01
    assert abs(float(digits.train.images.std()) - 1) < 0.01
    record = embedded.preprocessing()
    pixels = digits.test.images * record.std[0] + record.mean[0]
    assert float(pixels.min()) == pytest.approx(0, abs=1e-6)
    assert float(pixels.max()) == pytest.approx(1, abs=1e-6)


def test_the_first_scenes_are_as_mixed_as_all(digits: Dataset) -> None:
    """A quick recipe and calibration take the first ones."""
    assert torch.bincount(digits.train.first(128).labels, minlength=10).min() >= 4


def test_the_parts_share_no_original(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[set[bytes]] = []
    unpatched = embedded.scenes

    def scenes(split: Split, count: int, rng: np.random.Generator) -> Split:
        parts.append({image.numpy().tobytes() for image in split.images})
        return unpatched(split, 1, rng)

    monkeypatch.setattr(embedded, "scenes", scenes)
    embedded.dataset.__wrapped__()
    assert [len(part) for part in parts] == [1197, 150, 450, 1197]
    train, validation, test, calibration = parts
    assert calibration == train  # other scenes of the same digits
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_the_same_seed_gives_the_same_scenes(digits: Dataset) -> None:
    torch.manual_seed(7)  # no training seed changes them
    again = embedded.dataset.__wrapped__()
    for one, other in zip((digits.train, digits.test), (again.train, again.test), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    other_seed = embedded.scenes(originals(), 8, np.random.default_rng(1)).images
    assert not torch.equal(other_seed, embedded.scenes(originals(), 8, np.random.default_rng(2)).images)


def test_the_label_is_the_digit_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_INK", (1.0, 1.0))
    monkeypatch.setattr(embedded, "_NOISE", 0.0)
    split = originals()
    scenes = embedded.scenes(split, 60, np.random.default_rng(0))
    middle = scenes.images[:, 0, 14:18, 14:18]  # the least digit reaches 8 pixels from a centre that moves by 2
    expected = split.images[scenes.labels, 0, :4, :4]
    torch.testing.assert_close(middle, expected)
    assert torch.equal(torch.bincount(scenes.labels), torch.full((6,), 10))


def test_clutter_stays_at_the_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_NOISE", 0.0)
    squares = embedded.scenes(originals(), 200, np.random.default_rng(0)).images
    monkeypatch.setattr(embedded, "_CLUTTER", 0)
    alone = embedded.scenes(originals(), 200, np.random.default_rng(0)).images
    edge = torch.ones(32, 32, dtype=torch.bool)
    edge[6:26, 6:26] = False
    assert float((squares[:, 0, edge] > 0).float().mean()) > 0.5
    assert float((alone[:, 0, edge] > 0).float().mean()) < 0.2


def test_an_upright_digit_is_not_mirrored() -> None:
    """A bright left upper corner stays there, and moving right and down is right and down."""
    image = torch.zeros(1, 1, 8, 8)
    image[..., :4, :4] = 1
    still, right, down = torch.zeros(1), torch.tensor([4.0]), torch.tensor([2.0])
    placed = embedded._placed(
        image, side_px=torch.tensor([16.0]), turn_deg=still, shear=still, right_px=right, down_px=down
    )[0, 0]
    rows, columns = torch.nonzero(placed > 0.5, as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (10, 17)  # the square of 16 pixels starts at 8 + 2
    assert (int(columns.min()), int(columns.max())) == (12, 19)
