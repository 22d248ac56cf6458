"""The method mixed: what it makes of weights, what it refuses, and whole runs by both of its metrics."""

from __future__ import annotations

from typing import Any

import every_site
import numpy as np
import onnx
import pytest
import torch
from schemes import check_contract, curvature, gaussian, inputs
from test_schemes import awkward

import ptq
from ptq import scheme
from ptq.errors import ModelError, OptionError
from ptq.formats import INT8_MAX, PORTABLE_MAX
from ptq.lowering import Execution
from ptq.method import Request
from ptq.methods.mixed import Mixed
from ptq.recipe import Recipe

IMAGES = {"image": np.random.default_rng(11).normal(size=(12, 3, 8, 8)).astype(np.float32)}


def method(weights: str = "int4", group: str | None = None, *, portable: bool = False, **options: Any) -> Mixed:
    how = scheme.parse(weights, group, integer=True, portable=portable)
    return Mixed.of(Request(how, has_data=True, portable=portable, options=options))


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("group", ["channel", "tensor", "16", "64"])
def test_every_rung_keeps_the_contract(group: str, *, portable: bool) -> None:
    made, weight = method("int3", group, portable=portable), gaussian(2, 5, 72)
    before = weight.clone()
    ladder = made.ladder(weight, curvature(inputs(200, 72), 2))
    assert torch.equal(weight, before)
    assert ladder.whole
    assert len(ladder.rungs) == len(made.choices)
    assert made.choices[ladder.base] == made.scheme
    for rung, choice in enumerate(made.choices):
        picked = ladder.pick(ladder.all_on(rung))
        check_contract(picked, choice, weight)
        assert picked.integers().abs().max() <= (PORTABLE_MAX if portable else INT8_MAX)
    again = made.ladder(weight, curvature(inputs(200, 72), 2))
    assert torch.equal(again.error, ladder.error)


@pytest.mark.parametrize("case", awkward())
def test_awkward_weights(case: str) -> None:
    weight, x = awkward()[case]
    made = method()
    ladder = made.ladder(weight, curvature(x))
    for rung, choice in enumerate(made.choices):
        check_contract(ladder.pick(ladder.all_on(rung)), choice, weight)


def test_wider_formats_are_larger_and_better() -> None:
    ladder = method().ladder(gaussian(1, 12, 96), curvature(inputs(2000, 96)))
    sizes = [ladder.pick(ladder.all_on(rung)).storage_bits for rung in range(len(ladder.rungs))]
    errors = ladder.error.sum(1)
    assert sizes == sorted(sizes)
    assert (errors[:-1] > 1.5 * errors[1:]).all()


def test_with_points_there_is_the_format_that_was_asked_for() -> None:
    weight, curve = gaussian(1, 12, 96), curvature(inputs(2000, 96))
    whole, one = method().ladder(weight, curve), method().ladder(weight, curve, points=1)
    assert len(one.rungs) == 1
    assert torch.equal(one.error[one.base], whole.error[whole.base])


INTS = [f"int{bits}" for bits in range(2, 9)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, INTS),
        ({"among": ("int8,int4",)}, ["int4", "int8"]),
        ({"among": ("int8", "int4", "int8")}, ["int4", "int8"]),
        ({"group": "32"}, INTS[:-1]),
        ({"weights": "lloyd4"}, ["lloyd2", "lloyd3", "lloyd4", "lloyd5", "int6", "int7", "int8"]),
        ({"weights": "lloyd4x2"}, ["lloyd2", "lloyd3x2", "lloyd4x2", "lloyd5x2", "int6", "int7", "int8"]),
        ({"weights": "lloyd3x2", "among": ("int8,lloyd3x2,lloyd2",)}, ["lloyd2", "lloyd3x2", "int8"]),
    ],
    ids=str,
)
def test_formats_to_choose_among(options: dict[str, Any], expected: list[str]) -> None:
    assert [each.format.name for each in method(**options).choices] == expected


