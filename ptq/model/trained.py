"""Activations that a network was trained to round: the rounding is taken out of the graph, its range is kept.

A network trained with simulated quantization holds, in front of its layers, `clip(round(x / step), low, high) * step`.
In the file that is written the kernels do the rounding, so that these operators have to go; what they say is the range
in which the network knows its activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ptq.errors import ModelError
from ptq.model.sites import constant
from ptq.ranges import ActivationRange


@dataclass(frozen=True)
class Plain:
    """A graph without the rounding of activations, and the trained range of each tensor whose readers all had one."""

    graph: ir.Model
    ranges: dict[str, ActivationRange]
    rounded: int
    """How many inputs of layers were rounded."""

    def narrowed(self, seen: Mapping[str, ActivationRange]) -> dict[str, ActivationRange]:
        """Ranges of tensors as far as they lie in the trained ones."""
        return {name: _common(found, self.ranges.get(name, found)) for name, found in seen.items()}


@dataclass(frozen=True)
class _Rounding:
    """The four nodes, as the value that goes in, the one that comes out, and the range between."""

    first: ir.Node
    last: ir.Node
    range: ActivationRange

    @property
    def input(self) -> ir.Value:
        value = self.first.inputs[0]
        if value is None:
            raise AssertionError
        return value


def plain(model: ir.Model) -> Plain:
    """A copy of a model as it was captured, without the rounding; its weights stay as they are rounded.

    Raises:
        ModelError: a step is not positive, as that of a layer that never was trained.

    """
    copy = model.clone()
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy)
    graph = copy.graph
    found = [rounding for node in graph if (rounding := _rounding(node)) is not None]
    inputs = {str(rounding.input.name): rounding.input for rounding in found}
    own = {rounding.first: rounding.range for rounding in found}
    ranges = {}
    for name, value in inputs.items():
        readers = [own.get(usage.node) for usage in value.uses()]
        known = [r for r in readers if r is not None]
        if len(known) == len(readers) and not value.is_graph_output():
            ranges[name] = ActivationRange(min(r.low for r in known), max(r.high for r in known))
    for rounding in found:
        rounding.last.outputs[0].replace_all_uses_with(rounding.input, replace_graph_outputs=True)
    passes.RemoveUnusedNodesPass()(copy)
    return Plain(copy, ranges, len(found))


def _common(one: ActivationRange, other: ActivationRange) -> ActivationRange:
    return ActivationRange(max(one.low, other.low), min(one.high, other.high))


def _rounding(last: ir.Node) -> _Rounding | None:
    """What ends in this node; None where nothing does, or where it rounds a weight."""
    if last.op_type != "Mul":
        return None
    clip, step = _produced(last, 0, "Clip"), constant(last.inputs[1])
    rounding = _produced(clip, 0, "Round")
    first = _produced(rounding, 0, "Div")
    if clip is None or first is None or step is None or step.size != 1:
        return None
    low, high = (constant(clip.inputs[slot]) if len(clip.inputs) > slot else None for slot in (1, 2))
    divisor = constant(first.inputs[1])
    if low is None or high is None or divisor is None or not np.array_equal(divisor, step):
        return None
    if first.inputs[0] is None or constant(first.inputs[0]) is not None:
        return None
    size = float(step.reshape(()))
    if not size > 0 or not np.isfinite(size):
        name = "" if last.inputs[1] is None else last.inputs[1].name
        raise ModelError(
            f"the step of an activation, {name!r}, is {size:g}: its layer saw no batch in training; train it, or run a "
            f"batch through the model in training mode"
        )
    ends = sorted((min(float(low.reshape(())), 0.0) * size, max(float(high.reshape(())), 0.0) * size))
    return _Rounding(first, last, ActivationRange(ends[0], ends[1]))


def _produced(node: ir.Node | None, slot: int, op: str) -> ir.Node | None:
    """The node of that kind that makes an input of a node, and nothing else reads."""
    value = node.inputs[slot] if node is not None and node.inputs else None
    producer = None if value is None else value.producer()
    if value is None or producer is None or producer.op_type != op:
        return None
    return producer if len(value.uses()) == 1 and not value.is_graph_output() else None
