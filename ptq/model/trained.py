"""Activations that a network was trained to round: the rounding is taken out of the graph, its grid is kept.

A network trained with simulated quantization holds, in front of its layers, `clip(round(x / step), low, high) * step`.
In the file that is written the kernels do that: the integers of `x` are those of training. Where other nodes read `x`
as it is, or no kernel can make it on that grid, a LeakyRelu of slope 1 leads from one grid to the other: ONNX Runtime
has a table of 256 integers for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ptq.errors import ModelError
from ptq.model.elements import values_of
from ptq.model.graph import Model
from ptq.model.naming import free_name, make_unique
from ptq.model.sites import constant

_BRIDGE = "LeakyRelu"
_CODES = 256


class TrainedGrid(NamedTuple):
    """Integers from `low` to `high` times a step."""

    step: float
    low: int
    high: int


@dataclass(frozen=True)
class Trained:
    """What a captured model is without the rounding of its activations; its weights stay as they are rounded."""

    plain: ir.Model
    """The model alone."""
    bridged: ir.Model
    """With a node in front of layers that round what others read as it is."""
    grids: Mapping[str, TrainedGrid]
    """Of tensors of `bridged`."""
    rounded: int
    """How many inputs of layers were rounded."""


@dataclass(frozen=True)
class _Rounding:
    """The first and the last of the four nodes, and the grid."""

    first: ir.Node
    last: ir.Node
    grid: TrainedGrid

    @property
    def input(self) -> ir.Value:
        value = self.first.inputs[0]
        if value is None:
            raise AssertionError
        return value


def trained(model: ir.Model) -> Trained:
    """Find the rounding of activations in a model as it was captured, and take it out.

    Raises:
        ModelError: a step is not positive, as that of a layer that never was trained.

    """
    if not any(node.op_type == "Round" for node in model.graph):
        return Trained(model, model, {}, 0)
    plain, bridged = model.clone(), model.clone()
    rounded = 0
    for rounding in _found(plain):
        rounding.last.outputs[0].replace_all_uses_with(rounding.input, replace_graph_outputs=True)
        rounded += 1
    make_unique(bridged)  # now, as grids are told by the names of tensors
    grids: dict[str, TrainedGrid] = {}
    for value, roundings in _by_input(_found(bridged)):
        grids |= _bridge(bridged.graph, value, roundings)
    for copy in (plain, bridged):
        passes.RemoveUnusedNodesPass()(copy)
    return Trained(plain, bridged, grids, rounded)


def without_bridges(model: Model, names: Collection[str | None], static: Collection[str]) -> Model:
    """The model with those of the named tensors passed over whose readers are not all of the nodes `static`."""
    copy = model.graph.clone()
    idle = []
    for node in copy.graph:
        if node.op_type == _BRIDGE and node.outputs[0].name in names:
            readers = [usage.node.name for usage in node.outputs[0].uses()]
            if node.outputs[0].is_graph_output() or not all(reader in static for reader in readers):
                idle.append(node)
    if not idle:
        return model
    for node in idle:
        if node.inputs[0] is not None:
            node.outputs[0].replace_all_uses_with(node.inputs[0], replace_graph_outputs=True)
    passes.RemoveUnusedNodesPass()(copy)
    return Model(copy)


def _found(model: ir.Model) -> list[_Rounding]:
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return [rounding for node in model.graph if (rounding := _rounding(node)) is not None]


def _by_input(roundings: Iterable[_Rounding]) -> list[tuple[ir.Value, list[_Rounding]]]:
    found: dict[ir.Value, list[_Rounding]] = {}
    for rounding in roundings:
        found.setdefault(rounding.input, []).append(rounding)
    return list(found.items())


def _bridge(graph: ir.Graph, value: ir.Value, roundings: list[_Rounding]) -> dict[str, TrainedGrid]:
    """Take the rounding of a tensor out; the grids of what its layers read now.

    A Relu can be made on the grid; other operators may be gone once the graph is prepared, or have a range of theirs.
    """
    grids: dict[TrainedGrid, list[_Rounding]] = {}
    for rounding in roundings:
        grids.setdefault(rounding.grid, []).append(rounding)
    producer = value.producer()
    alone = len(grids) == 1 and len(value.uses()) == len(roundings) and not value.is_graph_output()
    direct = alone and producer is not None and producer.op_type == "Relu"
    found = {}
    for number, (grid, same) in enumerate(grids.items()):
        read = value
        if not direct:
            taken = {each.name for each in (*values_of(graph), *graph)}
            name = free_name(f"{value.name}_trained{number or ''}".replace("/", "_"), taken)
            bridge = ir.node(_BRIDGE, [value], attributes={"alpha": 1.0}, name=name)
            read = bridge.outputs[0]
            read.name, read.shape, read.type = name, value.shape, value.type
            graph.insert_before(min((each.first for each in same), key=list(graph).index), bridge)
        found[str(read.name)] = grid
        for rounding in same:
            rounding.last.outputs[0].replace_all_uses_with(read, replace_graph_outputs=True)
    return found


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
    least, most = int(low.reshape(())), int(high.reshape(()))
    if not least <= 0 < most or most - least >= _CODES:
        return None
    size = float(step.reshape(()))
    if not size > 0 or not np.isfinite(size):
        name = "" if last.inputs[1] is None else last.inputs[1].name
        raise ModelError(
            f"the step of an activation, {name!r}, is {size:g}: its layer saw no batch in training; train it, or run a "
            f"batch through the model in training mode"
        )
    return _Rounding(first, last, TrainedGrid(size, least, most))


def _produced(node: ir.Node | None, slot: int, op: str) -> ir.Node | None:
    """The node of that kind that makes an input of a node, and nothing else reads."""
    value = node.inputs[slot] if node is not None and node.inputs else None
    producer = None if value is None else value.producer()
    if value is None or producer is None or producer.op_type != op:
        return None
    return producer if len(value.uses()) == 1 and not value.is_graph_output() else None
