"""Data that fit a model: checked against its inputs before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from calibration.batch import Batch
from calibration.sources import LABELS, ONLY, Raw, Source
from calibration.spec import InputSpec
from ptq.errors import DataError, suggest

_CHUNK = 64
_SAFE = {("float64", "float32"), ("float16", "float32"), ("int32", "int64"), ("int16", "int64"), ("uint8", "int64")}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples of a source, by the names of a model's inputs; at most `limit` of them."""

    source: Source
    inputs: tuple[InputSpec, ...]
    limit: int | None = None

    @property
    def samples(self) -> int | None:
        """How many samples there are; None when only a walk through them would tell."""
        if self.source.arrays is None:
            return None
        count = len(next(iter(self.source.arrays.values())))
        return count if self.limit is None else min(count, self.limit)

    @property
    def has_labels(self) -> bool:
        """Whether the samples have classes."""
        return next(self.batches(1)).labels is not None

    def take(self, count: int) -> Dataset:
        """The first so many samples, rounded up to whole batches of a model that is fixed to a size of them."""
        whole = -(-count // (_fixed(self.inputs) or 1)) * (_fixed(self.inputs) or 1)
        return replace(self, limit=whole if self.limit is None else min(whole, self.limit))

    def describe(self) -> str:
        """The samples in a few words."""
        first = next(self.batches(1))
        parts = []
        for name, array in first.feeds.items():
            whole = (
                None if self.source.arrays is None else _bound(self.source.arrays, self.inputs, self.source.title)[name]
            )
            shown = array if whole is None else whole
            text = f"{name!r} {_shape(shown)}"
            if whole is not None and whole.dtype.kind == "f":
                text += f", range {float(whole.min()):.2f}..{float(whole.max()):.2f}"
            parts.append(text)
        count = "a stream of samples" if self.samples is None else f"{self.samples} samples"
        return f"{count} {', '.join(parts)}"

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of up to `size` samples, or of just as many as the model is fixed to; what is left over is dropped.

        Batches of a stream are cut, never joined: their shapes may differ.

        Raises:
            DataError: a batch does not fit the model, or there is no whole batch.

        """
        fixed = _fixed(self.inputs)
        step, left, whole = fixed or size, self.limit, False
        for raw in self.source.raw_batches():
            feeds, labels = self._checked(raw)
            count = Batch(feeds).size if left is None else min(Batch(feeds).size, left)
            for start in range(0, count, step):
                stop = min(start + step, count)
                if fixed and stop - start < fixed:
                    break
                whole = True
                yield Batch(
                    {name: np.ascontiguousarray(array[start:stop]) for name, array in feeds.items()},
                    None if labels is None else labels[start:stop],
                )
            left = None if left is None else left - count
            if left is not None and left <= 0:
                break
        if not whole:
            wanted = f"a batch of {fixed}, which the model is fixed to" if fixed else "one sample"
            raise DataError(f"{self.source.title}: there is not even {wanted}; give more samples")

    def fingerprint(self) -> str:
        """SHA-256 of names, shapes and numbers."""
        digest = hashlib.sha256()
        for batch in self.batches(_CHUNK):
            for name, array in (*sorted(batch.feeds.items()), (LABELS, batch.labels)):
                if array is not None:
                    digest.update(f"{name}{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _checked(self, raw: Raw) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        title = self.source.title
        bound = _bound(raw, self.inputs, title)
        labels = bound.pop(LABELS, None)
        sizes: dict[str, int] = {}
        feeds = {spec.name: _fitted(bound[spec.name], spec, sizes, title) for spec in self.inputs}
        counts = {name: len(array) for name, array in feeds.items() if array.ndim}
        if labels is not None:
            if labels.ndim != 1 or labels.dtype.kind not in "iu":
                raise DataError(f"{title}: labels must be int64[samples], got {_shape(labels)}; give class numbers")
            counts[LABELS] = len(labels)
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
            raise DataError(f"{title}: the numbers of samples differ, {shown}; give as many of each")
        if not all(counts.values()):
            raise DataError(f"{title}: there are no samples; give at least one")
        return feeds, labels


def fit(source: Source, inputs: Sequence[InputSpec]) -> Dataset:
    """Check data against the inputs of a model.

    Arrays are checked whole, streams by their first batch now and by the others as they come.

    Raises:
        DataError: they do not fit; the message shows both sides.

    """
    dataset = Dataset(source, tuple(inputs))
    for _ in dataset.batches(_CHUNK):
        if source.arrays is None:
            break
    return dataset


def _bound(raw: Raw, inputs: Sequence[InputSpec], title: str) -> dict[str, np.ndarray]:
    """Arrays by the names of the inputs, and the labels."""
    names = [spec.name for spec in inputs]
    if isinstance(raw, tuple):
        if len(raw) not in (len(names), len(names) + 1):
            raise DataError(
                f"{title}: a batch has {len(raw)} arrays, the model's inputs are {', '.join(names)}; name them"
            )
        return dict(zip([*names, LABELS], raw, strict=False))
    found = dict(raw)
    if ONLY in found and len(names) == 1:
        found[names[0]] = found.pop(ONLY)
    shown = ", ".join(repr(name) for name in found if name != LABELS) or "none"
    for name in names:
        if name not in found:
            wanted = ", ".join(map(str, inputs))
            raise DataError(
                f"{title}: the model's inputs are {wanted}, the data have {shown}; rename {shown} to {name!r}"
            )
    for name in found:
        if name not in names and name != LABELS:
            raise DataError(
                f"{title}: the model has no input {name!r}, its inputs are {', '.join(names)}; {suggest(name, names)}"
            )
    return found


def _fitted(array: np.ndarray, spec: InputSpec, sizes: dict[str, int], title: str) -> np.ndarray:
    """The array in the dtype of the input; `sizes` collects what the free dimensions are."""
    wrong = f"{title}: input {spec.name!r} must be {_wanted(spec)}, got {_shape(array)}"
    if spec.shape is not None:
        if len(spec.shape) != array.ndim:
            raise DataError(f"{wrong}; give rank {len(spec.shape)}")
        for axis, (wanted, size) in enumerate(zip(spec.shape, array.shape, strict=True)):
            if axis == 0 and isinstance(wanted, int):
                continue  # batches are cut to a fixed size
            if isinstance(wanted, int) and wanted != size:
                raise DataError(f"{wrong}; {_advice(spec, array)}")
            if isinstance(wanted, str) and sizes.setdefault(wanted, size) != size:
                raise DataError(f"{wrong}, but {wanted} is {sizes[wanted]} elsewhere; make them equal")
    if array.dtype.name != spec.dtype:
        if (array.dtype.name, spec.dtype) not in _SAFE:
            raise DataError(f"{wrong}; convert it with astype({spec.dtype!r}) as the model was trained")
        array = array.astype(spec.dtype)
    if array.dtype.kind == "f":
        for start in range(0, max(len(array), 1), _CHUNK):
            bad = ~np.isfinite(array[start : start + _CHUNK])
            if bad.any():
                sample = start + int(np.argwhere(bad)[0][0])
                raise DataError(f"{title}: input {spec.name!r} has NaN or Inf in sample {sample}; remove it")
    return array


def _advice(spec: InputSpec, array: np.ndarray) -> str:
    """The likeliest fix for a wrong shape."""
    fixed = [size for size in (spec.shape or ())[1:] if isinstance(size, int)]
    if sorted(fixed) == sorted(array.shape[1:]) and fixed:
        return "transpose it"
    return "resize it, or export the model with that shape"


def _fixed(inputs: Sequence[InputSpec]) -> int | None:
    """The batch size that a model is fixed to."""
    return next((spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)), None)


def _wanted(spec: InputSpec) -> str:
    return str(spec).removeprefix(f"{spec.name}:")


def _shape(array: np.ndarray) -> str:
    return f"{array.dtype.name}[{','.join(map(str, array.shape))}]"
