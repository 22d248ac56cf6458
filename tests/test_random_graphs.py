"""Drawn graphs: whatever the options, the file is whole; in int8 it is within the bound that its scales imply."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from command import Command
from every_site import Made, quantized
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from random_graphs import GRAPHS, SAMPLES, Drawn
from written_layers import bounds_of

import ptq as library
from ptq.audit import Latency
from ptq.errors import ModelError, OptionError
from ptq.lowering import Execution
from ptq.model.graph import Model
from ptq.model.session import Session

Options = Mapping[str, Any]

PLAIN: Options = {"method": "rtn", "weights": "int8"}
OPTIONS: tuple[Options, ...] = (
    PLAIN,
    {"method": "rtn", "weights": "int8", "activations": "none"},
    {"method": "rtn", "weights": "int8", "activations": "dynamic"},
    {"method": "rtn", "weights": "int8", "range": "percentile"},
    {"method": "rtn", "weights": "int8", "range": "entropy"},
    {"method": "rtn", "weights": "int8", "target": "tensorrt"},
    {"method": "rtn", "weights": "int4"},
    {"method": "rtn", "weights": "int4", "activations": "none", "group": 32},
    {"method": "rtn", "weights": "int4", "activations": "dynamic", "group": 16},
    {"method": "rtn", "weights": "int4", "first_last": "int8"},
    {"method": "rtn", "weights": "uint4", "activations": "none"},
    {"method": "rtn", "weights": "int2", "activations": "none"},
    {"method": "rtn", "weights": "nf4", "activations": "none"},
    {"method": "rtn", "weights": "mxfp4", "activations": "none"},
    {"method": "rtn", "weights": "fp8_e4m3fn", "activations": "fp8_e4m3fn"},
    {"method": "rtn", "weights": "fp8_e4m3fn", "target": "cuda"},
    {"method": "gptq", "weights": "int4"},
    {"method": "gptq", "weights": "int8", "group": "tensor"},
    {"method": "gpfq", "weights": "int4"},
    {"method": "adaround", "weights": "int4"},
    {"method": "hqq", "weights": "int4", "activations": "none"},
    {"method": "ocs", "weights": "int4"},
    {"method": "mixed"},
    {"method": "multipoint"},
    {"method": "multipoint", "points": 2, "activations": "none"},
    {"method": "multipoint", "portable": True},
)
BOUNDED: tuple[Options, ...] = (
    PLAIN,
    PLAIN,
    PLAIN,
    {"method": "rtn", "weights": "int8", "activations": "dynamic"},
    {"method": "rtn", "weights": "int8", "group": "tensor", "range": "percentile"},
    {"method": "gptq", "weights": "int4"},
    {"method": "multipoint"},
)
COUNTS = [
    pytest.param(12, id="few"),
    pytest.param(500, id="many", marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
]


def examine(config: pytest.Config, count: int, check: Callable[[Drawn, Options], None], options: Any) -> None:
    """Check so many graphs with options: always the same, unless pytest is given a --hypothesis-seed."""
    settled = settings(
        max_examples=count,
        derandomize=config.getoption("--hypothesis-seed") is None,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    settled(given(GRAPHS, st.sampled_from(options))(check))()


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latency takes longer than all else."""
    monkeypatch.setattr(sys.modules["ptq.audit.audit"], "latency", lambda *_: Latency(1.0, 1.0, 1.0))


def has_layers(drawn: Drawn) -> bool:
    return bool(Model.of(ir.from_proto(drawn.model)).sites)


def is_whole(content: bytes, drawn: Drawn, options: Options) -> None:
    """A valid file that stock ONNX Runtime loads and runs, with outputs of the same names, shapes and types."""
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    for optimize in (False,) if "target" in options else (False, True):
        session = Session(content, optimize=optimize)
        got = drawn.run(session)
        assert list(got) == list(drawn.outputs)
        for name, expected in drawn.outputs.items():
            assert (got[name].shape, got[name].dtype) == (expected.shape, expected.dtype)
            assert np.isfinite(got[name]).all()
        if drawn.batch is None:
            alone = session.run({name: array[:1] for name, array in drawn.feeds.items()})
            assert [array.shape for array in alone] == [(1, *array.shape[1:]) for array in drawn.outputs.values()]


@pytest.mark.parametrize("count", COUNTS)
def test_files_are_whole_and_the_same_each_time(pytestconfig: pytest.Config, cache: Path, count: int) -> None:
    refused: list[str] = []

    def check(drawn: Drawn, options: Options) -> None:
        given_bytes = drawn.model.SerializeToString()
        if not has_layers(drawn):
            with pytest.raises(ModelError, match="the model has no quantizable node"):
                library.quantize(drawn.model, drawn.feeds, **options)
            return
        try:
            content = library.quantize(drawn.model, drawn.feeds, **options).content
        except OptionError as error:  # of options that no layer of it is for
            refused.append(str(error))
            return
        is_whole(content, drawn, options)
        shutil.rmtree(cache)
        assert library.quantize(drawn.model, drawn.feeds, **options).content == content
        assert drawn.model.SerializeToString() == given_bytes

    examine(pytestconfig, count, check, OPTIONS)
    assert len(refused) < count / 4, refused


def adds_pairs_in_16_bits() -> bool:
    """Whether the int8 kernels of this processor stop at the ends of int16: those of x86 without VNNI."""
    path = Path("/proc/cpuinfo")
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    return platform.machine() in ("x86_64", "AMD64") and "vnni" not in known


