"""One network with a branch for every kind of site, quantized without the measurements that take long."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import ptq
from ptq.audit import Latency
from ptq.lowering import SiteLowering, lower
from ptq.model.graph import Model
from ptq.model.session import Session
from ptq.pipeline import Result

INPUTS = "float[n, 4, 6, 6] image, float[n, 40] row, float[n, 3, 40] seq, int64[n, t] ids"
NODES = """
    conv = Conv <pads = [1, 1, 1, 1]> (image, wc, bc)
    grouped = Conv <group = 2> (image, wg)
    gemm = Gemm (row, w0, b0)
    gemmt = Gemm <transB = 1> (row, w1, b1)
    flat = MatMul (row, w2)
    deep0 = MatMul (seq, w3)
    deep = Add (deep0, b3)
    taken = Gather (table, ids)
    zero = Constant <value_ints = [0]> ()
    length = Shape <start = 1> (ids)
    cut = Slice (positions, zero, length, zero)
    known = Gather (tied, ids)
    scores = MatMul (seq, tied_columns)
    turn = Transpose <perm = [1, 0, 2]> (seq)
    lstm = LSTM <hidden_size = 8> (turn, wl, rl)
    gru = GRU <hidden_size = 8> (turn, wu, ru)
    rnn = RNN <hidden_size = 8> (turn, wr, rr)
"""
OUTPUTS = {
    "conv": "n, 8, 6, 6", "grouped": "n, 6, 4, 4", "gemm": "n, 24", "gemmt": "n, 24", "flat": "n, 24",
    "deep": "n, 3, 24", "taken": "n, t, 40", "cut": "t, 40", "known": "n, t, 40", "scores": "n, 3, 48",
    "lstm": "3, 1, n, 8", "gru": "3, 1, n, 8", "rnn": "3, 1, n, 8",
}  # fmt: skip
WEIGHTS = {
    "wc": (8, 4, 3, 3), "bc": (8,), "wg": (6, 2, 3, 3), "w0": (40, 24), "b0": (24,), "w1": (24, 40), "b1": (24,),
    "w2": (40, 24), "w3": (40, 24), "b3": (24,), "table": (50, 40), "positions": (20, 40), "tied": (48, 40),
    "wl": (1, 32, 40), "rl": (1, 32, 8), "wu": (1, 24, 40), "ru": (1, 24, 8), "wr": (1, 8, 40), "rr": (1, 8, 8),
}  # fmt: skip
TABLES = ("taken", "cut", "known")


def network() -> onnx.ModelProto:
    outputs = ", ".join(f"float[{shape}] {name}" for name, shape in OUTPUTS.items())
    model = graphs.model(NODES, INPUTS, outputs, {**WEIGHTS, "tied_columns": (1, 1)})
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    turned = np.ascontiguousarray(numpy_helper.to_array(stored["tied"]).T)
    stored["tied_columns"].CopyFrom(numpy_helper.from_array(turned, "tied_columns"))
    return model


def feeds(count: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {"image": (count, 4, 6, 6), "row": (count, 40), "seq": (count, 3, 40)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return {**arrays, "ids": rng.integers(0, 48, (count, 3))}


@dataclass(frozen=True)
class Made:
    """A result, and what was lowered."""

    result: Result
    model: Model
    sites: Mapping[str, SiteLowering]

    def reference(self, data: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """The outputs of the float network with the weights as they were quantized."""
        arrays: dict[str, np.ndarray] = {}
        for site in self.model.sites:
            how = self.sites[site.name]
            weight = how.numbers()
            if weight is None:
                continue
            dense = weight.dequantize().numpy()
            arrays[site.weight] = site.tensor(dense)
            if "tied" in site.weight:
                arrays |= {"tied": dense, "tied_columns": np.ascontiguousarray(dense.T)}
            bias = site.uses[0].bias
            if how.bias_shift is not None and bias is not None:
                old = self.model.initializer(bias)
                arrays[bias] = old + how.bias_shift.reshape(old.shape)
        session = self.model.with_initializers(arrays).session()
        return dict(zip(session.outputs, session.run(data or feeds()), strict=True))

    def outputs(self, data: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Those of the file in ONNX Runtime."""
        session = Session(self.result.content)
        return dict(zip(session.outputs, session.run(data or feeds()), strict=True))

    def optimized(self) -> onnx.GraphProto:
        """The graph that ONNX Runtime made of the file."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            Session(self.result.content, optimized_path=path)
            return onnx.load(path).graph


def quantized(patch: pytest.MonkeyPatch, model: onnx.ModelProto, data: Any = None, **options: Any) -> Made:
    """Quantize, without measuring latency."""
    seen: list[Any] = []

    def spy(model: Model, sites: Mapping[str, SiteLowering], *rest: Any, **more: Any) -> Model:
        seen.extend((model, sites))
        return lower(model, sites, *rest, **more)

    patch.setattr("ptq.pipeline.build.lower", spy)
    audit = sys.modules["ptq.audit.audit"]  # the package has a function of that name
    patch.setattr(audit, "latency", lambda *_: Latency(1.0, 1.0, 1.0))
    return Made(ptq.quantize(model, data, **options), *seen)


def sqnr_db(expected: np.ndarray, got: np.ndarray) -> float:
    noise = float(((expected - got).astype(np.float64) ** 2).sum())
    return float(10 * np.log10(float((expected.astype(np.float64) ** 2).sum()) / noise)) if noise else float("inf")


def computed_at_every_call(graph: onnx.GraphProto) -> list[str]:
    """The nodes of an optimized graph that depend on nothing but what is stored: they should have been folded."""
    stored = {tensor.name for tensor in graph.initializer}
    return [node.op_type for node in graph.node if node.input and all(name in stored for name in node.input if name)]
