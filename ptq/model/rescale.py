"""Scale inputs of products in a graph, by channel or by vector, and take the scales out behind: the same function."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ptq.errors import ModelError
from ptq.model.graph import Model
from ptq.model.sites import ASIDE_KEY, Site, constant, following_add
from ptq.model.sources import Source, scale, source


@dataclass(frozen=True, eq=False)
class Rescaling:
    """An input and the sites that read it: factors `(channels,)`, 0 for those `aside` that are computed in float."""

    sites: Sequence[Site]
    scale: np.ndarray
    aside: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


def rescaled(model: Model, rescalings: Iterable[Rescaling], layers: Container[str] = ()) -> Model:
    """A copy of a model with those inputs rescaled for their sites, each of which has a weight of its own.

    Factors go into constants in front that scale channels, and into the rows of the weights of the nodes `layers`,
    where that does the same; else the input is multiplied.
    """
    copy = model.graph.clone()
    graph = copy.graph
    nodes = {str(node.name): node for node in graph}
    for how in rescalings:
        readers = [nodes[site.uses[0].node] for site in how.sites]
        value = readers[0].inputs[0]
        if value is None:
            raise ModelError(f"{readers[0].name} has no input")
        found = source(value, readers)
        folds = isinstance(found, Source) and (not found.is_weight or str(found.node.name) in layers)
        folded = folds and not how.aside.size and isinstance(found, Source) and scale(graph, found, how.scale)
        scaled = value if folded else _multiplied(graph, value, readers, how)
        for reader, site in zip(readers, how.sites, strict=True):
            reader.replace_input_with(0, scaled)
            _divide(graph, site, value, reader, how)
    return Model(copy)


def normalized(model: Model, names: Container[str]) -> Model:
    """A copy in which every vector of the inputs of the named sites is divided by its largest magnitude.

    It is so for all sites that read the input, and their products are multiplied with it. Each site has one use.
    """
    inputs = dict.fromkeys(site.uses[0].input for site in model.sites if site.name in names)
    copy = model.graph.clone()
    nodes = {str(node.name): node for node in copy.graph}
    for name in inputs:
        _normalize(copy.graph, [nodes[site.uses[0].node] for site in model.sites if site.uses[0].input == name])
    return Model(copy)


def _normalize(graph: ir.Graph, readers: Sequence[ir.Node]) -> None:
    value = readers[0].inputs[0]
    if value is None:
        raise ModelError(f"{readers[0].name} has no input")
    axis = _initializer(graph, f"{value.name}/rows.axis", np.array([-1], np.int64))
    tiny = _initializer(graph, f"{value.name}/rows.least", np.array(np.finfo(np.float32).tiny, np.float32))
    sizes = _node("Abs", [value], f"{value.name}/rows.sizes")
    largest = _node("ReduceMax", [sizes.outputs[0], axis], f"{value.name}/rows.largest", keepdims=1)
    reach = _node("Max", [largest.outputs[0], tiny], f"{value.name}/rows.reach")  # of zeros it is no zero
    factor = _node("Reciprocal", [reach.outputs[0]], f"{value.name}/rows.factor")
    made = _node("Mul", [value, factor.outputs[0]], f"{value.name}/rows")
    made.outputs[0].shape = value.shape
    graph.insert_before(next(node for node in graph if node in readers), [sizes, largest, reach, factor, made])
    for reader in readers:
        reader.replace_input_with(0, made.outputs[0])
        output = reader.outputs[0]
        made_large = [_node("Mul", [output, reach.outputs[0]], f"{reader.name}/rows")]
        if len(reader.inputs) > 2 and (bias := reader.inputs[2]) is not None:  # a Gemm's, which is not to grow
            reader.replace_input_with(2, None)
            made_large.append(_node("Add", [made_large[0].outputs[0], bias], f"{reader.name}/rows.biased"))
        for node in made_large:
            node.outputs[0].shape = output.shape
        graph.insert_after(reader, made_large)
        _take_place(output, made_large)


def _divide(graph: ir.Graph, site: Site, value: ir.Value, reader: ir.Node, how: Rescaling) -> None:
    """Take the factors out of a weight; the rows of channels aside become a product of their own.

    What is no site and reads the weight too, such as a Gemm with an alpha, goes on reading it as it was.
    """
    old = graph.initializers[site.weight]
    array = constant(old)
    if array is None:
        raise ModelError(f"the weight {site.weight!r} is not constant")
    others = [(node, slot) for node, slot in old.uses() if node is not reader]
    kept = _initializer(graph, f"{site.name}/unscaled", array) if others else old
    for node, slot in others:
        node.replace_input_with(slot, kept)
    matrix = site.matrix(array)
    by_group = matrix.reshape(site.groups, -1, site.columns)
    factors = how.scale.reshape(site.groups, 1, -1).repeat(site.kernel, -1)
    scaled = np.divide(by_group, factors, out=np.zeros_like(by_group), where=factors != 0)
    old.const_value = ir.tensor(site.tensor(scaled.reshape(matrix.shape)), name=site.weight)
    if how.aside.size:
        _compute_aside(graph, f"{site.name}/aside", value, reader, matrix[:, how.aside].T, how.aside)


def _compute_aside(
    graph: ir.Graph, name: str, value: ir.Value, reader: ir.Node, weight: np.ndarray, aside: np.ndarray
) -> None:
    index = _initializer(graph, f"{name}/channels", aside.astype(np.int64))
    rows = _initializer(graph, f"{name}/weight", np.ascontiguousarray(weight, np.float32))
    last = following_add(reader) or reader  # behind the bias, which fuses only with the product itself
    output = last.outputs[0]
    picked = _node("Gather", [value, index], f"{name}/picked", axis=-1)
    product = _node("MatMul", [picked.outputs[0], rows], f"{name}/product")
    product.metadata_props[ASIDE_KEY] = "1"
    total = _node("Add", [output, product.outputs[0]], f"{name}/sum")
    total.outputs[0].shape = output.shape
    graph.insert_after(last, [picked, product, total])
    _take_place(output, [total])


def _take_place(output: ir.Value, nodes: Sequence[ir.Node]) -> None:
    """Let readers of a value read what nodes make of it, the first of which reads it; an output keeps its name."""
    made = nodes[-1].outputs[0]
    ir.convenience.replace_all_uses_with(output, made, replace_graph_outputs=True)
    nodes[0].replace_input_with(0, output)
    made.name, output.name = output.name, f"{nodes[0].name}/before"


def _multiplied(graph: ir.Graph, value: ir.Value, readers: Sequence[ir.Node], how: Rescaling) -> ir.Value:
    first = next(node for node in graph if node in readers)
    factors = _initializer(graph, f"{value.name}/smooth.scale", how.scale.astype(np.float32))
    made = _node("Mul", [value, factors], f"{value.name}/smooth")
    made.outputs[0].shape, made.outputs[0].type = value.shape, value.type
    graph.insert_before(first, made)
    return made.outputs[0]


def _node(op: str, inputs: Sequence[ir.Value], name: str, **attributes: int) -> ir.Node:
    node = ir.node(op, inputs, attributes, name=name)
    node.outputs[0].name = name
    node.outputs[0].type = inputs[0].type
    return node


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value
