"""The command as a user meets it: exit codes, one line for an error, and nothing left behind."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from command import Command
from small_folder import Folder, write_model

RNG = np.random.default_rng(3)


def test_the_main_job(ptq: Command, folder: Folder) -> None:
    report = folder.path / "report.json"
    run = ptq(
        *("quantize", folder.model, "--data", folder.data, "--eval", folder.data, "-o", folder.output),
        *("--points", 1, "--json", report),
    )
    assert run.code == 0, run.err
    assert {"net.onnx", "calib.npz", "out.onnx", "report.json"} == folder.names()
    said = json.loads(report.read_text())
    assert len(said["layers"]) == 3
    assert {layer["kernel"] for layer in said["layers"]} == {"QLinearConv", "QGemm"}
    assert said["accuracy"]["samples"] == 10
    assert folder.output.stat().st_size == said["file"]["bytes"]


def test_names_that_are_no_names(ptq: Command, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may be called what no text is; what is named in a report may not."""
    ptq("quantize", "").fails("is a folder")
    ptq("quantize", os.fsdecode(b"\xff.onnx")).fails(r"'\udcff.onnx' is no text in UTF-8; rename the file", code=2)
    odd = folder.path / os.fsdecode(b"\xff")
    odd.mkdir()
    folder.model.rename(odd / "net.onnx")
    monkeypatch.chdir(odd)
    assert ptq("quantize", "net.onnx", "-o", "out.onnx", "--method", "rtn").code == 0


def test_same_input_same_bytes(ptq: Command, folder: Folder) -> None:
    made = []
    for name in ("one.onnx", "two.onnx"):
        assert ptq("quantize", folder.model, "--data", folder.data, "-o", folder.path / name).code == 0
        made.append((folder.path / name).read_bytes())
    assert made[0] == made[1]


def test_weights_only_is_said(ptq: Command, folder: Folder) -> None:
    run = ptq("quantize", folder.model, "-o", folder.output)
    assert run.code == 0, run.err
    assert "no calibration data: only the weights are quantized" in run.out


def test_strict_turns_a_warning_into_an_exit_code(ptq: Command, folder: Folder) -> None:
    np.savez(folder.data, x=RNG.normal(size=(6, 3, 8, 8)).astype(np.float32))
    command = ("quantize", folder.model, "--data", folder.data, "--eval", folder.data, "-o", folder.output)
    lenient = ptq(*command, "--max-drop", 0)
    assert lenient.code == 0, lenient.err
    assert "WARNING" in lenient.out
    assert ptq(*command, "--max-drop", 0, "--overwrite", "--strict").code == 3


def _truncate(f: Folder) -> None:
    f.model.write_bytes(f.model.read_bytes()[:900])


def _directory(f: Folder) -> None:
    f.model.unlink()
    f.model.mkdir()


def _empty(f: Folder) -> None:
    f.model.write_bytes(b"")


def _missing(f: Folder) -> None:
    f.model.unlink()


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("exploded",)


def _bomb(f: Folder) -> None:
    f.model.write_bytes(pickle.dumps(Bomb()))


