"""Export torch modules and programs to ONNX graphs with free batch size."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from calibration.spec import InputSpec
from ptq.errors import DataError, ModelError, OptionError, PtqError, first_line
from ptq.model.examples import Arrays, Attempt, attempts, example_inputs, parameters
from ptq.model.precision import in_float32
from ptq.model.quiet import quiet
from ptq.model.session import Session

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

_NEWEST_TORCHSCRIPT_OPSET = 20
_RELATIVE_ERROR, _LAST_DIGITS = 1e-3, 8
"""What an export may differ from its module by: a part of the largest number, or the last digits of half precision."""


def export_module(module: nn.Module, specs: Sequence[InputSpec], example: Arrays | None, opset: int) -> ir.Model:
    """The graph of a module in evaluation mode; the module itself stays as it is.

    Raises:
        OptionError, DataError: the example inputs are missing or do not fit `forward`.
        ModelError: the module cannot be exported.

    """
    import torch

    inputs = example_inputs(parameters(module), specs, example)
    scripted = isinstance(module, torch.jit.ScriptModule)
    names = [p.name for p in parameters(module)]
    if scripted and list(inputs) != names[: len(inputs)]:
        raise DataError(f"TorchScript takes its inputs {names} in order, {list(inputs)} leaves one out; give that too")
    one = _export_script if scripted else _export_traced
    tries = attempts(inputs, specs)
    with _evaluating(module), quiet():
        _try_forward(module, inputs, DataError if example else OptionError)
        for attempt in tries:
            try:
                return one(module, attempt, opset)
            except PtqError:  # of a layer of ours, which says what to do
                raise
            except Exception as error:  # noqa: BLE001 - they share no base class; the last one is reported
                failure = error
    raise ModelError(f"the model cannot be exported to ONNX ({first_line(failure)}); {_HINT}") from failure


def _try_forward(module: nn.Module, inputs: Arrays, failure: type[DataError | OptionError]) -> None:
    """Run the module once, so that inputs that do not fit it are not taken for a failure of the export."""
    import torch

    try:
        with torch.no_grad():
            module(**_tensors(inputs, module))
    except Exception as error:  # whatever the user's forward raises
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in inputs.items())
        raise failure(f"the model fails on {shapes} ({first_line(error)}); check the shapes and dtypes") from error


_HINT = "change its forward so that torch.export.export takes it, or give an ONNX file"


def export_program(program: ExportedProgram, opset: int) -> ir.Model:
    """The graph of a program; one with fixed sizes gets a free batch size where its operators allow it.

    Raises:
        ModelError: the program was exported in training mode, or cannot be exported.

    """
    training = next((node for node in program.graph.nodes if _is_training(node)), None)
    if training is not None:
        raise ModelError(
            f"the program was exported in training mode, as its {training.target} shows; "
            f"call model.eval() before torch.export.export"
        )
    with quiet():
        inputs = None if program.range_constraints else _program_inputs(program)
        for attempt in attempts(inputs, ())[:-1] if inputs else ():
            try:
                return _export_traced(
                    program.module(check_guards=False), attempt, opset, len(program.example_inputs[0])
                )
            except Exception:  # noqa: BLE001, S112 - its sizes are part of it; they stay fixed, as the graph shows
                continue
        try:
            return _to_onnx(program, opset)
        except Exception as error:  # torch's errors share no base class
            raise ModelError(f"the program cannot be exported to ONNX ({first_line(error)}); {_HINT}") from error


def _is_training(node: Any) -> bool:
    """Whether an operator of a program drops at random or normalizes by the batch at hand."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return False
    given = {argument.name: value for argument, value in zip(schema.arguments, node.args, strict=False)} | node.kwargs
    tracked = given.get("running_mean", True) is not None  # BatchNorm without statistics is always by the batch
    return tracked and (given.get("train") is True or given.get("training") is True)


def _program_inputs(program: ExportedProgram) -> dict[str, np.ndarray] | None:
    """The program's own example inputs by name, or None when they are missing or not all tensors."""
    import torch

    if program.example_inputs is None:
        return None
    args, kwargs = program.example_inputs
    names = [p.name for p in parameters(program.module(check_guards=False))]
    inputs = {**dict(zip(names, args, strict=False)), **kwargs}
    if len(inputs) != len(args) + len(kwargs) or not all(isinstance(v, torch.Tensor) for v in inputs.values()):
        return None
    return {name: _array(value) for name, value in inputs.items()}


def _export_traced(module: nn.Module, attempt: Attempt, opset: int, positional: int = 0) -> ir.Model:
    """Export by torch.export; that many of the first inputs are given by position, the others by name."""
    import torch

    dynamic = {
        name: dict.fromkeys(attempt.free.get(name, ()), torch.export.Dim.DYNAMIC) or None for name in attempt.inputs
    }
    tensors = list(_tensors(attempt.inputs, module).items())
    args, kwargs = tuple(tensor for _, tensor in tensors[:positional]), dict(tensors[positional:])
    with torch.no_grad():
        program = torch.export.export(module, args, kwargs, dynamic_shapes=dynamic, strict=False)
        try:
            return _to_onnx(program, opset, attempt)
        finally:
            _forget_sizes(program)


