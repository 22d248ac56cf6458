"""Networks that compute in float16, bfloat16 or float64 are quantized as ones of float32."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from other_floats import KINDS, data, graph, network, weights

import ptq
from ptq.errors import ModelError
from ptq.model.capture import CaptureOptions, capture
from ptq.model.derived import Derived
from ptq.model.graph import Model
from ptq.model.precision import computed_in
from ptq.model.session import Session
from ptq.model.streamed import Streamed

OTHERS = [kind for kind in KINDS if kind != "float32"]


def captured(proto: onnx.ModelProto | Path) -> Model:
    return Model(capture(proto, CaptureOptions()))


def prepared(proto: onnx.ModelProto | Path) -> Model:
    return Model.of(capture(proto, CaptureOptions()))


def ran(model: onnx.ModelProto, kind: str) -> np.ndarray:
    return Session(model.SerializeToString()).run(data("float32" if kind == "bfloat16" else kind))[0]


def stored(model: onnx.ModelProto) -> list[tuple[str, tuple[int, ...], bytes]]:
    """All numbers of a file, whatever they are called."""
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    return sorted((str(array.dtype), array.shape, array.tobytes()) for array in arrays)


@pytest.mark.parametrize("kind", OTHERS)
def test_weights_beside_a_file_are_made_of_it_when_they_are_looked_at(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, path = KINDS[kind][0], tmp_path / "m.onnx"
    arrays = weights(kind, w=(300, 128), table=(50, 800))
    made = graph(
        "h = MatMul (x, w) e = Gather (table, ids) y = Concat <axis = 1> (h, e)",
        f"{dtype}[n, 300] x, int64[n] ids",
        f"{dtype}[n, 928] y",
        **arrays,
    )
    onnx.save(made, path, save_as_external_data=True, size_threshold=0)
    read = list[str]()
    numpy = Streamed.numpy
    monkeypatch.setattr(Streamed, "numpy", lambda self: read.append(str(self.name)) or numpy(self))
    model = prepared(path)
    assert read == ([] if kind != "float64" else ["w", "table"]), "float64 is looked at for what float32 does not hold"
    held = {name: value.const_value for name, value in model.graph.graph.initializers.items()}
    assert all(isinstance(held[name], Derived) for name in arrays)
    for site in model.sites:
        np.testing.assert_array_equal(model.initializer(site.weight), arrays[site.weight].astype(np.float32))


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("kind", OTHERS)
def test_models_of_older_opsets(kind: str, opset: int) -> None:
    dtype = KINDS[kind][0]
    made = graphs.with_arrays(
        "a = Gemm (x, w) b = Relu (a) c = Gemm (b, v) y = Softmax (c)",
        f"{dtype}[n, 8] x",
        f"{dtype}[n, 4] y",
        weights(kind, w=(8, 16), v=(16, 4)),
        opset=opset,
    )
    model = prepared(made)
    assert computed_in(model.graph) == kind
    assert len(model.sites) == 2


def test_a_model_in_memory_stays_as_it_is() -> None:
    made = network("float16")
    before = made.SerializeToString()
    captured(made)
    assert made.SerializeToString() == before


MIXED = """
    h = Cast <to = 10> (x)
    a = MatMul (h, w)
    b = Cast <to = 1> (a)
    c = Softmax (b)
    d = MatMul (c, v)
    e = Cast <to = 10> (d)
    f = MatMul (e, u)
    y = Cast <to = 1> (f)
