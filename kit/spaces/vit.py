"""Vision transformer (Dosovitskiy et al., ICLR 2021) in the sizes of DeiT (Touvron et al., ICML 2021) and ViT: patches of 16x16, class
token, 1000 classes; torchvision's VisionTransformer as torch exports it.

A sub-network keeps the first encoder blocks and a share of the hidden size: the heads stay, each gets narrower, by multiples of 8.
Gelu stays five operators: onnxruntime 1.31 does not know the form in which torch 2.15 writes it.
"""

from __future__ import annotations

from math import e, sqrt

from kit.records import SubNetwork
from kit.spaces.graph import ALONE, FLOAT_ON, Architecture, Net, Part, Spread, conv, linear, matmul, reshape, transpose
from kit.spaces.space import Space, ladder

PATCH, CLASSES = 16, 1000
HEADS = {"vit_tiny": 3, "vit_small": 6, "vit_base": 12, "vit_large": 16}
BLOCKS = {"vit_tiny": 12, "vit_small": 12, "vit_base": 12, "vit_large": 24}
HEAD_DEPTH = 64  # of the whole network
BRANCH = 0.25  # size of a residual branch over that of the shortcut
MIXED = 0.8  # size of a mean over tokens: they become alike behind a few blocks


def patches(net: Net, x: str, name: str, hidden: int) -> str:
    """Image to tokens ``(1, 1 + patches, hidden)``: patches, class token in front, positions added."""
    maps = conv(net, x, "conv_proj", hidden, PATCH, PATCH, pad=0)
    count = net.shapes[maps][2] * net.shapes[maps][3]
    rows = transpose(
        net, reshape(net, maps, "patches.flat", (1, hidden, count), leaves_maps=True), "patches", (0, 2, 1)
    )
    token = net.weight("class_token", (1, 1, hidden), 1.0)
    shape = (1, count + 1, hidden)
    tokens = net.add("Concat", (token, rows), "tokens", shape, net.spreads[rows], axis=1)
    positions = net.weight(f"{name}.pos_embedding", shape, 0.2)
    return net.add("Add", (tokens, positions), f"{name}.embedded", shape, net.spreads[tokens])


def block(net: Net, x: str, name: str, heads: int) -> str:
    """Attention and MLP, each after a layer norm, with a shortcut."""
    return _mlp(net, _attention(net, x, name, heads), name)


def last_block(net: Net, x: str, name: str, heads: int) -> str:
    """A block and the layer norm behind it, into which onnxruntime takes the sum in front of it (in float)."""
    y = _mlp(net, _attention(net, x, name, heads), name, last=True)
    return layer_norm(net, y, "encoder.ln")


def head(net: Net, x: str, name: str, classes: int) -> str:
    """The class token, normalised, to logits."""
    hidden = net.shapes[x][2]
    first = net.add("Gather", (x, net.integers(0, scalar=True)), f"{name}.token", (1, hidden), net.spreads[x], axis=1)
    return linear(net, first, name, classes, output="output")


def layer_norm(net: Net, x: str, name: str) -> str:
    """Mean and deviation of the last axis taken out."""
    hidden = net.shapes[x][-1]
    scale, shift = net.weight(f"{name}.weight", (hidden,), 0.1, 1.0), net.weight(f"{name}.bias", (hidden,), 0.1)
    return net.add(
        "LayerNormalization", (x, scale, shift), name, net.shapes[x], Spread.bell(1.0),
        axis=-1, epsilon=1e-6, stash_type=1,
    )  # fmt: skip


def _attention(net: Net, x: str, name: str, heads: int) -> str:
    _, tokens, hidden = net.shapes[x]
    depth, own = hidden // heads, f"{name}.self_attention"
    rows = transpose(net, layer_norm(net, x, f"{name}.ln_1"), f"{own}.rows", (1, 0, 2))
    flat = reshape(net, rows, f"{own}.flat", (tokens, hidden), own=False)
    product = linear(net, flat, f"{own}.in_proj", 3 * hidden, transposed=False)
    three = _three(net, reshape(net, product, f"{own}.tokens", (tokens, 1, 3 * hidden), own=False), own)
    query, key, value = (_one(net, three, own, i, heads) for i in range(3))
    query, key = _scaled(net, query, depth), _scaled(net, key, depth)
    scores = matmul(net, query, key, f"{own}.scores", Spread.bell(1.0))
    share = Spread(sqrt(e) / tokens, 0.0, 1.0)
    shares = net.add("Softmax", (scores,), f"{own}.shares", net.shapes[scores], share, axis=-1)
    mixed = matmul(net, shares, value, f"{own}.mixed", Spread.bell(MIXED))
    merged = reshape(net, transpose(net, mixed, f"{own}.merged", (2, 0, 1, 3)), f"{own}.merged.flat", (tokens, hidden))
    out = linear(net, merged, f"{own}.out_proj", hidden, rms=BRANCH * net.spreads[x].rms)
    back = transpose(net, reshape(net, out, f"{own}.out.rows", (tokens, 1, hidden)), f"{own}.out", (1, 0, 2))
    return _sum(net, back, x, f"{name}.add_1")


