"""What the training benchmark trains: a network, its data, its optimizer and its score.

The optimizers are those of the papers: SGD with momentum for the convolutional network, Adam for the others.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol, cast

import numpy as np
import torch
import training_data as data
from torch import Tensor, nn
from torch.nn import functional
from training_networks import CharacterModel, NeuMF

NETWORK: Final = Path(__file__).parents[1] / "examples/digits/network.py"

Batch = tuple[Tensor, ...]


class Task(Protocol):
    """Something to train; data is read at its first use."""

    name: str
    steps: int
    rate: float
    """Of learning, at its peak."""

    def network(self) -> nn.Module:
        """With weights from torch's global generator."""

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """At the peak of the learning rate."""

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Without an end."""

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The mean over a batch."""

    def scores(self, network: nn.Module) -> dict[str, float]:
        """On held-out data, for a network in eval mode; the first is the one to compare."""


def epochs(count: int, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Indices of batches, each of 0..count-1 once before any comes again; what is left of an epoch is dropped."""
    size = min(size, count)
    while True:
        yield from torch.from_numpy(rng.permutation(count))[: count // size * size].split(size)


@dataclass
class Digits:
    """Digits over photographs (as in MNIST-M): `|digit - background|`, and which of the ten it is."""

    name: str = "digits"
    steps: int = 400
    rate: float = 0.1
    size: int = 64
    momentum: float = 0.9
    weight_decay: float = 5e-4

    @cached_property
    def _data(self) -> tuple[Batch, Batch, Tensor]:
        images, labels, test_images, test_labels = data.digits()
        crops, test_crops = data.backgrounds(16384, len(test_images))
        shuffled = test_crops[torch.from_numpy(np.random.default_rng(1).permutation(len(test_crops)))]
        return (images, labels), (self._blend(test_images, shuffled), test_labels), crops

    @staticmethod
    def _blend(images: Tensor, crops: Tensor) -> Tensor:
        return ((images[:, None] - crops).abs() / 255 - 0.45) / 0.27

    def network(self) -> nn.Module:
        """That of the example, with a stem for three channels."""
        spec = importlib.util.spec_from_file_location("digits_network", NETWORK)
        module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        spec.loader.exec_module(module)  # type: ignore[union-attr]
        network = module.digits_resnet()
        grey = network.stem[0]
        network.stem[0] = nn.Conv2d(3, grey.out_channels, 3, grey.stride, grey.padding, bias=False)
        return cast("nn.Module", network)

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(network.parameters(), self.rate, self.momentum, weight_decay=self.weight_decay)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Digits shifted by up to 2 pixels, each time over another crop."""
        (images, labels), _, crops = self._data
        padded = functional.pad(images, (2, 2, 2, 2))
        for index in epochs(len(labels), self.size, rng):
            down, right = rng.integers(5, size=2)
            shifted = padded[index, down : down + data.PIXELS, right : right + data.PIXELS]
            behind = crops[torch.from_numpy(rng.integers(len(crops), size=len(index)))]
            yield self._blend(shifted, behind), labels[index]

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy."""
        return functional.cross_entropy(network(batch[0]), batch[1])

    def scores(self, network: nn.Module) -> dict[str, float]:
        """Top-1, over photographs that were not trained on."""
        _, (images, labels), _ = self._data
        logits = torch.cat([network(part) for part in images.split(250)])
        return {
            "top-1 %": 100 * _mean(logits.argmax(1) == labels),
            "loss": float(functional.cross_entropy(logits, labels)),
        }


@dataclass
class Language:
    """The next character of news, by the small Transformer of S2FP8's paper: 2 layers of 128, filters of 512, Adam."""

    name: str = "lm"
    steps: int = 1200
    rate: float = 3e-3
    size: int = 8
    length: int = 64

    @cached_property
    def _data(self) -> tuple[Tensor, Tensor, int]:
        train, test = data.text()
        codes = {character: number for number, character in enumerate(sorted(set(train)), 1)}  # 0 is any other
        ids, test_ids = (torch.tensor([codes.get(character, 0) for character in text]) for text in (train, test))
        return ids, test_ids, len(codes) + 1

    def network(self) -> nn.Module:
        """Linear layers everywhere, also in the attention."""
        return CharacterModel(self._data[2], length=self.length)

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(network.parameters(), self.rate)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Windows from anywhere in the text, and the same a character on."""
        ids = self._data[0]
        while True:
            starts = torch.from_numpy(rng.integers(len(ids) - self.length, size=self.size))
            yield self._windows(ids, starts)

    def _windows(self, ids: Tensor, starts: Tensor) -> Batch:
        found = ids[starts[:, None] + torch.arange(self.length + 1)]
        return found[:, :-1], found[:, 1:]

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of every character, in nats."""
        return functional.cross_entropy(network(batch[0]).flatten(0, 1), batch[1].flatten())

    def scores(self, network: nn.Module) -> dict[str, float]:
        """On all of the other text, in windows side by side."""
        ids = self._data[1]
        starts = torch.arange(0, len(ids) - self.length, self.length)
        inputs, targets = self._windows(ids, starts)
        logits = torch.cat([network(part) for part in inputs.split(self.size)])
        nats = float(functional.cross_entropy(logits.flatten(0, 1), targets.flatten()))
        return {"bits a character": nats / math.log(2), "perplexity": math.exp(nats), "loss": nats}


@dataclass
class Ratings:
    """Which film a user rates next: NeuMF (arXiv:1708.05031) with 8 factors, as in S2FP8's paper, Adam.

    Of every user the last film is held out; a hit is a place among the first 10 of it and 99 that were not rated.
    """

    name: str = "ratings"
    steps: int = 7500
    rate: float = 3e-3
    size: int = 1024
    negatives: int = 4

    @cached_property
    def _data(self) -> tuple[data.Ratings, Batch]:
        found = data.ratings()
        rng = np.random.default_rng(0)
        known = found.matrix()
        choices = [rng.permutation(np.flatnonzero(~known[user]))[:99] for user in range(found.users)]
        candidates = np.stack([np.append(item, others) for item, others in zip(found.test, choices, strict=True)])
        users = np.arange(found.users)[:, None].repeat(candidates.shape[1], 1)
        return found, (torch.from_numpy(users), torch.from_numpy(candidates))

    def network(self) -> nn.Module:
        """As many users and items as there are."""
        found = self._data[0]
        return NeuMF(found.users, found.items)

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(network.parameters(), self.rate)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One rated pair in five; in the others is a film that the user has not rated, or held out."""
        found = self._data[0]
        rated = np.zeros((found.users, found.items), bool)
        rated[found.train[:, 0], found.train[:, 1]] = True
        positive = max(1, self.size // (1 + self.negatives))
        for index in epochs(len(found.train), positive, rng):
            pairs = found.train[index.numpy()]
            users = np.concatenate([pairs[:, 0], pairs[:, 0].repeat(self.negatives)])
            items = np.concatenate([pairs[:, 1], np.zeros(len(pairs) * self.negatives, np.int64)])
            wrong = np.arange(len(pairs), len(users))
            while len(wrong):
                items[wrong] = rng.integers(found.items, size=len(wrong))
                wrong = wrong[rated[users[wrong], items[wrong]]]
            labels = torch.zeros(len(users))
            labels[: len(pairs)] = 1
            yield torch.from_numpy(users), torch.from_numpy(items), labels

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Binary cross-entropy."""
        return functional.binary_cross_entropy_with_logits(network(*batch[:2]), batch[2])

    def scores(self, network: nn.Module) -> dict[str, float]:
        """Hit ratio and NDCG of the first ten; what is as good as the held-out film counts as better by a half."""
        logits = network(*self._data[1])
        held_out, others = logits[:, :1], logits[:, 1:]
        place = (others > held_out).sum(1) + 0.5 * (others == held_out).sum(1)
        hit = place < 10
        return {"HR@10 %": 100 * _mean(hit), "NDCG@10": _mean(hit / torch.log2(place + 2))}


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


TASKS: Final[Mapping[str, Callable[[], Task]]] = MappingProxyType(
    {"digits": Digits, "lm": Language, "ratings": Ratings}
)
