"""Networks far from what was measured: said in words, with intervals that hold, on machines whose truth is known."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import simulated
from test_cli import complaint, kit

from kit import latency, store
from kit.latency.far import FarRoofline
from kit.latency.features import arrange
from kit.latency.model import OTHER_FAMILY, Predictions, Predictor
from kit.latency.parametric import Cases, State
from kit.records import Kernel

NETS = simulated.sample(60, 0)
Net = tuple[Kernel, ...]


@cache
def fitted() -> Predictor:
    """Of convolutional networks in fp32 alone."""
    return latency.predictor(simulated.Machine(0).profiles(NETS[:24]), baselines=False)


def light(kind: str, rows: int, columns: int, precision: str = "fp32") -> Kernel:
    moved = rows * columns * simulated.BYTES[precision]
    return Kernel(
        kind=kind, precision=precision, rows=rows, inner=1, columns=columns, read_bytes=moved, written_bytes=moved
    )  # type: ignore[arg-type]


def depthwise(px: int, channels: int, depth: int) -> Net:
    one = Kernel(
        kind="depthwise", rows=px * px, inner=9, columns=1, groups=channels, size=3, weight_bytes=36 * channels,
        read_bytes=4 * px * px * channels, written_bytes=4 * px * px * channels, count=depth,
    )  # fmt: skip
    return (one,)


def product(tokens: int, width: int, kind: str = "matmul", precision: str = "fp32", count: int = 1) -> Kernel:
    byte = simulated.BYTES[precision]
    return Kernel(
        kind=kind, precision=precision, rows=tokens, inner=width, columns=width,
        weight_bytes=0 if kind == "matmul" else byte * width * width,
        read_bytes=byte * (tokens * width + (width * width if kind == "matmul" else 0)), written_bytes=byte * tokens * width, count=count,
    )  # type: ignore[arg-type]  # fmt: skip


def encoder(tokens: int, width: int, layers: int) -> Net:
    layer = (
        light("norm", tokens, width), product(tokens, width, "linear", count=3), product(tokens, tokens), light("softmax", tokens, tokens),
        product(tokens, width), light("add", tokens, width), product(tokens, 2 * width, "linear"), light("elementwise", tokens, 2 * width),
    )  # fmt: skip
    return layer * layers


TINY: Net = (product(1, 32, "linear"), light("elementwise", 1, 32), product(1, 32, "linear"))
FOREIGN: dict[str, Net] = {
    "depthwise": depthwise(56, 64, 8),
    "small depthwise": depthwise(8, 16, 20),
    "products": (product(64, 256, count=6),),
    "tiny": TINY,
    "encoder": encoder(64, 192, 4),
    "long encoder": encoder(16, 64, 40),
    "int8": simulated.resnet((1, 1, 1, 1), 0.5, 128, "int8"),
    "mobile": (
        simulated.convolution(64, 3, 16, 3, "fp32", 2), *depthwise(32, 16, 1), simulated.convolution(32, 16, 64, 1, "fp32"),
        *depthwise(32, 64, 2), simulated.convolution(32, 64, 64, 1, "fp32"), light("elementwise", 1024, 64),
    ),
}  # fmt: skip


def predicted(model: Predictor, *names: str) -> Predictions:
    return model.predict([FOREIGN[name] for name in names], families=[None] * len(names))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("depthwise", "kernels of kind depthwise were not measured"),
        ("products", "kernels of kind matmul were not measured"),
        ("tiny", "fewer multiply-accumulates than measured"),
        ("encoder", "kernels of kind matmul were not measured"),
        ("int8", "int8 was not measured"),
        ("mobile", "kernels of kind depthwise were not measured"),
    ],
)
def test_a_far_network_says_what_was_never_measured_and_has_a_wide_interval(name: str, text: str) -> None:
    predictions = predicted(fitted(), name)
    near = fitted().predict([NETS[40][1]])
    assert predictions.why[0] is not None and predictions.why[0].startswith(OTHER_FAMILY) and text in predictions.why[0]
    assert predictions.low[0] < predictions.seconds[0] < predictions.high[0] and predictions.sd[0] > 0
    assert predictions.high[0] / predictions.low[0] > max(2.0, 1.5 * float(near.high[0] / near.low[0]))


def test_how_far_outside_is_a_number() -> None:
    large = fitted().predict([simulated.resnet((9, 9, 9, 9), 2.0, 448)], families=[None]).why[0]
    assert large is not None and "times more multiply-accumulates than measured" in large
    assert "kernels, " in large or "of weights, " in large or "more" in large
    tiny = predicted(fitted(), "tiny").why[0]
    assert tiny is not None and "times fewer" in tiny


def test_a_network_of_another_family_whose_kernels_were_all_measured_is_predicted_as_before() -> None:
    alike = [kernels for _, kernels in NETS[40:]]
    own, other = fitted().predict(alike), fitted().predict(alike, families=[None] * len(alike))
    near = np.array([why == OTHER_FAMILY for why in other.why])
    assert near.mean() > 0.7
    assert np.array_equal(own.seconds[near], other.seconds[near])
    assert np.all(other.high[near] / other.low[near] > own.high[near] / own.low[near])
    assert np.all(other.high[near] / other.low[near] < 2.0)


def test_a_measured_family_is_predicted_as_if_nothing_were_far() -> None:
    nets = [kernels for _, kernels in NETS[24:]]
    alone = fitted().predict(nets)
    together = fitted().predict([*nets, FOREIGN["encoder"], FOREIGN["int8"]])
    for name in ("seconds", "low", "high", "sd"):
        # Products of more rows may be summed in another order.
        np.testing.assert_allclose(getattr(alone, name), getattr(together, name)[: len(nets)], rtol=1e-9)


def test_int8_of_a_measured_family_where_only_fp32_was_measured_is_far() -> None:
    net = simulated.resnet((1, 1, 1, 1), 0.5, 128, "int8")
    predictions = fitted().predict([net])
    assert predictions.why == ("int8 was not measured",) and predictions.high[0] / predictions.low[0] > 2.0
    assert predictions.low[0] < simulated.Machine(0).seconds(net) < predictions.high[0]


SLOW = {"depthwise": 0.5, "matmul": 1.5, "softmax": 4.0, "norm": 2.0, "elementwise": 1.5}


class Slower(simulated.Machine):
    """A machine whose other kinds are slow. A depthwise convolution wastes 15 of 16 lanes in :class:`simulated.Machine` as it is."""

    def kernel_s(self, kernel: Kernel, held_bytes: int) -> float:
        return super().kernel_s(kernel, held_bytes) * SLOW.get(kernel.kind, 1.0)


@pytest.mark.parametrize("kind", [simulated.Machine, Slower])
def test_nine_in_ten_intervals_of_far_networks_hold(kind: type[simulated.Machine]) -> None:
    held = []
    for seed, speed, memory in ((0, 1.0, 1.0), (1, 0.3, 1.0), (2, 1.0, 0.4), (3, 3.0, 2.0), (4, 0.1, 0.3)):
        machine = kind(seed, speed=speed, memory=memory)
        model = latency.predictor(machine.profiles(NETS[:7]), baselines=False)
        predictions = predicted(model, *FOREIGN)
        truth = np.array([machine.seconds(net) for net in FOREIGN.values()])
        held += ((predictions.low <= truth) & (truth <= predictions.high)).tolist()
        assert np.median(predictions.high / predictions.low) < 25
    assert np.mean(held) >= 0.9


def test_more_certainty_wants_a_wider_interval_and_equal_models_give_equal_ones() -> None:
    state = (State(threads=1),)
    measured = Cases.of(arrange([kernels for _, kernels in NETS[:10]]), state)
    seconds = np.array([simulated.Machine(0).seconds(kernels) for _, kernels in NETS[:10]])
    far = Cases.of(arrange([FOREIGN["encoder"]]), state)
    model, again = (FarRoofline.fitted(measured, seconds, spaces=1) for _ in range(2))
    half, most = model.predict(far, 0.5), model.predict(far, 0.95)
    assert most.log_low < half.log_low < half.log_seconds < half.log_high < most.log_high
    assert np.array_equal(half.log_high, again.predict(far, 0.5).log_high)


def test_measuring_a_kind_narrows_the_interval_of_a_network_of_it() -> None:
    machine = simulated.Machine(0)
    encoders = [(f"e{i}", encoder(32 * i, 64 * i, i)) for i in range(2, 8)]
    both = latency.predictor(machine.profiles([*NETS[:12], *encoders]), baselines=False)
    few = latency.predictor(machine.profiles(NETS[:12]), baselines=False)
    net = encoder(48, 320, 9)
    (wide, narrow) = (m.predict([net], families=[None]) for m in (few, both))
    assert narrow.high[0] / narrow.low[0] < wide.high[0] / wide.low[0]


def test_a_line_alone_is_wide_for_another_family() -> None:
    profiles = simulated.Machine(0).profiles(NETS[:8])
    bare = [p.model_copy(update={"artifact": p.artifact.model_copy(update={"kernels": None})}) for p in profiles]
    model = latency.predictor(bare, baselines=False)
    assert not model.measured.kernels_known
    predictions = model.predict([NETS[20][1]], families=[None])
    assert predictions.high[0] / predictions.low[0] >= 36 - 1e-9


# ---------------------------------------------------------------------------------------------------------- as a person meets it


def model_proto(body: str, domain: str = "") -> bytes:
    onnx = pytest.importorskip("onnx")
    text = f'<ir_version: 9, opset_import: ["" : 18{domain}]> g (float[1,64] x) => (float[1,64] y) {{ {body} }}'
    return bytes(onnx.parser.parse_model(text).SerializeToString())


def test_predict_says_far_in_words_and_in_json(tmp_path: Path) -> None:
    latency.save(tmp_path / "m.json", fitted())
    (tmp_path / "own.onnx").write_bytes(model_proto("s = Softmax(x) y = Tanh(s)"))
    (row,) = json.loads(kit("predict", "own.onnx", "--model", "m.json", "--json", cwd=tmp_path).stdout)["predictions"]
    assert row["extrapolates"] is True and "kernels of kind elementwise were not measured" in row["why"]
    assert row["interval_s"][1] / row["interval_s"][0] > 2
    shown = " ".join(kit("predict", "own.onnx", "--model", "m.json", cwd=tmp_path).stderr.split())
    assert "own.onnx is an extrapolation" in shown and "kernels of kind softmax were not measured" in shown


def test_operators_that_kit_cannot_count_are_named_in_one_sentence(tmp_path: Path) -> None:
    latency.save(tmp_path / "m.json", fitted())
    (tmp_path / "own.onnx").write_bytes(model_proto("y = com.acme.Mystery(x)", ', "com.acme" : 1'))
    text = complaint("predict", "own.onnx", "--model", "m.json", cwd=tmp_path, code=2)
    assert "operators that kit cannot count (Mystery 'y')" in " ".join(text.split())


def test_a_model_file_of_before_predicts_far_networks(tmp_path: Path) -> None:
    latency.save(tmp_path / "m.json", fitted())
    data = store.read_json(tmp_path / "m.json")
    assert not any("far" in key for key in data)  # what is usual belongs to kit, not to the file
    loaded = latency.load(tmp_path / "m.json")
    assert np.array_equal(predicted(loaded, "encoder").high, predicted(fitted(), "encoder").high)
