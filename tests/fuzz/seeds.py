"""Small files of all kinds to begin with, made by code: models with what they are fed, and data for one model."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from graphs import attention, gates, residual, spatial
from model_files import model_files, saved
from odd_graphs import ODD
from PIL import Image
from safetensors.numpy import save as save_safetensors
from small_graphs import network, node, value
from tiny_models import matmul_onnx

Arrays = Mapping[str, np.ndarray]

SAMPLES = 6
IMAGE_OPTIONS = ("--image-size", "5", "--image-mean", "0.5,0.5,0.5", "--image-std", "0.5,0.5,0.5")
_MULTILAYER = {"x": (SAMPLES, 4)}
_CONVOLUTIONS = {"image": (2, 3, 8, 8)}


@dataclass(frozen=True)
class Model:
    """A model file, what it is fed, and the options that it needs."""

    data: bytes
    feeds: Arrays = field(default_factory=dict)
    options: tuple[str, ...] = ()


def onnx_models() -> dict[str, bytes]:
    """Graphs of many kinds."""
    protos = {"product": matmul_onnx(), "residual": residual(), "gates": gates(), "attention": attention()}
    protos |= {"one axis": spatial(1), "recurrent": recurrent(), **{name: make() for name, make in ODD.items()}}
    return {name: proto.SerializeToString() for name, proto in protos.items()}


def recurrent() -> object:
    """An LSTM."""
    weights = {"k": np.ones((1, 12, 4), np.float32) / 8, "r": np.ones((1, 12, 3), np.float32) / 8}
    layer = node("LSTM", ["x", "k", "r"], ["y"], hidden_size=3)
    return network([layer], weights, [value("x", ["t", "n", 4])], [value("y", ["t", 1, "n", 3])])


def torch_models() -> dict[str, Model]:
    """Files that torch and safetensors write."""
    files, made = model_files(), {}
    for name in ("program", "script"):
        made[name] = Model(files[name][1], _noise(_MULTILAYER))
    for name in ("module", "legacy module", "protocol 4 module", "old program"):
        made[name] = Model(files[name][1], _noise(_CONVOLUTIONS))
    for name in ("state", "legacy state", "checkpoint", "safetensors"):
        made[name] = Model(files[name][1], _noise(_CONVOLUTIONS), ("--model", "tiny_models:convolutions"))
    return made


def _noise(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def data_arrays() -> dict[str, np.ndarray]:
    """What the model of `matmul_onnx` is fed, with labels."""
    return {**_noise({"x": (SAMPLES, 4)}), "labels": np.arange(SAMPLES) % 3}


def data_files() -> dict[str, bytes]:
    """The same in every kind of file, and others that are data."""
    arrays = data_arrays()
    x = arrays["x"]
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    ragged = {f"x/{k}": row for k, row in enumerate(x)}
    return {
        "npz": npz(arrays),
        "compressed": npz(arrays, compressed=True),
        "ragged": npz(ragged),
        "npy": npy(x),
        "npy in Fortran order": npy(np.asfortranarray(x)),
        "npy of float64": npy(x.astype(np.float64)),
        "npy of the other order": npy(x.astype(">f4")),
        "pt": saved(tensors),
        "tensor": saved(tensors["x"]),
        "legacy pt": saved(tensors, _use_new_zipfile_serialization=False),
        "safetensors": save_safetensors(arrays),
    }


def npz(arrays: Arrays, *, compressed: bool = False) -> bytes:
    """An archive of arrays."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    """One array."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def images() -> dict[str, bytes]:
    """Images of every kind, by the ends of their names."""
    found = {}
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    for suffix in ("png", "jpg", "bmp", "gif", "tiff", "webp"):
        buffer = io.BytesIO()
        kind = {"jpg": "JPEG"}.get(suffix, suffix.upper())
        Image.fromarray(pixels).save(buffer, kind)
        found[suffix] = buffer.getvalue()
    return found


def image_model() -> bytes:
    """A convolution over images of 5 x 5 pixels."""
    weights = {"k": np.ones((2, 3, 3, 3), np.float32) / 9}
    layer = node("Conv", ["x", "k"], ["y"])
    return network([layer], weights, [value("x", ["n", 3, 5, 5])], [value("y", ["n", 2, 3, 3])]).SerializeToString()
