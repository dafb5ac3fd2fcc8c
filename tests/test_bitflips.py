"""Weights as bits, the bits that flip, and which tensors of an ONNX file are weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from kit.errors import BadModel, UnknownName, UsageError  # noqa: E402
from kit.variants import bad_link, bitflips, graph  # noqa: E402
from kit.variants.bitflips import Transmission, flip, representation  # noqa: E402

ALL = (*bitflips.PAYLOADS, "fp16", "fp16-clipped", "fp16-protected", "int2", "int4-g32", "int3-g5")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def weights(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return (rng(seed).normal(size=shape) * 0.1).astype(np.float32)


def model(
    nodes: Sequence[Any], constants: dict[str, np.ndarray[Any, Any]], x: Sequence[int | str] = ("N", 4)
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes), "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["A", "B"])],
        initializer=[numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def gemm(transposed: bool = True) -> onnx.ModelProto:
    w = weights(3, 4) if transposed else weights(4, 3)
    return model([helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=int(transposed))], {"w": w, "b": weights(3)})


def stored(net: onnx.ModelProto, name: str) -> np.ndarray[Any, Any]:
    return np.asarray(next(numpy_helper.to_array(t) for n, t in bitflips.stored_tensors(net) if n == name))


# ------------------------------------------------------------------------------------------------------------------- flips


@pytest.mark.parametrize("ber", [1e-6, 1e-4, 1e-2, 0.5])
def test_flips_have_the_rate(ber: float) -> None:
    words = np.zeros(1 << 21, np.uint8)
    bits = 8 * words.size
    flips = int(np.bitwise_count(flip(words, ber, rng())).sum())
    assert abs(flips - bits * ber) <= 5 * np.sqrt(bits * ber * (1 - ber)) + 1


def test_flips_are_independent_of_place_and_of_one_another() -> None:
    received = flip(np.zeros(1 << 18, np.uint32), 0.1, rng(3))
    table = np.unpackbits(received.view(np.uint8).reshape(-1, 4), axis=1).astype(float)
    deviation = np.sqrt(0.09 / len(table))
    assert np.abs(table.mean(0) - 0.1).max() < 5 * deviation  # every one of the 32 places
    flat = table.reshape(-1) - 0.1
    for distance in (1, 2, 31, 32):  # neighbours in a word, and the same place of the next
        assert abs(np.mean(flat[:-distance] * flat[distance:])) < 5 * 0.09 / np.sqrt(len(flat))


def test_few_bits_are_exposed_and_the_others_never_flip() -> None:
    received = flip(np.full(100_000, 0b1010_0000, np.uint8), 0.3, rng(), bits=4)
    assert (received >> 4 == 0b1010).all()
    assert abs(np.bitwise_count(received & 15).mean() / 4 - 0.3) < 0.01


def test_the_ends_of_the_scale() -> None:
    words = rng().integers(0, 1 << 32, (3, 5), dtype=np.uint32)
    assert (flip(words, 0, rng()) == words).all() and (flip(words, 1, rng()) == ~words).all()
    assert flip(words, 1e-18, rng()).shape == (3, 5) and flip(words[:0], 0.5, rng()).size == 0
    for ber in (-0.1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="cannot be"):
            bitflips.check_ber(ber)


def test_flips_are_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitflips, "FLIPS_AT_ONCE", 64)
    received = flip(np.zeros(50_000, np.uint8), 0.05, rng())
    assert abs(np.bitwise_count(received).sum() / 400_000 - 0.05) < 0.002


# --------------------------------------------------------------------------------------------------------- representations


def test_without_errors_floats_arrive_as_they_are() -> None:
    w = weights(6, 5, 3, 3)
    w[0, 0, 0] = 0, -0.0, 1e-40
    for name in ("fp32", "fp32-clipped", "fp32-protected"):
        how = representation(name)
        assert (how.decode(how.encode(w)).view(np.uint32) == w.view(np.uint32)).all(), name


@pytest.mark.parametrize(("name", "error"), [("fp16", 2**-11), ("bf16", 2**-8), ("bf16-clipped", 2**-8)])
def test_short_floats_round_to_the_nearest(name: str, error: float) -> None:
    how, w = representation(name), weights(40, 50)
    assert np.abs(how.decode(how.encode(w)) / w - 1).max() <= error * 1.001


@pytest.mark.parametrize("name", ["int8", "int4", "int2", "int4-g32", "int3-g5"])
@pytest.mark.parametrize("axis", [0, 1, 2, None])
def test_integers_arrive_within_half_a_step(name: str, axis: int | None) -> None:
    how, w = representation(name), weights(6, 7, 11)
    w[2] *= 100
    sent = how.encode(w, axis)
    assert sent.step is not None and how.decode(sent).shape == w.shape
    assert np.abs(how.decode(sent) - w).max() <= sent.step.max() / 2 * 1.001
    if axis == 0 and how.group is None:  # the range of one channel does not matter to another
        assert np.abs(how.decode(sent) - w)[0].max() <= np.ptp(w[0]) / (2**how.bits - 1) / 2 * 1.001


def test_constant_and_empty_channels() -> None:
    how = representation("int8")
    for w in (np.full((2, 3), 0.25, np.float32), np.zeros((2, 0), np.float32)):
        assert (how.decode(how.encode(w)) == w).all()


@pytest.mark.parametrize("name", [n for n in ALL if "protected" in n])
def test_sign_and_exponent_never_flip(name: str) -> None:
    how, w = representation(name), weights(200, 30)
    sent = how.encode(w)
    clean, words = sent.words, flip(sent.words, 0.5, rng(), sent.exposed_bits)
    assert (clean >> how.exposed_bits == words >> how.exposed_bits).all() and (clean != words).any()
    received = how.decode(bitflips.Encoded(words, sent.exposed_bits, sent.shape))
    assert (np.signbit(received) == np.signbit(w)).all() and (np.abs(received / w) < 2.001)[np.abs(w) > 1e-4].all()
    assert how.protected_bits == {"fp32": 9, "bf16": 9, "fp16": 6}[name.partition("-")[0]]


@pytest.mark.parametrize("name", [n for n in ALL if "clipped" in n or n.startswith("int")])
def test_what_arrives_stays_in_the_known_range(name: str) -> None:
    net = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights(4, 300)})
    received = stored(bitflips.received(net, representation(name), 0.2, rng()), "w")
    low, high = stored(net, "w").min(), stored(net, "w").max()
    assert np.isfinite(received).all() and received.min() >= low - 1e-6 and received.max() <= high + 1e-6


def test_what_is_no_number_goes_to_the_end_of_its_sign() -> None:
    how = representation("fp32-clipped")
    sent = how.encode(np.array([[-2.0, 1.0, 3.0, 0.5]], np.float32))
    broken = np.array([[np.nan, -np.nan, np.inf, -np.inf]], np.float32)
    arrived = how.decode(bitflips.Encoded(broken.view(np.uint32), 32, (1, 4), None, sent.lower, sent.step))
    assert arrived.tolist() == [[3.0, -2.0, 3.0, -2.0]]
    own = how.encode(np.array([[np.nan, 1.0, np.inf]], np.float32))  # a network that holds them: its finite range
    assert how.decode(own).tolist() == [[1.0, 1.0, 1.0]]


def test_raw_floats_do_break() -> None:
    """One flip of the highest exponent bit: why raw floats need a better link."""
    net = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights(64, 64)})
    assert np.abs(np.nan_to_num(stored(bitflips.received(net, representation("fp32"), 1e-3, rng()), "w"))).max() > 1e30


def test_an_unknown_representation_has_a_suggestion() -> None:
    for name in ("fp32-cliped", "int9", "int4-g0", "double", "int8-clipped"):
        with pytest.raises(UnknownName, match="payload"):
            representation(name)


# ------------------------------------------------------------------------------------------------------------------ weights


def test_weights_feed_products_and_the_rest_is_reliable() -> None:
    w = weights(8, 3, 3, 3)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        helper.make_node("Mul", ["n", "scale"], ["y"]),
    ]
    vectors = {name: np.abs(weights(8)) for name in ("b", "g", "m", "v")}
    net = model(nodes, {"w": w, "scale": weights(1, 8, 1, 1), **vectors}, (1, 3, 9, 9))
    assert [(one.name, one.axis) for one in bitflips.weights(net)] == [("w", 0)]
    received = bitflips.received(net, representation("fp32"), 0.1, rng())
    assert (stored(received, "w") != w).any()
    assert all((stored(received, name) == array).all() for name, array in vectors.items())
    exposed = bitflips.received(net, representation("int8"), 0.1, rng(), everything=True)
    assert all((stored(exposed, name) != array).any() for name, array in vectors.items())
    onnx.checker.check_model(exposed)


@pytest.mark.parametrize(
    ("nodes", "shape", "axis"),
    [
        ([("Gemm", ["x", "w"], {"transB": 1})], (5, 4), 0),
        ([("Gemm", ["x", "w"], {})], (4, 5), 1),
        ([("MatMul", ["x", "w"], {})], (4, 5), 1),
        ([("Transpose", ["w"], {"perm": [1, 0]}), ("MatMul", ["x", "t0"], {})], (5, 4), 0),
        ([("Identity", ["w"], {}), ("MatMul", ["x", "t0"], {})], (4, 5), 1),
        ([("Reshape", ["w", "shape"], {}), ("MatMul", ["x", "t0"], {})], (2, 10), None),
        ([("ConvTranspose", ["x", "w"], {})], (4, 5, 3, 3), 1),
        ([("Gather", ["w", "x"], {})], (30, 8), 0),
        ([("LSTM", ["x", "w", "w"], {"hidden_size": 4})], (1, 16, 4), 1),
        ([("Einsum", ["x", "w"], {"equation": "ni,io->no"})], (4, 5), None),
    ],
)  # fmt: skip
def test_the_axis_of_the_output_channels(nodes: list[Any], shape: tuple[int, ...], axis: int | None) -> None:
    made = [
        helper.make_node(kind, names, ["y" if i + 1 == len(nodes) else f"t{i}"], **attributes)
        for i, (kind, names, attributes) in enumerate(nodes)
    ]
    net = model(made, {"w": weights(*shape), "shape": np.array([4, 5])})
    assert [(w.name, w.axis) for w in bitflips.weights(net)] == [("w", axis)]


def test_constants_branches_and_functions_are_searched() -> None:
    w = numpy_helper.from_array(weights(4, 3), "inner")
    branches = [
        helper.make_graph(
            [helper.make_node("Constant", [], [f"k{i}"], value=w), helper.make_node("MatMul", ["x", f"k{i}"], [f"r{i}"])],
            f"branch{i}", [], [helper.make_tensor_value_info(f"r{i}", TensorProto.FLOAT, None)],
        )
        for i in range(2)
    ]  # fmt: skip
    node = helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1])
    assert len(bitflips.weights(model([node], {"flag": np.array(True)}))) == 2
    called = model([helper.make_node("Dense", ["x", "w"], ["y"], domain="mine")], {"w": weights(4, 3)})
    body = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    opsets = [helper.make_opsetid("", 17)]
    called.functions.append(helper.make_function("mine", "Dense", ["a", "b"], ["c"], body, opsets))
    called.opset_import.append(helper.make_opsetid("mine", 1))
    assert len(Transmission(called, representation("int8")).pieces) == 1


def test_a_network_without_weights_is_a_sentence() -> None:
    net = model([helper.make_node("Relu", ["x"], ["y"])], {})
    with pytest.raises(BadModel, match=r"no weights of two dimensions or more.*nothing of it"):
        Transmission(net, representation("fp32"))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16-clipped", "int8", "stored"])
def test_other_floats_keep_their_type(dtype: type, name: str) -> None:
    w = weights(4, 3).astype(dtype)
    received = stored(
        bitflips.received(
            model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": w}), representation(name), 0, rng()
        ),
        "w",
    )
    assert received.dtype == dtype and np.abs(received - w).max() < 0.01


def test_stored_integers_are_sent_as_they_are() -> None:
    w = rng().integers(-127, 128, (3, 4), dtype=np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=0),
        helper.make_node("Gemm", ["x", "d"], ["y"], transB=1),
    ]
    net = model(nodes, {"w": w, "s": np.full(3, 0.01, np.float32), "z": np.zeros(3, np.int8)})
    for name in ("fp32", "int4", "stored"):
        sent = Transmission(net, representation(name))
        assert not sent.float_weights and sent.exposed_bits == 8 * w.size
        assert (stored(sent.received(0, rng()), "w") == w).all()
        received = sent.received(0.1, rng())
        assert (stored(received, "w") != w).any() and (stored(received, "z") == 0).all()
    assert [how.name for how in bitflips.applicable(net, ("fp32", "int8"))] == ["stored"]
    onnx.checker.check_model(Transmission(net, representation("stored"), everything=True).received(0.3, rng()))


@pytest.mark.parametrize("name", [*ALL, "stored"])
def test_scalars_and_zero_points_can_be_exposed(name: str) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    net = model(nodes, {"s": np.float32(0.02), "z": np.uint8(3), "w": weights(4, 3)})
    sent = Transmission(net, representation(name), everything=True)
    onnx.checker.check_model(sent.received(0.3, rng()))
    clean = sent.received(0, rng())
    assert stored(clean, "z") == 3 and abs(stored(clean, "s") - 0.02) < 1e-4 and len(sent.pieces) == 3


def test_packed_int4_is_sent_as_it_is() -> None:
    raw = TensorProto(name="w", data_type=TensorProto.INT4, dims=[3, 3], raw_data=bytes(range(5)))
    net = model(
        [helper.make_node("DequantizeLinear", ["w", "s"], ["d"]), helper.make_node("MatMul", ["x", "d"], ["y"])],
        {"s": np.float32(1)},
    )
    net.graph.initializer.append(raw)
    sent = Transmission(net, representation("stored"))
    assert sent.exposed_bits == 8 * 5 and sent.received(0, rng()).graph.initializer[-1].raw_data == bytes(range(5))


def test_what_is_sent_is_counted() -> None:
    net = gemm()
    whole = net.ByteSize()
    raw = Transmission(net, representation("fp32"))
    assert (raw.exposed_bits, raw.total_bytes) == (32 * 12, whole)
    protected = Transmission(net, representation("fp32-protected"))
    assert protected.exposed_bits == 23 * 12 and protected.total_bytes == whole
    assert protected.reliable_bits - raw.reliable_bits == 9 * 12
    eight = Transmission(net, representation("int8"), file_bytes=1000)
    assert eight.exposed_bits == 8 * 12 and eight.total_bytes == 1000 - 4 * 12 + 12 + 4 * 2 * 3  # 2 numbers a channel
    assert eight.protected_share == 1 - 8 * 12 / (8 * eight.total_bytes)
    everything = Transmission(net, representation("int8"), everything=True)
    assert everything.exposed_bits == 8 * 12 + 32 * 2 * 3 + 32 * 3  # and the bias, in fp32


def test_draws_follow_from_the_seed() -> None:
    sent = Transmission(gemm(), representation("bf16"))
    one, two, other = (sent.received(0.05, rng(seed)).SerializeToString() for seed in (1, 1, 2))
    assert one == two != other


def test_weights_of_other_files_are_read(tmp_path: Path) -> None:
    net = gemm()
    w = stored(net, "w")
    whole = net.ByteSize()
    onnx.save_model(net, str(tmp_path / "net.onnx"), save_as_external_data=True, location="net.bin", size_threshold=0)
    loaded = graph.load_whole(tmp_path / "net.onnx")
    assert (stored(bitflips.received(loaded, representation("fp32"), 0, rng()), "w") == w).all()
    assert bad_link.size_bytes(tmp_path / "net.onnx") > 0.5 * whole
    before = bad_link.digest(tmp_path / "net.onnx")
    (tmp_path / "net.bin").write_bytes(b"\1" + (tmp_path / "net.bin").read_bytes()[1:])
    assert bad_link.digest(tmp_path / "net.onnx") != before
