"""A graph that also tells the extremes of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from ptq.model.graph import with_outputs


def with_extremes(model: ir.Model, names: Iterable[str], taps: Sequence[str] = ()) -> ir.Model:
    """A copy with two more outputs for each tensor, `extremes(name)`, and with the tensors in `taps` as outputs.

    Reducing inside the graph costs next to nothing; fetching every tensor costs memory and time.
    """
    copy = with_outputs(model, taps)
    values = {v.name: v for v in copy.graph.inputs} | {v.name: v for node in copy.graph for v in node.outputs}
    for name in names:
        for op, out in zip(("ReduceMin", "ReduceMax"), extremes(name), strict=True):
            node = ir.node(op, [values[name]], {"keepdims": 0}, name=out)
            node.outputs[0].name, node.outputs[0].shape = out, ir.Shape([])
            node.outputs[0].type = values[name].type
            copy.graph.append(node)
            copy.graph.outputs.append(node.outputs[0])
    return copy


def extremes(name: str) -> tuple[str, str]:
    """The names of the outputs with the smallest and the largest number of a tensor."""
    return f"{name}/ptq.min", f"{name}/ptq.max"
