"""Whole numbers of a byte in two or four bits each on disk, where these hold all of a tensor."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

_LEAST: Final = 1 << 12
_TYPES: Final = {torch.int8: np.int8, torch.uint8: np.uint8}
_WIDTHS: Final = (2, 4)
_BYTE: Final = 8


class Packing(NamedTuple):
    """What bytes were packed from: numbers from `low` up, less that, in so many `bits`, of a tensor of a shape."""

    low: int
    bits: int
    signed: bool
    shape: list[int]


def packed(tensor: Tensor) -> tuple[Tensor, Packing | None]:
    """A tensor as bytes that hold several of its numbers; itself where it is small, or no such numbers.

    A byte has one number of each of as many parts of the tensor, so that many are packed at once.
    """
    if tensor.dtype not in _TYPES or tensor.numel() < _LEAST:
        return tensor, None
    flat = tensor.reshape(-1).numpy()
    low, high = int(flat.min()), int(flat.max())
    bits = next((width for width in _WIDTHS if high - low < 1 << width), None)
    if bits is None:
        return tensor, None
    codes = np.zeros((_BYTE // bits, -(-flat.size * bits // _BYTE)), np.uint8)
    np.subtract(flat.view(np.uint8), np.uint8(low % 256), out=codes.reshape(-1)[: flat.size])  # of bytes, modulo 256
    found = codes[0]
    for place, part in enumerate(codes[1:], 1):
        found |= part * np.uint8(1 << place * bits)  # which is faster than a shift
    return torch.from_numpy(found.copy()), Packing(low, bits, tensor.dtype == torch.int8, list(tensor.shape))


def unpacked(tensor: Tensor, how: Packing) -> Tensor:
    """The tensor that was packed."""
    found, places = tensor.numpy(), _BYTE // how.bits
    codes = np.empty((places, found.size), np.uint8)
    for place, part in enumerate(codes):
        np.right_shift(found, place * how.bits, out=part)
    codes &= (1 << how.bits) - 1
    codes += np.uint8(how.low % 256)
    flat = codes.reshape(-1)[: math.prod(how.shape)].view(np.int8 if how.signed else np.uint8)
    return torch.from_numpy(flat).reshape(how.shape)
