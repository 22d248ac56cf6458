"""How convolutions walk over their inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ptq.errors import ModelError


@dataclass(frozen=True)
class Geometry:
    """How a convolution walks over its input; ONNX's attributes, `pads` begin then end, None where `auto_pad` says."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...] | None
    dilations: tuple[int, ...]
    auto_pad: str = "NOTSET"

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
        mode = node.attributes.get_string("auto_pad", "NOTSET")
        said = _ints(node, "pads") if mode == "NOTSET" else None
        pads = None if mode.startswith("SAME") else said or (0,) * (2 * len(kernel))
        if pads is not None and (len(pads) != 2 * len(kernel) or min(pads) < 0):
            raise ModelError(f"{node.name!r} has pads {list(pads)} for a kernel of {list(kernel)}; repair it")
        return cls(kernel, strides, pads, dilations, mode)

    def padding(self, sizes: Sequence[int | None]) -> tuple[int, ...]:
        """The pads for an input of these sizes; 0 along an axis whose size is not known, where that decides."""
        if self.pads is not None:
            return self.pads
        begin, end = [], []
        for size, k, s, d in zip(sizes, self.kernel, self.strides, self.dilations, strict=True):
            total = 0 if size is None else max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
            small, large = total // 2, total - total // 2
            begin.append(small if self.auto_pad == "SAME_UPPER" else large)
            end.append(large if self.auto_pad == "SAME_UPPER" else small)
        return (*begin, *end)


def groups_of(node: ir.Node, channels: int) -> int:
    """The groups of a Conv.

    Raises:
        ModelError: they do not divide its output channels.

    """
    groups = node.attributes.get_int("group", 1)
    if groups < 1 or channels % groups:
        raise ModelError(f"{node.name!r} has {groups} groups for {channels} output channels, no divisor; repair it")
    return groups


def _ints(node: ir.Node, name: str) -> tuple[int, ...] | None:
    attribute = node.attributes.get(name)
    return tuple(attribute.as_ints()) if attribute is not None else None
