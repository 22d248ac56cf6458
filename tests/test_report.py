"""The verdict: a warning with a number for everything that is not as it should be, and none otherwise."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from ptq.evaluate import Accuracy, Score
from ptq.report import render, to_json
from ptq.report.model import FileReport, LayerReport, Report, SourceReport
from ptq.report.verdict import warnings_of

MIXES = {"int4": 6, "int4+int2": 2}
LAYER = LayerReport(
    "conv", "Conv", (8, 3, 3, 3), "int4", (6, 2), MIXES, 5.0, 135, 20.0, 22.0, "static", "QLinearConv", True
)
GOOD = Report(
    source=SourceReport("net.onnx", "ONNX", 1, 216, "0" * 64),
    output="out.onnx",
    options={"bits": 5.0},
    versions={"onnxruntime": "1.32.0"},
    data="8 samples",
    evaluation="100 samples",
    layers=(LAYER,),
    bits_per_weight=5.0,
    accuracy=Accuracy(100, 100, 0.97, 20.0, 0.99, 0, scores=(Score("top-1", 0.9, 0.89),)),
    file=FileReport(1000, 200, 0.1, 0.1, 5000, 3000, 2.0, 1.0, 0.5, 40.0),
    stages={"capture": 0.1, "quantize": 2.0},
    notes=(),
    warnings=(),
)


def with_file(**changes: Any) -> Report:
    return replace(GOOD, file=replace(GOOD.file, **changes))


def with_accuracy(**changes: Any) -> Report:
    assert GOOD.accuracy is not None
    return replace(GOOD, accuracy=replace(GOOD.accuracy, **changes))


def with_scores(*scores: Score) -> Report:
    return with_accuracy(scores=scores)


def with_layer(**changes: Any) -> Report:
    return replace(GOOD, layers=(replace(LAYER, **changes),))


UNLABELLED = {"scores": (), "labelled": 0}


def test_nothing_to_say() -> None:
    assert warnings_of(GOOD, 0.02) == ()
    assert GOOD.passed


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (with_file(latency_ratio=1.2), ["slower than FP32", "1.20x"]),
        (with_file(bytes=1000), ["not smaller"]),
        (with_file(parity_db=9.0), ["9.0 dB"]),
        (with_scores(Score("top-1", 0.9, 0.87)), ["3.0 points", "2.0"]),
        (with_scores(Score("perplexity", 10.0, 10.3, "less")), ["perplexity rises by 3.0 %", "2.0"]),
        (with_scores(Score("bleu", 20.0, 19.0, "more")), ["bleu falls by 5.0 %", "2.0"]),
        (with_scores(Score("perplexity", 10.0, None, "less")), ["perplexity is no finite number"]),
        (with_accuracy(nonfinite=3), ["3 outputs", "NaN"]),
        (with_accuracy(**UNLABELLED, cosine=0.9), ["0.9000", "0.9800"]),
        (with_layer(integer=False, kernel="Conv"), ["1 of 1 layers", "conv (Conv)"]),
        (with_layer(execution="float", integer=False), ["0 of 1 layers"]),
    ],
)
def test_each_warning_has_its_number(report: Report, words: list[str]) -> None:
    (warning,) = warnings_of(report, 0.02)
    for word in words:
        assert word in warning


@pytest.mark.parametrize(
    "report",
    [
        with_file(latency_ratio=1.0),
        with_file(latency_ratio=None, parity_db=None),
        with_scores(Score("top-1", 0.9, 0.881)),
        with_scores(Score("top-1", 0.9, 0.95)),
        with_scores(Score("perplexity", 10.0, 10.1, "less")),
        with_file(latency_ratio=1.04),
        with_accuracy(**UNLABELLED, cosine=0.985),
        replace(GOOD, accuracy=None),
    ],
)
def test_what_is_in_order(report: Report) -> None:
    assert warnings_of(report, 0.02) == ()


@pytest.mark.parametrize("report", [GOOD, replace(GOOD, accuracy=None, output=None, warnings=("slower",))])
@pytest.mark.parametrize("layers", [False, True])
def test_the_terminal_shows_what_was_measured(report: Report, *, layers: bool) -> None:
    out = io.StringIO()
    render(report, Console(file=out, width=100), layers=layers)
    said = out.getvalue()
    assert "5.00 bits each" in said
    assert ("PASS" in said) == report.passed
    assert ("WARNING" in said) != report.passed
    assert ("135" in said) == layers  # the bytes of the layer


def test_names_of_layers_are_shown_whole() -> None:
    name, rule = "a.layer.of.a.name." * 3, "mine.toml: rule 1 (match 'layer')"
    out = io.StringIO()
    render(with_layer(site=name, method="gptq", rule=rule), Console(file=out, width=60), layers=True)
    (row,) = (line.split() for line in out.getvalue().splitlines() if name in line)
    assert row[1:3] == ["gptq", "int4"]
    assert " ".join(row).endswith(f"QLinearConv {rule}")


def test_json_holds_everything() -> None:
    said = json.loads(to_json(GOOD))
    assert said["layers"][0]["points"] == [6, 2]
    assert said["file"]["latency_ratio"] == 0.5
    assert said["accuracy"]["agreement"] == 0.97
    assert said["schema"] == 3
