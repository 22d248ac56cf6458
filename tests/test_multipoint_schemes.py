"""Points on any integers: in groups, with zero points, with one scale; and what the written file computes of them."""

from __future__ import annotations

import tempfile

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from schemes import ALL, curvature, gaussian, inputs, members

from ptq import formats
from ptq.errors import OptionError
from ptq.formats import INT8_MAX, PORTABLE_MAX
from ptq.formats.integer import IntFormat
from ptq.ladder import Ladder
from ptq.lowering.builder import Builder
from ptq.lowering.weights import float_weight, int8_weight
from ptq.method import Request
from ptq.methods.multipoint import Multipoint
from ptq.model.prepare import ir_version
from ptq.qtensor import QTensor
from ptq.scheme import Scheme
from ptq.solve import Curvature

INTEGERS = {name: how for name, how in ALL.items() if isinstance(how.format, IntFormat)}
SHAPE = (10, 8, 3, 3)


def ladder(how: Scheme, *, portable: bool = False, nearest: bool = False) -> Ladder:
    """All sizes of a weight, rows of 72 columns, no multiple of any group but 8."""
    weight, curve = gaussian(2, 5, 72), curvature(inputs(200, 72), 2)
    if nearest:
        curve = Curvature.unknown(2, 72)
    request = Request(how, has_data=not nearest, portable=portable, options={"tolerance": 0.1})
    return Multipoint.of(request).ladder(weight, curve)


def mixed(made: Ladder) -> QTensor:
    """Every row on another rung than its neighbours."""
    return made.pick(torch.arange(10) % len(made.rungs))


@pytest.mark.parametrize("name", INTEGERS)
def test_points_are_numbers_of_their_formats(name: str) -> None:
    how, made = INTEGERS[name], ladder(INTEGERS[name])
    assert made.rungs[made.base][0].format == how.format
    for points in made.rungs:
        assert len({term.blocks for term in points}) == 1
        for term in points:
            assert members(term.values, term.format)
            assert (term.zero_point is None) == how.symmetric
            assert term.zero_point is None or members(term.zero_point, term.format)
            assert not how.per_tensor or (term.scale == term.scale[0]).all()
        weight = QTensor(points, made.shape)
        assert weight.integer_ratios() is not None
        assert weight.digits_fit_int8 or how.format.name == "uint8"
        if how.fits_int8:
            assert weight.fits_int8
    base = made.rungs[made.base][0].blocks
    assert (base is None) == (how.group is None)
    assert base is None or base.format == how.factors


@pytest.mark.parametrize("name", INTEGERS)
def test_larger_sums_have_smaller_errors(name: str) -> None:
    made = ladder(INTEGERS[name])
    error = made.error.double().sum(1)
    assert (error.diff() < 0).all(), error
    bits = [made.row_bits(rung) for rung in range(len(made.rungs))]
    assert bits == sorted(bits)


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("name", [name for name, how in INTEGERS.items() if how.fits_int8 and how.limit <= 63])
def test_sums_are_integers_that_kernels_take(name: str, *, portable: bool) -> None:
    most = PORTABLE_MAX if portable else INT8_MAX
    how = INTEGERS[name]
    if how.factors is not None and how.limit * how.factors.max > most:
        return
    weight = mixed(ladder(how, portable=portable))
    assert weight.fits_int8
    assert weight.integers().abs().max() <= most


@pytest.mark.parametrize("name", INTEGERS)
def test_rows_are_those_of_their_rungs(name: str) -> None:
    made = ladder(INTEGERS[name])
    weight = mixed(made)
    for n, points in enumerate(made.rungs):
        here = torch.arange(10) % len(made.rungs) == n
        assert torch.equal(weight.dequantize()[here], QTensor(points, made.shape).dequantize()[here])


@pytest.mark.parametrize("name", INTEGERS)
def test_factors_are_counted_once_a_row(name: str) -> None:
    made = ladder(INTEGERS[name])
    weight = mixed(made)
    bits = 0
    for row in range(10):
        points = made.rungs[row % len(made.rungs)]
        blocks = points[0].blocks
        bits += sum(term.format.bits * (72 + (0 if term.zero_point is None else term.groups)) for term in points)
        bits += 0 if blocks is None else blocks.format.bits * points[0].groups
    assert weight.value_bits == bits
    assert bits == sum(made.row_bits(row % len(made.rungs)) for row in range(10))


def rebuilt(weight: QTensor, opset: int, *, integer: bool) -> np.ndarray:
    """What ONNX Runtime folds a weight to, as float32."""
    anchor = ir.node("Identity", [ir.val("x", ir.DataType.FLOAT, ir.Shape([1]))], name="anchor")
    graph = ir.Graph([anchor.inputs[0]], [], nodes=[anchor], opset_imports={"": opset}, name="weights")
    anchor.outputs[0].name, anchor.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    builder = Builder(graph, anchor, "w")
    if integer:
        made = int8_weight(builder, weight, SHAPE)
        kinds = ((made.integers, ir.DataType.INT8), (made.scale, ir.DataType.FLOAT))
    else:
        kinds = ((float_weight(builder, weight, SHAPE), ir.DataType.FLOAT),)
    for value, kind in kinds:
        value.type = ir.TensorType(kind)
        graph.outputs.append(value)
    options = onnxruntime.SessionOptions()
    content = ir.to_proto(ir.Model(graph, ir_version=ir_version(opset))).SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        left = {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}
    assert left <= {"Identity"}, "the weight would be rebuilt at every call"
    found = session.run(None, {"x": np.zeros(1, np.float32)})
    assert found[0].shape == SHAPE
    rows = found[0].reshape(10, 72).astype(np.float32)
    return rows * found[1][:, None] if integer else rows


@pytest.mark.parametrize("opset", [21, 25])
@pytest.mark.parametrize("name", INTEGERS)
def test_files_hold_what_was_found(name: str, opset: int) -> None:
    made = ladder(INTEGERS[name], nearest=True)
    for weight in (mixed(made), made.pick(made.all_on(made.base)), made.pick(made.all_on(99))):
        assert np.array_equal(rebuilt(weight, opset, integer=False), weight.dequantize().numpy())
        if weight.fits_int8:
            assert np.array_equal(rebuilt(weight, opset, integer=True), weight.dequantize().numpy())


@pytest.mark.parametrize("name", ["fp4_e2m1", "nf4", "pot4", "posit8_2"])
def test_only_integers_have_points(name: str) -> None:
    with pytest.raises(OptionError, match=rf"points of integers, not of {name}; use --method gptq"):
        Multipoint.of(Request(Scheme(formats.get(name))))


@pytest.mark.parametrize("name", ["int4-32", "uint4-channel", "int4-tensor"])
def test_greedy_points_have_a_scale_a_channel(name: str) -> None:
    with pytest.raises(OptionError, match=r"greedy points are signed .*; use --search radix"):
        Multipoint.of(Request(INTEGERS[name], options={"search": "greedy"}))


@pytest.mark.parametrize(("bits", "first"), [(3.5, "int3"), (4.1, "int3"), (4.25, None), (2.0, "int3")])
def test_rows_are_narrower_where_that_is_what_bits_ask_for(bits: float, first: str | None) -> None:
    made = Multipoint.of(Request(INTEGERS["int4-channel"], options={"bits": bits}))
    assert (made.first.name if made.first else None) == first
    assert Multipoint.of(Request(INTEGERS["int8-channel"], options={"bits": bits})).first is None
