"""kit export of somebody's own PyTorch network: what it may be, what it is fed, which weights, and that its files answer like it."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invoke import kit as run

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from torch import nn  # noqa: E402

import kit  # noqa: E402
from kit import backends, store, usercode  # noqa: E402
from kit.errors import BadModel, IntegrityError, KitError, UnknownName, UsageError  # noqa: E402
from kit.nets import export as nets_export  # noqa: E402
from kit.records import Artifact  # noqa: E402
from kit.variants import checkpoints, examples, export, sources  # noqa: E402
from kit.variants.sources import SourceOptions  # noqa: E402

OWN = """
import torch
from torch import nn

import beside


class Net(nn.Module):
    def __init__(self, classes=7):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(100, 16)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1)

    def forward(self, ids, types=None, mask=None):
        hidden = self.encoder(self.table(ids), src_key_padding_mask=None if mask is None else mask == 0)
        return {"logits": hidden.mean(1), "hidden": hidden}


def make():
    return Net()


def text():
    return Text()


def recurrent():
    return Recurrent(), (torch.randn(1, 5, 8), torch.zeros(1, 1, 16), torch.zeros(1, 1, 16))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(8, 16, batch_first=True)

    def forward(self, x, h, c):
        y, (h, c) = self.cell(x, (h, c))
        return y, h, c