"""


def test_parts_in_float16() -> None:
    half, full = weights("float16", w=(8, 16), u=(16, 4)), weights("float32", v=(16, 16))
    ends = "float[n, 2, 8] x", "float[n, 2, 4] y"
    model = captured(graph(MIXED, *ends, **half, **full))
    twin = graph(MIXED.replace("10", "1"), *ends, **{k: a.astype(np.float32) for k, a in (half | full).items()})
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 2, 8), np.float32)}
    np.testing.assert_array_equal(model.session().run(feeds)[0], captured(twin).session().run(feeds)[0])
    assert len(Model.of(model.graph).sites) == 3
    assert not {"Cast", "Identity"} & {node.op_type for node in Model.of(model.graph).graph.graph}


BODIES = {
    "If": """
        y = If (go) <
            then_branch = then () => (float16[n, 4] p) { p = MatMul (h, w) },
            else_branch = other () => (float16[1, 4] q) { q = Constant <value = float16[1, 4] {15360, 0, 0, 16384}> () }
        >
    """,
    "Loop": """
        times = Constant <value = int64 {3}> ()
        y, all = Loop (times, go, h) <body = step (int64 k, bool c, float16[n, 4] s) =>
            (bool d, float16[n, 4] t, float16[n, 4] o) { d = Identity (c) t = MatMul (s, w) o = Mul (t, t) }>
    """,
    "Scan": """
        y, all = Scan <num_scan_inputs = 1, body = step (float16[4] s, float16[4] i) => (float16[4] t, float16[4] o)
            { r = Add (s, i) t = Mul (r, c) o = Identity (t) }> (c, h)
    """,
}


@pytest.mark.parametrize("go", [True, False])
@pytest.mark.parametrize("op", BODIES)
def test_graphs_inside_of_nodes(op: str, go: bool) -> None:
    model = graph(
        f"h = MatMul (x, w) {BODIES[op]}",
        "float16[n, 4] x, bool go",
        "float16[a, 4] y" if op != "Scan" else "float16[4] y",
        **weights("float16", w=(4, 4), c=(4,)),
    )
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float16)
    feeds = {"x": x, "go": np.array(go)} if op != "Scan" else {"x": x}
    if op == "Scan":
        model.graph.input.pop()
    before = Session(model.SerializeToString()).run(feeds)[0]
    for after in (captured(model), prepared(model)):
        assert [node.op_type for node in after.graph.graph][-1] == "Cast"
        (found,) = after.session().run(feeds)
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, before, rtol=1e-2, atol=1e-3)


def test_a_branch_of_nothing_but_a_constant() -> None:
    ((_, weight),) = weights("float16", w=(4, 600)).items()

    def branch(name: str, array: np.ndarray) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT16, array.shape)
        return helper.make_graph([], name, [], [out], [onnx.numpy_helper.from_array(array, name)])

    made = graph(
        "k = Identity (w) m = MatMul (x, w) y = Add (m, k)", "float16[n, 4] x, bool go", "float16[n, 600] y", w=weight
    )
    choice = helper.make_node("If", ["go"], ["k"], then_branch=branch("a", weight), else_branch=branch("b", 2 * weight))
    made.graph.node[0].CopyFrom(choice)
    for go in (True, False):
        (found,) = prepared(made).session().run({"x": np.zeros((4, 4), np.float16), "go": np.array(go)})
        np.testing.assert_array_equal(found, weight if go else 2 * weight)


FOREIGN = """
    a = MatMul (x, w)
    b, none, nothing, sum = com.microsoft.SkipLayerNormalization <epsilon = 0.00001> (a, x, gain)
    c = com.microsoft.BiasGelu (b, gain)
    d = Add (c, sum)
    y = own.twice (d, w)
"""


def test_functions_and_operators_that_onnx_does_not_know() -> None:
    """As ONNX Runtime's own optimizer writes them, without the types of what is between nodes."""
    head = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1, "own" : 1]>'
    called = '<domain: "own", opset_import: ["" : 20]> twice (p, q) => (r) { o = MatMul (p, q) r = MatMul (o, q) }'
    made = onnx.parser.parse_model(f"{head} net (float16[n, 2, 8] x) => (float16[n, 2, 8] y) {{ {FOREIGN} }} {called}")
    for name, array in weights("float16", w=(8, 8), gain=(8,)).items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 2, 8)).astype(np.float16)}
    before = Session(made.SerializeToString()).run(feeds)[0]
    for after in (captured(made), prepared(made)):
        np.testing.assert_allclose(after.session().run(feeds)[0], before, atol=5e-3)
    (site,) = prepared(made).sites
    assert len(site.uses) == 3


SIZES = """
    shape = Shape <start = 0, end = 1> (x)
    wide = Cast <to = 11> (shape)
    part = Mul (wide, fraction)
    whole = Floor (part)
    count = Cast <to = 7> (whole)
    start = Constant <value_ints = [0]> ()
    cut = Slice (x, start, count)
"""
"""A size in float64: of 49 rows, a fraction of 1/49 is none in it and one in float32."""


