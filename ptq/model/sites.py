"""Where a model can be quantized: the weights of convolutions and matrix products, embedding tables, recurrent weights.

A site is one weight. Its matrix is always `(groups, out, in)`: convolutions are flattened in the order of
`calibration.im2col`, matrix products are brought to output rows, so that no method sees a layout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import onnx_ir as ir

from ptq.model.geometry import Geometry, groups_of

CONV: Final = "Conv"
GEMM: Final = "Gemm"
MATMUL: Final = "MatMul"
GATHER: Final = "Gather"
SLICE: Final = "Slice"
LOOKUPS: Final = (GATHER, SLICE)
RECURRENT: Final = ("LSTM", "GRU", "RNN")
PRODUCTS: Final = (GEMM, MATMUL)
ASIDE_KEY: Final = "ptq.aside"
"""Metadata of products that are meant to be float, beside one that is a site."""


@dataclass(frozen=True)
class Use:
    """One node that reads a site's weight, as its input `slot`; `input` is what the weight is multiplied with."""

    node: str
    input: str
    output: str
    bias: str | None
    geometry: Geometry | None = None
    slot: int = 1

    @property
    def lookup(self) -> bool:
        """Whether it takes rows of the weight instead of multiplying with it."""
        return self.slot == 0


@dataclass(frozen=True)
class Site:
    """One weight that can be quantized; `transposed` says that the graph holds it as `(in, out)`."""

    name: str
    op: str
    weight: str
    shape: tuple[int, ...]
    groups: int
    transposed: bool
    uses: tuple[Use, ...]

    @property
    def rows(self) -> int:
        """Output channels, over all groups; the entries of a table; of a recurrent layer, over gates and directions."""
        if self.op in RECURRENT:
            return math.prod(self.shape[:-1])
        return self.shape[-1] if self.transposed else self.shape[0]

    @property
    def products(self) -> tuple[Use, ...]:
        """The uses whose inputs the weight multiplies in one place, so that their moment says what its errors do."""
        return () if self.op in RECURRENT else tuple(use for use in self.uses if not use.lookup)

    @property
    def columns(self) -> int:
        """Weights of one output channel."""
        return math.prod(self.shape) // self.rows

    @property
    def kernel(self) -> int:
        """How many weights of an output channel one channel of the input has."""
        return math.prod(self.shape[2:]) if self.op == CONV else 1

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """The weight of the graph as `(out, in)`."""
        return weight.T if self.transposed else weight.reshape(self.rows, self.columns)

    def tensor(self, matrix: np.ndarray) -> np.ndarray:
        """The inverse of `matrix`."""
        return np.ascontiguousarray(matrix.T) if self.transposed else matrix.reshape(self.shape)


def find_sites(graph: ir.Graph) -> tuple[Site, ...]:
    """The sites of a prepared graph in the order of execution; weights that are not float32 are none."""
    found: dict[tuple[str, int, bool], Site] = {}
    for node in graph:
        for site in _sites(node):
            key = (site.weight, site.groups, site.transposed)
            known = found.get(key)
            found[key] = site if known is None else _merged(known, site)
    return tuple(_named_apart(_tied(graph, list(found.values()))))


def _tied(graph: ir.Graph, sites: list[Site]) -> list[Site]:
    """Sites with the tables that are the transposed weight of a product joined to it, so that they are stored once."""
    joined = list(sites)
    for table in sites:
        for product in sites if table.op in LOOKUPS else ():
            if product.op in PRODUCTS and product.transposed and product.shape == table.shape[::-1]:
                arrays = [constant(graph.initializers[site.weight]) for site in (table, product)]
                if arrays[0] is not None and arrays[1] is not None and np.array_equal(arrays[0], arrays[1].T):
                    joined.remove(table)
                    joined[joined.index(product)] = _merged(product, table)
                    break
    return joined


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer, or None."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return value.const_value.numpy()


def weight_slots(node: ir.Node) -> tuple[int, ...]:
    """Which inputs of a node are the weights of layers of a kind that is quantized."""
    known = node.domain in ("", "ai.onnx") and ASIDE_KEY not in node.metadata_props
    return _SLOTS.get(node.op_type, (1,)) if known and node.op_type in _READERS else ()


def _sites(node: ir.Node) -> Iterator[Site]:
    for slot in weight_slots(node):
        if len(node.inputs) <= max(slot, 1) or node.inputs[0] is None:
            return
        weight = node.inputs[slot]
        if weight is None or weight.const_value is None or weight.dtype != ir.DataType.FLOAT:
            continue
        if not (weight.is_initializer() and weight.const_value.size) or (slot and constant(node.inputs[0]) is not None):
            continue
        if (site := _READERS[node.op_type](node, weight)) is not None:
            yield replace(site, uses=tuple(replace(use, slot=slot) for use in site.uses))


def _conv(node: ir.Node, weight: ir.Value) -> Site | None:
    shape = _shape(weight)
    if len(shape) < 3:
        return None
    geometry = Geometry.of(node, shape[2:])
    groups = groups_of(node, shape[0])
    return Site(named(node, weight), CONV, _id(weight), shape, groups, transposed=False, uses=(_use(node, geometry),))


def _gemm(node: ir.Node, weight: ir.Value) -> Site | None:
    plain = (
        node.attributes.get_int("transA", 0) == 0
        and node.attributes.get_float("alpha", 1.0) == 1.0
        and (len(node.inputs) < 3 or node.inputs[2] is None or node.attributes.get_float("beta", 1.0) == 1.0)
    )
    if not plain:
        return None
    transposed = node.attributes.get_int("transB", 0) == 0
    return Site(named(node, weight), GEMM, _id(weight), _shape(weight), 1, transposed, (_use(node, None),))


