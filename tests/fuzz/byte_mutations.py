"""Damage to the bytes of any file."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random

Mutation = Callable[[bytes, Random], bytes]

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


def damaged(data: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """Some damage, once or a few times; `others` are what may be spliced in."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        if others and random.random() < 0.1:
            data = _spliced(data, random, random.choice(others))
        else:
            data = random.choice(_MUTATIONS)(data, random)
    return data


def _place(data: bytes, random: Random) -> int:
    """Anywhere, with more of the beginning and the end, where headers are."""
    last = max(len(data) - 1, 0)
    return random.choice(
        (random.randint(0, last), random.randint(0, min(last, 200)), last - random.randint(0, min(last, 80)))
    )


def _flipped(data: bytes, random: Random) -> bytes:
    at = _place(data, random)
    return data[:at] + bytes(each ^ (1 << random.randrange(8)) for each in data[at : at + 1]) + data[at + 1 :]


def _replaced(data: bytes, random: Random) -> bytes:
    at, count = _place(data, random), random.choice((1, 1, 2, 4, 16))
    return data[:at] + random.randbytes(count) + data[at + count :]


def _cut(data: bytes, random: Random) -> bytes:
    return data[: _place(data, random)]


def _dropped(data: bytes, random: Random) -> bytes:
    at = _place(data, random)
    return data[:at] + data[at + random.choice((1, 2, 8, 64, 512)) :]


def _inserted(data: bytes, random: Random) -> bytes:
    at = _place(data, random)
    return data[:at] + random.randbytes(random.choice((1, 2, 8, 64))) + data[at:]


def _repeated(data: bytes, random: Random) -> bytes:
    at, count = _place(data, random), random.choice((1, 8, 64, 512))
    return data[: at + count] + data[at:]


def _zeroed(data: bytes, random: Random) -> bytes:
    at, count = _place(data, random), random.choice((4, 16, 64, 512))
    return data[:at] + bytes(len(data[at : at + count])) + data[at + count :]


def _numbered(data: bytes, random: Random) -> bytes:
    """A number at the edge of what its type holds."""
    at, (form, size) = _place(data, random), random.choice((("<H", 2), ("<I", 4), ("<Q", 8), (">I", 4)))
    number = random.choice(_NUMBERS) & ((1 << 8 * size) - 1)
    return data[:at] + struct.pack(form, number) + data[at + size :]


def _spliced(data: bytes, random: Random, other: bytes) -> bytes:
    return data[: _place(data, random)] + other[_place(other, random) :]


_MUTATIONS: tuple[Mutation, ...] = (
    *(_flipped, _flipped, _replaced, _replaced, _numbered, _numbered),
    *(_cut, _dropped, _inserted, _repeated, _zeroed),
)
