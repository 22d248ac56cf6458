"""The benchmarks run and print a table; what its figures are is not checked."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from graphs import model
from small_folder import Folder, filled

import ptq

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return filled(tmp_path)


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def table(text: str) -> list[list[str]]:
    """The cells of the lines below the head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(line) for line in cells}) == 1, text
    return cells[2:]


@pytest.mark.slow
def test_every_format_that_a_recipe_takes_has_a_line(folder: Folder) -> None:
    both = ("--data", folder.data, "--eval", folder.data)
    found = run("formats", folder.model, *both, "--only", "int4/16")
    assert (found.returncode, found.stderr) == (0, "")
    lines = table(found.stdout)
    assert [line[1:3] for line in lines] == [["FP32", ""], ["int4/16", "none"], ["int4/16", "uint8"]]
    assert all(line[0] == "net" and line[6].endswith(" %") for line in lines)
    assert lines[1][9] == "weights: 2 Conv; blocks: 1 MatMulNBits"
    assert lines[2][9] == "static: 2 QLinearConv, 1 QGemm"


@pytest.mark.slow
def test_a_line_that_fails_is_said_and_the_others_go_on(folder: Folder) -> None:
    one = folder.path / "one.npz"
    np.savez(one, y=np.zeros((2, 3, 8, 8), np.float32))
    files = ("--data", one, "--eval", folder.data, "--data", folder.data, "--eval", folder.data)
    found = run("formats", folder.model, folder.model, *files, "--only", "fp8_e5m2")
    assert found.returncode == 1
    assert [line[1:4] for line in table(found.stdout)][:2] == [["fp8_e5m2", "none", "failed"], ["FP32", "", "32"]]
    assert "net.onnx, --method rtn --weights fp8_e5m2 --activations none: ptq: " in found.stderr
    assert "1 of 2 lines failed" in found.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "int5,itn4"], "unknown format 'itn4'; did you mean 'int4'?"),
        (["--only", "mxfp4/32"], "mxfp4 has groups of 32 by itself"),
        (["--method", "rtm"], "unknown --method 'rtm'; did you mean 'rtn'?"),
        (["--data", "calib.npz"], "1 models, 2 --data, 1 --eval; give one for each"),
    ],
)
def test_a_wrong_option(folder: Folder, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str) -> None:
    monkeypatch.chdir(folder.path)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    files = ["--data", folder.data, "--eval", folder.data]
    found = CliRunner().invoke(
        importlib.import_module("formats").main, list(map(str, [folder.model, *files, *options]))
    )
    assert (found.exit_code, found.stdout) == (2, "")
    assert message in found.stderr


@pytest.mark.slow
def test_the_main_job_with_its_baseline(folder: Folder) -> None:
    found = run("main_job", folder.model, "--data", folder.data, "--eval", folder.data, "--try", "--points 1")
    assert found.returncode == 0, found.stderr
    assert [line[0] for line in table(found.stdout)] == ["ONNX Runtime int8", "--points 1"]


@pytest.mark.slow
def test_the_cost_of_calibration(folder: Folder) -> None:
    found = run("calibration_cost", folder.model, "--data", folder.data, "--rounds", 1)
    assert found.returncode == 0, found.stderr
    assert len(table(found.stdout)) == 4


@pytest.mark.slow
def test_the_memory_of_a_quantization_does_not_grow_with_samples(tmp_path: Path) -> None:
    small = model(
        "c = Conv<kernel_shape=[8,8], strides=[8,8]>(x, w, b)\nr = Relu(c)\np = GlobalAveragePool(r)\ny = Flatten(p)",
        "float[n,3,160,160] x",
        "float[n,8] y",
        {"w": (8, 3, 8, 8), "b": (8,)},
    )
    onnx.save(small, tmp_path / "net.onnx")
    np.savez(tmp_path / "calib.npz", x=np.random.default_rng(3).normal(size=(8, 3, 160, 160)).astype(np.float32))
    options = ("--data", tmp_path / "calib.npz", "--samples", "16,256", "--rounds", 1)
    found = run("quantization_cost", tmp_path / "net.onnx", *options)
    assert (found.returncode, found.stderr) == (0, "")
    few, many = table(found.stdout)
    assert (few[0], many[0]) == ("16", "256")
    assert few[5].startswith("capture ")
    megabytes = 256 * 3 * 160 * 160 * 4 / 1e6
    assert int(many[4]) - int(few[4]) < megabytes / 4


@pytest.mark.slow
def test_the_cost_of_what_is_refused_is_its_message(folder: Folder) -> None:
    found = run("quantization_cost", folder.model, "--data", folder.data, "--weights", "itn4", "--samples", "4")
    assert found.returncode == 1
    assert "unknown format 'itn4'; did you mean 'int4'?" in found.stderr.splitlines()[-1]


@pytest.mark.slow
def test_every_layer_has_its_time(folder: Folder) -> None:
    output = folder.path / "q.onnx"
    ptq.quantize(folder.model, folder.data, method="rtn", weights="int8").save(output)
    found = run("layers", folder.model, output, "--data", folder.data, "--rounds", 2)
    assert (found.returncode, found.stderr) == (0, "")
    lines = table(found.stdout)
    assert sorted(line[1] for line in lines) == ["QGemm", "QLinearConv", "QLinearConv"]
    assert all(float(line[2]) > 0 and float(line[3]) > 0 and line[4].endswith("x") for line in lines)
    assert "3 layers (2 QLinearConv, 1 QGemm): " in found.stdout
    found = run("layers", folder.model, folder.model, "--data", folder.data)
    assert found.returncode == 1
    assert "no layer with marks" in found.stderr


@pytest.mark.slow
def test_a_training_step_of_every_recipe() -> None:
    found = run("training_step", "--networks", "small", "--rounds", 1, "--recipes", "luq,s2fp8")
    assert (found.returncode, found.stderr) == (0, "")
    steps, gradients = found.stdout.strip().split("\n\n")[1:]
    names = [["FP32", ""], ["luq", "no"], ["luq", "yes"], ["s2fp8", "no"], ["s2fp8", "yes"]]
    assert [line[1:3] for line in table(steps)] == names
    assert [line[0] for line in table(gradients)] == ["copy", "luq", "s2fp8"]
    found = run("training_step", "--recipes", "lug")
    assert (found.returncode, found.stdout) == (2, "")
    assert "unknown training recipe 'lug'; did you mean 'luq'?" in found.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.slow
def test_the_kernel_needs_a_gpu() -> None:
    found = run("training_kernel")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == "Error: there is no CUDA device to time the kernel on\n"