def _three(net: Net, product: str, own: str) -> str:
    """Queries, keys and values one after the other: ``(3, tokens, 1, hidden)``."""
    tokens, _, wide = net.shapes[product]
    spread = net.spreads[product]
    split = reshape(net, product, f"{own}.split", (tokens, 1, 3, wide // 3))
    shape = (1, tokens, 1, 3, wide // 3)
    lifted = net.add("Unsqueeze", (split, net.integers(0)), f"{own}.lifted", shape, spread)
    turned = transpose(net, lifted, f"{own}.turned", (3, 1, 2, 0, 4))
    return net.add("Squeeze", (turned, net.integers(-2)), f"{own}.three", (3, tokens, 1, wide // 3), spread)


def _one(net: Net, three: str, own: str, index: int, heads: int) -> str:
    """One of the three by heads: ``(1, heads, tokens, depth)``, the keys as ``(1, heads, depth, tokens)``."""
    _, tokens, _, hidden = net.shapes[three]
    called = f"{own}.{('query', 'key', 'value')[index]}"
    number = net.integers(index, scalar=True)
    picked = net.add("Gather", (three, number), called, (tokens, 1, hidden), net.spreads[three], axis=0)
    parted = reshape(net, picked, f"{called}.parted", (tokens, heads, hidden // heads))
    lifted = reshape(net, parted, f"{called}.lifted", (tokens, 1, heads, hidden // heads), own=index != 1)
    return transpose(net, lifted, f"{called}.heads", (1, 2, 3, 0) if index == 1 else (1, 2, 0, 3), FLOAT_ON)


def _scaled(net: Net, x: str, depth: int) -> str:
    factor = depth**-0.25
    scale = net.scalar(f"scale_{depth}", factor, (1,))
    spread = Spread.bell(net.spreads[x].rms * factor)
    return net.add("Mul", (x, scale), f"{x}.scaled", net.shapes[x], spread, folds=FLOAT_ON)


def _mlp(net: Net, x: str, name: str, *, last: bool = False) -> str:
    _, tokens, hidden = net.shapes[x]
    flat = reshape(net, layer_norm(net, x, f"{name}.ln_2"), f"{name}.mlp.flat", (tokens, hidden), own=False)
    wide = linear(net, flat, f"{name}.mlp.0", 4 * hidden, transposed=False)
    active = _gelu(net, reshape(net, wide, f"{name}.mlp.wide", (1, tokens, 4 * hidden), own=False))
    flat = reshape(net, active, f"{name}.mlp.active", (tokens, 4 * hidden), own=False)
    out = linear(net, flat, f"{name}.mlp.3", hidden, rms=BRANCH * net.spreads[x].rms, transposed=False)
    return _sum(
        net, x, reshape(net, out, f"{name}.mlp.out", (1, tokens, hidden), own=False), f"{name}.add_2", last=last
    )


def _gelu(net: Net, x: str) -> str:
    shape, before = net.shapes[x], net.spreads[x]
    root, one, half = (net.scalar(f"scalar_{v}", f) for v, f in (("root2", sqrt(2)), ("1", 1.0), ("half", 0.5)))
    y = net.add("Div", (x, root), f"{x}.div", shape, Spread.bell(before.rms / sqrt(2)))
    y = net.add("Erf", (y,), f"{x}.erf", shape, Spread(0.6, -1.0, 1.0))
    y = net.add("Add", (y, one), f"{x}.erf1", shape, Spread(1.2, 0.0, 2.0))
    y = net.add("Mul", (half, y), f"{x}.share", shape, Spread(0.6, 0.0, 1.0))
    return net.add("Mul", (x, y), f"{x}.gelu", shape, Spread(0.65 * before.rms, -0.17, before.high))


def _sum(net: Net, a: str, b: str, name: str, *, last: bool = False) -> str:
    rms = sqrt(net.spreads[a].rms ** 2 + net.spreads[b].rms ** 2)
    return net.add("Add", (a, b), name, net.shapes[a], Spread.bell(rms), folds=FLOAT_ON if last else ALONE)


def architecture(sub: SubNetwork) -> Architecture:
    """The parts of a sub-network of one of these spaces."""
    heads = HEADS[sub.root]
    hidden = heads * round(HEAD_DEPTH * sub.width)
    names = tuple(f"encoder.layers.encoder_layer_{i}" for i in range(sub.depth))
    parts = [Part(patches, 0, ("encoder",), (hidden,))]
    parts += [Part(block, 1, names[:-1], (heads,))] if sub.depth > 1 else []
    parts += [Part(last_block, 1, names[-1:], (heads,)), Part(head, 2, ("heads.head",), (CLASSES,))]
    return Architecture((1, 3, sub.resolution_px, sub.resolution_px), tuple(parts))


SPACES = [
    Space(name, "vit", (blocks,), ladder(2, 8), tuple(range(64, 225, 16)), 224, architecture)
    for name, blocks in BLOCKS.items()
]
