"""How convolutions walk over their inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from ptq.errors import ModelError


@dataclass(frozen=True)
class Geometry:
    """How a convolution walks over its input; ONNX's attributes, `pads` begin then end."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    @classmethod
    def of(cls, node: ir.Node, kernel: tuple[int, ...]) -> Geometry:
        """The geometry of a Conv with a kernel of those sizes.

        Raises:
            ModelError: its attributes are not for such a kernel.

        """
        ones = (1,) * len(kernel)
        strides, dilations = (_ints(node, name) or ones for name in ("strides", "dilations"))
        for name, found in (("strides", strides), ("dilations", dilations)):
            if len(found) != len(kernel) or min(found) < 1:
                raise ModelError(f"{node.name!r} has {name} {list(found)} for a kernel of {list(kernel)}; repair it")
        return cls(kernel, strides, _pads(node, kernel, strides, dilations), dilations)


def groups_of(node: ir.Node, channels: int) -> int:
    """The groups of a Conv.

    Raises:
        ModelError: they do not divide its output channels.

    """
    groups = node.attributes.get_int("group", 1)
    if groups < 1 or channels % groups:
        raise ModelError(f"{node.name!r} has {groups} groups for {channels} output channels, no divisor; repair it")
    return groups


def _pads(
    node: ir.Node, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[int, ...]:
    """Explicit pads; SAME_* is turned into numbers when the input's size is known."""
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        explicit = _ints(node, "pads") if mode == "NOTSET" else None
        pads = explicit or (0,) * (2 * len(kernel))
        if len(pads) != 2 * len(kernel) or min(pads) < 0:
            raise ModelError(f"{node.name!r} has pads {list(pads)} for a kernel of {list(kernel)}; repair it")
        return pads
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    begin, end = [], []
    for axis, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        size = shape[axis + 2] if shape is not None and len(shape) == len(kernel) + 2 else None
        size = size if isinstance(size, int) else s  # a stride-sized input pads like any multiple of the stride
        total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if mode == "SAME_UPPER" else large)
        end.append(large if mode == "SAME_UPPER" else small)
    return (*begin, *end)


def _ints(node: ir.Node, name: str) -> tuple[int, ...] | None:
    attribute = node.attributes.get(name)
    return tuple(attribute.as_ints()) if attribute is not None else None
