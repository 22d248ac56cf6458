"""Packed codes give back the rounded tensors bit by bit, and take the bytes that they should."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from low_bit_layers import network
from torch import Tensor, nn

from ptq import formats, training
from ptq.errors import OptionError
from ptq.training.gradients import Aligned, Fixed, Squeezed
from ptq.training.packing import Codes, Float8, Squeezes, Steps, pack_nibbles, packing, unpack_nibbles
from ptq.training.recipes import RECIPES, Rule
from ptq.training.sawb import Sawb

SHAPES = [(), (0,), (1,), (7,), (8,), (0, 3), (3, 5), (2, 3, 4), (1, 1, 1)]
FORMATS = [name for name, fmt in formats.FORMATS.items() if fmt.max * fmt.bits < 1e30]
EVERYWHERE = {name: replace(recipe, all_layers=True) for name, recipe in RECIPES.items()}


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Also in the signs of zeros and in strides."""
    return torch.equal(one, other) and torch.equal(one.signbit(), other.signbit()) and one.stride() == other.stride()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nibbles(shape: tuple[int, ...]) -> None:
    codes = torch.randint(16, shape, dtype=torch.uint8)
    packed = pack_nibbles(codes)
    assert packed.dtype == torch.uint8
    assert packed.shape == ((codes.numel() + 1) // 2,)
    assert torch.equal(unpack_nibbles(packed, codes.numel()).reshape(shape), codes)


RULES = {
    **{f"fixed {name}": Fixed(name) for name in FORMATS},
    "fixed int4 of a scale": Fixed("int4", 0.3),
    "fixed fp4 of a scale": Fixed("fp4_e2m1", 0.01),
    "fixed fp8 of a scale": Fixed("fp8_e5m2", 0.01),
    **{f"sawb {name}": Sawb(name) for name in ("int2", "int4", "int5", "int8", "uint4", "uint8", "fp4_e2m1")},
    "squeezed": Squeezed(),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_packed_is_what_was_rounded(name: str, dtype: torch.dtype) -> None:
    rule = RULES[name]
    way = packing(rule)
    torch.manual_seed(0)
    wide = torch.randn(3, 5, 7, 9, dtype=dtype).mul_(2).exp_().mul_(torch.randn(3, 5, 7, 9, dtype=dtype))
    wide[0, 0, 0, :2] = torch.tensor([0.0, -0.0])
    layouts = [
        wide,
        wide.to(memory_format=torch.channels_last),
        wide.transpose(1, 3),
        wide[:, ::2, :, 1:],
        wide[0, 0, 0, 0],
    ]
    for x in [*layouts, wide[:, :1].expand(3, 5, 7, 9), wide[:0], wide * 1e-20, torch.zeros(3, 3, dtype=dtype)]:
        rounded, kept, layout = way.pack(x, None)
        assert same_bits(rounded, rule(x))
        assert same_bits(way.unpack(kept, layout), rounded)
        a_number = 0.5 if isinstance(way, Steps | Codes) and formats.get(rule.fmt).bits <= 4 else 1
        assert kept[0].nbytes == math.ceil(x.numel() * a_number)
        assert all(scalar.dim() == 0 for scalar in kept[1:])


@pytest.mark.parametrize("name", RULES)
def test_what_is_no_number_is_seen(name: str) -> None:
    """Where codes have no place for it the scale is NaN."""
    way = packing(RULES[name])
    for broken in (math.nan, math.inf):
        rounded, kept, layout = way.pack(torch.tensor([1.0, broken, 0.5]), None)
        expected = rounded.isfinite()
        found = way.unpack(kept, layout).isfinite()
        assert torch.equal(found, expected) or (not bool(expected.all()) and not bool(found.any()))


def test_how_rules_are_packed() -> None:
    kinds = [type(packing(rule)) for rule in (Sawb(), Fixed("int8"), Fixed("fp8_e4m3fn"), Squeezed(), None)]
    assert kinds == [Steps, Codes, Float8, Squeezes, type(None)]


class Own:
    def __call__(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("rule", [Aligned(), Own()], ids=["aligned", "own"])
def test_a_rule_that_cannot_be_packed(rule: Rule) -> None:
    recipe = replace(RECIPES["luq"], weight=rule)
    message = "recipe 'luq' cannot be packed: .* has no packed form; leave pack out, or take a Grid, Fixed or Squeezed"
    with pytest.raises(OptionError, match=message):
        training.convert(network(), recipe, pack=True)
    training.convert(network(), recipe)


def run(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The output and all gradients of one step of a seed."""
    model.zero_grad()
    x = x.detach().clone().requires_grad_()
    torch.manual_seed(0)
    y = model(x)
    y.square().sum().backward()
    return [y, x.grad, *(parameter.grad for parameter in model.parameters())]


@pytest.mark.parametrize("name", EVERYWHERE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training_mode", [True, False], ids=["training", "evaluation"])
def test_packing_changes_no_gradient(name: str, dtype: torch.dtype, training_mode: bool) -> None:
    plain = training.convert(network(), EVERYWHERE[name]).to(dtype).train(training_mode)
    packed = training.convert(copy.deepcopy(plain), EVERYWHERE[name], pack=True)
    assert all(layer.recipe.pack for layer in training.low_bit_layers(packed).values())
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(5, 1, 8, 8, dtype=dtype).to(memory_format=layout)
        assert all(torch.equal(one, other) for one, other in zip(run(plain, x), run(packed, x), strict=True))


def test_packing_in_autocast() -> None:
    plain = training.convert(network(), "luq-smp2")
    packed, x = training.convert(copy.deepcopy(plain), "luq-smp2", pack=True), torch.randn(5, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = [run(model, x) for model in (plain, packed)]
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_packing_lasts_through_fine_tuning() -> None:
    """The weight stays packed, and the activation, which is as it is, is kept as it is."""
    model = training.convert(nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))), "luq", pack=True)
    training.finetune(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=2)
    assert [tensor.dtype for tensor in saved(model[1], torch.randn(3, 4))] == [
        torch.float32,
        torch.uint8,
        torch.float32,
    ]


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by Dynamo itself
@pytest.mark.parametrize("name", ["luq", pytest.param("s2fp8", marks=pytest.mark.slow), "fp8-loss-scale"])
def test_packing_compiles_to_one_graph(name: str) -> None:
    layers = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 3), nn.Linear(6, 3))
    model, x = training.convert(layers, name, pack=True), torch.randn(4, 2, 10)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert all(torch.equal(one, other) for one, other in zip(run(compiled, x), run(model, x), strict=True))


def saved(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What the forward pass keeps."""
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        model(x)
    return kept


@pytest.mark.parametrize("name", EVERYWHERE)
def test_the_bytes_that_are_kept(name: str) -> None:
    """4 bits take an eighth of the plain layer's, and 8 a fourth; what comes on top is a few scalars a tensor."""
    layers = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.Conv2d(32, 16, 3, padding=1, bias=False))
    x = torch.randn(8, 3, 16, 16)
    plain = Counter({tensor.shape: tensor.nbytes for tensor in saved(layers, x)})
    assert len(plain) == 4  # two activations, two weights
    packed = [tensor.nbytes for tensor in saved(training.convert(layers, EVERYWHERE[name], pack=True), x)]
    big = sorted(size for size in packed if size > 16)
    part = 8 if isinstance(RECIPES[name].activation, Sawb) else 4
    assert big == sorted(size // part for size in plain.values())
    assert sum(packed) - sum(big) <= 4 * 16
