"""Scale the channels of inputs of products in a graph, and take the scales out of the weights: the same function."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptq.errors import ModelError
from ptq.model.graph import Model
from ptq.model.sites import ASIDE_KEY, Site, constant, following_add


@dataclass(frozen=True, eq=False)
class Rescaling:
    """An input and the sites that read it: factors `(in,)`, 0 for the channels `aside` that are computed in float."""

    sites: Sequence[Site]
    scale: np.ndarray
    aside: np.ndarray


def rescaled(model: Model, rescalings: Iterable[Rescaling]) -> Model:
    """A copy of a model with those inputs rescaled for their sites, each of which has one use."""
    copy = model.graph.clone()
    graph = copy.graph
    nodes = {str(node.name): node for node in graph}
    for how in rescalings:
        readers = [nodes[site.uses[0].node] for site in how.sites]
        value = readers[0].inputs[0]
        if value is None:
            raise ModelError(f"{readers[0].name} has no input")
        scaled = _folded(graph, value, readers, how) or _multiplied(graph, value, readers, how)
        for reader, site in zip(readers, how.sites, strict=True):
            reader.replace_input_with(0, scaled)
            _divide(graph, site, value, reader, how)
    return Model(copy)


def _divide(graph: ir.Graph, site: Site, value: ir.Value, reader: ir.Node, how: Rescaling) -> None:
    """Take the factors out of a weight; the rows of channels aside become a product of their own."""
    old = graph.initializers[site.weight]
    array = constant(old)
    if array is None:
        raise ModelError(f"the weight {site.weight!r} is not constant")
    matrix = site.matrix(array)
    kept = how.scale != 0
    scaled = np.zeros_like(matrix)
    scaled[:, kept] = matrix[:, kept] / how.scale[kept]
    old.const_value = ir.tensor(site.tensor(scaled), name=site.weight)
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
    total.outputs[0].shape, total.outputs[0].type = output.shape, output.type
    graph.insert_after(last, [picked, product, total])
    ir.convenience.replace_all_uses_with(output, total.outputs[0], replace_graph_outputs=True)
    total.replace_input_with(0, output)
    total.outputs[0].name, output.name = output.name, f"{name}/others"  # the output of a network keeps its name


def _folded(graph: ir.Graph, value: ir.Value, readers: Sequence[ir.Node], how: Rescaling) -> ir.Value | None:
    """The value itself, where only the readers see it and its producer ends in constants that take the factors."""
    producer = value.producer()
    alone = {id(node) for node in value.consumers()} == {id(node) for node in readers} and not value.is_graph_output()
    if producer is None or not alone or how.aside.size:
        return None
    slots = _FACTORS.get(producer.op_type, ())
    vectors = {slot: constant(producer.inputs[slot]) for slot in slots if slot < len(producer.inputs)}
    if producer.op_type == "Mul":
        vectors = {slot: array for slot, array in vectors.items() if array is not None}
    fitting = [a is not None and a.shape[-1:] == how.scale.shape and a.size == how.scale.size for a in vectors.values()]
    if not vectors or not all(fitting):
        return None
    for slot, array in vectors.items():
        if array is not None:
            made = _initializer(graph, f"{producer.name}/scaled.{slot}", (array * how.scale).astype(np.float32))
            producer.replace_input_with(slot, made)
    return value


_FACTORS = {"LayerNormalization": (1, 2), "Mul": (0, 1)}
"""The inputs of operators that scale channels, by operator."""


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
