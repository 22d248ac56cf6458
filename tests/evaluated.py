"""Models of one operator, to evaluate, and what was found of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ptq.evaluate import Accuracy
from ptq.model.session import Session


@dataclass(frozen=True)
class Batch:
    feeds: dict[str, np.ndarray]
    labels: np.ndarray | None = None


def session(op: str, operand: np.ndarray, shape: tuple[int | str, ...] = ("n", "c")) -> Session:
    """`y = op(x, operand)`."""
    rank = max(len(shape), operand.ndim)
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "k"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"d{k}" for k in range(rank)])],
        [numpy_helper.from_array(operand.astype(np.float32), "k")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return Session(model.SerializeToString())


def same(shape: tuple[int | str, ...] = ("n", "c")) -> Session:
    return session("Mul", np.ones(1), shape)


def shifted(by: np.ndarray | float, shape: tuple[int | str, ...] = ("n", "c")) -> Session:
    return session("Add", np.atleast_1d(np.asarray(by)), shape)


def own(found: Accuracy, name: str) -> float | None:
    score = found.score(name)
    return None if score is None else score.value


def of_float(found: Accuracy, name: str) -> float | None:
    score = found.score(name)
    return None if score is None else score.reference


def batches(x: np.ndarray, labels: np.ndarray | None, cuts: list[int]) -> list[Batch]:
    parts = np.split(np.arange(len(x)), sorted(cuts))
    return [Batch({"x": x[i]}, None if labels is None else labels[i]) for i in parts if len(i)]
