"""OMPQ (arXiv:2109.07865): a layer whose output is unlike those of the others is worth more bits.

Only the products of samples are kept of the outputs, `F F^T` for features `F (n, p)`: the norms of the paper are
`||F_i^T F_j||^2 = <F_i F_i^T, F_j F_j^T>`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ptq.errors import ModelError
from ptq.model.graph import Model
from ptq.model.sites import Site

BETA: Final = 1.0
"""The default of the paper's code."""

_MOST_BYTES: Final = 1 << 26
"""Of outputs that are kept at a time."""

_COLUMNS: Final = 1 << 16
"""Of features that are float64 at a time."""

Feeds = Mapping[str, np.ndarray]
Array = NDArray[np.float64]


def gram(features: NDArray[np.float32] | Array) -> Array:
    """The products of samples, features `(n, p)` centred by column; `(n, n)`."""
    products = np.zeros((len(features), len(features)))
    for first in range(0, features.shape[1], _COLUMNS):
        part = features[:, first : first + _COLUMNS].astype(np.float64)
        products += part @ part.T
    centred = products - products.mean(0) - products.mean(1, keepdims=True) + products.mean()
    return np.asarray(centred, np.float64)


def orthogonality(grams: Sequence[Array]) -> Array:
    """How alike the outputs of layers are, `(layers, layers)`, 1 for the same (the ORM of the paper)."""
    flat = np.stack([each.reshape(-1) for each in grams])
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = flat / np.where(length > 0, length, 1.0)
    return np.asarray(unit @ unit.T, np.float64)


def likeness(alike: Array) -> Array:
    """How alike each layer is to all others together, the paper's `gamma`."""
    return np.asarray(alike.sum(1) - np.diag(alike), np.float64)


def thetas(gamma: Array, beta: float) -> Array:
    """The importance of layers, `exp(-beta gamma)`; for choosing bits a common factor is nothing."""
    return np.asarray(np.exp(-beta * gamma), np.float64)


def worths(importance: Array) -> Array:
    """What a bit is worth, by layer in the order of execution: the mean importance of a layer and those behind it."""
    behind = np.cumsum(importance[::-1])[::-1]
    return np.asarray(behind / np.arange(len(importance), 0, -1), np.float64)


def output_grams(
    model: Model,
    sites: Sequence[Site],
    own: Container[str],
    batches: Sequence[Feeds],
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Array]:
    """`gram` of the outputs of each site in `own` over all samples; those of several uses are side by side.

    The outputs of all `sites` are computed, so that what is found of one does not depend on which others are in `own`.

    Raises:
        ModelError: an output has no sample in each row, or its samples differ in size.

    """
    names = {site.name: [use.output for use in site.uses] for site in sites}
    session = model.session(list(dict.fromkeys(name for each in names.values() for name in each)))
    taps = list(dict.fromkeys(name for site, each in names.items() if site in own for name in each))
    samples = sum(_rows(feeds) for feeds in batches)
    first = session.run(batches[0], taps) if taps else []
    sizes = {name: out[0].nbytes * samples for name, out in zip(taps, first, strict=True)}
    del first
    found: dict[str, Array] = {}
    for together in _chunks(taps, sizes):
        runs = [session.run(feeds, together) for feeds in batches]
        for k, name in enumerate(together):
            found[name] = gram(_features(name, [run[k] for run in runs], batches))
    made = {}
    for site, each in names.items():
        if site in own:
            made[site] = np.asarray(sum(found[name] for name in each), np.float64)
        advance()
    return made


def _chunks(names: Sequence[str], sizes: Mapping[str, int]) -> list[list[str]]:
    """Names in order, as many together as have room."""
    chunks: list[list[str]] = []
    for name in names:
        if not chunks or sum(sizes[other] for other in chunks[-1]) + sizes[name] > _MOST_BYTES:
            chunks.append([])
        chunks[-1].append(name)
    return chunks


def _features(name: str, outputs: Sequence[np.ndarray], batches: Sequence[Feeds]) -> NDArray[np.float32]:
    """The output of all samples, `(n, p)`."""
    rows = [out.reshape(len(out), -1) for out in outputs]
    if len({each.shape[1] for each in rows}) > 1 or [len(each) for each in rows] != [_rows(feeds) for feeds in batches]:
        shapes = ", ".join(sorted({str(out.shape) for out in outputs}))
        raise ModelError(
            f"--worth ompq compares samples by outputs of one size, one sample in each row; {name!r} is {shapes}; "
            f"give data of one length, or --worth sensitivity"
        )
    return np.concatenate(rows)


def _rows(feeds: Feeds) -> int:
    return len(next(iter(feeds.values())))
