"""What `ptq formats` says of block formats, against ml_dtypes and the files that are written with them."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphs import model

import ptq
from cli.formats import formats as command
from ptq import scheme
from ptq.errors import OptionError
from ptq.scheme import SCHEMES

NUMBERS = {
    "mxfp8": (8.25, 32, "e8m0", None, ml_dtypes.float8_e4m3fn),
    "mxfp6": (6.25, 32, "e8m0", None, ml_dtypes.float6_e2m3fn),
    "mxfp4": (4.25, 32, "e8m0", None, ml_dtypes.float4_e2m1fn),
    "mxint8": (8.25, 32, "e8m0", None, np.int8),
    "nvfp4": (4.5, 16, "fp8_e4m3fn", "float32", ml_dtypes.float4_e2m1fn),
}
"""Bits a weight, size of a group, format of its scale, scale of the tensor (Microscaling 1.0, table 1), numbers."""


def asked(*arguments: str) -> str:
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0
    return done.output


def shown(name: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(asked("show", name, "--format", "json"))
    return said


def test_everything_that_weights_may_be_is_listed_and_shown() -> None:
    listed = json.loads(asked("--format", "json"))
    assert {entry["name"] for kind in listed.values() for entry in kind} == set(scheme.known())
    first = {line.split()[0] for line in asked().splitlines() if line.strip()}
    for name in scheme.known():
        assert name in first
        assert shown(name)["name"] == name
        assert f"{name}, " in asked("show", name).splitlines()[0]


def test_their_lines_of_the_list() -> None:
    lines = [line.split() for line in asked().splitlines()]
    for name, (bits, size, scales, tensor, _) in NUMBERS.items():
        (line,) = [line for line in lines if line[:1] == [name]]
        both = [scales] if tensor is None else [f"{scales},", tensor]
        how = "Cast" if name == "mxfp8" else "blocks"
        assert line == [name, f"{bits:g}", SCHEMES[name].format.name, str(size), *both, "float32,", how]


@pytest.mark.parametrize("name", SCHEMES)
def test_numbers_and_scales_of_one(name: str) -> None:
    bits, size, scales, tensor, dtype = NUMBERS[name]
    said = shown(name)
    assert (said["bits"], said["group"], said["scales"], said["tensor_scale"]) == (bits, size, scales, tensor)
    assert said["onnx"] is None
    kept = {key: said[key] for key in said if key not in ("explained", "values")}
    assert kept in json.loads(asked("--format", "json"))["block"]
    codes = np.array([pair["code"] for pair in said["values"]], np.uint8)
    assert [pair["value"] for pair in said["values"]] == codes.view(dtype).astype(float).tolist()
    assert len(codes) == said["count"]
    text = " ".join(asked("show", name).split())
    assert f"bits {bits:g}: " in text
    assert f"one for every {size} weights along a row{', times one float32' if tensor else ''}" in text
    assert f"`ptq formats show {scales}` lists them" in text
    for pair in said["values"]:
        assert f"0x{pair['code']:0{2 if bits > 4.5 else 1}x} {pair['value']!r}" in text


@pytest.mark.parametrize("name", SCHEMES)
def test_it_is_stored_and_runs_as_is_said(name: str) -> None:
    nodes = "c = Conv (x, kernel)\n y = MatMul (c, matrix)"
    float_model = model(nodes, "float[n, 32, 4, 64] x", "float y", {"kernel": (32, 32, 1, 1), "matrix": (64, 64)})
    made = ptq.quantize(float_model, method="rtn", weights=name, activations="none")
    said = shown(name)
    conv, product = made.report.layers
    assert said["computed_in"] == "float32"
    assert not conv.integer
    assert (product.kernel == "MatMulNBits") == (said["block_weights"] is not None)
    proto = onnx.load_from_string(made.content)
    assert said["block_weights"] in (None, {"op": "MatMulNBits", "opset": proto.opset_import[0].version})
    kinds = {part: set[str]() for part in ("plane1", "scale1.groups")}
    for tensor in proto.graph.initializer:
        part = tensor.name.partition("/")[2]
        if part.startswith(tuple(kinds)):
            kinds["plane1" if part.startswith("plane1") else part].add(onnx.TensorProto.DataType.Name(tensor.data_type))
    numbers, scales = said["explained"]["stored"].partition(";")[0].split(", ")
    for sentence, found in zip((numbers, scales), kinds.values(), strict=True):
        kind = sentence.rpartition(" as ")[2]
        assert found == {kind} if kind != "packed codes" else found <= {"INT8", "INT4", "UINT8"}, sentence


@pytest.mark.parametrize(
    ("name", "hint"), [("mxfp44", "mxfp4"), ("nvpf4", "nvfp4"), ("mx_int8", "mxint8"), ("zzz", "known are .*mxfp4")]
)
def test_an_unknown_name_leads_to_them(name: str, hint: str) -> None:
    for ask in (lambda: scheme.parse(name), lambda: command(["show", name], standalone_mode=False)):
        with pytest.raises(OptionError, match=hint):
            ask()
