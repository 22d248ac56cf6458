"""Calibrate a network block by block: in memory are the weights and second moments of one.

What crosses between blocks is on disk, and so are the moments of the blocks that are done, each of which is read when
its layer is quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_

import numpy as np
from torch import Tensor

from calibration.batch import Batch
from calibration.observers import Moment
from ptq import heap
from ptq.cache import Kept, Store
from ptq.model.blocks import Block
from ptq.model.graph import Model
from ptq.model.session import Session
from ptq.pipeline.boundary import Boundary, Crossing
from ptq.pipeline.calibrate import Statistics, keys
from ptq.pipeline.parts import Part, Wanted
from ptq.pipeline.stages import Advance, Stages
from ptq.ranges import ActivationRange

Key = Callable[[], tuple[object, ...]]
Passed = Callable[[Crossing, Mapping[str, np.ndarray]], None]
Calibrate = Callable[[Model, Wanted, Iterable[Crossing], Advance, Passed], Statistics]
"""Finds what is wanted of a block, and passes on what it makes of each batch."""


@dataclass(frozen=True, eq=False)
class KeptMoments(Mapping[str, Moment]):
    """Moments by site, of which none is in memory before it is asked for."""

    kept: Mapping[str, Kept[Moment]]

    def __getitem__(self, site: str) -> Moment:
        """The moment of a site."""
        return self.kept[site].load()

    def __iter__(self) -> Iterator[str]:
        """The names of the sites."""
        return iter(self.kept)

    def __len__(self) -> int:
        """How many sites there are."""
        return len(self.kept)


@dataclass(frozen=True)
class Rest:
    """What is known of a block beside its moments, and whether there are some `apart`."""

    ranges: Mapping[str, ActivationRange]
    means: Mapping[str, Tensor]
    apart: bool


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a block, or of several: its moments, and those `apart`, in the store."""

    rest: Rest
    moments: Mapping[str, Kept[Moment]]
    apart: Mapping[str, Kept[Moment]]

    @property
    def statistics(self) -> Statistics:
        """As statistics."""
        return Statistics(self.rest.ranges, KeptMoments(self.moments), KeptMoments(self.apart), self.rest.means)

    def __or__(self, other: Known) -> Known:
        """What is known of both."""
        mine, others = self.rest, other.rest
        rest = Rest({**mine.ranges, **others.ranges}, {**mine.means, **others.means}, mine.apart or others.apart)
        return Known(rest, {**self.moments, **other.moments}, {**self.apart, **other.apart})


@dataclass(frozen=True, eq=False)
class Blockwise:
    """The statistics of a model by blocks. Those that follow from an equal `key` are found in the store."""

    parts: Sequence[Part]
    calibrate: Calibrate
    store: Store
    key: tuple[object, ...]

    def statistics(self, batches: Callable[[], Iterable[Batch]], count: int | None, stages: Stages) -> Statistics:
        """Run the blocks that have to run on batches, of which there are `count` where that is known."""
        found = [self._found(part) for part in self.parts]
        left = max((k + 1 for k, each in enumerate(found) if each is None), default=0)
        if left:
            total = None if count is None else left * count
            with stages.stage("calibrate", total) as advance, self.store.scratch() as scratch:
                boundary = Boundary(scratch, batches)
                for k, part in enumerate(self.parts[:left]):
                    if found[k] is None:
                        found[k] = self._made(part, boundary, advance)
                    else:
                        forward(part.block, boundary, advance)
                    heap.trim()
        return reduce(or_, (each for each in found if each is not None)).statistics

    def _made(self, part: Part, boundary: Boundary, advance: Advance) -> Known:
        """The statistics of a block, which passes on what comes of its inputs."""

        def passed(batch: Crossing, arrays: Mapping[str, np.ndarray]) -> None:
            boundary.pass_on(part.block, batch, arrays)

        graph = Model(part.block.graph(boundary.shapes))
        made = self.calibrate(graph, part.wanted, boundary.batches(part.block), advance, passed)
        rest = Rest(made.ranges, made.means, bool(made.apart))
        self.store.keep("block", self._key(part), lambda: rest)
        kept = [
            {name: self.store.keep("moment", key, partial(moments.__getitem__, name)) for name, key in keyed}
            for moments, keyed in zip((made.moments, made.apart), self._moment_keys(part, rest), strict=True)
        ]
        return Known(rest, *kept)

    def _found(self, part: Part) -> Known | None:
        """What is kept of a block; None where that is not all."""
        block: Kept[Rest] | None = self.store.find("block", self._key(part))
        if block is None:
            return None
        rest, kept = block.load(), []
        for keyed in self._moment_keys(part, rest):
            found = {name: self.store.find("moment", key) for name, key in keyed}
            kept.append({name: each for name, each in found.items() if each is not None})
            if len(kept[-1]) < len(found):
                return None
        return Known(rest, *kept)

    def _moment_keys(self, part: Part, rest: Rest) -> list[list[tuple[str, Key]]]:
        """What the moments of sites follow from, and those `apart`."""
        sites = [(site.name, keys(site)) for site in part.wanted.moments]
        return [
            [(name, self._key(part, (*seen, apart))) for name, seen in (sites if there else ())]
            for apart, there in ((False, True), (True, rest.apart))
        ]

    def _key(self, part: Part, of: tuple[object, ...] = ()) -> Key:
        """What an entry follows from, to the last bit: where the network is cut too, and what is looked at with it."""
        stops = [each.block.stop for each in self.parts if each.block.stop <= part.block.stop]
        names = [[each.name for each in sites] for sites in (part.wanted.moments, part.wanted.means)]
        return lambda: (*self.key, stops, names, part.wanted.ranges, of)


def forward(block: Block, boundary: Boundary, advance: Advance) -> None:
    """Run a block of which nothing is wanted but what it passes on."""
    graph = block.forward(boundary.shapes)
    session = None if graph is None else Session(graph)
    for batch in boundary.batches(block):
        made = {} if session is None else dict(zip(session.outputs, session.run(batch.feeds), strict=True))
        boundary.pass_on(block, batch, {**batch.feeds, **made})
        advance()
