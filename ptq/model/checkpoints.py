"""Modules from files: TorchScript, pickled modules, and weights that a callable of the user gives a network."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptq.errors import ModelFileError, OptionError, UntrustedPickleError, first_line
from ptq.imports import imported, importing_from_here
from ptq.model import pickles
from ptq.model.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn

_STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "weights")
_PARALLEL = "module."
_SHOWN = 3
_OUTWARD = re.compile(rb"\b(save|from_file|load_tensor|rpc_(a?sync|remote))\b")
"""Of the operators that TorchScript has, those that read or write files by name, or call other processes."""

_MUCH_BYTES, _MOST_TIMES = 1 << 30, 200
"""What a tensor may come to, whatever the file holds of it, and how many times that."""

_STEP = ".low_bit_step"
"""How the name of a buffer ends that `ptq.training.convert` gives layers."""


def load_script(path: Path, *, trusted: bool) -> nn.Module:
    """The TorchScript module in a file; its code runs in torch's interpreter, which has operators for files.

    Raises:
        UntrustedPickleError: the code may read or write files, or call others, and the file is not trusted.
        ModelFileError: the file is damaged.

    """
    import torch

    outward = None if trusted else _reaching_out(path)
    if outward is not None:
        raise UntrustedPickleError(
            f"{path} holds TorchScript whose code reaches out of the model ({outward}), and running it would do so; "
            f"export the model again, or give --trust-pickle if you made the file"
        )
    try:
        with quiet():
            module: nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # any, by what is damaged
        raise ModelFileError(
            f"{path} holds TorchScript that cannot be read ({first_line(error)}); save it again"
        ) from error
    check_held({**module.state_dict(), **dict(module.named_buffers())}, path)
    return module


def check_held(tensors: Mapping[str, Any], path: Path) -> None:
    """Refuse tensors that repeat the few numbers that a file holds of them until no memory has room for them.

    Raises:
        ModelFileError: there is one.

    """
    import torch

    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            continue
        claimed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if claimed > max(_MUCH_BYTES, _MOST_TIMES * held):
            raise ModelFileError(
                f"{path} holds {held:,} bytes of {name!r}, whose shape {list(tensor.shape)} takes "
                f"{claimed / 1e9:.1f} GB; save it as small as it is"
            )


def _reaching_out(path: Path) -> str | None:
    """The first name in the code of an archive that is one of an operator for files or other processes."""
    try:
        with zipfile.ZipFile(path) as archive:
            code = (archive.read(member) for member in archive.namelist() if member.endswith(".py"))
            found = next(filter(None, map(_OUTWARD.search, code)), None)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelFileError(
            f"{path} holds TorchScript that cannot be read ({first_line(error)}); save it again"
        ) from error
    return None if found is None else found[0].decode()


def load_pickled(path: Path, *, trusted: bool) -> Any:
    """The object in a file of `torch.save`, which runs the code that the file names.

    Raises:
        UntrustedPickleError: the user did not say that the file is trusted.
        ModelFileError: a class is not importable, or the file is damaged.

    """
    import torch

    if not trusted:
        names = ", ".join(_code(path)[:_SHOWN])
        raise UntrustedPickleError(
            f"{path} is a pickled object ({names}), and loading a pickle can run any code; "
            f"save the model with torch.export.save, or give --trust-pickle if you made the file"
        )
    try:
        with quiet(), importing_from_here(), path.open("rb") as stream:  # torch.load goes by the name of a path
            return torch.load(stream, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        raise ModelFileError(
            f"{path} needs code that cannot be imported ({first_line(error)}); "
            f"install its package, or run where its module can be imported"
        ) from error
    except Exception as error:  # a pickle can raise anything
        raise ModelFileError(f"{path} cannot be unpickled ({first_line(error)}); save it again") from error


def load_state(path: Path, *, safetensors: bool) -> dict[str, Tensor]:
    """The weights in a file, by name; nothing but tensors is loaded.

    Raises:
        ModelFileError: the file is damaged, or holds no weights or more than one set.

    """
    import torch
    from safetensors.torch import load_file

    try:
        with quiet(), path.open("rb") as stream:
            content = load_file(path) if safetensors else torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # any, by what is damaged
        raise ModelFileError(
            f"{path} holds weights that cannot be read ({first_line(error)}); save it again"
        ) from error
    return state_of(content, path)


def state_of(content: Any, path: Path) -> dict[str, Tensor]:
    """The weights in what a checkpoint holds: itself, or the one entry that is a dictionary of tensors."""
    if _is_state(content):
        return _without_parallel(content)
    nested = {key: value for key, value in content.items() if _is_state(value)} if isinstance(content, Mapping) else {}
    key = next((key for key in _STATE_KEYS if key in nested), None)
    if key is None and len(nested) != 1:
        found = f"{len(nested)} sets of them ({', '.join(map(repr, nested))})" if nested else type(content).__name__
        raise ModelFileError(f"{path} holds no dictionary of weights by name but {found}; save model.state_dict()")
    return _without_parallel(nested[key] if key is not None else next(iter(nested.values())))


def with_state(specification: str, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The network that a callable `package.module:callable` makes, holding the weights of a file.

    Raises:
        OptionError: the specification does not lead to a callable that makes an nn.Module.
        ModelFileError: the weights are not those of the network.

    """
    module = _built(specification)
    try:
        missing, unexpected = module.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:  # the shapes differ: torch lists them after a headline
        lines = str(error).splitlines()
        raise ModelFileError(
            f"the weights in {path} do not fit {specification}: {' '.join(lines[-1].split())[:200]}; "
            f"make the network as it was when they were saved"
        ) from error
    missing = _untied(module, missing, state)
    if missing or unexpected:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
            for what, names in (("missing", missing), ("unexpected", list(unexpected)))
            if names
        ]
        converted = any(name.endswith(_STEP) for name in unexpected)
        fix = "let it call ptq.training.convert as" if converted else "make the network as it was"
        raise ModelFileError(
            f"the weights in {path} do not fit {specification}: {' and '.join(parts)}; {fix} when they were saved"
        )
    return module


