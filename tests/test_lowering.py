"""What is written runs in integer kernels, computes what was meant, and avoids the traps of ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import ptq
from ptq.audit.kernels import Kernel, find_kernels
from ptq.model.session import Session
from ptq.pipeline import Result

NETWORKS = {
    "residual": (graphs.residual, {"x": (16, 3, 12, 12)}),
    "gates": (graphs.gates, {"x": (16, 3, 8, 8)}),
    "conv1d": (lambda: graphs.spatial(1), {"x": (16, 2, 7)}),
    "conv3d": (lambda: graphs.spatial(3), {"x": (16, 2, 7, 7, 7)}),
    "attention": (graphs.attention, {"ids": (16, 9)}),
}


def data_for(name: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = NETWORKS[name][1]
    return {
        key: rng.integers(0, 50, shape) if key == "ids" else rng.standard_normal(shape).astype(np.float32)
        for key, shape in shapes.items()
    }


def quantized(name: str, **options: Any) -> Result:
    return ptq.quantize(NETWORKS[name][0](), data_for(name), **{"points": 2, **options})


@pytest.fixture(scope="module", params=NETWORKS)
def made(request: pytest.FixtureRequest) -> tuple[str, Result]:
    return request.param, quantized(request.param)


def outputs(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], *, optimize: bool = True) -> np.ndarray:
    return Session(model.SerializeToString(), optimize=optimize).run(feeds)[0]


def sqnr_db(expected: np.ndarray, got: np.ndarray) -> float:
    noise = float(((expected - got) ** 2).sum())
    return float(10 * np.log10(float((expected**2).sum()) / noise)) if noise else float("inf")


def constants(model: onnx.ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def test_every_site_runs_in_an_integer_kernel(made: tuple[str, Result]) -> None:
    for layer in made[1].report.computing:
        assert layer.integer, layer
        assert layer.kernel != "ConvInteger"  # H14


def test_the_output_is_close_to_that_of_the_float_model(made: tuple[str, Result]) -> None:
    name, result = made
    feeds = data_for(name)
    assert sqnr_db(outputs(NETWORKS[name][0](), feeds), outputs(result.model, feeds)) > 28


def test_optimization_changes_nothing_but_rounding(made: tuple[str, Result]) -> None:
    name, result = made
    feeds = data_for(name)
    assert sqnr_db(outputs(result.model, feeds, optimize=False), outputs(result.model, feeds)) > 35


def test_activations_are_unsigned_and_per_tensor(made: tuple[str, Result]) -> None:
    """H2, H18: int8 activations fail to load or to fuse; H4: scales of shape [1] do; H5, H6: fp8 drops a Relu; H20."""
    model = made[1].model
    known = constants(model)
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    for node in nodes:
        scale, zero_point = known[node.input[1]], known[node.input[2]]
        assert (list(scale.dims), list(zero_point.dims)) == ([], [])
        assert zero_point.data_type == TensorProto.UINT8
    for node in model.graph.node:
        assert not (node.op_type == "QuantizeLinear" and node.input[0] in known), "H12: it would never fold"
    assert len({node.input[0] for node in nodes}) == len(nodes), "H15: one QuantizeLinear for each tensor"


def test_weights_are_signed_symmetric_int8(made: tuple[str, Result]) -> None:
    """H3: uint8 weights are slow; H19: zero points other than 0 are slower still."""
    model = made[1].model
    known = constants(model)
    for node in model.graph.node:
        names = {"DequantizeLinear": node.input[2:3], "MatMulInteger": node.input[3:4]}.get(node.op_type, [])
        for name in names:
            zero_point = numpy_helper.to_array(known[name])
            if zero_point.ndim and zero_point.dtype != np.uint8:
                assert zero_point.dtype in (np.int8, np.int32)
                assert not zero_point.any()


@pytest.mark.parametrize("weights", ["int4", "int3", "int2"])
@pytest.mark.parametrize("name", ["residual", "attention"])
def test_planes_are_cast_before_anything_else(name: str, weights: str) -> None:
    """H7, H8: a DequantizeLinear on int2 fails to load, one on int4 is slower than float."""
    result = quantized(name, weights=weights, points=2)
    narrow = {t.name for t in result.model.graph.initializer if t.data_type in (TensorProto.INT4, TensorProto.INT2)}
    assert narrow
    readers = [(n.op_type, i) for n in result.model.graph.node for i in n.input if i in narrow]
    assert {op for op, _ in readers} == {"Cast"}
    assert all(layer.integer for layer in result.report.layers if layer.execution != "lookup")
    assert result.report.file is not None
    assert result.report.file.parity_db is None or result.report.file.parity_db > 35


@pytest.mark.parametrize("options", [{"search": "greedy"}, {"search": "greedy-grid"}, {"weights": "int2", "points": 5}])
def test_other_points_run_in_integers_too(options: dict[str, Any]) -> None:
    result = quantized("residual", **options)
    assert all(layer.integer for layer in result.report.layers)
    feeds = data_for("residual")
    assert sqnr_db(outputs(graphs.residual(), feeds), outputs(result.model, feeds)) > 25


def test_portable_weights_stay_in_seven_bits() -> None:
    """H16: beyond 63, pairs of products saturate on CPUs without VNNI."""
    for weights in ("int4", "int3", "int2"):
        assert largest_weight(quantized("residual", weights=weights, portable=True, first_last="int8")) <= 63
    assert largest_weight(quantized("residual")) > 63


def largest_weight(result: Result) -> int:
    """The largest int8 weight that the file rebuilds, found by asking ONNX Runtime."""
    model = result.model
    read = {n.input[1] for n in model.graph.node if n.op_type in ("Conv", "Gemm")}
    weights = [n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.output[0] in read]
    assert weights
    for name in weights:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.INT8, None))
    feeds = data_for("residual")
    return max(int(np.abs(w.astype(int)).max()) for w in Session(model.SerializeToString()).run(feeds, weights))


def test_a_layer_kept_in_float_keeps_its_weights() -> None:
    """H1: ONNX Runtime quantizes a float weight between a DequantizeLinear and a QuantizeLinear by itself."""
    result = quantized("residual", keep_float="^node_2$")
    layer = next(layer for layer in result.report.layers if layer.execution == "float")
    assert (layer.integer, layer.kernel) in {(False, "Conv"), (False, "FusedConv")}
    model = result.model
    node = next(n for n in model.graph.node if len(n.input) > 1 and n.input[1] == "w1")
    private = next(n for n in model.graph.node if n.output[0] == node.input[0])
    quantizer = next(n for n in model.graph.node if n.output[0] == private.input[0])
    private.input[1:] = quantizer.input[1:]
    del private.attribute[:]
    assert [k.integer for k in kernels_of(model).values()] == [True] * 5, "without the guard, the trap is sprung"


def test_a_layer_kept_in_float_behind_what_moves_numbers_keeps_its_weights() -> None:
    """H1: ONNX Runtime moves the DequantizeLinear along, through a pooling and a Reshape, up to the float layer."""
    network = graphs.model(
        """
        shape = Constant <value_ints = [0, -1]> ()
        a0 = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
        a = Relu (a0)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
        r = Reshape (p, shape)
        g0 = Gemm <transB = 1> (r, w1, b1)
        g = Relu (g0)
        y = Gemm <transB = 1> (g, w2, b2)
        """,
        "float[n, 3, 8, 8] x",
        "float[n, 5] y",
        {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (16, 128), "b1": (16,), "w2": (5, 16), "b2": (5,)},
    )
    data = {"x": np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)}
    result = ptq.quantize(network, data, points=2, keep_float="node_4")
    assert [(layer.execution, layer.integer) for layer in result.report.layers] == [
        ("static", True), ("float", False), ("static", True),
    ]  # fmt: skip


def kernels_of(model: onnx.ModelProto) -> dict[str, Kernel]:
    """The kernels that ONNX Runtime picks for the sites of a graph."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        Session(model.SerializeToString(), optimized_path=path)
        return find_kernels(model.graph, onnx.load(path).graph)


