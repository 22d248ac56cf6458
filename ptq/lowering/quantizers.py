"""QuantizeLinear and DequantizeLinear around the kernels that compute in integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ptq import formats
from ptq.lowering.activations import FLOAT_KERNELS, Activations
from ptq.lowering.builder import Builder
from ptq.model.sites import constant
from ptq.ranges import ActivationRange, affine

_FED_APART = FLOAT_KERNELS | {"MatMul"}
"""Kernels that get a DequantizeLinear of their own where they stay float."""

_LEVELS = 255


@dataclass(frozen=True)
class Quantizer:
    """Scale and zero point of a uint8 activation: rank-0 values of the graph, and both as numbers."""

    scale: ir.Value
    zero_point: ir.Value
    step: float
    zero: int


@dataclass(frozen=True)
class Quantized:
    """A tensor in uint8, its quantizer and its float image."""

    integers: ir.Value
    image: ir.Value
    quantizer: Quantizer


@dataclass
class Quantizers:
    """Places one QuantizeLinear for each tensor of `activations`; `grids` has scales and zero points that are given."""

    graph: ir.Graph
    activations: Activations
    ranges: Mapping[str, ActivationRange]
    grids: Mapping[str, tuple[float, int]]
    _known: dict[str, Quantizer] = field(default_factory=dict)

    def insert(self) -> dict[str, Quantized]:
        """Rewire the graph; what was quantized, by the name that the tensor had."""
        values = {str(v.name): v for v in self.graph.inputs}
        values |= {str(v.name): v for node in self.graph for v in node.outputs}
        return {name: self._quantize(values[name], name) for name in self.activations.quantized}

    def _quantize(self, value: ir.Value, name: str) -> Quantized:
        producer = value.producer()
        readers = [u for u in value.uses() if self._reads_image(u.node, producer)]
        anchor = self._first(value)
        builder = Builder(self.graph, anchor, f"{name}/activation")
        quantizer = self._quantizer(builder, name)
        integers = builder.call("QuantizeLinear", value, quantizer.scale, quantizer.zero_point, name="quantize")
        image = builder.call("DequantizeLinear", integers, quantizer.scale, quantizer.zero_point, name="dequantize")
        image.shape, image.type = value.shape, value.type
        for usage in readers:
            usage.node.replace_input_with(usage.idx, self._private(usage.node, usage.idx, integers, image, quantizer))
        if value.is_graph_output() and producer is not None and producer.name in self.activations.integer:
            _take_output(self.graph, value, image)
        return Quantized(integers, image, quantizer)

    def _reads_image(self, reader: ir.Node, producer: ir.Node | None) -> bool:
        if producer is not None and producer.name in self.activations.integer:
            return True
        return reader.name in self.activations.integer

    def _first(self, value: ir.Value) -> ir.Node:
        """Where to insert: right behind the producer."""
        producer = value.producer()
        nodes = list(self.graph)
        if producer is None:
            return nodes[0]
        index = nodes.index(producer)
        if index + 1 < len(nodes):
            return nodes[index + 1]
        end = ir.node("Identity", [value])
        self.graph.append(end)
        return end

    def _quantizer(self, builder: Builder, name: str) -> Quantizer:
        source = self.activations.shared.get(name, name)
        if source not in self._known:
            step, zero_point = self.grids.get(source) or self._grid(source)
            self._known[source] = Quantizer(
                builder.constant("scale", np.array(step, np.float32)),
                builder.constant("zero_point", np.array(zero_point, np.uint8)),
                float(np.float32(step)),
                zero_point,
            )
        return self._known[source]

    def _grid(self, name: str) -> tuple[float, int]:
        seen, bounds = self.ranges[name], self.activations.bounds.get(name)
        scale, zero_point = affine(formats.get("uint8"), seen.low, seen.high)
        grid = float(scale), zero_point
        return grid if bounds is None else _bounded(*grid, seen, bounds)

    def _private(
        self, reader: ir.Node, slot: int, integers: ir.Value, image: ir.Value, quantizer: Quantizer
    ) -> ir.Value:
        """What a reader is fed: a kernel that stays float gets a DequantizeLinear of its own, with a scale per channel.

        Between a DequantizeLinear per tensor and a QuantizeLinear, ONNX Runtime quantizes the float weights of such
        a kernel by itself, per tensor and asymmetric, and says nothing. A product of two activations has no weights,
        and a kernel that takes a scale per tensor alone.
        """
        channels = _channels(reader) if slot == 0 and reader.name not in self.activations.integer else None
        if channels is None:
            return image
        axis, size = channels
        builder = Builder(self.graph, reader, f"{reader.name}/input")
        scale = builder.constant("scale", np.full(size, quantizer.step, np.float32))
        zero_point = builder.constant("zero_point", np.full(size, quantizer.zero, np.uint8))
        return builder.call("DequantizeLinear", integers, scale, zero_point, name="dequantize", axis=axis)


def _channels(kernel: ir.Node) -> tuple[int, int] | None:
    """The axis of its input that a kernel with constant weights sums over, and the size; None for any other node."""
    weight = constant(kernel.inputs[1]) if kernel.op_type in _FED_APART else None
    if weight is None:
        return None
    if kernel.op_type == "Conv":
        return 1, weight.shape[1] * kernel.attributes.get_int("group", 1)
    if kernel.op_type == "ConvTranspose":
        return 1, weight.shape[0]
    if kernel.op_type == "Gemm":
        return 1 - kernel.attributes.get_int("transA", 0), weight.shape[kernel.attributes.get_int("transB", 0)]
    return -1, weight.shape[-2 if weight.ndim > 1 else 0]


def _bounded(scale: float, zero_point: int, seen: ActivationRange, bounds: tuple[float, float]) -> tuple[float, int]:
    """A grid inside the bounds, near one that need not be: that which clips least of what was seen.

    With the zero point as it is the scale may have to be much smaller, where one of the bounds is less than a step.
    """
    near = [zero for zero in (zero_point, zero_point - 1, zero_point + 1) if 0 <= zero <= _LEVELS]
    grids = [(step, zero) for zero in near if (step := _within(scale, zero, bounds)) > 0]
    return min(grids, key=lambda grid: max(-grid[1] * grid[0] - seen.low, seen.high - (_LEVELS - grid[1]) * grid[0]))


def _within(scale: float, zero_point: int, bounds: tuple[float, float]) -> float:
    """The largest scale up to the given one with which the grid stays inside the bounds."""
    step = np.float32(scale)
    for steps, bound in ((-zero_point, bounds[0]), (_LEVELS - zero_point, bounds[1])):
        if steps and np.isfinite(bound):
            step = min(step, np.float32(bound / steps))
            while abs(np.float32(step * np.float32(steps))) > abs(bound):
                step = np.nextafter(step, np.float32(0))
    return float(step)


def _take_output(graph: ir.Graph, value: ir.Value, image: ir.Value) -> None:
    """Make the float image the graph's output, under its name."""
    name = value.name
    value.name, image.name = f"{name}/raw", name
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = image