class Deciding(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Random(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


instance = Net(3)
number = 3


def failing():
    raise ValueError("no such thing")


def wrong():
    return "a text"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_net.py").write_text(OWN)
    (folder / "beside.py").write_text("VALUE = 1\n")
    return folder


@pytest.fixture
def image() -> tuple[examples.InputShape, ...]:
    return (examples.shape_of("1x3x32x32"),)


def exported(folder: Path, maker: str, out: Path, *shapes: str, **settings: Any) -> Artifact:
    options = SourceOptions(
        tuple(map(examples.shape_of, shapes)), settings.pop("checkpoint", None), seed=settings.pop("seed", 0)
    )
    return export.export_named(f"{folder / 'my_net.py'}:{maker}", out, options, **settings)


def net_of(folder: Path) -> Any:
    """The class Net, with seeded weights and statistics that are not those of a new network."""
    torch.manual_seed(1)
    return usercode.load(f"{folder / 'my_net.py'}:Net")()


# ------------------------------------------------------------------------------------------------------- networks in Python


@pytest.mark.parametrize(("name", "stem"), [("make", "my_net"), ("Net", "my_net-net"), ("instance", "my_net-instance")])
def test_a_function_a_class_and_a_module(folder: Path, tmp_path: Path, name: str, stem: str) -> None:
    artifact = exported(folder, name, tmp_path, "1x3x32x32")
    assert artifact.artifact_id == stem and artifact.check is not None and artifact.origin is not None
    assert artifact.macs == 15 * 15 * 27 * 8 + 8 * (3 if name == "instance" else 7)
    assert artifact.check.max_abs_error < 1e-5  # type: ignore[operator]
    assert artifact.origin.steps == (f"a PyTorch module of my_net.py:{name}",)
    assert {p.name for p in tmp_path.iterdir()} == {f"{stem}{end}" for end in (".onnx", ".pt2", ".json", ".sample.npz")}
    assert store.read_record(tmp_path / f"{stem}.json", Artifact) == artifact
    assert "my_net" not in sys.path and str(folder) not in sys.path


def test_the_command_says_that_it_runs_code(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = f"{folder / 'my_net.py'}:make"
    printed = run("export", source, "--input", "1x3x16x16", "--out", tmp_path, "--id", "Mine", "--json")
    data = json.loads(printed)
    assert data["file"] == str(tmp_path / "mine.onnx") and data["artifact"]["artifact_id"] == "mine"
    assert sources.runs_code(source) == str(folder / "my_net.py")
    assert sources.runs_code("resnet18") is sources.runs_code("timm:resnet18") is None


def test_inputs_by_name_leave_a_default_out(folder: Path, tmp_path: Path) -> None:
    artifact = exported(folder, "text", tmp_path, "ids=2x12:int64:0..99", "mask=2x12:int64:1..1")
    assert [(i.name, i.dtype, i.shape) for i in artifact.inputs] == [
        ("ids", "int64", (2, 12)),
        ("mask", "int64", (2, 12)),
    ]
    assert [o.shape for o in artifact.outputs] == [(2, 16), (2, 12, 16)]
    with np.load(tmp_path / "my_net-text.sample.npz") as sample:
        assert sorted(sample.files) == ["ids", "mask", "output"] and sample["ids"].max() > 50
    assert "1 sample inputs" in backends.run_sample(tmp_path / "my_net-text.onnx", artifact)


def test_a_network_that_brings_its_inputs(folder: Path, tmp_path: Path) -> None:
    artifact = exported(folder, "recurrent", tmp_path)
    assert [(i.name, i.shape) for i in artifact.inputs] == [("x", (1, 5, 8)), ("h", (1, 1, 16)), ("c", (1, 1, 16))]
    assert len(artifact.outputs) == 3 and artifact.macs == 5 * 4 * 16 * (8 + 16)


@pytest.mark.parametrize(
    ("name", "shapes", "sentence"),
    [
        ("make", (), "inputs are not known: give a shape for each"),
        ("mak", ("1x3",), "did you mean 'make'"),
        ("failing", ("1x3",), r"failing failed \(ValueError: no such thing, my_net.py line \d+\)"),
        ("wrong", ("1x3",), "gives str: let it return a torch.nn.Module"),
        ("number", ("1x3",), "is int: name a torch.nn.Module"),
        ("make", ("1x5x32x32",), r"does not take the inputs x 1x5x32x32 \("),
        ("make", ("y=1x3x32x32",), "Unknown input of the network 'y'.*Known: x"),
        ("Deciding", ("1x3",), "decides by values of a tensor, which torch.export cannot follow"),
        ("Random", ("1x3",), "differs from the torch network by .* draws random numbers"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, shapes: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(KitError, match=sentence) as raised:
        exported(folder, name, tmp_path, *shapes)
    assert "\n" not in str(raised.value) and list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""  # torch's own log stays away


def test_an_interrupt_stays_one(tmp_path: Path) -> None:
    (tmp_path / "stopped.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        sources.source_of(f"{tmp_path / 'stopped.py'}:make", SourceOptions())
    (tmp_path / "leaving.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(UsageError, match="failed .SystemExit: 3, leaving.py line 1"):
        sources.source_of(f"{tmp_path / 'leaving.py'}:make", SourceOptions())


def test_a_name_that_is_another_network_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    first = exported(folder, "make", tmp_path, "1x3x16x16")
    with pytest.raises(UsageError, match="holds another network of the name my_net: export under another"):
        exported(folder, "instance", tmp_path, "1x3x16x16", name="my_net")
    assert store.read_record(tmp_path / "my_net.json", Artifact) == first
    assert exported(folder, "make", tmp_path, "1x3x24x24").inputs[0].shape == (1, 3, 24, 24)  # the same again, changed
    (tmp_path / "theirs.onnx").write_bytes(b"somebody's")
    with pytest.raises(UsageError, match="another network of the name theirs"):
        exported(folder, "make", tmp_path, "1x3x16x16", name="theirs")


# --------------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("1x3x224x224", examples.InputShape(None, (1, 3, 224, 224))),
        ("x=4:float16", examples.InputShape("x", (4,), "float16")),
        ("n=scalar:int64:3..3", examples.InputShape("n", (), "int64", 3, 3)),
        ("1x2:float32:-0.5..1.5", examples.InputShape(None, (1, 2), "float32", -0.5, 1.5)),
        ("a.b=0x4", examples.InputShape("a.b", (0, 4))),
        ("x=some/file.npy", examples.InputShape("x", file=Path("some/file.npy"))),
    ],
)
def test_an_input_is_a_shape_with_type_and_range(text: str, parsed: examples.InputShape) -> None:
    assert examples.shape_of(text) == parsed


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("3x", "is no input: write a shape"),
        ("1x3:flaot32", "Unknown type of an input 'flaot32': did you mean 'float32'"),
        ("1x3:int8:0..300", "int8 does not hold the range"),
        ("1x3:int64:0..1.5", "does not hold the range"),
        ("1x3:float32:2..1", "begins above its end"),
        ("100000x100000", "more than"),
    ],
)
def test_an_input_that_is_none(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        examples.shape_of(text)


def test_values_of_inputs(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = examples.shape_of("64x64:uint8:7..9").tensor(generator)
    assert ids.dtype == torch.uint8 and set(ids.unique().tolist()) == {7, 8, 9}
    assert examples.shape_of("8:bool").tensor(generator).all()
    values = examples.shape_of("1000:float64:-1..3").tensor(generator)
    assert values.dtype == torch.float64 and -1 <= values.min() < -0.8 < 2.8 < values.max() <= 3
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.int32).reshape(2, 3))
    assert examples.shape_of(str(tmp_path / "x.npy")).tensor(generator).tolist() == [[0, 1, 2], [3, 4, 5]]
    (tmp_path / "y.npy").write_bytes(b"nothing")
    for name, sentence in (("z", "does not exist"), ("y", "holds no array of numbers")):
        with pytest.raises(UsageError, match=sentence):
            examples.shape_of(str(tmp_path / f"{name}.npy")).tensor(generator)


def test_free_dimensions_go_by_their_names(folder: Path, tmp_path: Path) -> None:
    artifact = exported(
        folder,
        "text",
        tmp_path,
        "ids=1x12:int64:0..99",
        "mask=1x12:int64:1..1",
        dynamic=["batch", "seq=ids:1", "seq=mask:1"],
    )
    assert artifact.artifact_id == "my_net-text-bfree-seq12" and artifact.dims == (("seq", 12),)
    assert artifact.check is not None and artifact.check.count == 1 + 2 + 4  # three sizes of the batch
    model = onnx.load(tmp_path / "my_net-text-bfree.onnx")
    names = [
        [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*model.graph.input, *model.graph.output)
    ]
    assert names == [["batch", "seq"], ["batch", "seq"], ["batch", 16], ["batch", "seq", 16]]
    printed = json.loads(
        run("describe", tmp_path / "my_net-text-bfree.onnx", "--dim", "seq=24", "--dim", "batch=2", "--json")
    )
    assert printed["artifact"]["inputs"][0]["shape"] == [2, 24]


def test_an_axis_of_every_input_and_dimensions_that_the_network_limits(tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.MaxPool2d(3, 2), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    artifact = kit.export(net, torch.rand(1, 3, 40, 40), out=tmp_path, dynamic=["height=2", "width=3"])
    assert artifact.dims == (("height", 40), ("width", 40))
    model = onnx.load(tmp_path / "sequential.onnx")
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [
        1,
        3,
        "height",
        "width",
    ]


@pytest.mark.parametrize(
    ("dynamic", "sentence"),
    [
        ("seq", "names no dimension: write batch, seq=1"),
        ("seq=ids:1", "Unknown input of the network 'ids'.*Known: x"),
        ("d=x:7", "has 4 dimension"),
        ("d=7", "no input has so many dimensions"),
        ("a b=1", "names no dimension"),
        ("channels=1", "torch cannot export"),
    ],
)
def test_a_dimension_that_cannot_be_free(folder: Path, tmp_path: Path, dynamic: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        exported(folder, "make", tmp_path, "1x3x32x32", dynamic=[dynamic])
    assert list(tmp_path.iterdir()) == []


def test_batch_is_the_first_dimension_of_every_input(folder: Path, tmp_path: Path) -> None:
    artifact = exported(folder, "make", tmp_path, "1x3x16x16", batch=4)
    assert artifact.artifact_id == "my_net-b4" and artifact.inputs[0].shape == (4, 3, 16, 16)


# -------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {
            "epoch": 3,
            "state_dict": {f"module.{k}": v for k, v in state.items()},
            "optimizer": {"lr": 0.1},
        },
        lambda state: {"model": {f"_orig_mod.{k}": v for k, v in state.items()}},
        lambda state: {"anything": {f"net.inner.{k}": v for k, v in state.items()}, "loss.weight": torch.ones(2)},
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
    ],
)
def test_weights_as_training_scripts_store_them(folder: Path, tmp_path: Path, wrapped: Any) -> None:
    trained, fresh = net_of(folder), usercode.load(f"{folder / 'my_net.py'}:Net")()
    torch.save(wrapped(trained.state_dict()), tmp_path / "weights.pth")
    checkpoints.load(fresh, checkpoints.read(tmp_path / "weights.pth"), tmp_path / "weights.pth", "net")
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), trained.parameters(), strict=True))


