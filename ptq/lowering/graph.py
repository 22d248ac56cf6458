"""Rewrite a prepared graph: every site gets its stored planes and the node that ONNX Runtime has a kernel for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import onnx_ir as ir
import onnx_ir.passes.common as passes

from ptq.lowering import hard_swish, residual, rounded
from ptq.lowering.activations import find_activations
from ptq.lowering.execution import Execution
from ptq.lowering.names import shorten
from ptq.lowering.quantizers import Quantizers
from ptq.lowering.sites import Inputs, SiteLowering, lower_site
from ptq.model.graph import Model
from ptq.model.prepare import TARGET_OPSET, ir_version
from ptq.model.streamed import Spool
from ptq.model.trained import TrainedGrid
from ptq.ranges import ActivationRange

_ORIGIN_KEYS = ("namespace", "pkg.torch", "pkg.onnxscript")


def lower(
    model: Model,
    sites: Mapping[str, SiteLowering],
    ranges: Mapping[str, ActivationRange],
    activations: str = "uint8",
    trained: Mapping[str, TrainedGrid] = MappingProxyType({}),
    spool: Spool | None = None,
) -> Model:
    """A copy of the model with its sites lowered; `activations` is the format that sites simulate.

    `ranges` has the tensors that `find_activations` observes, and the inputs of sites that simulate; `trained` the
    grids of those that the model was trained to round. Large weights go to the `spool`, if there is one, as they are
    made.
    """
    copy = model.graph.clone()
    graph = copy.graph
    _raise_opset(copy, sites)
    nodes = {str(node.name): node for node in graph}
    static = {u.node for s in model.sites if sites[s.name].execution is Execution.STATIC for u in s.products}
    found = find_activations(graph, static)
    swished, own = hard_swish.grids(found.swished, ranges), rounded.grids(trained, ranges)
    quantized = Quantizers(graph, found, ranges, {**swished, **own}).insert()
    for name in swished:
        hard_swish.split(graph, quantized[name])
    for name in own:
        quantized[name] = rounded.clipped(graph, quantized[name], trained[name])
    inputs = Inputs(graph, quantized, ranges, activations)
    for site in model.sites:
        lower_site(graph, site, [nodes[use.node] for use in site.uses], sites[site.name], inputs)
        if spool is not None:
            spool.take(graph)
    residual.keep_apart(graph)
    passes.RemoveUnusedNodesPass()(copy)
    _forget_origin(copy)
    _drop_unused(graph)
    shorten(graph)
    return Model(copy)


def _drop_unused(graph: ir.Graph) -> None:
    """Remove the float weights that nothing reads any more."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _forget_origin(model: ir.Model) -> None:
    """Remove what torch's exporter noted: stack traces, with paths of the machine that the model came from."""
    nodes = list(model.graph.all_nodes())
    values = [*model.graph.inputs, *model.graph.initializers.values(), *(out for node in nodes for out in node.outputs)]
    notes = [model.metadata_props, model.graph.metadata_props]
    notes += [node.metadata_props for node in nodes] + [value.metadata_props for value in values]
    for note in notes:
        for key in [key for key in note if key.startswith(_ORIGIN_KEYS)]:
            del note[key]


def _raise_opset(model: ir.Model, sites: Mapping[str, SiteLowering]) -> None:
    """The opset that the base formats need; operators of the prepared graph mean the same from 21 to 25."""
    weights = [how.weight for how in sites.values() if how.weight is not None]
    narrow = any(max(term.format.bits for term in weight.terms) < 4 for weight in weights)
    opset = max(model.opset_imports[""], 25 if narrow else TARGET_OPSET)
    model.opset_imports[""] = opset
    model.ir_version = ir_version(opset)
