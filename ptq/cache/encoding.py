"""Values as JSON and tensors, without pickles: numbers, tensors, containers, and the dataclasses of this project."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from enum import Enum
from importlib import import_module
from types import FunctionType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

_PACKAGES: Final = ("ptq.", "calibration.")


class Encoder:
    """Encodes values; a tensor that occurs more than once is in `tensors` once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}
        self._held: list[Any] = []  # so that no other object gets the identity of one that is known

    def tree(self, value: Any) -> Any:
        """A value as what JSON has, with names for tensors. Of functions and classes only the name, one way.

        Raises:
            TypeError: there is no form for it.

        """
        if value is None or isinstance(value, bool | int | float | str):
            return value
        for kind, types, form in _FORMS:
            if isinstance(value, types):
                return {kind: form(self, value)}
        if dataclasses.is_dataclass(value):
            fields = {field.name: self.tree(getattr(value, field.name)) for field in dataclasses.fields(value)}
            return {"dataclass": [_name(type(value)), fields]}
        raise TypeError(f"there is no encoding of {type(value).__qualname__}")

    def trees(self, values: Any) -> list[Any]:
        """Several of them."""
        return [self.tree(each) for each in values]

    def named(self, value: Tensor | np.ndarray) -> str:
        """The name of a tensor."""
        if id(value) not in self._names:
            self._held.append(value)
            self._names[id(value)] = name = str(len(self.tensors))
            tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.require(value, None, ("C", "W")))
            self.tensors[name] = _alone(tensor.detach().cpu().contiguous())
        return self._names[id(value)]


def _alone(tensor: Tensor) -> Tensor:
    """A tensor that is not a part of a larger one, which would be kept with it."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


_FORMS: Final[tuple[tuple[str, Any, Callable[[Encoder, Any], Any]], ...]] = (
    ("tensor", Tensor, Encoder.named),
    ("array", np.ndarray, Encoder.named),
    ("tuple", tuple, Encoder.trees),
    ("list", list, Encoder.trees),
    ("set", (set, frozenset), lambda encoder, value: encoder.trees(sorted(value))),
    ("map", Mapping, lambda encoder, value: [encoder.trees(pair) for pair in value.items()]),
    ("enum", Enum, lambda _, value: [_name(type(value)), value.name]),
    ("code", (FunctionType, type), lambda _, value: _name(value)),
)
"""The name of each form, what it is of, and how it is made."""


def decoded(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value of a tree.

    Raises:
        ValueError: it names what is no dataclass of this project.

    """
    if not isinstance(tree, dict):
        return tree
    ((kind, held),) = tree.items()
    return _READERS[kind](held, tensors)


def _items(trees: list[Any], tensors: Mapping[str, Tensor]) -> list[Any]:
    return [decoded(each, tensors) for each in trees]


def _instance(held: list[Any], tensors: Mapping[str, Tensor]) -> Any:
    name, fields = held
    return _class(name)(**{field: decoded(value, tensors) for field, value in fields.items()})


_READERS: Final[Mapping[str, Callable[[Any, Mapping[str, Tensor]], Any]]] = {
    "tensor": lambda name, tensors: tensors[name],
    "array": lambda name, tensors: tensors[name].numpy(),
    "tuple": lambda trees, tensors: tuple(_items(trees, tensors)),
    "list": _items,
    "set": lambda trees, tensors: frozenset(_items(trees, tensors)),
    "map": lambda pairs, tensors: dict(_items(pair, tensors) for pair in pairs),
    "enum": lambda held, _: _class(held[0])[held[1]],
    "dataclass": _instance,
}


def _name(value: Any) -> str:
    return f"{value.__module__}:{value.__qualname__}"


def _class(name: str) -> Any:
    module, _, qualified = name.partition(":")
    found = getattr(import_module(module), qualified, None) if module.startswith(_PACKAGES) else None
    if not isinstance(found, type) or not (dataclasses.is_dataclass(found) or issubclass(found, Enum)):
        raise ValueError(f"{name!r} is no dataclass of this project")
    return found


def fingerprint(value: Any) -> str:
    """SHA-256 of a value, to the last bit of its tensors."""
    encoder = Encoder()
    tree = encoder.tree(value)
    found = hashlib.sha256(json.dumps(tree).encode())
    for tensor in encoder.tensors.values():
        found.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
