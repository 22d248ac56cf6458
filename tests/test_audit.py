"""The audit of written files: hand-made graphs whose kernels and figures are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from ptq.audit import Kernel, audit
from ptq.audit.costs import file_bytes, peak_bytes
from ptq.audit.kernels import find_kernels
from ptq.errors import AuditError
from ptq.model.session import Session

RNG = np.random.default_rng(7)
IMAGE = (2, 8, 6, 6)


@dataclass
class Graph:
    """A small ONNX graph written by hand."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: list[onnx.TensorProto] = field(default_factory=list)

    def put(self, name: str, array: np.ndarray, kind: int | None = None) -> str:
        if kind is None:
            self.stored.append(numpy_helper.from_array(array, name))
        else:
            self.stored.append(helper.make_tensor(name, kind, array.shape, array.reshape(-1)))
        return name

    def call(self, op: str, *inputs: str, out: str, site: str = "", mark: dict[str, str] | None = None, **attributes):
        outs = [out] if op != "DynamicQuantizeLinear" else [out, f"{out}.scale", f"{out}.zero"]
        node = helper.make_node(op, inputs, outs, name=f"node/{out}", **attributes)
        if site:
            for key, value in {"ptq.site": site, **(mark or {})}.items():
                node.metadata_props.add(key=key, value=value)
        self.nodes.append(node)
        return out

    def image(self, name: str, step: float = 0.03) -> str:
        """A uint8 QuantizeLinear and DequantizeLinear pair around a value."""
        scale, zero = self.put(f"{name}.s", np.float32(step)), self.put(f"{name}.z", np.uint8(128))
        self.call("QuantizeLinear", name, scale, zero, out=f"{name}.q")
        return self.call("DequantizeLinear", f"{name}.q", scale, zero, out=f"{name}.dq")

    def int4(self, name: str, shape: tuple[int, ...], *, cast: bool) -> str:
        """A dequantized int4 weight, brought to int8 first or not."""
        plane = self.put(f"{name}.plane", RNG.integers(-7, 8, shape), TensorProto.INT4)
        if cast:
            plane = self.call("Cast", plane, out=f"{name}.int8", to=TensorProto.INT8)
        zero = self.put(f"{name}.zero", np.zeros(shape[0], int), TensorProto.INT8 if cast else TensorProto.INT4)
        scale = self.put(f"{name}.scale", np.full(shape[0], 0.05, np.float32))
        return self.call("DequantizeLinear", plane, scale, zero, out=name, axis=0)

    def save(self, path: Path, shape=("n", *IMAGE[1:]), out: str = "y", kind: int = TensorProto.FLOAT) -> Path:
        x = helper.make_tensor_value_info("x", kind, list(shape))
        y = helper.make_tensor_value_info(out, kind, [f"d{k}" for k in range(len(shape))])
        graph = helper.make_graph(self.nodes, "g", [x], [y], self.stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.save(model, path)
        return path


def kernels(path: Path) -> dict[str, Kernel]:
    optimized = path.with_name("optimized.onnx")
    Session(path, optimized_path=optimized)
    return find_kernels(onnx.load(path).graph, onnx.load(optimized, load_external_data=False).graph)


def quantized_conv(*, cast: bool = True, output: bool = True) -> Graph:
    g = Graph()
    data, weight = g.image("x"), g.int4("w", (8, 8, 3, 3), cast=cast)
    g.call("Conv", data, weight, out="c" if output else "y", site="conv", mark={"ptq.execution": "static"})
    if output:
        g.call("Identity", g.image("c", 0.1), out="y")
    return g


def float_conv(mark: dict[str, str] | None = None) -> Graph:
    g = Graph()
    w = g.put("w", RNG.normal(size=(16, 8, 3, 3)).astype(np.float32))
    g.call("Conv", "x", w, out="c", site="conv", mark={"ptq.execution": "float", **(mark or {})})
    g.call("Relu", "c", out="y")
    return g


def images(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape or IMAGE).astype(np.float32)


def test_a_whole_qdq_convolution_runs_in_integers(tmp_path: Path) -> None:
    found = kernels(quantized_conv().save(tmp_path / "q.onnx"))
    assert found == {"conv": Kernel("QLinearConv", integer=True, expected="static", reason=None)}


def test_a_convolution_without_a_quantized_output_runs_in_float(tmp_path: Path) -> None:
    found = kernels(quantized_conv(output=False).save(tmp_path / "q.onnx"))["conv"]
    assert (found.op, found.integer, found.expected) == ("Conv", False, "static")
    assert found.reason == "DequantizeLinear of the weight at every call"


def test_an_int4_weight_dequantized_directly_is_decoded_at_every_call(tmp_path: Path) -> None:
    found = kernels(quantized_conv(cast=False).save(tmp_path / "q.onnx"))["conv"]
    assert not found.integer
    assert found.reason == "DequantizeLinear of the weight at every call"


@pytest.mark.parametrize(("mark", "reason"), [({}, "runs as Conv in float"), ({"ptq.float": "kept"}, "kept")])
def test_a_float_convolution_is_found_under_its_new_names(tmp_path: Path, mark: dict[str, str], reason: str) -> None:
    found = kernels(float_conv(mark).save(tmp_path / "f.onnx"))
    assert found == {"conv": Kernel("Conv", integer=False, expected="float", reason=reason)}


def matmul(*, dynamic: bool) -> Graph:
    """A product with a stored int8 weight, in integers or folded to float."""
    g = Graph()
    plane = g.put("w.plane", RNG.integers(-7, 8, (16, 8)), TensorProto.INT4)
    turned = g.call("Transpose", g.call("Cast", plane, out="w8", to=TensorProto.INT8), out="columns", perm=[1, 0])
    scale = g.put("w.scale", np.full(16, 0.05, np.float32))
    if not dynamic:
        wide = g.call("Mul", g.call("Cast", turned, out="wf", to=TensorProto.FLOAT), scale, out="w")
        g.call("MatMul", "x", wide, out="y", site="fc", mark={"ptq.execution": "weights"})
        return g
    g.call("DynamicQuantizeLinear", "x", out="q")
    zero = g.put("w.zero", np.zeros(16, np.int8))
    marks = {"ptq.execution": "dynamic"}
    g.call("MatMulInteger", "q", turned, "q.zero", zero, out="i", site="fc", mark=marks)
    g.call("Cast", "i", out="f", to=TensorProto.FLOAT)
    g.call("Mul", "f", g.call("Mul", "q.scale", scale, out="steps"), out="y")
    return g


@pytest.mark.parametrize(
    ("dynamic", "kernel"),
    [
        (True, Kernel("DynamicQuantizeMatMul", integer=True, expected="dynamic", reason=None)),
        (False, Kernel("MatMul", integer=False, expected="weights", reason="runs as MatMul in float")),
    ],
)
def test_products_are_found_by_their_folded_weight(tmp_path: Path, dynamic: bool, kernel: Kernel) -> None:
    assert kernels(matmul(dynamic=dynamic).save(tmp_path / "m.onnx", ("n", 5, 8))) == {"fc": kernel}


def test_a_blockwise_product_computes_in_int8_at_its_accuracy_level(tmp_path: Path) -> None:
    g = Graph()
    plane = g.put("w.plane", RNG.integers(-7, 8, (32, 16)), TensorProto.INT4)
    scale = g.put("w.scale", np.full((2, 16), 0.05, np.float32))
    g.call("DequantizeLinear", plane, scale, out="w", axis=0, block_size=16)
    g.call("MatMul", "x", "w", out="y", site="fc", mark={"ptq.execution": "weights"})
    path = g.save(tmp_path / "m.onnx", ("n", 5, 32))
    assert kernels(path)["fc"].op == "MatMulNBits"
    after = onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph
    level = next(a.i for node in after.node for a in node.attribute if a.name == "accuracy_level")
    assert kernels(path)["fc"].integer == (level == 4)


def test_a_site_with_two_uses_is_in_integers_only_if_both_are(tmp_path: Path) -> None:
    g = quantized_conv()
    g.nodes.pop()
    g.call("Conv", "c.dq", "w", out="y", site="conv", mark={"ptq.execution": "static"})
    found = kernels(g.save(tmp_path / "q.onnx"))["conv"]
    assert (found.op, found.integer) == ("Conv, QLinearConv", False)
    assert found.reason is not None


def test_a_site_that_is_not_in_the_optimized_graph_says_so(tmp_path: Path) -> None:
    written = onnx.load(quantized_conv().save(tmp_path / "q.onnx")).graph
    found = find_kernels(written, onnx.GraphProto())["conv"]
    assert (found.integer, found.reason) == (False, "not found in the optimized graph")


def test_the_figures_of_an_audit(tmp_path: Path) -> None:
    reference = float_conv().save(tmp_path / "f.onnx")
    quantized = quantized_conv().save(tmp_path / "q.onnx")
    feeds = [{"x": images(3, *IMAGE[1:])}, {"x": images(3, *IMAGE[1:])}]
    found = audit(reference, quantized, feeds)
    assert found.integer_sites == 1
    assert found.reference.file_bytes == reference.stat().st_size
    assert found.quantized.file_bytes == quantized.stat().st_size
    assert found.latency is not None
    assert found.latency.ratio == pytest.approx(found.latency.quantized_ms / found.latency.reference_ms, rel=0.5)
    assert all(0 < cost.load_seconds < 5 for cost in (found.reference, found.quantized))
    assert all(cost.peak_bytes is not None and 0 < cost.peak_bytes < 1e8 for cost in (found.reference, found.quantized))


def outputs(path: Path, level: ort.GraphOptimizationLevel, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_parity_compares_the_first_four_samples(tmp_path: Path) -> None:
    path = matmul(dynamic=False).save(tmp_path / "m.onnx", ("n", 5, 8))
    g = Graph()  # Gelu, which full optimization fuses: its rounding differs
    w = g.put("w", images(8, 3000))
    g.call("MatMul", "x", w, out="m")
    g.call("Erf", g.call("Div", "m", g.put("r", np.float32(1.4142135)), out="d"), out="e")
    g.call("Mul", "m", g.call("Add", "e", g.put("one", np.float32(1)), out="a"), out="p")
    g.call("Mul", "p", g.put("half", np.float32(0.5)), out="y")
    fused = g.save(tmp_path / "g.onnx", ("n", 8))
    x = images(6, 8)
    levels = ort.GraphOptimizationLevel
    good, out = (
        outputs(fused, level, x[:4]).astype(float) for level in (levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_ALL)
    )
    expected = 10 * np.log10((good**2).sum() / ((good - out) ** 2).sum())
    parity = audit(fused, fused, [{"x": x[:3]}, {"x": x[3:]}]).parity_db
    assert parity == pytest.approx(expected, abs=3)  # the batches differ, and with them the order of sums
    assert audit(path, path, [{"x": images(2, 5, 8)}]).parity_db is None


def test_an_overflow_at_one_optimization_level_only_is_an_error(tmp_path: Path) -> None:
    g = Graph()  # full optimization fuses both factors into the product, which then does not overflow
    large = g.call("Mul", "x", g.put("up", np.float32(1e30)), out="a")
    g.call("MatMul", large, g.put("w", np.full((8, 2), 1e10, np.float32)), out="b")
    g.call("Mul", "b", g.put("down", np.float32(1e-30)), out="y")
    path = g.save(tmp_path / "m.onnx", ("n", 8))
    with pytest.raises(AuditError, match="output 'y' is not finite at one optimization level only"):
        audit(path, path, [{"x": np.ones((2, 8), np.float32)}])


def test_without_data_only_what_needs_none_is_measured(tmp_path: Path) -> None:
    path = quantized_conv().save(tmp_path / "q.onnx")
    found = audit(path, path, [])
    assert (found.parity_db, found.latency, found.quantized.peak_bytes) == (None, None, None)
    assert found.integer_sites == 1


def test_a_fixed_batch_size_is_respected(tmp_path: Path) -> None:
    path = quantized_conv().save(tmp_path / "q.onnx", IMAGE)
    assert audit(path, path, [{"x": images()}]).latency is not None


def test_a_larger_network_has_the_larger_latency_and_memory(tmp_path: Path) -> None:
    small, large = Graph(), Graph()
    small.call("MatMul", "x", small.put("w", images(512, 64)), out="y")
    value = "x"
    for k in range(8):
        value = large.call("MatMul", value, large.put(f"w{k}", images(512, 512) / 512), out=f"v{k}")
    large.call("MatMul", value, large.put("w", images(512, 64)), out="y")
    paths = [g.save(tmp_path / f"{name}.onnx", ("n", 64, 512)) for name, g in (("s", small), ("l", large))]
    found = audit(*paths, [{"x": images(1, 64, 512)}])
    assert found.latency is not None
    assert found.latency.ratio > 5
    assert found.quantized.peak_bytes > found.reference.peak_bytes + 6 * 512 * 512 * 4


def test_memory_does_not_depend_on_that_of_the_parent(tmp_path: Path) -> None:
    g = Graph()  # a large parent would hide the peak of a child that inherits its mark
    g.call("MatMul", "x", g.put("w", images(2048, 2048)), out="y")
    path, feeds = g.save(tmp_path / "f.onnx", ("n", 2048)), {"x": images(1, 2048)}
    alone = peak_bytes(path, feeds)
    ballast = np.ones(400_000_000 // 8)
    assert alone > 2048 * 2048 * 4
    assert peak_bytes(path, feeds) == pytest.approx(alone, rel=0.3)
    assert ballast.any()


def test_an_input_may_have_any_name(tmp_path: Path) -> None:
    g = Graph()
    g.call("Relu", "x", out="y")
    path = g.save(tmp_path / "f.onnx")
    model = onnx.load(path)
    model.graph.input[0].name = model.graph.node[0].input[0] = "file"
    onnx.save(model, path)
    assert peak_bytes(path, {"file": images()}) >= 0


def test_memory_of_a_file_that_does_not_run_is_one_line(tmp_path: Path) -> None:
    path = float_conv().save(tmp_path / "f.onnx")
    with pytest.raises(AuditError, match=r"memory of .*f\.onnx failed with exit code 1: ") as error:
        peak_bytes(path, {"wrong": images()})
    assert "\n" not in str(error.value)


def test_external_data_counts_once_wherever_it_is(tmp_path: Path) -> None:
    g = float_conv()
    model = onnx.load(g.save(tmp_path / "f.onnx"))
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(images(100), "k"))
    model.graph.node.insert(0, constant)
    path = tmp_path / "e.onnx"
    onnx.save(model, path, save_as_external_data=True, location="e.bin", size_threshold=0, convert_attribute=True)
    data = (tmp_path / "e.bin").stat().st_size
    assert data >= 16 * 8 * 9 * 4 + 400
    assert file_bytes(path) == path.stat().st_size + data


def test_what_is_no_model_is_one_line(tmp_path: Path) -> None:
    good = quantized_conv().save(tmp_path / "q.onnx")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(good.read_bytes()[:-50])
    with pytest.raises(AuditError, match=r"bad\.onnx is not a valid ONNX model") as error:
        audit(good, bad, [])
    assert "\n" not in str(error.value)


def test_wrong_types_are_found_by_the_checker(tmp_path: Path) -> None:
    good = quantized_conv().save(tmp_path / "q.onnx")
    g = Graph()
    g.call("Conv", "x", g.put("w", RNG.integers(0, 9, (8, 8, 3, 3))), out="y")
    with pytest.raises(AuditError, match="not a valid ONNX model"):
        audit(good, g.save(tmp_path / "bad.onnx"), [])


def test_valid_onnx_that_onnx_runtime_has_no_kernel_for(tmp_path: Path) -> None:
    good = quantized_conv().save(tmp_path / "q.onnx")
    g = Graph()
    g.call("Conv", "x", g.put("w", RNG.normal(size=(8, 8, 3, 3))), out="y")
    bad = g.save(tmp_path / "double.onnx", kind=TensorProto.DOUBLE)
    with pytest.raises(AuditError, match=r"double\.onnx: ONNX Runtime .* does not load") as error:
        audit(good, bad, [])
    assert "\n" not in str(error.value)


def test_feeds_that_do_not_fit_are_an_audit_error(tmp_path: Path) -> None:
    path = quantized_conv().save(tmp_path / "q.onnx")
    with pytest.raises(AuditError, match="fails to run"):
        audit(path, path, [{"x": images(1, 3, 6, 6)}])


def test_the_memory_script_imports_nothing_of_the_package() -> None:
    import ptq.audit.memory as script

    source = Path(script.__file__).read_text(encoding="utf-8")
    assert "import ptq" not in source
    assert "from ptq" not in source
    assert script.peak() > 10_000_000
