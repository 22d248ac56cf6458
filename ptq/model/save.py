"""A graph as the bytes of a file."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from ptq.errors import ModelError, first_line
from ptq.model.graph import Model

_LARGEST = (1 << 31) - 1


def serialized(model: Model) -> bytes:
    """The bytes of an ONNX file: the same for the same graph.

    Raises:
        ModelError: one file does not hold so much.

    """
    try:
        proto = ir.to_proto(model.graph)
        stored = {tensor.name for tensor in proto.graph.initializer}
        told = [value for value in proto.graph.value_info if value.name not in stored]  # initializers have types
        del proto.graph.value_info[:]
        proto.graph.value_info.extend(told)
        if proto.ByteSize() > _LARGEST:
            raise ValueError
        content: bytes = proto.SerializeToString(deterministic=True)
    except ValueError as error:
        raise ModelError(
            "the model is larger than the 2 GB that one ONNX file holds, which is not supported yet; "
            "quantize a smaller part of it"
        ) from error
    return content


def parsed(content: bytes) -> onnx.ModelProto:
    """The model in the bytes of a file."""
    model = onnx.ModelProto()
    model.ParseFromString(content)
    return model


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a file.

    Raises:
        ModelError: it is no ONNX file.

    """
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except Exception as error:  # protobuf's errors share no base class with those of the system
        raise ModelError(f"{path} is no ONNX file ({first_line(error)}); give another") from error
    return {entry.key: entry.value for entry in model.metadata_props}
