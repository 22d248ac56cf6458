"""Formats that are fitted to a tensor: what is chosen, and what ONNX Runtime makes of the file."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import numpy_helper
from schemes import METHODS
from torch import Tensor

import ptq
from cli import formats as cli
from ptq import formats, scheme
from ptq.errors import OptionError
from ptq.fitted import FITTED
from ptq.formats import Format
from ptq.model.session import Session
from ptq.qtensor import QTensor
from ptq.rounding import round_to
from ptq.scheme import Scheme
from ptq.solve import Curvature
from ptq.squeeze import Squeeze, truncate
from tests.graphs import model

WIDTHS = FITTED["fp8_auto"].members


def drawn(kind: str, shape: tuple[int, int] = (24, 96)) -> Tensor:
    rng = np.random.default_rng(5)
    numbers = {
        "uniform": lambda: rng.uniform(-1, 1, shape),
        "normal": lambda: rng.standard_normal(shape),
        "student": lambda: rng.standard_t(3, shape),
        "lognormal": lambda: np.exp(3 * rng.standard_normal(shape)) * rng.choice([-1, 1], shape),
        "huge tails": lambda: np.exp(9 * rng.standard_normal(shape)) * rng.choice([-1, 1], shape),
    }[kind]()
    return torch.from_numpy(numbers.astype(np.float32) * np.float32(0.1))


def quantized(weight: Tensor, chosen: Scheme, method: str = "rtn") -> QTensor:
    curvature = Curvature.unknown(1, weight.shape[1])
    ladder = METHODS[method](chosen).ladder(weight[None], curvature)
    return ladder.pick(ladder.all_on(0))


def error(weight: Tensor, chosen: Scheme) -> float:
    return float((quantized(weight, chosen).dequantize() - weight).double().square().sum())


def format_of(weight: Tensor, name: str, group: str | None = None) -> Format:
    (term,) = quantized(weight, scheme.parse(name, group)).terms
    return term.format


@pytest.mark.parametrize("group", [None, "tensor", "32"])
@pytest.mark.parametrize("kind", ["uniform", "normal", "student", "lognormal", "huge tails"])
def test_fp8_auto_is_the_best_of_its_widths(kind: str, group: str | None) -> None:
    weight = drawn(kind)
    parsed = scheme.parse("fp8_auto", group)
    errors = [error(weight, Scheme(fmt, parsed.group, parsed.factors, parsed.per_tensor)) for fmt in WIDTHS]
    assert error(weight, parsed) == min(errors)
    assert format_of(weight, "fp8_auto", group) == WIDTHS[errors.index(min(errors))]


def test_more_outliers_take_more_bits_of_exponent() -> None:
    """What arXiv:2208.09225 says, and that without tails nothing beats integers."""
    kinds = ["uniform", "normal", "student", "lognormal", "huge tails"]
    chosen = [format_of(drawn(kind, (1, 4000)), "fp8_auto", "tensor").name for kind in kinds]
    widths = [int(name[5]) for name in chosen]
    assert widths == sorted(widths)
    assert chosen[:2] == ["fp8_e1m6", "fp8_e2m5"]
    assert widths[-1] >= 3


@pytest.mark.parametrize(("kind", "floor"), [("uniform", 48.1), ("normal", 42.7), ("student", 37.8)])
def test_as_good_as_the_papers_own_search(kind: str, floor: float) -> None:
    """The best width per tensor of papers.md, section 4.2, from its own simulation; integers have 48.1 for uniform."""
    weight = drawn(kind, (64, 1000))
    if kind == "student":
        weight = torch.from_numpy(np.random.default_rng(5).standard_t(8, (64, 1000)).astype(np.float32))
    power = float(weight.double().square().sum())
    assert 10 * math.log10(power / error(weight, scheme.parse("fp8_auto", "tensor"))) > floor - 0.3


@pytest.mark.parametrize("kind", ["uniform", "normal", "student", "lognormal"])
def test_ffp8_has_no_sign_where_no_number_is_negative(kind: str) -> None:
    weight = drawn(kind)
    positive, zeros = weight.abs(), weight.clamp_min(0)
    for numbers in (positive, zeros):
        assert format_of(numbers, "ffp8").min == 0
        signed = min(error(numbers, Scheme(fmt, per_tensor=True, clips=False)) for fmt in WIDTHS)
        assert error(numbers, scheme.parse("ffp8")) < signed / 2
    assert format_of(weight, "ffp8").min < 0
    assert format_of(-positive, "ffp8").min < 0


@pytest.mark.parametrize("name", ["ffp8", "s2fp8"])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "hqq"])
def test_the_largest_number_stays(name: str, method: str) -> None:
    weight = drawn("student")
    made = quantized(weight, scheme.parse(name), method)
    place = weight.abs().argmax()
    if method == "rtn":
        assert made.dequantize().flatten()[place] == pytest.approx(float(weight.flatten()[place]), rel=2e-7)
    (term,) = made.terms
    assert torch.equal(term.scale, (weight.abs().max() / term.format.max).expand(len(weight)))


def test_s2fp8_has_the_numbers_of_the_paper() -> None:
    """Each is what the paper's Y stands for: truncating it with the statistics of the tensor leaves it as it is."""
    weight = drawn("student")
    squeeze = Squeeze.of(weight)
    made = quantized(weight, scheme.parse("s2fp8")).dequantize()
    y = squeeze.forth(made)
    fp8 = round_to(formats.get("fp8_e5m2"), y)
    np.testing.assert_allclose(y, fp8, rtol=1e-5)
    assert bool((made[weight == 0] == 0).all())
    power = weight.double().square().sum()
    ours, paper = ((each - weight).double().square().sum() / power for each in (made, truncate(weight)))
    assert 0.5 * paper < ours < paper


