"""A graph that also tells the extremes of its tensors, and some of their numbers.

What is added keeps, where it can, to operators that ONNX Runtime has for its blocked layout of images (NCHWc): a
tensor that has to leave that layout is copied first, which costs about as much as a small layer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from ptq.model.graph import with_outputs
from ptq.model.session import Session
from ptq.model.sites import constant

_IMAGES = 4
"""The rank of the tensors that may be in the blocked layout."""

_NOT_NEGATIVE = frozenset({"HardSigmoid", "Relu", "Sigmoid", "Softmax"})


def probed(
    model: ir.Model,
    ranged: Container[str],
    taps: Sequence[str] = (),
    sampled: Container[str] = (),
    per_sample: int = 1,
    averaged: Collection[tuple[str, int]] = (),
    *,
    device: str = "cpu",
) -> Session:
    """A session with more outputs: `extremes(name)` for each of `ranged`, `sampled_as(name)` for each of `sampled`.

    For each of `averaged` there is `mean_as(name, axis)`, the mean over all axes but that one; of axis 1, the channels
    of images, it is given by sample, `(samples, channels, 1, …)`. The tensors in `taps` become outputs themselves. A
    sampled tensor of images of known size is thinned to about `per_sample` numbers of each sample, evenly spread; any
    other comes whole. The output for the least number is left
    out where the operator before tells that it is not below 0.
    """
    copy = with_outputs(model, taps)
    values = {v.name: v for v in copy.graph.inputs} | {v.name: v for node in copy.graph for v in node.outputs}
    # ONNX Runtime takes the last leaf first: in this order every tensor is looked at soon after it is made, and freed
    for name, value in reversed(values.items()):
        if name in ranged:
            _range(copy.graph, value)
        if name in sampled:
            _sample(copy.graph, value, per_sample)
        for axis in (axis for averaged_name, axis in averaged if averaged_name == name):
            _average(copy.graph, value, axis)
    in_order = any(name in ranged and _is_image(value) for name, value in values.items())
    return Session(copy, in_order=in_order, device=device)


def sampled(model: ir.Model, positions: Mapping[str, int]) -> Session:
    """A session whose only outputs are `sampled_as(name)`: of images about so many positions, else all numbers.

    Nothing behind them is computed.
    """
    copy = model.clone()
    values = {v.name: v for v in copy.graph.inputs} | {v.name: v for node in copy.graph for v in node.outputs}
    copy.graph.outputs.clear()
    for name, count in positions.items():
        value = values[name]
        channels = value.shape[1] if value.shape is not None and _is_image(value) else 1
        _sample(copy.graph, value, count * (channels if isinstance(channels, int) else 1))
    return Session(copy)


def extremes(name: str) -> tuple[str, str]:
    """The names of the outputs with the smallest and the largest number of a tensor."""
    return f"{name}/ptq.min", f"{name}/ptq.max"


def sampled_as(name: str) -> str:
    """The name of the output with some of the numbers of a tensor."""
    return f"{name}/ptq.some"


def channelled(model: ir.Model, names: Collection[str]) -> Session:
    """A session with more outputs: for each of the names those of `channels_as`."""
    copy = with_outputs(model, ())
    values = {v.name: v for v in copy.graph.inputs} | {v.name: v for node in copy.graph for v in node.outputs}
    for name in names:
        low, high, power = channels_as(name)
        _reduce(copy.graph, "ReduceMin", values[name], low)
        _reduce(copy.graph, "ReduceMax", values[name], high)
        square = _call(copy.graph, "Mul", values[name], f"{power}.squares", values[name])
        square.shape = values[name].shape
        _reduce(copy.graph, "ReduceMean", square, power)
    return Session(copy)


def channels_as(name: str) -> tuple[str, str, str]:
    """The names of the outputs with the ends of the channels of a tensor, its last axis, and their mean squares."""
    return f"{name}/ptq.lows", f"{name}/ptq.highs", f"{name}/ptq.powers"


def magnitudes(model: ir.Model, names: Collection[str]) -> Session:
    """A session whose only outputs are the mean magnitudes of the channels of tensors, as `magnitude_as(name)`."""
    copy = model.clone()
    values = {v.name: v for v in copy.graph.inputs} | {v.name: v for node in copy.graph for v in node.outputs}
    copy.graph.outputs.clear()
    for name in names:
        size = _call(copy.graph, "Abs", values[name], f"{name}/ptq.sizes")
        size.shape = values[name].shape
        _reduce(copy.graph, "ReduceMean", size, magnitude_as(name))
    return Session(copy)


def magnitude_as(name: str) -> str:
    """The name of the output with the mean magnitudes of a tensor."""
    return f"{name}/ptq.magnitudes"


def mean_as(name: str, axis: int) -> str:
    """The name of the output with the means of a tensor along an axis."""
    return f"{name}/ptq.mean.{axis}"


def _average(graph: ir.Graph, value: ir.Value, axis: int) -> None:
    """Of an image by sample, where there is an operator for the blocked layout; of others over the batch too."""
    name = mean_as(str(value.name), axis)
    if axis == 1:
        _probe(graph, "GlobalAveragePool", value, name)
        return
    _reduce(graph, "ReduceMean", value, name)


def _reduce(graph: ir.Graph, op: str, value: ir.Value, name: str) -> None:
    """Over all axes but the last."""
    rank = len(value.shape) if value.shape is not None else None
    if rank is None or rank == 1:  # whatever it is, rows come of it
        value, rank = _call(graph, "Flatten", value, f"{name}.rows", axis=-1), 2
    axes = ir.Value(name=f"{name}.axes", const_value=ir.tensor(list(range(rank - 1)), name=f"{name}.axes"))
    graph.register_initializer(axes)
    _probe(graph, op, value, name, axes, keepdims=0)


def _range(graph: ir.Graph, value: ir.Value) -> None:
    low, high = extremes(str(value.name))
    if not _never_negative(value):
        _probe(graph, "ReduceMin", value, low, keepdims=0)
    peaks = _call(graph, "GlobalMaxPool", value, f"{high}s") if _is_image(value) else value
    _probe(graph, "ReduceMax", peaks, high, keepdims=0)


def _sample(graph: ir.Graph, value: ir.Value, most: int) -> None:
    name = sampled_as(str(value.name))
    if step := _step(value, most):
        _probe(graph, "MaxPool", value, name, kernel_shape=[1, 1], strides=[step, step])
    else:
        _probe(graph, "Identity", value, name)


def _never_negative(value: ir.Value) -> bool:
    node = value.producer()
    if node is None or node.op_type != "Clip":
        return node is not None and node.op_type in _NOT_NEGATIVE
    least = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return least is not None and float(least.reshape(-1)[0]) >= 0


def _is_image(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == _IMAGES


def _step(value: ir.Value, most: int) -> int | None:
    """Every how many-th row and column of an image to take so that about `most` numbers are left; None if unknown."""
    sizes = value.shape[1:] if value.shape is not None and _is_image(value) else ()
    known = [size for size in sizes if isinstance(size, int)]
    return math.ceil(math.sqrt(math.prod(known) / most)) or 1 if known and len(known) == len(sizes) else None


def _call(graph: ir.Graph, op: str, value: ir.Value, name: str, *more: ir.Value, **attributes: Any) -> ir.Value:
    node = ir.node(op, [value, *more], attributes, name=name)
    node.outputs[0].name, node.outputs[0].type = name, value.type
    graph.append(node)
    return node.outputs[0]


def _probe(graph: ir.Graph, op: str, value: ir.Value, name: str, *more: ir.Value, **attributes: Any) -> None:
    graph.outputs.append(_call(graph, op, value, name, *more, **attributes))
