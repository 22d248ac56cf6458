"""Two networks of the training benchmark, of layers that `ptq.training.convert` knows."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


class TransformerLayer(nn.Module):
    """Causal attention and two feed-forward layers, each after a LayerNorm."""

    def __init__(self, width: int, heads: int, filters: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, filters), nn.Linear(filters, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, length, width)` to the same."""
        split = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*split, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return cast("Tensor", x + self.down(functional.relu(self.up(self.norm2(x)))))


class CharacterModel(nn.Module):
    """Logits `(batch, length, characters)` of the next of the characters `(batch, length)`."""

    def __init__(
        self, characters: int, *, length: int, width: int = 128, layers: int = 2, heads: int = 4, filters: int = 512
    ) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(characters, width), nn.Embedding(length, width)
        self.layers = nn.Sequential(*(TransformerLayer(width, heads, filters) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)
        for table in (self.embedding, self.position):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Windows of up to `length`."""
        x = self.embedding(ids) + self.position.weight[: ids.shape[1]]
        return cast("Tensor", self.head(self.norm(self.layers(x))))


class NeuMF(nn.Module):
    """Logits of users rating items, of any shape: a product of factors, and a multi-layer perceptron, side by side."""

    def __init__(self, users: int, items: int, *, factors: int = 8) -> None:
        super().__init__()
        wide = 4 * factors
        self.user, self.item = nn.Embedding(users, factors), nn.Embedding(items, factors)
        self.wide_user, self.wide_item = nn.Embedding(users, wide), nn.Embedding(items, wide)
        sizes = pairwise((2 * wide, wide, 2 * factors, factors))
        self.tower = nn.Sequential(*(part for size in sizes for part in (nn.Linear(*size), nn.ReLU())))
        self.prediction = nn.Linear(2 * factors, 1)
        for table in (self.user, self.item, self.wide_user, self.wide_item):
            nn.init.normal_(table.weight, std=0.01)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """In the shape of `users`."""
        product = self.user(users) * self.item(items)
        tower = self.tower(torch.cat([self.wide_user(users), self.wide_item(items)], -1))
        return cast("Tensor", self.prediction(torch.cat([product, tower], -1))[..., 0])