def _forget_sizes(program: ExportedProgram) -> None:
    """Let go of what torch knows of the sizes in a program that is done with, a tenth of a megabyte and more.

    It is held by a circle through C++, which the collection of garbage does not see, and by caches without a bound.
    """
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    for node in program.graph.nodes:
        known = getattr(getattr(node.meta.get("val"), "fake_mode", None), "shape_env", None)
        if known is not None and known.tracked_fakes:
            known.tracked_fakes.clear()
    for method in vars(ShapeEnv).values():
        if hasattr(method, "cache_clear"):
            method.cache_clear()


def _to_onnx(program: ExportedProgram, opset: int, attempt: Attempt | None = None) -> ir.Model:
    import torch

    exported = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False)
    if exported is None:
        raise ModelError("torch.onnx.export returned nothing; update torch")
    model: ir.Model = exported.model
    _name_sizes(model.graph, attempt.free if attempt else {})
    return model


def _export_script(module: nn.Module, attempt: Attempt, opset: int) -> ir.Model:
    """Export TorchScript, which torch.export does not take, and prove on other sizes that its free axes are free."""
    import onnx
    import torch

    names = list(attempt.inputs)
    target = io.BytesIO()
    with torch.no_grad():
        torch.onnx.export(
            module,
            tuple(_tensors(attempt.inputs, module).values()),
            target,  # type: ignore[arg-type]  # a stream is taken too
            dynamo=False,
            opset_version=min(opset, _NEWEST_TORCHSCRIPT_OPSET),
            input_names=names,
            dynamic_axes={name: dict(axes) for name, axes in attempt.free.items()},
            do_constant_folding=False,  # it would rename the weights
        )
    model = in_float32(ir.from_proto(onnx.load_model_from_string(target.getvalue())))
    session = Session(ir.to_proto(model).SerializeToString())
    for inputs in (attempt.inputs, _resized(attempt)):
        _compare(session, module, inputs)
    return model


def _resized(attempt: Attempt) -> dict[str, np.ndarray]:
    """The inputs with three rows, and one element less along the other free axes."""
    resized = {}
    for name, array in attempt.inputs.items():
        for axis in attempt.free.get(name, ()):
            size = array.shape[axis]
            array = np.take(array, np.arange(3) % size if axis == 0 else np.arange(max(size - 1, 1)), axis)  # noqa: PLW2901
        resized[name] = array
    return resized


def _compare(session: Session, module: nn.Module, inputs: Arrays) -> None:
    import torch
    from torch.utils import _pytree as pytree

    tensors = _tensors(inputs, module)
    with torch.no_grad():
        expected = pytree.tree_leaves(module(*tensors.values()))
    feeds = {name: _array(tensors[name]) for name in session.inputs}  # an unread input is not in the graph
    for got, want in zip(session.run(feeds), expected, strict=True):
        reference, kind = _array(want), want.dtype
        relative = max(_RELATIVE_ERROR, _LAST_DIGITS * torch.finfo(kind).eps if kind.is_floating_point else 0)
        limit = relative * max(float(np.abs(reference).max(initial=0)), 1e-6)
        if got.shape != reference.shape or np.abs(got - reference).max(initial=0) > limit:
            raise ModelError("the exported graph does not compute what the TorchScript module does")


def _array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor for NumPy, which has no bfloat16."""
    import torch

    array: np.ndarray = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().cpu().numpy()
    return array


def _tensors(inputs: Arrays, module: nn.Module) -> dict[str, torch.Tensor]:
    import torch

    weights = [*module.parameters(), *module.buffers()]
    device = weights[0].device if weights else None
    floating = next((t.dtype for t in weights if t.is_floating_point()), None)
    return {
        name: torch.tensor(array, device=device, dtype=floating if array.dtype.kind == "f" else None)
        for name, array in inputs.items()
    }


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _name_sizes(graph: ir.Graph, free: Mapping[str, Mapping[int, str]]) -> None:
    """Give the sizes that torch calls s77 the names that the user knows, everywhere in the graph."""
    names: dict[str, str] = {}
    for value in graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size.value is not None and size.value not in names:
                name = free.get(str(value.name), {}).get(axis) or ("batch" if axis == 0 else f"{value.name}_{axis}")
                shared = axis in free.get(str(value.name), ())  # an input that nothing reads has a symbol of its own
                names[size.value] = name if shared or name not in names.values() else f"{value.name}_{axis}"
    values: list[ir.Value] = [*graph.inputs, *(value for node in graph.all_nodes() for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(size, names) for size in value.shape])


def _renamed(size: Any, names: Mapping[str, str]) -> int | str | None:
    if isinstance(size, int):
        return size
    return None if size.value is None else re.sub(r"\w+", lambda word: names.get(word[0], word[0]), size.value)
