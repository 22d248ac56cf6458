"""What exporters write in many nodes or in old ones, as the one node that there are integer kernels for."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir

_IMAGE_RANK = 4
_SCALED = frozenset({"Conv", "BatchNormalization"})
"""Operators whose second and third input scale and shift the channels of their output."""


def pool_means(graph: ir.Graph) -> None:
    """Write the mean over all positions of an image as the pooling that it is."""
    for node in list(graph):
        value = node.inputs[0] if node.op_type == "ReduceMean" and len(node.inputs) == 2 else None
        axes = _numbers(node.inputs[1]) if value is not None else None
        rank = len(value.shape) if value is not None and value.shape is not None else 0
        if axes is None or rank < _IMAGE_RANK or sorted(axis % rank for axis in axes) != list(range(2, rank)):
            continue
        made = [ir.node("GlobalAveragePool", [value], name=node.name)]
        if not node.attributes.get_int("keepdims", 1):
            made.append(ir.node("Flatten", made[0].outputs, {"axis": 1}, name=f"{node.name}/flatten"))
            made[0].outputs[0].name = f"{node.outputs[0].name}/pooled"
        ir.convenience.replace_nodes_and_values(graph, node, [node], made, node.outputs, made[-1].outputs)


def add_pairs(graph: ir.Graph) -> None:
    """Write the Sum of two, a residual connection in Caffe2, as an Add."""
    for node in list(graph):
        if node.op_type == "Sum" and len(node.inputs) == 2:
            made = ir.node("Add", node.inputs, name=node.name)
            ir.convenience.replace_nodes_and_values(graph, node, [node], [made], node.outputs, made.outputs)


def absorb_scales(graph: ir.Graph) -> None:
    """Give a convolution or BatchNorm the Mul and Add of a number per channel behind it: Caffe's Scale layer."""
    for node in list(graph):
        if node.op_type not in ("Mul", "Add"):
            continue
        for value, other in itertools.permutations(node.inputs, 2):
            if value is not None and other is not None and _absorbed(graph, value, node.op_type, other):
                ir.convenience.replace_nodes_and_values(graph, node, [node], [], node.outputs, [value])
                break


def _absorbed(graph: ir.Graph, value: ir.Value, op: str, other: ir.Value) -> bool:
    """Whether the layer that makes a value could be changed to make `value op other`; then it was."""
    layer = value.producer()
    if layer is None or layer.op_type not in _SCALED or len(value.uses()) != 1 or value.is_graph_output():
        return False
    weight, bias = (*layer.inputs[1:3], None)[:2]
    channels = _length(weight)
    numbers = _per_channel(other, channels, None if value.shape is None else len(value.shape))
    if numbers is None or not _is_own(weight) or not (bias is None or _is_own(bias)):
        return False
    if op == "Mul" and weight is not None and weight.const_value is not None:
        array = weight.const_value.numpy()
        _set(weight, array * numbers.reshape(-1, *[1] * (array.ndim - 1)))
    if bias is not None and bias.const_value is not None:
        array = bias.const_value.numpy()
        _set(bias, array * numbers if op == "Mul" else array + numbers)
    elif op == "Add":
        layer.resize_inputs(3)
        layer.replace_input_with(2, _new(graph, f"{layer.name}/bias", np.broadcast_to(numbers, channels)))
    return True


def _length(weight: ir.Value | None) -> int:
    """Output channels of a constant weight, 0 for others."""
    tensor = None if weight is None else weight.const_value
    return 0 if tensor is None or not len(tensor.shape) else tensor.numpy().shape[0]


def _is_own(value: ir.Value | None) -> bool:
    """Whether a value is an initializer that one node alone reads."""
    return value is not None and value.is_initializer() and len(value.uses()) == 1 and not value.is_graph_output()


def _per_channel(value: ir.Value, channels: int, rank: int | None) -> np.ndarray | None:
    """A constant that broadcasts to one number per channel, axis 1 of `rank`; `(channels,)` or `(1,)`."""
    tensor = value.const_value if value.is_initializer() else None
    if tensor is None or rank is None or not rank >= 2 or len(tensor.shape) > rank:
        return None
    array = tensor.numpy()
    shape = (1,) * (rank - array.ndim) + array.shape
    return array.reshape(-1) if array.size == shape[1] and shape[1] in (1, channels) and channels else None


def _set(value: ir.Value, array: np.ndarray) -> None:
    """Give an initializer other numbers of the same type."""
    old = value.const_value
    if old is not None:
        value.const_value = ir.tensor(array.astype(old.numpy().dtype), name=value.name)


def _new(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    while name in graph.initializers:
        name += "_"
    made = ir.val(name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))
    graph.register_initializer(made)
    return made


def _numbers(value: ir.Value | None) -> list[int] | None:
    """A constant vector of integers."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else [int(number) for number in tensor.numpy().reshape(-1)]
