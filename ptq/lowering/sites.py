"""What becomes of one site: its weight, and the nodes that compute with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_ir as ir

from ptq.errors import ModelError
from ptq.lowering import lookup, products
from ptq.lowering.blocks import block_weight
from ptq.lowering.builder import Builder
from ptq.lowering.execution import Execution
from ptq.lowering.lookup import Rows
from ptq.lowering.marks import EXECUTION_KEY, REASON_KEY, site_key
from ptq.lowering.native import Native, block_image, weight_image
from ptq.lowering.quantizers import Quantized
from ptq.lowering.simulated import Simulated
from ptq.lowering.weights import Int8Weight, float_weight, int8_weight
from ptq.model.sites import CONV, GEMM, PRODUCTS, RECURRENT, Site, Use, constant
from ptq.qtensor import QTensor
from ptq.ranges import ActivationRange


@dataclass(frozen=True, eq=False)
class SiteLowering:
    """What becomes of a site: its weight, what is added to its bias `(out,)`, and why it stays float if it does.

    A weight that has no numbers, only what they take, comes with what reads it.
    """

    execution: Execution
    weight: QTensor | None = None
    bias_shift: np.ndarray | None = None
    reason: str | None = None
    read: Callable[[], QTensor] | None = None

    def numbers(self) -> QTensor | None:
        """The weight with its numbers."""
        return self.weight if self.read is None else self.read()


@dataclass(frozen=True)
class Inputs:
    """What the sites of a graph multiply their weights with, each tensor quantized once however many read it."""

    graph: ir.Graph
    quantized: Mapping[str, Quantized]
    ranges: Mapping[str, ActivationRange]
    activations: str
    dynamic: dict[str, ir.Node] = field(default_factory=dict)

    @cached_property
    def simulated(self) -> Simulated:
        """Rounding to the format of the activations."""
        return Simulated(self.graph, self.ranges, self.activations)

    @cached_property
    def native(self) -> Native:
        """The same as QuantizeLinear and DequantizeLinear."""
        return Native(self.graph, self.ranges, self.activations)


def lower_site(graph: ir.Graph, site: Site, nodes: Sequence[ir.Node], how: SiteLowering, inputs: Inputs) -> None:
    """Rewrite the nodes of a site, which are in the order of its uses."""
    pairs = list(zip(nodes, site.uses, strict=True))
    reason = how.reason or _why_float(site, how)
    for node, use in pairs:
        if use.lookup and how.execution is not Execution.LOOKUP and how.weight is not None:
            continue  # the product stands for the site
        node.metadata_props.update({site_key(use.slot): site.name, EXECUTION_KEY: how.execution.value})
        if reason is not None:
            node.metadata_props[REASON_KEY] = reason
    weight = how.numbers()
    if weight is None:
        return
    tables = [node for node, use in pairs if use.lookup]
    if how.execution is Execution.LOOKUP:
        for number, node in enumerate(tables):
            lookup.take(graph, node, site.name if number == 0 else f"{site.name}.{number}", weight)
        return
    _shift_bias(graph, site, how.bias_shift)
    builder = Builder(graph, nodes[0] if not tables else _first(graph, nodes), site.name)
    computing = [(node, use) for node, use in pairs if not use.lookup]
    rows = _PRODUCTS[how.execution](builder, site, computing, weight, inputs)
    for number, node in enumerate(tables):
        if rows is None:
            raise ModelError(f"{site.name} is a table and a weight of {site.op}, which is not supported together")
        lookup.take_shared(graph, node, f"{site.name}.table{number}", rows, weight.terms[0])


def _why_float(site: Site, how: SiteLowering) -> str | None:
    """Why a product whose weights alone are quantized does not run in MatMulNBits, if that is for its uses."""
    if how.execution is not Execution.WEIGHTS or site.op not in PRODUCTS or len(site.products) == 1:
        return None
    return f"float, as {len(site.products)} products share the weight"


_Uses = Sequence[tuple[ir.Node, Use]]


def _static(builder: Builder, site: Site, uses: _Uses, weight: QTensor, inputs: Inputs) -> Rows | None:
    made = int8_weight(builder, weight, site.shape if site.op == CONV else weight.shape)
    zero = products.zeros(builder, site.rows)
    image = builder.call("DequantizeLinear", made.integers, made.scale, zero, name="weight", axis=0)
    for node, use in uses:
        if site.op == CONV:
            node.replace_input_with(1, image)
        else:
            products.static(inputs.graph, node, use, image, made, inputs.quantized[use.input])
    return _rows(site, made)


def _dynamic(builder: Builder, site: Site, uses: _Uses, weight: QTensor, inputs: Inputs) -> Rows | None:
    made = int8_weight(builder, weight, weight.shape)
    turned = builder.call("Transpose", made.integers, name="columns", perm=[1, 0])
    for node, _ in uses:
        products.dynamic(inputs.graph, node, turned, made, inputs.dynamic)
    return _rows(site, made)


def _blocks(builder: Builder, site: Site, uses: _Uses, weight: QTensor, inputs: Inputs) -> Rows | None:
    made = block_weight(builder, weight, table=any(use.lookup for use in site.uses))
    for node, use in uses:
        products.with_weight(inputs.graph, node, use, made.image, site.rows)
    return made.rows


def _weights(builder: Builder, site: Site, uses: _Uses, weight: QTensor, inputs: Inputs) -> Rows | None:  # noqa: ARG001
    shape = site.shape if site.op == CONV else weight.shape
    dense = float_weight(builder, weight, shape)
    if site.op in RECURRENT:
        dense = builder.call("Reshape", dense, builder.constant("shape", np.array(site.shape)), name="weight")
    value = builder.call("Transpose", dense, name="columns", perm=[1, 0]) if site.transposed else dense
    for node, use in uses:
        node.replace_input_with(use.slot, value)
    return Rows(dense)


def _simulated(builder: Builder, site: Site, uses: _Uses, weight: QTensor, inputs: Inputs) -> Rows | None:
    rows = _weights(builder, site, uses, weight, inputs)
    for node, use in uses:
        node.replace_input_with(0, inputs.simulated.image(node, use.input))
    return rows


def _qdq(builder: Builder, site: Site, uses: _Uses, weight: QTensor, inputs: Inputs) -> Rows | None:
    image = weight_image(builder, site, weight)
    for node, use in uses:
        node.replace_input_with(0, inputs.native.image(node, use.input))
        node.replace_input_with(1, image)
    return None


def _dequantized(builder: Builder, site: Site, uses: _Uses, weight: QTensor, inputs: Inputs) -> Rows | None:  # noqa: ARG001
    image = block_image(builder, weight)
    for node, _ in uses:
        node.replace_input_with(1, image)
        if node.op_type == GEMM:
            node.attributes["transB"] = ir.AttrInt64("transB", 0)  # blocks go along the first axis of `(in, out)`
    return None


_PRODUCTS = {
    Execution.STATIC: _static,
    Execution.DYNAMIC: _dynamic,
    Execution.BLOCKS: _blocks,
    Execution.WEIGHTS: _weights,
    Execution.SIMULATED: _simulated,
    Execution.QDQ: _qdq,
    Execution.DEQUANTIZED: _dequantized,
}


def _rows(site: Site, made: Int8Weight) -> Rows | None:
    return None if site.op == CONV else Rows(made.integers, made.scale)


def _first(graph: ir.Graph, nodes: Sequence[ir.Node]) -> ir.Node:
    """The one of the nodes that runs first."""
    wanted = set(map(id, nodes))
    return next(node for node in graph if id(node) in wanted)


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