@pytest.mark.parametrize("search", ["radix", "greedy"])
def test_weights_alone_fold_to_float_kernels_or_are_blocks(search: str) -> None:
    """H11: a DequantizeLinear of weights runs at every call; H9, H10: unless it is one that MatMulNBits takes up."""
    for name in ("residual", "attention"):
        result = ptq.quantize(NETWORKS[name][0](), points=2, search=search)
        kernels = {layer.execution: layer.kernel for layer in result.report.layers}
        assert kernels.get("blocks", "MatMulNBits") == "MatMulNBits"
        assert ("blocks" in kernels) == (search == "radix")
        assert "MatMulNBits" not in (kernels.get("weights") or "")
        images = [node for node in result.model.graph.node if node.op_type == "DequantizeLinear"]
        assert len(images) == sum(layer.kernel == "MatMulNBits" for layer in result.report.layers)
        assert all(layer.integer for layer in result.report.layers if layer.execution == "blocks")
        feeds = data_for(name)
        assert sqnr_db(outputs(NETWORKS[name][0](), feeds), outputs(result.model, feeds)) > 30


def test_attention_masks_stay_float_and_tables_are_taken_from_before_they_are_decoded() -> None:
    """H17: the mask's -1e4 would set the range of a quantized sum; H13: a dequantized table is decoded whole."""
    model = quantized("attention").model
    quantizers = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")]
    producers = {out: n.op_type for n in model.graph.node for out in n.output}
    assert {producers.get(n.input[0]) for n in quantizers} == {"Mul", "ReduceMean"}  # Mul: smoothing
    table = next(t for t in model.graph.initializer if t.name == "node/plane1")
    assert table.data_type == TensorProto.UINT8
    assert {n.op_type for n in model.graph.node if table.name in n.input} == {"Gather"}
    kept = quantized("attention", embeddings="none").model
    gather = next(n for n in kept.graph.node if n.op_type == "Gather" and n.input[0] == "table")
    assert constants(kept)[gather.input[0]].data_type == TensorProto.FLOAT


def test_sites_that_share_an_input_share_its_quantizer() -> None:
    model = quantized("attention").model
    names = [n.input[0] for n in model.graph.node if n.op_type == "DynamicQuantizeLinear"]
    assert len(names) == len(set(names)) == 2


def test_nothing_is_left_of_what_the_exporter_noted() -> None:
    model, secret = graphs.residual(), "/home/someone/network.py"
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.input, *graph.initializer):
        noted.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=secret)
    result = ptq.quantize(model, data_for("residual"))
    assert secret.encode() in model.SerializeToString()
    assert secret.encode() not in result.model.SerializeToString()
