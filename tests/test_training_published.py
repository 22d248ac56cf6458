"""The sizes of LUQ's released code: vector 2.G of papers.md, section 2.10."""

from __future__ import annotations

import pytest
import torch

from ptq.training.published import ACTIVATIONS, WEIGHTS, PublishedSawb
from ptq.training.recipes import RECIPES
from ptq.training.sawb import clip

SOME = [-1.5, -0.75, -0.2, 0, 0.1, 0.4, 0.9, 2]


def test_vector_g() -> None:
    x = torch.tensor(SOME, dtype=torch.float64)
    step = WEIGHTS.step(x)
    assert float(step) == pytest.approx(0.3814260054, abs=6e-11)
    assert (WEIGHTS(x) / step).round().tolist() == [-4, -2, -1, 0, 0, 1, 2, 5]


CASES = {
    "weights": (WEIGHTS, [-100.0, 100.0], -8, 8),
    "weights without negative numbers": (WEIGHTS, [0.0, 100.0], 0, 8),
    "activations": (ACTIVATIONS, [0.0, 100.0], 0, 15),
    "activations with negative numbers": (ACTIVATIONS, [-100.0, 100.0], -8, 15),
}
STEPS = {"weights": 16, "weights without negative numbers": 16, "activations": 15}


@pytest.mark.parametrize("name", CASES)
def test_the_range_of_the_integers(name: str) -> None:
    rule, ends, low, high = CASES[name]
    torch.manual_seed(0)
    inner = torch.randn(2000, dtype=torch.float64)
    x = torch.cat([inner.abs() if ends[0] == 0 else inner, torch.tensor(ends, dtype=torch.float64)])
    step = rule.step(x)
    assert float(step) == pytest.approx(float(2 * clip(x, "luq") / STEPS.get(name, 23)))
    integers = (rule(x) / step).round()
    torch.testing.assert_close(integers * step, rule(x))
    assert torch.equal(integers, (x / step).round().clamp(low, high))
    assert (integers.min(), integers.max()) == (low, high)


@pytest.mark.parametrize("rule", [WEIGHTS, ACTIVATIONS], ids=["weights", "activations"])
def test_zeros_and_nothing(rule: PublishedSawb) -> None:
    for zeros in (torch.zeros(3, 4), torch.zeros(0), torch.zeros(())):
        assert torch.equal(rule(zeros), zeros)


def test_the_gradient_has_eight_powers() -> None:
    """Of its largest magnitude, whatever its sign; the released code takes the largest number."""
    torch.manual_seed(1)
    x = torch.randn(100_000).mul(2).exp() * -1e-3
    levels = RECIPES["luq-published"].gradient(x).abs().unique()
    expected = [float(x.abs().max()) / 2**power for power in range(8)]
    assert levels.tolist() == pytest.approx([0, *reversed(expected)])
