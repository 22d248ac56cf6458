"""ONNX graphs that are unusual and valid, by what is unusual of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper
from small_graphs import PRODUCT, WEIGHT, behind, calling, function, network, node, value

SQUARE = np.arange(16, dtype=np.float32).reshape(4, 4) / 16 - 0.4
TRUE = np.array(True)


def branch(op: str) -> onnx.GraphProto:
    return helper.make_graph([node(op, ["x"], ["b"])], op, [], [value("b", ["n", 4])])


def conditional() -> onnx.ModelProto:
    made = node("If", ["c"], ["a"], then_branch=branch("Relu"), else_branch=branch("Neg"))
    test = [node("ReduceSum", ["x"], ["s"], keepdims=0), node("Greater", ["s", "z"], ["c"])]
    return behind([*test, made], z=np.float32(0))


def loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("MatMul", ["s", "q"], ["t"]), node("Identity", ["c"], ["d"])],
        "body",
        [value("k", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("s", ["n", 4])],
        [value("d", [], TensorProto.BOOL), value("t", ["n", 4])],
    )
    return behind([node("Loop", ["m", "go", "x"], ["a"], body=body)], m=np.array(2), go=TRUE, q=SQUARE)


def scan() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("Add", ["s", "r"], ["t"]), node("Identity", ["t"], ["o"])],
        "body",
        [value("s", [4]), value("r", [4])],
        [value("t", [4]), value("o", [4])],
    )
    return behind([node("Scan", ["s0", "x"], ["end", "a"], body=body, num_scan_inputs=1)], s0=np.zeros(4, np.float32))


def sequence_output() -> onnx.ModelProto:
    outputs = [helper.make_tensor_sequence_value_info("s", 1, None), value("y", ["n", 3])]
    return network([PRODUCT, node("SequenceConstruct", ["y", "y"], ["s"])], outputs=outputs)


def text_output() -> onnx.ModelProto:
    outputs = [value("t", None, TensorProto.STRING), value("y", ["n", 3])]
    return network([PRODUCT, node("Cast", ["y"], ["t"], to=TensorProto.STRING)], outputs=outputs)


def two_layouts() -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "q"], ["a"]), node("Gemm", ["a", "q"], ["y"], transB=1)]
    return network(nodes, {"q": SQUARE}, outputs=[value("y", ["n", 4])])


def several() -> onnx.ModelProto:
    inputs, outputs = [value("x", ["n", 4]), value("z", ["m", 4])], [value("y", ["n", 3]), value("v", ["m", 3])]
    return network([PRODUCT, node("MatMul", ["z", "w"], ["v"])], inputs=inputs, outputs=outputs)


ODD: dict[str, Callable[[], onnx.ModelProto]] = {
    "nodes in no order": lambda: network([node("MatMul", ["a", "w"], ["y"]), node("Relu", ["x"], ["a"])]),
    "without shapes": lambda: network([PRODUCT], inputs=[value("x", None)], outputs=[value("y", None)]),
    "sizes without names": lambda: network([PRODUCT], inputs=[value("x", [None, 4])], outputs=[value("y", [None, 3])]),
    "a wrong shape declared": lambda: network([PRODUCT], outputs=[value("y", ["n", 7])]),
    "six axes": lambda: network(
        [PRODUCT], inputs=[value("x", ["n", 1, 1, 2, 1, 4])], outputs=[value("y", ["n", 1, 1, 2, 1, 3])]
    ),
    "a factor of rank 0": lambda: behind([node("Mul", ["x", "f"], ["a"])], f=np.float32(0.5)),
    "a weight that is an output": lambda: network([PRODUCT], outputs=[value("y", ["n", 3]), value("w", [4, 3])]),
    "a weight that is an input": lambda: network([PRODUCT], inputs=[value("x", ["n", 4]), value("w", [4, 3])]),
    "a weight that is added too": lambda: behind(
        [node("ReduceSum", ["w"], ["s"], keepdims=0), node("Add", ["x", "s"], ["a"])]
    ),
    "a weight of two nodes": lambda: network(
        [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["x", "w"], ["b"]), node("Add", ["a", "b"], ["y"])]
    ),
    "a weight in two layouts": two_layouts,
    "a weight times itself": lambda: network(
        [node("MatMul", ["q", "q"], ["p"]), node("MatMul", ["x", "p"], ["y"])],
        {"q": SQUARE},
        outputs=[value("y", ["n", 4])],
    ),
    "an input that is an output": lambda: network([PRODUCT], outputs=[value("y", ["n", 3]), value("x", ["n", 4])]),
    "several inputs and outputs": several,
    "a branch": conditional,
    "a branch that is never taken": lambda: behind(
        [node("If", ["t"], ["a"], then_branch=branch("Relu"), else_branch=branch("Neg"))], t=TRUE
    ),
    "a loop": loop,
    "a scan": scan,
    "a sequence inside": lambda: behind(
        [node("SequenceConstruct", ["x", "x"], ["s"]), node("SequenceAt", ["s", "i"], ["a"])], i=np.array(1)
    ),
    "a sequence as output": sequence_output,
    "text as output": text_output,
    "functions in functions": lambda: calling("F", function("F", "G", "G"), function("G", "Relu")),
    "float16 behind a Cast": lambda: network(
        [node("Cast", ["h"], ["f"], to=1), node("MatMul", ["x", "f"], ["y"])], {"h": WEIGHT.astype(np.float16)}
    ),
    "float64 behind a Cast": lambda: network(
        [node("Cast", ["h"], ["f"], to=1), node("MatMul", ["x", "f"], ["y"])], {"h": WEIGHT.astype(np.float64)}
    ),
    "a row of denormals": lambda: network(
        [node("MatMul", ["x", "d"], ["y"])], {"d": np.where(np.arange(3) == 1, np.float32(1e-42), WEIGHT)}
    ),
    "all zero": lambda: network([node("MatMul", ["x", "z"], ["y"])], {"z": np.zeros((4, 3), np.float32)}),
    "names with odd letters": lambda: network(
        [node("MatMul", ["x", "w\n\x1b[1m層"], ["y"], name="a\r\u202eb")], {"w\n\x1b[1m層": WEIGHT}
    ),
}  # fmt: skip
