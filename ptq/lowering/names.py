"""Short names for what folds when a file is loaded: in a small network, long ones take a twentieth of the file."""

from __future__ import annotations

from itertools import count

import onnx_ir as ir


def shorten(graph: ir.Graph) -> None:
    """Rename the values that follow from initializers alone, `c0` and on, and leave out their types and node names.

    ONNX needs no name of a node, and infers types.
    """
    constant = set(graph.initializers.values()) - set(graph.inputs)
    taken = {value.name for node in graph for value in node.outputs} | set(graph.initializers)
    taken |= {value.name for value in graph.inputs}
    fresh = (name for number in count() if (name := f"c{number}") not in taken)
    for node in graph:
        outputs = set(node.outputs)
        if not all(value is None or value in constant for value in node.inputs) or outputs & set(graph.outputs):
            continue
        constant |= outputs
        node.name = None
        for value in node.outputs:
            value.name, value.type, value.shape = next(fresh), None, None
