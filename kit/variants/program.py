"""A network of kit.spaces as a torch.export program: the operators of its ONNX file, one by one, in torch.

So that the pytorch backend runs what the other runtimes run: for an allocator one decision, of which only the active experts are computed.
Only allocators are converted so; what kit.nets trains is exported by kit.variants.export.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kit import spaces, store
from kit.allocators import fileformat
from kit.allocators.fileformat import AllocatorNetwork
from kit.nets.export import archive_of, program_of
from kit.records import FileRef
from kit.spaces.allocator import weights_of
from kit.spaces.graph import Net, Node


class Program(nn.Module):
    """The nodes of ``net`` in their order, with ``weights`` under the names of the file."""

    def __init__(self, net: Net, weights: dict[str, Any]) -> None:
        super().__init__()
        self._net, self._buffer_names = net, {name: f"w{number}" for number, name in enumerate(weights)}
        for name, buffer in self._buffer_names.items():
            self.register_buffer(buffer, torch.tensor(np.ascontiguousarray(weights[name])))

    def forward(self, x: Tensor) -> Tensor:
        """Run the ONNX file's nodes in order."""
        tensors = {"input": x}
        for node in self._net.nodes:
            inputs = [tensors[n] if n in tensors else self._stored(n) for n in node.inputs]
            outputs = _OPERATORS[node.op](node, *inputs)
            tensors |= zip(node.outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=True)
        return tensors["output"]

    def _stored(self, name: str) -> Any:
        values = self._net.stored[name].values
        return [int(v) for v in values] if values is not None else getattr(self, self._buffer_names[name])


def _gemm(node: Node, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.linear(x, weight, bias) if node.attributes["transB"] else torch.addmm(bias, x, weight)


_OPERATORS: dict[str, Callable[..., Any]] = {
    "Gemm": _gemm,
    "MatMul": lambda _, a, b: a @ b,
    "Add": lambda _, a, b: a + b,
    "Relu": lambda _, x: x.relu(),
    "LeakyRelu": lambda node, x: functional.leaky_relu(x, node.attributes["alpha"]),
    "Softmax": lambda node, x: x.softmax(node.attributes["axis"]),
    "LogSoftmax": lambda node, x: x.log_softmax(node.attributes["axis"]),
    "TopK": lambda node, x, count: tuple(x.topk(count[0], node.attributes["axis"])),
    "Gather": lambda node, table, indices: table.index_select(node.attributes["axis"], indices),
    "ReduceMean": lambda node, x, axes: x.mean(axes, keepdim=bool(node.attributes["keepdims"])),
    "Reshape": lambda _, x, shape: x.reshape(shape),
    "Transpose": lambda node, x: x.permute(node.attributes["perm"]),
}


def write(network: AllocatorNetwork, path: Path) -> FileRef:
    """``network`` as the program ``path`` (``x.pt2``); equal networks give equal files. Raises UsageError (a network of other shapes than
    its id names), StorageError.
    """
    sub = fileformat.subnetwork(network)
    net = spaces.space_of(sub.root).architecture(sub).net()
    module = Program(net, weights_of(network)).eval()
    data = archive_of(program_of(module, (torch.zeros(net.shapes["input"]),)))
    store.write_atomic(path, data)
    return store.file_ref(path)
