"""The elementwise function right behind a layer, to see its numbers as those do who read them."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from ptq.model.graph import Model
from ptq.model.sites import MATMUL, Use, constant, following_add

Function = Callable[[Tensor], Tensor]


def behind(model: Model, use: Use) -> Function:
    """What everything that reads a layer's output reads a function of; the identity where it is no known one."""
    node = next(node for node in model.graph.graph if node.name == use.node)
    if node.op_type == MATMUL:
        node = following_add(node) or node
    value = node.outputs[0]
    readers = [] if value.is_graph_output() else list(value.consumers())
    if {reader.op_type for reader in readers} == {"Sigmoid", "Mul"} and len(readers) == 2:
        gate = next(reader for reader in readers if reader.op_type == "Sigmoid").outputs[0]
        product = next(reader for reader in readers if reader.op_type == "Mul")
        return F.silu if gate in product.inputs and len(gate.uses()) == 1 else same
    return _function(readers[0]) if len(readers) == 1 else same


def _function(node: ir.Node) -> Function:
    if node.op_type == "Clip":
        low, high = (_bound(node, slot) for slot in (1, 2))
        return lambda x: x.clamp(-math.inf if low is None else low, math.inf if high is None else high)
    return _FUNCTIONS.get(node.op_type, same)


def _bound(node: ir.Node, slot: int) -> float | None:
    array = constant(node.inputs[slot]) if slot < len(node.inputs) else None
    return None if array is None else float(array.reshape(-1)[0])


def same(x: Tensor) -> Tensor:
    """The identity."""
    return x


_FUNCTIONS: dict[str, Function] = {
    "Gelu": F.gelu,
    "HardSwish": F.hardswish,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
}
