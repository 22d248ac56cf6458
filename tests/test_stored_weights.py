"""What ONNX Runtime rebuilds from stored planes, scales and rows is the weight, bit for bit."""

from __future__ import annotations

import tempfile

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from ptq import formats, scales
from ptq.ladder import Ladder
from ptq.lowering.builder import Builder
from ptq.lowering.execution import Execution
from ptq.lowering.weights import int8_weight, regrid, stored_bytes, stored_weight
from ptq.method import Request
from ptq.methods.multipoint import Multipoint
from ptq.methods.ocs import Ocs
from ptq.model.graph import Model
from ptq.model.prepare import ir_version
from ptq.qtensor import QTensor, Term, places_bits
from ptq.scheme import Scheme
from ptq.solve import Curvature

SHAPES = [(40, 3, 3, 3), (300, 5), (1, 1), (7, 13)]


def ladder(shape: tuple[int, ...], base: str, *, spread: float = 1.0) -> Ladder:
    """All sizes of a random weight; rows differ in size by up to `spread` octaves."""
    rows = torch.randn(1, shape[0], int(np.prod(shape[1:])), generator=torch.Generator().manual_seed(1))
    rows *= 2.0 ** torch.linspace(0, -spread, shape[0])[:, None]
    method = Multipoint.of(Request(Scheme(formats.get(base)), options={"tolerance": 0.1}))
    return method.ladder(rows, Curvature.unknown(1, rows.shape[-1]))


def anchored(opset: int) -> tuple[ir.Graph, ir.Node]:
    """A graph for the nodes of weights, in front of its only node."""
    anchor = ir.node("Identity", [ir.val("x", ir.DataType.FLOAT, ir.Shape([1]))], name="anchor")
    return ir.Graph([anchor.inputs[0]], [], nodes=[anchor], opset_imports={"": opset}, name="weights"), anchor


def rebuilt(weight: QTensor, shape: tuple[int, ...], opset: int, *, fold: bool) -> tuple[np.ndarray, np.ndarray]:
    """The integers and scales that ONNX Runtime computes from a file."""
    graph, anchor = anchored(opset)
    made = int8_weight(Builder(graph, anchor, "w"), weight, shape)
    anchor.outputs[0].name, anchor.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    for value, kind in ((made.integers, ir.DataType.INT8), (made.scale, ir.DataType.FLOAT)):
        value.type = ir.TensorType(kind)
        graph.outputs.append(value)
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if fold else levels.ORT_DISABLE_ALL
    content = ir.to_proto(ir.Model(graph, ir_version=ir_version(opset))).SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        left = {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}
    assert left <= {"Identity"} or not fold, "the weight would be rebuilt at every call"
    integers, scale = session.run(None, {"x": np.zeros(1, np.float32)})
    return integers, scale


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize(("base", "opset"), [("int4", 21), ("int4", 25), ("int3", 25), ("int3", 21), ("int2", 21)])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_every_size(shape: tuple[int, ...], base: str, opset: int, *, fold: bool) -> None:
    made = ladder(shape, base)
    generator = torch.Generator().manual_seed(2)
    for rung in (
        *map(made.all_on, range(len(made.rungs))),
        torch.randint(0, len(made.rungs), shape[:1], generator=generator),
    ):
        weight = made.pick(rung)
        integers, scale = rebuilt(weight, shape, opset, fold=fold)
        assert integers.dtype == np.int8
        assert np.array_equal(integers.reshape(shape[0], -1), weight.integers().numpy())
        assert np.array_equal(scale, weight.finest_scale().numpy())


@pytest.mark.parametrize("more", [1, 30, 200, 299])
def test_few_and_many_rows_with_more_points(more: int) -> None:
    made = ladder((300, 5), "int4")
    assert [len(points) for points in made.rungs] == [1, 1, 1, 2, 2]
    rung = 1 + (torch.randperm(300, generator=torch.Generator().manual_seed(more)) < more).long() * 3
    weight = made.pick(rung)
    assert places_bits((rung > 1).nonzero()[:, 0], 300) == min(16 * more, 300)
    assert weight.storage_bits == 4 * 5 * (300 + more) + min(16 * more, 300) + 8 * 300
    assert np.array_equal(rebuilt(weight, (300, 5), 21, fold=True)[0], weight.integers().numpy())


@pytest.mark.parametrize("more", [1, 30, 150])
def test_rows_whose_only_point_is_narrower_are_named_too(more: int) -> None:
    made = ladder((300, 5), "int4")
    rung = torch.ones(300, dtype=torch.int64)
    rung[:more] = 0
    weight = made.pick(rung)
    assert weight.mixes == {"int3": more, "int4": 300 - more}
    named = sum(min(16 * rows, 300) for rows in (more, 300 - more))
    assert weight.storage_bits == 5 * (4 * 300 - more) + named + 8 * 300
    for fold in (False, True):
        assert np.array_equal(rebuilt(weight, (300, 5), 21, fold=fold)[0], weight.integers().numpy())


@pytest.mark.parametrize(("base", "opset"), [("int4", 21), ("int3", 21), ("int2", 25)])
@pytest.mark.parametrize("shape", [*SHAPES, (9, 300)])
def test_columns_in_several_copies(shape: tuple[int, ...], base: str, opset: int) -> None:
    """Some columns, as indices or bits, added to all of them; it folds into one int8 weight."""
    rows = torch.randn(1, shape[0], int(np.prod(shape[1:])), generator=torch.Generator().manual_seed(1))
    made = Ocs(Scheme(formats.get(base))).ladder(rows, Curvature.unknown(1, rows.shape[-1]))
    for rung in range(len(made.rungs)):
        weight = made.pick(made.all_on(rung))
        integers, scale = rebuilt(weight, shape, opset, fold=True)
        assert np.array_equal(integers.reshape(shape[0], -1), weight.integers().numpy())
        assert np.array_equal(scale, weight.finest_scale().numpy())


