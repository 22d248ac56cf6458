"""Networks that compute in float16, bfloat16 or float64, brought to compute in float32, as all that follows does.

What layers compute in is the type of their constant weights. float32 holds all numbers of float16 and bfloat16, so
that everything of these types becomes float32. Of float64 it does not, and graphs compute sizes and positions in it
that are to stay exact; so only what hangs together with a layer changes, and only where most weights are float64.
Weights stay as they are stored, with a Cast behind them. Inputs and outputs keep their types, but for bfloat16, of
which ONNX Runtime takes and gives no arrays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ptq.errors import ModelError
from ptq.model.elements import Elements, bodies, element_types, ends, values_of
from ptq.model.inlining import inline
from ptq.model.naming import free_name, own_tensors
from ptq.model.quiet import quiet
from ptq.model.sites import weight_slots

_WIDENED: Final = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_OTHERS: Final = frozenset({*_WIDENED, ir.DataType.DOUBLE})
_COMPUTED_IN: Final = "ptq.computed_in"
"""Metadata of what is brought to float32: the types that it had."""

_TYPES: Final = frozenset({
    "to", "dtype", "output_dtype", "output_datatype", "precision", "softmax_precision", "stash_type"
})  # fmt: skip
"""Attributes of ONNX's operators that are the number of a type."""

_SMALL: Final = 1 << 10
"""Bytes of a constant that is stored as float32, so that those who look for it find it."""


def computed_in(model: ir.Model) -> str | None:
    """What a network computed in that `in_float32` changed, such as "float16"."""
    return model.metadata_props.get(_COMPUTED_IN)


def in_float32(model: ir.Model) -> ir.Model:
    """The model, changed in place where its layers compute in other floats.

    Raises:
        ModelError: float32 does not hold a constant, or a sequence of other floats goes in or out.

    """
    if model.functions and _has_others(model):
        inline(model)
    types = _layer_types(model.graph)
    if not types:
        return model
    own_tensors(model)
    with quiet():
        passes.RemoveInitializersFromInputsPass()(model)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        _Rewriting(model, types).run()
        passes.RemoveUnusedNodesPass()(model)
    model.metadata_props[_COMPUTED_IN] = " and ".join(sorted(dtype.numpy().name for dtype in types))
    return model


def _has_others(model: ir.Model) -> bool:
    """Whether a model has constants of other floats."""
    parts = [model.graph, *(function.graph for function in model.functions.values())]
    tensors = (_tensor(value) for graph in parts for value in values_of(graph))
    return any(tensor.dtype in _OTHERS for tensor in tensors if tensor is not None)


def _layer_types(graph: ir.Graph) -> set[ir.DataType]:
    """What layers compute in besides float32."""
    weights = [_weight(node, slot) for node in graph.all_nodes() for slot in weight_slots(node)]
    counts: Counter[ir.DataType] = Counter()
    for dtype, tensor in {id(found[1]): found for found in weights if found is not None}.values():
        counts[dtype] += tensor.size
    most = 2 * counts[ir.DataType.DOUBLE] > counts.total()
    return {dtype for dtype in _WIDENED if counts[dtype]} | ({ir.DataType.DOUBLE} if most else set())


def _weight(node: ir.Node, slot: int) -> tuple[ir.DataType, ir.TensorProtocol] | None:
    """The type of a constant weight as a node reads it, and what is stored of it; None where it is quantized."""
    value = node.inputs[slot] if slot < len(node.inputs) else None
    cast = None
    while value is not None:
        tensor, made = _tensor(value), value.producer()
        if tensor is not None:
            return (cast or tensor.dtype, tensor) if len(tensor.shape) > 1 else None
        if made is None or made.op_type == "DequantizeLinear" or not made.inputs:
            return None
        if made.op_type == "Cast" and cast is None:
            cast = ir.DataType(made.attributes.get_int("to", ir.DataType.FLOAT))
        value = made.inputs[0]
    return None


def _tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """What an initializer or a Constant holds."""
    node = value.producer()
    held = node.attributes.get("value") if node is not None and node.op_type == "Constant" else None
    return value.const_value if held is None else held.as_tensor()


def _dtype(value: ir.Value) -> ir.DataType | None:
    return None if value.const_value is None else value.const_value.dtype


