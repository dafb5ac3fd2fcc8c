"""Images to train on: folders, zips, functions; parts that share nothing; pixels kept on disk."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
Image = pytest.importorskip("PIL.Image")

from kit.errors import UnknownName, UsageError  # noqa: E402
from kit.variants import datasets  # noqa: E402
from kit.variants.datasets import Request, Split  # noqa: E402

CLASSES = ("cat", "dog", "owl")


def photos(folder: Path, count: int, *, px: int = 12, grey: bool = False, seed: int = 0) -> None:
    """``count`` images of each class; a pixel of each tells its class and number."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 255, (px, px, 3), dtype=np.uint8)
            pixels[0, 0] = (label, number, seed)
            image = Image.fromarray(pixels)
            (image.convert("L") if grey else image).save(folder / name / f"{number:03}.png")


@pytest.fixture(scope="module")
def split_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    photos(folder / "train", 40, seed=1)
    photos(folder / "val", 10, seed=2)
    return folder


def names(split: Split) -> set[tuple[int, ...]]:
    return {
        tuple(map(int, pixel)) for pixel in split.pixels[slice(None) if split.rows is None else split.rows][:, :, 0, 0]
    }


def test_parts_share_no_image_and_have_every_class(split_folder: Path, tmp_path: Path) -> None:
    data = datasets.load(Request(str(split_folder), cache=tmp_path))
    assert data.name == split_folder.name and data.classes == CLASSES and data.flips
    assert (data.channels, data.resolution_px) == (3, 12)
    parts = (data.train, data.calibration, data.validation, data.test)
    assert [len(p) for p in parts] == [102, 6, 12, 30]
    seen = [names(part) for part in parts]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 150
    assert seen[3] == {(c, n, 2) for c in range(3) for n in range(10)}  # the test part as it came
    for part in parts:
        assert set(part.labels.tolist()) == {0, 1, 2}
        assert all(
            int(pixel[0, 0, 0]) == label
            for pixel, label in zip(
                part.pixels[part.rows] if part.rows is not None else part.pixels, part.labels, strict=True
            )
        )
    images = data.train.images
    assert images.dtype == torch.float32 and abs(float(images.mean())) < 0.05 and abs(float(images.std()) - 1) < 0.05


def test_pixels_are_decoded_once(split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = datasets.load(Request(str(split_folder), cache=tmp_path))
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 2 and all(name.endswith(".npy") for name in files)

    def never(*_: object) -> None:
        raise AssertionError("decoded already")

    with monkeypatch.context() as patch:
        patch.setattr(datasets.preprocess, "array_of", never)
        again = datasets.load(Request(str(split_folder), cache=tmp_path))
    assert torch.equal(first.train.images, again.train.images)
    larger = datasets.load(Request(str(split_folder), 24, cache=tmp_path))
    assert larger.resolution_px == 24 and len(list(tmp_path.iterdir())) == 4


def test_a_changed_image_is_decoded_again(tmp_path: Path) -> None:
    photos(tmp_path / "photos", 30)
    first = datasets.load(Request(str(tmp_path / "photos"), cache=tmp_path / "cache"))
    Image.new("RGB", (12, 12), (9, 9, 9)).save(tmp_path / "photos" / "cat" / "000.png")
    again = datasets.load(Request(str(tmp_path / "photos"), cache=tmp_path / "cache"))
    assert not torch.equal(first.train.pixels, again.train.pixels)


def test_a_zip_without_parts_is_cut_by_class(tmp_path: Path) -> None:
    photos(tmp_path / "grey", 50, grey=True)
    with zipfile.ZipFile(tmp_path / "grey.zip", "w") as archive:
        for path in sorted((tmp_path / "grey").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path))
    data = datasets.load(Request(str(tmp_path / "grey.zip" / Path("grey")), cache=tmp_path / "cache"))
    assert data.channels == 1 and not data.flips and data.name == "grey"
    assert [len(p) for p in (data.train, data.calibration, data.validation, data.test)] == [102, 6, 12, 30]
    assert torch.bincount(data.test.labels).tolist() == [10, 10, 10]
    again = datasets.load(Request(str(tmp_path / "grey.zip" / Path("grey")), cache=tmp_path / "cache"))
    assert torch.equal(data.test.images, again.test.images)
    assert datasets.load(Request(str(tmp_path / "grey"), channels=3, cache=tmp_path / "cache")).channels == 3


