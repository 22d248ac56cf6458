"""What is left of a network behind a cut gives the outputs of the whole, wherever the cut is."""

from __future__ import annotations

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ptq.model.front import Front
from ptq.model.graph import Model

SHAPES = {"w0": (6, 6), "w1": (6, 6), "w2": (6, 6), "w3": (6, 6)}
BRANCHES = """
    a = MatMul (x, w0)
    early = Relu (a)
    b = MatMul (a, w1)
    positive = ReduceMax <keepdims = 0> (b)
    zero = Constant <value_float = 0.0> ()
    yes = Greater (positive, zero)
    c = If (yes) <
        then_branch = positively () => (float[n, 6] d) { d = MatMul (a, w2) },
        else_branch = otherwise () => (float[n, 6] e) { e = Identity (b) }
    >
    y = Add (c, a)
    late = MatMul (y, w0)
"""
IN_PAIRS = """
    a = MatMul (x, w0)
    pair = SequenceConstruct (a, x)
    b = MatMul (a, w1)
    one = Constant <value_int = 1> ()
    c = SequenceAt (pair, one)
    d = Add (b, c)
    y = MatMul (d, w2)
"""
NETWORKS = {
    "branches": (BRANCHES, "float[n, 6] early, float[n, 6] late", ["w0", "w1", "w2"]),
    "sequences": (IN_PAIRS, "float[n, 6] y", ["w0", "w1", "w2"]),
}


def network(name: str) -> Model:
    nodes, outputs, weights = NETWORKS[name]
    made = graphs.model(nodes, "float[n, 6] x", outputs, {each: SHAPES[each] for each in weights})
    return Model(ir.from_proto(onnx.shape_inference.infer_shapes(made)))


def batches() -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    return [{"x": generator.standard_normal((count, 6)).astype(np.float32)} for count in (4, 3)]


def check(model: Model, front: Front, weight: str) -> None:
    changed = {weight: model.initializer(weight) * np.float32(1.5)}
    front.move(changed)
    whole, rest = model.with_initializers(changed).session(), front.rest(changed)
    assert rest is not None
    for feeds, crossing in zip(batches(), front.crossing, strict=True):
        expected = dict(zip(whole.outputs, whole.run(feeds), strict=True))
        for name, got in zip(rest.outputs, rest.run(crossing), strict=True):
            np.testing.assert_allclose(got, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("branches", ["w0", "w1", "w2"]),
        ("branches", ["w2", "w1", "w0"]),  # back to the inputs
        ("sequences", ["w0", "w1", "w2"]),
    ],
)
def test_the_rest_is_that_of_the_whole(name: str, order: list[str]) -> None:
    model = network(name)
    front = Front(model, batches())
    for weight in order:
        check(model, front, weight)


def test_only_what_crosses_is_held() -> None:
    front = Front(network("branches"), batches())
    front.move(["w1"])
    assert set(front.crossing[0]) == {"a"}
    front.move(["w2"])
    assert set(front.crossing[0]) == {"a", "b", "yes"}


def test_a_cut_where_a_sequence_crosses_is_not_made() -> None:
    front = Front(network("sequences"), batches())
    front.move(["w1"])
    assert set(front.crossing[0]) == {"x", "a"}  # before the sequence is made of them
    front.move(["w2"])
    assert set(front.crossing[0]) == {"d"}


def test_outputs_that_are_known_are_not_computed_again() -> None:
    model = network("branches")
    front = Front(model, batches())
    front.move(["w2"])
    rest = front.rest({})
    assert rest is not None
    assert rest.outputs == ("late",)


def test_behind_the_last_output_is_nothing() -> None:
    model = Model(
        ir.from_proto(graphs.model("y = MatMul (x, w0) z = MatMul (y, w1)", "float[n, 6] x", "float[n, 6] y",
                                   {"w0": (6, 6), "w1": (6, 6)}))
    )  # fmt: skip
    front = Front(model, batches())
    front.move(["w1"])
    assert front.rest({"w1": np.zeros((6, 6), np.float32)}) is None
