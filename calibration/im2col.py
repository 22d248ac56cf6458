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


def patch_mean(  # noqa: PLR0917  (the attributes of ONNX's Conv)
    channels: Tensor,
    sizes: Sequence[int | None],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> Tensor:
    """The mean patch `(groups, in)` of images that have these means of channels `(channels,)` everywhere.

    What is not known from the means is how the numbers near the border differ from others; that the padding is 0 is.
    Where the size is not known, it is taken to be so large that the border does not matter.
    """
    inside = torch.ones(1)
    for axis, size in enumerate(sizes):
        along = _inside(axis, size, kernel, strides, pads, dilations) if size else torch.ones(kernel[axis])
        inside = (inside[:, None] * along).reshape(-1)
    return (channels[:, None] * inside).reshape(groups, -1)


def _inside(
    axis: int, size: int, kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
) -> Tensor:
    """For each position of the kernel along an axis, the part of the output positions for which it is on the image."""
    begin, end = pads[axis], pads[axis + len(kernel)]
    reach = (kernel[axis] - 1) * dilations[axis] + 1
    count = (size + begin + end - reach) // strides[axis] + 1
    places = (
        torch.arange(count)[None, :] * strides[axis] + torch.arange(kernel[axis])[:, None] * dilations[axis] - begin
    )
    return ((places >= 0) & (places < size)).float().mean(1)