class _Rewriting:
    """A graph whose values of some types are being turned into float32."""

    def __init__(self, model: ir.Model, types: Collection[ir.DataType]) -> None:
        self._graph = model.graph
        self._kinds = element_types(model)
        self._turned = _turned(self._graph, self._kinds, types)
        self._constants: dict[ir.Value, ir.Value] = {}
        self._names = {value.name for value in values_of(model.graph)}

    def run(self) -> None:
        """Turn them."""
        for node in list(self._graph.all_nodes()):
            self._turn(node)
        kept = {*self._cast_inputs(), *self._cast_outputs()}
        for value in self._turned - kept:
            if value.type is not None:
                value.type = _of_float32(value.type)
        for value, wide in self._constants.items():
            self._take_name(value, wide)

    def _turn(self, node: ir.Node) -> None:
        """What a node with such values says of types, and the constants that it reads."""
        types = {self._kinds[value] for value in ends(node) if value in self._turned}
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and _dtype(value) in types:
                node.replace_input_with(index, self._constant(value))
        for body in bodies(node):
            for index, value in enumerate(body.outputs):
                if value.is_initializer() and _dtype(value) in types:
                    body.outputs[index] = self._constant(value)
        for name, held in list(node.attributes.items()):
            if held.type == ir.AttributeType.TENSOR and held.as_tensor().dtype in types:
                node.attributes[name] = ir.AttrTensor(name, _as_float32(held.as_tensor(), node.op_type))
            elif node.domain in ("", "ai.onnx") and name in _TYPES and held.value in types:
                node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)

    def _constant(self, value: ir.Value) -> ir.Value:
        """A constant as float32."""
        wide, tensor, graph = self._constants.get(value), value.const_value, value.graph
        if wide is None:
            if tensor is None or graph is None:
                raise AssertionError
            wide = self._float32(value, ir.Shape(tensor.shape.numpy()))
            if tensor.nbytes > _SMALL:
                if tensor.dtype == ir.DataType.DOUBLE:
                    _as_float32(tensor, str(value.name))
                _begin(graph, _cast(value, wide))
            else:
                wide.const_value = _as_float32(tensor, str(value.name))
                graph.register_initializer(wide)
            self._constants[value] = wide
        return wide

    def _take_name(self, value: ir.Value, wide: ir.Value) -> None:
        """Let what layers read have the name that the constant had, unless others still read that."""
        graph, name = value.graph, str(value.name)
        readers = [node for node in value.consumers() if node is not wide.producer()]
        if graph is None or readers or value.is_graph_output():
            return
        if wide.producer() is None:
            del graph.initializers[name]
        else:
            tensor = value.const_value
            kind = self._kinds[value].numpy().name
            if isinstance(tensor, ir.TensorProtoTensor):  # which is the caller's, and would be renamed
                value.const_value = ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
            value.name = self._free(f"{name}.{kind}")
        wide.name = name

    def _cast_inputs(self) -> list[ir.Value]:
        """Let nodes read inputs behind a Cast; those that keep their types."""
        kept = [value for value in self._graph.inputs if self._keeps(value)]
        for value in kept:
            wide = self._float32(value, value.shape)
            for node, index in list(value.uses()):
                node.replace_input_with(index, wide)
            _begin(self._graph, _cast(value, wide))
        return kept

    def _cast_outputs(self) -> list[ir.Value]:
        """Put a Cast behind what goes out; those that keep their types."""
        kept = [value for value in self._graph.outputs if self._keeps(value)]
        for index, value in enumerate(self._graph.outputs):
            if value not in kept or value in self._graph.inputs:
                continue
            narrow = ir.Value(name=value.name, shape=value.shape, type=value.type)
            value.name, value.type = self._free(f"{value.name}.float32"), ir.TensorType(ir.DataType.FLOAT)
            self._graph.append(_cast(value, narrow))
            self._graph.outputs[index] = narrow
        return kept

    def _keeps(self, value: ir.Value) -> bool:
        """Whether an input or output keeps its type."""
        if value not in self._turned or self._kinds[value] == ir.DataType.BFLOAT16:
            return False
        if not isinstance(value.type, ir.TensorType):
            kind = self._kinds[value].numpy()
            raise ModelError(
                f"{value.name!r} goes into or out of the model as a sequence of {kind}; export it in float32"
            )
        return True

    def _float32(self, value: ir.Value, shape: ir.Shape | None) -> ir.Value:
        """What is to stand for a value."""
        name = self._free(f"{value.name}.float32")
        return ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT))

    def _free(self, name: str) -> str:
        """The name, or one like it that no value has."""
        found = free_name(name, self._names)
        self._names.add(found)
        return found


def _turned(graph: ir.Graph, kinds: Elements, types: Collection[ir.DataType]) -> set[ir.Value]:
    """The values that become float32; constants are none of them."""
    found = {value for value, dtype in kinds.items() if dtype in _WIDENED and dtype in types}
    found = {value for value in found if not value.is_initializer()}
    return found | _near_layers(graph, kinds) if ir.DataType.DOUBLE in types else found


def _near_layers(graph: ir.Graph, kinds: Elements) -> set[ir.Value]:
    """The values of float64 that hang together with a layer: from node to node, through nothing of another type."""
    touching: dict[ir.Value, list[ir.Node]] = {}
    left, found = list[ir.Value](), set[ir.Value]()
    for node in graph.all_nodes():
        for value in ends(node):
            touching.setdefault(value, []).append(node)
        weights = [_weight(node, slot) for slot in weight_slots(node)]
        if any(weight is not None and weight[0] == ir.DataType.DOUBLE for weight in weights):
            left += node.outputs
    while left:
        value = left.pop()
        if value not in found and kinds.get(value) == ir.DataType.DOUBLE and not value.is_initializer():
            found.add(value)
            left += [other for node in touching[value] for other in ends(node)]
    return found


def _of_float32(said: ir.TypeProtocol) -> ir.TypeProtocol:
    """The type of a value whose numbers become float32."""
    if isinstance(said, (ir.SequenceType, ir.OptionalType)):
        return type(said)(_of_float32(said.elem_type))
    return ir.TensorType(ir.DataType.FLOAT)


def _begin(graph: ir.Graph, node: ir.Node) -> None:
    """Let a graph begin with a node."""
    if len(graph):
        graph.insert_before(graph[0], node)
    else:
        graph.append(node)


def _cast(value: ir.Value, became: ir.Value) -> ir.Node:
    if became.dtype is None:
        raise AssertionError
    return ir.Node("", "Cast", [value], [ir.AttrInt64("to", became.dtype)], outputs=[became])


def _as_float32(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """The same numbers in float32.

    Raises:
        ModelError: one is beyond it.

    """
    numbers = tensor.numpy()
    with np.errstate(over="ignore"):
        found = numbers.astype(np.float32)
    lost = np.isinf(found) & np.isfinite(numbers)
    if lost.any():
        raise ModelError(
            f"{name!r} has the number {numbers[lost].reshape(-1)[0]:g} of float64, beyond float32, in which quantized "
            f"models compute; export the model in float32"
        )
    return ir.tensor(found, name=name)
