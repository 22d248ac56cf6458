"""A folder with a small model, and where its data and output go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MODEL_SEED, DATA_SEED = 3, 4


@dataclass(frozen=True)
class Folder:
    """A folder with a model and its data."""

    path: Path

    @property
    def model(self) -> Path:
        return self.path / "net.onnx"

    @property
    def data(self) -> Path:
        return self.path / "calib.npz"

    @property
    def output(self) -> Path:
        return self.path / "out.onnx"

    def names(self) -> set[str]:
        return {each.name for each in self.path.iterdir()}


def write_model(path: Path, *, opset: int = 17, weights: bool = True) -> None:
    """Two convolutions and a linear layer, or only a Relu."""
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (16, 8, 3, 3), "b2": (16,), "w3": (5, 16), "b3": (5,)}
    rng = np.random.default_rng(MODEL_SEED)
    arrays = {name: rng.normal(size=shape).astype(np.float32) * 0.3 for name, shape in shapes.items()}
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "one", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "two", kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "three", transB=1),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])]
    if not weights:
        nodes, stored = [helper.make_node("Relu", ["x"], ["y"])], []
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 8, 8])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)


def filled(path: Path) -> Folder:
    """A folder with that model and ten labelled samples."""
    made = Folder(path)
    write_model(made.model)
    rng = np.random.default_rng(DATA_SEED)
    x = rng.normal(size=(10, 3, 8, 8)).astype(np.float32)
    np.savez(made.data, x=x, labels=rng.integers(0, 5, 10))
    return made
