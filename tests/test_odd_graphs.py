"""ONNX graphs that are unusual and valid: they are quantized, and the file does what the model does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from command import Command
from odd_graphs import ODD


@pytest.mark.parametrize("name", ODD)
def test_the_file_does_what_the_model_does(name: str, ptq: Command, tmp_path: Path) -> None:
    path, data, out = (tmp_path / each for each in ("model.onnx", "data.npz", "out.onnx"))
    proto = ODD[name]()
    path.write_bytes(proto.SerializeToString())
    rng, shape = np.random.default_rng(0), (8, 1, 1, 2, 1, 4) if name == "six axes" else (8, 4)
    stored = {tensor.name for tensor in proto.graph.initializer}
    feeds = {each.name: rng.standard_normal(shape, np.float32) for each in proto.graph.input if each.name not in stored}
    np.savez(data, **feeds)
    run = ptq("quantize", path, "--data", data, "--method", "rtn", "--weights", "int8", "-o", out)
    assert (run.code, run.err) == (0, "")
    files = [ort.InferenceSession(str(each), providers=["CPUExecutionProvider"]) for each in (path, out)]
    expected, found = (file.run(["y"], feeds)[0] for file in files)
    noise, power = np.square(expected - found).sum(), np.square(expected).sum()
    assert noise <= power / 1000  # 30 dB
