"""`ptq compare`: files of any tool beside the float model."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command import Command
from conftest import DIGITS
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from small_folder import Folder, write_model

import ptq as library
from ptq.audit import census, float_numbers, tensor_bits
from ptq.errors import ModelError, OptionError
from ptq.model.session import Session
from ptq.pipeline import Compared, Stages, compare, cores
from ptq.report import Comparison


@dataclass(frozen=True)
class Files:
    """The digits network, an int8 file of ours, one of ONNX Runtime's, one that does not load, and labelled digits."""

    path: Path

    @property
    def model(self) -> Path:
        return self.path / "digits.onnx"

    @property
    def ours(self) -> Path:
        return self.path / "ours.onnx"

    @property
    def data(self) -> Path:
        return self.path / "eval.npz"


@pytest.fixture(scope="module")
def files(digits: Path, digit_images: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Files:
    made = Files(tmp_path_factory.mktemp("compared"))
    shutil.copy(digits, made.model)
    with np.load(DIGITS / "eval.npz") as arrays:
        np.savez(made.data, **{name: arrays[name][:100] for name in arrays.files})
    library.quantize(made.model, digit_images, method="rtn", weights="int8").save(made.ours)
    ((name, images),) = digit_images.items()

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {name: image[None]}

    logging.disable(logging.WARNING)
    kind = quantization.QuantType.QUInt8
    output = str(made.path / "theirs.onnx")
    quantization.quantize_static(str(made.model), output, Reader(), per_channel=True, activation_type=kind)
    logging.disable(logging.NOTSET)
    (made.path / "broken.onnx").write_bytes(made.ours.read_bytes()[:-100])
    return made


def compared(folder: Folder | Files, *names: str, **options: Any) -> Comparison:
    return compare(Compared(folder.model, [folder.path / name for name in names], folder.data, **options), Stages())


@pytest.mark.measures_latency
def test_files_of_two_tools(files: Files) -> None:
    found = compared(files, "ours.onnx", "theirs.onnx")
    ours, theirs = found.files
    with np.load(files.data) as arrays:
        feeds = {name: arrays[name] for name in arrays.files if name != "labels"}
        labels = arrays["labels"]
    expected = Session(files.model).run(feeds)[0].astype(float)
    for file in (ours, theirs):
        out = Session(Path(file.path)).run(feeds)[0].astype(float)
        assert file.accuracy is not None
        assert file.accuracy.agreement == (out.argmax(1) == expected.argmax(1)).mean()
        power, noise = ((each**2).sum() for each in (expected, out - expected))
        assert file.accuracy.sqnr_db == pytest.approx(10 * np.log10(power / noise), abs=1e-3)
        score = file.accuracy.score("top-1")
        assert score is not None
        assert score.value == (out.argmax(1) == labels).mean()
        assert file.bytes == Path(file.path).stat().st_size
        assert (file.layers, file.integer, file.decoded) == (14, 14, 0)
        assert [(timing.threads, timing.batch) for timing in file.timings] == [(1, 1)]
        assert 0 < file.timings[0].ms <= file.timings[0].p95_ms
        assert file.timings[0].ratio < 0.8
        assert file.verdict == "PASS"
    assert ours.bits_per_weight is not None
    assert theirs.bits_per_weight is not None
    assert 8 < ours.bits_per_weight <= theirs.bits_per_weight < 9
    assert found.reference.bits_per_weight == pytest.approx(32, abs=0.01)
    assert found.reference.accuracy is None
    assert found.smallest is min(found.files, key=lambda file: file.bytes)


@pytest.mark.measures_latency
def test_one_that_is_broken_does_not_stop_the_others(files: Files, ptq: Command) -> None:
    run = ptq("compare", files.model, files.path / "broken.onnx", files.ours, "--eval", files.data)
    assert run.code == 1
    assert "FAIL     broken.onnx: " in run.out
    assert "is a damaged ONNX model" in run.out
    assert (
        run.out.splitlines()[-1]
        == "PASS     1 of 2 files, of those that pass the smallest is ours.onnx, the fastest ours.onnx"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda graph: setattr(graph.input[0], "name", "z") or rename(graph, "x", "z"), "its inputs are 'z', those of"),
        (lambda graph: graph.output.pop() and graph.output.append(value("r1", ["n", 8, 6, 6])), "its output 'r1' is"),
        (
            lambda graph: graph.input[0].CopyFrom(value("x", [64, 3, 8, 8])),
            "it is fixed to batches of 64, and the data have 10",
        ),
    ],
)
def test_another_network_is_none_to_compare_with(folder: Folder, change: Any, said: str) -> None:
    model = onnx.load(folder.model)
    change(model.graph)
    onnx.save(model, folder.path / "other.onnx")
    (file,) = compared(folder, "other.onnx").files
    assert file.verdict == "FAIL"
    assert file.failure is not None
    assert said in file.failure


def rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def value(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def test_a_model_that_is_fixed_to_batches_of_two(folder: Folder) -> None:
    model = onnx.load(folder.model)
    model.graph.input[0].CopyFrom(value("x", [2, 3, 8, 8]))
    model.graph.output[0].CopyFrom(value("y", [2, 5]))
    onnx.save(model, folder.path / "two.onnx")
    model.graph.input[0].CopyFrom(value("x", [5, 3, 8, 8]))
    model.graph.output[0].CopyFrom(value("y", [5, 5]))
    onnx.save(model, folder.path / "five.onnx")
    found = compared(folder, "two.onnx", "five.onnx")
    two, five = found.files
    assert two.accuracy is not None
    assert (two.accuracy.samples, two.accuracy.agreement) == (10, 1.0)
    assert [timing.batch for timing in two.timings] == [2]
    assert five.failure == "it is fixed to batches of 5, others to 2; compare it apart from these"
    assert found.notes == ("batches are of 2, to which a model is fixed",)


@pytest.mark.measures_latency
def test_threads_and_batches(files: Files, ptq: Command, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    run = ptq(
        *("compare", files.model, files.ours, "--eval", files.data),
        *("--threads", "all", "--threads", 1, "--batch", 1, "--batch", 4, "--batch", 999, "--json", report),
    )
    assert run.code == 0, run.err
    said = json.loads(report.read_text())
    settings = {(cores(), 1), (cores(), 4), (1, 1), (1, 4)}
    assert {(each["threads"], each["batch"]) for each in said["files"][0]["timings"]} == settings
    assert said["notes"] == ["not timed in batches of 999: the data have no whole one"] * (len(settings) // 2)
    assert said["files"][0]["verdict"] == "PASS"
    assert "1 thread, batch 4" in run.out


def test_the_float_model_itself_is_not_smaller(folder: Folder, ptq: Command) -> None:
    run = ptq("compare", folder.model, folder.model, "--eval", folder.data, "--strict")
    assert run.code == 3
    assert "equal" in run.out
    assert "WARNING  net.onnx: the file is not smaller" in run.out
    assert run.out.splitlines()[-1].startswith("WARNING  none of 1 passes")


def test_files_of_one_name_are_told_apart(folder: Folder, ptq: Command) -> None:
    other = folder.path / "other" / "net.onnx"
    other.parent.mkdir()
    shutil.copy(folder.model, other)
    run = ptq("compare", folder.model, folder.model, other, "--eval", folder.data)
    assert "other/net.onnx" in run.out


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (("--metric", "acuracy"), ("unknown --metric 'acuracy'",), 2),
        (("--threads", "some"), ("--threads 'some'", "or all"), 2),
        (("--threads", 0), ("--threads 0", "from 1 up"), 2),
        (("--max-drop", 3), ("--max-drop 3",), 2),
    ],
)
def test_an_option_that_makes_no_sense(
    folder: Folder, ptq: Command, arguments: tuple[object, ...], words: tuple[str, ...], code: int
) -> None:
    ptq("compare", folder.model, folder.model, "--eval", folder.data, *arguments).fails(*words, code=code)


def test_what_is_not_there(folder: Folder, ptq: Command) -> None:
    run = ptq("compare", folder.model, folder.path / "none.onnx", "--eval", folder.data)
    run.fails("none.onnx does not exist; give ONNX files")
    with pytest.raises(ModelError, match="no file to compare"):
        compared(folder)
    with pytest.raises(OptionError, match="--batch 0"):
        Compared(folder.model, [folder.model], folder.data, batches=(0,))


def test_the_report_replaces_nothing_unasked(folder: Folder, ptq: Command) -> None:
    report = folder.path / "there.json"
    report.write_text("mine")
    run = ptq("compare", folder.model, folder.model, "--eval", folder.data, "--json", report)
    run.fails("there.json", "--overwrite")
    assert report.read_text() == "mine"


def test_numbers_that_a_file_stores(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write_model(path)
    model = onnx.load(path)
    count = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    assert (float_numbers(path), tensor_bits(path)) == (count, 32 * count)
    model.graph.initializer.append(helper.make_tensor("packed", TensorProto.INT4, [3], [1, 2, 3]))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(5, np.int8), "bytes"))
    onnx.save(model, path)
    assert (float_numbers(path), tensor_bits(path)) == (count, 32 * count + 3 * 4 + 5 * 8)


def test_products_of_activations_are_no_layers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Transpose", ["a"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["a", "t"], ["y"]),
    ]
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    graph = helper.make_graph(nodes, "g", [value("x", ["n", 3, 4])], [value("y", ["n", 3, 3])], [weight])
    path = tmp_path / "attention.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    found = census(path)
    assert (found.layers, sum(found.others.values()), found.integer) == (1, 1, 0)


def test_from_python(files: Files) -> None:
    found = library.compare(str(files.model), [str(files.ours)], str(files.data), metrics=["f1"], batches=[1, 2])
    assert found.reference.path == str(files.model)
    (file,) = found.files
    assert file.accuracy is not None
    assert [score.name for score in file.accuracy.scores] == ["f1"]
    assert [timing.batch for timing in file.timings] == [1, 2]
