"""The operators of drawn graphs that have no weights: sums, pools, and what moves and cuts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from random_drafts import IMAGES, Draft, need, operator


@operator()
def softmax(draft: Draft, x: str) -> str:
    return draft.call("Softmax", x, shape=draft.shape(x), axis=-1)


@operator(times=3)
def residual(draft: Draft, x: str) -> str:
    shape, op = draft.shape(x), draft.one_of(("Add", "Add", "Add", "Sub", "Mul", "Sum"))
    return draft.call(op, x, draft.one_of(draft.alike(x)), shape=shape)


@operator(times=2)
def concat(draft: Draft, x: str) -> str:
    shape = list(draft.shape(x))
    axis = draft.one_of(range(1, len(shape)))
    parts = [x, *(draft.one_of(draft.alike(x, axis)) for _ in range(draft.one_of((1, 1, 2))))]
    shape[axis] = sum(draft.shape(part)[axis] for part in parts)
    return draft.call("Concat", *parts, shape=tuple(shape), axis=axis if draft.coin() else axis - len(shape))


@operator(ranks=IMAGES, times=2)
def pool(draft: Draft, x: str) -> str:
    batch, channels, *sizes = draft.shape(x)
    kernel = [draft.one_of((2, 3, 1)) for _ in sizes]
    strides = [draft.one_of((1, 2)) for _ in sizes]
    said: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    op = draft.one_of(("MaxPool", "AveragePool"))
    if op == "AveragePool" and draft.coin():
        said["count_include_pad"] = 1
    mode = draft.one_of(("NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "ceil"))
    if mode.startswith("SAME"):
        after = [-(-n // s) for n, s in zip(sizes, strides, strict=True)]
        return draft.call(op, x, shape=(batch, channels, *after), auto_pad=mode, **said)
    pads = (
        [draft.one_of((0, 0, min(1, k - 1))) for k in (*kernel, *kernel)] if mode == "NOTSET" else [0] * 2 * len(sizes)
    )
    left = [n + pads[k] + pads[k + len(sizes)] - kernel[k] for k, n in enumerate(sizes)]
    need(min(left) >= 0)
    after = [n // s + 1 for n, s in zip(left, strides, strict=True)]
    if mode == "ceil":
        need(all(k >= s for k, s in zip(kernel, strides, strict=True)))
        after = [-(-n // s) + 1 for n, s in zip(left, strides, strict=True)]
        said["ceil_mode"] = 1
    return draft.call(op, x, shape=(batch, channels, *after), pads=pads, **said)


@operator(ranks=IMAGES, times=2)
def global_pool(draft: Draft, x: str) -> str:
    batch, channels, *sizes = draft.shape(x)
    op, ones = draft.one_of(("GlobalAveragePool", "GlobalMaxPool", "ReduceMean")), [1] * len(sizes)
    if op != "ReduceMean":
        return draft.call(op, x, shape=(batch, channels, *ones))
    axes, keep = [*range(2, 2 + len(sizes))], int(draft.coin())
    shape = (batch, channels, *ones) if keep else (batch, channels)
    if draft.opset < 18:
        return draft.call(op, x, shape=shape, axes=axes, keepdims=keep)
    return draft.call(op, x, draft.integers(*axes), shape=shape, keepdims=keep)


@operator()
def flatten(draft: Draft, x: str) -> str:
    batch, *sizes = draft.shape(x)
    shape = (batch, math.prod(sizes))
    if draft.coin():
        return draft.call("Flatten", x, shape=shape)
    if draft.coin():
        return draft.call("Reshape", x, draft.integers(*draft.one_of(((0, -1), (-1, shape[1])))), shape=shape)
    sizes = _raw(draft, "Shape", x)
    first = _raw(draft, "Slice", sizes, *(draft.integers(each) for each in (0, 1, 0)))
    after = _raw(draft, "Concat", first, draft.integers(-1), axis=0)
    return draft.call("Reshape", x, after, shape=shape)


def _raw(draft: Draft, op: str, *inputs: str, **attributes: Any) -> str:
    """Sizes, which nothing else is to read."""
    name = draft.call(op, *inputs, shape=(1,), **attributes)
    del draft.shapes[name]
    return name


@operator()
def reshape(draft: Draft, x: str) -> str:
    """Join the last axes, or take one apart."""
    batch, *sizes = draft.shape(x)
    if len(sizes) > 1 and draft.coin():
        after = (*sizes[:-2], sizes[-2] * sizes[-1])
    else:
        need(len(sizes) < 4)
        factor = next((f for f in (2, 3, 5, 7) if sizes[-1] % f == 0), 1)
        after = (*sizes[:-1], sizes[-1] // factor, factor)
    return draft.call("Reshape", x, draft.integers(draft.one_of((0, -1)), *after), shape=(batch, *after))


@operator()
def transpose(draft: Draft, x: str) -> str:
    shape = draft.shape(x)
    order = [0, *draft.one_of(_ORDERS[len(shape)])]
    return draft.call("Transpose", x, shape=tuple(shape[axis] for axis in order), perm=order)


_ORDERS = {
    2: [[1]],
    3: [[2, 1]],
    4: [[2, 3, 1], [3, 1, 2], [1, 3, 2], [2, 1, 3]],
    5: [[2, 3, 4, 1], [4, 1, 2, 3]],
}


@operator()
def cut(draft: Draft, x: str) -> str:
    """A Slice, or a Gather of some places."""
    shape = list(draft.shape(x))
    axis = draft.one_of(range(1, len(shape)))
    size = shape[axis]
    if draft.often():
        places = draft.one_of(([0], [size - 1, 0], [-1]))
        shape[axis] = len(places)
        return draft.call("Gather", x, draft.integers(*places), shape=tuple(shape), axis=axis)
    first, step = draft.one_of((0, min(1, size - 1))), draft.one_of((1, 2))
    shape[axis] = -(-(size - first) // step)
    ends = [draft.integers(each) for each in (first, 2**31, axis, step)]
    return draft.call("Slice", x, *ends, shape=tuple(shape))


@operator()
def split(draft: Draft, x: str) -> str:
    shape = list(draft.shape(x))
    axis = draft.one_of(range(1, len(shape)))
    size = shape[axis]
    need(size > 1)
    sizes = [draft.one_of((size // 2, 1))]
    sizes.append(size - sizes[0])
    shapes = [(*shape[:axis], each, *shape[axis + 1 :]) for each in sizes]
    if draft.opset < 13:
        return draft.call("Split", x, shape=shapes[0], more=shapes[1:], axis=axis, split=sizes)
    return draft.call("Split", x, draft.integers(*sizes), shape=shapes[0], more=shapes[1:], axis=axis)


@operator()
def squeeze(draft: Draft, x: str) -> str:
    """Leave an axis of 1 out, or put one in."""
    shape = draft.shape(x)
    ones = [axis for axis, size in enumerate(shape) if axis and size == 1 and len(shape) > 2]
    if ones:
        op, axis = "Squeeze", draft.one_of(ones)
        after = (*shape[:axis], *shape[axis + 1 :])
    else:
        need(len(shape) < 5)
        op, axis = "Unsqueeze", draft.one_of(range(1, len(shape) + 1))
        after = (*shape[:axis], 1, *shape[axis:])
    if draft.opset < 13:
        return draft.call(op, x, shape=after, axes=[axis])
    return draft.call(op, x, draft.integers(axis), shape=after)


@operator()
def same(draft: Draft, x: str) -> str:
    return draft.call(draft.one_of(("Identity", "Dropout")), x, shape=draft.shape(x))


@operator(ranks=range(4, 5))
def pad(draft: Draft, x: str) -> str:
    batch, channels, height, width = draft.shape(x)
    top, left, bottom, right = (draft.one_of((0, 1, 2)) for _ in range(4))
    pads = draft.integers(0, 0, top, left, 0, 0, bottom, right)
    return draft.call("Pad", x, pads, shape=(batch, channels, height + top + bottom, width + left + right))


@operator(ranks=range(4, 5), opset=13)
def resize(draft: Draft, x: str) -> str:
    """Twice as many rows and columns."""
    batch, channels, height, width = draft.shape(x)
    scales = draft.store(np.array([1, 1, 2, 2], np.float32))
    said = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return draft.call("Resize", x, "", scales, shape=(batch, channels, 2 * height, 2 * width), **said)


@operator(ranks=range(4, 5))
def shuffle(draft: Draft, x: str) -> str:
    """Channels to positions, where there are enough, or positions to channels."""
    batch, channels, height, width = draft.shape(x)
    if channels % 4 == 0:
        return draft.call("DepthToSpace", x, shape=(batch, channels // 4, 2 * height, 2 * width), blocksize=2)
    need(height % 2 == 0 and width % 2 == 0)
    return draft.call("SpaceToDepth", x, shape=(batch, 4 * channels, height // 2, width // 2), blocksize=2)


@operator(ranks=range(3, 5))
def spread(draft: Draft, x: str) -> str:
    """Copies along an axis of 1."""
    shape = list(draft.shape(x))
    ones = [axis for axis, size in enumerate(shape) if axis and size == 1]
    need(ones)
    axis = draft.one_of(ones)
    sizes = [1] * len(shape)
    sizes[axis] = shape[axis] = draft.one_of((2, 3))
    return draft.call("Expand", x, draft.integers(*sizes), shape=tuple(shape))


@operator()
def mean(draft: Draft, x: str) -> str:
    """Over the last axis."""
    shape = (*draft.shape(x)[:-1], 1)
    if draft.opset < 18:
        return draft.call("ReduceMean", x, shape=shape, axes=[-1])
    return draft.call("ReduceMean", x, draft.integers(-1), shape=shape)
