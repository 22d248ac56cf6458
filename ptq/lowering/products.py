"""Matrix products in the forms that ONNX Runtime has fast kernels for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ptq.errors import ModelError
from ptq.lowering.builder import Builder, first_reader, replace
from ptq.lowering.marks import marks
from ptq.lowering.quantizers import Quantized
from ptq.lowering.weights import Int8Weight
from ptq.model.sites import GEMM, MATMUL, Use, constant, following_add


def zeros(builder: Builder, count: int) -> ir.Value:
    """The zero points of symmetric weights, which fusions insist on; one vector serves all sites of its length."""
    return builder.shared(f"zeros.{count}", np.zeros(count, np.int8))


def dynamic(graph: ir.Graph, node: ir.Node, turned: ir.Value, weight: Int8Weight, cache: dict[str, ir.Node]) -> None:
    """DynamicQuantizeLinear, MatMulInteger, rescaling: what ONNX Runtime fuses to DynamicQuantizeMatMul."""
    builder = Builder(graph, node, str(node.name))
    data = node.inputs[0]
    if data is None:
        raise ModelError(f"{node.name} has no input")
    if str(data.name) not in cache:
        cache[str(data.name)] = Builder(graph, first_reader(graph, data), f"{data.name}/dynamic").node(
            "DynamicQuantizeLinear", data, name="quantize", outputs=3
        )
    integers, scale, zero_point = cache[str(data.name)].outputs
    zero = zeros(builder, len(weight.scales))
    product = builder.node("MatMulInteger", integers, turned, zero_point, zero, name="product")
    product.metadata_props.update(marks(node))
    numbers = builder.cast(product.outputs[0], ir.DataType.FLOAT, "numbers")
    steps = builder.call("Mul", scale, weight.scale, name="steps")
    result = builder.call("Mul", numbers, steps, name="result")
    last = _biased(builder, node, result)
    replace(graph, node, last)
    _keep_rank(graph, last)


def _keep_rank(graph: ir.Graph, value: ir.Value) -> None:
    """Write an Add that gives a product one more axis as a Sum: taken up as its bias, it would lose the axis."""
    for add in [node for node in value.consumers() if node.op_type == "Add" and value.shape is not None]:
        others = [constant(other) for other in add.inputs if other is not value]
        if any(array is not None and array.ndim > len(value.shape or ()) for array in others):
            replace(graph, add, Builder(graph, add, str(add.name)).call("Sum", *add.inputs, name="sum"))


def static(
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
    product.metadata_props.update(marks(node))
    replace(graph, add or node, product.outputs[0] if use.bias else _biased(builder, node, product.outputs[0]))


def with_weight(graph: ir.Graph, node: ir.Node, use: Use, image: ir.Value, rows: int) -> None:
    """A product with a weight `(in, rows)` that a DequantizeLinear makes, so that it becomes MatMulNBits.

    Of rank 2 it is a Gemm with a vector for a bias: of a MatMul, ONNX Runtime makes one with whatever is added to it.
    """
    builder = Builder(graph, node, str(node.name))
    data = node.inputs[0]
    if data is None:
        raise ModelError(f"{node.name} has no input")
    last = (following_add(node) if node.op_type == MATMUL else None) or node
    flat = node.op_type == GEMM or (data.shape is not None and len(data.shape) == 2)
    if flat:
        product = builder.node("Gemm", data, image, _vector(builder, graph, use, rows), name="product")
        result = product.outputs[0] if use.bias else _biased(builder, node, product.outputs[0])
    else:
        product, last = builder.node("MatMul", data, image, name="product"), node
        result = product.outputs[0]
    product.metadata_props.update(marks(node))
    replace(graph, last, result)
    _keep_apart(graph, result)


def _vector(builder: Builder, graph: ir.Graph, use: Use, rows: int) -> ir.Value:
    """The bias of a use as `(rows,)`, zeros if there is none."""
    bias = constant(graph.initializers.get(use.bias)) if use.bias else None
    if bias is None:
        return builder.shared(f"bias.{rows}", np.zeros(rows, np.float32))
    return builder.constant("bias", bias.reshape(-1))


def _keep_apart(graph: ir.Graph, value: ir.Value) -> None:
    """Write a Relu or Clip behind a product and its bias as Max and Min.

    ONNX Runtime takes those two for the end of a layer that is quantized at both ends, and makes no MatMulNBits.
    """
    sums = [node.outputs[0] for node in value.consumers() if node.op_type == "Add"]
    for node in [node for each in (value, *sums) for node in each.consumers()]:
        builder = Builder(graph, node, str(node.name))
        result = node.inputs[0]
        if result is None or node.op_type not in ("Relu", "Clip"):
            continue
        zero = builder.shared("zero", np.array(0, np.float32))
        ends = [zero] if node.op_type == "Relu" else list(node.inputs[1:])
        for op, end in zip(("Max", "Min"), ends, strict=False):
            result = result if end is None else builder.call(op, result, end, name=op.lower())
        if result is not node.inputs[0]:
            replace(graph, node, result)


def _biased(builder: Builder, node: ir.Node, result: ir.Value) -> ir.Value:
    """What a Gemm adds, added; for a MatMul that is a node of its own."""
    bias = node.inputs[2] if node.op_type == GEMM and len(node.inputs) > 2 else None
    return result if bias is None else builder.call("Add", result, bias, name="biased")
