"""Weights in groups and by blocks, from the weight to what the written file computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphs import model

import ptq
from ptq.report import LayerReport, Report

RNG = np.random.default_rng(5)


def quantized(columns: int, rows: int, **options: Any) -> tuple[Report, LayerReport]:
    """A matrix product of any size, on what it was calibrated on."""
    proto = model("y = MatMul(x, w)", f"float[n, {columns}] x", f"float[n, {rows}] y", {"w": (columns, rows)})
    x = RNG.standard_normal((48, columns)).astype(np.float32)
    report = ptq.quantize(onnx.ModelProto.FromString(proto.SerializeToString()), {"x": x}, **options).report
    return report, report.layers[0]


def follows(report: Report, layer: LayerReport) -> None:
    """The error of the output is that of the weights, give or take the inputs'."""
    assert report.accuracy is not None
    assert report.accuracy.sqnr_db is not None
    assert layer.weight_sqnr_db is not None
    assert abs(report.accuracy.sqnr_db - layer.weight_sqnr_db) < 3


@pytest.mark.parametrize("weights", ["mxfp8", "mxfp6", "mxfp4", "mxint8", "nvfp4"])
def test_block_formats(weights: str) -> None:
    report, layer = quantized(96, 16, method="rtn", weights=weights, activations="none")
    follows(report, layer)
    assert (layer.execution == "weights") == (weights == "mxfp8")


@pytest.mark.parametrize("weights", ["int7", "fp6_e2m3", "int6", "int5"])
def test_factors_of_groups_in_integers_of_every_width(weights: str) -> None:
    follows(*quantized(96, 16, method="rtn", weights=weights, group="32", activations="uint8"))


@pytest.mark.parametrize("rows", [10, 12])
@pytest.mark.parametrize("group", ["channel", "32"])
@pytest.mark.parametrize("weights", ["int2", "uint2"])
def test_two_bits_and_any_number_of_rows(weights: str, group: str, rows: int) -> None:
    report, layer = quantized(96, rows, method="rtn", weights=weights, group=group, activations="none")
    follows(report, layer)
    assert layer.kernel == "MatMulNBits"
    assert layer.integer


@pytest.mark.parametrize(
    ("activations", "kernel"), [("none", "MatMulNBits"), ("uint8", "QGemm"), ("dynamic", "DynamicQuantizeMatMul")]
)
@pytest.mark.parametrize("group", ["channel", "tensor", "32"])
@pytest.mark.parametrize("weights", ["int2", "int4", "uint2", "uint4"])
def test_points_in_every_kernel(weights: str, group: str, activations: str, kernel: str) -> None:
    """Rows of one point and of several, in each of the ways that products are computed in."""
    how = {"group": group, "activations": activations, "rounding": "nearest"}
    report, layer = quantized(96, 24, weights=weights, bits=1.4 * int(weights[-1]), **how)
    follows(report, layer)
    assert len(layer.mixes) > 1
    assert layer.integer
    assert layer.kernel == kernel
