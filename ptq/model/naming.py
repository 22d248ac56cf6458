"""Names of a prepared graph: each value's and node's own, and none that what is added later gets."""

from __future__ import annotations

import copy
from collections.abc import Container, Iterator

import onnx_ir as ir
import onnx_ir.passes.common as passes

from ptq.errors import ModelError
from ptq.model.sites import named

SHARED = "ptq"
"""What the names of initializers that many parts of a graph use begin with."""


def own_tensors(model: ir.Model) -> None:
    """Let the tensors that may get another name be those of this model alone, and not of the proto of a caller.

    They are those of Constants, which become initializers, and those of subgraphs, of whose names others may be.
    """
    parts: tuple[ir.Graph | ir.Function, ...] = (model.graph, *model.functions.values())
    for node in (node for part in parts for node in part.all_nodes()):
        held = node.attributes.get("value") if node.op_type == "Constant" else None
        if held is not None and isinstance(held.value, ir.TensorProtoTensor):
            node.attributes["value"] = ir.AttrTensor("value", _copied(held.value))
    for graph in (graph for part in parts for graph in part.subgraphs()):
        for value in graph.initializers.values():
            _own(value)


def make_unique(model: ir.Model) -> None:
    """Name what has no name or that of another, as later stages and the report refer to all by name.

    `ptq` calls what it adds `NAME/PART`, by what it belongs to. What is called like that already is renamed, but for
    inputs and outputs of the model.

    Raises:
        ModelError: an initializer is called like that, and an output of the model.

    """
    passes.NameFixPass()(model)
    _name_nodes(model.graph)
    values = dict.fromkeys(value for graph in model.graphs() for value in _values(graph))
    taken = {str(value.name) for value in values}
    owners = taken | {str(node.name) for node in model.graph.all_nodes()} | {*_sites(model.graph), SHARED}
    fixed = {*model.graph.inputs, *model.graph.outputs}
    for value in values:
        name = str(value.name)
        if not _is_part(name, owners):
            continue
        if value not in fixed:
            made = free_name(name.replace("/", "_"), taken)
            taken.add(made)
            _own(value)
            value.name = made
        elif value.is_initializer():
            raise ModelError(f"the output {name!r} is called like a part that ptq adds to a graph; rename it")


def free_name(name: str, taken: Container[str | None]) -> str:
    """The name, or one like it that is not taken."""
    while name in taken:
        name += "_"
    return name


def _name_nodes(graph: ir.Graph) -> None:
    taken: set[str] = set()
    for index, node in enumerate(graph.all_nodes()):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        taken.add(name)
        node.name = name


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _sites(graph: ir.Graph) -> Iterator[str]:
    """What the sites of a graph may be called."""
    for node in graph:
        yield from (named(node, value) for value in node.inputs if value is not None and value.is_initializer())


def _is_part(name: str, owners: Container[str]) -> bool:
    """Whether a name is `OWNER/PART`; a weight in several layouts has owners `OWNER:NODE`, several tables `OWNER.1`."""
    heads = [name[:end] for end, letter in enumerate(name) if letter == "/" and end]
    return any(owner in owners for head in heads for owner in (head, head.partition(":")[0], head.rpartition(".")[0]))


def _own(value: ir.Value) -> None:
    """Give an initializer a tensor of its own, which may be called otherwise."""
    tensor = value.const_value
    value.const_value = _copied(tensor) if isinstance(tensor, ir.TensorProtoTensor) else copy.copy(tensor)


def _copied(tensor: ir.TensorProtoTensor) -> ir.TensorProtocol:
    return ir.serde.deserialize_tensor(ir.serde.serialize_tensor(tensor))
