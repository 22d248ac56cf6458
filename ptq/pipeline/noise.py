"""What a model can be run on where there are no data."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from calibration.contract import fixed_batch
from ptq.errors import ModelError
from ptq.model.graph import Model

_OPEN_SIZE: Final = 128
"""What an axis of any size is taken to have, but for the first, which is that of samples."""

_MOST_BYTES: Final = 1 << 32
"""Of all samples; one of them is held."""


def noise_for(model: Model, samples: int) -> dict[str, np.ndarray]:
    """One sample so often, in whole batches: floats as noise, integers as ones, which most tables and masks take.

    Raises:
        ModelError: the rank of an input is not known, or there are no such inputs.

    """
    random = np.random.default_rng(0)
    size = fixed_batch(model.inputs) or 1
    count = -(-samples // size) * size
    found = {}
    for spec in model.inputs:
        if spec.shape is None:
            raise ModelError(f"the rank of its input {spec.name!r} is not known")
        shape = tuple(each if isinstance(each, int) else _OPEN_SIZE for each in spec.shape[1:])
        dtype = np.dtype(spec.dtype)
        if dtype.kind not in "fiub":
            raise ModelError(f"numpy has no numbers for its input {spec}")
        if size < 1 or dtype.itemsize * count * math.prod(shape) > _MOST_BYTES:
            raise ModelError(f"its input {spec} is of no size to be tried with")
        one = random.standard_normal(shape).astype(dtype) if dtype.kind == "f" else np.ones(shape, dtype)
        found[spec.name] = np.broadcast_to(one, (count, *shape))
    return found
