"""What crosses from one block of a network to the next: on disk, for all batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from calibration.batch import Batch
from ptq.cache import Scratch
from ptq.model.blocks import Block
from ptq.model.session import Session
from ptq.pipeline import together


@dataclass(frozen=True, eq=False)
class Crossing(Batch):
    """What crosses of one batch: its number, and how many samples it has, which its arrays need not tell."""

    number: int = 0
    samples: int = 1

    @property
    def size(self) -> int:
        """How many samples there are."""
        return self.samples


@dataclass(eq=False)
class Boundary:
    """The tensors that are needed behind the blocks that have run, each on disk from where it is made to its last use.

    Batches are read from the data once, by the first block. Of several ranks each is given some of them.
    """

    scratch: Scratch
    data: Callable[[], Iterable[Batch]]
    _samples: list[tuple[int, int]] = field(default_factory=list)
    """How many came before each batch, and how many it has."""
    _shapes: dict[str, set[tuple[int, ...]]] = field(default_factory=dict)

    def shapes(self) -> dict[str, set[tuple[int, ...]]]:
        """The shapes that each tensor has come in, whichever rank it came to."""
        return together.union(self._shapes)

    def batches(self, block: Block) -> Iterator[Crossing]:
        """What a block is given."""
        if block.first:
            for number, batch in enumerate(self.data()):
                yield Crossing(
                    {each: batch.feeds[each] for each in block.inputs}, None, batch.start, number, batch.size
                )
        else:
            for number, (start, samples) in enumerate(self._samples):
                feeds = {name: self.scratch.take(name, number) for name in block.inputs}
                yield Crossing(feeds, None, start, number, samples)

    def run(self, block: Block, session: Session | None) -> Iterator[tuple[Crossing, Mapping[str, np.ndarray]]]:
        """What a session of a block makes of each batch, which is passed on; without one, what it is given."""
        for batch in self.batches(block):
            made = {} if session is None else dict(zip(session.outputs, session.run(batch.feeds), strict=True))
            found = {**batch.feeds, **made}
            self.pass_on(block, batch, found)
            yield batch, found

    def pass_on(self, block: Block, batch: Crossing, found: Mapping[str, np.ndarray]) -> None:
        """Keep what a block has made of a batch that later ones need, and no longer what they do not."""
        if block.first:
            self._samples.append((batch.start, batch.samples))
        for name in block.new:
            self.scratch.put(name, batch.number, found[name])
            self._shapes.setdefault(name, set()).add(found[name].shape)
        for name in block.gone:
            self.scratch.drop(name, batch.number)
