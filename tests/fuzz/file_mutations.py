"""Changes to archives, headers and arrays that leave them readable up to what was changed."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from random import Random

import numpy as np
from byte_mutations import damaged
from seeds import npz

_SIZES = (-1, 0, 1, 3, 5, 6, 7, 10**9, 1 << 32, (1 << 63) - 1)
_DTYPES = ("<f4", "<f8", "<f2", ">f4", "|O", "<c8", "|b1", "<i8", "|S7", "<U3", "|V8", "nothing", "<M8[s]", "|i1")
_SAFE_DTYPES = ("F32", "F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "U8", "X", "")
_NAMES = ("x", "y", "", "labels", "x/0", "x/1", "../x", "/x", "a" * 300, "\x1b[31m", "ä\n")


class Bomb:
    """Unpickling it is found out: it ends the process as nothing else does."""

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os._exit, (99,)


def changed_archive(data: bytes, random: Random) -> bytes:
    """A zip archive with other members; what is no archive is damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except zipfile.BadZipFile:
        return damaged(data, random)
    at, kind = random.randrange(len(members)), random.randrange(8)
    name, content = members[at]
    if kind == 0:
        del members[at]
    elif kind == 1:
        members.append(random.choice(members))
    elif kind == 2:
        members[at] = (f"{name.rpartition('/')[0]}/{random.choice(_NAMES)}.npy", content)
    elif kind == 3:
        members[at] = (name, random.choice(members)[1])
    elif kind == 4:
        members[at] = (name, content + bytes(random.choice((1, 1000, 1 << 26))))
    elif kind == 5 and name.endswith(".npy"):
        members[at] = (name, changed_npy(content, random))
    else:
        members[at] = (name, damaged(content, random))
    buffer = io.BytesIO()
    way = zipfile.ZIP_DEFLATED if kind == 4 or random.random() < 0.2 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", way) as archive:
        warnings.simplefilter("ignore")  # names that are there twice
        for name, content in members:
            archive.writestr(name or "_", content)
    return buffer.getvalue()


def changed_npy(data: bytes, random: Random) -> bytes:
    """An array with another header."""
    size = struct.unpack("<H", data[8:10])[0] if data.startswith(b"\x93NUMPY\x01") else 0
    text = data[10 : 10 + size].decode("latin-1")
    if not text:
        return damaged(data, random)
    kind = random.randrange(5)
    if kind == 0:
        text = text.replace("<f4", random.choice(_DTYPES))
    elif kind == 1:
        shape = tuple(random.choice(_SIZES) for _ in range(random.randrange(7)))
        text = text[: text.index("'shape'")] + f"'shape': {shape}, }}"
    elif kind == 2:
        text = text.replace("False", random.choice(("True", "None", "1", "open('x')")))
    elif kind == 3:
        text = text.replace("'shape'", random.choice(("'size'", "'descr'", "1", "'shape': (1,), 'shape'")))
    else:
        text = damaged(text.encode("latin-1"), random).decode("latin-1")
    header = f"{text.strip()}\n".encode("latin-1")
    return data[:8] + struct.pack("<H", len(header) & 0xFFFF) + header + data[10 + size :]


def changed_safetensors(data: bytes, random: Random) -> bytes:
    """Tensors with another header."""
    try:
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        name = random.choice([key for key in header if key != "__metadata__"])
    except (ValueError, struct.error, IndexError):
        return damaged(data, random)
    entry, kind = header[name], random.randrange(7)
    if kind == 0:
        entry["dtype"] = random.choice(_SAFE_DTYPES)
    elif kind == 1:
        entry["shape"] = [random.choice(_SIZES) for _ in range(random.randrange(5))]
    elif kind == 2:
        entry["data_offsets"][random.randrange(2)] = random.choice(_SIZES)
    elif kind == 3:
        header[random.choice(_NAMES)] = entry
    elif kind == 4:
        del header[name]
    elif kind == 5:
        header[random.choice((name, "__metadata__"))] = random.choice((None, [], 3, {"a": 1}, {"a": "b"}, "text"))
    else:
        entry.pop(random.choice(list(entry)))
    text = json.dumps(header).encode()
    text = text if kind else text.replace(b"]", b"]" * random.choice((1, 1, 50_000)))
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def changed_arrays(arrays: dict[str, np.ndarray], random: Random) -> bytes:
    """An .npz of arrays that are other numbers, types, shapes or names."""
    made: dict[str, np.ndarray] = {name: np.array(array) for name, array in arrays.items()}
    name = random.choice(list(made))
    array, kind = made[name], random.randrange(9)
    numbers = (np.nan, np.inf, -np.inf, 3e38, 1e-45, 0.0, 1e300, -1.0, 2.0**40)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == 0:
            spots = array.astype(np.float64)
            spots[random.randrange(len(array))] = random.choice(numbers)
            made[name] = spots.astype(random.choice((np.float32, np.float64, array.dtype)))
        elif kind == 1:
            made[name] = np.full_like(array, random.choice(numbers))
        elif kind == 2:
            made[name] = array.astype(
                random.choice(("f2", "f8", "i4", "i1", "u8", "?", "c8", "S3", "U2", ">f4", "M8[s]"))
            )
        elif kind == 3:
            shapes = ((), (0,), (0, 4), (1,), (24,), (4, 6), (6, 4, 1, 1, 1, 1), (6, 0), (1, 24), (3, 2, 4))
            made[name] = np.resize(array, random.choice(shapes))
        elif kind == 4:
            made[random.choice(_NAMES) or "n"] = made.pop(name)
        elif kind == 5:
            del made[name]
        elif kind == 6:
            made[name] = array[: random.randrange(len(array))]
        elif kind == 7:
            made[name] = np.array([Bomb()] * len(array), object)
        else:
            made[random.choice(_NAMES) or "n"] = array[::-1]
        return npz(made, compressed=random.random() < 0.3)


def bomb(random: Random) -> bytes:
    """A pickle that does harm, as data or a model may be."""
    return pickle.dumps({"x": Bomb()}, random.choice((0, 2, 4, 5)))
