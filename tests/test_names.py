"""Short names of what folds, and no others."""

from __future__ import annotations

import numpy as np
import onnx
from graphs import model

import ptq
from ptq.model.session import Session


def test_what_folds_has_short_names_and_everything_else_keeps_its_own() -> None:
    rng = np.random.default_rng(2)
    proto = model("h = Relu(x)\ny = MatMul(h, w)", "float[n, 64] x", "float[n, 8] y", {"w": (64, 8)})
    x = rng.standard_normal((40, 64)).astype(np.float32)
    made = ptq.quantize(onnx.ModelProto.FromString(proto.SerializeToString()), {"x": x}, bits=5.5).model
    known = {tensor.name for tensor in made.graph.initializer}
    folding = []
    for node in made.graph.node:
        if set(node.input) <= known:
            known |= set(node.output)
            folding.append(node)
        else:
            assert not set(node.output) & {name for other in folding for name in other.output}
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
