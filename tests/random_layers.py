"""The layers of drawn graphs, and what stands behind and between them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from random_drafts import IMAGES, VECTORS, Draft, need, operator


@operator(ranks=IMAGES, times=8)
def conv(draft: Draft, x: str) -> str:
    batch, channels, *sizes = draft.shape(x)
    groups = draft.one_of([1, *(g for g in (channels, 2, 3, 4) if channels % g == 0)])
    out = draft.one_of([groups * k for k in (1, 2, 3, 4, 8, 16) if groups * k <= 32] or [groups])
    kernel = [draft.one_of((1, 2, 3, 4, 5)) for _ in sizes]
    walk, after = _walk(draft, sizes, kernel)
    weight = draft.weight((out, channels // groups, *kernel), 0, channels // groups * math.prod(kernel))
    said = {"group": groups, "kernel_shape": kernel, **walk}
    return draft.call("Conv", x, weight, *_bias(draft, out), shape=(batch, out, *after), **_few(draft, said))


def _few(draft: Draft, attributes: dict[str, Any]) -> dict[str, Any]:
    """Some of them are what goes without saying, and sometimes not said."""
    usual = {"group": 1, "kernel_shape": attributes["kernel_shape"]}
    return {k: v for k, v in attributes.items() if usual.get(k) != v or draft.coin()}


def _bias(draft: Draft, out: int) -> tuple[str, ...]:
    return (draft.vector(out),) if draft.coin() else ()


def _walk(draft: Draft, sizes: list[int], kernel: list[int]) -> tuple[dict[str, Any], list[int]]:
    """Strides, dilations and padding of a window, and how many positions it has; a kernel that is too large is cut."""
    count = len(sizes)
    strides = [draft.one_of((1, 1, 2, 3)) for _ in sizes]
    dilations = [draft.one_of((1, 1, 2)) for _ in sizes]
    mode = draft.one_of(("NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"))
    walk: dict[str, Any] = {"strides": strides, "dilations": dilations}
    if mode.startswith("SAME"):  # which ONNX Runtime does not do with dilations
        return {"strides": strides, "auto_pad": mode}, [-(-n // s) for n, s in zip(sizes, strides, strict=True)]
    pads = [0] * (2 * count)
    if mode == "NOTSET":
        same = [(k - 1) * d // 2 for k, d in zip(kernel, dilations, strict=True)] * 2
        pads = walk["pads"] = same if draft.coin() else [draft.one_of((0, 1, 2)) for _ in pads]
    else:
        walk["auto_pad"] = mode
    wide = [n + pads[k] + pads[k + count] for k, n in enumerate(sizes)]
    kernel[:] = [min(k, (n - 1) // d + 1) for k, n, d in zip(kernel, wide, dilations, strict=True)]
    left = [n - (k - 1) * d - 1 for n, k, d in zip(wide, kernel, dilations, strict=True)]
    return walk, [n // s + 1 for n, s in zip(left, strides, strict=True)]


@operator(ranks=range(3, 5))
def conv_transpose(draft: Draft, x: str) -> str:
    batch, channels, *sizes = draft.shape(x)
    groups = draft.one_of([1, *(g for g in (2, 3) if channels % g == 0)])
    out = groups * draft.one_of((1, 2, 4))
    kernel, strides = ([draft.one_of(values) for _ in sizes] for values in ((1, 2, 3), (1, 2)))
    weight = draft.weight((channels, out // groups, *kernel), 1, channels)
    after = [(n - 1) * s + k for n, s, k in zip(sizes, strides, kernel, strict=True)]
    said = {"strides": strides, "group": groups}
    return draft.call("ConvTranspose", x, weight, *_bias(draft, out), shape=(batch, out, *after), **said)


@operator(ranks=range(2, 3), times=8)
def gemm(draft: Draft, x: str) -> str:
    batch, columns = draft.shape(x)
    out, turned = draft.one_of((1, 2, 3, 4, 5, 8, 16, 32)), draft.coin()
    weight = draft.weight((out, columns) if turned else (columns, out), 0 if turned else 1, columns)
    said: dict[str, Any] = {"transB": 1} if turned else {}
    if draft.often():
        said["alpha"] = 0.5
    if draft.often():
        x, said["transA"] = draft.call("Transpose", x, shape=(columns, batch), perm=[1, 0]), 1
        del draft.shapes[x]  # whose first axis is not the batch, for nothing else to read
    bias: tuple[str, ...] = ()
    if draft.coin():
        bias = (draft.vector(*draft.one_of(((out,), (1, out), (), (1,), (1, 1)))),)
        if draft.often():
            said["beta"] = 2.0
    return draft.call("Gemm", x, weight, *bias, shape=(batch, out), **said)


@operator(ranks=VECTORS, times=3)
def linear(draft: Draft, x: str) -> str:
    *before, columns = draft.shape(x)
    out = draft.one_of((1, 2, 3, 4, 5, 8, 16, 32))
    weight = draft.weight((columns, out), 1, columns)
    made = draft.call("MatMul", x, weight, shape=(*before, out))
    if draft.coin():
        return made
    bias = draft.vector(*draft.one_of(((out,), (1, out), (1, 1, out), (), (1,)))[-len(before) - 1 :])
    order = (made, bias) if draft.coin() else (bias, made)
    return draft.call("Add", *order, shape=(*before, out))


@operator(ranks=range(3, 5))
def constant_times(draft: Draft, x: str) -> str:
    """A product with the weight on the left."""
    *before, rows, columns = draft.shape(x)
    out = draft.one_of((1, 2, 4))
    return draft.call("MatMul", draft.weight((out, rows), 0, rows), x, shape=(*before, out, columns))


@operator(ranks=range(3, 5))
def attend(draft: Draft, x: str) -> str:
    """`softmax(x yᵀ) y`."""
    *before, rows, columns = draft.shape(x)
    y = draft.one_of(draft.alike(x))
    swap = [*range(len(before)), len(before) + 1, len(before)]
    turned = draft.call("Transpose", y, shape=(*before, columns, rows), perm=swap)
    scores = draft.call("MatMul", x, turned, shape=(*before, rows, rows))
    parts = draft.call("Softmax", scores, shape=(*before, rows, rows), axis=-1)
    return draft.call("MatMul", parts, y, shape=(*before, rows, columns))


@operator(times=2)
def again(draft: Draft, x: str) -> str:
    """A layer once more, with the same weights."""
    shape = draft.shape(x)
    same = [node for node in draft.nodes if node.op_type in ("Conv", "Gemm", "MatMul")]
    same = [node for node in same if draft.shapes.get(node.input[0]) == shape and node.input[1] in draft.stored]
    need(same)
    node = draft.one_of(same)
    made = draft.call(node.op_type, x, *node.input[1:], shape=draft.shape(node.output[0]))
    draft.nodes[-1].attribute.extend(node.attribute)
    return made


@operator()
def with_constant(draft: Draft, x: str) -> str:
    """A number, one for each channel of an image or of vectors, or for each position."""
    shape = draft.shape(x)
    spatial = [1] * (len(shape) - 2)
    size = draft.one_of(((), (1,), (shape[1], *spatial), (1, shape[1], *spatial), shape[-1:], shape[1:]))
    pair = [x, draft.vector(*size, low=-1.5, high=1.5)]
    if draft.coin():
        pair.reverse()
    return draft.call(draft.one_of(("Add", "Mul", "Sub")), *pair, shape=shape)


@operator(ranks=range(4, 5))
def squeeze_excite(draft: Draft, x: str) -> str:
    batch, channels, *sizes = draft.shape(x)
    pooled = draft.call("GlobalAveragePool", x, shape=(batch, channels, 1, 1))
    weight = draft.weight((channels, channels, 1, 1), 0, channels)
    scores = draft.call("Conv", pooled, weight, *_bias(draft, channels), shape=(batch, channels, 1, 1))
    gate = draft.call(draft.one_of(("Sigmoid", "HardSigmoid")), scores, shape=(batch, channels, 1, 1))
    return draft.call("Mul", x, gate, shape=(batch, channels, *sizes))


@operator(ranks=IMAGES)
def batch_norm(draft: Draft, x: str) -> str:
    channels = draft.shape(x)[1]
    scale, variance = (draft.vector(channels, low=0.3, high=2) for _ in range(2))
    shift, mean = (draft.vector(channels) for _ in range(2))
    return draft.call("BatchNormalization", x, scale, shift, mean, variance, shape=draft.shape(x))


@operator(opset=17)
def layer_norm(draft: Draft, x: str) -> str:
    size = draft.shape(x)[-1]
    bias = (draft.vector(size),) if draft.coin() else ()
    scale = draft.vector(size, low=0.3, high=2)
    return draft.call("LayerNormalization", x, scale, *bias, shape=draft.shape(x), axis=-1, epsilon=1e-2)


@operator(ranks=IMAGES, times=6)
def block(draft: Draft, x: str) -> str:
    """Convolutions of one position around what there are integer kernels for."""
    y = _pointwise(draft, x, draft.shape(x)[1])
    shape = draft.shape(y)
    kind = draft.one_of(("Add", "Mul", "Concat", "LeakyRelu", "Sigmoid", "HardSwish", "Silu", "AveragePool", "MaxPool"))
    if kind in ("Add", "Mul"):
        y = draft.call(kind, y, draft.one_of([x, _pointwise(draft, x, shape[1])]), shape=shape)
    elif kind == "Concat":
        y = draft.call(kind, y, x, shape=(shape[0], 2 * shape[1], *shape[2:]), axis=1)
    elif kind == "Silu":
        y = draft.call("Mul", y, draft.call("Sigmoid", y, shape=shape), shape=shape)
    elif kind.endswith("Pool"):
        count = len(shape) - 2
        said = {"kernel_shape": [3] * count, "pads": [1] * (2 * count)}
        y = draft.call(kind, y, shape=shape, **said)
    else:
        need(draft.opset >= 14 or kind != "HardSwish")
        y = draft.call(kind, y, shape=shape)
    if draft.coin():
        y = draft.call("Relu", y, shape=draft.shape(y))
    return _pointwise(draft, y, draft.one_of((shape[1], 4)))


def _pointwise(draft: Draft, x: str, out: int) -> str:
    batch, channels, *sizes = draft.shape(x)
    weight = draft.weight((out, channels, *[1] * len(sizes)), 0, channels)
    return draft.call("Conv", x, weight, *_bias(draft, out), shape=(batch, out, *sizes))


def look_up(draft: Draft, ids: str, count: int, rows: int) -> str:
    """Rows of a table; sometimes it is the weight of a product too, as it is or turned."""
    size = draft.one_of((8, 3, 16))
    table = draft.weight((rows, size), 0, size)
    taken = draft.call("Gather", table, ids, shape=(draft.batch, count, size))
    if draft.often():
        turned = draft.store(np.ascontiguousarray(draft.stored[table].T), "weight")
        draft.call("MatMul", taken, turned, shape=(draft.batch, count, rows))
    return taken


LAYERS = ("conv", "gemm", "linear")
"""Those with weights that a graph usually begins with."""