def _text(f: Folder) -> None:
    f.model.write_text("not a model")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_truncate, ["net.onnx"]),
        (_directory, ["is a folder"]),
        (_empty, ["empty"]),
        (_missing, ["net.onnx"]),
        (_bomb, ["pickle"]),
        (_text, ["net.onnx"]),
        (lambda f: write_model(f.model, opset=99), ["opset"]),
        (lambda f: write_model(f.model, weights=False), ["no quantizable node"]),
    ],
)
def test_a_model_that_is_none(
    ptq: Command, folder: Folder, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Folder], None], words: list[str]
) -> None:
    monkeypatch.chdir(folder.path)
    spoil(folder)
    before = folder.names()
    ptq("quantize", folder.model, "--data", folder.data, "-o", folder.output).fails(*words)
    assert folder.names() == before


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": np.zeros((4, 3, 8, 8), np.float32)}, ["image", "x"]),
        ({"x": np.full((4, 3, 8, 8), np.nan, np.float32)}, ["x", "NaN"]),
        ({"x": np.full((4, 3, 8, 8), np.inf, np.float32)}, ["x"]),
        ({"x": np.zeros((4, 3, 8, 8), np.int64)}, ["x", "int64", "float32"]),
        ({"x": np.zeros((4, 3, 8), np.float32)}, ["x", "3"]),
        ({"x": np.zeros((4, 3, 9, 8), np.float32)}, ["x", "9", "8"]),
        ({"x": np.zeros((0, 3, 8, 8), np.float32)}, ["no samples"]),
    ],
)
@pytest.mark.parametrize("option", ["--data", "--eval"])
def test_data_that_does_not_fit(
    ptq: Command, folder: Folder, arrays: dict[str, np.ndarray], words: list[str], option: str
) -> None:
    wrong = folder.path / "wrong.npz"
    np.savez(wrong, **arrays)
    before = folder.names()
    arguments = {"--data": folder.data, "--eval": folder.data} | {option: wrong}
    flat = [each for pair in arguments.items() for each in pair]
    ptq("quantize", folder.model, *flat, "-o", folder.output).fails(*words)
    assert folder.names() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "multipiont"], ["multipiont", "multipoint"]),
        (["--weights", "int44"], ["int44"]),
        (["--bits", "2"], ["--bits 2", "3 bits of int3", "give more"]),
        (["--bits", "4.5", "--points", "2"], ["--bits", "--points"]),
        (["--points", "0"], ["--points 0", "give one at least"]),
        (["--points", "3"], ["--points 3", "at most 2"]),
        (["--max-drop", "2"], ["--max-drop 2"]),
        (["--max-drop", "-0.1"], ["--max-drop -0.1"]),
        (["--tolerance", "-1"], ["-1"]),
        (["--keep-float", "nothing_like_it"], ["nothing_like_it"]),
        (["--keep-float", "("], ["("]),
        (["--search", "greedy", "--rounding", "hessian"], ["greedy", "hessian"]),
        (["--range", "guess"], ["guess", "minmax"]),
        (["--no-such-option"], ["--no-such-option"]),
        (["--image-size", "224"], ["--image-mean"]),
    ],
)
def test_an_option_that_makes_no_sense(ptq: Command, folder: Folder, arguments: list[str], words: list[str]) -> None:
    before = folder.names()
    ptq("quantize", folder.model, "--data", folder.data, "-o", folder.output, *arguments).fails(*words, code=2)
    assert folder.names() == before


def test_an_existing_output_stays(ptq: Command, folder: Folder) -> None:
    folder.output.write_text("precious")
    ptq("quantize", folder.model, "--data", folder.data, "-o", folder.output).fails("exists", "--overwrite")
    assert folder.output.read_text() == "precious"
    assert ptq("quantize", folder.model, "--data", folder.data, "-o", folder.output, "--overwrite").code == 0


def test_the_input_is_never_the_output(ptq: Command, folder: Folder) -> None:
    before = folder.model.read_bytes()
    (folder.path / "alias.onnx").symlink_to(folder.model)
    for name in (folder.model, folder.path / "alias.onnx"):
        ptq("quantize", folder.model, "-o", name, "--overwrite").fails("input")
    ptq("quantize", folder.model, "--data", folder.data, "-o", folder.data, "--overwrite").fails("input")
    command = ("quantize", folder.model, "-o", folder.output, "--overwrite")
    ptq(*command, "--json", folder.model).fails("input")
    assert folder.model.read_bytes() == before


def test_the_report_does_not_replace_the_model(ptq: Command, folder: Folder) -> None:
    ptq("quantize", folder.model, "-o", folder.output, "--json", folder.output).fails("--json", code=2)
    assert not folder.output.exists()


def test_a_folder_that_does_not_exist(ptq: Command, folder: Folder) -> None:
    ptq("quantize", folder.model, "-o", folder.path / "no" / "out.onnx").fails("does not exist")


def test_a_full_disk(ptq: Command, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = folder.names()
    monkeypatch.setattr(os, "fsync", full)
    ptq("quantize", folder.model, "-o", folder.output).fails("No space left on device", "free space")
    assert folder.names() == before


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle(folder: Folder, sign: signal.Signals) -> None:
    (folder.path / "endless.py").write_text(
        "import itertools, numpy as np\n"
        "def batches():\n"
        "    for _ in itertools.count():\n"
        "        print('batch', flush=True)\n"
        "        yield {'x': np.ones((4, 3, 8, 8), np.float32)}\n"
    )
    before = folder.names()
    command = [sys.executable, "-m", "ptq", "quantize", folder.model, "--data", "endless:batches", "-o", folder.output]
    environment = os.environ | {"PYTHONPATH": str(folder.path), "PYTHONDONTWRITEBYTECODE": "1"}
    # what a shell starts in the background ignores SIGINT, and so would its children
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        process.send_signal(sign)
        started = time.monotonic()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().startswith("ptq: interrupted; nothing was written, and what was finished is kept")
    assert time.monotonic() - started < 60
    assert folder.names() == before
