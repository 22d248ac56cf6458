"""Every combination of options works, or is refused in one line that says what to do."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from every_site import feeds, network, quantized, sqnr_db

from ptq import scheme
from ptq.errors import OptionError
from ptq.lowering import Execution, execution
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.recipe import ACTIVATIONS, METHODS, Recipe
from ptq.solve import ROUNDINGS

REFUSED = re.compile(r"[^\n]+; [^\n]+[^.\n]")


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.of(capture(network(), CaptureOptions(), None))


def outcome(model: Model, *, has_data: bool, **options: Any) -> str | None:
    """The error, or None; then every site that is planned has an execution that its weights fit."""
    try:
        plan = Recipe.of(options).plan(model.sites, has_data=has_data)
    except OptionError as error:
        return str(error)
    for site in model.sites:
        method = plan.methods[site.name]
        if method is not None:
            how = execution(model, site, method, plan.activations)
            assert how not in (Execution.STATIC, Execution.DYNAMIC) or method.scheme.fits_int8
            assert how is not Execution.STATIC or has_data
    return None


def is_fine(said: str | None) -> bool:
    return said is None or REFUSED.fullmatch(said) is not None


LIKE_OTHERS = {"gpfq", "hqq", "mixed"}
"""Methods of which all combinations take long to try; they are refused what the others are."""


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[pytest.mark.slow] if name in LIKE_OTHERS else []) for name in METHODS]
)
def test_methods_formats_groups_and_activations(model: Model, method: str) -> None:
    counts = {True: 0, False: 0}
    axes = (scheme.known(), (None, *scheme.SHARED), (None, *ACTIVATIONS), (False, True))
    for weights, group, activations, has_data in itertools.product(*axes):
        said = outcome(model, has_data=has_data, method=method, weights=weights, group=group, activations=activations)
        assert is_fine(said), (weights, group, activations, said)
        counts[said is None] += 1
    assert min(counts.values()) > 50


OTHERS: dict[str, tuple[Any, ...]] = {
    "portable": (True,),
    "sequential": (True,),
    "embeddings": (*scheme.known(), "none", "int44"),
    "first_last": ("int8", "int4"),
    "points": (0, 1, 2, 99),
    "bits": (0.5, 4.25, 64),
    "tolerance": (0, 0.01, 1),
    "per": ("channel", "layer", "row"),
    "search": ("radix", "greedy", "greedy-grid", "best"),
    "rounding": (*ROUNDINGS, "up"),
    "range": ("minmax", "percentile", "most"),
    "keep_float": ("node", "nothing", "(", ".*"),
    "weights": ("itn4", "steps4", "e8m0", "float32"),
    "group": ("48", "row", 32),
    "activations": ("int8", "mxfp4", "int4", "off"),
    "method": ("gtpq", ""),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weights", ["int4", "uint4", "fp8_e4m3fn", "mxfp4"])
def test_other_options(model: Model, weights: str, method: str) -> None:
    for name, values in OTHERS.items():
        for value, has_data in itertools.product(values, (False, True)):
            options = {"method": method, "weights": weights, name: value}
            said = outcome(model, has_data=has_data, **options)
            assert is_fine(said), (options, said)


def test_two_options_at_a_time(model: Model) -> None:
    some = {
        name: OTHERS[name]
        for name in ("portable", "sequential", "first_last", "points", "bits", "per", "search", "rounding")
    }
    for (one, first), (other, second) in itertools.combinations(some.items(), 2):
        for a, b, has_data in itertools.product(first, second, (False, True)):
            said = outcome(model, has_data=has_data, **{one: a, other: b})
            assert is_fine(said), (one, a, other, b, said)


@pytest.mark.parametrize("method", [name for name, each in METHODS.items() if "bits" in each.METHOD.OPTIONS])
def test_bits_that_no_choice_comes_down_to_are_refused_at_once(model: Model, method: str) -> None:
    found = Recipe.of({"method": method, "weights": "int4", "bits": 4.0}).plan(model.sites, has_data=True)
    (choices,) = {made.choices for made in found.methods.values() if made is not None and "bits" in made.OPTIONS}
    widths = [each.bits for each in choices]
    assert widths == sorted(widths)
    for bits, refused in ((widths[0] - 0.01, True), (widths[0], False)):
        said = outcome(model, has_data=True, method=method, weights="int4", bits=bits)
        assert (said is not None and f"--bits {bits:g} is below the {widths[0]:g} bits of" in said) is refused, said


@pytest.mark.slow
@pytest.mark.parametrize("weights", scheme.known())
@pytest.mark.parametrize("method", METHODS)
def test_what_is_taken_works(monkeypatch: pytest.MonkeyPatch, model: Model, method: str, weights: str) -> None:
    for activations in ACTIVATIONS:
        options = {"method": method, "weights": weights, "activations": activations}
        if outcome(model, has_data=True, **options) is not None:
            continue
        points = {"points": 1} if method == "multipoint" else {}
        made = quantized(monkeypatch, network(), feeds(8), **options, **points)
        expected, got = made.reference(), made.outputs()
        for name, array in expected.items():
            assert got[name].shape == array.shape
            assert np.isfinite(got[name]).all()
            assert sqnr_db(array, got[name]) > 15, (name, activations)
