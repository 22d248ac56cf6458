"""What the quantization of one site alone does to the network's output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ptq.errors import ModelError
from ptq.model.graph import Model

MOST_SAMPLES = 32
_MOST_PASSES = 2048
_LEAST_SAMPLES = 4

Feeds = Mapping[str, np.ndarray]


def samples_needed(sites: int, samples: int | None) -> int:
    """How many of the samples to use: the time must not grow with the square of the depth, and half is left to others.

    What is measured on samples that the weights were rounded for flatters: 14 times for the classifier of a network
    with 1280 features and 64 photographs.
    """
    enough = max(_LEAST_SAMPLES, min(MOST_SAMPLES, _MOST_PASSES // max(sites, 1)))
    return enough if samples is None else min(enough, max(samples // 2, 1))


def output_effects(
    model: Model,
    changes: Iterable[tuple[str, Mapping[str, np.ndarray]]],
    batches: Sequence[Feeds],
    advance: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Error power over power of all outputs when only the initializers of a site differ, by site."""
    session = model.session()
    reference = [_floats(session.run(feeds)) for feeds in batches]
    power = sum(_power(out.astype(np.float64)) for outs in reference for out in outs)
    if not np.isfinite(power):
        raise ModelError("the outputs of the model on the calibration data are not finite; check both")
    effects = {}
    for name, arrays in changes:
        session = model.with_initializers(arrays).session()
        error = 0.0
        for feeds, expected in zip(batches, reference, strict=True):
            for out, good in zip(_floats(session.run(feeds)), expected, strict=True):
                error += _power(out.astype(np.float64) - good)
        effects[name] = error / max(power, np.finfo(np.float64).tiny)
        advance()
    return effects


def _floats(outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs that are numbers with a size: integers are indices, their differences mean nothing."""
    return [out for out in outputs if out.dtype.kind == "f"]


def _power(values: NDArray[np.float64]) -> float:
    return float(np.square(values, out=values).sum())
