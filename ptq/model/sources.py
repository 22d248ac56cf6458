"""Where the channels of a tensor can be scaled by scaling constants that are there already."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from ptq.model.sites import CONV, GEMM, MATMUL, PRODUCTS, constant, following_add

POOLS: Final = frozenset({"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"})
HOMOGENEOUS: Final = frozenset({"Identity", "LeakyRelu", "PRelu", "Relu"})
FLAT: Final = frozenset({"Flatten", "Reshape", "Squeeze"})
FACTORS: Final = {"LayerNormalization": (1, 2), "Mul": (0, 1)}
"""The inputs of operators that scale channels, by operator."""


@dataclass(frozen=True, eq=False)
class Source:
    """A node that makes the channels of a tensor, in front of nothing but positively homogeneous functions.

    `slots` are its inputs that scale with them, a weight's rows first and then its bias; the bias of a MatMul is that
    of the Add in `adder`. Each channel is `repeat` numbers in a row of the tensor, where it was flattened.
    """

    node: ir.Node
    slots: tuple[int, ...]
    repeat: int
    adder: ir.Node | None = None

    @property
    def is_weight(self) -> bool:
        """Whether it is a layer."""
        return self.node.op_type in (CONV, *PRODUCTS)

    @property
    def rows(self) -> int | None:
        """How many channels a layer makes."""
        weight = constant(self.node.inputs[1]) if self.is_weight else None
        return None if weight is None else weight.shape[0 if _rows_first(self.node) else -1]


def source(value: ir.Value, readers: Sequence[ir.Node], *, images: bool = False) -> Source | str:
    """The source of a tensor that only `readers` may read, each once, or why there is none.

    Of `images`, as convolutions read them, the channels are on axis 1, else on the last.
    """
    repeat, layout = 1, images or readers[0].op_type == CONV
    while True:
        node = value.producer()
        if node is None or value.is_graph_output():
            return "at an input or output of the model"
        if sorted(id(reader) for reader, _ in value.uses()) != sorted(map(id, readers)):
            return "whose tensor has other readers"
        if node.op_type in FLAT and not layout:
            found = _flattened(node)
            if found is None or repeat != 1:
                return f"behind {node.op_type}"
            repeat, layout = found, True
        elif node.op_type == "Mul" and not any(constant(each) is not None for each in node.inputs):
            gated = (source(each, [node], images=layout) for each in node.inputs if each is not None)
            return next(
                (each for each in gated if isinstance(each, Source) and repeat == each.repeat == 1), "behind Mul"
            )
        elif not (_is_homogeneous(node) or (node.op_type in POOLS and layout and len(node.outputs) == 1)):
            return _source(node, repeat, images=layout) or f"behind {node.op_type}"
        if node.inputs[0] is None:
            return f"behind {node.op_type}"
        value, readers = node.inputs[0], [node]


def _source(node: ir.Node, repeat: int, *, images: bool) -> Source | None:
    """The source that a node is; of `images`, the channels are on axis 1, else on the last."""
    adder = None
    if node.op_type == "Add":
        products = [value.producer() for value in node.inputs if value is not None]
        adder, node = node, next((p for p in products if p is not None and p.op_type == MATMUL), node)
        if following_add(node) is not adder:
            return None
    if node.op_type in FACTORS and not images:
        present = [slot for slot in FACTORS[node.op_type] if slot < len(node.inputs) and node.inputs[slot] is not None]
        fitting = tuple(slot for slot in present if constant(node.inputs[slot]) is not None)
        whole = node.op_type == "Mul" or len(fitting) == len(present)
        return Source(node, fitting, repeat) if fitting and whole else None
    if node.op_type not in ((CONV,) if images else PRODUCTS) or not _owns(node, 1):
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return Source(node, (1, 2), repeat) if _owns(node, 2) and _is_plain(node) else None
    if adder is not None:
        bias = next(value for value in adder.inputs if value is not node.outputs[0])
        if bias is None or not _is_private(bias):
            return None
    return Source(node, (1,), repeat, adder) if _is_plain(node) else None


def _owns(node: ir.Node, slot: int) -> bool:
    """Whether an input is a constant that nothing else reads."""
    value = node.inputs[slot]
    return value is not None and constant(value) is not None and _is_private(value)


def _is_private(value: ir.Value) -> bool:
    """Whether nothing but one node reads a value."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def _is_plain(node: ir.Node) -> bool:
    """Whether a Gemm only multiplies and adds a bias."""
    ones = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    return node.op_type != GEMM or (ones and node.attributes.get_int("transA", 0) == 0)


def _is_homogeneous(node: ir.Node) -> bool:
    """Whether a factor above 0 of any channel goes through it."""
    if node.op_type == "PRelu":
        slope = constant(node.inputs[1])
        return slope is not None and slope.size == 1
    return node.op_type in HOMOGENEOUS


def _flattened(node: ir.Node) -> int | None:
    """How many numbers of each channel, axis 1, come in a row where all axes but the first are joined."""
    before = node.inputs[0].shape if node.inputs[0] is not None else None
    after = node.outputs[0].shape
    if before is None or after is None or len(after) != 2 or len(before) < 3:
        return None
    sizes = [size for size in before[1:] if isinstance(size, int)]
    if len(sizes) != len(before) - 1 or after[1] != math.prod(sizes):
        return None
    return math.prod(sizes[1:])


def scale(graph: ir.Graph, found: Source, factors: np.ndarray) -> bool:
    """Scale what a source makes by factors `(in,)` of the tensor; False, and nothing done, where they do not fit."""
    if found.rows is not None and found.rows * found.repeat != len(factors):
        return False
    by_channel = factors.reshape(-1, found.repeat)
    if not (by_channel == by_channel[:, :1]).all():
        return False
    factors = by_channel[:, 0]
    node = found.node
    slots = [(node, slot) for slot in found.slots]
    if found.adder is not None:
        slots += [(found.adder, int(found.adder.inputs[0] is node.outputs[0]))]
    arrays = [constant(where.inputs[slot]) for where, slot in slots]
    if not found.is_weight and not all(a is not None and a.shape[-1:] == (a.size,) == factors.shape for a in arrays):
        return False
    for (where, slot), array in zip(slots, arrays, strict=True):
        value = where.inputs[slot]
        if array is None or value is None:
            raise AssertionError
        by_rows = where is node and found.is_weight and slot == 1 and _rows_first(node)
        shape = (-1, *(1,) * (array.ndim - 1)) if by_rows else (-1,)
        made = ir.tensor((array * factors.reshape(shape)).astype(np.float32), name=value.name)
        if _is_private(value):
            value.const_value = made
        else:
            own = ir.Value(name=f"{where.name}/scaled.{slot}", const_value=made)
            graph.register_initializer(own)
            where.replace_input_with(slot, own)
    return True


def _rows_first(node: ir.Node) -> bool:
    return node.op_type == CONV or node.attributes.get_int("transB", 0) == 1
