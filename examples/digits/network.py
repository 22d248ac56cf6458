"""A small residual network with BatchNorm for grey 28x28 digits (the block of arXiv:1512.03385, section 3)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a strided 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            projection = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + cast("Tensor", self.shortcut(x)))


class DigitsResNet(nn.Module):
    """Logits `(batch, 10)` of normalised grey digits `(batch, 1, 28, 28)`: a stem, five blocks, 0.46 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.blocks = nn.Sequential(Block(32, 32), Block(32, 64, stride=2), Block(64, 64), Block(64, 96), Block(96, 96))
        self.classifier = nn.Linear(96, 10)

    def forward(self, image: Tensor) -> Tensor:
        return cast("Tensor", self.classifier(self.blocks(self.stem(image)).mean((2, 3))))


def digits_resnet() -> DigitsResNet:
    """The network without its training: what `--model network:digits_resnet` constructs."""
    return DigitsResNet()
