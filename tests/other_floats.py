"""One network in each type of floats, with weights that all of them hold, and graphs whose types are mixed."""

from __future__ import annotations

from typing import Any

import graphs
import ml_dtypes
import numpy as np
import onnx

KINDS = {
    "float32": ("float", onnx.TensorProto.FLOAT, np.float32),
    "float16": ("float16", onnx.TensorProto.FLOAT16, np.float16),
    "bfloat16": ("bfloat16", onnx.TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "float64": ("double", onnx.TensorProto.DOUBLE, np.float64),
}

_SHAPES = {
    "conv.weight": (8, 3, 3, 3), "conv.bias": (8,), "fc.weight": (32, 288), "fc.bias": (32,), "out.weight": (32, 600),
    "lstm.w": (1, 64, 24), "lstm.r": (1, 64, 16), "lstm.b": (1, 128), "table.weight": (40, 24), "gain": (24,),
}  # fmt: skip

_NODES = """
    first = Constant <value_ints = [0]> ()
    half = Constant <value = TYPE[1] {HALF}> ()
    c = Conv <pads = [1, 1, 1, 1]> (x, conv.weight, conv.bias)
    r = Relu (c)
    f = Flatten (r)
    g = Gemm <transB = 1> (f, fc.weight, fc.bias)
    t = Tanh (g)
    m = MatMul (t, out.weight)
    shape = Constant <value_ints = [-1, 25, 24]> ()
    s = Reshape (m, shape)
    e = Gather (table.weight, ids)
    h = Mul (e, half)
    a = Add (s, h)
    n = LayerNormalization (a, gain)
    q = Transpose <perm = [1, 0, 2]> (n)
    all, last, cell = LSTM <hidden_size = 16> (q, lstm.w, lstm.r, lstm.b)
    y = Squeeze (last, first)
"""


_HALF = {"float16": f"{0x3800}", "bfloat16": f"{0x3F00}"}
"""Which the text has as bits."""


def rounded(array: np.ndarray, kind: str) -> np.ndarray:
    """Numbers that all types hold, in one of them."""
    return array.astype(ml_dtypes.bfloat16).astype(KINDS[kind][2])


def weights(kind: str, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Random ones."""
    rng = np.random.default_rng(0)
    return {name: rounded(rng.standard_normal(shape) / 4, kind) for name, shape in shapes.items()}


def network(kind: str, *, opset: int = 21) -> onnx.ModelProto:
    """Every kind of layer, of images and of numbers of rows of a table."""
    word = KINDS[kind][0]
    ends = f"{word}[n, 3, 6, 6] x, int64[n, 25] ids", f"{word}[n, 16] y"
    nodes = _NODES.replace("TYPE", word).replace("HALF", _HALF.get(kind, "0.5"))
    for name in _SHAPES:  # the text has no points in names
        nodes = nodes.replace(name, name.replace(".", "_"))
    arrays = {name.replace(".", "_"): array for name, array in weights(kind, **_SHAPES).items()}
    return graphs.with_arrays(nodes, *ends, arrays, opset=opset)


def data(kind: str, count: int = 16) -> dict[str, np.ndarray]:
    """What it is fed."""
    rng = np.random.default_rng(1)
    return {"x": rounded(rng.standard_normal((count, 3, 6, 6)), kind), "ids": rng.integers(0, 40, (count, 25))}


def graph(nodes: str, inputs: str, outputs: str, **arrays: Any) -> onnx.ModelProto:
    """Nodes in ONNX's text."""
    return graphs.with_arrays(nodes, inputs, outputs, {name: np.asarray(array) for name, array in arrays.items()})
