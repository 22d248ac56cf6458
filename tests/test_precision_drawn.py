"""Graphs of every kind in float16, bfloat16 and float64 become the graphs that they are in float32."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from narrowed import narrowed, snapped
from odd_graphs import ODD
from other_floats import KINDS, rounded
from random_graphs import Drawn
from random_graphs import graphs as drawn_graphs
from test_lowering import NETWORKS

from ptq.errors import ModelError
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.model.precision import computed_in

OTHERS = [kind for kind in KINDS if kind != "float32"]
NAMED = {**ODD, **{name: made for name, (made, _) in NETWORKS.items()}}
_BFLOAT16_SINCE = 13
"""The opset from which on ONNX casts it."""


def prepared(proto: onnx.ModelProto) -> Model:
    return Model.of(capture(proto, CaptureOptions()))


def operators(model: Model) -> collections.Counter[str]:
    """What it computes with; Casts are at its ends."""
    counts = collections.Counter(node.op_type for node in model.graph.graph.all_nodes())
    del counts["Cast"]
    return counts


def is_as(model: Model, twin: Model, kind: str) -> None:
    """The same layers with the same numbers, as far as float16 has those."""
    assert operators(model) == operators(twin)
    assert [(site.op, site.shape, len(site.uses)) for site in model.sites] == [
        (site.op, site.shape, len(site.uses)) for site in twin.sites
    ]
    for site, other in zip(model.sites, twin.sites, strict=True):
        expected = twin.initializer(other.weight)
        within = 1e-3 * np.abs(expected).max() if kind == "float16" else 0
        np.testing.assert_allclose(model.initializer(site.weight), expected, rtol=0, atol=within)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("kind", ["float16", *(pytest.param(kind, marks=pytest.mark.slow) for kind in OTHERS[1:])])
def test_named_graphs(kind: str, name: str) -> None:
    base = snapped(NAMED[name]())
    made = narrowed(base, kind)
    if name == "a sequence as output" and kind != "bfloat16":
        with pytest.raises(ModelError, match="as a sequence of"):
            capture(made, CaptureOptions())
        return
    model = prepared(made)
    assert computed_in(model.graph) == kind
    is_as(model, prepared(base), kind)
    model.session()


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_drawn_graphs(kind: str) -> None:
    @settings(max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(drawn_graphs())
    def check(drawn: Drawn) -> None:
        base = snapped(drawn.model)
        assume(kind != "bfloat16" or base.opset_import[0].version >= _BFLOAT16_SINCE)
        twin = prepared(base)
        assume(twin.sites)
        graph = capture(narrowed(base, kind), CaptureOptions())
        model = Model.of(graph)
        is_as(model, twin, kind)
        fed = "float32" if kind == "bfloat16" else kind
        feeds = {name: array[: drawn.batch] for name, array in drawn.feeds.items()}
        given = {name: rounded(array, "float32") if array.dtype.kind == "f" else array for name, array in feeds.items()}
        expected = twin.session().run(given)
        given = {name: rounded(array, fed) if array.dtype.kind == "f" else array for name, array in given.items()}
        assume(kind != "float64" or _runs_at_all(Model(graph)))
        for each in (model, Model(graph)):
            for got, want in zip(each.session().run(given), expected, strict=True):
                largest = max(1.0, float(np.abs(want).max()))
                np.testing.assert_allclose(got.astype(np.float32), want, rtol=3e-3, atol=3e-3 * largest)

    check()


def _runs_at_all(model: Model) -> bool:
    """Whether ONNX Runtime has kernels for what hangs together with no layer, and so stays in float64."""
    try:
        model.session()
    except ModelError:
        return False
    return True
