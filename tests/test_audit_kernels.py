"""Which kernel runs a site: hand-made graphs whose optimized form is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from handmade import RNG, Graph, float_conv, matmul, quantized_conv
from onnx import TensorProto, helper

from ptq.audit import Kernel
from ptq.audit.kernels import find_kernels
from ptq.model.session import Session


def kernels(path: Path) -> dict[str, Kernel]:
    optimized = path.with_name("optimized.onnx")
    Session(path, optimized_path=optimized)
    return find_kernels(onnx.load(path).graph, onnx.load(optimized, load_external_data=False).graph)


def test_a_whole_qdq_convolution_runs_in_integers(tmp_path: Path) -> None:
    found = kernels(quantized_conv().save(tmp_path / "q.onnx"))
    assert found == {"conv": Kernel("QLinearConv", integer=True, expected="static", reason=None)}


def test_a_convolution_without_a_quantized_output_runs_in_float(tmp_path: Path) -> None:
    found = kernels(quantized_conv(output=False).save(tmp_path / "q.onnx"))["conv"]
    assert (found.op, found.integer, found.expected) == ("Conv", False, "static")
    assert found.reason == "DequantizeLinear of the weight at every call"


def test_an_int4_weight_dequantized_directly_is_decoded_at_every_call(tmp_path: Path) -> None:
    found = kernels(quantized_conv(cast=False).save(tmp_path / "q.onnx"))["conv"]
    assert not found.integer
    assert found.reason == "DequantizeLinear of the weight at every call"


@pytest.mark.parametrize(("mark", "reason"), [({}, "runs as Conv in float"), ({"ptq.float": "kept"}, "kept")])
def test_a_float_convolution_is_found_under_its_new_names(tmp_path: Path, mark: dict[str, str], reason: str) -> None:
    found = kernels(float_conv(mark).save(tmp_path / "f.onnx"))
    assert found == {"conv": Kernel("Conv", integer=False, expected="float", reason=reason)}


@pytest.mark.parametrize(
    ("dynamic", "kernel"),
    [
        (True, Kernel("DynamicQuantizeMatMul", integer=True, expected="dynamic", reason=None)),
        (False, Kernel("MatMul", integer=False, expected="weights", reason="runs as MatMul in float")),
    ],
)
def test_products_are_found_by_their_folded_weight(tmp_path: Path, dynamic: bool, kernel: Kernel) -> None:
    assert kernels(matmul(dynamic=dynamic).save(tmp_path / "m.onnx", ("n", 5, 8))) == {"fc": kernel}


def test_a_blockwise_product_computes_in_int8_at_its_accuracy_level(tmp_path: Path) -> None:
    g = Graph()
    plane = g.put("w.plane", RNG.integers(-7, 8, (32, 16)), TensorProto.INT4)
    scale = g.put("w.scale", np.full((2, 16), 0.05, np.float32))
    g.call("DequantizeLinear", plane, scale, out="w", axis=0, block_size=16)
    g.call("MatMul", "x", "w", out="y", site="fc", mark={"ptq.execution": "weights"})
    path = g.save(tmp_path / "m.onnx", ("n", 5, 32))
    assert kernels(path)["fc"].op == "MatMulNBits"
    after = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph
    level = next(a.i for node in after.node for a in node.attribute if a.name == "accuracy_level")
    assert kernels(path)["fc"].integer == (level == 4)


def test_a_site_with_two_uses_is_in_integers_only_if_both_are(tmp_path: Path) -> None:
    g = quantized_conv()
    g.nodes.pop()
    g.call("Conv", "c.dq", "w", out="y", site="conv", mark={"ptq.execution": "static"})
    found = kernels(g.save(tmp_path / "q.onnx"))["conv"]
    assert (found.op, found.integer) == ("Conv, QLinearConv", False)
    assert found.reason is not None


def test_a_site_that_is_not_in_the_optimized_graph_says_so(tmp_path: Path) -> None:
    written = onnx.load(quantized_conv().save(tmp_path / "q.onnx")).graph
    found = find_kernels(written, onnx.GraphProto())["conv"]
    assert (found.integer, found.reason) == (False, "not found in the optimized graph")


def test_a_tied_weight_is_not_found_behind_its_lookup() -> None:
    """A table that a product reads too: what computes with the rows that were looked up is another layer."""
    head, table, body = (
        helper.make_node("MatMulNBits", [x, w, s], [y], y, domain="com.microsoft", accuracy_level=4)
        for x, w, s, y in (("h", "w", "s", "head"), ("rows", "v", "s", "body"), ("body", "v", "s", "h"))
    )
    lookup = [helper.make_node("Gather", ["w", "ids"], ["taken"]), helper.make_node("Cast", ["taken"], ["rows"], to=1)]
    stored = [onnx.numpy_helper.from_array(np.zeros(1, np.int8), name) for name in ("w", "v", "s")]
    optimized = helper.make_graph([*lookup, table, body, head], "o", [], [], stored)
    product = helper.make_node("MatMul", ["h", "w"], ["head"], "head")
    product.metadata_props.add(key="ptq.site", value="head")
    found = find_kernels(helper.make_graph([product], "w", [], [], stored), optimized)["head"]
    assert (found.nodes, found.integer, found.reason) == (("head",), True, None)
