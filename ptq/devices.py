"""Where layers are solved: methods say nothing of devices, their numbers follow those that they meet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from ptq.cache.encoding import Encoder, decoded
from ptq.errors import OptionError
from ptq.ranks import ranks

CPU: Final = "cpu"
_LOCAL_RANK: Final = "LOCAL_RANK"

T = TypeVar("T")


def device(name: str) -> str:
    """The device of that name; of `cuda`, where several ranks share a machine, one for each of them in turn.

    Raises:
        OptionError: there is none, or torch cannot use it.

    """
    if name == CPU:
        return name
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count()
    if kind != "cuda" or not (number.isdecimal() or name == "cuda"):
        raise OptionError(f"--device {name!r} is not known; give cpu, cuda or cuda:1")
    if not count:
        raise OptionError(
            f"--device {name}: torch {torch.__version__} finds no GPU; install a build for CUDA on a machine that has "
            f"one, or leave it out"
        )
    if number and int(number) >= count:
        raise OptionError(f"--device {name}: there are {count}, counted from 0; give at most cuda:{count - 1}")
    local = int(os.environ.get(_LOCAL_RANK, "0")) if ranks().size > 1 else 0
    return name if number else f"{name}:{local % count}"


class Following(TorchFunctionMode):
    """While this lasts, tensors on the CPU are brought to where the others of a call are.

    A call that changes a tensor in place does so where that is.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Make a call, all tensors of which are on one device."""
        named = dict(kwargs or {})
        places = {each.device for each in tree_leaves((args, named)) if isinstance(each, Tensor)}
        if len(places) > 1:
            changed = named.get("out", args[0] if _changes(func) else None)
            place = next(each for each in places if each.type != CPU) if changed is None else changed.device
            args, named = tree_map(lambda each: each.to(place) if isinstance(each, Tensor) else each, (args, named))
        return func(*args, **named)


def _changes(func: Any) -> bool:
    """Whether a function of a tensor changes it."""
    name: str = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")


def brought(value: T, place: str) -> T:
    """A dataclass whose tensors are on a device."""
    encoder = Encoder()
    tree = encoder.tree(value)
    found: T = decoded(tree, {name: tensor.to(place) for name, tensor in encoder.tensors.items()})
    return found
