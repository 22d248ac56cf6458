"""What prepare does to a graph, and that the graph still computes the same."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ptq.model.prepare import prepare
from ptq.model.session import Session

IMAGE = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
WEIGHTS = {"w": (4, 3, 3, 3), "b": (4,), "gain": (4,), "shift": (4,), "mean": (4,)}


def network(nodes: str, *, opset: int = 17) -> onnx.ModelProto:
    """A graph from float[n,3,6,6] x to y, its weights random; `var` is all positive."""
    head = f'<ir_version: 8, opset_import: ["" : {opset}]> net (float[n,3,6,6] x) => (float y) '
    made = onnx.parser.parse_model(f"{head}{{ {nodes} }}")
    made.graph.output[0].type.tensor_type.ClearField("shape")
    generator = np.random.default_rng(1)
    arrays = {name: generator.normal(size=shape) for name, shape in WEIGHTS.items()} | {"var": np.full(4, 0.7)}
    used = {name for node in made.graph.node for name in node.input}
    for name, array in arrays.items():
        if name in used:
            made.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return made


def prepared(nodes: str, *, opset: int = 17) -> collections.Counter[str]:
    """The operators of the prepared graph, which has to compute what the graph did."""
    before = network(nodes, opset=opset)
    after = ir.to_proto(prepare(ir.from_proto(before)))
    onnx.checker.check_model(after, full_check=True)
    old, new = (Session(each.SerializeToString()).run({"x": IMAGE})[0] for each in (before, after))
    np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)
    return collections.Counter(node.op_type for node in after.graph.node)


def test_zero_padding_and_batch_normalization_become_part_of_the_convolution() -> None:
    nodes = "z = Constant<value_ints=[0,0,1,2,0,0,1,0]>() p = Pad(x, z) c = Conv(p, w, b)"
    assert prepared(f"{nodes} y = BatchNormalization(c, gain, shift, mean, var)") == {"Conv": 1}


def test_padding_that_an_exporter_computes_from_constants() -> None:
    """As torch's TorchScript exporter writes it: fill with zeros, concatenate, turn around."""
    nodes = """
        have = Constant<value_ints=[0, 1, 0, 1]>() four = Constant<value_ints=[4]>()
        rest = ConstantOfShape(four) rest64 = Cast<to=7>(rest) all = Concat<axis=0>(have, rest64)
        pairs = Constant<value_ints=[-1, 2]>() grid = Reshape(all, pairs)
        start = Constant<value_ints=[-1]>() stop = Constant<value_ints=[-9223372036854775807]>()
        axis = Constant<value_ints=[0]>() step = Constant<value_ints=[-1]>()
        back = Slice(grid, start, stop, axis, step) turned = Transpose<perm=[1, 0]>(back)
        flat = Constant<value_ints=[-1]>() z = Reshape(turned, flat) p = Pad(x, z) y = Conv(p, w, b)
    """
    assert prepared(nodes) == {"Conv": 1}


@pytest.mark.parametrize(
    "padding",
    [
        'z = Constant<value_ints=[0,0,1,1,0,0,1,1]>() p = Pad<mode="reflect">(x, z)',
        "z = Constant<value_ints=[0,0,1,1,0,0,1,1]>() v = Constant<value_float=2.0>() p = Pad(x, z, v)",
        "z = Constant<value_ints=[0,0,-1,0,0,0,0,0]>() p = Pad(x, z)",
        "z = Constant<value_ints=[1,0,1,1,0,0,1,1]>() p = Pad(x, z)",
    ],
)
def test_other_padding_stays(padding: str) -> None:
    assert prepared(f"{padding} y = Conv(p, w, b)") == {"Pad": 1, "Conv": 1}


def test_padding_that_another_node_reads_stays_for_it() -> None:
    nodes = (
        "z = Constant<value_ints=[0,0,1,1,0,0,1,1]>() p = Pad(x, z) c = Conv(p, w, b) m = ReduceMax(p) y = Add(c, m)"
    )
    assert prepared(nodes) == {"Pad": 1, "Conv": 1, "ReduceMax": 1, "Add": 1}


AXES = "axes = Constant<value_ints=[1, 2]>() s = Unsqueeze(gain, axes) t = Unsqueeze(shift, axes)"


