"""Example inputs for an export: from data or from --input, and what is said when they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captured import same_as_torch, scripted, specs, traced
from tiny_models import Convolutions, Multilayer, Tokens, seeded
from torch import Tensor, nn

from calibration.spec import InputSpec
from ptq.errors import DataError, ModelError, OptionError
from ptq.model.capture import CaptureOptions, capture

DEFAULTS = CaptureOptions()
ROW = np.linspace(-1, 1, 4, dtype=np.float32)[None]


def test_data_without_names_is_the_only_input() -> None:
    graph = capture(seeded(Multilayer), DEFAULTS, {"": ROW})
    assert specs(graph) == ["x:float32[batch,4]"]
    with pytest.raises(DataError, match=r"one array without a name, forward takes 'ids', 'mask'; use an .npz"):
        capture(seeded(Tokens), DEFAULTS, {"": ROW})


def test_inputs_may_be_declared_and_sizes_declared_free() -> None:
    options = CaptureOptions(inputs=(InputSpec.parse("image:float32[1,3,height,width]"),))
    graph = capture(seeded(Convolutions), options)
    assert specs(graph) == ["image:float32[batch,3,height,width]"]
    larger = np.random.default_rng(0).normal(size=(3, 3, 9, 12)).astype(np.float32)
    same_as_torch(graph, seeded(Convolutions), {"image": larger})


def test_a_size_declared_free_that_cannot_be_is_an_error() -> None:
    options = CaptureOptions(inputs=(InputSpec.parse("x:float32[batch,width]"),))
    with pytest.raises(ModelError, match="cannot be exported") as caught:
        capture(seeded(Multilayer), options, {"x": ROW.repeat(2, 0)})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("inputs", "example", "error", "words"),
    [
        ("", None, OptionError, "forward takes 'x'; give --data, or --input name:float32"),
        ("", {"image": ROW}, DataError, "the data names 'image', forward takes 'x'; use the names of forward"),
        ("", {"x": ROW, "y": ROW}, DataError, "the data names 'x', 'y', forward takes 'x'"),
        ("y:float32[1,4]", None, OptionError, "--input names 'y', forward takes 'x'"),
        ("x:float32", None, OptionError, "--input x:float32 has no shape"),
        ("x:float32[1,4,4]", {"x": ROW}, OptionError, r"has 3 dimensions, the data has shape \(1, 4\)"),
    ],
)
def test_examples_that_do_not_fit(
    inputs: str, example: dict[str, np.ndarray] | None, error: type[Exception], words: str
) -> None:
    options = CaptureOptions(inputs=(InputSpec.parse(inputs),) if inputs else ())
    with pytest.raises(error, match=words):
        capture(seeded(Multilayer), options, example)


def test_torchscript_without_examples() -> None:
    with pytest.raises(OptionError, match="forward takes 'ids', 'mask'; give --data"):
        capture(scripted(seeded(Tokens)), DEFAULTS)


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (ROW[:, :3], r"the model fails on x float32\[1, 3\] \(RuntimeError: .*\(1x3 and 4x6\)\); check the shapes"),
        (ROW[:0], r"'x' as float32 of shape \(0, 4\); give numbers, at least one sample"),
        (np.array([["a"]]), "'x' as <U1 of shape"),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_data_that_the_model_does_not_take(example: np.ndarray, words: str, compiled: bool) -> None:
    module = scripted(seeded(Multilayer)) if compiled else seeded(Multilayer)
    with pytest.raises(DataError, match=words) as caught:
        capture(module, DEFAULTS, {"x": example})
    assert "\n" not in str(caught.value)


def test_declared_shapes_that_the_model_does_not_take() -> None:
    with pytest.raises(OptionError, match=r"the model fails on x float32\[1, 3\]"):
        capture(seeded(Multilayer), CaptureOptions(inputs=(InputSpec.parse("x:float32[1,3]"),)))


@pytest.mark.parametrize("compiled", [False, True])
def test_the_graph_has_the_precision_of_the_weights(compiled: bool) -> None:
    """Data come as float64 as often as not; the graph must not become one that computes in it."""
    module = traced(seeded(Multilayer), torch.zeros(2, 4)) if compiled else seeded(Multilayer)
    graph = capture(module, DEFAULTS, {"x": ROW.astype(np.float64)})
    assert specs(graph) == ["x:float32[batch,4]"]
    same_as_torch(graph, seeded(Multilayer), {"x": ROW.repeat(3, 0)})


class Second(nn.Module):
    """Reads one of its inputs, and takes a number."""

    def forward(self, unread: Tensor, x: Tensor, factor: Tensor) -> Tensor:
        return x * factor


def test_an_unread_input_and_one_without_dimensions() -> None:
    feeds = {"unread": ROW, "x": ROW, "factor": np.float32(3)}
    graph = capture(Second(), DEFAULTS, feeds)
    assert specs(graph) == ["unread:float32[1,4]", "x:float32[1,4]", "factor:float32[]"]
    same_as_torch(graph, Second(), {name: np.asarray(array) for name, array in feeds.items()})


def test_an_unread_input_shares_the_batch() -> None:
    graph = capture(Second(), DEFAULTS, {"unread": ROW, "x": ROW, "factor": ROW[:, :1]})
    assert specs(graph) == ["unread:float32[batch,4]", "x:float32[batch,4]", "factor:float32[batch,1]"]


class Variadic(nn.Module):
    """Its inputs have no names."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0]


def test_inputs_without_names() -> None:
    with pytest.raises(ModelError, match="forward of Variadic takes only"):
        capture(Variadic(), DEFAULTS, {"x": ROW})


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda module: torch.compile(module, backend="eager")])
def test_wrapped_modules_are_unwrapped(wrap: type[nn.Module]) -> None:
    graph = capture(wrap(seeded(Multilayer)), DEFAULTS, {"x": ROW})
    assert "first.weight" in graph.graph.initializers
    same_as_torch(graph, seeded(Multilayer), {"x": ROW.repeat(3, 0)})
