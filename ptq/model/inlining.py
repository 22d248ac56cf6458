"""Graphs that say all in one place: without functions."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as passes

from ptq.errors import ModelError, first_line


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
