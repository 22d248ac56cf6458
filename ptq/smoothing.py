"""Channels of an input scaled so that one 8-bit range serves all of them, and the few that none serves left out.

What a product has in its input is taken out of its weights, as in SmoothQuant (arXiv:2211.10438, section 4), but with
the strength of least expected error instead of a fixed one. A channel that still stretches the range of all others is
computed in float beside them, as in LLM.int8() (arXiv:2208.07339, section 3.2). Where the vectors of an input differ
much in size, each gets a range to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_STRENGTHS = torch.linspace(0.0, 1.0, 11)
_ASIDE = (0, 1, 2, 4, 8)
"""How many channels may be computed in float."""

_WORTH_SCALING, _WORTH_ASIDE = 0.8, 0.5
"""What has to be left of the expected error for scales, and for channels in float, to pay for their time."""

_MOST_CREST = 6.5
"""The crest factor from which vectors get their own ranges.

After a normalization it is 4 to 5, behind a softmax 5 to 9, behind GELU and gates 7 to 15. In that last place it gains
2.5 dB at the outputs of MiniLM and 8 dB of four layers of SmolLM2; what it gains is more than the error on the data it
was calibrated on, because vectors that are larger than any seen there take nothing from the others any more.
"""

_LEVELS = 255.0
_TINY = 1e-6


class Channels(Protocol):
    """What was seen of the channels of an input: their ends and mean squares, float `(in,)` each."""

    @property
    def low(self) -> Tensor:
        """The smallest numbers."""

    @property
    def high(self) -> Tensor:
        """The largest numbers."""

    @property
    def power(self) -> Tensor:
        """The means of the squares."""


@dataclass(frozen=True)
class Smoothing:
    """What the channels of an input are multiplied by, `(in,)`, 0 for those in `aside`, which are computed in float."""

    scale: Tensor
    aside: Tensor


def uneven(channels: Channels) -> bool:
    """Whether vectors differ so much in size that one range for all is too coarse for most: by the median crest factor.

    That of a channel is its largest magnitude as a multiple of its root mean square.
    """
    reach = torch.maximum(-channels.low, channels.high).double()
    alive = channels.power > 0
    crest = reach[alive].square() / channels.power[alive]
    return bool(alive.any()) and float(crest.median()) > _MOST_CREST**2


def smooth(channels: Channels, weights: Sequence[Tensor], limit: float) -> Smoothing | None:
    """The smoothing of least expected error for weights `(rows, in)` of one input; None where little would be gained.

    Weights are rounded to integers up to `limit`, the input to 8 bits over its range.
    """
    stats = _Stats.of(channels, torch.cat(list(weights)).float(), limit)
    everywhere = torch.ones_like(stats.low, dtype=torch.bool)
    plain = stats.error(torch.ones_like(stats.low), everywhere)
    best: tuple[float, Smoothing] | None = None
    for count in _ASIDE:
        if count >= len(stats.reach):
            break
        kept = everywhere.clone()
        kept[stats.reach.topk(count).indices] = False
        error, scale = stats.best(kept)
        worth = _WORTH_ASIDE * (plain if best is None else best[0]) if count else _WORTH_SCALING * plain
        if error < worth:
            best = error, Smoothing(torch.where(kept, scale, 0.0).float(), (~kept).nonzero()[:, 0])
    return None if best is None else best[1]


@dataclass(frozen=True)
class _Stats:
    """What the error depends on: ends and mean squares of the channels `(in,)`, and magnitudes of the weights."""

    low: Tensor
    high: Tensor
    power: Tensor
    reach: Tensor
    magnitude: Tensor
    sizes: tuple[Tensor, Tensor]
    limit: float

    @classmethod
    def of(cls, channels: Channels, weight: Tensor, limit: float) -> _Stats:
        low, high = channels.low.float(), channels.high.float()
        magnitude = weight.abs()
        sizes = magnitude.amax(0), magnitude.square().mean(0).sqrt()
        return cls(low, high, channels.power.float(), torch.maximum(-low, high), magnitude, sizes, limit)

    def error(self, scale: Tensor, kept: Tensor) -> float:
        """The expected squared error of all outputs, from rounding the input and from rounding the weights."""
        width = (self.high * scale)[kept].max().clamp_min(0) - (self.low * scale)[kept].min().clamp_max(0)
        taken = torch.where(kept, 1 / scale, 0.0)
        step = (self.magnitude * taken).amax(1) / self.limit
        power_of_weights = len(self.magnitude) * (self.sizes[1] * taken).square().sum()
        of_input = (width / _LEVELS) ** 2 / 12 * power_of_weights
        of_weights = step.square().sum() / 12 * (self.power * scale.square())[kept].sum()
        return float(of_input + of_weights)

    def best(self, kept: Tensor) -> tuple[float, Tensor]:
        """The least error over strengths, and over two ways to measure the weights of a channel."""
        scales = [_balanced(self.reach, size, float(strength)) for size in self.sizes for strength in _STRENGTHS]
        errors = [self.error(scale, kept) for scale in scales]
        least = min(errors)
        return least, scales[errors.index(least)]


def _balanced(reach: Tensor, size: Tensor, strength: float) -> Tensor:
    """Scales `size^(1 - strength) / reach^strength` around 1; both are kept away from 0 in relation to the largest."""
    reach = reach.clamp_min(_TINY * float(reach.max()) or 1.0)
    size = size.clamp_min(_TINY * float(size.max()) or 1.0)
    log = (1 - strength) * size.log() - strength * reach.log()
    return (log - log.mean()).exp()
