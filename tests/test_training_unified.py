"""Direction sensitive clipping (arXiv:1912.12607) against cosines in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ptq.training.gradients import Aligned
from ptq.training.unified import PARTS, DirectionSensitive

TAILS = {
    "uniform": lambda: torch.empty(50_000).uniform_(-1, 1),
    "normal": lambda: torch.randn(50_000),
    "laplace": lambda: torch.randn(50_000).sign() * torch.empty(50_000).exponential_(),
    "lognormal": lambda: torch.randn(50_000).sign() * torch.randn(50_000).exp(),
    "two by three": lambda: torch.randn(2, 3),
}


def distance(x: Tensor, clip: Tensor) -> float:
    """`1 - cos` between a tensor and itself as clipped and rounded to nearest."""
    wide = x.double()
    rounded = (wide / (clip.double() / 127)).round().clamp(-127, 127)
    return float(1 - (wide * rounded).sum() / wide.norm() / rounded.norm())


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
def test_the_clip_turns_the_tensor_least(tail: str, size: float) -> None:
    torch.manual_seed(0)
    x = TAILS[tail]() * size
    clip = DirectionSensitive().clip(x)
    distances = {part: distance(x, x.abs().max() * part) for part in PARTS}
    assert float(clip / x.abs().max()) == pytest.approx(min(PARTS, key=lambda part: abs(part - clip / x.abs().max())))
    assert distance(x, clip) <= min(distances.values()) + 3e-7


def test_four_bits_clip_where_eight_do_not() -> None:
    """The fewer numbers, the more of a tail is worth giving up."""
    torch.manual_seed(1)
    x = TAILS["laplace"]()
    clips = [float(DirectionSensitive(name).clip(x) / x.abs().max()) for name in ("int8", "int4", "int3")]
    assert clips == sorted(clips, reverse=True)
    assert clips[2] < 0.6 < clips[0]
    assert float(DirectionSensitive().clip(TAILS["uniform"]())) > 0.99


def test_what_is_not_clipped_keeps_its_mean() -> None:
    torch.manual_seed(2)
    x, draws = torch.cat([torch.randn(200), torch.tensor([30.0])]), 20_000
    rule = DirectionSensitive("int4", (0.25,))
    step = float(rule.clip(x)) / 7
    assert step == pytest.approx(7.5 / 7)
    torch.manual_seed(3)
    got = rule(x)
    torch.manual_seed(3)
    assert torch.equal(got, Aligned("int4")(x, torch.tensor(7.5)))
    mean = rule(x.expand(draws, -1)).double().mean(0)
    part = (x[:-1].double().abs() / step).frac()
    assert bool(((mean[:-1] - x[:-1]).abs() <= 5 * step * (part * (1 - part) / draws).sqrt() + 1e-6).all())
    assert float(mean[-1]) == pytest.approx(7.5)
