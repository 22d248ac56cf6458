"""Weights and activations in the form that runtimes of GPUs quantize by: QuantizeLinear and DequantizeLinear alone.

Weights and scales are initializers as they are, for these runtimes decide by them before anything folds. No
QuantizeLinear has a zero point, its type is an attribute: in front of one whose zero point is of FP8, ONNX Runtime
drops a Relu, by a rule that is bound to no device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptq.formats import Format
from ptq.lowering.builder import STORED, Builder
from ptq.lowering.simulated import Simulated
from ptq.model.sites import Site
from ptq.qtensor import QTensor, Term
from ptq.scales import is_shared


@dataclass(frozen=True)
class Native(Simulated):
    """Quantizes tensors to a format, each with one scale and no zero point."""

    KIND = "native"

    def _rounded(self, builder: Builder, value: ir.Value, step: ir.Value, fmt: Format) -> ir.Value:
        kind = STORED[str(fmt.onnx)].onnx
        numbers = builder.call("QuantizeLinear", value, step, name="quantize", output_dtype=int(kind))
        return builder.call("DequantizeLinear", numbers, step, name="image")


def weight_image(builder: Builder, site: Site, weight: QTensor) -> ir.Value:
    """The weight of a site in the layout of its graph, with a scale per output channel or one for all."""
    (term,) = weight.terms
    stored = builder.constant("plane1", site.tensor(term.values.numpy()), term.format.onnx)
    if is_shared(term.scale):
        return builder.call(
            "DequantizeLinear", stored, builder.constant("scale1", np.array(float(term.scale[0]), np.float32))
        )
    scale = builder.constant("scale1", term.scale.numpy())
    return builder.call("DequantizeLinear", stored, scale, name="weight", axis=1 if site.transposed else 0)


def block_image(builder: Builder, weight: QTensor) -> ir.Value:
    """The weight of a product `(in, out)`, with a scale per block of inputs."""
    (term,) = weight.terms
    stored = builder.constant("plane1", term.values.numpy().T, term.format.onnx)
    scale, size = _block_scales(term)
    return builder.call(
        "DequantizeLinear", stored, builder.constant("scale1", scale), name="weight", axis=0, block_size=size
    )


def _block_scales(term: Term) -> tuple[np.ndarray, int]:
    """Scales `(blocks, out)`, and how many inputs a block has."""
    if term.blocks is None:
        raise AssertionError
    scale = term.blocks.factors.double() * term.scale.double()[:, None]
    return np.ascontiguousarray(scale.float().numpy().T), term.blocks.size
