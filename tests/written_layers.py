"""What a quantized file computes with, read from its bytes: weights, biases and grids of activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from error_bounds import Bounds, Layer
from every_site import Made
from onnx import ModelProto, NodeProto, helper, numpy_helper

from ptq.model.session import Session
from ptq.model.sites import Site, Use

_PARTS = ("/gemm", "/product")
_SCALE, _ZERO = "/activation/scale", "/activation/zero_point"


def bounds_of(made: Made, feeds: Mapping[str, np.ndarray], *, fused: bool) -> Session:
    """Of the float outputs of what was quantized, then of how far the file may be from them."""
    file = onnx.load_from_string(made.result.content)
    model = ir.to_proto(made.model.graph)
    return Bounds(model, dict(_layers(made, file, feeds)), dict(_tables(made)), grids(file), fused).session()


def grids(file: ModelProto) -> dict[str, tuple[float, int]]:
    """Scale and zero point of every tensor that has one."""
    stored = {each.name: each for each in file.graph.initializer}
    names = [name.removesuffix(_SCALE) for name in stored if name.endswith(_SCALE)]
    ends = {name: (stored[f"{name}{_SCALE}"], stored[f"{name}{_ZERO}"]) for name in names}
    return {name: tuple(numpy_helper.to_array(each).item() for each in pair) for name, pair in ends.items()}


def _layers(made: Made, file: ModelProto, feeds: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Layer]]:
    known = {node.name for node in made.model.graph.graph}
    nodes = {}
    for node in file.graph.node:
        if any(each.key == "ptq.site" for each in node.metadata_props):
            nodes[next((n for p in _PARTS if (n := node.name.removesuffix(p)) in known), node.name)] = node
    read = _Reader(file, feeds)
    for site in made.model.sites:
        for use in site.products:
            yield use.node, read.layer(made, site, use, nodes[use.node])


def _tables(made: Made) -> Iterator[tuple[str, np.ndarray]]:
    """How far the numbers of tables are off, by the node that takes rows."""
    for site in made.model.sites:
        weight = made.sites[site.name].numbers()
        for use in site.uses:
            if use.lookup and weight is not None:
                matrix = made.model.matrix(site)
                yield use.node, np.abs(weight.dequantize().numpy() - matrix)


class _Reader:
    """Values of a file that follow from what is stored."""

    def __init__(self, file: ModelProto, feeds: Mapping[str, np.ndarray]) -> None:
        self._makers = {name: node for node in file.graph.node for name in node.output}
        self._readers = {name: node for node in file.graph.node for name in node.input}
        self._stored = {each.name: numpy_helper.to_array(each) for each in file.graph.initializer}
        self._file, self._feeds = file, feeds

    def layer(self, made: Made, site: Site, use: Use, node: NodeProto) -> Layer:
        dynamic = node.op_type == "MatMulInteger"
        weight = self.value(node.input[1]).astype(np.float64)
        steps = None
        if dynamic:
            weight = weight * self.value(self._weight_scale(node))
        elif (maker := self._makers.get(node.input[1])) is not None and maker.op_type == "DequantizeLinear":
            steps = self.value(maker.input[1])
        turned = node.op_type != "Conv" and not _attribute(node, "transB")
        matrix = weight.T if turned else weight.reshape(site.rows, -1)
        static = node.op_type in ("Conv", "Gemm") and f"{use.input}{_SCALE}" in self._stored
        bias = self._bias_error(made, use, node)
        return Layer(site.tensor(matrix).astype(np.float32), bias, steps if static else None, dynamic)

    def _weight_scale(self, node: NodeProto) -> str:
        """What the scale of the input is multiplied with."""
        result = self._readers[self._readers[node.output[0]].output[0]]
        dynamic = self._makers[node.input[0]].output[1]
        steps = next(self._makers[name] for name in result.input if dynamic in self._makers[name].input)
        return next(name for name in steps.input if name != dynamic)

    def _bias_error(self, made: Made, use: Use, node: NodeProto) -> np.ndarray:
        before = np.zeros(1) if use.bias is None else made.model.initializer(use.bias).reshape(-1)
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and node.input[2]:
            after = self.value(node.input[2]).reshape(-1)
        else:
            after = before if use.bias is None else self._stored[use.bias].reshape(-1)
        return np.abs(after - before)

    def value(self, name: str) -> np.ndarray:
        if name in self._stored:
            return self._stored[name]
        probe = ModelProto()
        probe.CopyFrom(self._file)
        del probe.graph.output[:]
        probe.graph.output.append(helper.make_empty_tensor_value_info(name))
        return Session(probe.SerializeToString(), optimize=False).run(self._feeds)[0]


def _attribute(node: NodeProto, name: str) -> int:
    return next((each.i for each in node.attribute if each.name == name), 0)
