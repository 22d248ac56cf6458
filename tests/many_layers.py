"""A network of many large layers in little space: all weights lie in one file, each a little behind the one before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

STEP = 4096


def write(path: Path, layers: int, width: int, *, seed: int = 0, size: float = 1.0) -> int:
    """Products of `(width, width)`, with weights of that size; returns the bytes of one weight."""
    count = 4 * width * width
    data = path.with_name(f"{path.name}.data")
    noise = np.random.default_rng(seed).standard_normal((count + layers * STEP) // 4, np.float32)
    (noise * np.float32(size)).tofile(data)
    weights = []
    for layer in range(layers):
        weight = TensorProto(name=f"layer{layer}.weight", data_type=TensorProto.FLOAT, dims=(width, width))
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", data.name), ("offset", layer * STEP), ("length", count)):
            weight.external_data.add(key=key, value=str(value))
        weights.append(weight)
    names = ["x", *(f"h{layer}" for layer in range(layers - 1)), "y"]
    nodes = [
        helper.make_node("MatMul", [names[layer], weights[layer].name], [names[layer + 1]], f"layer{layer}")
        for layer in range(layers)
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, width]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "many", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return count
