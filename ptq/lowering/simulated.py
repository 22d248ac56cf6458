"""Activations that are rounded to an FP8 format and computed with in float.

ONNX Runtime's processors have no FP8 arithmetic, and its fusions break on QuantizeLinear to FP8. Casts there and back
give the numbers that a runtime with FP8 kernels would compute with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptq import formats
from ptq.formats import Format
from ptq.lowering.builder import STORED, Builder, first_reader
from ptq.ranges import ActivationRange


@dataclass(frozen=True)
class Simulated:
    """Rounds tensors to a format, each with one scale: that with which its range reaches the largest number."""

    KIND: ClassVar[str] = "simulated"
    """What the names of its nodes have behind that of the tensor."""

    graph: ir.Graph
    ranges: Mapping[str, ActivationRange]
    activations: str
    _made: dict[str, ir.Value] = field(default_factory=dict)

    def image(self, node: ir.Node, name: str) -> ir.Value:
        """The rounded input 0 of a node, which had that name."""
        value = node.inputs[0]
        if value is None:
            raise AssertionError
        if name in self._made:
            return self._made[name]
        fmt = formats.get(self.activations)
        builder = Builder(self.graph, first_reader(self.graph, value), f"{name}/{self.KIND}")
        step = builder.constant("scale", np.array(scale_of(self.ranges[name], fmt.max), np.float32))
        made = self._rounded(builder, value, step, fmt)
        made.shape, made.type = value.shape, value.type
        self._made[name] = made
        return made

    def _rounded(self, builder: Builder, value: ir.Value, step: ir.Value, fmt: Format) -> ir.Value:
        rounded = builder.cast(builder.call("Div", value, step, name="scaled"), STORED[str(fmt.onnx)].onnx, "rounded")
        return builder.call("Mul", builder.cast(rounded, ir.DataType.FLOAT, "numbers"), step, name="image")


def scale_of(seen: ActivationRange, most: float) -> float:
    """The scale with which a range just fits numbers up to `most`."""
    return max(-seen.low, seen.high, float(np.finfo(np.float32).tiny) * most) / most