def test_formats_of_longer_vectors_than_the_columns_are_put_together_by() -> None:
    with pytest.raises(OptionError, match=r"lloyd4x2 has more numbers in a code than --weights lloyd4, .*; give it to"):
        method("lloyd4", among=("lloyd4,lloyd4x2",))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"among": "int2,int9"}, "unknown --among 'int9'; did you mean 'int"),
        ({"among": "int2,int8"}, "among int2, int8, and --weights int4 is none of them; name it"),
        ({"weights": "uint4"}, "--weights uint4 is none of them; name it"),
        ({"weights": "nf4", "activations": "none"}, "--weights nf4 is none of them; name it"),
        ({"weights": "mxint8", "activations": "none"}, "is none of them; name it"),
        ({"among": "int4,int8", "group": "32"}, "groups of int8 do not fit int8 kernels, .*; use"),
        ({"worth": "sensitivty"}, "unknown --worth 'sensitivty'; did you mean 'sensitivity'"),
        ({"beta": 1.0}, "--worth sensitivity has no --beta, ompq has; leave it out"),
        ({"worth": "ompq", "beta": -1.0}, "--beta -1 is no finite number from 0 up; give"),
        ({"weights": "lloyd4x2", "rounding": "adaround"}, "rounding adaround rounds single numbers, and lloyd"),
        ({"rounding": "up"}, "unknown --rounding 'up'; "),
        ({"points": 2}, "--points is read by .*; leave it out"),
        (
            {"method": "gptq", "worth": "ompq"},
            "--worth is read by --method mixed, not by --method gptq; leave it out",
        ),
        ({"target": "cuda", "weights": "int8"}, "--target cuda .*--method mixed.*; use"),
    ],
)
def test_what_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Recipe.of({"method": "mixed", **options})


def test_what_needs_data() -> None:
    for options in ({"worth": "ompq"}, {"rounding": "hessian"}):
        with pytest.raises(OptionError, match="needs calibration data; give --data"):
            ptq.quantize(every_site.network(), method="mixed", **options)


def test_fewer_bits_than_the_narrowest_format_takes(convolutions: onnx.ModelProto) -> None:
    with pytest.raises(OptionError, match=r"--bits 2 is below the 2\.\d+ bits per weight .*; give at least"):
        ptq.quantize(convolutions, IMAGES, method="mixed", bits=2.0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"worth": "ompq"},
        {"worth": "ompq", "beta": 100.0},
        {"among": "int2,int4,int8"},
        {"group": "16"},
        {"weights": "lloyd4"},
        {"weights": "lloyd4x2", "first_last": "int8"},
        {"first_last": "int8"},
        {"activations": "none"},
        {"activations": "dynamic", "rounding": "nearest"},
    ],
    ids=str,
)
def test_a_run_keeps_to_its_budget(
    monkeypatch: pytest.MonkeyPatch, convolutions: onnx.ModelProto, options: dict[str, Any]
) -> None:
    bits = 5.2
    made = every_site.quantized(monkeypatch, convolutions, IMAGES, method="mixed", bits=bits, **options)
    computing = {name: how for name, how in made.sites.items() if how.weight is not None}
    weights = [how.weight for how in computing.values() if how.weight is not None]
    fixed = 2 if options.get("first_last") else 0
    chosen = weights[1:-1] if fixed else weights
    stored = sum(weight.storage_bits for weight in chosen)
    assert stored <= bits * sum(weight.shape[0] * weight.shape[1] for weight in chosen)
    assert all(len(weight.terms) == 1 for weight in weights)
    assert len({weight.terms[0].format for weight in weights}) > 1
    if fixed:
        assert {weights[0].terms[0].format.name, weights[-1].terms[0].format.name} == {"int8"}
    expected, got = made.reference(IMAGES), made.outputs(IMAGES)
    for name, array in expected.items():
        assert every_site.sqnr_db(array, got[name]) > 20, name


def test_without_data_the_error_of_the_weights_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    made = every_site.quantized(monkeypatch, every_site.network(), method="mixed", bits=4.0)
    formats = {how.weight.terms[0].format.name for how in made.sites.values() if how.weight is not None}
    assert len(formats) > 2
    assert any("bits went by the errors of weights" in note for note in made.result.report.notes)
    assert all(how.execution is not Execution.FLOAT for how in made.sites.values())


@pytest.mark.slow
def test_more_bits_are_never_a_worse_network(monkeypatch: pytest.MonkeyPatch, convolutions: onnx.ModelProto) -> None:
    powers = []
    for bits in (2.6, 3.5, 5.0, 8.5):
        made = every_site.quantized(monkeypatch, convolutions, IMAGES, method="mixed", bits=bits)
        accuracy = made.result.report.accuracy
        assert accuracy is not None
        assert accuracy.sqnr_db is not None
        powers.append(accuracy.sqnr_db)
    assert powers == sorted(powers)


@pytest.mark.parametrize(
    ("recipe", "kind", "title"),
    [(Recipe(method="mixed"), "mixed", "mixed"), (Recipe(method="rtn", weights="int8"), "int8", "rtn int8")],
)
def test_a_file_of_many_formats_is_not_called_by_one(recipe: Recipe, kind: str, title: str) -> None:
    assert recipe.kind == kind
    assert recipe.title == title


def test_outputs_that_cannot_be_compared_are_refused() -> None:
    """Of recurrent layers, samples are no rows."""
    with pytest.raises(ModelError, match=r"one sample in each row; .*; give"):
        ptq.quantize(every_site.network(), every_site.feeds(8), method="mixed", worth="ompq", bits=6.0)
