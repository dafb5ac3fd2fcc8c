"""kit evaluate: what is counted on images and on own data, whatever form the network has, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import colours
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kit
from kit import stats, store
from kit.errors import BadRecord, IntegrityError, UnknownName, UsageError
from kit.evaluation import metrics, pictures, preprocess
from kit.records import Accuracy, Artifact, Preprocessing, TensorSpec

pytest.importorskip("PIL")
PLAIN: dict[str, Any] = {"mean": (0.0,), "std": (1.0,)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images of three classes."""
    return colours.folder(tmp_path / "colours" / "test", colours.files())


def sidecar(network: Path) -> Artifact:
    return store.read_record(network.with_suffix(".json"), Artifact)


# ------------------------------------------------------------------------------------------------------- accuracy as a record


def test_wilsons_interval_is_scipys() -> None:
    binomtest = pytest.importorskip("scipy.stats").binomtest
    for correct, count in ((0, 5), (5, 5), (393, 450), (1, 1), (1, 2), (99_999, 100_000)):
        expected = binomtest(correct, count).proportion_ci(method="wilson")
        assert stats.wilson_interval(correct, count) == pytest.approx((expected.low, expected.high), abs=1e-9)
    for correct, count in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match="no share"):
            stats.wilson_interval(correct, count)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_encloses_the_share(case: tuple[int, int]) -> None:
    low, high = stats.wilson_interval(*case)
    assert 0 <= low <= case[0] / case[1] <= high <= 1 and low < high


def test_an_old_accuracy_loads_and_has_an_interval() -> None:
    old = Accuracy.model_validate({"top1": 0.9, "count": 450, "dataset": "digits"})
    assert (old.metric, old.correct, old.correct_count, old.basis) == ("top1", None, 405, "digits")
    assert old.interval == stats.wilson_interval(405, 450)
    assert old.text() == "90.0 % (86.9 to 92.4), 405 of 450 images of digits"
    assert Accuracy(top1=0.5).interval is None and Accuracy(top1=0.5).text() == "50.0 %"
    assert Accuracy(top1=0.5, metric="f1", count=4, dataset="d").interval is None
    assert Accuracy(top1=0.5, metric="top5", dataset="d").basis == "d, top5"
    for wrong in (
        {"top1": 0.5, "count": 4, "correct": 3},
        {"top1": 0.5, "correct": 2},
        {"top1": 1, "count": 1, "correct": 2},
    ):
        with pytest.raises(ValueError, match="correct|share"):
            Accuracy(**wrong)


