"""Residual sums in front of a LayerNormalization.

ONNX Runtime fuses the pair to SkipLayerNormalization, which on the CPU takes several times as long as the two: 250
against 42 microseconds for 128 vectors of 384 numbers. It does not know a Sum in the place of the Add.
"""

from __future__ import annotations

import onnx_ir as ir

from ptq.model.sites import constant


def keep_apart(graph: ir.Graph) -> None:
    """Write the sum of two tensors that is normalized next as a Sum: the same numbers."""
    for node in list(graph):
        value = node.inputs[0] if node.op_type == "LayerNormalization" else None
        add = value.producer() if value is not None else None
        if add is None or add.op_type != "Add" or any(constant(part) is not None for part in add.inputs):
            continue
        same = ir.node("Sum", add.inputs, name=add.name)
        same.metadata_props.update(add.metadata_props)
        old, new = add.outputs[0], same.outputs[0]
        new.name, new.type, new.shape = old.name, old.type, old.shape
        graph.insert_before(add, same)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove(add, safe=True)