def test_weights_decide_what_the_file_answers(folder: Path, tmp_path: Path) -> None:
    trained = net_of(folder)
    np.savez(tmp_path / "weights.npz", **{k: v.numpy() for k, v in trained.state_dict().items()})
    artifact = exported(folder, "make", tmp_path / "out", "1x3x16x16", checkpoint=tmp_path / "weights.npz", seed=9)
    assert artifact.origin is not None and artifact.origin.steps[-1] == "weights of weights.npz"
    with np.load(tmp_path / "out" / "my_net.sample.npz") as sample, torch.no_grad():
        expected = trained.eval()(torch.from_numpy(sample["input"])).numpy()
        np.testing.assert_allclose(sample["output"], expected, atol=1e-5)


def test_weights_of_a_wrapped_network_fit_the_bare_and_the_other_way_round(folder: Path) -> None:
    trained = net_of(folder)
    outer = nn.ModuleDict({"model": net_of(folder)})
    assert set(checkpoints.renamed(trained.state_dict(), outer)) == set(outer.state_dict())
    assert set(checkpoints.renamed(outer.state_dict(), trained)) == set(trained.state_dict())


def test_weights_of_another_network_are_listed(folder: Path, tmp_path: Path) -> None:
    state = net_of(folder).state_dict()
    state["head.weight"], state["further"] = torch.ones(9, 8), torch.ones(1)
    del state["body.0.bias"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UsageError) as raised:
        exported(folder, "make", tmp_path / "out", "1x3x16x16", checkpoint=tmp_path / "w.pth")
    assert str(raised.value) == (
        f"{tmp_path / 'w.pth'} does not fit my_net: 1 of its 9 tensors are not in the file (body.0.bias); 1 of the file are not in the "
        "network (further); 1 have another shape (head.weight: 9x8, not 7x8). Give the checkpoint of this network."
    )


