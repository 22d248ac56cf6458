"""Small ONNX networks written as text, with random weights: the patterns that lowering meets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

Shape = Sequence[int]


def model(nodes: str, inputs: str, outputs: str, weights: Mapping[str, Shape], *, opset: int = 20) -> onnx.ModelProto:
    """A model of nodes in ONNX's text syntax; weights are normal, scaled by the inverse root of their fan-in."""
    rng = np.random.default_rng(0)
    fans = {name: max(int(np.prod(shape[1:])), 1) for name, shape in weights.items()}
    arrays = {
        name: rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(fans[name]))
        for name, shape in weights.items()
    }
    return with_arrays(nodes, inputs, outputs, arrays, opset=opset)


def with_arrays(
    nodes: str, inputs: str, outputs: str, weights: Mapping[str, np.ndarray], *, opset: int = 20
) -> onnx.ModelProto:
    """A model of nodes in ONNX's text syntax with these initializers."""
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> net ({inputs}) => ({outputs}) {{ {nodes} }}'
    parsed = onnx.parser.parse_model(text)
    parsed.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.checker.check_model(parsed)
    return parsed


def residual() -> onnx.ModelProto:
    """Convolutions, plain, grouped and depthwise, around a residual sum, ReLU6, pooling and a Gemm."""
    return model(
        """
        six = Constant <value_float = 6.0> ()
        zero = Constant <value_float = 0.0> ()
        a0 = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
        a = Clip (a0, zero, six)
        d0 = Conv <pads = [1, 1, 1, 1], group = 8> (a, w1, b1)
        d = Relu (d0)
        e = Conv <pads = [1, 1, 1, 1], group = 2> (d, w2, b2)
        s0 = Add (a, e)
        s = Relu (s0)
        m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (s)
        f = Conv (m, w3)
        p = GlobalAveragePool (f)
        v = Flatten (p)
        y = Gemm <transB = 1> (v, w4, b4)
        """,
        "float[n, 3, 12, 12] x",
        "float[n, 5] y",
        {
            "w0": (8, 3, 3, 3), "b0": (8,), "w1": (8, 1, 3, 3), "b1": (8,), "w2": (8, 4, 3, 3), "b2": (8,),
            "w3": (16, 8, 1, 1), "w4": (5, 16), "b4": (5,),
        },
    )  # fmt: skip


def gates() -> onnx.ModelProto:
    """Swish by Sigmoid and Mul, hard swish, a squeeze-and-excite gate and a concatenation."""
    return model(
        """
        a0 = Conv (x, w0, b0)
        g = Sigmoid (a0)
        a = Mul (a0, g)
        c0 = Conv (a, w1, b1)
        c = HardSwish (c0)
        p = GlobalAveragePool (c)
        q = Conv (p, w2, b2)
        r = Sigmoid (q)
        t = Mul (c, r)
        u = Conv (t, w3, b3)
        k = Concat <axis = 1> (u, a)
        y = Conv (k, w4, b4)
        """,
        "float[n, 3, 8, 8] x",
        "float[n, 4, 8, 8] y",
        {
            "w0": (8, 3, 1, 1), "b0": (8,), "w1": (8, 8, 1, 1), "b1": (8,), "w2": (8, 8, 1, 1), "b2": (8,),
            "w3": (8, 8, 1, 1), "b3": (8,), "w4": (4, 16, 1, 1), "b4": (4,),
        },
    )  # fmt: skip


def spatial(rank: int) -> onnx.ModelProto:
    """Two convolutions over `rank` spatial axes."""
    k, sizes = (3,) * rank, ", ".join(["7"] * rank)
    return model(
        f"""
        a0 = Conv <pads = {[1] * (2 * rank)}, strides = {[2] * rank}> (x, w0, b0)
        a = Relu (a0)
        y = Conv <dilations = {[2] * rank}, pads = {[2] * (2 * rank)}> (a, w1, b1)
        """,
        f"float[n, 2, {sizes}] x",
        f"float[n, 4, {', '.join(f'm{axis}' for axis in range(rank))}] y",
        {"w0": (6, 2, *k), "b0": (6,), "w1": (4, 6, *k), "b1": (4,)},
    )


def attention() -> onnx.ModelProto:
    """An embedding, linear layers of rank 3 that share an input, a masked attention product, and a rank-2 head."""
    return model(
        """
        axis = Constant <value_ints = [1]> ()
        mask0 = Constant <value_float = -10000.0> ()
        e = Gather (table, ids)
        q0 = MatMul (e, wq)
        q = Add (q0, bq)
        k0 = MatMul (e, wk)
        k = Add (bk, k0)
        kt = Transpose <perm = [0, 2, 1]> (k)
        s0 = MatMul (q, kt)
        f = Cast <to = 1> (ids)
        z = Unsqueeze (f, axis)
        zero = Constant <value_float = 0.0> ()
        isz = Equal (z, zero)
        mz = Cast <to = 1> (isz)
        m = Mul (mz, mask0)
        s = Add (s0, m)
        p = Softmax <axis = -1> (s)
        o = MatMul (p, e)
        h0 = MatMul (o, wo)
        c = ReduceMean <keepdims = 0> (h0, axis)
        y0 = MatMul (c, wy)
        y = Add (y0, by)
        """,
        "int64[n, t] ids",
        "float[n, 6] y",
        {
            "table": (50, 16), "wq": (16, 16), "bq": (16,), "wk": (16, 16), "bk": (16,), "wo": (16, 32), "wy": (32, 6),
            "by": (6,),
        },
    )  # fmt: skip
