"""Files of every kind of model, and what is said about those that hold none."""

from __future__ import annotations

import io
import warnings
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors
from tiny_models import Convolutions, Multilayer, matmul_onnx, seeded

from ptq.errors import ModelFileError
from ptq.model.files import Kind, detect


def saved(content: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def program() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(seeded(Multilayer), (torch.zeros(2, 4),)), buffer)
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(seeded(Multilayer), torch.zeros(2, 4)), buffer)
    return buffer.getvalue()


def external_onnx() -> bytes:
    proto = matmul_onnx()
    tensor = proto.graph.initializer[0]
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="weights.bin")
    tensor.ClearField("raw_data")
    return proto.SerializeToString()


@cache
def model_files() -> dict[str, tuple[Kind, bytes]]:
    """A file of every kind, by a name for the test."""
    module = seeded(Convolutions)
    state = module.state_dict()
    legacy = {"_use_new_zipfile_serialization": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, its files are not gone
        scripted = script()
    return {
        "onnx": (Kind.ONNX, matmul_onnx().SerializeToString()),
        "external onnx": (Kind.ONNX, external_onnx()),
        "program": (Kind.EXPORTED_PROGRAM, program()),
        "old program": (
            Kind.EXPORTED_PROGRAM,
            zipped({"serialized_exported_program.json": b"{}", "version": b"8.2"}),
        ),
        "script": (Kind.TORCHSCRIPT, scripted),
        "module": (Kind.PICKLED_MODULE, saved(module)),
        "legacy module": (Kind.PICKLED_MODULE, saved(module, **legacy)),
        "protocol 4 module": (Kind.PICKLED_MODULE, saved(module, pickle_protocol=4)),
        "legacy protocol 4 module": (Kind.PICKLED_MODULE, saved(module, pickle_protocol=4, **legacy)),
        "state": (Kind.STATE_DICT, saved(state)),
        "legacy state": (Kind.STATE_DICT, saved(state, **legacy)),
        "protocol 4 state": (Kind.STATE_DICT, saved(state, pickle_protocol=4)),
        "checkpoint": (
            Kind.STATE_DICT,
            saved({"model": state, "epoch": 3, "loss": 0.5, "note": "x", "best": np.float64(2), "sizes": [(1, 2)]}),
        ),
        "many types": (
            Kind.STATE_DICT,
            saved({f"{t}": torch.zeros(2, dtype=t) for t in (torch.bfloat16, torch.int8, torch.bool, torch.float64)}),
        ),
        "parameters": (Kind.STATE_DICT, saved(dict(module.named_parameters()))),
        "safetensors": (Kind.SAFETENSORS, save_safetensors(state, {"format": "pt"})),
    }


KINDS = [
    *("onnx", "external onnx", "program", "old program", "script", "safetensors"),
    *("module", "legacy module", "protocol 4 module", "legacy protocol 4 module"),
    *("state", "legacy state", "protocol 4 state", "checkpoint", "many types", "parameters"),
]


def refusal(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        detect(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.count(str(path)) == 1
    return message