@pytest.mark.parametrize("octaves", [-40, -3, 7, 30])
@pytest.mark.parametrize("name", FITTED)
def test_scaling_goes_through(name: str, octaves: int) -> None:
    """Scales of channels are of eight bits above a power of two, so that nothing depends on the unit."""
    weight = drawn("student")
    once, scaled = (quantized(numbers, scheme.parse(name)) for numbers in (weight, weight * 2.0**octaves))
    np.testing.assert_allclose(scaled.dequantize() / 2.0**octaves, once.dequantize(), rtol=1e-6)


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("number", [0.0, 0.3, -0.3])
def test_one_number_or_none(name: str, number: float) -> None:
    weight = torch.full((6, 10), number)
    weight[2, 3] = 0
    np.testing.assert_allclose(quantized(weight, scheme.parse(name)).dequantize(), weight, rtol=2e-2, atol=0)
    if FITTED[name].whole:
        np.testing.assert_allclose(quantized(weight, scheme.parse(name)).dequantize(), weight, rtol=2e-7, atol=0)


GRAPHS = {
    "products": (
        "h = MatMul (x, w0)\n r = Relu (h)\n y = MatMul (r, w1)",
        "float[n, 20] x",
        {"w0": (20, 12), "w1": (12, 7)},
    ),
    "convolutions": (
        "h = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)\n r = Relu (h)\n y = Conv (r, w1)",
        "float[n, 3, 8, 8] x",
        {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (4, 8, 1, 1)},
    ),
    "embedding": ("h = Gather (w0, x)\n y = MatMul (h, w1)", "int64[n, 5] x", {"w0": (30, 16), "w1": (16, 6)}),
}


def network(kind: str) -> onnx.ModelProto:
    nodes, inputs, weights = GRAPHS[kind]
    made = model(nodes, inputs, "float y", weights)
    for tensor in made.graph.initializer:  # one weight has no negative numbers
        if tensor.name == "w1":
            tensor.CopyFrom(numpy_helper.from_array(np.abs(numpy_helper.to_array(tensor)), tensor.name))
    return made


