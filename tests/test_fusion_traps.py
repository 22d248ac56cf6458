"""Graphs that ONNX Runtime leaves unfused when they are written naively: every layer still runs in integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from every_site import computed_at_every_call, quantized, sqnr_db

import ptq
from ptq.model.session import Session

SQUARE = {"w0": (64, 64), "w1": (64, 64)}
BIASES = {**SQUARE, "b0": (64,), "b1": (64,)}
LIMITS = "zero = Constant <value_float = 0.0> () six = Constant <value_float = 6.0> ()"
ADDED = "a0 = MatMul (x, w0) a1 = Add (a0, b0) a = Relu (a1) y0 = MatMul (a, w1) y = Add (y0, b1)"
GEMMS = "a0 = Gemm <transB = 1> (x, w0, b0) a = Relu (a0) y = Gemm <transB = 1> (a, w1, b1)"

CHAINS: dict[str, tuple[str, str, Mapping[str, tuple[int, ...]]]] = {
    "relu": ("a0 = MatMul (x, w0) a = Relu (a0) y = MatMul (a, w1)", "n, 64", SQUARE),
    "clip": (f"{LIMITS} a0 = MatMul (x, w0) a = Clip (a0, zero, six) y = MatMul (a, w1)", "n, 64", SQUARE),
    "half a clip": (f"{LIMITS} a0 = MatMul (x, w0) a = Clip (a0, , six) y = MatMul (a, w1)", "n, 64", SQUARE),
    "add, relu": (ADDED, "n, 64", BIASES),
    "add, relu, of rank 3": (ADDED, "n, t, 64", BIASES),
    "add, relu, of fixed rank 3": (ADDED, "2, 5, 64", BIASES),
    "add of fixed rank 3": ("a0 = MatMul (x, w0) y = Add (a0, b0)", "2, 5, 64", {"w0": (64, 64), "b0": (64,)}),
    "relu of rank 3": ("a0 = MatMul (x, w0) a = Relu (a0) y = MatMul (a, w1)", "n, t, 64", SQUARE),
    "bias in a row": (ADDED, "n, 64", {**BIASES, "b0": (1, 64)}),
    "residual": (
        "a0 = MatMul (x, w0) a1 = Add (x, a0) a = Relu (a1) y0 = MatMul (a, w1) y = Add (y0, a)", "4, 64", SQUARE,
    ),
    "gemms": (GEMMS, "4, 64", BIASES),
    "gemms, bias in a row": (GEMMS, "n, 64", {**BIASES, "b0": (1, 64)}),
    "gemms, bias a number": (GEMMS, "n, 64", {**BIASES, "b0": ()}),
    "gemms, bias a column": (GEMMS, "4, 64", {**BIASES, "b0": (4, 1)}),
    "gemm by columns": ("y = Gemm (x, w0)", "n, 64", {"w0": (64, 64)}),
    "relu to the output": ("a0 = MatMul (x, w0) y = Relu (a0)", "n, 64", {"w0": (64, 64)}),
    "two readers": (
        "a0 = MatMul (x, w0) r = Relu (a0) t = Tanh (a0) a = Add (r, t) y = MatMul (a, w1)", "n, 64", SQUARE,
    ),
    "a vector": ("a0 = MatMul (x, w0) a = Relu (a0) y = MatMul (a, w1)", "64", SQUARE),
}  # fmt: skip
SHAPES = {
    "72 inputs": (72, 64), "40 inputs": (40, 64), "24 inputs": (24, 64), "8 inputs": (8, 64), "1 input": (1, 64),
    "1 output": (64, 1), "3 outputs": (64, 3), "1 of each": (1, 1),
}  # fmt: skip
BLOCKS = {"weights": "int4", "group": 32, "activations": "none"}
STATIC = {"weights": "int8", "activations": "uint8"}
DYNAMIC = {"weights": "int4", "group": 32, "activations": "dynamic"}
OPTIONS = [
    pytest.param(BLOCKS, id="blocks"),
    pytest.param(STATIC, id="static"),
    pytest.param(DYNAMIC, id="dynamic"),
    pytest.param({"weights": "uint4", "activations": "none"}, id="uint4", marks=pytest.mark.slow),
    pytest.param({"weights": "uint2", "group": 16, "activations": "none"}, id="uint2", marks=pytest.mark.slow),
]


def samples(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """As many as a fixed batch has, or 8, of 5 vectors each."""
    shape = model.graph.input[0].type.tensor_type.shape.dim
    dims = [dim.dim_value or (8 if k == 0 else 5) for k, dim in enumerate(shape)]
    return {"x": np.random.default_rng(5).standard_normal(dims).astype(np.float32)}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", CHAINS)
def test_chains_of_products(monkeypatch: pytest.MonkeyPatch, name: str, options: Mapping[str, Any]) -> None:
    nodes, shape, weights = CHAINS[name]
    outputs = ", ".join(f"d{k}" for k, _ in enumerate(shape.split(",")))
    model = graphs.model(nodes, f"float[{shape}] x", f"float[{outputs}] y", weights)
    feeds = samples(model)
    made = quantized(monkeypatch, model, feeds, method="rtn", **options)
    layers = made.result.report.layers
    assert len(layers) == sum(name.startswith("w") for name in weights)
    assert [layer for layer in layers if not layer.integer] == []
    assert computed_at_every_call(made.optimized()) == []
    expected, got = made.reference(feeds)["y"], made.outputs(feeds)["y"]
    assert expected.shape == got.shape
    assert sqnr_db(expected, got) > 28


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("rank", [2, 3])
def test_odd_sizes(monkeypatch: pytest.MonkeyPatch, options: Mapping[str, Any], rank: int) -> None:
    """All in one graph."""
    shape = "n" if rank == 2 else "n, t"
    nodes, inputs, outputs, weights = [], [], [], {}
    for k, (columns, out) in enumerate(SHAPES.values()):
        nodes.append(f"y{k} = MatMul (x{k}, w{k})")
        inputs.append(f"float[{shape}, {columns}] x{k}")
        outputs.append(f"float[{shape}, {out}] y{k}")
        weights[f"w{k}"] = (columns, out)
    model = graphs.model(" ".join(nodes), ", ".join(inputs), ", ".join(outputs), weights)
    rng = np.random.default_rng(5)
    size = (8, 5)[: rank - 1]
    feeds = {f"x{k}": rng.standard_normal((*size, c)).astype(np.float32) for k, (c, _) in enumerate(SHAPES.values())}
    made = quantized(monkeypatch, model, feeds, method="rtn", **options)
    assert [layer for layer in made.result.report.layers if not layer.integer] == []
    assert computed_at_every_call(made.optimized()) == []
    expected, got = made.reference(feeds), made.outputs(feeds)
    for k, name in enumerate(SHAPES):
        assert sqnr_db(expected[f"y{k}"], got[f"y{k}"]) > 28, name


@pytest.mark.parametrize("weights", ["int4", "int8", "mxfp4"])
def test_a_weight_of_two_products_is_no_matmulnbits(monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    """ONNX Runtime makes none of a weight that is read twice; float is faster than decoding it at every call."""
    nodes = "a0 = MatMul (x, w0) a = Tanh (a0) y = MatMul (a, w0)"
    model = graphs.model(nodes, "float[n, 64] x", "float[n, 64] y", {"w0": (64, 64)})
    made = quantized(monkeypatch, model, method="rtn", weights=weights)
    (layer,) = made.result.report.layers
    assert (layer.execution, layer.note) == ("weights", "float, as 2 products share the weight")
    assert computed_at_every_call(made.optimized()) == []


@pytest.mark.measures_latency
@pytest.mark.parametrize("options", [BLOCKS, STATIC, DYNAMIC, {"weights": "int8", "activations": "none"}])
def test_one_vector_is_not_slower_than_in_float(options: Mapping[str, Any]) -> None:
    nodes = "a0 = MatMul (x, w0) a1 = Add (a0, b0) a = Relu (a1) y = MatMul (a, w1)"
    weights = {"w0": (768, 1024), "b0": (1024,), "w1": (1024, 768)}
    model = graphs.model(nodes, "float[n, t, 768] x", "float[n, t, 768] y", weights)
    one = {"x": np.random.default_rng(5).standard_normal((4, 1, 768)).astype(np.float32)}
    report = ptq.quantize(model, one, method="rtn", **options).report
    assert report.file.latency_ratio is not None
    assert report.file.latency_ratio < 0.8


@pytest.mark.parametrize("batch", [1, 3, 6, 64])
@pytest.mark.parametrize("method", ["rtn", "multipoint"])
def test_a_fixed_batch_of_any_size(monkeypatch: pytest.MonkeyPatch, batch: int, method: str) -> None:
    model = graphs.model("y = MatMul (x, w0)", f"float[{batch}, 64] x", f"float[{batch}, 8] y", {"w0": (64, 8)})
    feeds = samples(model)
    made = quantized(monkeypatch, model, feeds, method=method, weights="int4")
    assert Session(made.result.content).run(feeds)[0].shape == (batch, 8)


def test_a_bias_of_a_higher_rank_than_the_product_stays_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"w0": (64, 64), "b0": (1, 1, 64)}
    model = graphs.model("a = MatMul (x, w0) y = Add (a, b0)", "float[n, 64] x", "float[1, n, 64] y", weights)
    for options in (BLOCKS, STATIC, DYNAMIC):
        feeds = samples(model)
        made = quantized(monkeypatch, model, feeds, method="rtn", **options)
        assert made.outputs(feeds)["y"].shape == (1, 8, 64)
        assert sqnr_db(made.reference(feeds)["y"], made.outputs(feeds)["y"]) > 28