@given(
    st.integers(2, 7), st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from(["float32", "int8"])
)  # fmt: skip
def test_hits_are_what_a_stable_sort_gives(classes: int, rows: int, seed: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    outputs = rng.integers(-3, 3, size=(rows, classes)).astype(dtype)
    labels = rng.integers(0, classes, size=rows)
    assert (metrics.hits(outputs, labels) == (outputs.argmax(1) == labels)).all()
    best = np.argsort(-outputs, axis=1, kind="stable")[:, :2]
    assert (metrics.hits(outputs, labels, 2) == (best == labels[:, None]).any(1)).all()


def test_a_row_that_is_no_number_is_no_hit() -> None:
    outputs = np.array([[np.nan, 0.0], [1.0, 0.0], [np.nan, np.nan]], dtype=np.float32)
    assert metrics.hits(outputs, np.array([0, 0, 0])).tolist() == [False, True, False]


# -------------------------------------------------------------------------------------------------- networks of every form


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize(
    "how",
    [
        {"batch": "N"}, {"batch": 1}, {"batch": 5}, {"batch": 5, "layout": "NHWC"}, {"dtype": "float16"}, {"dtype": "uint8"},
        {"quantized": True}, {"dtype": "uint8", "layout": "NHWC", "batch": 7},
    ],
)  # fmt: skip
def test_every_form_of_network_is_counted(tmp_path: Path, form: str, how: dict[str, Any]) -> None:
    contents = {f"test/{name}": data for name, data in colours.files(4).items()}
    data = (
        colours.folder(tmp_path / "c", contents) if form == "folder" else colours.archive(tmp_path / "c.zip", contents)
    )
    wrong_blue = colours.network(tmp_path / "net.onnx", (0, 1, 1), **how)  # red and green are right, of blue's 4 none
    flags = {} if how.get("dtype") == "uint8" else PLAIN
    artifact = kit.evaluate(wrong_blue, data / "test", classes=colours.ORDER, **flags)
    assert artifact.accuracy == Accuracy(top1=8 / 12, count=12, dataset="c/test", correct=8)
    assert sidecar(wrong_blue) == artifact and artifact.macs is not None
    assert artifact.preprocessing is not None and artifact.preprocessing.layout == how.get("layout", "NCHW")
    assert artifact.summary()["accuracy"] == "66.7 % (39.1 to 86.2), 8 of 12 images of c/test"


def test_flags_are_kept_in_the_sidecar_and_need_not_be_given_again(tmp_path: Path, images: Path) -> None:
    network = colours.network(tmp_path / "net.onnx", side=6)
    kit.evaluate(network, images, resize=7, mean=(0.1, 0.2, 0.3), std=(0.5,), classes=colours.ORDER)
    kept = sidecar(network)
    assert kept.preprocessing == Preprocessing(resize_px=7, mean=(0.1, 0.2, 0.3), std=(0.5,) * 3, classes=3)
    again = kit.evaluate(network, images, classes=colours.ORDER, limit=6)
    assert again.preprocessing == kept.preprocessing
    assert again.accuracy is not None and again.accuracy.count == 6
    changed = kit.evaluate(network, images, classes=colours.ORDER, scale=255, crop=6)
    assert changed.preprocessing == kept.preprocessing.model_copy(update={"scale": 255.0, "crop_px": 6})


def test_a_limit_spreads_over_the_classes(tmp_path: Path, images: Path) -> None:
    with pictures.pictures(images) as seen:
        assert [label for _, label in seen.spread(3)] == [0, 1, 2]
        assert [label for _, label in seen.spread(99)] == sorted([0, 1, 2] * 4)
        assert seen.name == "colours/test" and seen.classes == ("blue", "green", "red")


def test_a_chosen_output_and_top5(tmp_path: Path, images: Path) -> None:
    network = colours.network(tmp_path / "net.onnx", second=True)
    weakest = kit.evaluate(network, images, classes=colours.ORDER, **PLAIN)
    strongest = kit.evaluate(network, images, classes=colours.ORDER, output="y")
    assert weakest.accuracy is not None and weakest.accuracy.correct == 0
    assert strongest.accuracy is not None and strongest.accuracy.correct == 12
    with pytest.raises(UsageError, match="no output 'z': it has weakest, y"):
        kit.evaluate(network, images, classes=colours.ORDER, output="z")
    with pytest.raises(UsageError, match="3 outputs, so top5 is always right"):
        kit.evaluate(network, images, classes=colours.ORDER, metric="top5")
    # Of green, five strong outputs stand before the label; of red, one that is equal.
    many = colours.network(tmp_path / "many.onnx", (1, 1, 1, 1, 1, 0, 0, 2))
    names = ("a", "b", "c", "d", "e", "green", "red", "blue")
    five = kit.evaluate(many, images, classes=names, metric="top5", **PLAIN)
    assert five.accuracy == Accuracy(top1=8 / 12, count=12, dataset="colours/test", metric="top5", correct=8)
    one = kit.evaluate(many, images, classes=names)
    assert one.accuracy is not None and one.accuracy.correct == 4


def test_without_classes_the_folders_are_sorted(tmp_path: Path, images: Path) -> None:
    network = colours.network(tmp_path / "net.onnx", (2, 1, 0))  # blue, green, red
    artifact = kit.evaluate(network, images, **PLAIN)
    assert artifact.accuracy is not None and artifact.accuracy.top1 == 1
    (tmp_path / "lines.txt").write_text("red\ngreen\nblue\n")
    (tmp_path / "list.json").write_text('["red", "green", "blue"]')
    for file in ("lines.txt", "list.json"):
        artifact = kit.evaluate(network, images, classes=tmp_path / file)
        assert artifact.accuracy is not None and artifact.accuracy.correct == 4  # green alone has its place


def test_images_become_inputs_as_torchvision_does_it(tmp_path: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    from PIL import Image

    rng = np.random.default_rng(3)
    for wide, high, resize, crop in ((40, 30, 24, 20), (31, 47, 21, 21), (10, 9, 33, 32), (24, 24, 24, 24)):
        image = Image.fromarray(rng.integers(0, 256, size=(high, wide, 3)).astype(np.uint8))
        expected = transforms.Compose(
            [
                transforms.Resize(resize), transforms.CenterCrop(crop), transforms.ToTensor(),
                transforms.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)),
            ]
        )(image).numpy()  # fmt: skip
        how = Preprocessing(resize_px=resize, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), classes=2)
        frame = preprocess.Frame(3, crop, crop, "NCHW")
        array = preprocess.array_of(image, how, frame, "float32")
        assert array.shape == expected.shape and np.abs(array - expected).max() < 1e-6
        turned = preprocess.array_of(image, how, preprocess.Frame(3, crop, crop, "NHWC"), "float32")
        assert np.array_equal(turned.transpose(2, 0, 1), array)


