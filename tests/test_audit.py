"""The audit of written files: hand-made graphs whose figures are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from handmade import IMAGE, RNG, Graph, float_conv, images, matmul, quantized_conv
from onnx import TensorProto, helper, numpy_helper

from ptq.audit import audit
from ptq.audit.costs import file_bytes, peak_bytes, session_bytes
from ptq.errors import AuditError
from ptq.model.wire import decoded_numbers

pytestmark = [pytest.mark.measures_memory, pytest.mark.measures_latency]


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


def test_what_does_not_fit_into_memory_is_not_loaded(tmp_path: Path) -> None:
    reference, quantized = float_conv().save(tmp_path / "f.onnx"), quantized_conv().save(tmp_path / "q.onnx")
    feeds, own = [{"x": images(3, *IMAGE[1:])}], 2 * session_bytes(quantized)
    both = own + session_bytes(reference)
    whole, alone, none = (audit(reference, quantized, feeds, room=room) for room in (both, both - 1, own - 1))
    assert not whole.absent
    assert alone.absent.keys() == {reference}
    assert (alone.integer_sites, alone.latency, alone.reference.load_seconds) == (1, None, None)
    assert none.absent.keys() == {quantized}
    assert none.quantized.load_seconds is None


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


def test_a_session_is_expected_to_hold_decoded_weights(tmp_path: Path) -> None:
    """Whether their sizes are written one by one, as onnx does, or packed."""
    weight = numpy_helper.from_array(np.ones((1024, 256), np.int8), "w")
    arrays = [weight, numpy_helper.from_array(np.ones((2, 3), np.float32), "s")]
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["y"]), helper.make_node("Identity", ["s"], ["z"])]
    outputs_ = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "yz"]
    path = tmp_path / "q.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "net", [], outputs_, arrays)), path)
    assert decoded_numbers(path) == weight.dims[0] * weight.dims[1]
    assert session_bytes(path) - session_bytes(float_conv().save(tmp_path / "f.onnx")) > 4 * 1024 * 256
    content = path.read_bytes()
    packed, one_by_one = b"\x0a\x04\x80\x08\x80\x02", b"\x08\x80\x08\x08\x80\x02"
    path.write_bytes(content.replace(one_by_one, packed))
    assert packed in path.read_bytes()
    assert decoded_numbers(path) == weight.dims[0] * weight.dims[1]
