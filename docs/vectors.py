"""Make the books of vectors that `ptq/vectors.py` reads: of least squared error for what rows of weights look like.

    python docs/vectors.py                # a few minutes

Rows of trained weights are between a normal and a Laplace distribution: `exp(-|x|^1.3)`. In layers of
EfficientNet-Lite0 and MiniLM a book for that has 0.1 to 0.3 dB less error than one for Laplace numbers, and at 3 bits
0.3 dB less than one for normal ones. It is found as Linde, Buzo and Gray (1980) do, begun with vectors of the density
that it has in the limit of many bits, then rounded to whole numbers: up to 63, so that no processor saturates, and at
5 bits, where steps of 63 are too coarse, up to 127.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

BOOKS: Final = Path(__file__).parents[1] / "ptq" / "books"
SHAPE: Final = 1.3
_TOGETHER = 4096


@dataclass(frozen=True)
class Book:
    """Vectors of `span` numbers of `bits` bits, none above `most`; a standard deviation is `deviation` steps."""

    bits: int
    span: int
    deviation: float
    most: int
    samples: int = 400_000
    rounds: int = 60

    @property
    def name(self) -> str:
        """That of the format."""
        return f"lloyd{self.bits}x{self.span}"

    def vectors(self, rng: np.random.Generator) -> Tensor:
        """The book, ascending, int8."""
        x = self.deviation * numbers(rng, self.samples, self.span)
        wider = ((self.span + 2) / self.span) ** (1 / SHAPE)
        begin = self.deviation * wider * numbers(rng, 2 ** (self.bits * self.span), self.span)
        found = begin.clamp(-self.most, self.most)
        for _ in range(self.rounds):
            found = means(x, found).clamp(-self.most, self.most)
        found = found.round()
        found[found.square().sum(1).argmin()] = 0  # weights that are 0 stay so
        return torch.tensor(sorted(set(map(tuple, found.int().tolist()))), dtype=torch.int8)


FORMATS: Final = (Book(4, 2, 11, 63), Book(3, 2, 12, 63), Book(2, 4, 13, 63), Book(5, 2, 20, 127, 600_000, 50))


def numbers(rng: np.random.Generator, count: int, span: int) -> Tensor:
    """Vectors `(count, span)` of independent numbers with the density `exp(-|x|^SHAPE)`, of variance 1."""
    magnitude = rng.gamma(1 / SHAPE, 1, (count, span)) ** (1 / SHAPE)
    deviation = math.sqrt(math.gamma(3 / SHAPE) / math.gamma(1 / SHAPE))
    return torch.from_numpy(magnitude * rng.choice([-1, 1], (count, span)) / deviation).float()


def nearest(x: Tensor, book: Tensor) -> Tensor:
    """Which vector of a book each is nearest to."""
    half = book.square().sum(1) / 2
    return torch.cat([torch.addmm(half, part, book.T, alpha=-1).argmin(1) for part in x.split(_TOGETHER)])


def means(x: Tensor, book: Tensor) -> Tensor:
    """The means of what is nearest to each vector of a book; of those that nothing is nearest to, themselves."""
    place = nearest(x, book)
    count = torch.bincount(place, minlength=len(book))[:, None]
    total = torch.zeros_like(book).index_add_(0, place, x)
    return torch.where(count > 0, total / count.clamp_min(1), book)


def main() -> None:
    """Write all books."""
    rng = np.random.default_rng(0)
    for book in FORMATS:
        made = book.vectors(rng)
        if len(made) != 2 ** (book.bits * book.span):
            raise SystemExit(f"{book.name}: {len(made)} vectors are left after rounding; give a larger deviation")
        (BOOKS / f"{book.name}.int8").write_bytes(made.numpy().tobytes())


if __name__ == "__main__":
    main()
