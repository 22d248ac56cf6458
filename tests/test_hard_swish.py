"""HardSwish between integer kernels: written as a product of integers, and the same function."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import model

import ptq
from ptq.model.session import Session

HEAD, TAIL = "a = Conv (x, w0, b0)", "y = Conv (h, w1, b1)"
SHAPES = {"w0": (8, 3, 1, 1), "b0": (8,), "w1": (4, 8, 1, 1), "b1": (4,)}


def network(nodes: str = "h = HardSwish (a)", *, factor: float = 1.0, shift: float = 0.0) -> onnx.ModelProto:
    """Two convolutions with `nodes` between; the first makes numbers of about that size and mean."""
    made = model(f"{HEAD}\n {nodes}\n {TAIL}", "float[n, 3, 8, 8] x", "float[n, 4, 8, 8] y", SHAPES)
    for tensor in made.graph.initializer:
        if tensor.name in ("w0", "b0"):
            array = factor * onnx.numpy_helper.to_array(tensor) + (shift if tensor.name == "b0" else 0.0)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), tensor.name))
    return made


def images(count: int = 16) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, 3, 8, 8)).astype(np.float32)


def quantized(made: onnx.ModelProto, folder: Path) -> tuple[Path, float]:
    """The quantized file, weights in 8 bits, and the SQNR of its outputs."""
    onnx.save(made, folder / "float.onnx")
    result = ptq.quantize(folder / "float.onnx", data={"x": images()}, points=2)
    result.save(folder / "q.onnx")
    return folder / "q.onnx", float(result.report.accuracy.sqnr_db or 0.0)


def operators(path: Path) -> collections.Counter[str]:
    """What ONNX Runtime runs."""
    optimized = path.with_suffix(".opt.onnx")
    Session(path, optimized_path=optimized)
    return collections.Counter(node.op_type for node in onnx.load(optimized, load_external_data=False).graph.node)


@pytest.mark.parametrize(
    ("factor", "shift"), [(1.0, 0.0), (4.0, 1.0), (2.0, 8.0), (20.0, 0.0), (0.5, -5.0), (2.0, -4.0)]
)
def test_integers_all_the_way_and_the_same_numbers(tmp_path: Path, factor: float, shift: float) -> None:
    path, sqnr = quantized(network(factor=factor, shift=shift), tmp_path)
    ran = operators(path)
    assert (ran["QLinearConv"], ran["QLinearMul"]) == (2, 1)
    assert ran["HardSigmoid"] + ran["HardSwish"] == 0
    assert sqnr > 30 or shift < -3  # there nearly all is 0, and the rest less than a step of x
    fast, plain = (Session(path, optimize=each).run({"x": images()})[0] for each in (True, False))
    assert np.abs(fast - plain).max() <= 0.03 * np.abs(plain).max()


@pytest.mark.parametrize(
    ("nodes", "factor"),
    [
        ("h = HardSwish (a)", 0.1),  # a grid from -3 would be much coarser than one of what there is
        ("h = HardSwish (a)", 1000.0),  # no zero point is left
        ("s = HardSwish (a)\n h = Add (s, a)", 1.0),  # another reader needs what lies below -3
        ("r = Relu (a)\n h = HardSwish (r)", 1.0),  # the kernel of the convolution holds the range at 0
    ],
)
def test_what_cannot_be_split_is_right_all_the_same(tmp_path: Path, nodes: str, factor: float) -> None:
    path, sqnr = quantized(network(nodes, factor=factor), tmp_path)
    assert operators(path)["QLinearConv"] == 2
    assert sqnr > 30


def test_a_hard_sigmoid_gate_feeds_an_integer_product(tmp_path: Path) -> None:
    path, sqnr = quantized(network("g = HardSigmoid <alpha = 0.16666667, beta = 0.5> (a)\n h = Mul (a, g)"), tmp_path)
    assert operators(path)["QLinearMul"] == 1
    assert sqnr > 30
