"""Refuse what is no valid ONNX model before anything relies on it. ONNX Runtime, which has to load it, is the judge."""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx

from ptq.errors import ModelError, ModelFileError
from ptq.model.session import Session
from ptq.model.tensors import check_tensors, nodes_within

OLDEST_OPSET, NEWEST_OPSET = 7, 26
_STANDARD = ("", "ai.onnx")

_MOST_CALLS = 1 << 11
"""Of one function, more than any network has; functions that call others twice reach it in 11 steps."""

_SMALL = 1 << 12
"""What may be a shape, by which ONNX Runtime infers others."""

_UNKNOWN = "is not a registered function/op"
Name = tuple[str, str, str]


def check_bounded(proto: onnx.ModelProto, path: Path | None) -> None:
    """Check that loading a model takes no more than there is of it; nothing is allocated because it claims to need it.

    Raises:
        ModelFileError: its weights are not as they claim, or its functions go on without end.

    """
    check_tensors(proto, path)
    _check_functions(proto)


def check_valid(proto: onnx.ModelProto, path: Path | None) -> None:
    """Check a model that lies in a file, or in memory, before anything loads it.

    Raises:
        ModelFileError: its weights are not as they claim, or its functions go on without end.
        ModelError: its opset is none that is read.

    """
    check_bounded(proto, path)
    opset_of({entry.domain: entry.version for entry in proto.opset_import})


def opset_of(imports: Mapping[str, int]) -> int:
    """The version of ONNX's own operators, of those by domain that a model imports.

    Raises:
        ModelError: there is none, or it is outside 7-26.

    """
    version = next((imports[domain] for domain in _STANDARD if domain in imports), None)
    if version is None:
        domains = ", ".join(map(repr, imports)) or "none"
        raise ModelError(f"the model imports no standard ONNX opset, only {domains}; export it with opset 20")
    if not OLDEST_OPSET <= version <= NEWEST_OPSET:
        raise ModelError(
            f"the model has opset {version}, ptq reads {OLDEST_OPSET} to {NEWEST_OPSET}; "
            f"export it again with opset 20, or convert it with onnx.version_converter"
        )
    return int(version)


def refusal(proto: onnx.ModelProto, path: Path | None) -> ModelError | None:
    """Why ONNX Runtime does not take a graph; its weights are inputs to that end, so that none is read."""
    try:
        Session(_without_weights(proto).SerializeToString(), optimize=False)
    except ModelError as error:
        said = str(error).rstrip(".")
        fix = "export it without custom operators" if _UNKNOWN in said else "repair it, or export it again"
        return ModelError(f"{path or 'the model in memory'}: {said}; {fix}")
    return None


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model that is fed its large weights, and those that lie in other files."""
    bare = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    graph, found = proto.graph, bare.graph
    found.name = graph.name
    for kept in ("node", "input", "output", "value_info"):
        getattr(found, kept).extend(getattr(graph, kept))
    fed = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.ByteSize() <= _SMALL:
            found.initializer.append(tensor)
        elif tensor.name not in fed:
            found.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return bare


def _check_functions(proto: onnx.ModelProto) -> None:
    """Functions are written into the graph at each call, which has to come to an end."""
    bodies = {_name(function.domain, function.name, function.overload): function.node for function in proto.functions}
    if len(bodies) < len(proto.functions):
        raise ModelFileError("the model has two functions of one name; export it again")
    if not bodies:
        return
    inside = {
        name: Counter(called for called in map(_called, nodes_within(body)) if called in bodies)
        for name, body in bodies.items()
    }
    try:
        order = list(graphlib.TopologicalSorter(inside).static_order())
    except graphlib.CycleError as error:
        circle = ", ".join(name for _, name, _ in error.args[1])
        raise ModelFileError(f"functions of the model call each other in a circle, {circle}; export it again") from None
    calls = Counter(map(_called, nodes_within(proto.graph.node)))
    for name in reversed(order):
        if calls[name] > _MOST_CALLS:
            raise ModelFileError(
                f"the function {name[1]!r} of the model is called more than {_MOST_CALLS} times; export it without "
                f"functions"
            )
        for called, count in inside[name].items():
            calls[called] += count * calls[name]


def _called(node: onnx.NodeProto) -> Name:
    return _name(node.domain, node.op_type, node.overload)


def _name(domain: str, name: str, overload: str) -> Name:
    return "" if domain in _STANDARD else domain, name, overload