@pytest.mark.parametrize(
    "nodes",
    [
        "c = Conv(x, w, b) m = Mul(c, s) y = Add(t, m)",
        "c = Conv(x, w) m = Mul(s, c) y = Add(m, t)",
        "c = Conv(x, w, b) n = BatchNormalization(c, gain, shift, mean, var) m = Mul(n, s) y = Add(m, t)",
        "c = Conv(x, w) a = Add(c, t) y = Mul(a, s)",
        "two = Constant<value_float=2.0>() c = Conv(x, w) m = Mul(c, two) y = Add(m, two)",
    ],
)
def test_what_scales_the_channels_of_a_convolution_becomes_part_of_it(nodes: str) -> None:
    """As Caffe's BatchNorm, which has no gain, and Scale come out of its converters."""
    assert prepared(f"{AXES} {nodes}") == {"Conv": 1}


def test_what_scales_the_channels_of_a_batch_normalization_becomes_part_of_it() -> None:
    """DenseNet has it before the convolution, where there is nothing else to take it up."""
    nodes = f"{AXES} c = Conv(x, w, b) k = Concat<axis=0>(c, c) n = BatchNormalization(k, gain, shift, mean, var)"
    assert prepared(f"{nodes} m = Mul(n, s) y = Add(m, t)") == {"Conv": 1, "Concat": 1, "BatchNormalization": 1}


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ("c = Conv(x, w, b) y = Mul(c, gain)", {"Conv": 1, "Mul": 1}),  # a number per column: the width is 4 too
        ("c = Conv(x, w, b) m = Mul(c, s) y = Sub(m, c)", {"Conv": 1, "Mul": 1, "Sub": 1}),
        ("a = Conv(x, w, b) m = Mul(a, s) c = Conv(x, w) y = Sub(m, c)", {"Conv": 2, "Mul": 1, "Sub": 1}),
        ("a = Conv(x, w, b) y = Mul(a, a)", {"Conv": 1, "Mul": 1}),
    ],
)
def test_other_products_of_a_convolution_stay(nodes: str, left: dict[str, int]) -> None:
    assert prepared(f"{AXES} {nodes}") == left


@pytest.mark.parametrize(
    ("total", "left"), [("Sum(a, x)", {"Relu": 1, "Add": 1}), ("Sum(a, x, a)", {"Relu": 1, "Sum": 1})]
)
def test_a_sum_of_two_is_an_addition(total: str, left: dict[str, int]) -> None:
    assert prepared(f"a = Relu(x) y = {total}") == left


def test_large_fills_are_not_stored() -> None:
    nodes = (
        "shape = Constant<value_ints=[1, 1, 6, 600]>() fill = ConstantOfShape(shape) s = ReduceSum(fill) y = Add(x, s)"
    )
    assert prepared(nodes)["ConstantOfShape"] == 1


@pytest.mark.parametrize("opset", [7, 12, 17, 21])
def test_every_node_has_a_name_of_its_own(opset: int) -> None:
    made = prepare(ir.from_proto(network("a = Relu(x) c = Relu(a) y = Add(a, c)", opset=opset)))
    names = [node.name for node in made.graph]
    assert len(names) == len(set(names))
    assert all(names)
    assert made.opset_imports[""] == 21


@pytest.mark.parametrize(
    ("axes", "keepdims", "expected"),
    [
        ([2, 3], 1, {"GlobalAveragePool": 1}),
        ([-1, -2], 0, {"GlobalAveragePool": 1, "Flatten": 1}),
        ([1, 2, 3], 1, {"ReduceMean": 1}),
        ([3], 1, {"ReduceMean": 1}),
    ],
)
def test_the_mean_over_all_positions_is_a_pooling(axes: list[int], keepdims: int, expected: dict[str, int]) -> None:
    nodes = f"axes = Constant<value_ints={axes}>() y = ReduceMean<keepdims={keepdims}>(x, axes)"
    assert prepared(nodes, opset=18) == expected


def test_the_mean_within_a_layer_norm_is_left_alone() -> None:
    nodes = """
        flat = Constant<value_ints=[0, 3, 36]>() rows = Reshape(x, flat)
        axes = Constant<value_ints=[2]>() y = ReduceMean<keepdims=1>(rows, axes)
    """
    assert prepared(nodes, opset=18) == {"Reshape": 1, "ReduceMean": 1}