def _matmul(node: ir.Node, weight: ir.Value) -> Site | None:
    if len(_shape(weight)) != 2:
        return None
    return Site(named(node, weight), MATMUL, _id(weight), _shape(weight), 1, transposed=True, uses=(_use(node, None),))


def _lookup(node: ir.Node, weight: ir.Value) -> Site | None:
    if len(_shape(weight)) != 2 or not _takes_rows(node) or _shape(weight)[0] < _LEAST_TABLE or not _embeds(node):
        return None
    uses = (_use(node, None, biased=False),)
    return Site(named(node, weight), node.op_type, _id(weight), _shape(weight), 1, transposed=False, uses=uses)


def _takes_rows(node: ir.Node) -> bool:
    if node.op_type == GATHER:
        return node.attributes.get_int("axis", 0) == 0
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    return axes is not None and axes.tolist() == [0]


def _embeds(node: ir.Node) -> bool:
    """Whether rows are embeddings: not what is added to attention scores, nor, of positions, a mask or an angle."""
    readers = list(_readers(node.outputs[0]))
    if any(reader.op_type == "Add" and _is_softmax_next(reader) for reader in readers):
        return False
    return node.op_type == GATHER or all(reader.op_type in _SUMS for reader in readers)


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """What computes with a value, whatever layout it is brought into before."""
    seen, left = {value}, [value]
    while left:
        for node in left.pop().consumers():
            if node.op_type not in _LAYOUT:
                yield node
            elif node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                left.append(node.outputs[0])


def _is_softmax_next(node: ir.Node) -> bool:
    return any(reader.op_type == "Softmax" for reader in _readers(node.outputs[0]))


def _recurrent(node: ir.Node, weight: ir.Value) -> Site | None:
    uses = (_use(node, None, biased=False),)
    return Site(named(node, weight), node.op_type, _id(weight), _shape(weight), 1, transposed=False, uses=uses)


_LEAST_TABLE = 16
"""Fewer rows than this are no table but a choice between a few vectors, such as of segments."""

_LAYOUT: Final = frozenset({"Cast", "Expand", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_SUMS: Final = frozenset({"Add", "Concat", "LayerNormalization", "Sum"})
"""What embeddings of positions go into; angles are multiplied with, and masks cut along their other axis too."""

_READERS = {
    CONV: _conv,
    GEMM: _gemm,
    MATMUL: _matmul,
    **dict.fromkeys(LOOKUPS, _lookup),
    **dict.fromkeys(RECURRENT, _recurrent),
}
_SLOTS = {**dict.fromkeys(LOOKUPS, (0,)), **dict.fromkeys(RECURRENT, (1, 2))}
"""Which inputs of a node are weights, where it is not the second alone."""


def _use(node: ir.Node, geometry: Geometry | None, *, biased: bool = True) -> Use:
    bias = _bias(node) if biased else None
    return Use(str(node.name), _id(node.inputs[0]), _id(node.outputs[0]), _id(bias) if bias else None, geometry)


def _bias(node: ir.Node) -> ir.Value | None:
    """The bias of a node: its third input, or what an Add right behind a MatMul adds, if it is a constant vector."""
    if node.op_type == MATMUL:
        add = following_add(node)
        return None if add is None else next(v for v in add.inputs if v is not node.outputs[0])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return bias if _is_vector(constant(bias), _channels(node)) else None


def _channels(node: ir.Node) -> int:
    """How many output channels a node has."""
    shape = _shape(node.inputs[1]) if node.inputs[1] is not None else (0,)
    by_rows = node.op_type == CONV or node.attributes.get_int("transB", 0) == 1
    return shape[0] if by_rows else shape[-1]


def _is_vector(array: np.ndarray | None, channels: int) -> bool:
    return array is not None and array.size == channels and array.shape[-1:] == (channels,)


def following_add(matmul: ir.Node) -> ir.Node | None:
    """The Add that gives a MatMul its bias: the only consumer, with a constant vector of one number per channel."""
    consumers = matmul.outputs[0].consumers()
    if len(consumers) != 1 or consumers[0].op_type != "Add" or matmul.outputs[0].is_graph_output():
        return None
    others = [v for v in consumers[0].inputs if v is not matmul.outputs[0]]
    array = constant(others[0]) if len(others) == 1 else None
    data = matmul.inputs[0]
    rank = 1 if data is None or data.shape is None else len(data.shape)
    fits = array is not None and array.ndim <= max(rank, 1) and _is_vector(array, _channels(matmul))
    return consumers[0] if fits else None


def _merged(site: Site, other: Site) -> Site:
    """One site for both; named after a product rather than a table."""
    first, second = (other, site) if site.op in LOOKUPS else (site, other)
    return replace(first, uses=first.uses + second.uses)


def _named_apart(sites: Iterable[Site]) -> Iterator[Site]:
    """Give sites of equal name (one weight in two layouts) the names of their nodes."""
    taken: set[str] = set()
    for site in sites:
        name = site.name if site.name not in taken else f"{site.name}:{site.uses[0].node}"
        taken.add(name)
        yield replace(site, name=name)


def named(node: ir.Node, weight: ir.Value) -> str:
    """The name a user knows: the module's if torch's exporter left it, else the weight's or the node's."""
    module = re.fullmatch(r"(.+)\.weight", _id(weight))
    if module:
        return module[1]
    scopes = re.findall(r"'([^']*)'", node.metadata_props.get("pkg.torch.onnx.name_scopes", ""))
    if len(scopes) > 2:
        return str(scopes[-2])
    return str(node.name)


def _shape(value: ir.Value) -> tuple[int, ...]:
    return tuple(value.const_value.shape.numpy()) if value.const_value is not None else ()


def _id(value: ir.Value | None) -> str:
    return str(value.name) if value is not None else ""
