"""A float network as static QDQ int8, node for node as onnxruntime's quantize_static makes it with kit's settings
(kit.variants.quantize): unsigned activations, signed weights per channel, int32 biases, its default list of operators.

Nothing is calibrated: scales come from the expected range of each tensor, so that values neither stick at a limit nor vanish.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from kit.spaces.fusion import owners
from kit.spaces.graph import INT8_STD, DType, Net, Node, Shape, Spread, Stored, without_relu

_PER_CHANNEL = {"Conv": 0, "Gemm": 0, "MatMul": 1}  # axis of the output channels in the weight as torch stores it


def quantize(net: Net) -> Net:
    """``net`` with quantize and dequantize nodes around everything that has an integer form."""
    return _Quantizer(net).run()


class _Quantizer:
    def __init__(self, net: Net) -> None:
        self.net, self.quantized = net, Net()
        self.nodes = without_relu(net.nodes)
        self.owner = owners(self.nodes, net)

    def run(self) -> Net:
        for name in self.net.inputs:
            self.quantized.input(name, self.net.shapes[name])
            self._surround(name)
        for node in self.nodes:
            self._node(node)
        return self.quantized

    def _node(self, node: Node) -> None:
        inputs = [self._read(node, index) for index in range(len(node.inputs))]
        outputs = [self._written(name) for name in node.outputs]
        for name, written in zip(node.outputs, outputs, strict=True):
            self.quantized.tensor(written, self.net.shapes[name], self.net.spreads[name], self.net.dtypes[name])
        self.quantized.nodes.append(replace(node, inputs=tuple(inputs), outputs=tuple(outputs)))
        for name in node.outputs:
            self._surround(name)

    def _written(self, name: str) -> str:
        return f"{name}_QuantizeLinear_Input" if name == "output" and name in self.owner else name

    def _read(self, node: Node, index: int) -> str:
        """What ``node`` reads in place of its input: the dequantized tensor, weight or bias."""
        name = node.inputs[index]
        if name in self.owner:
            return f"{name}_DequantizeLinear_Output"
        stored = self.net.stored.get(name)
        if stored is None or stored.dtype != "float32" or node.op in ("Div", "Erf", "ReduceMean"):
            if stored is not None:
                self.quantized.stored[name] = stored
            return name
        return self._weight(node, index, name, stored)

    def _weight(self, node: Node, index: int, name: str, stored: Stored) -> str:
        output = f"{name}_DequantizeLinear_Output"
        if output in self.quantized.shapes:
            return output
        if index == 2:
            return self._bias(node, name, stored, output)
        if node.op in _PER_CHANNEL:
            axis = 1 if node.attributes.get("transB") == 0 else _PER_CHANNEL[node.op]
            return self._dequantize(name, stored, output, "int8", stored.std / INT8_STD, axis)
        if node.op == "LayerNormalization":
            return self._dequantize(name, stored, output, "int8", stored.mean / 100.0)
        return self._dequantize(name, stored, output, "uint8", _step(_range_of(stored)))

    def _bias(self, node: Node, name: str, stored: Stored, output: str) -> str:
        """An int32 bias counts in steps of the product: scale of the input times scale of the weight."""
        source, weight = self.owner[node.inputs[0]], self.net.stored[node.inputs[1]]
        step = _step(self.net.spreads[source])
        if node.op == "LayerNormalization":
            return self._dequantize(name, stored, output, "int32", step * weight.mean / 100.0)
        return self._dequantize(name, stored, output, "int32", step * weight.std / INT8_STD, 0)

    def _dequantize(
        self, name: str, stored: Stored, output: str, dtype: DType, step: float, axis: int | None = None
    ) -> str:
        """Store ``name`` in ``dtype``, in steps of ``step``, per channel where there is an ``axis``; returns what dequantizes it."""
        zero = _zero(_range_of(stored)) if dtype == "uint8" else 0
        shape: Shape = () if axis is None else (stored.shape[axis],)
        stored_name = f"{name}_quantized"
        values = None if stored.values is None else tuple(round(v / step) + zero for v in stored.values)
        self.quantized.stored[stored_name] = Stored(
            dtype, stored.shape, stored.std / step, stored.mean / step + zero, values
        )
        scale, point = self._scale(name, step, zero, dtype, shape)
        attributes = {} if axis is None else {"axis": axis}
        self.quantized.nodes.append(Node("DequantizeLinear", (stored_name, scale, point), (output,), dict(attributes)))
        return self.quantized.tensor(output, stored.shape, Spread.bell(1.0))

    def _surround(self, name: str) -> None:
        """Q and DQ behind the tensor ``name``, in the steps of the tensor whose scale it shares."""
        if name not in self.owner:
            return
        spread = self.net.spreads[self.owner[name]]
        scale, point = self._scale(self.owner[name], _step(spread), _zero(spread), "uint8", ())
        small = f"{name}_QuantizeLinear_Output"
        back = name if name == "output" else f"{name}_DequantizeLinear_Output"
        shape = self.net.shapes[name]
        self.quantized.nodes.append(Node("QuantizeLinear", (self._written(name), scale, point), (small,)))
        self.quantized.tensor(small, shape, spread, "uint8")
        self.quantized.nodes.append(Node("DequantizeLinear", (small, scale, point), (back,)))
        self.quantized.tensor(back, shape, spread)

    def _scale(self, name: str, step: float, zero: int, dtype: DType, shape: Shape) -> tuple[str, str]:
        scale, point = f"{name}_scale", f"{name}_zero_point"
        self.quantized.stored[scale] = Stored("float32", shape, values=(step,) * prod(shape), setting=True)
        self.quantized.stored[point] = Stored(dtype, shape, values=(zero,) * prod(shape), setting=True)
        return scale, point


def _range_of(stored: Stored) -> Spread:
    if stored.values is not None:
        return Spread(0.0, min(0.0, *stored.values), max(0.0, *stored.values))
    return Spread.bell(max(stored.std, abs(stored.mean)))


def _step(spread: Spread) -> float:
    return (spread.high - spread.low) / 255.0


def _zero(spread: Spread) -> int:
    return round(-spread.low / _step(spread))
