"""Small networks as ONNX and as torch functions: what a written file computes, said a second time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import graphs
import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor
from torch.nn.functional import conv2d, relu

from ptq.model.session import Session

Weights = Mapping[str, Tensor]
Rounded = Callable[[str, Tensor], Tensor]
"""What becomes of the input of a layer, by the name of that tensor."""

FP8 = {
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
    "fp8_e4m3fnuz": torch.float8_e4m3fnuz,
    "fp8_e5m2fnuz": torch.float8_e5m2fnuz,
}
_TYPES = {
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
}


def _convolutions(x: Tensor, w: Weights, rounded: Rounded) -> Tensor:
    a = relu(conv2d(rounded("x", x), w["w0"], w["b0"], padding=1))
    b = conv2d(rounded("a", a), w["w1"], w["b1"], padding=1, groups=2).clamp(0, 1.5)
    return conv2d(rounded("b", b), w["w2"], w["b2"], padding=1, groups=8)


def _gemms(x: Tensor, w: Weights, rounded: Rounded) -> Tensor:
    a = relu(rounded("x", x) @ w["w0"].T + w["b0"])
    return rounded("a", a) @ w["w1"] + w["b1"]


def _products(x: Tensor, w: Weights, rounded: Rounded) -> Tensor:
    a = relu(rounded("x", x) @ w["w0"] + w["b0"])
    return rounded("a", a) @ w["w1"]


@dataclass(frozen=True)
class Twin:
    """A network in both forms; `layers` names its weights, in order, with the tensors they are multiplied with."""

    onnx: Callable[[], onnx.ModelProto]
    torch: Callable[[Tensor, Weights, Rounded], Tensor]
    shape: tuple[int, ...]
    layers: Mapping[str, str]

    def data(self, seed: int, scale: float = 1.0) -> np.ndarray:
        """Normal numbers, every seventh a thousandth of that, so that some are below the normal numbers of FP8."""
        x = np.random.default_rng(seed).standard_normal(self.shape).astype(np.float32) * np.float32(scale)
        x.reshape(-1)[::7] *= np.float32(1e-3)
        return x


TWINS = {
    "conv": Twin(
        lambda: graphs.model(
            """
            low = Constant <value_float = 0.0> ()
            high = Constant <value_float = 1.5> ()
            a0 = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
            a = Relu (a0)
            c0 = Conv <pads = [1, 1, 1, 1], group = 2> (a, w1, b1)
            b = Clip (c0, low, high)
            y = Conv <pads = [1, 1, 1, 1], group = 8> (b, w2, b2)
            """,
            "float[n, 3, 8, 8] x",
            "float[n, 8, 8, 8] y",
            {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (8, 4, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "b2": (8,)},
        ),
        _convolutions,
        (6, 3, 8, 8),
        {"w0": "x", "w1": "a", "w2": "b"},
    ),
    "gemm": Twin(
        lambda: graphs.model(
            """
            a0 = Gemm <transB = 1> (x, w0, b0)
            a = Relu (a0)
            y = Gemm (a, w1, b1)
            """,
            "float[n, 64] x",
            "float[n, 12] y",
            {"w0": (128, 64), "b0": (128,), "w1": (128, 12), "b1": (12,)},
        ),
        _gemms,
        (40, 64),
        {"w0": "x", "w1": "a"},
    ),
    "matmul": Twin(
        lambda: graphs.model(
            """
            a0 = MatMul (x, w0)
            a1 = Add (a0, b0)
            a = Relu (a1)
            y = MatMul (a, w1)
            """,
            "float[n, t, 64] x",
            "float[n, t, 24] y",
            {"w0": (64, 128), "b0": (128,), "w1": (128, 24)},
        ),
        _products,
        (5, 9, 64),
        {"w0": "x", "w1": "a"},
    ),
}


def initializers(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """What a file stores, by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def numbers_of(tensor: TensorProto) -> Tensor:
    """Stored numbers as float32, decoded by torch, int4 by hand."""
    if tensor.data_type in _TYPES:
        stored = torch.frombuffer(bytearray(tensor.raw_data), dtype=torch.uint8)
        return stored.view(_TYPES[tensor.data_type]).float().reshape(tuple(tensor.dims))
    if tensor.data_type == TensorProto.INT4:
        stored = torch.frombuffer(bytearray(tensor.raw_data), dtype=torch.uint8).int()
        halves = torch.stack([stored & 15, stored >> 4], 1).reshape(-1)[: int(np.prod(tensor.dims))]
        return torch.where(halves < 8, halves, halves - 16).float().reshape(tuple(tensor.dims))
    return torch.from_numpy(numpy_helper.to_array(tensor).astype(np.float32))


def value(model: onnx.ModelProto, name: str) -> np.ndarray:
    """A value of the graph that no input has a part in."""
    stored = initializers(model)
    if name in stored:
        return numpy_helper.to_array(stored[name])
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    feeds = {"x": np.zeros([5 if not d.dim_value else d.dim_value for d in _dims(copy)], np.float32)}
    return Session(copy.SerializeToString(), optimize=False).run(feeds, [name])[0]


def scale(model: onnx.ModelProto, site: str) -> np.ndarray:
    """What a file multiplies the stored numbers of a layer with, one for each of its rows."""
    made = {f"{site}/plane1"}
    for node in model.graph.node:
        if made & set(node.input):
            if node.op_type == "Mul":
                (other,) = set(node.input) - made
                return value(model, other).reshape(-1)
            made |= set(node.output)
    raise AssertionError(site)


def _dims(model: onnx.ModelProto) -> list[onnx.TensorShapeProto.Dimension]:
    return list(model.graph.input[0].type.tensor_type.shape.dim)


def biases(model: onnx.ModelProto) -> dict[str, Tensor]:
    """The biases that a file stores: what rounding did to means is in them."""
    return {
        name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for name, tensor in initializers(model).items()
        if name.startswith("b") and "/" not in name
    }


def run(model: onnx.ModelProto, x: np.ndarray, *, optimize: bool = True) -> np.ndarray:
    """The output of a file."""
    return Session(model.SerializeToString(), optimize=optimize).run({"x": x})[0]


def difference(expected: Tensor | np.ndarray, got: np.ndarray) -> float:
    """The largest, relative to the largest number."""
    wanted = expected.numpy() if isinstance(expected, Tensor) else expected
    return float(np.abs(wanted - got).max() / np.abs(wanted).max())