def as_written(made: Made) -> bool:
    """Whether optimization does something else to inputs than the file says: MatMulNBits rounds them."""
    blocks = any(how.execution is Execution.BLOCKS for how in made.sites.values())
    return blocks or adds_pairs_in_16_bits()


def excess(made: Made, content: bytes, drawn: Drawn, *, optimize: bool) -> dict[str, tuple[float, float, float]]:
    """Of each output of a file the largest part of its bound that it is off, the bound over the error, and over itself.

    The bound is that of the file which was made.
    """
    first = {name: array[: drawn.batch or SAMPLES] for name, array in drawn.feeds.items()}
    bounds = drawn.run(bounds_of(made, first, fused=optimize))
    got = drawn.run(Session(content, optimize=optimize))
    found = {}
    for name, expected in drawn.outputs.items():
        size = max(float(np.abs(expected).max()), 1e-9)
        np.testing.assert_allclose(bounds[name], expected, rtol=1e-4, atol=1e-4 * size + 1e-6)
        off, bound = np.abs(got[name] - expected), bounds[f"{name}/bound"]
        assert np.isfinite(bound).all()
        part = (off / (1.001 * bound + 1e-5 * size + 1e-6)).max()
        found[name] = float(part), float(bound.max() / max(off.max(), 1e-9)), float(bound.max() / size)
    return found


@pytest.mark.parametrize("count", COUNTS)
def test_outputs_are_within_what_the_scales_imply(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The bound is near the error, and far below the numbers."""
    seen: list[tuple[float, float, float]] = []

    def check(drawn: Drawn, options: Options) -> None:
        if has_layers(drawn):
            made = quantized(monkeypatch, drawn.model, drawn.feeds, **options)
            for optimize in (False,) if as_written(made) else (False, True):
                found = excess(made, made.result.content, drawn, optimize=optimize)
                assert max(part for part, _, _ in found.values()) <= 1, (found, optimize)
                seen.extend(found.values())

    examine(pytestconfig, count, check, BOUNDED)
    _, wide, large = np.array([each for each in seen if each[0] > 0.01]).T
    assert np.median(wide) < 5
    assert np.median(large) < 0.05


@pytest.mark.parametrize("count", [pytest.param(2, id="few"), pytest.param(60, id="many", marks=pytest.mark.long)])
def test_the_command_line_on_files(pytestconfig: pytest.Config, ptq: Command, tmp_path: Path, count: int) -> None:
    def check(drawn: Drawn, options: Options) -> None:
        model, data, out = tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "out.onnx"
        model.write_bytes(drawn.model.SerializeToString())
        np.savez(data, **drawn.feeds)
        said = [part for key, value in options.items() for part in _said(key, value)]
        run = ptq("quantize", model, "--data", data, "-o", out, "--overwrite", *said)
        assert model.read_bytes() == drawn.model.SerializeToString()
        if has_layers(drawn):
            assert (run.code, run.err.count("Traceback")) == (0, 0)
            is_whole(out.read_bytes(), drawn, options)
        else:
            run.fails("the model has no quantizable node")
        out.unlink(missing_ok=True)

    examine(pytestconfig, count, check, OPTIONS)


def _said(name: str, value: Any) -> tuple[str, ...]:
    flag = f"--{name.replace('_', '-')}"
    return (flag,) if value is True else (flag, str(value))


def another_number(name: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    def change(file: onnx.ModelProto) -> None:
        (stored,) = (each for each in file.graph.initializer if each.name == name)
        stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored) * np.float32(factor), name))

    return change


def another_zero_point(file: onnx.ModelProto) -> None:
    """Of one reader, not of the QuantizeLinear."""
    (reader,) = (node for node in file.graph.node if node.name == "x/activation/dequantize")
    (zero,) = (each for each in file.graph.initializer if each.name == reader.input[2])
    reader.input[2] = "another"
    file.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(zero) + np.uint8(3), "another"))


def another_function(file: onnx.ModelProto) -> None:
    (relu,) = (node for node in file.graph.node if node.op_type == "Relu")
    relu.op_type = "Abs"


MUTATIONS: Mapping[str, Callable[[onnx.ModelProto], None]] = {
    "weights": another_number("node/scale.unit", 1.1),
    "bias": another_number("b", 1.3),
    "zero point": another_zero_point,
    "function": another_function,
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_file_that_is_off_is_beyond_the_bound(monkeypatch: pytest.MonkeyPatch, mutation: str) -> None:
    nodes = "a = Conv (x, w, b) r = Relu (a) y = Conv (r, v)"
    weights = {"w": (6, 3, 3, 3), "b": (6,), "v": (4, 6, 1, 1)}
    model = graphs.model(nodes, "float[n, 3, 5, 5] x", "float[n, 4, 3, 3] y", weights)
    feeds = {"x": np.random.default_rng(4).standard_normal((SAMPLES, 3, 5, 5)).astype(np.float32)}
    drawn = Drawn(model, feeds, None, {"y": Session(model.SerializeToString()).run(feeds)[0]})
    made = quantized(monkeypatch, model, feeds, **PLAIN)
    assert excess(made, made.result.content, drawn, optimize=False)["y"][0] <= 1
    file = onnx.load_from_string(made.result.content)
    MUTATIONS[mutation](file)
    assert excess(made, file.SerializeToString(), drawn, optimize=False)["y"][0] > 1
