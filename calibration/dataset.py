"""Data that fit a model: checked against its inputs before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import numpy as np

from calibration.batch import WHOLE, Batch, Item, Share
from calibration.contract import LABELS, bound, check_finite, check_headers, converted, fixed_batch
from calibration.sources import Source
from calibration.spec import InputSpec
from calibration.tables import Header, Table
from ptq.errors import DataError

_CHUNK = 64
"""Samples that a fingerprint takes together; another number would give another fingerprint."""

_PIECE_BYTES = 1 << 22
"""About as much of an array is looked at at once."""


@dataclass(frozen=True)
class Survey:
    """What one walk through all samples found: the ends of inputs of floats, and the fingerprint."""

    ranges: Mapping[str, tuple[float, float]]
    fingerprint: str


@dataclass(frozen=True, eq=False)
class _Part:
    """Samples of one batch that are yet to be read, and what they follow from where reading them takes long."""

    size: int
    read: Callable[[], Batch]
    stamp: Callable[[], bytes] | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples of a source, by the names of a model's inputs; at most `limit` of them.

    `survey` is there where all samples were checked, those of arrays in files or in memory.
    """

    source: Source
    inputs: tuple[InputSpec, ...]
    limit: int | None = None
    survey: Survey | None = None

    @property
    def samples(self) -> int | None:
        """How many samples there are; None when only a walk through them would tell."""
        if self.source.table is None:
            return None
        count = self._count(self.source.table)
        return count if self.limit is None else min(count, self.limit)

    @property
    def labels(self) -> Header | None:
        """Those of one sample: of rank 1 where it has a class, of more where its positions have; None without any."""
        labels = next(self.batches(1)).labels
        return None if labels is None else Header.of(labels)

    def take(self, count: int) -> Dataset:
        """The first so many samples, rounded up to whole batches of a model that is fixed to a size of them."""
        fixed = fixed_batch(self.inputs) or 1
        whole = -(-count // fixed) * fixed
        return replace(self, limit=whole if self.limit is None else min(whole, self.limit))

    def describe(self) -> str:
        """The samples in a few words."""
        table = self.source.table
        if table is None:
            first = next(self.batches(1))
            return f"a stream of samples {', '.join(f'{n!r} {Header.of(a)}' for n, a in first.feeds.items())}"
        ranges = {} if self.survey is None else self.survey.ranges
        names = self._names(table)
        parts = []
        for spec in self.inputs:
            low, high = ranges.get(spec.name, (None, None))
            shown = "" if low is None else f", range {low:.2f}..{high:.2f}"
            parts.append(f"{spec.name!r} {table.headers[names[spec.name]]}{shown}")
        return f"{self.samples} samples {', '.join(parts)}"

    def batches(self, size: int, share: Share = WHOLE) -> Iterator[Batch]:
        """Batches of up to `size` samples, or of just as many as the model is fixed to; what is left over is dropped.

        Batches of a stream are cut, never joined: their shapes may differ. Those out of a share are neither decoded nor
        checked.

        Raises:
            DataError: a batch does not fit the model, or there is no whole batch.

        """
        start = 0
        for place, part in enumerate(self._parts(size)):
            if place % share.of == share.place:
                yield replace(part.read(), start=start)
            start += part.size

    def fingerprint(self) -> str:
        """SHA-256 of names, shapes and numbers; of images, of their files and how they are decoded.

        A stream is walked through for it, once.
        """
        if self.survey is not None and self.limit is None:
            return self.survey.fingerprint
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for part in self._parts(_CHUNK):
            if part.stamp is not None:
                digest.update(part.stamp())
                continue
            batch = part.read()
            for name, array in (*sorted(batch.feeds.items()), (LABELS, batch.labels)):
                if array is not None:
                    digest.update(_heading(name, array, array.shape) + array.tobytes())
        return digest.hexdigest()

    def surveyed(self) -> Dataset:
        """The same samples after a walk through all of them; streams are only begun, as they may be long.

        Raises:
            DataError: they do not fit the model; the message shows both sides.

        """
        table, title = self.source.table, self.source.title
        if table is None:
            next(self.batches(_CHUNK))
            return self
        names = self._names(table)
        total = check_headers({name: table.headers[stored] for name, stored in names.items()}, self.inputs, title)
        if total < (fixed_batch(self.inputs) or 1):
            raise self._too_few()
        return replace(self, survey=self._survey(table, names, total))

    def _survey(self, table: Table, names: Mapping[str, str], total: int) -> Survey:
        """Check all numbers, a few at a time; the fingerprint is made as of whole chunks."""
        fixed, specs = fixed_batch(self.inputs), {spec.name: spec for spec in self.inputs}
        step = fixed or _CHUNK
        digest, ranges = hashlib.sha256(), dict[str, tuple[float, float]]()
        with table.open() as reader:
            takes = {name: reader(names[name]) for name in (*sorted(specs), LABELS) if name in names}
            for start in range(0, total, step):
                count = min(step, total - start)
                for name, take in takes.items():
                    header = table.headers[names[name]]
                    for done, size in _pieces(header, count):
                        raw = take(start + done, size)
                        array = raw if name == LABELS else converted(raw, specs[name])
                        check_finite(array, name, self.source.title, start + done)
                        if raw.dtype.kind == "f" and raw.size:
                            low, high = ranges.get(name, (np.inf, -np.inf))
                            ranges[name] = min(low, float(raw.min())), max(high, float(raw.max()))
                        if count == step or not fixed:
                            if not done:
                                digest.update(_heading(name, array, (count, *header.shape[1:]) if header.shape else ()))
                            digest.update(array.tobytes())
        return Survey(ranges, digest.hexdigest())

    def _too_few(self) -> DataError:
        fixed = fixed_batch(self.inputs)
        wanted = f"a batch of {fixed}, which the model is fixed to" if fixed else "one sample"
        return DataError(f"{self.source.title}: there is not even {wanted}; give more samples")

    def _names(self, table: Table) -> dict[str, str]:
        """The names in the table by those of the inputs, and of the labels."""
        return bound({name: name for name in table.headers}, self.inputs, self.source.title)

    def _count(self, table: Table) -> int:
        return next((header.shape[0] for header in table.headers.values() if header.shape), 1)

    def _parts(self, size: int) -> Iterator[_Part]:
        """What `batches` are made of, none of which has been read."""
        fixed, table = fixed_batch(self.inputs), self.source.table
        whole = False
        for part in self._cut(fixed or size) if table is None else self._rows(table, fixed or size):
            if not fixed or part.size == fixed:
                whole = True
                yield part
        if not whole:
            raise self._too_few()

    def _rows(self, table: Table, step: int) -> Iterator[_Part]:
        """Parts of arrays, which were checked."""
        names, total = self._names(table), self._count(table)
        end = total if self.limit is None else min(total, self.limit)
        with table.open() as reader:
            takes = {name: reader(stored) for name, stored in names.items()}

            def read(start: int, count: int) -> Batch:
                feeds = {spec.name: converted(takes[spec.name](start, count), spec) for spec in self.inputs}
                return Batch(feeds, takes[LABELS](start, count) if LABELS in takes else None)

            for start in range(0, end, step):
                count = min(step, end - start)
                yield _Part(count, partial(read, start, count))

    def _cut(self, step: int) -> Iterator[_Part]:
        """Parts of the batches of a stream."""
        left = self.limit
        for item in self.source.items():
            arrays = cache(partial(self._bound, item))
            if not item.size:
                arrays()  # raises what is wrong with it
            count = item.size if left is None else min(item.size, left)
            for start in range(0, count, step):
                stop = min(start + step, count)
                stamp = None if item.stamp is None else partial(_part_stamp, item.stamp, start, stop)
                yield _Part(stop - start, partial(self._checked, arrays, start, stop), stamp)
            left = None if left is None else left - count
            if left is not None and left <= 0:
                break

    def _bound(self, item: Item) -> Mapping[str, np.ndarray]:
        """The arrays of a batch of a stream by input, and the labels; their numbers are not looked at."""
        arrays = bound(item.read(), self.inputs, self.source.title)
        check_headers({name: Header.of(array) for name, array in arrays.items()}, self.inputs, self.source.title)
        return arrays

    def _checked(self, arrays: Callable[[], Mapping[str, np.ndarray]], start: int, stop: int) -> Batch:
        """Some samples of a batch of a stream."""
        title = self.source.title
        cut = {name: np.asarray(a[start:stop], order="C") if a.ndim else a for name, a in arrays().items()}
        labels = cut.get(LABELS)
        if labels is not None:
            check_finite(labels, LABELS, title, start)
        feeds = {spec.name: converted(cut[spec.name], spec) for spec in self.inputs}
        for name, array in feeds.items():
            check_finite(array, name, title, start)
        return Batch(feeds, labels)


def fit(source: Source, inputs: Sequence[InputSpec]) -> Dataset:
    """Check data against the inputs of a model.

    Arrays are checked whole, streams by their first samples now and by the others as they come.

    Raises:
        DataError: they do not fit; the message shows both sides.

    """
    return Dataset(source, tuple(inputs)).surveyed()


def _part_stamp(stamp: Callable[[], bytes], start: int, stop: int) -> bytes:
    return b"%d:%d " % (start, stop) + stamp()


def _heading(name: str, array: np.ndarray, shape: tuple[int, ...]) -> bytes:
    return f"{name}{array.dtype}{shape}".encode()


def _pieces(header: Header, count: int) -> Iterator[tuple[int, int]]:
    """Beginnings and sizes of pieces of so many samples; one piece where there are no samples."""
    step = max(1, _PIECE_BYTES // max(header.sample_bytes, 1)) if header.shape else count
    for done in range(0, count, step):
        yield done, min(step, count - done)
