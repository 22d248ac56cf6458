"""A graph in consecutive pieces, of which one at a time is in memory, and the tensors that cross between them."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import onnx_ir as ir

from ptq.model.graph import replace_initializers

_FED = frozenset(
    {
        *(ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BOOL),
        *(ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
        *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
    }
)
"""Types that NumPy can hand to ONNX Runtime."""

_FEW_LAYERS = 8
"""A tensor that lives past more layers than this is no part of what they hand on to each other."""

Dims = Sequence[int]


@dataclass(frozen=True)
class Look:
    """Tensors that are looked at together: in front of the last of `nodes`, or else where the only one is made.

    `held` is what is kept in memory for it, in bytes, by something that looks may have in common.
    """

    tensors: tuple[str, ...]
    nodes: tuple[str, ...] = ()
    held: tuple[tuple[Hashable, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Block:
    """A piece of a graph, by the names of tensors.

    It is given `inputs`; `new` are those that later blocks need and no block before had, of which it makes `made`. What
    is `gone` is needed by none after it.
    """

    model: ir.Model
    looks: frozenset[Look]
    inputs: tuple[str, ...]
    start: int = 0
    stop: int = 0
    """The nodes that it has, of those that are needed."""
    new: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    """The outputs of its last node; empty where the block is the whole graph."""

    @property
    def first(self) -> bool:
        """Whether its inputs are those of the graph."""
        return not self.start

    @property
    def whole(self) -> bool:
        """Whether this is the only block."""
        return not self.last

    def graph(self, shapes: Mapping[str, Collection[Dims]]) -> ir.Model:
        """The block as a graph with all that is looked at in it; its outputs are `made`.

        `shapes` are those that each input comes in; what is known of its shape stays where they fit it.
        """
        if self.whole:
            return self.model
        inside = {name for look in self.looks for name in look.tensors} - {*self.inputs}
        outputs = [*self.made, *sorted(inside - {*self.made})] or [*self.last]
        found = self._part(shapes, outputs, {})
        if inside:  # those that are no inputs of what comes need not be fetched
            kept = found.graph.outputs[: len(self.made)]
            found.graph.outputs.clear()
            found.graph.outputs.extend(kept)
        return found

    def forward(self, shapes: Mapping[str, Collection[Dims]], arrays: Mapping[str, np.ndarray]) -> ir.Model | None:
        """The block as a graph that computes `made` with other initializers and no more; None where that is nothing."""
        return self._part(shapes, self.made, arrays) if self.made else None

    def _part(
        self, shapes: Mapping[str, Collection[Dims]], outputs: Sequence[str], arrays: Mapping[str, np.ndarray]
    ) -> ir.Model:
        values = {str(value.name): value for value in _values(self.model.graph)}
        inputs = {name: _fitting(values[name], shapes.get(name, ())) for name in self.inputs}
        return part(self.model, inputs, outputs, arrays)


def cut(model: ir.Model, looks: Collection[Look], most: int, *, finely: bool = False) -> list[Block]:
    """The blocks of what has to run for some looks, in order; none of them holds much more than `most` bytes.

    That is weights and what is held for looks; one layer may take more. Cuts are where few tensors cross. With `finely`
    there is one wherever the tensors that cross are as few as can be, and a layer between.
    """
    order = _Order(model, looks)
    stops = [*_stops(order, most, finely=finely)]
    if len(stops) < 2:
        inputs = _names(value for value in model.graph.inputs if not value.is_initializer())
        return [Block(model, frozenset(looks), inputs)]
    return [order.block(start, stop) for start, stop in pairwise([0, *stops])]


def part(
    model: ir.Model,
    inputs: Mapping[str, ir.Shape | None],
    outputs: Sequence[str],
    arrays: Mapping[str, np.ndarray],
) -> ir.Model:
    """What computes tensors of a graph from others that come in these shapes, where some initializers are others."""
    graph = ir.convenience.extract(model.graph, list(inputs), outputs)
    for value in graph.inputs:
        value.shape = inputs[str(value.name)]
    replace_initializers(graph, {name: array for name, array in arrays.items() if name in graph.initializers})
    return ir.Model(graph, ir_version=model.ir_version, functions=tuple(model.functions.values()))


def with_bodies(node: ir.Node) -> list[ir.Node]:
    """A node and those in the graphs that it runs."""
    found = [node]
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found += ir.traversal.RecursiveGraphIterator(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += (each for body in attribute.as_graphs() for each in ir.traversal.RecursiveGraphIterator(body))
    return found


def can_be_fed(value: ir.Value) -> bool:
    """Whether NumPy can hand a tensor to ONNX Runtime."""
    return isinstance(value.type, ir.TensorType) and value.dtype in _FED


def _values(graph: ir.Graph) -> list[ir.Value]:
    """The inputs, and what is computed."""
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    return [*inputs, *(out for node in graph for out in node.outputs)]


def _fitting(value: ir.Value, shapes: Collection[Dims]) -> ir.Shape | None:
    """What the graph says of a shape as far as it is that of all arrays; what it says may be wrong."""
    ranks = {len(shape) for shape in shapes}
    if len(ranks) != 1:
        return None if shapes else value.shape
    said = [None] * ranks.pop() if value.shape is None else [*value.shape]
    if any(len(shape) != len(said) for shape in shapes):
        return ir.Shape([None] * len(next(iter(shapes))))
    return ir.Shape([size if all(shape[k] == size for shape in shapes) else None for k, size in enumerate(said)])


class _Order:
    """The nodes that looks need, in order, and where tensors are made and read."""

    def __init__(self, model: ir.Model, looks: Collection[Look]) -> None:
        self.model = model
        values = {str(value.name): value for value in _values(model.graph)}
        top = {node: outer for outer in model.graph for node in with_bodies(outer)}
        named = {str(node.name): node for node in model.graph}
        needed = _needed([values[name] for look in looks for name in look.tensors], top)
        needed |= _needed([out for look in looks for name in look.nodes for out in named[name].outputs], top)
        self.nodes = [node for node in model.graph if node in needed]
        at = {node: k for k, node in enumerate(self.nodes)}
        self.made = {
            value: -1 if (node := value.producer()) is None else at[node]
            for value in values.values()
            if value.producer() is None or value.producer() in at
        }
        self.reads = {
            value: sorted({at[top[node]] for node, _ in value.uses() if top[node] in at}) for value in self.made
        }
        self.looks: list[list[Look]] = [[] for _ in self.nodes]
        self.held: list[dict[Hashable, int]] = [_weights(node) for node in self.nodes]
        for look in looks if self.nodes else ():
            if look.nodes:
                here = max(at[named[name]] for name in look.nodes)
            else:
                only = values[look.tensors[0]]
                here = max(self.made[only], 0)
            self.looks[here].append(look)
            self.held[here].update(look.held)
            for name in look.tensors:
                self.reads[values[name]] = sorted({*self.reads[values[name]], here})

    def crossing(self, at: int) -> list[ir.Value]:
        """The tensors that are made before a node and read there or behind it."""
        return [value for value, made in self.made.items() if made < at <= max(self.reads[value], default=-1)]

    def block(self, start: int, stop: int) -> Block:
        """The nodes from one up to another."""
        before, after = (dict.fromkeys(self.crossing(at)) for at in (start, stop))
        read = [value for value in before if any(start <= k < stop for k in self.reads[value])]
        new = [value for value in after if value not in before or not start]
        outer = [value for value in new if self.made[value] < start] if not start else []
        return Block(
            self.model,
            frozenset(look for looks in self.looks[start:stop] for look in looks),
            _names(dict.fromkeys([*read, *outer])),
            start,
            stop,
            _names(new),
            _names(value for value in new if value not in outer),
            _names(value for value in before if value not in after and start),
            _names(out for out in self.nodes[stop - 1].outputs if out.name),
        )

    def cuttable(self) -> list[int | None]:
        """How many tensors cross before each node and at the end; None where one cannot be handed over."""
        return self._counts(self.made)

    def layers(self) -> list[int]:
        """How many looks at nodes there are before each node, and in all."""
        return [*accumulate((any(look.nodes for look in looks) for looks in self.looks), initial=0)]

    def passing(self) -> list[int | None]:
        """The same of those that do not live past more than a few layers, as masks and skips do."""
        layers = self.layers()
        ends = {value: (max(made, 0), max(self.reads[value], default=0)) for value, made in self.made.items()}
        found = self._counts(value for value, (made, end) in ends.items() if layers[end] - layers[made] <= _FEW_LAYERS)
        return [None if count is None else few for count, few in zip(self.cuttable(), found, strict=True)]

    def _counts(self, values: Iterable[ir.Value]) -> list[int | None]:
        steps, barred = [0] * (len(self.nodes) + 2), [0] * (len(self.nodes) + 2)
        for value in values:
            made, end = self.made[value], max(self.reads[value], default=-1)
            if end > made:
                for each in (steps, *([] if can_be_fed(value) else [barred])):
                    each[made + 1] += 1
                    each[end + 1] -= 1
        pairs = zip(accumulate(steps), accumulate(barred), strict=True)
        return [None if bar else count for count, bar in pairs][:-1]


def _stops(order: _Order, most: int, *, finely: bool) -> Iterator[int]:
    """Where blocks end."""
    start = 0
    for end in [*(_valleys(order) if finely else ()), len(order.nodes)]:
        while start < end:
            start = _stop(order, start, end, most)
            yield start


def _valleys(order: _Order) -> Iterator[int]:
    """Where as few tensors cross as can be and there is a layer since the last such place, and one to come."""
    counts, layers, start = order.passing(), order.layers(), 0
    inner = [count for count in counts[1:-1] if count is not None]
    least = max(min(inner, default=0), 1)
    for at, count in enumerate(counts[:-1]):
        if at and count is not None and count <= least and layers[start] < layers[at] < layers[-1]:
            yield at
            start = at


def _stop(order: _Order, start: int, end: int, most: int) -> int:
    """Where the block from a node on ends: where few tensors cross, and so far as what it holds allows."""
    counts, held, costs = order.cuttable(), dict[Hashable, int](), dict[int, int]()
    for at in range(start, end):
        held |= order.held[at]
        costs[at + 1] = sum(held.values())
    places = [at for at in costs if at < end and counts[at] is not None]
    if costs[end] <= most or not places:
        return end
    limit = max(most, costs[places[0]])
    within = [at for at in places if costs[at] <= limit]
    far = [at for at in within if 2 * costs[at] >= limit]
    return min(far or within, key=lambda at: (counts[at] or 0, -at))


def _needed(values: Collection[ir.Value], top: Mapping[ir.Node, ir.Node]) -> set[ir.Node]:
    """The nodes of a graph that some tensors follow from."""
    found, left = set[ir.Node](), [*values]
    while left:
        node = left.pop().producer()
        if node is not None and top[node] not in found:
            found.add(top[node])
            left += [value for each in with_bodies(top[node]) for value in each.inputs if value is not None]
    return found


def _weights(node: ir.Node) -> dict[Hashable, int]:
    """The bytes of the initializers that a node reads."""
    read = {value for each in with_bodies(node) for value in each.inputs if value is not None}
    return {v: v.const_value.nbytes for v in read if v.is_initializer() and v.const_value is not None}


def _names(values: Iterable[ir.Value]) -> tuple[str, ...]:
    return tuple(str(value.name) for value in values)
