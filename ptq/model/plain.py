"""Graphs that say all in one place: without functions, and with constants of their own."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from ptq.errors import ModelError, first_line


def own_constants(model: ir.Model) -> None:
    """Let Constants be the copy's own: where they become initializers they get names, in the caller's proto too."""
    for node in model.graph.all_nodes():
        held = node.attributes.get("value") if node.op_type == "Constant" else None
        if held is not None and isinstance(held.value, ir.TensorProtoTensor):
            node.attributes["value"] = ir.AttrTensor(
                "value", ir.serde.deserialize_tensor(ir.serde.serialize_tensor(held.value))
            )


def inline(model: ir.Model) -> None:
    """Write functions into the graph that calls them.

    Raises:
        ModelError: their versions, attributes or inputs do not allow it.

    """
    if not model.functions:
        return
    try:
        passes.InlinePass()(model)
    except Exception as error:  # of the versions, attributes and inputs of functions
        raise ModelError(
            f"the functions of the model cannot be written into its graph ({first_line(error)}); export it without"
        ) from error
