"""What the quantization of one site alone does to the network's output."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptq.errors import ModelError
from ptq.model.front import Feeds, Front
from ptq.model.graph import Model
from ptq.model.heads import with_narrow_heads

MOST_SAMPLES = 32
_MOST_PASSES = 2048
_LEAST_SAMPLES = 4
_LEAST_SEQUENCES = 2
_ENOUGH_POSITIONS = 512
"""On SmolLM2 effects of two windows of 256 tokens are off by 15 %, where those of its layers differ by a factor of 3
either way: 1 % more error of all layers together, for half the time of four windows."""

_SEQUENCE_AXES = 3


def samples_needed(sites: int, samples: int | None, positions: int = 1) -> int:
    """How many of the samples to use: the time must not grow with the square of the depth, and half is left to others.

    What is measured on samples that the weights were rounded for flatters: 14 times for the classifier of a network
    with 1280 features and 64 photographs.
    """
    least = _LEAST_SAMPLES if positions == 1 else _LEAST_SEQUENCES
    enough = max(least, min(MOST_SAMPLES, _MOST_PASSES // max(sites, 1), -(-_ENOUGH_POSITIONS // positions)))
    return enough if samples is None else min(enough, max(samples // 2, 1))


def token_positions(model: Model, feeds: Feeds) -> int:
    """How many positions of a sample of tokens the first output tells apart, `(samples, positions, …)`; 1 of others.

    The error of many positions needs few samples. Those of an image, whose neighbours are alike, are not counted.
    """
    shape = model.shape(model.outputs[0])
    if shape is None or len(shape) != _SEQUENCE_AXES or any(array.dtype.kind == "f" for array in feeds.values()):
        return 1
    return max((array.shape[1] for array in feeds.values() if array.ndim > 1), default=1)


@dataclass(frozen=True, eq=False)
class Change:
    """Other initializers of a site; they are made when they are needed, and their names are known before."""

    site: str
    names: Collection[str]
    arrays: Callable[[], Feeds]


def output_effects(
    model: Model,
    changes: Iterable[Change],
    own: Container[str],
    batches: Sequence[Feeds],
    advance: Callable[[], None] = lambda: None,
) -> Iterator[tuple[str, float]]:
    """Error power over power of all outputs when only the initializers of a site differ, by site, for those in `own`.

    Sites in the order of execution are fastest: what comes before them is not run again. It stops at every site, so
    that what is found of one is the same to the last bit whichever others are in `own`.

    Raises:
        ModelError: the outputs are not finite.

    """
    narrow, replaced = with_narrow_heads(model)
    front = Front(narrow, batches)
    outputs = list(_outputs(front, {}))
    power = sum(_power(out.astype(np.float64)) for outs in outputs for out in outs.values())
    if not np.isfinite(power):
        raise ModelError("the outputs of the model on the calibration data are not finite; check both")
    least = np.finfo(np.float64).tiny
    for change in changes:
        front.move(change.names)
        if change.site in own:
            wide = front.through(model) if replaced & {*change.names} else None
            expected = outputs if wide is None else _outputs(wide, {})
            yield change.site, _error(_outputs(wide or front, change.arrays()), expected) / max(power, least)
        advance()


def _outputs(front: Front, arrays: Feeds) -> Iterator[Feeds]:
    """The outputs behind a cut with other initializers, by batch; only numbers with a size: integers are indices."""
    session = front.rest(arrays)
    for feeds in front.crossing:
        found = {} if session is None else dict(zip(session.outputs, session.run(feeds), strict=True))
        yield {name: out for name, out in found.items() if out.dtype.kind == "f"}


def _error(outputs: Iterable[Feeds], expected: Iterable[Feeds]) -> float:
    pairs = zip(outputs, expected, strict=True)
    return sum(_power(out.astype(np.float64) - known[name]) for outs, known in pairs for name, out in outs.items())


def _power(values: NDArray[np.float64]) -> float:
    return float(np.square(values, out=values).sum())
