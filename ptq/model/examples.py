"""Example inputs for an export: from the user's data or from `--input`, matched to the arguments of `forward`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from calibration.spec import InputSpec
from ptq.errors import DataError, ModelError, OptionError, suggest

if TYPE_CHECKING:
    from torch import nn

Arrays = Mapping[str, np.ndarray]
FreeAxes = Mapping[str, Mapping[int, str]]
"""The axes of each input whose size is left open, with the names of their sizes."""

ONLY_INPUT = ""
"""The key of data that names no input, such as an .npy file: it means the only one."""

_FREE_SIZE = 64  # large enough for a stack of strided convolutions, small enough for a table of positions
_FIX = "give --data, or --input name:float32[1,3,224,224]"


class Parameter(NamedTuple):
    """An argument of `forward`."""

    name: str
    required: bool


@dataclass(frozen=True)
class Attempt:
    """One way to export: the inputs to trace with, and the axes to leave open."""

    inputs: Arrays
    free: FreeAxes


def parameters(module: nn.Module) -> tuple[Parameter, ...]:
    """The arguments of a module's `forward`, without `*args` and `**kwargs`.

    Raises:
        ModelError: these are all that it takes.

    """
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        forward: Any = module.forward
        return tuple(Parameter(a.name, not a.has_default_value()) for a in forward.schema.arguments[1:])
    named = inspect.signature(module.forward).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    found = tuple(Parameter(p.name, p.default is p.empty) for p in named if p.kind not in variadic)
    if named and not found:
        raise ModelError(
            f"forward of {type(module).__qualname__} takes only *args or **kwargs, so its inputs have no names; "
            f"wrap it in a module whose forward names them"
        )
    return found


def example_inputs(
    arguments: Sequence[Parameter], specs: Sequence[InputSpec], example: Arrays | None
) -> dict[str, np.ndarray]:
    """Arrays for the arguments, in their order.

    Raises:
        OptionError: there is neither data nor `--input`, or `--input` does not fit the arguments.
        DataError: the names in the data are not those of the arguments.

    """
    names = [argument.name for argument in arguments]
    for spec in specs:
        if spec.name not in names:
            raise OptionError(
                f"--input names {spec.name!r}, forward takes {_listed(names)}; {suggest(spec.name, names)}"
            )
    failure: type[OptionError | DataError]
    if example:
        arrays = dict(example)
        if list(arrays) == [ONLY_INPUT]:
            arrays = {_only(arguments): arrays[ONLY_INPUT]}
        origin, failure = "the data", DataError
    elif specs:
        arrays = {spec.name: _zeros(spec) for spec in specs}
        origin, failure = "--input", OptionError
    else:
        raise OptionError(f"the model needs example inputs to be exported, forward takes {_listed(names)}; {_FIX}")
    for name, array in arrays.items():
        if array.dtype.kind not in "fiubc" or array.size == 0:
            raise failure(
                f"{origin} has {name!r} as {array.dtype} of shape {array.shape}; give numbers, at least one sample"
            )
    missing = [a.name for a in arguments if a.required and a.name not in arrays]
    unknown = [name for name in arrays if name not in names]
    if missing or unknown:
        raise failure(
            f"{origin} names {_listed(list(arrays))}, forward takes {_listed(names)}; use the names of forward"
        )
    return {name: arrays[name] for name in names if name in arrays}


def attempts(inputs: Arrays, specs: Sequence[InputSpec]) -> list[Attempt]:
    """The ways to export, the most general first; axes that the user declared free are free in all of them."""
    declared = {spec.name: _declared(spec, inputs[spec.name]) for spec in specs if spec.name in inputs}
    fixed = Attempt(inputs, declared)
    sizes = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    if len(sizes) != 1 or 0 in sizes:
        return [fixed]
    two = {name: array[[0, 1 % len(array)]] for name, array in inputs.items()}  # torch.export keeps a size of 1 fixed
    batch = Attempt(two, {name: {0: "batch", **declared.get(name, {})} for name in inputs})
    tokens = {name for name, array in inputs.items() if _is_tokens(array)}
    if not tokens:
        return [batch, fixed]
    free = {name: {**({1: "seq"} if name in tokens else {}), **axes} for name, axes in batch.free.items()}
    return [Attempt(two, free), batch, fixed] if free != batch.free else [batch, fixed]


def _declared(spec: InputSpec, array: np.ndarray) -> dict[int, str]:
    shape = spec.shape or ()
    if shape and len(shape) != array.ndim:
        raise OptionError(
            f"--input {spec} has {len(shape)} dimensions, the data has shape {array.shape}; make them equal"
        )
    return {axis: d or f"{spec.name}_{axis}" for axis, d in enumerate(shape) if not isinstance(d, int) and axis > 0}


def _is_tokens(array: np.ndarray) -> bool:
    """Whether an input looks like token ids or a mask, `(batch, seq)`."""
    return array.ndim == 2 and array.dtype.kind in "iub" and array.shape[1] > 1


def _zeros(spec: InputSpec) -> np.ndarray:
    if spec.shape is None:
        raise OptionError(f"--input {spec} has no shape; write for example {spec.name}:{spec.dtype}[1,3,224,224]")
    shape = [d if isinstance(d, int) else 2 if axis == 0 else _FREE_SIZE for axis, d in enumerate(spec.shape)]
    kind = np.dtype(spec.dtype).kind
    return np.ones(shape, spec.dtype) if kind in "fc" else np.zeros(shape, spec.dtype)


def _only(arguments: Sequence[Parameter]) -> str:
    required = [a.name for a in arguments if a.required] or [a.name for a in arguments][:1]
    if len(required) != 1:
        raise DataError(
            f"the data is one array without a name, forward takes {_listed(required)}; use an .npz by names"
        )
    return required[0]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "nothing"
