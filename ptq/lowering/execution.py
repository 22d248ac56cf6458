"""How a site computes, from what it is, how its weight is stored, and what activations are."""

from __future__ import annotations

from enum import Enum

import onnx_ir as ir

from ptq.method import Method
from ptq.model.graph import Model
from ptq.model.sites import CONV, GEMM, LOOKUPS, PRODUCTS, RECURRENT, Site
from ptq.support import fits_blocks


class Execution(Enum):
    """How a site computes."""

    STATIC = "static"
    """uint8 inputs with a calibrated range, int8 weights."""
    DYNAMIC = "dynamic"
    """uint8 inputs with a range found at every call, int8 weights."""
    BLOCKS = "blocks"
    """Low-bit weights as they are stored, in MatMulNBits, which rounds its input to int8 by itself."""
    WEIGHTS = "weights"
    """Low-bit storage, float weights after loading."""
    SIMULATED = "simulated"
    """Float weights after loading, and inputs that are rounded to a format but computed with in float."""
    QDQ = "qdq"
    """Inputs and weights in a type of the runtime that the file is for, each behind a DequantizeLinear."""
    DEQUANTIZED = "dequantized"
    """Weights alone in such a type, behind a DequantizeLinear."""
    LOOKUP = "lookup"
    """A table: rows are taken as they are stored, and only those become float."""
    FLOAT = "float"
    """Not quantized."""


def execution(model: Model, site: Site, method: Method, activations: str) -> Execution:
    """How a site computes that is quantized: convolutions and rank-2 products static, others dynamic."""
    if site.op in LOOKUPS:
        return Execution.LOOKUP
    if site.op in RECURRENT:
        return Execution.WEIGHTS
    if activations == "none":
        alone = len(site.products) == 1  # ONNX Runtime makes no MatMulNBits of a weight that is read twice
        return Execution.BLOCKS if site.op in PRODUCTS and alone and _in_blocks(method) else Execution.WEIGHTS
    if activations not in ("uint8", "dynamic"):
        return Execution.SIMULATED
    if site.op == CONV:
        return Execution.STATIC if activations == "uint8" else Execution.WEIGHTS
    return Execution.STATIC if activations == "uint8" and _is_flat(model, site) else Execution.DYNAMIC


def _is_flat(model: Model, site: Site) -> bool:
    """Whether all inputs of a product have rank 2."""
    names = {use.node for use in site.products}
    nodes = [node for node in model.graph.graph if node.name in names]
    return all(node.op_type == GEMM or _rank(node.inputs[0]) == 2 for node in nodes)


def _rank(value: ir.Value | None) -> int | None:
    return len(value.shape) if value is not None and value.shape is not None else None


def _in_blocks(method: Method) -> bool:
    """Whether the weights are integers that MatMulNBits takes, times scales that it takes."""
    return method.integral and fits_blocks(method.scheme.format)
