"""Which kernel of ONNX Runtime computes each site of a written file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import GraphProto, NodeProto

from ptq.audit.graphs import COMPUTING, GraphIndex, is_integer
from ptq.lowering import Execution
from ptq.lowering.marks import EXECUTION_KEY, REASON_KEY, SITE_KEY

_MOST_HOPS = 4
_LOST = "not found in the optimized graph"


@dataclass(frozen=True)
class Kernel:
    """The operator of the optimized graph that computes a site.

    `expected` is how the lowering meant it to compute; `reason` says why it is not an integer kernel on a weight
    that was decoded at load, None where it is. `nodes` are the names of the operators.
    """

    op: str
    integer: bool
    expected: str
    reason: str | None
    nodes: tuple[str, ...] = field(default=(), compare=False)


def find_kernels(written: GraphProto, optimized: GraphProto) -> dict[str, Kernel]:
    """The kernel of every marked site of the written graph, looked up in the graph that ONNX Runtime made of it."""
    before, after = GraphIndex.of(written), GraphIndex.of(optimized)
    found: dict[str, list[Kernel]] = {}
    for node in written.node:
        marks = {entry.key: entry.value for entry in node.metadata_props}
        for key, site in marks.items():
            if key.startswith(SITE_KEY):
                slot = int(key.removeprefix(SITE_KEY).lstrip(".") or 1)
                found.setdefault(site, []).extend(_kernels(node, slot, marks, before, after))
    return {site: _joined(kernels) for site, kernels in found.items()}


def _kernels(
    node: NodeProto, slot: int, marks: Mapping[str, str], before: GraphIndex, after: GraphIndex
) -> list[Kernel]:
    """The kernels that one marked node became, several where its weight, at the input `slot`, is shared."""
    if marks.get(EXECUTION_KEY) == Execution.LOOKUP.value:
        return [Kernel(node.op_type, integer=False, expected=Execution.LOOKUP.value, reason=None)]
    stored = next((name for name in _weight_names(node, slot, before) if name in after.stored), None)
    computing = list(_readers(stored, after)) if stored is not None else []
    if not computing:
        computing = [(found, None) for found in _by_output(node, before, after)]
    expected, mark = marks.get(EXECUTION_KEY, ""), marks.get(REASON_KEY)
    if not computing:
        return [Kernel(node.op_type, integer=False, expected=expected, reason="not found in the optimized graph")]
    return [_kernel(found, decoding, expected, mark) for found, decoding in computing]


def _kernel(node: NodeProto, decoding: str | None, expected: str, mark: str | None) -> Kernel:
    integer = is_integer(node)
    reason = f"{decoding} of the weight at every call" if decoding else None
    if not integer:
        reason = mark or reason or f"runs as {node.op_type} in float"
    elif mark:
        reason = f"{mark}, but ONNX Runtime quantized it by itself"
    return Kernel(node.op_type, integer, expected, reason, (node.name,))


def _weight_names(node: NodeProto, slot: int, graph: GraphIndex) -> Iterator[str]:
    """The values that the weight of a node is made of, nearest first; the name of the folded one is among them."""
    name = node.input[slot]
    while name:
        yield name
        maker = graph.producer.get(name)
        name = maker.input[0] if maker is not None and maker.input else ""


def _readers(name: str, graph: GraphIndex, decoding: str | None = None) -> Iterator[tuple[NodeProto, str | None]]:
    """The computing nodes that a stored weight reaches, each with the first operator in between."""
    for node in graph.readers.get(name, ()):
        if node.op_type in COMPUTING:
            yield node, decoding
        elif graph.constant.issuperset(node.output):
            yield from _readers(node.output[0], graph, decoding or node.op_type)


def _by_output(node: NodeProto, before: GraphIndex, after: GraphIndex) -> list[NodeProto]:
    """The node that makes the output of a node, or of what was fused to its end.

    Convolutions on blocked channels have renamed weights and outputs; they are named after their output.
    """
    values = [*node.output, node.name]  # a fused node on channels last names its output after the node
    for _ in range(_MOST_HOPS):
        for name in values:
            for found in (_behind_reshape(name, after), after.named.get(f"{name}_nchwc")):
                if found is not None and found.op_type in COMPUTING:
                    return [found]
        following = (reader for name in values for reader in before.readers.get(name, ()))
        values = [name for reader in following if reader.op_type not in COMPUTING for name in reader.output]
    return []


def _behind_reshape(name: str, graph: GraphIndex) -> NodeProto | None:
    """What makes a value: of a product of rank 3 with a bias, ONNX Runtime makes one of rank 2 and two Reshape."""
    found = graph.producer.get(name)
    return graph.producer.get(found.input[0]) if found is not None and found.op_type == "Reshape" else found


def _joined(kernels: Sequence[Kernel]) -> Kernel:
    """The kernels of the uses of one site as one: in integers if all are, with the first reason why not."""
    ops = ", ".join(sorted({kernel.op for kernel in kernels}))
    reason = next((kernel.reason for kernel in kernels if kernel.reason), None)
    nodes = tuple(dict.fromkeys(name for kernel in kernels for name in kernel.nodes))
    return Kernel(ops, all(kernel.integer for kernel in kernels), kernels[0].expected, reason, nodes)
