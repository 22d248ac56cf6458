"""Every format at every kind of site: what ONNX Runtime computes, and with which kernels."""

from __future__ import annotations

from typing import Any

import every_site
import numpy as np
import onnx
import pytest
from every_site import TABLES, Made, computed_at_every_call, feeds, network, quantized, sqnr_db
from onnx import numpy_helper

from ptq import formats
from ptq.scheme import SCHEMES, parse

OPERATORS = ["Conv", "Conv", "GRU", "GRU", "Gather", "Gemm", "Gemm", "LSTM", "LSTM", *["MatMul"] * 3, "RNN", "RNN"]
PRODUCTS = ("gemm", "gemmt", "flat", "deep", "scores")
NAMES = [name for name, fmt in formats.FORMATS.items() if fmt.min <= 0 <= fmt.max]
GROUPED = ("int2", "int3", "int4", "int8", "uint2", "uint4", "uint8", "nf4", "fp8_e4m3fn", "fp4_e2m1")
LIKE_OTHERS = ("posit8_0", "posit8_2", "fp8_e4m3fnuz", "fp8_e5m2fnuz", "int5", "int6", "pot3", "nhot3")
STORED = [
    *((name, None) for name in (*NAMES, *SCHEMES) if name not in LIKE_OTHERS),
    *((name, "32") for name in GROUPED),
    *((name, "tensor") for name in ("int4", "uint4", "posit8_1")),
    ("int4", "16"),
    *(("lloyd3x2", group) for group in (None, "tensor", "32")),
    *((name, None) for name in ("lloyd2x4", "lloyd4x2")),
    *(pytest.param(name, "32", marks=pytest.mark.slow) for name in NAMES if name not in GROUPED),
    *(pytest.param(name, None, marks=pytest.mark.slow) for name in LIKE_OTHERS),
]


def check_stored(made: Made, tables: tuple[str, ...]) -> None:
    """Nothing is decoded at every call, and no table is there in float."""
    graph = made.optimized()
    assert computed_at_every_call(graph) == []
    stored = {tensor.name: tensor for tensor in graph.initializer}
    read = [stored.get(node.input[0]) for node in graph.node if node.op_type in ("Gather", "Slice")]
    rows = [every_site.WEIGHTS[name][0] for name in tables]
    large = [tensor for tensor in read if tensor is not None and tensor.dims[0] in rows and tensor.dims[1] >= 40 // 8]
    assert sorted(tensor.dims[0] for tensor in large) == sorted(rows)
    assert {numpy_helper.to_array(tensor).dtype.kind for tensor in large} <= {"i", "u"}


@pytest.mark.parametrize(("weights", "group"), STORED)
def test_weights_alone(monkeypatch: pytest.MonkeyPatch, weights: str, group: str | None) -> None:
    embeddings = weights if group in (None, "32") else "int8"
    base = parse(weights).format
    made = quantized(monkeypatch, network(), method="rtn", weights=weights, group=group, embeddings=embeddings)
    layers = made.result.report.layers
    assert sorted(layer.op for layer in layers) == [*OPERATORS, "Slice"]
    assert all(layer.format.startswith(base.name) for layer in layers if layer.computes or embeddings == weights)
    assert {layer.execution for layer in layers} <= {"weights", "blocks", "lookup"}
    blocks = [layer for layer in layers if layer.execution == "blocks"]
    assert all(layer.integer and layer.kernel == "MatMulNBits" for layer in blocks)
    assert len(blocks) == (len(PRODUCTS) if base.fits_int8 or weights == "uint8" else 0)
    expected, got = made.reference(), made.outputs()
    for name in every_site.OUTPUTS:
        if name in TABLES:
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-6, atol=1e-7)
        else:
            assert sqnr_db(expected[name], got[name]) > (30 if blocks and name in PRODUCTS else 100), name
    check_stored(made, ("table", "positions", "tied") if blocks else ("table", "positions"))


