"""What has to be known of the data, and in which block of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from ptq.model.blocks import Block, Look, cut
from ptq.model.graph import Model
from ptq.model.sites import Site
from ptq.pipeline.calibrate import keys

BLOCK_BYTES: Final = 1 << 30
"""What the weights and second moments of a block take, where a layer does not take more by itself."""


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
    """A block, and what is wanted in it."""

    block: Block
    wanted: Wanted


def parts(model: Model, wanted: Wanted, *, apart: bool) -> list[Part]:
    """The blocks of a model in which that is wanted; moments are held twice where some are kept `apart`."""
    moments = {site.name: _look(site, 2 if apart else 1) for site in wanted.moments}
    means = {site.name: _look(site, 0) for site in wanted.means}
    ranges = {name: Look((name,)) for name in wanted.ranges}
    blocks = cut(model.graph, [*moments.values(), *means.values(), *ranges.values()], BLOCK_BYTES)
    return [
        Part(
            block,
            Wanted(_of(block, wanted.moments, moments), _of(block, wanted.means, means), _named(block, ranges)),
        )
        for block in blocks
    ]


def _of(block: Block, sites: list[Site], looks: Mapping[str, Look]) -> list[Site]:
    return [site for site in sites if looks[site.name] in block.looks]


def _named(block: Block, looks: Mapping[str, Look]) -> tuple[str, ...]:
    return tuple(name for name, look in looks.items() if look in block.looks)


def _look(site: Site, copies: int) -> Look:
    inputs, nodes = zip(*((use.input, use.node) for use in site.products), strict=True)
    return Look(inputs, nodes, tuple((key, copies * key.moment_bytes) for key in keys(site) if copies))
