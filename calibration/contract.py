"""The checks of data against the inputs of a model; every message shows both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TypeVar

import numpy as np

from calibration.spec import InputSpec
from calibration.tables import ONLY, Header
from ptq.errors import DataError, suggest

LABELS = "labels"

_FLOATS = ("float16", "float32", "float64")
_SAFE = {*permutations(_FLOATS, 2), ("int32", "int64"), ("int16", "int64"), ("uint8", "int64")}
_Any = TypeVar("_Any")


def bound(raw: Mapping[str, _Any] | tuple[_Any, ...], inputs: Sequence[InputSpec], title: str) -> dict[str, _Any]:
    """What was given, by the names of the inputs, and the labels.

    Raises:
        DataError: an input has nothing, or something has no input.

    """
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
    missing = [name for name in names if name not in found]
    if missing:
        wanted, spare = ", ".join(map(str, inputs)), [name for name in found if name not in (*names, LABELS)]
        if len(missing) == len(spare) == 1:
            fix = f"rename {spare[0]!r} to {missing[0]!r}, if it is that"
        elif len(missing) == len(names):
            fix = "are these data for another model?"
        else:
            fix = f"add {', '.join(map(repr, missing))}"
        raise DataError(f"{title}: the model's inputs are {wanted}, the data have {shown}; {fix}")
    for name in found:
        if name not in names and name != LABELS:
            raise DataError(
                f"{title}: the model has no input {name!r}, its inputs are {', '.join(names)}; {suggest(name, names)}"
            )
    return found


def check_headers(headers: Mapping[str, Header], inputs: Sequence[InputSpec], title: str) -> int:
    """Check shapes and types of what is bound to inputs; the number of samples.

    Raises:
        DataError: something does not fit.

    """
    sizes: dict[str, int] = {}
    for spec in inputs:
        _check_header(headers[spec.name], spec, sizes, title)
    counts = {spec.name: headers[spec.name].shape[0] for spec in inputs if headers[spec.name].shape}
    labels = headers.get(LABELS)
    if labels is not None:
        if not labels.shape or labels.dtype.kind not in "iuf":
            raise DataError(
                f"{title}: labels must be int64[samples] or int64[samples,positions], or floats like the output, got "
                f"{labels}; give class numbers, or the numbers that the output should be"
            )
        counts[LABELS] = labels.shape[0]
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
        raise DataError(f"{title}: the numbers of samples differ, {shown}; give as many of each")
    if not all(counts.values()):
        raise DataError(f"{title}: there are no samples; give at least one")
    return next(iter(counts.values()), 1)


def converted(array: np.ndarray, spec: InputSpec) -> np.ndarray:
    """The array in the dtype of the input and in this machine's byte order.

    What that does not hold is infinite, and refused as such.
    """
    same = array.dtype.name == spec.dtype and array.dtype.isnative
    with np.errstate(over="ignore"):
        return array if same else array.astype(spec.dtype)


def check_finite(array: np.ndarray, name: str, title: str, first: int = 0) -> None:
    """Refuse what is no number; `first` is the number of the first sample.

    Raises:
        DataError: there is NaN or infinity, and in which sample.

    """
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        sample = first + int(np.argwhere(np.atleast_1d(bad))[0][0])
        raise DataError(f"{title}: {name!r} has NaN or Inf in sample {sample}; remove it")


def fixed_batch(inputs: Sequence[InputSpec]) -> int | None:
    """The batch size that a model is fixed to."""
    return next((spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)), None)


def _check_header(header: Header, spec: InputSpec, sizes: dict[str, int], title: str) -> None:
    """Check one input; `sizes` collects what the free dimensions are."""
    wrong = f"{title}: input {spec.name!r} must be {str(spec).removeprefix(f'{spec.name}:')}, got {header}"
    if spec.shape is not None:
        if len(spec.shape) != len(header.shape):
            raise DataError(f"{wrong}; give rank {len(spec.shape)}")
        for axis, (wanted, size) in enumerate(zip(spec.shape, header.shape, strict=True)):
            if axis == 0 and isinstance(wanted, int):
                continue  # batches are cut to a fixed size
            if isinstance(wanted, int) and wanted != size:
                raise DataError(f"{wrong}; {_advice(spec, header)}")
            if isinstance(wanted, str) and sizes.setdefault(wanted, size) != size:
                raise DataError(f"{wrong}, but {wanted} is {sizes[wanted]} elsewhere; make them equal")
    if header.dtype.name != spec.dtype and (header.dtype.name, spec.dtype) not in _SAFE:
        scaled = ", and scale it" if spec.dtype.startswith("float") and header.dtype.kind in "iub" else ""
        raise DataError(f"{wrong}; convert it with astype({spec.dtype!r}){scaled} as the model was trained")


def _advice(spec: InputSpec, header: Header) -> str:
    """The likeliest fix for a wrong shape."""
    fixed = [size for size in (spec.shape or ())[1:] if isinstance(size, int)]
    if sorted(fixed) == sorted(header.shape[1:]) and fixed:
        return "transpose it"
    return "resize it, or export the model with that shape"
