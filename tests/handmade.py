"""Small ONNX graphs written by hand, marked as the lowering marks its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(7)
IMAGE = (2, 8, 6, 6)


@dataclass
class Graph:
    """A small ONNX graph written by hand."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: list[onnx.TensorProto] = field(default_factory=list)

    def put(self, name: str, array: np.ndarray, kind: int | None = None) -> str:
        if kind is None:
            self.stored.append(numpy_helper.from_array(array, name))
        else:
            self.stored.append(helper.make_tensor(name, kind, array.shape, array.reshape(-1)))
        return name

    def call(self, op: str, *inputs: str, out: str, site: str = "", mark: dict[str, str] | None = None, **attributes):
        outs = [out] if op != "DynamicQuantizeLinear" else [out, f"{out}.scale", f"{out}.zero"]
        node = helper.make_node(op, inputs, outs, name=f"node/{out}", **attributes)
        if site:
            for key, value in {"ptq.site": site, **(mark or {})}.items():
                node.metadata_props.add(key=key, value=value)
        self.nodes.append(node)
        return out

    def image(self, name: str, step: float = 0.03) -> str:
        """A uint8 QuantizeLinear and DequantizeLinear pair around a value."""
        scale, zero = self.put(f"{name}.s", np.float32(step)), self.put(f"{name}.z", np.uint8(128))
        self.call("QuantizeLinear", name, scale, zero, out=f"{name}.q")
        return self.call("DequantizeLinear", f"{name}.q", scale, zero, out=f"{name}.dq")

    def int4(self, name: str, shape: tuple[int, ...], *, cast: bool) -> str:
        """A dequantized int4 weight, brought to int8 first or not."""
        plane = self.put(f"{name}.plane", RNG.integers(-7, 8, shape), TensorProto.INT4)
        if cast:
            plane = self.call("Cast", plane, out=f"{name}.int8", to=TensorProto.INT8)
        zero = self.put(f"{name}.zero", np.zeros(shape[0], int), TensorProto.INT8 if cast else TensorProto.INT4)
        scale = self.put(f"{name}.scale", np.full(shape[0], 0.05, np.float32))
        return self.call("DequantizeLinear", plane, scale, zero, out=name, axis=0)

    def save(self, path: Path, shape=("n", *IMAGE[1:]), out: str = "y", kind: int = TensorProto.FLOAT) -> Path:
        x = helper.make_tensor_value_info("x", kind, list(shape))
        y = helper.make_tensor_value_info(out, kind, [f"d{k}" for k in range(len(shape))])
        graph = helper.make_graph(self.nodes, "g", [x], [y], self.stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.save(model, path)
        return path


def quantized_conv(*, cast: bool = True, output: bool = True) -> Graph:
    g = Graph()
    data, weight = g.image("x"), g.int4("w", (8, 8, 3, 3), cast=cast)
    g.call("Conv", data, weight, out="c" if output else "y", site="conv", mark={"ptq.execution": "static"})
    if output:
        g.call("Identity", g.image("c", 0.1), out="y")
    return g


def float_conv(mark: dict[str, str] | None = None) -> Graph:
    g = Graph()
    w = g.put("w", RNG.normal(size=(16, 8, 3, 3)).astype(np.float32))
    g.call("Conv", "x", w, out="c", site="conv", mark={"ptq.execution": "float", **(mark or {})})
    g.call("Relu", "c", out="y")
    return g


def images(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape or IMAGE).astype(np.float32)


def matmul(*, dynamic: bool) -> Graph:
    """A product with a stored int8 weight, in integers or folded to float."""
    g = Graph()
    plane = g.put("w.plane", RNG.integers(-7, 8, (16, 8)), TensorProto.INT4)
    turned = g.call("Transpose", g.call("Cast", plane, out="w8", to=TensorProto.INT8), out="columns", perm=[1, 0])
    scale = g.put("w.scale", np.full(16, 0.05, np.float32))
    if not dynamic:
        wide = g.call("Mul", g.call("Cast", turned, out="wf", to=TensorProto.FLOAT), scale, out="w")
        g.call("MatMul", "x", wide, out="y", site="fc", mark={"ptq.execution": "weights"})
        return g
    g.call("DynamicQuantizeLinear", "x", out="q")
    zero = g.put("w.zero", np.zeros(16, np.int8))
    marks = {"ptq.execution": "dynamic"}
    g.call("MatMulInteger", "q", turned, "q.zero", zero, out="i", site="fc", mark=marks)
    g.call("Cast", "i", out="f", to=TensorProto.FLOAT)
    g.call("Mul", "f", g.call("Mul", "q.scale", scale, out="steps"), out="y")
    return g