def test_sizes_in_float64_stay_exact() -> None:
    made = graph(
        f"{SIZES} y = MatMul (cut, w)",
        "double[n, 4] x",
        "double[m, 3] y",
        fraction=np.array([1 / 49]),
        **weights("float64", w=(4, 3)),
    )
    feeds = {"x": np.ones((49, 4))}
    assert np.float32(49) * np.float32(1 / 49) == 1
    for model in (captured(made), prepared(made)):
        assert model.session().run(feeds)[0].shape == (0, 3)
    assert len(prepared(made).sites) == 1


def test_what_a_network_of_float32_computes_in_float64_stays() -> None:
    """Also by a product with a matrix: most of the weights decide."""
    made = graph(
        f"{SIZES} a = MatMul (cut, w) b = Cast <to = 11> (a) c = MatMul (b, turn) y = Cast <to = 1> (c)",
        "float[n, 4] x",
        "float[m, 3] y",
        fraction=np.array([1 / 49]),
        turn=np.eye(3),
        **weights("float32", w=(4, 3)),
    )
    model = captured(made)
    assert computed_in(model.graph) is None
    assert model.session().run({"x": np.ones((49, 4), np.float32)})[0].shape == (0, 3)
    assert [value.dtype.numpy().name for name, value in model.graph.graph.initializers.items() if name == "turn"] == [
        "float64"
    ]


@pytest.mark.parametrize("where", ["weight", "mask"])
def test_numbers_beyond_float32(where: str) -> None:
    arrays = weights("float64", w=(4, 3)) | {"least": np.array(-1.0)}
    arrays["w" if where == "weight" else "least"][...] = -1e300
    made = graph("a = MatMul (x, w) y = Mul (a, least)", "double[n, 4] x", "double[n, 3] y", **arrays)
    with pytest.raises(
        ModelError, match=r"has the number -1e\+300 of float64, beyond float32, .*; export the model in"
    ):
        captured(made)


def test_numbers_that_are_infinite_stay_so() -> None:
    made = graph(
        "a = MatMul (x, w) y = Max (a, least)",
        "double[n, 4] x",
        "double[n, 3] y",
        least=np.array(-np.inf),
        **weights("float64", w=(4, 3)),
    )
    assert np.isfinite(captured(made).session().run({"x": np.ones((2, 4))})[0]).all()


def test_a_sequence_of_float16_that_goes_out() -> None:
    made = graph(
        "a = MatMul (x, w) y = SequenceConstruct (a)",
        "float16[n, 4] x",
        "seq(float16[n, 3]) y",
        **weights("float16", w=(4, 3)),
    )
    with pytest.raises(
        ModelError, match="'y' goes into or out of the model as a sequence of float16; export it in float32"
    ):
        captured(made)


def test_weights_that_are_quantized_already() -> None:
    made = graph(
        "d = DequantizeLinear (w, scale) y = MatMul (x, d)",
        "float16[n, 4] x",
        "float16[n, 3] y",
        w=np.ones((4, 3), np.int8),
        scale=np.float16(0.5),
    )
    assert computed_in(captured(made).graph) is None
    with pytest.raises(ModelError, match="the model is quantized already, it has 1 DequantizeLinear"):
        ptq.quantize(made, method="rtn", weights="int8")


def test_constants_inside_of_functions() -> None:
    head = '<ir_version: 10, opset_import: ["" : 20, "own" : 1]> net (float16[n, 2] x) => (float16[n, 2] y)'
    body = "k = Constant <value = float16[2, 2] {15360, 0, 0, 16384}> () q = MatMul (p, k)"  # 1 and 2 as bits
    text = f'{head} {{ y = own.scaled (x) }} <domain: "own", opset_import: ["" : 20]> scaled (p) => (q) {{ {body} }}'
    model = prepared(onnx.parser.parse_model(text))
    x = np.array([[3, 5]], np.float16)
    np.testing.assert_array_equal(model.session().run({"x": x})[0], x * [1, 2])
    assert len(model.sites) == 1
