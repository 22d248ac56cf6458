"""From whatever the user has, a file or an object in memory, to an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import onnx
import onnx_ir as ir

from calibration.spec import InputSpec
from ptq.errors import ModelError, ModelFileError, OptionError, first_line
from ptq.model.files import Kind, detect
from ptq.model.precision import computed_in, in_float32
from ptq.model.quiet import quiet
from ptq.model.streamed import Streamed
from ptq.model.tensors import base_of
from ptq.model.validity import check_valid, refusal

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    Source = Path | nn.Module | onnx.ModelProto | ExportedProgram


@dataclass(frozen=True)
class CaptureOptions:
    """What the user says about a model beyond the model itself.

    `model` names the callable `package.module:callable` that makes the network of a state dict.
    """

    opset: int = 20
    trust_pickle: bool = False
    model: str | None = None
    inputs: tuple[InputSpec, ...] = ()


def capture(source: Source, options: CaptureOptions, example: Mapping[str, np.ndarray] | None = None) -> ir.Model:
    """The graph of a model, in float32; `example` is a small batch of the user's data by input name.

    Raises:
        ModelFileError: the file holds no model that can be read; UntrustedPickleError when reading it would run code.
        OptionError, DataError: an option or the example does not go with the model.
        ModelError: the model cannot be exported, or float32 does not hold its numbers.

    """
    if isinstance(source, Path):
        return _from_file(source, options, example)
    if isinstance(source, onnx.ModelProto):
        _refuse(options, "an ONNX model", model=True, inputs=True)
        return _from_proto(source, None)
    return _from_torch(source, options, example)


def captured(
    source: Source, options: CaptureOptions, example: Mapping[str, np.ndarray] | None = None
) -> onnx.ModelProto:
    """What `capture` finds as ONNX, which may be captured again and again without an export.

    Raises:
        PtqError: as `capture` does.

    """
    return ir.to_proto(capture(source, options, example))


def is_onnx(source: object) -> TypeGuard[Path | onnx.ModelProto]:
    """Whether a model is an ONNX graph in a file or in memory.

    Raises:
        ModelFileError: a file cannot be read or holds no model.

    """
    return isinstance(source, onnx.ModelProto) or onnx_file(source) is not None


def onnx_file(source: object) -> Path | None:
    """The file of a model that is an ONNX graph in one; None of others.

    Raises:
        ModelFileError: a file cannot be read or holds no model.

    """
    return source if isinstance(source, Path) and detect(source) is Kind.ONNX else None


def _from_file(path: Path, options: CaptureOptions, example: Mapping[str, np.ndarray] | None) -> ir.Model:
    kind = detect(path)
    weights = kind in (Kind.STATE_DICT, Kind.SAFETENSORS)
    if weights and options.model is None:
        raise OptionError(
            f"{path} holds weights without their network; give --model package.module:callable that makes it"
        )
    if kind is Kind.ONNX:
        _refuse(options, f"{path} (ONNX)", model=True, inputs=True)
        return _from_proto(read_proto(path), path)

    from ptq.model import checkpoints, programs

    loaded: Any
    if kind is Kind.EXPORTED_PROGRAM:
        loaded = programs.load_program(path, trusted=options.trust_pickle)
    elif kind is Kind.TORCHSCRIPT:
        loaded = checkpoints.load_script(path, trusted=options.trust_pickle)
    elif weights:
        loaded = checkpoints.load_state(path, safetensors=kind is Kind.SAFETENSORS)
    else:
        loaded = checkpoints.load_pickled(path, trusted=options.trust_pickle)
    if isinstance(loaded, Mapping):
        if options.model is None:
            raise OptionError(f"{path} holds a dictionary, not a module; give --model package.module:callable")
        loaded = checkpoints.with_state(options.model, checkpoints.state_of(loaded, path), path)
        options = CaptureOptions(options.opset, inputs=options.inputs)
    return _from_torch(loaded, options, example, str(path))


def _from_torch(
    source: Any, options: CaptureOptions, example: Mapping[str, np.ndarray] | None, name: str = "the model"
) -> ir.Model:
    import torch

    from ptq.model.export import export_module, export_program

    if isinstance(source, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        source = source.module
    source = getattr(source, "_orig_mod", source)  # what torch.compile wraps
    if isinstance(source, torch.export.ExportedProgram):
        _refuse(options, f"{name} (torch.export program)", model=True, inputs=True)
        return in_float32(export_program(source, options.opset))
    if not isinstance(source, torch.nn.Module):
        kind = type(source).__qualname__
        raise ModelError(f"{name} is {kind}, not a model; give a path, nn.Module, ExportedProgram or onnx.ModelProto")
    _refuse(options, f"{name} (module)", model=True)
    return in_float32(export_module(source, options.inputs, example, options.opset))


def _refuse(options: CaptureOptions, what: str, *, model: bool = False, inputs: bool = False) -> None:
    """An option that nothing would read is an error."""
    if model and options.model is not None:
        raise OptionError(
            f"--model {options.model!r} is for weights without a network, {what} holds its own; leave it out"
        )
    if inputs and options.inputs:
        raise OptionError(f"--input {options.inputs[0]} is for modules, {what} knows its inputs; leave it out")


def read_proto(path: Path) -> onnx.ModelProto:
    """The model in an ONNX file, without weights that lie in others.

    Raises:
        ModelFileError: it cannot be read.

    """
    try:
        return onnx.load(path, format="protobuf", load_external_data=False)
    except Exception as error:  # the parsers of protobuf share no error class
        raise ModelFileError(
            f"{path} is a damaged ONNX model ({first_line(error)}); save or download it again"
        ) from error


def _from_proto(proto: onnx.ModelProto, path: Path | None) -> ir.Model:
    check_valid(proto, path)
    refused = refusal(proto, path)
    base = Path.cwd() if path is None else base_of(proto, path)
    try:
        with quiet():
            model = ir.from_proto(proto)
        model.graph.sort()  # ONNX Runtime takes nodes in any order
    except Exception as error:  # whatever does not fit the standard
        raise refused or ModelFileError(
            f"the ONNX model is not valid ({first_line(error)}); export it again"
        ) from error
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        _stream(graph, base)
    return in_float32(model) if refused is None else _runnable(model, refused, path)


def _runnable(model: ir.Model, refused: ModelError, path: Path | None) -> ir.Model:
    """A model that ONNX Runtime refused as it came, in float32, where it has kernels for more."""
    try:
        with quiet():
            model = in_float32(model)
        runs = computed_in(model) is not None and refusal(ir.to_proto(model), path) is None
    except ModelError:
        raise
    except Exception as error:  # whatever does not fit the standard
        raise refused from error
    if not runs:
        raise refused
    return model


def _stream(graph: ir.Graph, folder: Path) -> None:
    """Let all weights that lie beside a model be read when they are needed."""
    for value in graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = Streamed.of(value.const_value, folder)
    for node in graph:
        for name, held in list(node.attributes.items()):
            if held.type == ir.AttributeType.TENSOR and isinstance(held.value, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, Streamed.of(held.value, folder))
            bodies = [held.value] if held.type == ir.AttributeType.GRAPH else held.value
            for body in bodies if held.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) else ():
                _stream(body, folder)
