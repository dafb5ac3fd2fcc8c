"""Einsum as the products of its operands, taken from left to right two at a time, as onnxruntime takes them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from onnx import NodeProto

from kit.variants.graph.operators import text
from kit.variants.graph.products import Product, Shape, Tensors, UnknownExtent

#: Extent of each index by its letter; the dimensions of an ellipsis count from the right: "...1" is the last.
Extents = dict[str, int]


def contractions(node: NodeProto, tensors: Tensors) -> tuple[Product, ...]:
    """The products of an Einsum: for each pair of operands the extents of all their indices, where the pair sums over any.

    A transposition, a sum of one operand and a product of each element multiply and accumulate nothing. Raises UnknownExtent where
    the equation and the shapes do not fit.
    """
    shapes = [tensors.shape(name) for name in node.input]
    operands, result = parsed(text(node, "equation"), shapes)
    extents = _extents(operands, shapes)
    listed: list[Product] = []
    current, name = operands[0], node.input[0]
    for position in range(1, len(operands)):
        following, right = operands[position], node.input[position]
        later = {letter for operand in operands[position + 1 :] for letter in operand} | set(result)
        constant = tensors.is_fixed(right) and bool(right)
        if (pair := _pair(current, following, later, extents, constant)) is not None:
            listed.append(replace(pair, left=name, right=right))
        current, name = [letter for letter in dict.fromkeys([*current, *following]) if letter in later], ""
    return tuple(listed)


def parsed(equation: str, shapes: Sequence[Shape]) -> tuple[list[list[str]], list[str]]:
    """The indices of each operand and of the result; an ellipsis is as many indices as its operand has further dimensions.

    >>> parsed("...ij,jk", [(2, 3, 4), (4, 5)])
    ([['...1', 'i', 'j'], ['j', 'k']], ['...1', 'i', 'k'])
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise UnknownExtent(equation)
    operands = [_indices(term, len(shape)) for term, shape in zip(terms, shapes, strict=True)]
    widest = max((sum(letter.startswith("...") for letter in operand) for operand in operands), default=0)
    dots = [f"...{i}" for i in range(widest, 0, -1)]
    if arrow:
        return operands, [letter for token in _tokens(right) for letter in (dots if token == "..." else [token])]
    times = Counter(letter for operand in operands for letter in operand)
    return operands, [*dots, *sorted(x for x, count in times.items() if count == 1 and not x.startswith("..."))]


def _tokens(term: str) -> list[str]:
    if re.fullmatch(r"[A-Za-z]*(\.\.\.)?[A-Za-z]*", term) is None:
        raise UnknownExtent(term)
    return re.findall(r"\.\.\.|[A-Za-z]", term)


def _indices(term: str, rank: int) -> list[str]:
    tokens = _tokens(term)
    hidden = rank - sum(token != "..." for token in tokens)
    if hidden < 0 or (hidden and "..." not in tokens):
        raise UnknownExtent(term)
    dots = [f"...{i}" for i in range(hidden, 0, -1)]
    return [letter for token in tokens for letter in (dots if token == "..." else [token])]


def _extents(operands: Sequence[Sequence[str]], shapes: Sequence[Shape]) -> Extents:
    extents: Extents = {}
    for operand, shape in zip(operands, shapes, strict=True):
        for letter, extent in zip(operand, shape, strict=True):
            extents[letter] = extent if extents.get(letter, 1) == 1 else extents[letter]
    return extents


def _pair(
    left: Sequence[str], right: Sequence[str], later: set[str], extents: Extents, constant: bool
) -> Product | None:
    """The product of two operands; None where it sums over nothing."""
    letters = set(left) | set(right)
    summed = letters - later
    if not summed:
        return None
    groups, rows, columns = set(left) & set(right) & later, set(left) - set(right), set(right) - set(left)

    def size(chosen: set[str]) -> int:
        return math.prod(extents[letter] for letter in chosen)

    return Product(
        "linear" if constant else "matmul",
        size(rows & later),
        size(summed),
        size(columns & later),
        size(groups),
    )