_BROKEN = {"junk.pth": b"\x80\x02hello", "empty.pth": b"", "cut.safetensors": b"\x10\0\0\0\0\0\0\0{", "x.npz": b"PK"}


class Hostile:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("owned"),))


def test_a_checkpoint_never_runs_code(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Hostile()}, "hostile.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Hostile()))
    torch.save(net_of(folder), "whole.pt")
    for name in ("hostile.pth", "plain.pth", "whole.pt"):
        with pytest.raises(KitError, match="would run code of it|cannot be read as weights"):
            checkpoints.read(tmp_path / name)
    assert not (tmp_path / "owned").exists()
    for name, content in _BROKEN.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(IntegrityError, match="cannot be read as weights"):
            checkpoints.read(tmp_path / name)
    torch.save([1, 2], "list.pth")
    with pytest.raises(UsageError, match="holds no tensors with names"):
        checkpoints.read(Path("list.pth"))
    with pytest.raises(UsageError, match="does not exist"):
        checkpoints.read(Path("gone.pth"))


def test_a_torchvision_name_takes_the_classes_of_its_weights(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    safetensors = pytest.importorskip("safetensors.torch")
    trained = torchvision.models.squeezenet1_1(num_classes=5)
    safetensors.save_file(trained.state_dict(), tmp_path / "five.safetensors")
    options = SourceOptions(checkpoint=tmp_path / "five.safetensors", resolution_px=64)
    artifact = export.export_named("squeezenet1_1", tmp_path / "out", options)
    assert artifact.outputs[0].shape == (1, 5) and artifact.licence is None
    assert artifact.origin is not None and artifact.origin.steps == ("weights of five.safetensors",)


def test_a_timm_name(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    artifact = export.export_named("timm:test_vit", tmp_path, SourceOptions(resolution_px=96), batch=2)
    assert artifact.artifact_id == "test_vit-96-b2" and artifact.inputs[0].shape == (2, 3, 96, 96)
    usual = timm.get_pretrained_cfg("test_vit")
    assert artifact.preprocessing is not None and artifact.preprocessing.mean == tuple(usual.mean)
    with pytest.raises(UnknownName, match="did you mean 'resnet18'"):
        sources.source_of("timm:resnt18", SourceOptions())


# ------------------------------------------------------------------------------------------------------------- archives


def test_a_program_and_torchscript_are_networks(folder: Path, tmp_path: Path) -> None:
    net, example = net_of(folder).eval(), torch.rand(2, 3, 16, 16)
    program = torch.export.export(net, (example,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, tmp_path / "program.pt2")
    with nets_export.quiet():
        torch.jit.script(net).save(tmp_path / "script.pt")
    for name, settings in (("program.pt2", {}), ("script.pt", {"inputs": ["1x3x16x16"], "dynamic": ["batch"]})):
        assert sources.runs_code(str(tmp_path / name)) == str(tmp_path / name)
        artifact = kit.export(str(tmp_path / name), out=tmp_path / "out", **settings)  # type: ignore[arg-type]
        assert artifact.macs == 7 * 7 * 27 * 8 + 8 * 7 and artifact.inputs[0].name == "x"
        with torch.no_grad():
            outputs = backends.load("onnxruntime").open(tmp_path / "out" / artifact.model.file, artifact, 1)
            computed = outputs.run({"x": example[:1].numpy()})[0]
            np.testing.assert_allclose(computed, net(example[:1]).numpy(), atol=1e-5)
    with pytest.raises(UsageError, match="leave --dynamic away"):
        kit.export(str(tmp_path / "program.pt2"), out=tmp_path / "out", dynamic=["batch"], name="other")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("w.pth", None, "holds weights and no network: name the network, too"),
        ("x.onnx", b"", "is an ONNX file already: kit describe"),
        ("x.py", b"", "name what makes the network, such as"),
        ("x.pt2", b"", "cannot be read as weights"),
        ("gone.pt2", None, "does not exist: give a .pt2"),
    ],
)
def test_files_that_are_no_network(
    folder: Path, tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    elif name != "gone.pt2":
        torch.save(net_of(folder).state_dict(), path)
    assert sources.runs_code(str(path)) is None
    with pytest.raises(KitError, match=sentence):
        sources.source_of(str(path), SourceOptions())


def test_what_came_over_a_link_is_not_run(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "install.json").write_text("{}")
    (tmp_path / "net.py").write_text("raise RuntimeError")
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.rand(1, 2),)), tmp_path / "net.pt2")
    for text in (f"{tmp_path / 'net.py'}:make", str(tmp_path / "net.pt2")):
        with pytest.raises(UsageError, match="came over a link and is not run"):
            sources.source_of(text, SourceOptions())


