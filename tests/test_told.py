"""What a run says without being asked, and what it refuses before any work."""

from __future__ import annotations

import os
import re
from pathlib import Path

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import ptq
from ptq.errors import ModelError, OptionError, OutputError
from ptq.model.graph import Model
from ptq.pipeline.output import check_free

RNG = np.random.default_rng(0)
X = {"x": RNG.normal(size=(4, 6, 32)).astype(np.float32)}


def network(body: str, outputs: str = "float[n, t, 16] y", **arrays: np.ndarray) -> onnx.ModelProto:
    return graphs.with_arrays(body, "float[n, t, 32] x", outputs, arrays)


def weight(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("fmt", ["int8", "mxfp4", "fp8_auto"])
def test_weights_that_are_no_numbers_are_refused(fmt: str, number: float) -> None:
    w = weight(32, 16)
    w[3, 5] = number
    with pytest.raises(ModelError, match=r"'w' of .* NaN or infinite .*; repair"):
        ptq.quantize(network("y = MatMul (x, w)", w=w), method="rtn", weights=fmt)


def test_weights_of_no_layer_are_counted_and_named() -> None:
    body = "h = MatMul (x, w)\n i = MatMul (h, b)\n y = Add (i, i)"
    model = network(body, w=weight(32, 16), b=weight(1, 16, 16))
    notes = ptq.quantize(model, method="rtn", weights="int8").report.notes
    assert any("256 of 768 weights stay float" in note and "'b' of MatMul" in note for note in notes)
    plain = ptq.quantize(network("y = MatMul (x, w)", w=weight(32, 16)), method="rtn", weights="int8").report.notes
    assert not any("stay float" in note for note in plain)


def test_of_several_outputs_the_measured_one_is_named() -> None:
    model = network("y = MatMul (x, w)\n z = Relu (y)", "float[n, t, 16] y, float[n, t, 16] z", w=weight(32, 16))
    notes = ptq.quantize(model, X, method="rtn", weights="int8").report.notes
    assert "accuracy is that of the first of 2 outputs, 'y'" in notes


def test_labels_that_do_not_count_are_said() -> None:
    model = network("y = MatMul (x, w)", w=weight(32, 16))
    for labels, why in ((np.full((4, 6), -100), "none is a class"), (np.zeros(4, np.int64), "they are one a sample")):
        made = ptq.quantize(model, X, eval_data={**X, "labels": labels}, method="rtn", weights="int8")
        assert any(f"the labels are not used: {why}" in note for note in made.report.notes)


def test_the_usual_bits_are_as_many_as_small_layers_need() -> None:
    """Five rows of 8 weights take more than 4.4 bits each for their scales alone; only who says so is told."""
    model = network("y = MatMul (x, w)", "float[n, t, 3] y", w=weight(32, 3)[:, :3])
    small = graphs.with_arrays("y = MatMul (x, w)", "float[n, t, 8] x", "float[n, t, 5] y", {"w": weight(8, 5)})
    data = {"x": X["x"][..., :8]}
    assert ptq.quantize(small, data).report.bits_per_weight > 4.4
    with pytest.raises(OptionError, match=r"--bits 4\.4 is below"):
        ptq.quantize(small, data, bits=4.4)
    assert ptq.quantize(model, X).report.bits_per_weight < 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"range": "mse", "activations": "none"}, "so that --range does nothing"),
        ({"range": "entropy", "activations": "dynamic"}, "so that --range does nothing"),
        ({"embeddings": "int4"}, "no embedding table"),
    ],
)
def test_options_that_nothing_reads_are_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        ptq.quantize(network("y = MatMul (x, w)", w=weight(32, 16)), X, method="rtn", weights="int8", **options)


def test_devices_pipes_and_links_are_never_replaced(tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link.onnx", tmp_path / "target.onnx"
    os.mkfifo(pipe)
    target.write_bytes(b"kept")
    link.symlink_to(target)
    for path in (pipe, link, Path("/dev/null")):
        with pytest.raises(OutputError, match=r"no file but a device|is a link"):
            check_free(path, overwrite=True)


TABLES = {
    "tokens": ("e = Gather (table, ids)\n y = MatMul (e, w)", True),
    "positions, sliced": ("p = Slice (table, zero, t, axes)\n e = Add (x, p)\n y = MatMul (e, w)", True),
    "angles": ("p = Slice (table, zero, t, axes)\n e = Mul (x, p)\n y = MatMul (e, w)", False),
    "a mask": (
        "p = Slice (table, zero, t, axes)\n q = Slice (p, zero, t, last)\n e = Add (x, q)\n y = MatMul (e, w)",
        False,
    ),
    "relative positions": (
        "b = Gather (table, ids)\n u = Unsqueeze (b, zero)\n s = Add (x, u)\n a = Softmax (s)\n y = MatMul (a, w)",
        False,
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_masks_and_angles_are_no_embeddings(name: str) -> None:
    body, embeds = TABLES[name]
    read = set(re.findall(r"\w+", body))
    arrays = {"table": weight(48, 32), "w": weight(32, 16)}
    arrays |= {key: np.array([k], np.int64) for key, k in {"zero": 0, "axes": 0, "last": 1}.items() if key in read}
    given = {"x": "float[n, 32, 32] x", "ids": "int64[32] ids", "t": "int64[1] t"}
    inputs = ", ".join(text for key, text in given.items() if key in read)
    model = graphs.with_arrays(body, inputs, "float[n, m, 16] y" if "x" in read else "float[m, 16] y", arrays)
    sites = {site.weight for site in Model.of(ir.from_proto(model)).sites}
    assert sites == ({"table", "w"} if embeds else {"w"})
