"""Rewrite a prepared graph: every site gets its stored planes and the node that ONNX Runtime has a kernel for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ptq.errors import ModelError
from ptq.lowering import hard_swish
from ptq.lowering.activations import find_activations
from ptq.lowering.builder import Builder, replace
from ptq.lowering.quantizers import Quantized, Quantizers
from ptq.lowering.weights import Int8Weight, int8_weight
from ptq.model.graph import Model
from ptq.model.prepare import TARGET_OPSET, ir_version
from ptq.model.sites import CONV, GEMM, MATMUL, Site, Use, constant, following_add
from ptq.qtensor import QTensor
from ptq.ranges import ActivationRange

SITE_KEY, REASON_KEY, EXECUTION_KEY = "ptq.site", "ptq.float", "ptq.execution"
"""Metadata of the nodes of a written file: the site that a node computes, and why it does so in float."""

_ORIGIN_KEYS = ("namespace", "pkg.torch", "pkg.onnxscript")


class Execution(Enum):
    """How a site computes."""

    STATIC = "static"
    """uint8 inputs with a calibrated range, int8 weights."""
    DYNAMIC = "dynamic"
    """uint8 inputs with a range found at every call, int8 weights."""
    WEIGHTS = "weights"
    """Low-bit storage, float weights after loading."""
    FLOAT = "float"
    """Not quantized."""


@dataclass(frozen=True, eq=False)
class SiteLowering:
    """What becomes of a site: its weight, what is added to its bias `(out,)`, and why it stays float if it does."""

    execution: Execution
    weight: QTensor | None = None
    bias_shift: np.ndarray | None = None
    reason: str | None = None


def execution(model: Model, site: Site) -> Execution:
    """How a site can compute in integers: convolutions and rank-2 products static, others dynamic."""
    if site.op in (CONV, GEMM):
        return Execution.STATIC
    ranks = {len(v.shape) if v.shape is not None else None for v in _inputs(model.graph.graph, site)}
    return Execution.STATIC if ranks == {2} else Execution.DYNAMIC


def lower(model: Model, sites: Mapping[str, SiteLowering], ranges: Mapping[str, ActivationRange]) -> Model:
    """A copy of the model with its sites lowered; `ranges` has the tensors that `find_activations` observes."""
    copy = model.graph.clone()
    graph = copy.graph
    _raise_opset(copy, sites)
    nodes = {str(node.name): node for node in graph}
    static = {u.node for s in model.sites if sites[s.name].execution is Execution.STATIC for u in s.uses}
    activations = find_activations(graph, static)
    grids = hard_swish.grids(activations.swished, ranges)
    quantized = Quantizers(graph, activations, ranges, grids).insert()
    for name in grids:
        hard_swish.split(graph, quantized[name])
    dynamic: dict[str, ir.Node] = {}
    for site in model.sites:
        _lower_site(graph, site, [nodes[u.node] for u in site.uses], sites[site.name], quantized, dynamic)
    passes.RemoveUnusedNodesPass()(copy)
    _forget_origin(graph)
    _drop_unused(graph)
    return Model(copy)


def _lower_site(
    graph: ir.Graph,
    site: Site,
    nodes: list[ir.Node],
    how: SiteLowering,
    quantized: Mapping[str, Quantized],
    dynamic: dict[str, ir.Node],
) -> None:
    for node in nodes:
        node.metadata_props.update({SITE_KEY: site.name, EXECUTION_KEY: how.execution.value})
        if how.reason is not None:
            node.metadata_props[REASON_KEY] = how.reason
    if how.weight is None:
        return
    builder = Builder(graph, nodes[0], site.name)
    shape = site.shape if site.op == CONV else how.weight.shape
    weight = int8_weight(builder, how.weight, shape)
    _shift_bias(graph, site, how.bias_shift)
    if how.execution is Execution.WEIGHTS:
        value = _float_weight(builder, site, weight)
        for node in nodes:
            node.replace_input_with(1, value)
    elif how.execution is Execution.DYNAMIC:
        turned = builder.call("Transpose", weight.integers, name="columns", perm=[1, 0])
        for node in nodes:
            _dynamic(graph, node, site, turned, weight, dynamic)
    else:
        zero = _zeros(builder, site.rows)
        value = builder.call("DequantizeLinear", weight.integers, weight.scale, zero, name="weight", axis=0)
        for node, use in zip(nodes, site.uses, strict=True):
            if site.op == CONV:
                node.replace_input_with(1, value)
            else:
                _gemm(graph, node, use, value, weight, quantized[use.input])


def _float_weight(builder: Builder, site: Site, weight: Int8Weight) -> ir.Value:
    """The weight in float and in the layout of the graph: it folds, so that the float kernels run at their speed."""
    numbers = builder.cast(weight.integers, ir.DataType.FLOAT, "float")
    along = [-1] + [1] * (len(site.shape) - 1)
    wide = builder.call("Reshape", weight.scale, builder.constant("wide", np.array(along)), name="scale.wide")
    value = builder.call("Mul", numbers, wide, name="weight")
    return builder.call("Transpose", value, name="columns", perm=[1, 0]) if site.transposed else value


def _dynamic(
    graph: ir.Graph, node: ir.Node, site: Site, turned: ir.Value, weight: Int8Weight, cache: dict[str, ir.Node]
) -> None:
    """DynamicQuantizeLinear, MatMulInteger, rescaling: what ONNX Runtime fuses to DynamicQuantizeMatMul."""
    builder = Builder(graph, node, str(node.name))
    data = node.inputs[0]
    if data is None:
        raise ModelError(f"{node.name} has no input")
    if str(data.name) not in cache:
        cache[str(data.name)] = Builder(graph, _reader(graph, data), f"{data.name}/dynamic").node(
            "DynamicQuantizeLinear", data, name="quantize", outputs=3
        )
    integers, scale, zero_point = cache[str(data.name)].outputs
    zero = _zeros(builder, site.rows)
    product = builder.node("MatMulInteger", integers, turned, zero_point, zero, name="product")
    product.metadata_props.update(_marks(node))
    numbers = builder.cast(product.outputs[0], ir.DataType.FLOAT, "numbers")
    steps = builder.call("Mul", scale, weight.scale, name="steps")
    result = builder.call("Mul", numbers, steps, name="result")
    replace(graph, node, result)


def _gemm(
    graph: ir.Graph, node: ir.Node, use: Use, weight_image: ir.Value, weight: Int8Weight, data: Quantized
) -> None:
    """A Gemm with int32 bias: the only form of a rank-2 product that ONNX Runtime runs in integers."""
    builder = Builder(graph, node, str(node.name))
    add = following_add(node) if node.op_type == MATMUL else None
    bias = constant(graph.initializers.get(use.bias)) if use.bias else None
    steps = (np.float32(data.quantizer.step) * weight.scales).astype(np.float32)
    numbers = np.zeros(steps.size) if bias is None else bias.astype(np.float64).reshape(-1) / steps
    limits = np.iinfo(np.int32)
    integers = np.broadcast_to(np.rint(numbers).clip(limits.min, limits.max), steps.shape).astype(np.int32)
    image = builder.call(
        "DequantizeLinear",
        builder.constant("bias", integers),
        builder.constant("bias.scale", steps),
        builder.constant("bias.zero", np.zeros(steps.size, np.int32)),
        name="bias.image",
        axis=0,
    )
    product = builder.node("Gemm", data.image, weight_image, image, name="gemm", transB=1)
    product.metadata_props.update(_marks(node))
    replace(graph, add or node, product.outputs[0])


def _shift_bias(graph: ir.Graph, site: Site, shift: np.ndarray | None) -> None:
    """Add to the bias of a site; the caller does so only where the bias is the site's alone."""
    name = site.uses[0].bias
    if shift is None or name is None:
        return
    old = graph.initializers[name]
    array = constant(old)
    if array is None:
        raise ModelError(f"the bias {name!r} is not constant")
    old.const_value = ir.tensor((array + shift.reshape(array.shape)).astype(np.float32), name=name)


