"""What the quantization of one site alone does to the network's output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
_ENOUGH_POSITIONS = 1024
_SEQUENCE_AXES = 3


def samples_needed(sites: int, samples: int | None, positions: int = 1) -> int:
    """How many of the samples to use: the time must not grow with the square of the depth, and half is left to others.

    What is measured on samples that the weights were rounded for flatters: 14 times for the classifier of a network
    with 1280 features and 64 photographs.
    """
    most = min(MOST_SAMPLES, _MOST_PASSES // max(sites, 1), -(-_ENOUGH_POSITIONS // positions))
    enough = max(_LEAST_SAMPLES, most)
    return enough if samples is None else min(enough, max(samples // 2, 1))


def token_positions(model: Model, feeds: Feeds) -> int:
    """How many positions of a sample of tokens the first output tells apart, `(samples, positions, …)`; 1 of others.

    The error of many positions needs few samples. Those of an image, whose neighbours are alike, are not counted.
    """
    shape = model.shape(model.outputs[0])
    if shape is None or len(shape) != _SEQUENCE_AXES or any(array.dtype.kind == "f" for array in feeds.values()):
        return 1
    return max((array.shape[1] for array in feeds.values() if array.ndim > 1), default=1)


def output_effects(
    model: Model,
    changes: Iterable[tuple[str, Mapping[str, np.ndarray]]],
    batches: Sequence[Feeds],
    advance: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Error power over power of all outputs when only the initializers of a site differ, by site.

    Sites in the order of execution are fastest: what comes before them is not run again.
    """
    narrow, replaced = with_narrow_heads(model)
    measured = _Measured.of(narrow, batches)
    if not np.isfinite(measured.power):
        raise ModelError("the outputs of the model on the calibration data are not finite; check both")
    least, effects = np.finfo(np.float64).tiny, {}
    for name, arrays in changes:
        where = _Measured.of(model, batches) if replaced & arrays.keys() else measured
        effects[name] = where.error(arrays) / max(where.power, least)
        advance()
    return effects


@dataclass(frozen=True, eq=False)
class _Measured:
    """The float outputs of a network on some batches and their power."""

    front: Front
    outputs: Sequence[Feeds]
    power: float

    @classmethod
    def of(cls, model: Model, batches: Sequence[Feeds]) -> _Measured:
        session = model.session()
        outputs = [_floats(zip(session.outputs, session.run(feeds), strict=True)) for feeds in batches]
        power = sum(_power(out.astype(np.float64)) for outs in outputs for out in outs.values())
        return cls(Front(model, batches), outputs, power)

    def error(self, arrays: Feeds) -> float:
        """The power of what the outputs differ by when some initializers do."""
        self.front.move(arrays)
        error, session = 0.0, self.front.rest(arrays)
        if session is None:
            return error
        for feeds, expected in zip(self.front.crossing, self.outputs, strict=True):
            for name, out in _floats(zip(session.outputs, session.run(feeds), strict=True)).items():
                error += _power(out.astype(np.float64) - expected[name])
        return error


def _floats(outputs: Iterable[tuple[str, np.ndarray]]) -> Feeds:
    """The outputs that are numbers with a size: integers are indices, their differences mean nothing."""
    return {name: out for name, out in outputs if out.dtype.kind == "f"}


def _power(values: NDArray[np.float64]) -> float:
    return float(np.square(values, out=values).sum())
