"""Every other sample of data, so that what is chosen on the ones can be judged on the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from calibration.batch import Item, Raw
from calibration.sources import Source
from calibration.tables import Header, Table, Take


def halves(source: Source) -> tuple[Source, Source]:
    """The samples of even and of odd number: data may be sorted, so that the first half is unlike the second."""
    return _half(source, 0), _half(source, 1)


def _half(source: Source, first: int) -> Source:
    title = f"{source.title}, every other sample"
    if source.table is not None:
        return Source(title, EveryOther(source.table, first))
    return Source(title, stream=lambda: _thinned(source, first))


@dataclass(frozen=True, eq=False)
class EveryOther:
    """The samples of a table of every second number from `first` on, 0 or 1."""

    table: Table
    first: int

    @property
    def headers(self) -> Mapping[str, Header]:
        """What there is."""
        return {name: self._header(header) for name, header in self.table.headers.items()}

    def _header(self, header: Header) -> Header:
        if not header.shape:
            return header
        return Header(header.dtype, (len(range(self.first, header.shape[0], 2)), *header.shape[1:]))

    @contextmanager
    def open(self) -> Iterator[Callable[[str], Take]]:
        """Begin a walk; twice as much is read as is given."""
        with self.table.open() as reader:
            yield lambda name: self._taking(reader(name))

    def _taking(self, take: Take) -> Take:
        def every_other(start: int, count: int) -> np.ndarray:
            both = take(2 * start, 2 * count)
            return np.asarray(both[self.first :: 2], order="C") if both.ndim else both

        return every_other


def _thinned(source: Source, first: int) -> Iterator[Item]:
    """The batches of a stream with every other sample, counted through all of them; those left empty are dropped."""
    seen = 0
    for item in source.items():
        start = (first - seen) % 2
        seen += item.size
        if start < item.size:
            yield _every_other(item, start)


def _every_other(item: Item, start: int) -> Item:
    def read() -> Raw:
        raw = item.read()
        arrays = tuple(raw.values()) if isinstance(raw, Mapping) else raw
        kept = tuple(array[start::2] if array.ndim else array for array in arrays)
        return dict(zip(raw, kept, strict=True)) if isinstance(raw, Mapping) else kept

    stamp = item.stamp
    return Item(len(range(start, item.size, 2)), read, None if stamp is None else lambda: b"%d::2" % start + stamp())
