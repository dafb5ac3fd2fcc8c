"""Written sub-networks against torch, torchvision, onnx and onnxruntime: the same work, and the same operators where it is executed."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import onnx
import onnxruntime as ort
import torch
import torchvision
from onnx import numpy_helper
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet, vgg

from kit import spaces, store
from kit.backends import onnxgraph
from kit.records import Artifact, SubNetwork
from kit.spaces import SPACES
from kit.spaces.graph import channels
from kit.variants import graph, network_files, quantize, train

NETWORKS = [name for name in SPACES if not name.startswith("allocator")]
CONVOLUTIONAL = [name for name in NETWORKS if not name.startswith("vit")]
SMALL = [
    "resnet18-d1.2.1.1-w0.25-{}-96",
    "resnet50-d1.1.2.1-w0.38-{}-96",
    "resnet20-d2.1.1-w0.62-{}-24",
    "vgg11-d1.1.2.1.2-w0.38-{}-96",
    "vit_tiny-d2-w0.38-{}-80",
]
WRITTEN = [text.format(p) for text in SMALL for p in ("fp32", "int8")] + [
    "allocator_a-d2-w0.27-fp32-30",
    "allocator_b-d2-w0.40-fp32-30",
    "allocator_a_static-d2-w1.00-fp32-30",
    "allocator_b_static-d3-w1.00-fp32-30",
    "allocator_u-d3-w0.50-fp32-30",
]
KIND = {
    "Conv": "conv", "QLinearConv": "conv", "Gemm": "product", "QGemm": "product", "FusedGemm": "product", "MatMul": "product",
    "FusedMatMul": "product", "QLinearMatMul": "product", "MaxPool": "pool", "NhwcMaxPool": "pool", "ReduceMean": "pool",
    "LayerNormalization": "norm", "SkipLayerNormalization": "norm", "Softmax": "softmax", "LogSoftmax": "softmax",
    "QLinearSoftmax": "softmax", "Transpose": "move", "Concat": "move", "QLinearConcat": "move", "Gather": "move", "Split": "move",
    "ReorderInput": "move", "ReorderOutput": "move", "Add": "light", "QLinearAdd": "light", "Mul": "light", "QLinearMul": "light",
    "Div": "light", "Erf": "light", "Relu": "light", "LeakyRelu": "light", "TopK": "light", "QuantizeLinear": "light",
    "DequantizeLinear": "light", "pointwise": "conv", "linear": "product", "matmul": "product", "add": "light", "elementwise": "light",
}  # fmt: skip
VIEWS = {"Reshape", "Squeeze", "Unsqueeze"}


def twin(sub: SubNetwork) -> nn.Module:
    """The same network of torchvision's own blocks."""
    if sub.family == "vit":
        heads = {"vit_tiny": 3, "vit_small": 6, "vit_base": 12, "vit_large": 16}[sub.root]
        hidden = heads * round(64 * sub.width)
        return torchvision.models.VisionTransformer(
            sub.resolution_px, 16, sub.depth, heads, hidden, 4 * hidden, num_classes=1000
        )
    assert sub.blocks is not None
    if sub.family == "vgg":
        bases = (64, 128, 256, 512, 512)
        layers: list[Any] = [
            c for b, n in zip(bases, sub.blocks, strict=True) for c in [channels(b, sub.width)] * n + ["M"]
        ]
        return nn.Sequential(vgg.make_layers(layers, batch_norm=True), *head(channels(512, sub.width), 1000))
    small = len(sub.blocks) == 3
    widths = [channels(b, sub.width) for b in ((16, 32, 64) if small else (64, 128, 256, 512))]
    kind: Any = resnet.Bottleneck if sub.root == "resnet50" else resnet.BasicBlock
    stem = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False) if small else nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
    parts: list[nn.Module] = [stem, nn.BatchNorm2d(widths[0]), nn.ReLU(), *([] if small else [nn.MaxPool2d(3, 2, 1)])]
    before = widths[0]
    for stage, (width, blocks) in enumerate(zip(widths, sub.blocks, strict=True)):
        for index in range(blocks):
            stride, after = 2 if stage and not index else 1, width * kind.expansion
            shortcut = None
            if stride > 1 or before != after:
                shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
            parts.append(kind(before, width, stride, shortcut))
            before = after
    return nn.Sequential(*parts, *head(before, 10 if small else 1000))


def head(width: int, classes: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)


def torchvisions(name: str) -> nn.Module:
    """The root as torchvision itself builds it, where it has it."""
    named = {
        "resnet18": "resnet18",
        "resnet34": "resnet34",
        "resnet50": "resnet50",
        "vit_base": "vit_b_16",
        "vit_large": "vit_l_16",
    }
    return torchvision.models.get_model(named[name]) if name in named else twin(SPACES[name].root)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("spaces")

    @cache
    def make(text: str) -> tuple[Path, Artifact]:
        path = folder / f"{text}.onnx"
        return path, spaces.write(spaces.subnetwork(text), path)

    return make