def _reader(graph: ir.Graph, value: ir.Value) -> ir.Node:
    """The first node that reads a value."""
    return next(node for node in graph if value in node.inputs)


def _inputs(graph: ir.Graph, site: Site) -> list[ir.Value]:
    names = {use.node for use in site.uses}
    return [value for node in graph if node.name in names for value in node.inputs[:1] if value is not None]


def _drop_unused(graph: ir.Graph) -> None:
    """Remove the float weights that nothing reads any more."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _forget_origin(graph: ir.Graph) -> None:
    """Remove what torch's exporter noted on nodes: stack traces, with paths of the machine that the model came from."""
    for node in graph.all_nodes():
        for key in [key for key in node.metadata_props if key.startswith(_ORIGIN_KEYS)]:
            del node.metadata_props[key]


def _raise_opset(model: ir.Model, sites: Mapping[str, SiteLowering]) -> None:
    """The opset that the base formats need; operators of the prepared graph mean the same from 21 to 25."""
    weights = [how.weight for how in sites.values() if how.weight is not None]
    narrow = any(weight.terms[0].format.bits < 4 for weight in weights)
    opset = max(model.opset_imports[""], 25 if narrow else TARGET_OPSET)
    model.opset_imports[""] = opset
    model.ir_version = ir_version(opset)


def _zeros(builder: Builder, count: int) -> ir.Value:
    """The zero points of symmetric weights, which fusions insist on; one vector serves all sites of its length."""
    return builder.shared(f"zeros.{count}", np.zeros(count, np.int8))


def _marks(node: ir.Node) -> dict[str, str]:
    """What this module noted on a node."""
    return {key: value for key, value in node.metadata_props.items() if key.startswith("ptq.")}
