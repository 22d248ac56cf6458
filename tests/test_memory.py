"""Second moments that do not fit into memory are refused before anything runs, and the estimate is what a run takes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import ptq
from ptq.errors import ModelError
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.pipeline import ready
from ptq.pipeline.calibrate import keys
from ptq.pipeline.memory import available_bytes, needed_bytes
from ptq.solve import Curvature

COLUMNS = 300


def products(columns: int, names: tuple[str, ...] = ("wide.0", "wide.1")) -> onnx.ModelProto:
    """Products of the same input side by side, then a narrow one."""
    rng = np.random.default_rng(0)
    shapes = dict.fromkeys(names, (8, columns)) | {"narrow": (4, 8)}
    weights = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), f"{n}.w") for n, s in shapes.items()]
    biases = [numpy_helper.from_array(np.zeros(s[0], np.float32), f"{n}.b") for n, s in shapes.items()]
    nodes = [helper.make_node("Gemm", ["x", f"{n}.w", f"{n}.b"], [n], name=n, transB=1) for n in names]
    nodes += [
        helper.make_node("Relu", [names[0]], ["h"]),
        helper.make_node("Gemm", ["h", "narrow.w", "narrow.b"], ["y"], name="narrow", transB=1),
    ]
    outputs = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", None]) for n in ("y", *names[1:])]
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", columns])]
    graph = helper.make_graph(nodes, "products", inputs, outputs, [*weights, *biases])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def numbers(columns: int = COLUMNS) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(8, columns)).astype(np.float32)}


def wanted(graph: onnx.ModelProto) -> dict[str, tuple[object, ...]]:
    return {site.name: keys(site) for site in Model.of(capture(graph, CaptureOptions(), None)).sites}


SPARE = {"multipoint": {"bits": 6.0}}
"""The scales of so narrow a layer take more than the bits that are usual."""


def test_sites_of_one_input_need_one_moment() -> None:
    one, narrow = 8 * COLUMNS**2, 8 * 8**2
    assert needed_bytes(wanted(products(COLUMNS)), apart=False) == 5 * one + narrow
    assert needed_bytes(wanted(products(COLUMNS)), apart=True) == 6 * one + 2 * narrow


@pytest.mark.parametrize("method", ["gptq", "multipoint"])
def test_what_does_not_fit_is_refused_with_what_helps(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    free = 3 * 8 * COLUMNS**2
    monkeypatch.setattr(ready, "available_bytes", lambda: free)
    with monkeypatch.context() as patched:
        patched.setattr("ptq.pipeline.findings.calibrate", lambda *_, **__: pytest.fail("it ran"))
        with pytest.raises(ModelError) as error:
            ptq.quantize(products(COLUMNS), numbers(), method=method)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("the second moment of the inputs of 'wide.0', 'wide.1' does not fit into memory: ")
    assert "--method rtn" in message
    (pattern,) = re.findall(r"--keep-float '([^']*)'", message)
    assert pattern == r"^(wide\.0|wide\.1)$"
    result = ptq.quantize(products(COLUMNS), numbers(), method=method, keep_float=pattern, **SPARE.get(method, {}))
    assert [layer.execution for layer in result.report.layers] == ["float", "float", "static"]


def test_round_to_nearest_needs_no_second_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "available_bytes", lambda: 1)
    monkeypatch.setattr(Curvature, "moment", property(lambda _: pytest.fail("a moment was made")))
    result = ptq.quantize(products(COLUMNS), numbers(), method="rtn", weights="int8")
    assert {layer.execution for layer in result.report.layers} == {"static"}


def test_one_layer_is_named_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "available_bytes", lambda: 10_000_000_000)
    words = r"of 'fc' does not fit .* about 25\.2 GB are needed, 10\.0 GB are free; add --keep-float '\^fc\$', or"
    with pytest.raises(ModelError, match=words):
        ptq.quantize(products(25_088, ("fc",)), numbers(25_088), method="gptq")


def test_nothing_is_refused_where_nobody_tells_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "available_bytes", lambda: None)
    assert ptq.quantize(products(COLUMNS), numbers(), method="gptq").report.layers[0].execution == "static"


MACHINE = {"proc/meminfo": "MemTotal:       4000 kB\nMemAvailable:   3000 kB\n"}
OWN = "sys/fs/cgroup/a/b/memory"
GROUP = {"proc/self/cgroup": "0::/a/b\n", f"{OWN}.max": "2000\n", f"{OWN}.current": "500\n"}
OUTER = {"sys/fs/cgroup/a/memory.max": "1200\n", "sys/fs/cgroup/a/memory.current": "1000\n"}
HIDDEN = {
    "proc/self/cgroup": "0::/elsewhere\n",
    "sys/fs/cgroup/memory.max": "900\n",
    "sys/fs/cgroup/memory.current": "1000\n",
}
FIRST_VERSION = {
    "proc/self/cgroup": "5:cpu:/\n4:memory,hugetlb:/box\n0::/\n",
    "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "2000\n",
    "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "1999\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (MACHINE, 3_072_000),
        (MACHINE | GROUP | {f"{OWN}.max": "max\n"}, 3_072_000),
        (MACHINE | GROUP, 1500),
        (MACHINE | GROUP | {f"{OWN}.stat": "anon 9\ninactive_file 300\n"}, 1800),
        (MACHINE | GROUP | OUTER, 200),
        (MACHINE | HIDDEN, 0),
        (MACHINE | FIRST_VERSION, 1),
        (GROUP, 1500),
    ],
)
def test_the_least_that_is_free_counts(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_bytes(tmp_path) == expected


def test_this_machine_tells_what_is_free() -> None:
    free = available_bytes()
    assert free is None or free > 0


RUN = """
import sys
from ptq.audit.memory import peak
from ptq.pipeline import build, ready
sys.path.insert(0, sys.argv[1])
from test_memory import numbers, products
import ptq
columns, before = int(sys.argv[2]), []
check = ready.check_moments
ready.check_moments = lambda *a, **k: (check(*a, **k), before.append(peak()))
def measured(*_):
    print(peak() - before[0])
    sys.exit()
build.lower = measured
ptq.quantize(products(columns, ("wide",)), numbers(columns), method=sys.argv[3], activations="none")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is known on Linux only")
@pytest.mark.parametrize(("method", "apart"), [("gptq", False), ("multipoint", True)])
@pytest.mark.slow
def test_the_estimate_is_what_a_run_takes(method: str, *, apart: bool) -> None:
    columns = 3000  # so that what is freed goes back to the system, as with larger ones
    command = [sys.executable, "-c", RUN, str(Path(__file__).parent), str(columns)]
    plain, found = (
        int(subprocess.run([*command, each], check=True, capture_output=True, text=True).stdout)
        for each in ("rtn", method)
    )
    needed = needed_bytes(wanted(products(columns, ("wide",))), apart=apart)
    assert 0.6 * needed < found - plain < 1.05 * needed
