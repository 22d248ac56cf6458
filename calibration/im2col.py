"""What a convolution multiplies its weights with: patches of its input, in the order of the flattened weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def patches(  # noqa: PLR0917  (the attributes of ONNX's Conv)
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    positions: int | None = None,
) -> Tensor:
    """Patches `(groups, samples, in)` of `(batch, channels, *spatial)`, with `in = channels / groups * prod(kernel)`.

    Attributes as in ONNX's Conv, `pads` begin then end. With `positions`, about that many output positions of each
    sample are taken, evenly spread, instead of all.
    """
    spatial = len(kernel)
    x = F.pad(x, [pad for axis in reversed(range(spatial)) for pad in (pads[axis], pads[axis + spatial])])
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = [(x.shape[axis + 2] - reach[axis]) // strides[axis] + 1 for axis in range(spatial)]
    steps = _steps(sizes, positions)
    counts = [math.ceil(size / step) for size, step in zip(sizes, steps, strict=True)]
    x = x.contiguous()
    moves = x.stride()[2:]
    start = [(size - 1 - (n - 1) * step) // 2 for size, n, step in zip(sizes, counts, steps, strict=True)]
    view = x.as_strided(
        (*x.shape[:2], *counts, *kernel),
        (
            *x.stride()[:2],
            *(m * s * step for m, s, step in zip(moves, strides, steps, strict=True)),
            *(m * d for m, d in zip(moves, dilations, strict=True)),
        ),
        x.storage_offset() + sum(first * s * m for first, s, m in zip(start, strides, moves, strict=True)),
    )
    batch, channels = x.shape[:2]
    view = view.reshape(batch, groups, channels // groups, math.prod(counts), math.prod(kernel))
    return view.permute(1, 0, 3, 2, 4).reshape(groups, batch * math.prod(counts), -1)


def _steps(sizes: Sequence[int], positions: int | None) -> list[int]:
    """Every how many-th position to take along each axis; the longest axis is thinned first."""
    steps = [1] * len(sizes)
    if positions is None:
        return steps
    while math.prod(counts := [math.ceil(n / s) for n, s in zip(sizes, steps, strict=True)]) > max(positions, 1):
        steps[counts.index(max(counts))] += 1
    return steps


def rows(x: Tensor) -> Tensor:
    """What a matrix product multiplies its weights with: `(1, samples, in)` of `(…, in)`."""
    return torch.reshape(x, (1, -1, x.shape[-1]))
