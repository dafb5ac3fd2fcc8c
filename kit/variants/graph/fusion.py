"""Kernels: the work of a graph as onnxruntime runs it on a CPU, with what is fused into each convolution and product."""

from __future__ import annotations

import math

from onnx import NodeProto, TensorProto

from kit.records import Kernel, Precision
from kit.variants.graph.macs import Work, Workload
from kit.variants.graph.operators import FEW_BITS, INTEGER, LIGHT_KINDS, QUANTIZERS, VIEWS, integer, integers
from kit.variants.graph.products import Product, Shape
from kit.variants.graph.reading import dtype_of

_ACTIVATIONS = {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid"}
_PARTS = {"Add", "Mul", "Div", "Sub", "Pow", "Sqrt", "Erf", "ReduceMean", "Reciprocal"}
_ANCHORS = {
    "Erf": "elementwise",
    "Sqrt": "norm",
}  # what GELU and layer norm are recognised by where they are decomposed
_FLOATS: dict[int, Precision] = {
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
}
_ITEM_BYTES = {"int8": 1, "fp16": 2, "bf16": 2, "fp64": 8}
#: Inputs of a convolution that it reads besides image and weights: a residual that is added, offsets and masks.
_BESIDES = {"FusedConv": (3,), "NhwcFusedConv": (3,), "DeformConv": (2, 4)}


class Fusion:
    """Walks the nodes of a graph in order; each either starts kernels or is fused into an earlier one."""

    def __init__(self, workload: Workload) -> None:
        self.graph, self.works = workload.graph, workload.works
        self.nodes, self.links = self.graph.nodes, self.graph.links
        self.producer, self.readers = self.links.producer, self.links.readers
        self.results, self.fixed = self.links.results, self.links.fixed
        self.assigned: set[int] = set()
        self._fused: list[int] = []  # what the kernel at hand has taken, in order
        self.regions: dict[int, str] = {}  # last node of each decomposed function -> kind of its kernel
        self.members: dict[int, set[int]] = {}

    def kernels(self) -> tuple[Kernel, ...]:
        """The kernels of the graph, in order; those of a loop's body as often as it runs."""
        for i, node in enumerate(self.nodes):
            if i not in self.assigned and node.op_type in _ANCHORS:
                self._match_decomposed(i)
        return tuple(kernel for i in range(len(self.nodes)) for kernel in self._kernels_at(i))

    def _kernels_at(self, index: int) -> list[Kernel]:
        """The kernels that begin (a decomposed function: ends) at a node, with the stored numbers that its nodes read."""
        work = self.works[index]
        if work.bodies:
            return [k for body, times in work.bodies for k in _repeated(Fusion(body).kernels(), times)]
        if len(work.products) > 1:
            return self._composite(index, work)
        self._fused = [index]
        kernel = self._kernel(index)
        if kernel is None:
            return []
        nodes = [self.nodes[i] for i in self.members.get(index, self._fused)]
        weight_bytes = sum(self.links.stored[name] for node in nodes for name in self.links.weights_of(node))
        if any(node.op_type == "Gather" and node.input[0] in self.fixed for node in nodes):
            weight_bytes += kernel.written_bytes  # rows of a stored table: what is written is what is read of it
        return [kernel.model_copy(update={"weight_bytes": weight_bytes})]

    def _take(self, index: int) -> None:
        self.assigned.add(index)
        self._fused.append(index)

    def _kernel(self, index: int) -> Kernel | None:
        node = self.nodes[index]
        if index in self.regions:
            return self._light_kernel(self.regions[index], node.output[0], self._region_inputs(index), False)
        if index in self.assigned or node.output[0] in self.fixed or self._is_free(index):
            return None
        self.assigned.add(index)
        if self.works[index].products:
            return self._product_kernel(index, self.works[index].products[0])
        int8 = self.links.is_int8(index)
        last = self._through_quantizer(node.output[0]) if int8 else node.output[0]
        return self._light_kernel(
            LIGHT_KINDS.get(node.op_type, "elementwise"),
            last,
            [n for n in node.input if n not in self.fixed],
            int8 or node.op_type in QUANTIZERS,
            node,
        )

    def _is_free(self, index: int) -> bool:
        """Views cost nothing; a dequantizer nothing where every reader works on the integers itself."""
        node = self.nodes[index]
        if node.op_type == "DequantizeLinear":
            out = node.output[0]
            return out not in self.results and all(
                self.links.is_int8(i) or self.nodes[i].op_type in VIEWS | {"QuantizeLinear"}
                for i in self.readers.get(out, [])
            )
        return node.op_type in VIEWS

    def _only_reader(self, name: str) -> int | None:
        readers = self.readers.get(name, [])
        return (
            readers[0] if len(readers) == 1 and name not in self.results and readers[0] not in self.assigned else None
        )

    def _through_quantizer(self, name: str) -> str:
        """The last tensor when an activation and a quantizer after ``name`` are fused."""
        while (i := self._only_reader(name)) is not None and self.nodes[i].op_type in (
            "Relu",
            "Clip",
            "QuantizeLinear",
        ):
            self._take(i)
            name = self.nodes[i].output[0]
            if self.nodes[i].op_type == "QuantizeLinear":
                break
        return name

    # ---------------------------------------------------------------------------------------------- convolutions and products

    def _product_kernel(self, index: int, product: Product) -> Kernel:
        node, shapes, int8 = self.nodes[index], self.graph.shapes, self.links.is_int8(index)
        out, extra = self._fuse(index, node.output[0], int8)
        precision = self._precision(index, product.right)
        size = self._item_bytes(precision, node.output[0])
        read = math.prod(shapes.get(product.left, ())) + extra + self._besides(node)
        read += 0 if product.right in self.fixed else math.prod(shapes.get(product.right, ()))
        return Kernel(
            **_extents(product),
            precision=precision,
            read_bytes=read * size,
            written_bytes=math.prod(shapes[node.output[0]]) * self._itemsize(out, size),
        )

    def _composite(self, index: int, work: Work) -> list[Kernel]:
        """Kernels of a node of several products, such as an LSTM or an attention: each reads and writes its own operands."""
        node = self.nodes[index]
        if index in self.assigned or node.output[0] in self.fixed:
            return []
        self.assigned.add(index)
        weights, listed = self.links.weights_of(node), []
        for number, product in enumerate(work.products):
            constant = product.right in weights
            names = [product.right] if constant else []
            if number == 0:
                rights = {p.right for p in work.products}
                names += [name for name in weights if name not in rights]  # biases
            precision = self._precision(index, product.right)
            size = self._item_bytes(precision, node.output[0])
            rows, inner, columns = product.rows, product.inner, product.columns
            kernel = Kernel(
                **_extents(product),
                precision=precision,
                weight_bytes=sum(self.links.stored[name] for name in names),
                read_bytes=(rows * inner + (0 if constant else inner * columns)) * product.groups * size,
                written_bytes=rows * columns * product.groups * size,
            )
            listed += _repeated((kernel,), product.count)
        return listed

    def _precision(self, index: int, right: str) -> Precision:
        node = self.nodes[index]
        if self.links.is_int8(index):
            return "int8"
        bits = integer(node, "bits", 4) if node.op_type in FEW_BITS else self.links.stored_bits(right)
        return "int4" if bits is not None and bits <= 4 else self._float_precision(node.output[0])

    def _item_bytes(self, precision: Precision, out: str) -> int:
        """Bytes of an activation; weights of few bits multiply floats."""
        return _ITEM_BYTES.get(self._float_precision(out) if precision == "int4" else precision, 4)

    def _besides(self, node: NodeProto) -> int:
        names = [node.input[i] for i in _BESIDES.get(node.op_type, ()) if i < len(node.input) and node.input[i]]
        return sum(math.prod(self.graph.shapes.get(name, ())) for name in names)

    def _fuse(self, index: int, out: str, int8: bool) -> tuple[str, int]:
        """(the last tensor of the fused kernel, elements that a residual addition reads besides)."""
        conv, integers, extra = "Conv" in self.nodes[index].op_type, self.nodes[index].op_type in INTEGER, 0
        while (i := self._only_reader(out)) is not None:
            node = self.nodes[i]
            others = [name for name in node.input if name and name != out and name not in self.fixed]
            residual = conv and not int8 and not extra and self._adds_earlier(node, i, index, others, out)
            bias = node.op_type == "Add" and not others
            scaled = integers and node.op_type in ("Cast", "Mul")
            plain = conv and node.op_type == "BatchNormalization"
            active = node.op_type in _ACTIVATIONS and (conv or self.nodes[index].op_type == "Gemm" or int8)
            if not (residual or bias or scaled or plain or active or (int8 and node.op_type == "QuantizeLinear")):
                break
            extra += math.prod(self.graph.shapes[others[0]]) if residual else 0
            self._take(i)
            out = node.output[0]
            if node.op_type == "QuantizeLinear" or active:
                if active and int8:
                    continue
                break
        return out, extra

    def _adds_earlier(self, node: NodeProto, position: int, start: int, others: list[str], out: str) -> bool:
        """A residual addition of a tensor that was computed before, of the same shape."""
        if node.op_type != "Add" or len(others) != 1:
            return False
        same_shape = self.graph.shapes.get(others[0]) == self.graph.shapes.get(out) is not None
        return same_shape and self.producer.get(others[0], -1) < start < position

    # ----------------------------------------------------------------------------------------------------------- lighter ones

    def _light_kernel(
        self, kind: str, out: str, inputs: list[str], int8: bool, node: NodeProto | None = None
    ) -> Kernel:
        shapes = self.graph.shapes
        shape = shapes.get(out, ())
        precision: Precision = "int8" if int8 else self._float_precision(out)
        size = _ITEM_BYTES.get(precision, 4)
        last = kind in ("softmax", "norm", "move") or len(shape) < 3
        columns = (shape[-1] if last or len(shape) == 3 else shape[1]) if shape else 1
        first = shapes.get(inputs[0], ()) if inputs else ()
        window, stride = _window(node, first) if node is not None and kind == "pool" else ((1,), 1)
        return Kernel(
            kind=kind,
            precision=precision,
            rows=math.prod(shape) // max(columns, 1),
            inner=math.prod(window),
            columns=columns,
            size=window[-1],
            stride=stride,
            read_bytes=sum(math.prod(shapes.get(n, ())) * self._itemsize(n, size) for n in inputs),
            written_bytes=math.prod(shape) * self._itemsize(out, size),
        )

    def _itemsize(self, name: str, default: int) -> int:
        """Bytes of one element; an integer kernel reads the integers that a dequantizer before it would have expanded."""
        code = self.graph.types.get(name)
        return min(default, dtype_of(code).itemsize) if code else default

    def _float_precision(self, name: str) -> Precision:
        return _FLOATS.get(self.graph.types.get(name, 0), "fp32")

    # --------------------------------------------------------------------------------------------- GELU and layer norm, decomposed

    def _match_decomposed(self, anchor: int) -> None:
        region, waiting = {anchor}, [anchor]
        entering = set(self.nodes[anchor].input)
        vectors = self.nodes[anchor].op_type == "Sqrt"
        while waiting:
            node = self.nodes[waiting.pop()]
            producers = [self.producer[name] for name in node.input if name in self.producer]
            readers = [i for name in node.output for i in self.readers.get(name, [])]
            for i in (*producers, *readers):
                vector = vectors and i in readers
                if i not in region and i not in self.assigned and self._belongs(i, region, entering, vector):
                    region.add(i)
                    entering |= set(self.nodes[i].input)
                    waiting.append(i)
        if len(region) > 2:
            self.assigned |= region
            self.regions[max(region)] = _ANCHORS[self.nodes[anchor].op_type]
            self.members[max(region)] = region

    def _belongs(self, index: int, region: set[int], entering: set[str], vectors: bool) -> bool:
        node = self.nodes[index]
        if node.op_type not in _PARTS or node.output[0] in self.fixed:
            return False
        moving = [name for name in node.input if name and name not in self.fixed]
        scalars = all(math.prod(self.graph.shapes.get(n, (2,))) == 1 for n in node.input if n in self.fixed and n)
        if len(moving) == 1:
            return scalars or vectors or node.op_type == "ReduceMean"
        inside = [name for name in moving if self.producer.get(name) in region]
        return bool(inside) and all(name in entering or name in inside for name in moving)

    def _region_inputs(self, last: int) -> list[str]:
        """The tensors that a decomposed function reads from outside."""
        region = self.members[last]
        names = dict.fromkeys(n for i in sorted(region) for n in self.nodes[i].input if n and n not in self.fixed)
        return [n for n in names if self.producer.get(n) not in region]


def _extents(product: Product) -> dict[str, int | str]:
    names = ("kind", "rows", "inner", "columns", "groups", "size", "stride")
    return {name: getattr(product, name) for name in names}


def _repeated(kernels: tuple[Kernel, ...], times: int) -> list[Kernel]:
    """``kernels`` so often one after the other; their weights are there once."""
    listed = []
    for kernel in kernels if times else ():
        if not kernel.weight_bytes or times == 1:
            listed.append(kernel.model_copy(update={"count": kernel.count * times}))
            continue
        again = kernel.model_copy(update={"weight_bytes": 0, "count": kernel.count * (times - 1)})
        listed += [kernel, again]
    return listed


def _window(node: NodeProto, input_shape: Shape) -> tuple[Shape, int]:
    """(window, stride) of a pool; a global one takes all positions."""
    window = integers(node, "kernel_shape")
    return (window or input_shape[2:] or (1,), (integers(node, "strides") or (1,))[0])