@pytest.mark.parametrize("tolerance", [0.02, 0.005])
@pytest.mark.parametrize(
    ("weights", "group"),
    [("int4", "32"), ("uint4", "16"), ("int4", "tensor"), ("uint4", "tensor"), ("uint2", None), ("int3", None)],
)
def test_points_alone(monkeypatch: pytest.MonkeyPatch, weights: str, group: str | None, tolerance: float) -> None:
    """Rows of one narrower point, and rows of one and of several."""
    made = quantized(monkeypatch, network(), weights=weights, group=group, tolerance=tolerance)
    layers = [layer for layer in made.result.report.layers if layer.computes]
    assert len({mix for layer in layers for mix in layer.mixes}) > 1
    blocks = [layer for layer in layers if layer.execution == "blocks"]
    assert len(blocks) == len(PRODUCTS)
    assert all(layer.integer and layer.kernel == "MatMulNBits" for layer in blocks)
    expected, got = made.reference(), made.outputs()
    for name in every_site.OUTPUTS:
        if name in TABLES:
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-6, atol=1e-7)
        else:
            assert sqnr_db(expected[name], got[name]) > (30 if name in PRODUCTS else 100), name
    check_stored(made, ("table", "positions", "tied"))


DYNAMIC, STATIC = "dynamic", "uint8"


@pytest.mark.parametrize(
    "options",
    [
        {"weights": "int8", "activations": STATIC},
        {"weights": "int4", "activations": STATIC, "group": "32"},
        {"weights": "uint4", "activations": STATIC, "group": "tensor"},
        {"weights": "uint4", "activations": DYNAMIC, "group": "16"},
        {"weights": "fp4_e2m1", "activations": STATIC, "group": "32"},
        {"weights": "pot4", "activations": DYNAMIC, "portable": True},
        {"weights": "int8", "activations": STATIC, "portable": True, "group": "tensor", "method": "gptq"},
        {"weights": "uint2", "activations": DYNAMIC, "method": "gptq"},
        {"weights": "int4", "activations": STATIC, "group": "32", "method": "multipoint", "bits": 5.5},
        {"weights": "uint4", "activations": DYNAMIC, "group": "tensor", "method": "multipoint", "bits": 5.5},
        {"weights": "uint2", "activations": STATIC, "group": "16", "method": "multipoint", "tolerance": 0.02},
        {"weights": "mxfp6", "activations": "fp8_e4m3fn"},
        {"weights": "nf4", "activations": "fp8_e5m2", "group": "16", "method": "gptq"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_activations_too(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    made = quantized(monkeypatch, network(), feeds(16), **{"method": "rtn", **options})
    integer = options["activations"] in (STATIC, DYNAMIC)
    for layer in made.result.report.layers:
        if layer.op in ("Gemm", "MatMul") or (layer.op == "Conv" and options["activations"] == STATIC):
            assert layer.integer == integer, layer
    expected, got = made.reference(), made.outputs()
    for name in every_site.OUTPUTS:
        if name in TABLES:
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-6, atol=1e-7)
        else:
            least = 20 if options["activations"] == "fp8_e5m2" else 28
            alone = name in ("lstm", "gru", "rnn") or (
                name in ("conv", "grouped") and options["activations"] == DYNAMIC
            )
            assert sqnr_db(expected[name], got[name]) > (100 if alone else least), name
    assert computed_at_every_call(made.optimized()) == []


@pytest.mark.parametrize("weights", ["int4", "uint8", "mxfp4", "fp8_e4m3fn"])
def test_a_tied_table_is_stored_once(monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    made = quantized(monkeypatch, network(), method="rtn", weights=weights)
    site = next(site for site in made.model.sites if "tied" in site.weight)
    assert [use.lookup for use in site.uses] == [False, True]
    stored = made.result.model.graph.initializer
    planes = [tensor for tensor in stored if tensor.name.startswith(f"{site.name}/plane")]
    bits = 4 if planes[0].data_type == onnx.TensorProto.INT4 else 8
    assert sum(np.prod(tensor.dims) * bits for tensor in planes) <= 8 * 48 * 40
    assert sum(np.prod(tensor.dims) == 48 * 40 for tensor in stored) == len(planes)