@pytest.mark.parametrize("integer", [False, True])
def test_rows_of_which_some_columns_have_another_point(*, integer: bool) -> None:
    """Rows and columns at once, with another scale or the same: in float, and in int8."""
    generator, fmt = torch.Generator().manual_seed(3), formats.get("int3")
    values = torch.randint(-3, 4, (20, 6), generator=generator)
    scale, rows, columns = torch.full((20,), 7.0), torch.tensor([2, 11, 19]), torch.tensor([0, 4])
    second = Term(values[rows][:, columns].flip(0), scale[rows] / (7 if integer else 2.5), fmt, rows, columns=columns)
    weight = QTensor((Term(values, scale, fmt), second), (20, 6))
    integers, scales = rebuilt(weight, (20, 3, 2), 21, fold=True)
    assert weight.fits_int8 == integer
    got = integers.reshape(20, 6) * scales[:, None]
    assert np.abs(got - weight.dequantize().numpy()).max() <= (0 if integer else 0.51 * scales.max())


def test_sums_without_a_ratio_store_nothing_of_the_grid_they_are_brought_to() -> None:
    rows = torch.randn(1, 24, 18, generator=torch.Generator().manual_seed(4))
    rows[0, 7] = 0.0
    rows[0, 9] *= 1e-38
    method = Multipoint(Scheme(formats.get("int4")), search="greedy", rounding="nearest")
    weight = method.ladder(rows, Curvature.unknown(1, 18)).pick(torch.arange(24) % 3)
    assert weight.integer_ratios() is None
    graph, anchor = anchored(21)
    made = int8_weight(Builder(graph, anchor, "w"), weight, (24, 2, 3, 3))
    assert 8 * stored_bytes(Model(ir.Model(graph, ir_version=10)), "w") == weight.storage_bits
    scale, dense = regrid(weight)
    for fold in (False, True):
        integers, scales = rebuilt(weight, (24, 2, 3, 3), 21, fold=fold)
        assert scales == pytest.approx(made.scales, rel=1e-6)
        assert np.array_equal(made.scales, scale.numpy())
        assert integers.reshape(24, 18) * scales[:, None] == pytest.approx(dense.numpy(), rel=1e-6)
    assert scale[7] == scale[9] == 1
    assert not dense[7].any()
    assert torch.equal(stored_weight(weight, Execution.STATIC), dense)
    assert torch.equal(stored_weight(weight, Execution.WEIGHTS), weight.dequantize())


@pytest.mark.parametrize(("spread", "bits"), [(1.0, 8), (4.5, 8), (11.0, 16)])
def test_scales_take_eight_bits_unless_rows_are_far_apart(spread: float, bits: int) -> None:
    made = ladder((64, 12), "int4", spread=spread)
    weight = made.pick(torch.arange(64) % len(made.rungs))
    assert scales.storage_bits(weight.finest_scale()) == 64 * bits
    assert np.array_equal(rebuilt(weight, (64, 12), 21, fold=True)[1], weight.finest_scale().numpy())


def test_rows_that_training_left_for_dead_do_not_cost_the_others_their_precision() -> None:
    """A row 2^-30 of the rest is rounded on the smallest scale there is; the others keep eight-bit scales."""
    made = ladder((64, 12), "int4", spread=0.0)
    with_dead = torch.randn(1, 64, 12, generator=torch.Generator().manual_seed(1))
    with_dead[0, 5] *= 2.0**-30
    method = Multipoint(Scheme(formats.get("int4")), rounding="nearest")
    weight = method.ladder(with_dead, Curvature.unknown(1, 12)).pick(made.all_on(0))
    assert scales.storage_bits(weight.finest_scale()) == 64 * 8
    assert weight.dequantize()[5].abs().max() <= with_dead[0, 5].abs().max() + weight.finest_scale().min()


def test_eight_bit_scales_are_found_again() -> None:
    scale = torch.tensor([1.0, 1.046875, 3.0e-3, 7.25])
    grid = scales.ScaleGrid.spanning(1e-3, 8.0)
    snapped = grid.snap(scale)
    assert (snapped / scale - 1).abs().max() < 2 ** (1 / 32) - 1 + 2**-8
    found = scales.coded(snapped)
    assert found is not None
    values = torch.tensor(scales.LOGARITHMIC.values)
    assert torch.equal(values[found.codes.long()] * found.unit, snapped)


@pytest.mark.parametrize("scale", [[1.0, 1 / 3], [1.0, 0.0], [1.0, -1.0], [1.0, 2.0**-17], [1.0, float("inf")], []])
def test_other_scales_are_not_eight_bit_scales(scale: list[float]) -> None:
    assert scales.coded(torch.tensor(scale)) is None


def test_a_grid_goes_back_to_bfloat16_when_scales_are_too_far_apart() -> None:
    assert scales.ScaleGrid.spanning(1e-9, 1.0).unit is None
    assert scales.ScaleGrid.spanning(1e-38, 1e-37).unit is None
    assert torch.equal(scales.ScaleGrid().snap(torch.tensor([0.0, 0.3])), torch.tensor([1.0, 0.30078125]))
