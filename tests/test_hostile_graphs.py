"""ONNX graphs that are broken or mean harm: one line about them, and neither memory nor time spent."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import Command
from onnx import TensorProto, helper, numpy_helper
from small_graphs import PRODUCT, Node, behind, calling, function, network, node, value
from tiny_models import matmul_onnx

import ptq as library
from ptq.errors import PtqError
from ptq.model import limits
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model


def refusal(proto: onnx.ModelProto, folder: Path) -> str:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(PtqError) as caught:
        _ = Model.of(capture(path, CaptureOptions())).sites
    message = str(caught.value)
    assert "\n" not in message
    return message


def doubling(steps: int) -> onnx.ModelProto:
    """A vector that is put behind itself, again and again; only its sum is read."""
    nodes = [node("Concat", [f"c{k}", f"c{k}"], [f"c{k + 1}"], axis=0) for k in range(steps)]
    total = node("ReduceSum", [f"c{steps}"], ["r"], keepdims=0)
    return network([*nodes, total, node("Mul", ["x", "r"], ["a"]), node("MatMul", ["a", "w"], ["y"])], {"c0": ONE})


def convolution(rank: int | None, **attributes: object) -> onnx.ModelProto:
    shape = None if rank is None else ["n", 3, *[5] * rank]
    kernel = np.ones((2, 3, 3, 3), np.float32)
    nodes = [node("Conv", ["x", "k"], ["y"], **attributes)]
    return network(nodes, {"k": kernel}, [value("x", shape)], [value("y", None)])


def expanded(size: int) -> onnx.ModelProto:
    """A product with a square matrix of one number."""
    nodes = [node("Expand", ["one", "s"], ["m"]), node("MatMul", ["x", "m"], ["y"])]
    weights = {"one": np.ones((1, 1), np.float32), "s": np.array([size, size])}
    return network(nodes, weights, [value("x", ["n", size])], [value("y", ["n", size])])


def sparse() -> onnx.ModelProto:
    proto = network([PRODUCT])
    del proto.graph.initializer[:]
    tensor = proto.graph.sparse_initializer.add(dims=[4, 3])
    tensor.values.CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    tensor.indices.CopyFrom(numpy_helper.from_array(np.array([0, 5])))
    return proto


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    proto = network([PRODUCT])
    change(proto)
    return proto


ONE = np.ones(1, np.float32)
BROKEN: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "a cycle": (lambda: behind([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"])]), "graph is not acyclic"),
    "a node that reads itself": (lambda: behind([node("Add", ["x", "a"], ["a"])]), "the graph is not acyclic"),
    "a value that nothing makes": (lambda: behind([]), "Node input 'a' is not a graph input"),
    "an output that nothing makes": (lambda: network([node("Relu", ["x"], ["z"])]), "output (y) does not exist"),
    "a name made twice": (lambda: behind([node("Relu", ["x"], ["a"])] * 2), "Duplicate definition of name (a)"),
    "two nodes of a name": (
        lambda: behind([node("Relu", ["x"], ["b"], name="k"), node("Relu", ["b"], ["a"], name="k")]),
        "two nodes with same node name (k)",
    ),
    "two weights of a name": (
        lambda: changed(lambda proto: proto.graph.initializer.append(proto.graph.initializer[0])),
        "two weights of the name 'w'",
    ),
    "two inputs of a name": (lambda: network([PRODUCT], inputs=[value("x", ["n", 4])] * 2), "definition-site for (x)"),
    "a sparse weight": (sparse, "'w' is a sparse tensor"),
    "an unknown operator": (lambda: behind([node("Guess", ["x"], ["a"])]), "No Op registered for Guess"),
    "an unknown domain": (
        lambda: network([node("Guess", ["x"], ["y"], domain="mine")], domains=["mine"]),
        "mine:Guess(-1) is not a registered function/op; export it without custom operators",
    ),
    "a domain that is not imported": (lambda: behind([node("F", ["x"], ["a"], domain="no")]), "No opset import for"),
    "too few inputs": (lambda: network([node("MatMul", ["x"], ["y"])]), "input size 1"),
    "an attribute of another type": (lambda: convolution(2, strides="no"), "Mismatched attribute type"),
    "an attribute of nobody": (lambda: network([node("MatMul", ["x", "w"], ["y"], q=1)]), "Unrecognized attribute: q"),
    "a type that is not made": (lambda: network([PRODUCT], outputs=[value("y", ["n", 3], 7)]), "tensor(int64)"),
    "a shape that does not fit": (lambda: network([PRODUCT], inputs=[value("x", ["n", 5])]), "Incompatible dimensions"),
    "an input without a type": (
        lambda: changed(lambda proto: proto.graph.input[0].ClearField("type")),
        "Model input (x) does not have type information",
    ),
    "no opset": (lambda: changed(lambda proto: proto.ClearField("opset_import")), "imports no standard ONNX opset"),
    "an opset from the future": (
        lambda: changed(lambda proto: proto.opset_import[0].__setattr__("version", 9999)),
        "opset 9999, ptq reads 7 to 26",
    ),
    "a format from the future": (
        lambda: changed(lambda proto: proto.__setattr__("ir_version", 999)),
        "Unsupported model IR version: 999",
    ),
    "no output of numbers": (
        lambda: network(
            [PRODUCT, node("SequenceConstruct", ["y"], ["s"])],
            outputs=[helper.make_tensor_sequence_value_info("s", 1, None)],
        ),
        "no output of the graph is a tensor",
    ),
    "a function that calls itself": (lambda: calling("F", function("F", "F")), "in a circle, F, F;"),
    "functions that call each other": (lambda: calling("F", function("F", "G"), function("G", "F")), "F, G, F;"),
    "functions for 2^40 nodes": (
        lambda: calling("F40", function("F0", "Relu"), *(function(f"F{k}", *[f"F{k - 1}"] * 2) for k in range(1, 41))),
        "is called more than 2048 times",
    ),
    "two functions of a name": (lambda: calling("F", *[function("F", "Relu")] * 2), "two functions of one name"),
    "groups that do not divide": (lambda: convolution(2, group=7), "has 7 groups for 2 output channels"),
    "no groups": (lambda: convolution(2, group=0), "has 0 groups"),
    "strides of 0": (lambda: convolution(None, strides=[0, 1]), "All stride values must be positive, got: 0"),
    "pads of another rank": (lambda: convolution(None, pads=[1]), "pads [1]"),
    "a weight of 2^60 numbers": (lambda: expanded(1 << 30), "more than the 2 GB"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_named(name: str, tmp_path: Path) -> None:
    make, words = BROKEN[name]
    assert words in refusal(make(), tmp_path)


@pytest.mark.parametrize("name", [name for name in BROKEN if "function" in name])
def test_files_to_compare_with_are_looked_at_before_they_are_loaded(name: str, tmp_path: Path) -> None:
    """ONNX Runtime writes functions into the graph until the memory or the stack ends."""
    float_model, other = tmp_path / "float.onnx", tmp_path / "other.onnx"
    make, words = BROKEN[name]
    other.write_bytes(make().SerializeToString())
    float_model.write_bytes(network([PRODUCT]).SerializeToString())
    data = {"x": np.ones((4, 4), np.float32)}
    assert words in str(library.compare(float_model, [other], data).files[0].failure)


GROWING = {
    "Concat": lambda: doubling(40),
    "Expand": lambda: filled(node("Expand", ["c0", "s"], ["f"]), s=np.array([1 << 33])),
    "Tile": lambda: filled(node("Tile", ["c0", "s"], ["f"]), s=np.array([1 << 33])),
    "Range": lambda: filled(node("Range", ["r0", "r1", "r2"], ["f"]), r0=ZERO, r1=np.float32(1 << 33), r2=ZERO + 1),
    "Pad": lambda: filled(node("Pad", ["c0", "s"], ["f"]), s=np.array([0, 1 << 33])),
    "OneHot": lambda: filled(
        node("OneHot", ["c1", "s", "c2"], ["f"]), s=np.array(1 << 33), c1=np.zeros(1, np.int64), c2=TWO
    ),
    "MatMul": lambda: filled(
        node("MatMul", ["c1", "c2"], ["f"]), c1=np.ones((1 << 16, 1), "f"), c2=np.ones((1, 1 << 16), "f")
    ),
}
"""Nodes whose result takes gigabytes, which no layer reads."""
ZERO, TWO = np.float32(0), np.ones(2, np.float32)


def filled(growing: Node, **weights: np.ndarray) -> onnx.ModelProto:
    total = node("ReduceSum", ["f"], ["r"], keepdims=0)
    return behind([growing, total, node("Mul", ["x", "r"], ["a"])], c0=ONE, **weights)


@pytest.mark.parametrize("op", GROWING)
def test_what_grows_and_no_layer_reads_is_left_to_the_run(op: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(GROWING[op]().SerializeToString())
    tracemalloc.start()
    try:
        made = Model.of(capture(path, CaptureOptions()))
        assert op in {each.op_type for each in made.graph.graph}
        assert len(made.sites) == 1
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


ESCAPES = "w\x1b[2J\x1b]0;title\x07\u202e"


def test_names_in_what_is_printed_do_not_move_the_terminal(ptq: Command, tmp_path: Path) -> None:
    model, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    product = node("MatMul", ["x", ESCAPES], ["y"], name=ESCAPES)
    model.write_bytes(network([product], {ESCAPES: np.eye(4, 3, dtype=np.float32)}).SerializeToString())
    np.savez(data, x=np.eye(8, 4, dtype=np.float32))
    recipe = ("--method", "rtn", "--weights", "int8", "--data", data)
    runs = (
        ptq("quantize", model, *recipe, "--layers", "-o", tmp_path / "out.onnx"),
        ptq("quantize", model, *recipe, "--dry-run"),
        ptq("inspect", model),
        ptq("diagnose", model, *recipe, "--eval", data),
        ptq("quantize", model, *recipe, "--keep-float", "none"),
    )
    assert [run.code for run in runs] == [0, 0, 0, 0, 2]
    for run in runs:
        assert "\\x1b[2J" in run.out + run.err
        assert (run.out + run.err).replace("\n", "").isprintable()


def test_long_chains_do_not_run_out_of_stack(tmp_path: Path) -> None:
    """A table whose rows go through more layouts than Python has frames for."""
    nodes = [node("Gather", ["t", "i"], ["a0"]), *(node("Reshape", [f"a{k}", "s"], [f"a{k + 1}"]) for k in range(1000))]
    proto = network(
        [*nodes, node("MatMul", ["a1000", "w"], ["y"])],
        {"t": np.ones((20, 4), np.float32), "s": np.array([-1, 4])},
        [value("i", ["n"], TensorProto.INT64)],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    assert [site.op for site in Model.of(capture(path, CaptureOptions())).sites] == ["Gather", "MatMul"]


def endless() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("Identity", ["s"], ["t"]), node("Identity", ["c"], ["d"])],
        "body",
        [value("k", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("s", ["n", 4])],
        [value("d", [], TensorProto.BOOL), value("t", ["n", 4])],
    )
    weights = {"most": np.array(1 << 62), "go": np.array(True)}
    return behind([node("Loop", ["most", "go", "x"], ["a"], body=body)], **weights)


def test_a_loop_without_end_is_ended(ptq: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_SECONDS", 0.5)
    path, data, out = tmp_path / "model.onnx", tmp_path / "x.npz", tmp_path / "out.onnx"
    path.write_bytes(endless().SerializeToString())
    np.savez(data, x=np.ones((8, 4), np.float32))
    ptq("quantize", path, "--data", data, "--method", "rtn", "-o", out).fails("in a loop", "without an end")
    assert not out.exists()


def test_names_do_not_move_the_terminal(ptq: Command, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(network([node("MatMul", ["x", "\x1b[2J" + "q" * 10**6], ["y"])]).SerializeToString())
    run = ptq("quantize", path)
    run.fails(r"\x1b[2J", "repair it, or export it again")
    assert len(run.err) < 3000


def test_what_onnx_runtime_says_is_told_without_its_sources(tmp_path: Path) -> None:
    said = refusal(changed(lambda proto: proto.__setattr__("ir_version", 999)), tmp_path)
    assert "onnxruntime_src" not in said
    assert "ONNXRuntimeError" not in said


def test_models_in_memory_are_checked_too() -> None:
    proto = matmul_onnx()
    proto.graph.initializer[0].raw_data = b"short"
    with pytest.raises(PtqError, match="takes 48 bytes, the file holds 5 for it"):
        capture(proto, CaptureOptions())
