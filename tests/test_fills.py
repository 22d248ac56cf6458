"""Weights that nodes compute from constants are stored where a layer reads them, and nowhere else."""

from __future__ import annotations

import collections
import re
import tracemalloc

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graphs import model

import ptq
from ptq.errors import ModelError
from ptq.model.graph import Model

SHAPE = "shape = Constant<value_ints=[8, 3, 3, 3]>() f = ConstantOfShape<value = float[1] {0.25}> (shape)"
IMAGE = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)


def network(nodes: str, *, opset: int = 17) -> onnx.ModelProto:
    """A graph from float[n,3,6,6] x to y; it may read `w` (8,3,3,3), `m` (6,80) and `v` (8,)."""
    shapes = {"w": (8, 3, 3, 3), "m": (6, 80), "v": (8,)}
    used = {name: shape for name, shape in shapes.items() if re.search(rf"\b{name}\b(?! =)", nodes)}
    made = model(nodes, "float[n,3,6,6] x", "float y", used, opset=opset)
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return made


def prepared(proto: onnx.ModelProto) -> Model:
    """The prepared model, which has to compute what the graph did."""
    made = Model.of(ir.from_proto(proto))
    old, new = (
        ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": IMAGE})[0]
        for each in (proto, ir.to_proto(made.graph))
    )
    np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)
    return made


def operators(made: Model) -> dict[str, int]:
    return collections.Counter(node.op_type for node in made.graph.graph)


@pytest.mark.parametrize(
    "nodes",
    [
        f"{SHAPE} y = Conv(x, f)",
        f"{SHAPE} g = Mul(f, w) y = Conv(x, g)",
        f"{SHAPE} t = Transpose<perm=[0,1,3,2]>(f) half = Constant<value_float=0.5>() g = Sub(t, half) y = Conv(x, g)",
        "s = Shape(w) f = ConstantOfShape<value = float[1] {-3.0}> (s) y = Conv(x, f, v)",
        f"{SHAPE} a = Conv(x, f) b = Conv(x, f) y = Add(a, b)",
    ],
)
@pytest.mark.parametrize("opset", [9, 17, 21])
def test_the_weight_of_a_convolution(nodes: str, opset: int) -> None:
    if opset == 9 and "value_" in nodes:
        nodes = nodes.replace("Constant<value_ints=[8, 3, 3, 3]>", "Constant<value = int64[4] {8, 3, 3, 3}>")
        nodes = nodes.replace("Constant<value_float=0.5>", "Constant<value = float {0.5}>")
    made = prepared(network(nodes, opset=opset))
    assert {site.shape for site in made.sites} == {(8, 3, 3, 3)}
    assert set(operators(made)) <= {"Conv", "Add"}


def test_the_bias_of_a_product_and_what_batch_normalization_reads() -> None:
    nodes = """
        size = Constant<value_ints=[80]>() f = ConstantOfShape<value = float[1] {0.5}> (size)
        a = MatMul(x, m) h = Add(f, a) c = Constant<value_ints=[80, 80]>() g = ConstantOfShape(c)
        e = ConstantOfShape<value = float[1] {2.0}> (size) flat = Flatten<axis=3>(h) k = Gemm(flat, g, e)
        y = BatchNormalization(k, f, f, f, f)
    """
    made = prepared(network(nodes))
    assert [site.op for site in made.sites] == ["MatMul", "Gemm"]
    assert all(use.bias is not None for site in made.sites for use in site.uses)
    assert operators(made) == {"MatMul": 1, "Add": 1, "Flatten": 1, "Gemm": 1}


@pytest.mark.parametrize(
    "nodes",
    [
        "size = Constant<value_ints=[1,3,6,6]>() f = ConstantOfShape(size) z = Add(x, f) y = Conv(z, w)",
        "size = Constant<value_ints=[2,8,4,4]>() f = ConstantOfShape(size) c = Conv(x, w) y = Add(c, f)",
        # the weight is computed from the input: there is no site
        f"{SHAPE} a = Constant<value_ints=[0]>() b = ReduceMax(x) g = Mul(f, b) y = Conv(x, g)",
    ],
)
def test_other_fills_stay(nodes: str) -> None:
    assert operators(prepared(network(nodes)))["ConstantOfShape"] == 1


@pytest.mark.parametrize("shape", [f"{1 << 20}, {1 << 15}, 3, 3", f"{1 << 32}, {1 << 32}, 1, 1", f"{1 << 61}, 3, 3, 3"])
def test_a_fill_too_large_for_a_file_is_an_error_and_takes_no_memory(shape: str) -> None:
    nodes = f"shape = Constant<value_ints=[{shape}]>() f = ConstantOfShape<value = float[1] {{0.25}}> (shape)"
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=r"up to 'f', come to .* GB, more than the 2 GB .*; quantize a smaller"):
            ptq.quantize(network(f"{nodes} y = Conv(x, f)"))
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


def test_weights_that_are_drawn_anew_at_every_call_are_none() -> None:
    nodes = "g = RandomNormal<shape = [8, 3, 3, 3], seed = 1.0>() y = Conv(x, g)"
    with pytest.raises(ModelError, match=r"no quantizable node: .* with constant float weights; use another"):
        ptq.quantize(network(nodes))
