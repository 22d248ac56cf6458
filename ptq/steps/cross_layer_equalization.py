"""Cross-layer equalization: ranges balanced between two layers, channel by channel (arXiv:1906.04721, section 4.1).

What a channel is divided by in the rows of one layer's weight and in its bias, the columns of the next are multiplied
with: `s = sqrt(r1 r2) / r2`, where `r1` and `r2` are the largest magnitudes in its row and in its columns, so that both
become `sqrt(r1 r2)`. Between the two there may be what a factor above 0 goes through: Relu, LeakyRelu, a PRelu of one
slope, pooling and flattening. A Clip is none, wherever it clips: those layers are left alone. Pairs are balanced in
turn until none changes any more; three layers around a depthwise one are two pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ptq.errors import OptionError
from ptq.model.graph import Model
from ptq.model.rescale import Rescaling, rescaled
from ptq.model.sites import Site
from ptq.model.sources import source
from ptq.step import BEFORE, Setting

_SETTLED = 1e-3
"""How near to 1 all factors of a round have to be for it to be the last."""

_ROUNDS = 100
_DEAD = 1e-6
"""The part of the largest range below which a channel is none: what training left of it is noise."""


@dataclass(frozen=True)
class CrossLayerEqualization:
    """The step."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset()
    when: ClassVar[str] = BEFORE
    needs_data: ClassVar[bool] = False
    smooths: ClassVar[bool] = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:  # noqa: ARG003  (it reads none)
        """There is one way."""
        return cls()

    def change(self, model: Model, setting: Setting) -> tuple[Model, str]:
        """The model with balanced pairs of layers.

        Raises:
            OptionError: there is no pair.

        """
        pairs, left = _pairs(model, setting)
        why = "; ".join(f"{count} {reason}" for reason, count in left.most_common())
        if not pairs:
            raise OptionError(f"--step cross-layer-equalization finds no pair of layers: {why}; leave it out")
        weights = {site.name: _magnitudes(model, site) for pair in pairs for site in (pair.first, pair.second)}
        factors = balance(weights, [(pair.first.name, pair.second.name) for pair in pairs])
        rescalings = [
            Rescaling([pair.second], (1 / factor).repeat(pair.repeat).astype(np.float32))
            for pair, factor in zip(pairs, factors, strict=True)
        ]
        made = rescaled(model, rescalings, {pair.first.uses[0].node for pair in pairs})
        note = f"cross-layer-equalization: {len(pairs)} pair{'s' * (len(pairs) > 1)} of layers balanced"
        return made, f"{note}; left alone: {why}" if left else note


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two sites, the second of which reads what the first makes, each channel `repeat` times in a row."""

    first: Site
    second: Site
    repeat: int


def _pairs(model: Model, setting: Setting) -> tuple[list[_Pair], Counter[str]]:
    """The pairs of a model, in the order of execution, and how many layers are none's second, by reason."""
    nodes = {str(node.name): node for node in model.graph.graph}
    by_node = {use.node: site for site in model.sites for use in site.products}
    pairs, left = [], Counter[str]()
    for second in model.sites:
        if not second.products:
            continue
        node = nodes[second.uses[0].node]
        read = node.inputs[0]
        found = (
            source(read, [node]) if read is not None and model.has_own_weight(second) else "of a weight with other uses"
        )
        if isinstance(found, str):
            left[found] += 1
            continue
        first = by_node.get(str(found.node.name))
        if first is None or len(first.uses) > 1 or first.rows * found.repeat != _channels(second):
            left[f"behind {found.node.op_type}"] += 1
        elif setting.on_grid(first) or setting.on_grid(second):
            left["of weights that are on a grid already"] += 1
        else:
            pairs.append(_Pair(first, second, found.repeat))
    return pairs, left


def _channels(site: Site) -> int:
    """Channels of its input."""
    return site.groups * site.columns // site.kernel


def _magnitudes(model: Model, site: Site) -> NDArray[np.float64]:
    """The largest of each kernel, `(groups, out, channels in)`."""
    matrix = np.abs(model.matrix(site)).astype(np.float64)
    largest: NDArray[np.float64] = matrix.reshape(site.groups, site.rows // site.groups, -1, site.kernel).max(-1)
    return largest


def balance(weights: Mapping[str, NDArray[np.float64]], pairs: Sequence[tuple[str, str]]) -> list[NDArray[np.float64]]:
    """By pair of names, what rows of the first weight are divided by and columns of the second multiplied with.

    Weights are magnitudes `(groups, out, in)`. A channel of no range in one of the two is left as it is.
    """
    weights = {name: weight.copy() for name, weight in weights.items()}
    totals = [np.ones(weights[first].shape[0] * weights[first].shape[1]) for first, _ in pairs]
    for _ in range(_ROUNDS):
        most = 0.0
        for number, (first, second) in enumerate(pairs):
            rows = weights[first].max(2).reshape(-1)
            columns = weights[second].max(1).reshape(len(rows), -1).max(1)
            alive = (rows > _DEAD * rows.max()) & (columns > _DEAD * columns.max())
            factor = np.sqrt(np.divide(rows, columns, out=np.ones_like(rows), where=alive))
            weights[first] /= factor.reshape(*weights[first].shape[:2], 1)
            repeat = weights[second].shape[0] * weights[second].shape[2] // len(factor)
            weights[second] *= factor.repeat(repeat).reshape(weights[second].shape[0], 1, -1)
            totals[number] *= factor
            most = max(most, float(np.abs(np.log(factor)).max()))
        if most < _SETTLED:
            break
    return totals


STEP = CrossLayerEqualization
