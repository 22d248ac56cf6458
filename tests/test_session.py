"""Weights are handed to ONNX Runtime as they are, and live as long as the session."""

from __future__ import annotations

import gc

import graphs
import numpy as np
import onnx_ir as ir

from ptq.model.graph import Model
from ptq.model.session import Session


def test_weights_that_are_handed_over_are_those_of_the_file() -> None:
    proto = graphs.model("h = MatMul (x, w0) y = Gemm (h, w1, b)", "float[n, 64] x", "float[n, 32] y",
                         {"w0": (64, 64), "w1": (64, 32), "b": (32,)})  # fmt: skip
    feeds = {"x": np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)}
    model = Model(ir.from_proto(proto))
    changed = model.with_initializers({"w0": model.initializer("w0") * np.float32(2)})
    session, expected = changed.session(), 2 * Session(proto.SerializeToString()).run(feeds)[0]
    del changed
    gc.collect()
    held = [np.full((64, 64), np.nan, np.float32) for _ in range(64)]  # what was freed is written over
    np.testing.assert_allclose(session.run(feeds)[0] + model.initializer("b"), expected, rtol=1e-4, atol=1e-4)
    assert held


def test_weights_in_memory_order_of_their_transpose() -> None:
    proto = graphs.model("y = MatMul (x, w)", "float[n, 64] x", "float[n, 48] y", {"w": (64, 48)})
    model, x = Model(ir.from_proto(proto)), np.eye(64, dtype=np.float32)
    weight = np.asfortranarray(model.initializer("w"))
    (got,) = Model(model.with_initializers({"w": weight}).graph).session().run({"x": x})
    np.testing.assert_array_equal(got, weight)