# ------------------------------------------------------------------------------------------------------------ what follows


def test_pytorch_runs_the_program_beside_an_onnx(folder: Path, tmp_path: Path) -> None:
    exported(folder, "make", tmp_path, "1x3x16x16")
    onnx_file, sidecar = tmp_path / "my_net.onnx", tmp_path / "my_net.json"
    settings = {"backend": "pytorch", "rounds_max": 1, "run_s": 0.01}
    assert kit.profile(onnx_file, **settings).status == "ok"  # type: ignore[arg-type]
    sidecar.unlink()  # two bare files
    record = kit.profile(onnx_file, **settings)  # type: ignore[arg-type]
    assert record.artifact.torch_program is not None and record.artifact.inputs[0].shape == (1, 3, 16, 16)
    other = tmp_path / "other"
    exported(folder, "make", other, "1x3x24x24")
    (other / "my_net.pt2").replace(tmp_path / "my_net.pt2")
    with pytest.raises(KitError, match="my_net.pt2 takes inputs 1x3x24x24 and my_net.onnx takes 1x3x16x16"):
        kit.profile(onnx_file, **settings)  # type: ignore[arg-type]


def test_weights_of_more_than_one_message_lie_beside(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nets_export, "PROTOBUF_BYTES_MAX", 1000)
    torch.manual_seed(0)
    artifact = kit.export(
        nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)), torch.rand(1, 64), out=tmp_path, name="large"
    )
    assert [f.file for f in artifact.data] == ["large.onnx.data"] and (tmp_path / "large.onnx").stat().st_size < 8000
    assert store.file_matches(tmp_path / "large.onnx.data", artifact.data[0])
    assert kit.profile(tmp_path / "large.onnx", rounds_max=1, run_s=0.01).status == "ok"
    backends.run_sample(tmp_path / "large.onnx", artifact)


