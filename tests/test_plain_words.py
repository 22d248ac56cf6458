"""What a newcomer got wrong, and is told in words that lead on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import Command
from small_folder import Folder
from test_report import GOOD, LAYER, with_accuracy

from ptq.report import Portability, warnings_of

RNG = np.random.default_rng(8)
X = RNG.normal(size=(10, 3, 8, 8)).astype(np.float32)


def saved(folder: Folder, name: str, **arrays: np.ndarray) -> Path:
    path = folder.path / name
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": X}, ["the data have 'z'", "rename 'z' to 'x', if it is that"]),
        ({"y": X, "z": X}, ["the data have 'y', 'z'", "are these data for another model?"]),
        ({"labels": np.arange(10)}, ["the data have none", "are these data for another model?"]),
        (
            {"x": (255 * X).astype(np.uint8)},
            ["convert it with astype('float32'), and scale it as the model was trained"],
        ),
    ],
)
def test_data_that_do_not_fit(folder: Folder, ptq: Command, arrays: dict[str, np.ndarray], words: list[str]) -> None:
    ptq("quantize", folder.model, "--data", saved(folder, "other.npz", **arrays)).fails(*words)


def test_an_input_that_is_missing() -> None:
    from calibration.contract import bound
    from calibration.spec import InputSpec
    from ptq.errors import DataError

    inputs = [InputSpec("ids", "int64", ("n", 8)), InputSpec("mask", "int64", ("n", 8))]
    with pytest.raises(DataError, match=r"the data have 'ids'; add 'mask'$"):
        bound({"ids": X}, inputs, "--data")


def test_data_that_were_prepared_in_two_ways(folder: Folder, ptq: Command) -> None:
    bytes_ = saved(folder, "bytes.npz", x=np.abs(X * 80))
    job = ("quantize", folder.model, "--method", "rtn", "-o", folder.output, "--overwrite", "--eval", folder.data)
    run = ptq(*job, "--data", bytes_)
    assert "WARNING  'x' is in 0.0" in run.out
    assert "in those of --eval; prepare both as in training" in run.out
    assert "prepare both" not in ptq(*job, "--data", folder.data).out


def test_files_in_the_wrong_order(folder: Folder, ptq: Command) -> None:
    assert ptq("quantize", folder.model, "--data", folder.data, "-o", folder.output).code == 0
    swapped = ptq("compare", folder.output, folder.model, "--eval", folder.data)
    swapped.fails("the first file computes 3 layers in int8", "swapped", "give the float model first")
    run = ptq("compare", folder.output, folder.output, "--eval", folder.data)
    assert run.code == 0
    assert "note     the model computes 3 layers in int8 itself" in run.out
    ptq("quantize", folder.output, "--data", folder.data).fails("the model is quantized already, it has ")
    ptq("inspect", folder.output).fails("give the float model")


@pytest.mark.portability
def test_what_other_processors_answer(folder: Folder, ptq: Command) -> None:
    job = ("quantize", folder.model, "--data", folder.data, "--method", "rtn", "--weights", "int8", "-o", folder.output)
    page = folder.path / "report.html"
    run = ptq(*job, "--html", page)
    said = [line for line in run.out.splitlines() if "on processors without VNNI the output has" in line]
    assert len(said) == 1
    assert "instead of" in said[0]
    assert said[0].endswith("--portable prevents it")
    assert "on processors without VNNI" in page.read_text(encoding="utf-8")
    assert "VNNI" not in ptq(*job, "--portable", "--overwrite").out


SAME = Portability(50, 21.8, 28.3, 0.96, 1.0, 0, 1e-5)


@pytest.mark.parametrize(
    ("port", "labelled", "warned"),
    [
        (SAME, True, True),  # two of 50 have another class, more than 2 %
        (replace(SAME, agreement=0.98), True, False),  # one alone may be chance
        (replace(SAME, samples=25), True, False),
        (SAME, False, False),  # the cosine is 0.997 for 0.999
        (replace(SAME, sqnr_db=9.0), False, True),
        (replace(SAME, sqnr_db=9.0, agreement=1.0), True, False),
        (replace(SAME, sqnr_db=28.0, agreement=0.5), True, False),  # there is nothing to tell
        (replace(SAME, nonfinite=1), True, True),
    ],
)
def test_when_other_processors_are_a_warning(port: Portability, labelled: bool, warned: bool) -> None:
    report = GOOD if labelled else with_accuracy(scores=(), labelled=0)
    assert bool(warnings_of(replace(report, portability=port), 0.02)) == warned


def test_the_format_of_a_layer_is_that_of_most_rows(folder: Folder) -> None:
    import torch

    from ptq import formats
    from ptq.pipeline.describe import layer_format
    from ptq.qtensor import QTensor, Term

    parts = [("int4", [0, 1, 3]), ("int5", [2])]
    terms = [
        Term(torch.zeros(len(rows), 4), torch.ones(len(rows)), formats.get(name), torch.tensor(rows))
        for name, rows in parts
    ]
    more = Term(torch.zeros(4, 4), torch.ones(4), formats.get("int2"))
    assert layer_format(QTensor((*terms, more), (4, 4))) == "int4"
    assert LAYER.format == "int4"


def test_more_bits_than_layers_can_have(folder: Folder, ptq: Command) -> None:
    job = ("quantize", folder.model, "--data", folder.data, "-o", folder.output, "--overwrite")
    run = ptq(*job, "--bits", 9)
    assert "note     --bits 9 is more than layers can have, they take 8" in run.out
    assert "more than layers can have" not in ptq(*job, "--bits", 4.6).out
    ptq(*job, "--method", "gptq", "--bits", 4).fails("or name a format by --weights, such as int4", code=2)


@pytest.mark.parametrize(
    ("time", "said"), [(0.1234, "0.123"), (0.5, "0.500"), (9.0, "9.00"), (13.26, "13.3"), (144.4, "144")]
)
def test_milliseconds_line_up(time: float, said: str) -> None:
    from ptq.report.console import milliseconds

    assert milliseconds(time) == said
