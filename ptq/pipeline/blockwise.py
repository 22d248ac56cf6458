"""Calibrate a network block by block: in memory are the weights and second moments of one.

What crosses between blocks is on disk, and so are the moments of the blocks that are done, each of which is read when
its layer is quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from torch import Tensor

from calibration.batch import Batch
from calibration.observers import Moment
from ptq import heap
from ptq.cache import Kept, Store
from ptq.model.blocks import Block
from ptq.model.graph import Model
from ptq.model.session import Session
from ptq.model.sites import Site
from ptq.pipeline import together
from ptq.pipeline.boundary import Boundary, Crossing
from ptq.pipeline.calibrate import Statistics, keys
from ptq.pipeline.parts import Part, Wanted
from ptq.pipeline.solved import SiteWeights
from ptq.pipeline.stages import Advance, Stages
from ptq.ranges import ActivationRange

Key = Callable[[], tuple[object, ...]]
Passed = Callable[[Crossing, Mapping[str, np.ndarray]], None]
Calibrate = Callable[[Model, Wanted, Iterable[Crossing], Advance, Passed], Statistics]
"""Finds what is wanted of a block, and passes on what it makes of each batch."""

Weights = Mapping[str, SiteWeights]
Rounds = Callable[[Sequence[Site], Statistics], Weights]


@dataclass(frozen=True, eq=False)
class KeptMoments(Mapping[str, Moment]):
    """Moments by site, of which none is in memory before it is asked for."""

    kept: Mapping[str, Kept[Moment]]

    def __getitem__(self, site: str) -> Moment:
        """The moment of a site."""
        return self.kept[site].load()

    def __contains__(self, site: object) -> bool:
        """Whether there is one of a site; nothing is read."""
        return site in self.kept

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


_NOTHING = Known(Rest({}, {}, apart=False), {}, {})


@dataclass(frozen=True, eq=False)
class Blockwise:
    """The statistics of a model by blocks. Those that follow from an equal `key` are found in the store.

    With `rounds`, which rounds the weights of sites, each block is given what those before it make with theirs rounded.
    """

    parts: Sequence[Part]
    calibrate: Calibrate
    store: Store
    key: tuple[object, ...]
    rounds: Rounds | None = None

    def statistics(self, batches: Callable[[], Iterable[Batch]], count: int | None, stages: Stages) -> Statistics:
        """Run the blocks that have to run on batches, of which there are `count` where that is known."""
        total = None if count is None else count * len(self.parts) * (1 if self.rounds is None else 2)
        known, weights = _NOTHING, dict[str, SiteWeights]()
        with self.store.scratch() as scratch, ExitStack() as stack:
            stage = partial(stack.enter_context, stages.stage("calibrate", total))
            running = _Running(Boundary(scratch, batches), stage)
            for part in self.parts:
                found = self._found(part, weights)
                if not together.all_have(found):
                    found = None
                here = self._made(part, weights, running) if found is None else found
                known |= here
                made = {} if self.rounds is None else self.rounds(part.rounded, known.statistics)
                weights |= made
                if found is not None or self.rounds is not None:
                    running.waiting.append((part.block, made))
                heap.trim()
        return known.statistics

    def _made(self, part: Part, before: Weights, running: _Running) -> Known:
        """What is wanted of a block; with no weights to be rounded, it passes on what comes of its inputs."""
        boundary, advance = running.boundary, running.advance
        running.catch_up()

        def passed(batch: Crossing, arrays: Mapping[str, np.ndarray]) -> None:
            if self.rounds is None:
                boundary.pass_on(part.block, batch, arrays)

        graph = Model(part.block.graph(boundary.shapes()))
        made = self.calibrate(graph, part.wanted, boundary.batches(part.block), advance, passed)
        rest = Rest(made.ranges, made.means, bool(made.apart))
        with together.in_turn():
            self.store.keep("block", self._key(part, before), lambda: rest)
            kept = [
                {name: self.store.keep("moment", key, partial(moments.__getitem__, name)) for name, key in keyed}
                for moments, keyed in zip(
                    (made.moments, made.apart), self._moment_keys(part, before, rest), strict=True
                )
            ]
        return Known(rest, *kept)

    def _found(self, part: Part, before: Weights) -> Known | None:
        """What is kept of a block; None where that is not all."""
        if not part.wanted:
            return _NOTHING
        block: Kept[Rest] | None = self.store.find("block", self._key(part, before))
        if block is None:
            return None
        rest, kept = block.load(), []
        for keyed in self._moment_keys(part, before, rest):
            found = {name: self.store.find("moment", key) for name, key in keyed}
            kept.append({name: each for name, each in found.items() if each is not None})
            if len(kept[-1]) < len(found):
                return None
        return Known(rest, *kept)

    def _moment_keys(self, part: Part, before: Weights, rest: Rest) -> list[list[tuple[str, Key]]]:
        """What the moments of sites follow from, and those `apart`."""
        sites = [(site.name, keys(site)) for site in part.wanted.moments]
        return [
            [(name, self._key(part, before, (*seen, apart))) for name, seen in (sites if there else ())]
            for apart, there in ((False, True), (True, rest.apart))
        ]

    def _key(self, part: Part, before: Weights, of: tuple[object, ...] = ()) -> Key:
        """What an entry follows from, to the last bit: cuts and weights before it, what is seen with it, and which."""
        stops = [each.block.stop for each in self.parts if each.block.stop <= part.block.stop]
        names = [[each.name for each in sites] for sites in (part.wanted.moments, part.wanted.means)]
        became = [(name, each.solved.sizes.path.name, each.rung, each.bias_shift) for name, each in before.items()]
        return lambda: (*self.key, stops, names, part.wanted.ranges, became, of)


@dataclass(eq=False)
class _Running:
    """What crosses between blocks, and blocks `waiting` to be run for no more than that if one behind has to run."""

    boundary: Boundary
    begin: Callable[[], Advance]
    waiting: list[tuple[Block, Weights]] = field(default_factory=list)

    @cached_property
    def advance(self) -> Advance:
        """Says that a batch is done."""
        return self.begin()

    def catch_up(self) -> None:
        """Run the blocks that wait, with their weights rounded."""
        for block, weights in self.waiting:
            arrays = {name: array for each in weights.values() for name, array in each.arrays().items()}
            graph = block.forward(self.boundary.shapes(), arrays)
            session = None if graph is None else Session(graph)
            for _ in self.boundary.run(block, session):
                self.advance()
        self.waiting.clear()
