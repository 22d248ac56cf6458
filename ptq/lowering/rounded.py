"""Activations on the grid that a network was trained to round them to: its integers, within uint8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ptq.lowering.builder import Builder
from ptq.lowering.quantizers import Quantized
from ptq.model.trained import TrainedGrid
from ptq.ranges import ActivationRange

_LARGEST = 255


def grids(trained: Mapping[str, TrainedGrid], ranges: Mapping[str, ActivationRange]) -> dict[str, tuple[float, int]]:
    """Scale and zero point of uint8 with the lowest integer at 0, or with 0 there where nothing is negative."""
    return {name: (grid.step, -grid.low if ranges[name].low < 0 else 0) for name, grid in trained.items()}


def clipped(graph: ir.Graph, data: Quantized, grid: TrainedGrid) -> Quantized:
    """The tensor with its integers ending where the grid does; below it uint8 ends by itself."""
    most = data.quantizer.zero + grid.high
    reader = data.image.producer()
    if most >= _LARGEST or reader is None:
        return data
    builder = Builder(graph, reader, f"{reader.name}.trained")
    ends = [builder.constant(end, np.array(value, np.uint8)) for end, value in (("low", 0), ("high", most))]
    integers = builder.call("Clip", data.integers, *ends, name="clip")
    reader.replace_input_with(0, integers)
    return replace(data, integers=integers)
