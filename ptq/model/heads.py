"""The last products of a network in fewer numbers, for those who only want to know how far outputs are apart."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from ptq.model.elements import FLOATS
from ptq.model.graph import Model
from ptq.model.sites import MATMUL, Site


def with_narrow_heads(model: Model) -> tuple[Model, frozenset[str]]:
    """A model whose outputs, and their differences, have the same lengths, and the names of its weights that differ.

    A language model makes tens of thousands of numbers of each position of some hundred, which takes a third of the
    time or more. But `|W h| = |R h|` for `W = QR`, which is as narrow as `h`.
    """
    heads = {site.weight: site for site in model.sites if _is_wide_head(model, site)}
    if not heads:
        return model, frozenset()
    copy = model.graph.clone()
    for name, site in heads.items():
        matrix = torch.from_numpy(np.array(model.matrix(site), np.float32))
        array = np.ascontiguousarray(torch.linalg.qr(matrix, mode="r").R.numpy().T)
        value = copy.graph.initializers[name]
        value.shape, value.const_value = ir.Shape(array.shape), ir.tensor(array, name=name)
        for made in _made(value):
            made.shape = None
    return Model(copy), frozenset(heads)


def _is_wide_head(model: Model, site: Site) -> bool:
    """Whether a weight `(in, out)` has more outputs than inputs, and its product is an output and nothing else."""
    if site.op != MATMUL or not site.transposed or site.rows <= site.columns:
        return False
    weight = model.graph.graph.initializers[site.weight]
    last = _made(weight)[-1]
    return len(weight.uses()) == 1 and last.is_graph_output() and not last.uses()


def _made(weight: ir.Value) -> list[ir.Value]:
    """The product of the first node that reads a weight, and the same in the type of an output."""
    product = weight.consumers()[0].outputs[0]
    readers = [] if product.is_graph_output() else product.consumers()
    cast = readers[0].outputs[0] if [reader.op_type for reader in readers] == ["Cast"] else None
    return [product] if cast is None or cast.dtype not in FLOATS else [product, cast]
