"""How convolutions walk over their inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir


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
        """The geometry of a Conv with a kernel of those sizes."""
        ones = (1,) * len(kernel)
        mode = node.attributes.get_string("auto_pad", "NOTSET")
        said = _ints(node, "pads") if mode == "NOTSET" else None
        pads = None if mode.startswith("SAME") else said or (0,) * (2 * len(kernel))
        return cls(kernel, _ints(node, "strides") or ones, pads, _ints(node, "dilations") or ones, mode)

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


def _ints(node: ir.Node, name: str) -> tuple[int, ...] | None:
    attribute = node.attributes.get(name)
    return tuple(attribute.as_ints()) if attribute is not None else None
