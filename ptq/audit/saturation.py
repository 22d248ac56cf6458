"""What a file answers on processors without VNNI, whose int8 kernels add pairs of products in 16 bits.

There MLAS multiplies uint8 inputs with int8 weights and adds neighbours along the inner axis by one instruction
(vpmaddubsw), whose sums stop at the ends of int16. A pair can only stop where its weights have one sign and come to 129
and more, so few pairs are computed. The graph is run in pieces, and from what each product gives is taken what its
pairs would lose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto
from torch import Tensor
from torch.nn import functional

from ptq.audit.pieces import Arrays, Pieces, types_of
from ptq.errors import ModelError, first_line

_LOW, _HIGH = -(1 << 15), (1 << 15) - 1
_LEAST_PAIR: Final = 129
"""Of weights with one sign: 255 times less stays within int16."""

_AT_ONCE: Final = 1 << 22
_CONV, _GEMM, _MATMUL, _INTEGER = "Conv", "Gemm", "MatMul", "MatMulInteger"


@dataclass(frozen=True)
class Product:
    """A node whose int8 kernel may stop: its uint8 input and int8 weight, and what they are scaled by.

    Without scales its output is of integers.
    """

    node: NodeProto
    input: str
    weight: str
    zero_point: str | None
    scales: tuple[str, str] | None

    @property
    def names(self) -> tuple[str, ...]:
        """All values that are read besides the input."""
        return tuple(filter(None, (self.weight, self.zero_point, *(self.scales or ()))))


class Saturating:
    """A file as it runs without VNNI; `stopped` counts the sums of pairs that did, of `pairs` in the runs so far."""

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Cut a file around its products that may stop; None where it has none.

        Raises:
            ModelError: it does not load in pieces.

        """
        try:
            model = onnx.load(path)
            pieces = Pieces(model, types_of(model))
        except Exception as error:  # protobuf's errors, the checker's and those of the inference share no base class
            raise ModelError(f"{path} cannot be taken apart: {first_line(error)}") from error
        made = {name: node for node in model.graph.node for name in node.output}
        found = [each for node in model.graph.node if (each := _product(node, made, pieces)) is not None]
        weights = pieces.constants({each.weight for each in found})
        products = [each for each in found if _adds_pairs(each.node, weights[each.weight].shape)]
        return cls(pieces, products, [value.name for value in model.graph.output]) if products else None

    def __init__(self, pieces: Pieces, products: Sequence[Product], outputs: Sequence[str]) -> None:
        self.products = {id(each.node): each for each in products}
        self.outputs = tuple(outputs)
        self.stopped = self.pairs = 0
        cut = pieces.cut(self.products)
        wanted = {*self.outputs, *(name for nodes in cut for node in nodes for name in node.input)}
        wanted |= {name for each in self.products.values() for name in (each.input, *each.names)}
        self._pieces = [
            (pieces.session(nodes, [name for node in nodes for name in node.output if name in wanted]), nodes)
            for nodes in cut
        ]
        self._constants = pieces.constants([name for name in wanted if pieces.is_constant(name)])

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> list[np.ndarray]:
        """Some outputs for one batch, or all."""
        values: Arrays = {**self._constants, **feeds}
        for session, nodes in self._pieces:
            made = session.run({name: values[name] for name in session.inputs})
            values |= dict(zip(session.outputs, made, strict=True))
            product = self.products.get(id(nodes[0]))
            if product is not None:
                (name,) = session.outputs
                values[name] = self._corrected(product, values[name], values)
        found: list[np.ndarray] = [values[name] for name in outputs or self.outputs]
        return found

    def _corrected(self, product: Product, out: np.ndarray, values: Arrays) -> np.ndarray:
        """The output of a product without what its pairs lose."""
        zero = 0 if product.zero_point is None else int(values[product.zero_point].reshape(-1)[0])
        columns, rows = _lines(product.node, values[product.input], values[product.weight], zero)
        excess, stopped = _excess(columns, rows)
        self.stopped += stopped
        self.pairs += excess.numel() * -(-rows.shape[2] // 2)
        lost = _as_output(product.node, excess, out.shape)
        if product.scales is None:
            whole: np.ndarray = out - lost.astype(out.dtype)
            return whole
        steps = values[product.scales[0]] * values[product.scales[1]].reshape(-1)
        shape = [1] * out.ndim
        if steps.size > 1:
            shape[1 if product.node.op_type == _CONV else -1] = -1
        found: np.ndarray = out - (lost * steps.reshape(shape)).astype(out.dtype)
        return found


def _product(node: NodeProto, made: Mapping[str, NodeProto], pieces: Pieces) -> Product | None:
    """A node that int8 kernels compute which may stop; None for all others."""
    if node.op_type == _INTEGER:
        zero = node.input[2] if len(node.input) > 2 and node.input[2] else None
        found = Product(node, node.input[0], node.input[1], zero, None)
    elif node.op_type in {_CONV, _GEMM, _MATMUL} and _is_plain(node):
        decoded = [made.get(name) for name in node.input[:2]]
        if any(each is None or each.op_type != "DequantizeLinear" for each in decoded):
            return None
        (x, w) = (each for each in decoded if each is not None)
        zero = x.input[2] if len(x.input) > 2 and x.input[2] else None
        found = Product(node, x.input[0], w.input[0], zero, (x.input[1], w.input[1]))
    else:
        return None
    kinds = pieces.type_of(found.input), pieces.type_of(found.weight)
    fits = kinds == (TensorProto.UINT8, TensorProto.INT8) and pieces.is_constant(found.weight)
    return found if fits else None


def _is_plain(node: NodeProto) -> bool:
    """Whether a node has none of the forms that are left out: padded by rule, scaled, turned inputs."""
    said = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type == _CONV:
        return said.get("auto_pad", b"NOTSET") in {b"NOTSET", b"VALID"}
    return said.get("alpha", 1.0) == 1.0 and not said.get("transA", 0)


def _adds_pairs(node: NodeProto, weight: Sequence[int]) -> bool:
    """Whether its kernel does: of matrices, and of convolutions over images with more than a channel an output."""
    return len(weight) == 4 and weight[1] > 1 if node.op_type == _CONV else len(weight) == 2


def _attributes(node: NodeProto) -> dict[str, list[int]]:
    usual = {"strides": [1, 1], "dilations": [1, 1], "pads": [0, 0, 0, 0], "group": 1, "transB": 0}
    return {**usual, **{each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}}


def _lines(node: NodeProto, x: np.ndarray, w: np.ndarray, zero: int) -> tuple[Tensor, Tensor]:
    """What is multiplied: inputs `(lines, groups, k)`, weights `(groups, rows, k)`, both in the order of the kernel."""
    weight = torch.from_numpy(w.astype(np.int32))
    if node.op_type != _CONV:
        turned = node.op_type == _GEMM and _attributes(node)["transB"]
        rows = weight if turned else weight.T
        return torch.from_numpy(x.reshape(-1, x.shape[-1]).astype(np.int32))[:, None], rows[None]
    said = _attributes(node)
    top, left, bottom, right = said["pads"]
    groups, (kernel_height, kernel_width) = int(said["group"]), w.shape[2:]  # type: ignore[call-overload]
    padded = functional.pad(torch.from_numpy(x.astype(np.float32)), (left, right, top, bottom), value=float(zero))
    taken = functional.unfold(
        padded,
        (kernel_height, kernel_width),
        dilation=tuple(said["dilations"]),
        stride=tuple(said["strides"]),
    )
    samples, _, places = taken.shape
    apart = taken.reshape(samples, groups, -1, kernel_height * kernel_width, places)  # channels of a group, then places
    columns = apart.permute(0, 4, 1, 3, 2).reshape(samples * places, groups, -1).int()
    rows = weight.reshape(groups, -1, weight.shape[1], kernel_height * kernel_width).transpose(2, 3)
    return columns, rows.reshape(groups, rows.shape[1], -1)


def _excess(columns: Tensor, rows: Tensor) -> tuple[Tensor, int]:
    """What pairs come to beyond int16, `(lines, groups, rows)`, and how many of them do."""
    if rows.shape[2] % 2:
        columns, rows = functional.pad(columns, (0, 1)), functional.pad(rows, (0, 1))
    first, second = rows[..., 0::2], rows[..., 1::2]
    over = first.clamp(min=0) + second.clamp(min=0) >= _LEAST_PAIR
    under = first.clamp(max=0) + second.clamp(max=0) <= -_LEAST_PAIR
    excess = torch.zeros(len(columns), *rows.shape[:2], dtype=torch.int64)
    stopped = 0
    for group in range(len(rows)):
        row, pair = torch.nonzero(over[group] | under[group], as_tuple=True)
        step = max(1, _AT_ONCE // max(len(columns), 1))
        for start in range(0, len(row), step):
            part = slice(start, start + step)
            some = columns[:, group][:, 2 * pair[part]], columns[:, group][:, 2 * pair[part] + 1]
            weights = first[group][row[part], pair[part]], second[group][row[part], pair[part]]
            sums = some[0] * weights[0] + some[1] * weights[1]
            beyond = sums - sums.clamp(_LOW, _HIGH)
            stopped += int((beyond != 0).sum())
            excess[:, group].index_add_(1, row[part], beyond.long())
    return excess, stopped


def _as_output(node: NodeProto, excess: Tensor, shape: Sequence[int]) -> np.ndarray:
    """What is lost, in the shape of the output."""
    flat = excess.flatten(1)
    if node.op_type == _CONV:
        samples, channels = shape[:2]
        return flat.reshape(samples, -1, channels).transpose(1, 2).reshape(*shape).numpy()
    return flat.reshape(*shape).numpy()
