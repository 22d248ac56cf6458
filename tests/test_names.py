"""Short names of what folds, and no others."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import model
from onnx import helper, numpy_helper
from small_graphs import WEIGHT, network, node, value

import ptq
from ptq.errors import ModelError
from ptq.model.session import Session


def test_what_folds_has_short_names_and_everything_else_keeps_its_own() -> None:
    rng = np.random.default_rng(2)
    proto = model("h = Relu(x)\ny = MatMul(h, w)", "float[n, 64] x", "float[n, 8] y", {"w": (64, 8)})
    x = rng.standard_normal((40, 64)).astype(np.float32)
    made = ptq.quantize(onnx.ModelProto.FromString(proto.SerializeToString()), {"x": x}, bits=5.5).model
    known = {tensor.name for tensor in made.graph.initializer}
    folding = []
    for each in made.graph.node:
        if set(each.input) <= known:
            known |= set(each.output)
            folding.append(each)
        else:
            assert not set(each.output) & {name for other in folding for name in other.output}
    names = [name for node in folding for name in node.output]
    assert len(folding) > 5
    assert names == [f"c{number}" for number in range(len(names))]
    assert not any(node.name for node in folding)
    assert [value.name for value in made.graph.output] == ["y"]
    assert not set(names) & {value.name for value in made.graph.value_info}
    assert Session(made.SerializeToString()).run({"x": x[:2]})[0].shape == (2, 8)


def test_a_name_that_is_taken_is_left_to_its_owner() -> None:
    proto = model("c0 = Relu(x)\ny = MatMul(c0, w)", "float[n, 64] x", "float[n, 8] y", {"w": (64, 8)})
    x = np.random.default_rng(2).standard_normal((40, 64)).astype(np.float32)
    made = ptq.quantize(onnx.ModelProto.FromString(proto.SerializeToString()), {"x": x}).model
    outputs = [name for node in made.graph.node for name in node.output]
    assert "c0" in outputs
    assert len(outputs) == len(set(outputs))


ADDED = ["a/smooth.scale", "a/ptq.highs.axes", "a/dynamic/quantize", "product/plane1", "product/scale", "ptq/axes.2"]
X = np.random.default_rng(2).standard_normal((40, 4)).astype(np.float32) * np.float32([1, 1, 80, 1])


def named(name: str, *, weight: bool, output: bool = False) -> onnx.ModelProto:
    """A product beside a weight or value of that name."""
    made = node("Add", ["x", name], ["b"]) if weight else node("Neg", ["x"], [name])
    last = node("Add", ["x", "b" if weight else name], ["a"])
    outputs = [value("y", ["n", 3]), *([value(name, [4])] if output else [])]
    product = node("MatMul", ["a", "w"], ["y"], name="product")
    return network([made, last, product], {name: np.ones(4, np.float32)} if weight else {}, outputs=outputs)


@pytest.mark.parametrize("name", ADDED)
@pytest.mark.parametrize("weight", [False, True], ids=["value", "weight"])
def test_what_is_called_like_a_part_that_is_added_is_renamed(name: str, weight: bool) -> None:
    proto = named(name, weight=weight)
    before = proto.SerializeToString()
    made = ptq.quantize(proto, {"x": X}, method="rtn", weights="int8", activations="dynamic").content
    assert proto.SerializeToString() == before
    expected, got = (Session(each).run({"x": X})[0] for each in (before, made))
    np.testing.assert_allclose(got, expected, atol=0.02 * np.abs(expected).max())


def test_an_output_keeps_its_name_whatever_it_is() -> None:
    with pytest.raises(ModelError, match=r"the output 'a/smooth.scale' is called like a part that ptq adds"):
        ptq.quantize(named("a/smooth.scale", weight=True, output=True), {"x": X}, method="rtn")


def test_weights_of_a_branch_that_have_a_name_of_the_graph_keep_it_in_the_proto_of_the_caller() -> None:
    inner = [numpy_helper.from_array(WEIGHT, "w")]
    branches = [
        helper.make_graph([node(op, ["w"], ["b"])], "g", [], [value("b", [4, 3])], inner) for op in ("Neg", "Abs")
    ]
    made = node("If", ["c"], ["s"], then_branch=branches[0], else_branch=branches[1])
    nodes = [node("MatMul", ["x", "w"], ["p"]), made, node("MatMul", ["x", "s"], ["q"]), node("Add", ["p", "q"], ["y"])]
    condition = value("c", [], onnx.TensorProto.BOOL)
    proto = network(nodes, {"w": WEIGHT - 1}, inputs=[value("x", ["n", 4]), condition])
    before = proto.SerializeToString()
    ptq.quantize(proto, method="rtn")
    assert proto.SerializeToString() == before
