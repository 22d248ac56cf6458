"""Weights behind a Transpose or a Cast that lie in a file: made, when they are looked at, of what lies there.

Folded, they would stay in memory, and a model whose weights are all stored so would be in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import onnx_ir as ir

from ptq.model.elements import FLOATS
from ptq.model.streamed import PIECE, Streamed

_LEAST_BYTES: Final = 1 << 16


class Derived(Streamed):
    """What `made` returns for the numbers of a tensor in a file, made anew each time that it is asked for."""

    def __init__(
        self, source: Streamed, made: Callable[[np.ndarray], np.ndarray], dtype: ir.DataType, shape: ir.Shape, name: str
    ) -> None:
        super().__init__(
            source.location, source.offset, source.length, dtype, shape=shape, name=name, base_dir=source.base_dir
        )
        self._source, self._made = source, made

    def numpy(self) -> np.ndarray:
        """Its numbers, in the order in which they lie in the file.

        Raises:
            ModelFileError: the file no longer has them.

        """
        return self._made(self._source.numpy())

    def pieces(self) -> Iterator[bytes]:
        """Its bytes in order, a few at a time."""
        array = self.numpy()
        rows = max(PIECE * len(array) // array.nbytes, 1)
        for start in range(0, len(array), rows):
            yield array[start : start + rows].tobytes()


def derive(graph: ir.Graph) -> None:
    """Let large weights of a graph that lie in a file take the places of Transposes and Casts of them."""
    for node in list(graph):
        found = _derived(node)
        if found is None:
            continue
        out = node.outputs[0]
        weight = ir.Value(name=out.name, shape=ir.Shape(found.shape.numpy()), type=ir.TensorType(found.dtype))
        weight.const_value = found
        out.replace_all_uses_with(weight)
        graph.remove(node, safe=True)
        graph.register_initializer(weight)


def _derived(node: ir.Node) -> Derived | None:
    """What a node makes of a large weight in a file; None where that is nothing of this kind, or an output."""
    value, out = (node.inputs or [None])[0], node.outputs[0]
    source = None if value is None else value.const_value
    if node.domain or out.is_graph_output() or not isinstance(source, Streamed) or source.nbytes < _LEAST_BYTES:
        return None
    sizes, name = source.shape.numpy(), str(out.name)
    if node.op_type == "Transpose":
        said = node.attributes.get("perm")
        order = tuple(range(len(sizes)))[::-1] if said is None else tuple(said.as_ints())
        shape = ir.Shape([sizes[axis] for axis in order])
        return Derived(source, lambda array: array.transpose(order), source.dtype, shape, name)
    if node.op_type == "Cast" and source.dtype in FLOATS:
        dtype = ir.DataType(node.attributes["to"].as_int())
        if dtype in FLOATS:
            return Derived(source, lambda array: array.astype(dtype.numpy()), dtype, ir.Shape(sizes), name)
    return None