def test_a_grey_network_gets_grey_images_and_a_wide_one_is_covered() -> None:
    from PIL import Image

    grey = Image.fromarray(np.full((9, 9), 100, np.uint8))
    how = Preprocessing(resize_px=4, scale=255.0, mean=(0.0,), std=(1.0,), classes=2)
    array = preprocess.array_of(grey, how, preprocess.Frame(1, 4, 6, "NCHW"), "uint8")
    assert array.shape == (1, 4, 6) and array.dtype == np.uint8 and (array == 100).all()
    shifted = how.model_copy(update={"mean": (228.0,)})
    assert (preprocess.array_of(grey, shifted, preprocess.Frame(1, 4, 4, "NCHW"), "int8") == -128).all()


# ------------------------------------------------------------------------------------------------------------- data of one's own


OWN = """
import numpy as np

def pairs():
    for label in (0, 1, 2, 2):
        x = np.zeros((3, 8, 8)); x[label] = 1
        yield x, label

def batches():
    x = np.zeros((4, 3, 8, 8), np.float32)
    for i, label in enumerate((0, 1, 2, 2)): x[i, label] = 1
    yield {"x": x[:3]}, np.array([0, 1, 2])
    yield x[3:], [1]

def nothing():
    return []

def number():
    return 3

def endless():
    while True:
        yield np.ones((3, 8, 8)), 0

def crashes():
    yield np.ones((3, 8, 8)), 0
    raise ValueError("the disk is gone")

def flat():
    yield np.ones(5), 0

def lone():
    yield np.ones((3, 8, 8))

def words():
    yield np.ones((3, 8, 8)), "cat"

def outside():
    yield np.ones((3, 8, 8)), 3

def few_labels():
    yield np.ones((2, 3, 8, 8)), [1]

def texts():
    yield "image.jpg", 1

def right(outputs, labels):
    return (outputs.argmax(1) == labels).astype(float)

def half(outputs, labels):
    return np.full(len(labels), 0.5)

def one_number(outputs, labels):
    assert outputs.shape == (4, 3) and labels.tolist() == [0, 1, 2, 2]
    return 0.75

def percent(outputs, labels):
    return 75.0

def silent(outputs, labels):
    pass

constant = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path / "mine.py"


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_a_function_gives_pairs_or_batches(tmp_path: Path, mine: Path, batch: int | None) -> None:
    network = colours.network(tmp_path / "net.onnx")
    pairs = kit.evaluate(network, f"{mine}:pairs", batch=batch)
    assert pairs.accuracy == Accuracy(top1=1, count=4, dataset="mine.py:pairs", correct=4)
    assert pairs.preprocessing is None
    batches = kit.evaluate(network, f"{mine}:batches", batch=batch, dataset="my batches")
    assert batches.accuracy == Accuracy(top1=0.75, count=4, dataset="my batches", correct=3)
    endless = kit.evaluate(network, f"{mine}:endless", batch=batch, limit=10)
    assert endless.accuracy is not None and endless.accuracy.count == 10


def test_a_module_of_the_folder_is_imported(tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine.rename(tmp_path / "kit_test_mine.py")
    monkeypatch.chdir(tmp_path)
    network = colours.network(tmp_path / "net.onnx")
    artifact = kit.evaluate(network, "kit_test_mine:pairs", metric="kit_test_mine:right")
    assert artifact.accuracy == Accuracy(
        top1=1, count=4, dataset="kit_test_mine:pairs", metric="kit_test_mine:right", correct=4
    )


def test_a_metric_of_ones_own(tmp_path: Path, mine: Path) -> None:
    network = colours.network(tmp_path / "net.onnx")
    half = kit.evaluate(network, f"{mine}:pairs", metric=f"{mine}:half")
    assert half.accuracy == Accuracy(top1=0.5, count=4, dataset="mine.py:pairs", metric="mine.py:half")
    assert half.accuracy.interval is None
    one = kit.evaluate(network, f"{mine}:pairs", metric=f"{mine}:one_number", batch=3)
    assert one.accuracy is not None and one.accuracy.top1 == 0.75 and one.accuracy.count == 4


@pytest.mark.parametrize(
    ("data", "metric", "text"),
    [
        ("{}:nothing", "top1", "gives no sample"),
        ("{}:number", "top1", "returns int: it must yield pairs"),
        ("{}:crashes", "top1", "ValueError: the disk is gone, mine.py line"),
        ("{}:flat", "top1", "has the shape [5] and the input 'x' takes [3, 8, 8]"),
        ("{}:lone", "top1", "is no pair (inputs, label)"),
        ("{}:words", "top1", "The label of sample 1 is 'cat'"),
        ("{}:outside", "top1", "The label 3 of sample 1 is no class of the network: it has 0 to 2"),
        ("{}:few_labels", "top1", "is a batch of 2 with 1 labels"),
        ("{}:texts", "top1", "where the input 'x' takes float32"),
        ("{}:absent", "top1", "Unknown name in mine.py 'absent'"),
        ("{}:constant", "top1", "constant is int and no function"),
        ("gone.py:f", "top1", "gone.py does not exist"),
        ("no_such_module_here:f", "top1", "No module named 'no_such_module_here': for a file give FILE.py:f"),
        ("{}:pairs", "{}:percent", "must return a number from 0 to 1"),
        ("{}:pairs", "{}:silent", "must return a number from 0 to 1"),
        ("{}:pairs", "top2", "Unknown metric 'top2': did you mean 'top"),
        ("{}:pairs", "top5", "3 outputs, so top5 is always right"),
    ],
)
def test_own_data_that_do_not_fit_are_one_sentence(
    tmp_path: Path, mine: Path, data: str, metric: str, text: str
) -> None:
    network = colours.network(tmp_path / "net.onnx")
    with pytest.raises(UsageError) as refused:
        kit.evaluate(network, data.format(mine), metric=metric.format(mine))
    assert text in str(refused.value) and "\n" not in str(refused.value)
    assert not network.with_suffix(".json").exists()


def test_a_file_that_fails_when_it_is_run(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import numpy\n1 / 0\n")
    (tmp_path / "lost.py").write_text("import no_such_module_here\n")
    network = colours.network(tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=r"ZeroDivisionError: division by zero, bad.py line 2"):
        kit.evaluate(network, f"{tmp_path / 'bad.py'}:f")
    with pytest.raises(
        UsageError, match=r"lost.py failed \(ModuleNotFoundError: No module named 'no_such_module_here'"
    ):
        kit.evaluate(network, f"{tmp_path / 'lost.py'}:f")


def test_several_inputs_need_a_function(tmp_path: Path, images: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    values = [helper.make_tensor_value_info(name, kind, ["N", 2]) for name in ("a", "b", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["y"])], "g", values[:2], values[2:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "two.onnx"
    )
    with pytest.raises(UsageError, match=r"takes 2 inputs \(a, b\): give your data by a function"):
        kit.evaluate(tmp_path / "two.onnx", images)
    pairs = [(([1, 0], [0, 0.5]), 0), ({"a": [0, 0], "b": [0, 2]}, 1), (([0, 0], [0, 2]), 0)]
    artifact = kit.evaluate(tmp_path / "two.onnx", lambda: pairs)
    assert artifact.accuracy is not None and (artifact.accuracy.correct, artifact.accuracy.count) == (2, 3)
    assert artifact.noun == "samples" and "2 of 3 samples of" in artifact.summary()["accuracy"]
    with pytest.raises(UsageError, match="does not give the inputs a, b"):
        kit.evaluate(tmp_path / "two.onnx", lambda: [({"a": [1, 0]}, 0)])


# ------------------------------------------------------------------------------------------------------------------ what is refused


def test_a_network_of_which_nothing_is_known_names_the_flags(tmp_path: Path, images: Path) -> None:
    network = colours.network(tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=r"Nothing says how .*net.onnx was trained .*: add --mean and --std"):
        kit.evaluate(network, images, classes=colours.ORDER)
    with pytest.raises(UsageError, match=r"add --std \("):
        kit.evaluate(network, images, classes=colours.ORDER, mean=(0.5,))
    assert not network.with_suffix(".json").exists()


@pytest.mark.parametrize(
    ("how", "flags", "text"),
    [
        ({}, {"mean": (1, 2)}, "--mean 1,2 is for 2 channels and"),
        ({}, {"std": (0,)}, "--std 0 cannot be: give numbers above 0"),
        ({}, {"mean": (float("nan"),)}, "--mean nan cannot be"),
        ({}, {"scale": 0}, "--scale 0 cannot be"),
        ({}, {"resize": 7}, "--resize 7 is below the 8 pixels"),
        ({}, {"crop": 7}, "--crop 7 is not what"),
        ({}, {"layout": "NHWC"}, "which is no image of 1 or 3 channels as NHWC"),
        ({}, {"limit": 0}, "--limit 0 cannot be"),
        ({"batch": 4}, {"batch": 2}, "has the fixed batch 4, not 2"),
        ({"dtype": "uint8"}, {}, "takes raw pixels (uint8): leave out --mean, --std and --scale"),
    ],
)
def test_flags_that_contradict_the_network(
    tmp_path: Path, images: Path, how: dict[str, Any], flags: dict[str, Any], text: str
) -> None:
    network = colours.network(tmp_path / "net.onnx", **how)
    with pytest.raises(UsageError) as refused:
        kit.evaluate(network, images, classes=colours.ORDER, **{**PLAIN, **flags})
    assert text in str(refused.value) and "\n" not in str(refused.value)
    assert not network.with_suffix(".json").exists()


def test_an_input_that_is_no_image() -> None:
    for shape in ((1, 64), (1, 5, 8, 8)):
        with pytest.raises(UsageError, match="no image"):
            preprocess.frame_of(TensorSpec(name="x", shape=shape, dtype="float32"), None, "net.onnx")


def test_data_that_are_no_class_folders(tmp_path: Path, images: Path) -> None:
    network = colours.network(tmp_path / "net.onnx")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(colours.image(0))
    colours.archive(tmp_path / "empty.zip", {"readme.txt": b"hello"})
    (tmp_path / "text.zip").write_text("no zip")
    split = {f"{part}/{name}": data for part in ("train", "test") for name, data in colours.files(1).items()}
    colours.archive(tmp_path / "split.zip", split)
    colours.folder(tmp_path / "ten", {f"c{i}/a.png": colours.image(0) for i in range(4)})
    for data, text in (
        ("gone", "gone does not exist"),
        ("flat", "holds no images in class folders"),
        ("empty.zip", "holds no images: kit reads CLASS/NAME.jpg"),
        ("text.zip", "is no zip that can be read"),
        ("split.zip", "holds the splits test, train: name one of them, "),
        ("split.zip/val", "holds no images"),
        ("ten", "holds 4 class folders and the network has 3 outputs: name the class of each output with --classes"),
    ):
        with pytest.raises(UsageError) as refused:
            kit.evaluate(network, tmp_path / data, **PLAIN)
        assert text in str(refused.value) and "\n" not in str(refused.value), data
    for names, text in (
        (("red", "green"), "--classes names 2 classes and the network has 3 outputs"),
        (("red", "green", "violet"), "class folder 'blue' of colours/test is not among those of --classes"),
    ):
        with pytest.raises(UsageError, match=text):
            kit.evaluate(network, images, classes=names, **PLAIN)


@pytest.mark.parametrize("text", ["", "[]", '["a", 3]', '{"0": "a"}', "a\nb\na\n", '["a"'])
def test_class_files_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(BadRecord, match=r"classes.txt holds (no classes|the class 'a' twice)"):
        pictures.class_order(tmp_path / "classes.txt")


def test_hostile_zips_stay_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = colours.network(tmp_path / "net.onnx", (2, 1, 0))
    good = colours.files(1)

    def refused(contents: dict[str, bytes]) -> str:
        with pytest.raises(BadRecord) as caught:
            kit.evaluate(network, colours.archive(tmp_path / "z.zip", contents), **PLAIN)
        return str(caught.value)

    assert "cannot be read" in refused({**good, "red/bad.png": b"no image"})
    assert "cannot be read" in refused({**good, "red/bad.png": colours.image(0)[:80]})
    assert "cannot be read" in refused({**good, "red/eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"})
    with monkeypatch.context() as patched:
        patched.setattr(pictures, "IMAGE_BYTES_MAX", 10_000)
        assert "is larger than" in refused({**good, "red/zeros.png": b"\0" * 1_000_000})
    with monkeypatch.context() as patched:
        patched.setattr(pictures, "PIXELS_MAX", 100)
        assert "has 11 x 10 pixels" in refused({**good, "blue/0.png": colours.image(0, wide=11, high=10)})
    with monkeypatch.context() as patched:
        patched.setattr(pictures, "ENTRIES_MAX", 2)
        assert "has 3 entries" in refused(good)
    outside = {f"../../up/{i}": b"" for i in range(2)}
    escape = {f"blue/../../{name.replace('/', '-')}": data for name, data in good.items()}
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(UsageError):
        kit.evaluate(network, colours.archive(tmp_path / "z.zip", {**outside, **escape}), **PLAIN)
    assert set(tmp_path.parent.rglob("*")) == set(before)
    assert not network.with_suffix(".json").exists()


def test_encrypted_and_deep_images_are_named(tmp_path: Path) -> None:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(data, format="PNG")
    colours.folder(tmp_path / "deep", {"a/x.png": data.getvalue()})
    with (
        pictures.pictures(tmp_path / "deep") as seen,
        pytest.raises(BadRecord, match="'a/x.png' of deep has more than 8 bits"),
    ):
        seen.decoded("a/x.png", 3)
    colours.archive(tmp_path / "locked.zip", {"a/x.png": colours.image(0)})
    raw = bytearray((tmp_path / "locked.zip").read_bytes())
    raw[6] |= 1  # the flag of encryption, in the entry and in the directory
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(raw)
    with pictures.pictures(tmp_path / "locked.zip") as seen, pytest.raises(BadRecord, match="encrypted"):
        seen.decoded("a/x.png", 3)


def test_hidden_files_and_other_files_are_left_alone(tmp_path: Path) -> None:
    more = {
        "red/.hidden.png": b"x",
        "__MACOSX/red/._0.png": b"x",
        "red/notes.txt": b"x",
        ".cache/0.png": b"x",
        "red/deep/1.JPG": colours.image(0, form="JPEG"),
    }
    for data in (
        colours.folder(tmp_path / "f", {**colours.files(1), **more}),
        colours.archive(tmp_path / "z.zip", {**colours.files(1), **more}),
    ):
        with pictures.pictures(data) as seen:
            assert seen.keys == ("blue/00.png", "green/00.png", "red/00.png", "red/deep/1.JPG")
            assert seen.decoded("red/deep/1.JPG", 1).mode == "L"


def test_a_sidecar_that_is_not_the_networks_is_not_touched(tmp_path: Path, images: Path) -> None:
    network = colours.network(tmp_path / "net.onnx")
    (tmp_path / "net.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match="is no sidecar of kit's"):
        kit.evaluate(network, images, classes=colours.ORDER, **PLAIN)
    assert (tmp_path / "net.json").read_text() == '{"mine": 1}'
    (tmp_path / "net.json").unlink()
    kit.evaluate(network, images, classes=colours.ORDER, **PLAIN)
    kept = (tmp_path / "net.json").read_bytes()
    colours.network(network, (1, 1, 1))
    with pytest.raises(IntegrityError, match="is not the file that net.json describes"):
        kit.evaluate(network, images, classes=colours.ORDER)
    assert (tmp_path / "net.json").read_bytes() == kept
    (tmp_path / "install.json").write_text('{"kind": "install"}')
    with pytest.raises(UsageError, match="was installed by kit pull"):
        kit.evaluate(network, images)


def test_what_is_no_network_is_refused(tmp_path: Path, images: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    for path, text in (
        ("gone.onnx", "gone.onnx does not exist"),
        ("net.pt", "is no .onnx file"),
        ("text.onnx", "ONNX model"),
    ):
        with pytest.raises(UsageError, match=text):
            kit.evaluate(tmp_path / path, images, **PLAIN)
    network = colours.network(tmp_path / "net.onnx")
    with pytest.raises(UsageError, match="Backend fake runs no ONNX network"):
        kit.evaluate(network, images, backend="fake", **PLAIN)
    with pytest.raises(UnknownName, match="did you mean 'onnxruntime'"):
        kit.evaluate(network, images, backend="onnxruntim", **PLAIN)


def test_without_pillow_a_sentence_says_what_to_install(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "PIL" else find(name, *rest))
    with pytest.raises(kit.errors.BackendUnavailable, match=r"Reading images needs pillow.*install pillow"):
        kit.evaluate(colours.network(tmp_path / "net.onnx"), images, **PLAIN)
