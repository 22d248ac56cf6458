"""How convolutions walk over their inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Geometry:
    """How a convolution walks over its input; ONNX's attributes, `pads` begin then end."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    @classmethod
    def of(cls, node: ir.Node, kernel: tuple[int, ...]) -> Geometry:
        """The geometry of a Conv with a kernel of those sizes."""
        ones = (1,) * len(kernel)
        return cls(kernel, _ints(node, "strides") or ones, _pads(node, kernel), _ints(node, "dilations") or ones)


def _pads(node: ir.Node, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Explicit pads; SAME_* is turned into numbers when the input's size is known."""
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        explicit = _ints(node, "pads") if mode == "NOTSET" else None
        return explicit or (0,) * (2 * len(kernel))
    strides = _ints(node, "strides") or (1,) * len(kernel)
    dilations = _ints(node, "dilations") or (1,) * len(kernel)
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    begin, end = [], []
    for axis, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        size = shape[axis + 2] if shape is not None else None
        size = size if isinstance(size, int) else s  # a stride-sized input pads like any multiple of the stride
        total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if mode == "SAME_UPPER" else large)
        end.append(large if mode == "SAME_UPPER" else small)
    return (*begin, *end)


def _ints(node: ir.Node, name: str) -> tuple[int, ...] | None:
    attribute = node.attributes.get(name)
    return tuple(attribute.as_ints()) if attribute is not None else None
