"""What has to be known of the data, and in which block of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ptq.model.blocks import Block, Look, cut
from ptq.model.graph import Model
from ptq.model.sites import Site
from ptq.pipeline.calibrate import keys

BLOCK_BYTES: Final = 1 << 30
"""What the weights and second moments of a block take, where a layer does not take more by itself."""

_PART_OF_FREE: Final = 4
"""Blocks are smaller where memory is scarce: kernels have a copy of weights, and a layer is worked on."""


def block_bytes(free: int | None) -> int:
    """What a block may take with so much memory free: a power of two, so that the next run mostly has the same."""
    return BLOCK_BYTES if free is None else min(BLOCK_BYTES, 1 << (free // _PART_OF_FREE).bit_length() >> 1)


class Wanted(NamedTuple):
    """What has to be known of the data: moments and means of the inputs of sites, and ranges of tensors."""

    moments: list[Site]
    means: list[Site]
    ranges: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether it is anything."""
        return any(map(bool, self))


@dataclass(frozen=True, eq=False)
class Part:
    """A block, what is wanted in it, and the sites that are rounded behind it."""

    block: Block
    wanted: Wanted
    rounded: list[Site]


def parts(model: Model, wanted: Wanted, most: int, *, apart: bool, rounded: Sequence[Site] = ()) -> list[Part]:
    """The blocks of a model in which that is wanted, of up to `most` bytes but for single layers.

    Moments are held twice where some are kept `apart`. Where sites are `rounded` behind their block, before the next
    one is run, blocks are as small as can be.
    """
    moments = {site.name: _look(site, 2 if apart else 1) for site in wanted.moments}
    means = {site.name: _look(site, 0) for site in wanted.means}
    ranges = {name: Look((name,)) for name in wanted.ranges}
    ends = {site.name: Look((), tuple(use.node for use in site.uses)) for site in rounded}
    looks = [look for each in (moments, means, ranges, ends) for look in each.values()]
    return [
        Part(
            block,
            Wanted(
                _of(block, wanted.moments, moments),
                _of(block, wanted.means, means),
                tuple(name for name, look in ranges.items() if look in block.looks),
            ),
            _of(block, rounded, ends),
        )
        for block in cut(model.graph, looks, most, finely=bool(rounded))
    ]


def _of(block: Block, sites: Sequence[Site], looks: Mapping[str, Look]) -> list[Site]:
    return [site for site in sites if looks[site.name] in block.looks]


def _look(site: Site, copies: int) -> Look:
    inputs, nodes = zip(*((use.input, use.node) for use in site.products), strict=True)
    return Look(inputs, nodes, tuple((key, copies * key.moment_bytes) for key in keys(site) if copies))
