"""The histograms of a report, and their grids."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
import torch
from command import Command
from onnx import numpy_helper
from small_folder import Folder

import ptq as package
from calibration.observers import Histogram
from ptq import formats
from ptq.lowering import ActivationGrid
from ptq.pipeline.distributions import activation_report, points_by_part, weight_distribution
from ptq.qtensor import QTensor, Term
from ptq.report import from_json, to_json

INT4 = formats.get("int4")


def made(values: list[list[float]], scales: list[float]) -> QTensor:
    numbers = torch.tensor(values)
    return QTensor((Term(numbers, torch.tensor(scales), INT4),), (len(numbers), numbers.shape[1]))


def test_weights_are_in_steps_of_their_row() -> None:
    quantized = made([[-7.0, 0.0], [3.0, 7.0]], [0.5, 2.0])
    weight = torch.tensor([[-4.0, 0.1], [6.0, 14.5]])
    found = weight_distribution(weight, quantized.dequantize(), quantized)
    assert found is not None
    assert found.grid == (-7.0, 0.0, 3.0, 7.0)
    assert (found.low, found.high) == (-8.0, 7.25)
    assert len(found.counts) == 64
    assert sum(found.counts) == 4
    assert (found.counts[0], found.counts[-1]) == (1, 1)


def test_rows_of_nothing_are_left_out() -> None:
    half = made([[1.0, 2.0], [0.0, 0.0]], [1.0, 0.0])
    found = weight_distribution(half.dequantize(), half.dequantize(), half)
    assert found is not None
    assert sum(found.counts) == 2
    nothing = made([[0.0, 0.0]], [0.0])
    assert weight_distribution(nothing.dequantize(), nothing.dequantize(), nothing) is None


def test_what_is_large_is_thinned() -> None:
    weight = torch.randn(2048, 100, generator=torch.Generator().manual_seed(1))
    quantized = QTensor((Term(weight, torch.ones(2048), INT4),), (2048, 100))
    found = weight_distribution(weight, weight, quantized)
    assert found is not None
    assert sum(found.counts) < weight.numel()
    assert 100 < len(found.grid) <= 257


@pytest.mark.parametrize(
    ("points", "found"),
    [([1, 1, 1], ()), ([1, 2, 3], (1.0, 2.0, 3.0)), ([1] * 64 + [2] * 64, (1.0,) * 32 + (2.0,) * 32)],
)
def test_points_along_the_rows(points: list[int], found: tuple[float, ...]) -> None:
    assert points_by_part(torch.tensor(points)) == found


def steps_of(folder: Folder) -> Mapping[str, float]:
    """The scales by which the file rounds, by the tensor that is rounded."""
    graph = onnx.load(folder.output).graph
    held = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    return {
        node.input[0]: float(held[node.input[1]])
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.input[1] in held
    }


def test_grids_are_those_of_the_file(folder: Folder, ptq: Command) -> None:
    report = folder.path / "report.json"
    done = ptq("quantize", folder.model, "--data", folder.data, "-o", folder.output, "--json", report)
    assert done.code == 0
    activations = json.loads(report.read_text(encoding="utf-8"))["activations"]
    steps = steps_of(folder)
    found = {each["tensor"]: each for each in activations if each["step"] is not None}
    assert {name: each["step"] for name, each in found.items() if name in steps} == {
        name: step for name, step in steps.items() if name in found
    }
    assert len(found) >= 3
    x = np.load(folder.data)["x"]
    assert found["x"]["low"] == pytest.approx(x.min())
    assert found["x"]["high"] == pytest.approx(x.max())
    assert all(len(each["numbers"]["grid"]) == 256 for each in found.values())


def test_a_clipped_range_says_how_much(folder: Folder) -> None:
    seen = Histogram()
    seen.add(np.array([0.0] * 60 + [1.0] * 30 + [4.0] * 10, np.float32))
    found = activation_report("x", seen, ActivationGrid(0.5, 0, tuple(0.5 * each for each in range(4))))
    assert found.clipped == pytest.approx(0.1)
    assert found.numbers.counts[0] == 60
    assert sum(found.numbers.counts) == 100
    assert activation_report("x", seen, None).clipped is None
    report = package.quantize(folder.model, folder.data).report
    assert from_json(to_json(report)) == report


def test_other_grids_and_none(folder: Folder) -> None:
    fp8 = package.quantize(folder.model, folder.data, method="rtn", weights="int8", activations="fp8_e4m3fn").report
    assert {len(each.numbers.grid) for each in fp8.activations} == {len(formats.get("fp8_e4m3fn").values)}
    dynamic = package.quantize(folder.model, folder.data, method="rtn", weights="int8", activations="none").report
    assert all(each.step is None and each.numbers.grid == () for each in dynamic.activations)
    assert package.quantize(folder.model, method="rtn", weights="int8", activations="none").report.activations == ()
