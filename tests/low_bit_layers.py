"""A recipe and a network that tests of training have in common."""

from __future__ import annotations

import torch
from torch import nn

from ptq.rounding import Rounding
from ptq.training.gradients import Aligned
from ptq.training.recipes import TrainingRecipe
from ptq.training.sawb import Sawb

EXACT = TrainingRecipe(
    name="exact",
    weight=Sawb(),
    activation=Sawb(),
    gradient=Aligned(rounding=Rounding.NEAREST_AWAY),
    all_layers=True,
)
"""LUQ without chance."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.ConvTranspose2d(6, 2, 2),
        nn.Flatten(),
        nn.Linear(2 * 25, 8),
        nn.Linear(8, 3),
    )
