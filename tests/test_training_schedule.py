"""FNT: vector 2.E of papers.md, section 2.10, and what stays in low bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ptq import training
from ptq.errors import OptionError
from ptq.training.sawb import Sawb
from ptq.training.schedule import Triangular, triangular

VECTOR_E = [1, 2.8, 4.6, 6.4, 8.2, 10, 8.2, 6.4, 4.6, 2.8, 1]


def test_vector_e() -> None:
    assert [1e4 * triangular(t, 10, 1e-4, 1e-3) for t in range(11)] == pytest.approx(VECTOR_E, rel=1e-12)


def test_the_schedule_begins_where_another_ended() -> None:
    """Also where that was 0, and for each group of parameters from its own."""
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": parameters[:1], "lr": 0.1}, {"params": parameters[1:], "lr": 0.2}])
    earlier = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda step: 1 - step, lambda step: 0.5**step])
    optimizer.step()
    earlier.step()
    schedule, rates = Triangular(optimizer, steps=4, peak=1.0), []
    for _ in range(6):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert [rate for rate, _ in rates] == pytest.approx([0, 0.5, 1, 0.5, 0, 0])
    assert [rate for _, rate in rates] == pytest.approx([0.1, 0.55, 1, 0.55, 0.1, 0.1])


def test_weights_stay_in_low_bits_and_all_else_is_exact() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 4))
    training.convert(model, "luq-smp2")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    schedule = training.finetune(model, optimizer, steps=10)
    assert schedule.get_last_lr() == [1e-4]
    layer, x = model[1], torch.randn(3, 4, requires_grad=True)
    assert layer.recipe.name == "luq-smp2-fnt"
    y = layer(x)
    weight = Sawb()(layer.weight.detach())
    torch.testing.assert_close(y, x @ weight.t())
    above = torch.randn(3, 4)
    y.backward(above)
    torch.testing.assert_close(x.grad, above @ weight)
    torch.testing.assert_close(layer.weight.grad, above.t() @ x)


def test_what_cannot_be_fine_tuned() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with pytest.raises(OptionError, match="the model has no low-bit layers; call convert first"):
        training.finetune(model, optimizer, steps=10)
    with pytest.raises(OptionError, match="steps must be 1 or more, got 0"):
        Triangular(optimizer, steps=0)
