"""Changes to the weights of ONNX models: their numbers, shapes, and where they are stored."""

from __future__ import annotations

import struct
from random import Random

from onnx import ModelProto, TensorProto

SIZES = (-1, 0, 1, 2, 3, 7, 64, 1 << 20, 10**9, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, -(1 << 63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-42, -1e-45, 1e-30, 1e30, 3.4e38, -3.4e38, float("inf"), float("-inf"), float("nan"))


def some_tensor(model: ModelProto, random: Random) -> TensorProto:
    found = list(model.graph.initializer)
    found += [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    return random.choice(found) if found else TensorProto()


def _change_dims(model: ModelProto, random: Random) -> None:
    dims = some_tensor(model, random).dims
    kind = random.randrange(4)
    if kind == 0 or not dims:
        dims.append(random.choice(SIZES))
    elif kind == 1:
        del dims[random.randrange(len(dims))]
    elif kind == 2:
        dims[:] = list(dims)[::-1]
    else:
        dims[random.randrange(len(dims))] = random.choice(SIZES)


def _reshape_weight(model: ModelProto, random: Random) -> None:
    """Another shape for as many numbers."""
    dims = some_tensor(model, random).dims
    if dims:
        sizes = list(dims)
        random.shuffle(sizes)
        dims[:] = [*sizes, 1] if random.random() < 0.5 else sizes


def _change_numbers(model: ModelProto, random: Random) -> None:
    tensor = some_tensor(model, random)
    form, size = {TensorProto.INT64: ("<q", 8), TensorProto.INT32: ("<i", 4)}.get(tensor.data_type, ("<f", 4))
    number = random.choice(FLOATS if form == "<f" else SIZES)
    if form == "<i":
        number = max(min(int(number), (1 << 31) - 1), -(1 << 31))
    data, one = bytearray(tensor.raw_data), struct.pack(form, number)
    count = len(data) // size
    for at in range(count) if random.random() < 0.3 else [random.randrange(count)] if count else []:
        data[at * size : at * size + size] = one
    if data:
        tensor.raw_data = bytes(data)


def _cut_numbers(model: ModelProto, random: Random) -> None:
    tensor = some_tensor(model, random)
    kept = random.randint(0, len(tensor.raw_data))
    tensor.raw_data = tensor.raw_data[:kept] + random.randbytes(random.choice((0, 0, 1, 9)))


def _make_external(model: ModelProto, random: Random) -> None:
    tensor = some_tensor(model, random)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    location = random.choice(("/etc/passwd", "../model", "model", "x.npz", "", "a/../../b", "C:\\x", "n" * 400, "."))
    tensor.external_data.add(key="location", value=location)
    for key in ("offset", "length"):
        tensor.external_data.add(key=key, value=random.choice(("0", "48", "-1", "1e9", "", str(1 << 62), "9" * 50)))


def _drop_weight(model: ModelProto, random: Random) -> None:
    stored = model.graph.initializer
    if stored:
        del stored[random.randrange(len(stored))]


def _repeat_weight(model: ModelProto, random: Random) -> None:
    stored = model.graph.initializer
    if stored:
        stored.append(random.choice(stored))


WEIGHT_CHANGES = (
    *(_change_dims, _reshape_weight, _reshape_weight, _change_numbers, _change_numbers, _change_numbers),
    *(_cut_numbers, _make_external, _drop_weight, _repeat_weight),
)
