"""Data that fit a model: checked against its inputs before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from calibration.batch import Batch
from calibration.contract import LABELS, bound, check_finite, check_headers, converted, fixed_batch
from calibration.sources import Raw, Source
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

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of up to `size` samples, or of just as many as the model is fixed to; what is left over is dropped.

        Batches of a stream are cut, never joined: their shapes may differ.

        Raises:
            DataError: a batch does not fit the model, or there is no whole batch.

        """
        fixed, table = fixed_batch(self.inputs), self.source.table
        whole = False
        for batch in self._cut(fixed or size) if table is None else self._read(table, fixed or size):
            if fixed and batch.size < fixed:
                continue
            whole = True
            yield batch
        if not whole:
            raise self._too_few()

    def fingerprint(self) -> str:
        """SHA-256 of names, shapes and numbers."""
        if self.survey is not None and self.limit is None:
            return self.survey.fingerprint
        digest = hashlib.sha256()
        for batch in self.batches(_CHUNK):
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
                        raw = take(size)
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

    def _read(self, table: Table, step: int) -> Iterator[Batch]:
        """Batches of arrays, which were checked."""
        names, total = self._names(table), self._count(table)
        with table.open() as reader:
            takes = {name: reader(stored) for name, stored in names.items()}
            for start in range(0, total if self.limit is None else min(total, self.limit), step):
                count = step if self.limit is None else min(step, self.limit - start)
                feeds = {spec.name: converted(takes[spec.name](count), spec) for spec in self.inputs}
                yield Batch(feeds, takes[LABELS](count) if LABELS in takes else None)

    def _cut(self, step: int) -> Iterator[Batch]:
        """Batches of a stream, checked as they come."""
        left = self.limit
        for raw in self.source.raw_batches():
            feeds, labels = self._checked(raw)
            whole = Batch(feeds).size
            count = whole if left is None else min(whole, left)
            for start in range(0, count, step):
                part = slice(start, min(start + step, count))
                cut = {name: np.asarray(a[part], order="C") if a.ndim else a for name, a in feeds.items()}
                yield Batch(cut, None if labels is None else labels[part])
            left = None if left is None else left - count
            if left is not None and left <= 0:
                break

    def _checked(self, raw: Raw) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        title = self.source.title
        arrays = bound(raw, self.inputs, title)
        check_headers({name: Header.of(array) for name, array in arrays.items()}, self.inputs, title)
        labels = arrays.pop(LABELS, None)
        if labels is not None:
            check_finite(labels, LABELS, title)
        feeds = {spec.name: converted(arrays[spec.name], spec) for spec in self.inputs}
        for name, array in feeds.items():
            check_finite(array, name, title)
        return feeds, labels


def fit(source: Source, inputs: Sequence[InputSpec]) -> Dataset:
    """Check data against the inputs of a model.

    Arrays are checked whole, streams by their first batch now and by the others as they come.

    Raises:
        DataError: they do not fit; the message shows both sides.

    """
    return Dataset(source, tuple(inputs)).surveyed()


def _heading(name: str, array: np.ndarray, shape: tuple[int, ...]) -> bytes:
    return f"{name}{array.dtype}{shape}".encode()


def _pieces(header: Header, count: int) -> Iterator[tuple[int, int]]:
    """Beginnings and sizes of pieces of so many samples; one piece where there are no samples."""
    step = max(1, _PIECE_BYTES // max(header.sample_bytes, 1)) if header.shape else count
    for done in range(0, count, step):
        yield done, min(step, count - done)