def test_large_images_are_224_pixels_unless_said(tmp_path: Path) -> None:
    photos(tmp_path / "large", 16, px=80)
    assert datasets.load(Request(str(tmp_path / "large"), cache=tmp_path / "cache")).resolution_px == 224


OWN = """
import numpy as np

def images(part):
    rng = np.random.default_rng(0 if part == "train" else 1)
    for number in range(60 if part == "train" else 20):
        yield rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), number % 2

def grey():
    return [(np.full((8, 8), number, np.uint8), number % 3) for number in range(90)]

def texts():
    return [("a", 0)]

def floats():
    return [(np.zeros((8, 8)), 0)]

def sizes():
    return [(np.zeros((8, 8), np.uint8), 0), (np.zeros((9, 8), np.uint8), 0)]

def labels():
    return [(np.zeros((8, 8), np.uint8), 0.5)]

def words():
    return [(np.zeros((8, 8), np.uint8), "cat")]

def nothing():
    return []

def few():
    return [(np.zeros((8, 8), np.uint8), n % 2) for n in range(6)]

def wide():
    return [(np.zeros((8, 9), np.uint8), n % 2) for n in range(60)]

def broken():
    yield np.zeros((8, 8), np.uint8), 0
    raise ValueError("no more")
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path / "mine.py"


def test_a_function_of_ones_own(own: Path) -> None:
    data = datasets.load(Request(f"{own}:images"))
    assert data.name == "mine.py:images" and data.classes == ("0", "1")
    assert (len(data.test), data.channels, data.resolution_px) == (20, 3, 8)
    grey = datasets.load(Request(f"{own}:grey", flips=True))
    assert (grey.channels, len(grey.classes), grey.flips) == (1, 3, True)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("texts", "Item 1 of mine.py:texts is an image of <U1"),
        ("floats", "is an image of float64 .*give uint8"),
        ("sizes", "Item 2 of mine.py:sizes is .* give one size"),
        ("labels", "has the label 0.5: give the number of its class"),
        ("words", "has the label 'cat': give the number of its class"),
        ("nothing", "yields nothing"),
        ("few", "images of the class '.' to train on: give 8 or more"),
        ("wide", "are 8 x 9 pixels: kit trains on square ones"),
        ("broken", "failed .ValueError: no more, mine.py line"),
        ("absent", "Unknown name in mine.py 'absent'"),
    ],
)
def test_a_function_that_does_not_fit(own: Path, name: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        datasets.load(Request(f"{own}:{name}"))


def test_data_that_are_none(tmp_path: Path, split_folder: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'cifar10'"):
        datasets.load(Request("cifar01"))
    with pytest.raises(UsageError, match="cifar10 is not in .*fetch it with --download"):
        datasets.load(Request("cifar10", cache=tmp_path))
    photos(tmp_path / "lone" / "train", 9)
    with pytest.raises(UsageError, match=r"holds train: kit needs train/ and test/"):
        datasets.load(Request(str(tmp_path / "lone"), cache=tmp_path / "cache"))
    photos(tmp_path / "two" / "train", 20)
    photos(tmp_path / "two" / "test", 2)
    (tmp_path / "two" / "test" / "owl").rename(tmp_path / "two" / "test" / "bat")
    with pytest.raises(UsageError, match="differ in the class folder 'bat'"):
        datasets.load(Request(str(tmp_path / "two"), cache=tmp_path / "cache"))
    with pytest.raises(UsageError, match="takes .* and kit takes up to"):
        datasets.load(Request(str(split_folder), 4096 * 16, cache=tmp_path / "cache"))


def test_batches_and_first() -> None:
    pixels = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)
    split = Split(pixels, torch.arange(5), (0.0,), (1.0,), rows=torch.tensor([8, 1, 3, 5, 9]))
    assert (split.first(2).images.flatten() * 255).round().tolist() == [8, 1]
    batches = list(split.batches(2))
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    assert (batches[2][0].flatten() * 255).round().tolist() == [9]