def test_a_module_in_memory(tmp_path: Path) -> None:
    net = nn.Linear(8, 4).train()
    artifact = kit.export(net, torch.rand(1, 8), out=tmp_path, dynamic=["batch"])
    assert net.training and artifact.model.file == "linear-bfree.onnx"

    class Two(nn.Module):
        def forward(self, a: Any, b: Any) -> Any:
            return a @ b

    two = kit.export(Two(), {"b": torch.rand(3, 2), "a": torch.rand(4, 3)}, out=tmp_path)
    assert [i.name for i in two.inputs] == ["a", "b"] and two.macs == 24
    record = kit.profile(Two(), (torch.rand(4, 3), torch.rand(3, 2)), rounds_max=1, run_s=0.01)
    assert record.status == "ok"
    for example, sentence in (
        ({"c": torch.rand(1)}, "Unknown input"),
        ([1], "is a int: give tensors"),
        (None, "not known"),
    ):
        with pytest.raises(UsageError, match=sentence):
            kit.export(Two(), example, out=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="lies in memory"):
        kit.export("resnet18", torch.rand(1))


def test_a_network_of_half_precision_is_compared_at_its_own(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4)).half()
    artifact = kit.export(net, torch.rand(1, 64).half(), out=tmp_path, name="half")
    assert artifact.precision == "fp16" and artifact.inputs[0].dtype == "float16"


def test_a_sample_of_another_network_is_refused(tmp_path: Path) -> None:
    artifact = kit.export(nn.Linear(8, 4), torch.rand(1, 8), out=tmp_path, name="net")
    np.savez(tmp_path / "net.sample.npz", input=np.ones((1, 8), np.float32), output=np.ones((1, 5), np.float32))
    with pytest.raises(IntegrityError, match=r"gives \[1, 4\] for its own sample and promised \[1, 5\]"):
        backends.run_sample(tmp_path / "net.onnx", artifact)


def test_an_exporter_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError("Constraints violated (batch)!\n  - Not all values of batch satisfy it.")

    monkeypatch.setattr(nets_export, "program_of", failing)
    with pytest.raises(BadModel, match=r"^torch cannot export Linear \(Not all values of batch satisfy it\.\)"):
        kit.export(nn.Linear(2, 2), torch.rand(1, 2), out=tmp_path)