def fed(kind: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shape = {"products": (9, 20), "convolutions": (2, 3, 8, 8), "embedding": (4, 5)}[kind]
    return {"x": rng.integers(0, 30, shape) if kind == "embedding" else rng.standard_normal(shape).astype(np.float32)}


def rounded(array: np.ndarray, fitted: str, *, turned: bool) -> np.ndarray:
    """A weight quantized by rtn and brought back; `turned` where an output channel is a column."""
    rows = np.array(array.T if turned else array.reshape(len(array), -1), order="C")
    numbers = quantized(torch.from_numpy(rows), scheme.parse(fitted)).dequantize().numpy()
    return np.ascontiguousarray(numbers.T if turned else numbers.reshape(array.shape))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fitted", FITTED)
@pytest.mark.parametrize("kind", GRAPHS)
def test_onnx_runtime_computes_with_the_numbers(kind: str, fitted: str, method: str) -> None:
    """The file gives what the float network gives with every weight rounded; by others, nearly what it gave before."""
    float_model, feeds = network(kind), fed(kind)
    if method == "hqq" and FITTED[fitted].whole:
        pytest.skip("it fits scales, and these are given")
    data = None if method == "rtn" else feeds
    tables = fitted if kind == "embedding" else "none"
    made = ptq.quantize(
        float_model, data, method=method, weights=fitted, activations="none", embeddings=tables, max_drop=1.0
    )
    if method == "rtn":
        for tensor in float_model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            if array.ndim > 1:
                turned = kind != "convolutions" and (kind, tensor.name) != ("embedding", "w0")
                tensor.CopyFrom(numpy_helper.from_array(rounded(array, fitted, turned=turned), tensor.name))
    expected, found = (Session(content).run(feeds)[0] for content in (float_model.SerializeToString(), made.content))
    noise = float(np.square(expected - found).astype(np.float64).sum())
    assert noise < 10 ** (-10 if method == "rtn" else -2.5) * np.square(expected).sum()
    named = {layer.format.rpartition("/")[0] or layer.format for layer in made.report.layers}
    allowed = {fmt.name for fmt in FITTED[fitted].members} or {fitted}
    assert named <= allowed
    assert fitted != "ffp8" or any(name.startswith("ufp8") for name in named)


def test_what_is_stored_is_counted_the_table_of_a_tensor_too() -> None:
    float_model = network("convolutions")
    made = ptq.quantize(float_model, method="rtn", weights="s2fp8")
    for layer, tensor in zip(made.report.layers, ("w0", "w1"), strict=True):
        array = next(numpy_helper.to_array(t) for t in float_model.graph.initializer if t.name == tensor)
        weight = quantized(torch.from_numpy(array.reshape(len(array), -1).copy()), scheme.parse("s2fp8"))
        assert weight.storage_bits == 8 * (array.size + 4 * 256) + 32 * (1 if len(array) > 4 else 4)
        assert 8 * layer.bytes == pytest.approx(weight.storage_bits, abs=32)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": "fp8_auto", "activations": "uint8"}, "steps of one scale a row, not fp8_auto"),
        ({"weights": "s2fp8", "group": "32", "activations": "none"}, "s2fp8 has one scale a tensor by itself"),
        ({"weights": "ffp8", "group": "channel", "activations": "none"}, "ffp8 has one scale a tensor by itself"),
        ({"weights": "ffp9"}, "unknown format 'ffp9'; did you mean 'ffp8'"),
        ({"weights": "ufp8_e2m6"}, "unknown format 'ufp8_e2m6'"),
        ({"weights": "int8", "activations": "fp8_auto"}, "no kernel of ONNX Runtime takes them"),
        ({"weights": "s2fp8", "method": "multipoint"}, "multipoint sums points of integers, not of s2fp8"),
    ],
)
def test_what_they_are_not_for(options: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        ptq.quantize(network("products"), fed("products"), **{"method": "rtn", **options})


def test_no_kernel_of_int8_is_promised() -> None:
    for name in FITTED:
        assert not scheme.parse(name).fits_int8
        assert scheme.parse(name).bits == 8
    assert scheme.parse("ffp8", "tensor") == scheme.parse("ffp8")
    assert {fmt.name for each in FITTED.values() for fmt in each.members} & set(formats.FORMATS) == {
        "fp8_e3m4",
        "fp8_e2m5",
    }


@pytest.mark.parametrize("name", FITTED)
def test_the_command_line_explains_them(name: str) -> None:
    runner = CliRunner()
    (line,) = [line for line in runner.invoke(cli.formats, []).output.splitlines() if line.startswith(f"{name} ")]
    assert line.split() == [name, "8", "-", "-", "-", "-", "float32,", "table"]
    shown = runner.invoke(cli.formats, ["show", name])
    assert shown.exit_code == 0
    said = json.loads(runner.invoke(cli.formats, ["show", name, "--format", "json"]).output)
    assert said in json.loads(runner.invoke(cli.formats, ["--format", "json"]).output)["fitted"]
    for fmt in FITTED[name].members:
        assert f"{fmt.name}" in shown.output
        member = json.loads(runner.invoke(cli.formats, ["show", fmt.name, "--format", "json"]).output)
        assert [pair["value"] for pair in member["values"]] == list(fmt.values)
    assert said["members"] == ([fmt.name for fmt in FITTED[name].members] or None)