def optimised(path: Path) -> Counter[str]:
    """Operators of the graph that onnxruntime makes of ``path``."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path.with_suffix(".optimised"))
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def run(path: Path, seed: int, count: int = 1) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    node, rng = session.get_inputs()[0], np.random.default_rng(seed)
    return [session.run(None, {node.name: rng.standard_normal(node.shape).astype(np.float32)})[0] for _ in range(count)]


# -------------------------------------------------------------------------------------------------------- the same work


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_and_parameters_of_each_root_are_torchs(name: str) -> None:
    root = SPACES[name].root
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused attention is one opaque operator, which is not counted
    try:
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            net = torchvisions(name).eval()
            net(torch.zeros(1, 3, root.resolution_px, root.resolution_px))
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    assert spaces.macs(root) == counter.get_total_flops() // 2
    stored_parameters = sum(p.numel() for p in net.parameters())
    folded = sum(m.num_features for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    if root.family == "vgg":
        folded *= 2  # torchvision's convolutions there have a bias of their own, too
    scalars = 4 if root.family == "vit" else 0  # Gelu's three constants and the scale of attention are stored tensors
    assert spaces.counts(root).parameters == stored_parameters - folded + scalars


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_macs_are_thops_but_for_what_runtimes_fold_away(name: str) -> None:
    """thop counts batch norms (four per value) and the additions and divisions of the mean, too. torch's counter, an exported graph
    and kit do not: batch norm is folded into the convolution, and a mean multiplies nothing."""
    thop = pytest.importorskip("thop")
    root = SPACES[name].root
    net, image = twin(root).eval(), torch.zeros(1, 3, root.resolution_px, root.resolution_px)
    extra = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal extra
        extra += 4 * output.numel() if isinstance(module, nn.BatchNorm2d) else inputs[0].numel() + output.numel()

    hooks = [
        m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.AdaptiveAvgPool2d)
    ]
    with torch.no_grad():
        net(image)
        for hook in hooks:
            hook.remove()
        counted, _ = thop.profile(net, (image,), verbose=False)
    assert counted - extra == spaces.macs(root)


@pytest.mark.parametrize("text", WRITTEN)
def test_the_sidecar_says_what_the_file_says(written: Any, text: str) -> None:
    path, artifact = written(text)
    facts = graph.facts(graph.load(path), text)
    for what in ("macs", "parameters", "weight_bytes", "activation_bytes", "inputs", "outputs", "precision"):
        assert getattr(artifact, what) == getattr(facts, what), what
    assert (
        artifact.macs
        == spaces.macs(artifact.subnetwork)
        == sum(k.macs * k.count for k in spaces.kernels(artifact.subnetwork))
    )
    assert store.read_record(path.with_suffix(".json"), Artifact) == artifact
    assert artifact.model.sha256 == store.sha256_file(path) and artifact.model.size_bytes == path.stat().st_size
    assert artifact.quantization == ("static-qdq-u8s8" if "int8" in text else None)
    assert artifact.artifact_id == text


@pytest.mark.parametrize("text", [t for t in WRITTEN if "allocator" not in t])
def test_the_kernels_hold_all_weights(written: Any, text: str) -> None:
    path, artifact = written(text)
    aside = {n for node in graph.load(path).graph.node for n in graph.settings_of(node)}
    stored = [
        t for t in onnx.load(path).graph.initializer if t.name not in aside and t.data_type != onnx.TensorProto.INT64
    ]
    scalars = sum(numpy_helper.to_array(t).nbytes for t in stored if not t.dims or list(t.dims) == [1])
    stored_parameters = sum(k.weight_bytes * k.count for k in spaces.kernels(artifact.subnetwork))
    assert stored_parameters == artifact.weight_bytes - scalars


# --------------------------------------------------------------------------------------------------------- the same graph


@pytest.mark.parametrize("text", WRITTEN)
def test_files_are_valid_and_their_answers_vary(written: Any, text: str) -> None:
    path, _ = written(text)
    onnx.checker.check_model(str(path), full_check=True)
    one, two = run(path, seed=0, count=2)
    assert np.isfinite(one).all() and np.isfinite(two).all()
    assert len(np.unique(one)) >= min(20, one.size // 2) and one.std() > 1e-3
    assert not np.array_equal(one, two)
    if "int8" in text:
        low, high = one.min(), one.max()
        assert np.mean((one == low) | (one == high)) < 0.25  # they do not stick at the limits of the integers


@pytest.mark.parametrize("text", WRITTEN)
def test_kernels_are_what_onnxruntime_makes_of_the_file(written: Any, text: str) -> None:
    path, artifact = written(text)
    executed: Counter[str] = Counter()
    for op, count in optimised(path).items():
        if op not in VIEWS:
            executed[KIND[op]] += count
    block = spaces.block_of(_cpu_flags())
    counts: Counter[str] = Counter()
    for kernel in spaces.kernels(artifact.subnetwork, block):
        counts[KIND.get(kernel.kind, kernel.kind)] += kernel.count
    assert counts == executed


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    words = info.read_text().split() if info.exists() else []
    return set(words)


@pytest.mark.parametrize("text", [SMALL[0], SMALL[3], SMALL[4]])
def test_onnxruntime_executes_what_it_would_of_torchs_export(written: Any, text: str, tmp_path: Path) -> None:
    """The operators after full optimisation are those of the network that torch exports, in float and quantized by onnxruntime."""
    sub = spaces.subnetwork(text.format("fp32"))
    with train.deterministic(0):
        net, images = twin(sub).eval(), torch.randn(2, 3, sub.resolution_px, sub.resolution_px)
        with torch.no_grad():
            for parameter in net.parameters():  # equal or zero ones, as before training, would be merged or left out
                parameter.add_(0.02 * torch.randn_like(parameter))
        network_files.scale_activations(net, images)
        torch_file = tmp_path / "torch.onnx"
        torch_file.write_bytes(network_files.to_files(net, images[:1]).onnx)
        small = tmp_path / "torch-int8.onnx"
        small.write_bytes(quantize.static(torch_file, images))
    assert optimised(written(text.format("fp32"))[0]) == optimised(torch_file)
    assert optimised(written(text.format("int8"))[0]) == optimised(small)


def test_stages_are_read_from_the_names_of_the_weights(written: Any) -> None:
    for precision in ("fp32", "int8"):
        path, _ = written(SMALL[0].format(precision))
        file_graph = onnxgraph.read(path)
        assert file_graph is not None
        assert set(file_graph.stages().values()) == {
            "stem",
            "layer1.0",
            "layer2.0",
            "layer2.1",
            "layer3.0",
            "layer4.0",
            "head",
        }


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    sub = spaces.subnetwork(SMALL[2].format("int8"))
    hashes = [spaces.write(sub, tmp_path / f"{i}.onnx", seed).model.sha256 for i, seed in enumerate((3, 3, 4))]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "resnet56", "vgg16", "vit_small"])
def test_deep_networks_neither_fade_nor_stick(name: str, tmp_path: Path) -> None:
    """The narrowest sub-network of full depth at the lowest resolution, in int8: the hardest case for values without calibration."""
    space = SPACES[name]
    sub = space.root.model_copy(
        update={"width": space.widths[0], "resolution_px": space.resolutions[0], "precision": "int8"}
    )
    path = tmp_path / "net.onnx"
    spaces.write(sub, path)
    one, two = run(path, seed=1, count=2)
    assert len(np.unique(one)) >= min(20, one.size // 2) and not np.array_equal(one, two)
    assert np.mean((one == one.min()) | (one == one.max())) <= 0.2


# -------------------------------------------------------------------------------------------------------------- allocators


def weights_of(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(path).graph.initializer}


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    shifted = np.exp(x - x.max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)


@pytest.mark.parametrize("experts", [1, 8, 30])
def test_allocator_a_computes_equations_4_to_6(written: Any, experts: int) -> None:
    path, _ = written(f"allocator_a-d2-w{experts / 30:.2f}-fp32-30")
    w, x = weights_of(path), np.random.default_rng(0).standard_normal((1, 90)).astype(np.float32)
    h = np.maximum(x @ w["input_layer.weight"].T + w["input_layer.bias"], 0)
    gate = (h @ w["gate.weight"])[0]
    chosen = np.argsort(-gate)[:experts]
    expected = np.zeros(30)
    for share, i in zip(softmax(gate[chosen]), chosen, strict=True):
        inner = np.maximum(h @ w["experts.0.weight"][i] + w["experts.0.bias"][i], 0)
        expected += share * np.log(softmax(inner @ w["experts.1.weight"][i] + w["experts.1.bias"][i]))[0]
    assert run(path, seed=0)[0][0] == pytest.approx(softmax(expected), abs=1e-5)


@pytest.mark.parametrize(("experts", "depth", "users"), [(1, 1, 5), (4, 2, 30), (10, 3, 60)])
def test_allocator_b_computes_equations_12_to_18(written: Any, experts: int, depth: int, users: int) -> None:
    path, _ = written(f"allocator_b-d{depth}-w{experts / 10:.2f}-fp32-{users}")
    w, x = weights_of(path), np.random.default_rng(0).standard_normal((1, users, 5)).astype(np.float32)[0]
    gate = (x @ w["gate.weight"]).mean(axis=0)
    chosen = np.argsort(-gate)[:experts]
    mixed = np.zeros((users, 64))
    for share, i in zip(softmax(gate[chosen]), chosen, strict=True):
        y = x.astype(np.float64)
        for layer in range(depth):
            y = y @ w[f"experts.{layer}.weight"][i] + w[f"experts.{layer}.bias"][i]
            y = np.where(y > 0, y, 0.01 * y)
        mixed += share * y
    expected = softmax((mixed @ w["output_layers.weight"].T + w["output_layers.bias"]).T)
    answer = run(path, seed=0)[0]
    assert answer == pytest.approx(expected, abs=1e-5)
    assert answer.sum(axis=1) == pytest.approx(np.ones(2), abs=1e-5)  # shares of bandwidth and of computing
