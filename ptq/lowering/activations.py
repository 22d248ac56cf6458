"""Which tensors are quantized: those around kernels that compute in integers, and no others.

ONNX Runtime fuses an operator only when its inputs come from a DequantizeLinear and its output goes to a
QuantizeLinear; a convolution without the latter runs in float, slower than before. So every output of a static site
is quantized (behind the Relu or Clip that its kernel absorbs), and so is what lies on the way to another static site
as long as ONNX Runtime has a kernel for it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from ptq.model.sites import CONV, MATMUL, constant, following_add

_COMPUTED = frozenset({"Add", "Mul", "Concat", "GlobalAveragePool", "AveragePool", "LeakyRelu", "Sigmoid"})
"""Operators with an integer kernel of their own, whose output has a scale of its own."""

_GATES = frozenset({"HardSwish", "HardSigmoid"})
"""Operators without one that are worth it all the same: a HardSwish can be split, a HardSigmoid feeds a product."""

_MOVED = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand", "Identity"}
)
"""Operators that hand numbers on, so that their output shares the scale of their input."""

FLOAT_KERNELS = frozenset({"Conv", "ConvTranspose", "Gemm"})
"""Kernels whose weights ONNX Runtime quantizes, in silence, between a DequantizeLinear and a QuantizeLinear."""

_ABSORBED = frozenset({"Relu", "Clip"})


@dataclass(frozen=True)
class Activations:
    """The nodes that compute in integers, and the tensors that get a QuantizeLinear.

    `shared` maps a tensor to the one whose scale it has; `bounds` holds the interval of those behind a Relu or Clip,
    which their quantized range must not leave, or the kernel does not absorb the operator. `swished` are the tensors
    that nothing but a HardSwish reads.
    """

    integer: frozenset[str]
    quantized: tuple[str, ...]
    shared: dict[str, str]
    bounds: dict[str, tuple[float, float]]
    swished: tuple[str, ...]

    @property
    def observed(self) -> tuple[str, ...]:
        """The tensors whose range has to be known."""
        return tuple(name for name in self.quantized if name not in self.shared)


def find_activations(graph: ir.Graph, static: Collection[str]) -> Activations:
    """The tensors to quantize when the nodes named in `static` are to compute in integers."""
    wanted = _wanted(graph, frozenset(static))
    integer: set[str] = set()
    quantized: dict[str, None] = {}
    shared: dict[str, str] = {}
    bounds: dict[str, tuple[float, float]] = {}
    for value in graph.inputs:
        if _feeds(value, static):
            quantized[str(value.name)] = None
    for node in graph:
        if node.name not in static and not _stays_integer(node, quantized):
            quantized |= {str(v.name): None for v in node.outputs if _feeds(v, static)}
            continue
        value = node.outputs[0]
        if node.name in static:
            integer.add(str(node.name))
            value = _with_bias(node)
        if not (node.name in static and node.op_type == CONV) and str(value.name) not in wanted:
            continue
        integer |= {str(maker.name) for maker in (node, value.producer()) if maker is not None}
        absorbed = _absorbed(value)
        if node.op_type in _MOVED:
            source = str(node.inputs[0].name) if node.inputs[0] is not None else ""
            shared[str(value.name)] = shared.get(source, source)
        elif absorbed is not None:
            value = absorbed.outputs[0]
            integer.add(str(absorbed.name))
            bounds[str(value.name)] = _bounds(absorbed)
        quantized[str(value.name)] = None
    alone = [name for name in quantized if name not in shared and name not in bounds and name not in shared.values()]
    return Activations(frozenset(integer), tuple(quantized), shared, bounds, _swished(graph, integer, alone))


def observable(graph: ir.Graph, static: Collection[str]) -> tuple[str, ...]:
    """The tensors whose range has to be known when any part of `static` may be what computes in integers."""
    found: dict[str, None] = {}
    for value in (*graph.inputs, *(out for node in graph for out in node.outputs)):
        node = value.producer()
        if _feeds(value, static):
            found[str(value.name)] = None
        if node is not None and (node.name in static or node.op_type in _COMPUTED | _GATES | _MOVED):
            made = _with_bias(node) if node.name in static else value
            absorbed = _absorbed(made)
            found[str((made if absorbed is None else absorbed.outputs[0]).name)] = None
    return tuple(found)


def _swished(graph: ir.Graph, integer: Collection[str], alone: Collection[str]) -> tuple[str, ...]:
    """Those of the tensors that nothing but an integer HardSwish reads."""
    found = []
    for node in graph:
        value = node.inputs[0] if node.op_type == "HardSwish" and node.name in integer else None
        if value is not None and value.name in alone and len(value.uses()) == 1 and not value.is_graph_output():
            found.append(str(value.name))
    return tuple(found)


def _with_bias(node: ir.Node) -> ir.Value:
    """The output of a product, behind the Add that its kernel takes up as the bias."""
    add = following_add(node) if node.op_type == MATMUL else None
    return (add or node).outputs[0]


def _stays_integer(node: ir.Node, quantized: Collection[str]) -> bool:
    if node.op_type in _MOVED:
        return node.inputs[0] is not None and node.inputs[0].name in quantized
    if node.op_type not in _COMPUTED | _GATES:
        return False
    return all(value is not None and value.name in quantized for value in node.inputs)


def _wanted(graph: ir.Graph, static: frozenset[str]) -> frozenset[str]:
    """Tensors from which integer kernels alone lead to a static site."""
    wanted: set[str] = set()
    for node in reversed(list(graph)):
        passes = node.op_type in _COMPUTED | _GATES | _MOVED | _ABSORBED
        if node.name in static or (passes and any(v.name in wanted for v in node.outputs)):
            inputs = node.inputs if node.op_type in _COMPUTED else node.inputs[:1]
            wanted |= {str(value.name) for value in inputs if value is not None}
            continue
        if node.op_type in FLOAT_KERNELS and node.name not in static:
            wanted |= _moved_before(node.inputs[0])
    return frozenset(wanted)


def _moved_before(value: ir.Value | None) -> set[str]:
    """The tensors between a kernel that stays float and what was only moved to it.

    ONNX Runtime moves a DequantizeLinear along, up to the kernel, whose weights it then quantizes by itself; with one
    of its own at the end the kernel stays float (`Quantizers`).
    """
    found = set()
    while value is not None and (producer := value.producer()) is not None and producer.op_type in _MOVED:
        found.add(str(value.name))
        value = producer.inputs[0]
    return found


def _feeds(value: ir.Value, static: Collection[str]) -> bool:
    return any(usage.node.name in static and usage.idx == 0 for usage in value.uses())


def _absorbed(value: ir.Value) -> ir.Node | None:
    """The Relu or Clip right behind a tensor that nobody else reads."""
    consumers = list(value.consumers())
    if len(consumers) != 1 or consumers[0].op_type not in _ABSORBED or value.is_graph_output():
        return None
    node = consumers[0]
    if node.op_type == "Clip" and any(v is not None and constant(v) is None for v in node.inputs[1:]):
        return None
    low, high = _bounds(node)
    return node if low <= 0 <= high and low < high else None


def _bounds(node: ir.Node) -> tuple[float, float]:
    if node.op_type == "Relu":
        return 0.0, float("inf")
    ends = [constant(v) for v in node.inputs[1:]] + [None, None]
    low = float("-inf") if ends[0] is None else float(ends[0])
    high = float("inf") if ends[1] is None else float(ends[1])
    return low, high