def _built(specification: str) -> nn.Module:
    import torch

    with importing_from_here():
        make = imported("--model", specification)
        try:
            module = make()
        except Exception as error:  # the user's callable may raise anything
            raise OptionError(
                f"--model {specification!r} fails when called ({first_line(error)}); it is called without arguments"
            ) from error
    if not isinstance(module, torch.nn.Module):
        raise OptionError(f"--model {specification!r} returns {type(module).__name__}; it has to return an nn.Module")
    return module


def _untied(module: nn.Module, missing: list[str], state: Mapping[str, Tensor]) -> list[str]:
    """Those of the missing names that share no memory with one that is there: safetensors saves tied weights once."""
    own = module.state_dict()
    present = {tensor.data_ptr() for name, tensor in own.items() if name in state and tensor.numel()}
    return [name for name in missing if own[name].data_ptr() not in present]


def _is_state(content: Any) -> bool:
    import torch

    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items())
    )


def _without_parallel(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without the prefix that nn.DataParallel puts before all names."""
    if all(name.startswith(_PARALLEL) for name in state):
        return {name.removeprefix(_PARALLEL): tensor for name, tensor in state.items()}
    return dict(state)


def _code(path: Path) -> list[str]:
    """What a pickled file would import, for the message."""
    with path.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            stream.seek(0)
            return pickles.code(pickles.legacy_imports(stream, str(path)))
        with zipfile.ZipFile(stream) as archive:
            member = next(name for name in archive.namelist() if name.partition("/")[2] == "data.pkl")
            with archive.open(member) as pickle:
                return pickles.code(pickles.imports(pickle, str(path)))
