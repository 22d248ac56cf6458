"""What conversion to low bits changes and what it leaves alone: objects, state dicts, names, steps of activations."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from low_bit_layers import EXACT, network
from torch import nn

from ptq import training
from ptq.errors import ModelError, OptionError
from ptq.training.grids import Grid
from ptq.training.recipes import RECIPES
from ptq.training.sawb import Sawb


@pytest.mark.parametrize("name", RECIPES)
def test_conversion_and_back(name: str) -> None:
    """Same objects, state dicts that load in both directions, and a plain model afterwards."""
    model, x = network(), torch.randn(4, 1, 8, 8)
    plain = copy.deepcopy(model)
    parts, parameters = list(model.modules()), list(model.parameters())
    assert training.convert(model, name) is model
    assert list(model.modules()) == parts
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    remembers = isinstance(RECIPES[name].activation, Grid)
    steps = [f"{layer}.low_bit_step" for layer in training.low_bit_layers(model) if remembers]
    assert set(model.state_dict()) == {*plain.state_dict(), *steps}
    everywhere = {"0", "3", "6", "7"}
    assert set(training.low_bit_layers(model)) == (everywhere if RECIPES[name].all_layers else {"3", "6"})
    model(x).square().sum().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())
    again = training.convert(network(), name)
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(again.eval()(x), model.eval()(x))
    assert not [step for step in steps if float(again.state_dict()[step]) <= 0]
    model.load_state_dict(plain.state_dict())
    assert training.restore(model) is model
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [type(part) for part in model.modules()] == [type(part) for part in plain.modules()]
    assert [set(vars(part)) for part in model.modules()] == [set(vars(part)) for part in plain.modules()]
    assert not list(model.buffers(recurse=True))[3:]
    assert torch.equal(model.eval()(x), plain.eval()(x))


def test_converting_again_changes_the_recipe() -> None:
    model = training.convert(network(), "s2fp8")
    assert set(training.low_bit_layers(training.convert(model, "luq"))) == {"3", "6"}
    assert {layer.recipe.name for layer in training.low_bit_layers(model).values()} == {"luq"}


def test_recipes_of_single_layers() -> None:
    """By expressions, the last that matches decides; also of those that would stay as they are."""
    fp8 = {"^[67]$": "fp8", "7": None, "^0": RECIPES["luq-smp2"]}
    model = training.convert(network(), "luq", layers=fp8)
    found = {name: layer.recipe.name for name, layer in training.low_bit_layers(model).items()}
    assert found == {"0": "luq-smp2", "3": "luq", "6": "fp8"}
    with pytest.raises(OptionError, match=r"'head' in layers matches none; the layers are 0, 3, 6, 7$"):
        training.convert(model, "luq", layers={"head": None})
    assert {name: layer.recipe.name for name, layer in training.low_bit_layers(model).items()} == found
    with pytest.raises(ModelError, match="has 4 in all; leave layers out"):
        training.convert(model, "luq", layers={"": None})


def test_activations_are_rounded_by_what_training_saw() -> None:
    """In evaluation a sample's output is its own, whatever else is in the batch; before training it is the batch's."""
    torch.manual_seed(0)
    layer, grid = training.convert(nn.Linear(16, 8), EXACT), Sawb()
    batches = torch.randn(3, 32, 16) * torch.tensor([1.0, 3.0, 2.0]).reshape(3, 1, 1)
    layer.eval()
    assert torch.equal(layer(batches[0]), nn.functional.linear(grid(batches[0]), grid(layer.weight)) + layer.bias)
    assert float(layer.low_bit_step) == -1
    expected = grid.step(batches[0])
    for number, batch in enumerate(batches):
        layer.train()(batch)
        expected = 0.9 * expected + 0.1 * grid.step(batch) if number else expected
        torch.testing.assert_close(layer.low_bit_step, expected)
    one, many = layer.eval()(batches[1][:1]), layer(batches[1])
    torch.testing.assert_close(one, many[:1], rtol=1e-6, atol=1e-6)
    rounded = grid(batches[1], layer.low_bit_step)
    torch.testing.assert_close(many, nn.functional.linear(rounded, grid(layer.weight)) + layer.bias)


def test_a_batch_that_is_no_number_or_empty_is_not_remembered() -> None:
    layer = training.convert(nn.Linear(4, 2), EXACT)
    layer(torch.ones(3, 4))
    known = layer.low_bit_step.clone()
    layer(torch.full((3, 4), math.nan))
    layer(torch.ones(0, 4))
    assert torch.equal(layer.low_bit_step, known)


def test_a_copy_and_a_subclass() -> None:
    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), Own(4, 4), nn.Linear(4, 4), nn.MultiheadAttention(4, 1))
    training.convert(model, replace(RECIPES["luq"], all_layers=True))
    assert set(training.low_bit_layers(copy.deepcopy(model))) == {"0", "2"}


def test_a_converted_model_is_saved_whole(tmp_path: Path) -> None:
    model, x = training.convert(network()).eval(), torch.randn(4, 1, 8, 8)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(loaded(x), model(x))
    assert "groups=6, recipe=luq" in repr(loaded)


def test_models_without_layers_to_convert() -> None:
    message = r"recipe 'luq' needs a Linear or Conv layer between its first and its last, the model has 2 in all; set"
    with pytest.raises(ModelError, match=message):
        training.convert(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    with pytest.raises(ModelError, match=r"recipe 's2fp8' needs a Linear or Conv layer, the model has 0 in all"):
        training.convert(nn.ReLU(), "s2fp8")
    with pytest.raises(OptionError, match=r"unknown training recipe 'lug'; did you mean 'luq'\?"):
        training.convert(network(), "lug")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # by the plain model
@pytest.mark.parametrize("padded", [False, True])
def test_torchs_encoders_do_not_compute_past_converted_layers(padded: bool) -> None:
    """In evaluation without gradients they would take the weights as they are; afterwards they may."""
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), 2)
    plain, x = copy.deepcopy(model).eval(), torch.randn(2, 5, 16)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2]) if padded else None
    training.convert(model, "luq")
    assert list(training.low_bit_layers(model)) == ["layers.0.linear2", "layers.1.linear1"]
    model(x, src_key_padding_mask=mask)
    with_gradients = model.eval()(x, src_key_padding_mask=mask)
    with torch.no_grad():
        without = copy.deepcopy(model)(x, src_key_padding_mask=mask)
    rows = slice(None) if mask is None else ~mask
    torch.testing.assert_close(without[rows], with_gradients[rows])
    training.restore(model)
    assert [vars(part).keys() for part in model.modules()] == [vars(part).keys() for part in plain.modules()]
    assert model.use_nested_tensor == plain.use_nested_tensor
    with torch.no_grad():
        assert torch.equal(model(x, src_key_padding_mask=mask), plain(x, src_key_padding_mask=mask))
