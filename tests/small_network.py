"""A network that is small, and yet with rows that are long enough for scales to be few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (3, 12, 12)


def samples(count: int) -> np.ndarray:
    return np.random.default_rng(6).normal(size=(count, *SHAPE)).astype(np.float32)


def write_network(path: Path) -> None:
    """Two convolutions, a mean over the image, and a linear layer."""
    rng = np.random.default_rng(5)
    shapes = {"w1": (16, 3, 3, 3), "w2": (128, 16, 3, 3), "w3": (10, 128)}
    stored = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32) / 8, n) for n, s in shapes.items()]
    nodes, last = [], "x"
    for name in ("w1", "w2"):
        nodes += [
            helper.make_node("Conv", [last, name], [f"{name}_c"], f"layer.{name}", kernel_shape=[3, 3]),
            helper.make_node("Relu", [f"{name}_c"], [f"{name}_r"]),
        ]
        last = f"{name}_r"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["y"], "head", transB=1),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
