"""Names that a user writes: a name is a module of a package, or an entry of a table."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TypeVar

from ptq.errors import OptionError, suggest

T = TypeVar("T")


class Modules(Mapping[str, ModuleType]):
    """The public modules of a package by name; listing them imports none, looking one up imports that one.

    A `-` in a name is `_` in its module.
    """

    def __init__(self, package: str) -> None:
        self._package = package

    def __getitem__(self, name: str) -> ModuleType:
        if name not in self._names():
            raise KeyError(name)
        return importlib.import_module(f"{self._package}.{name.replace('-', '_')}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> list[str]:
        path = importlib.import_module(self._package).__path__
        names = (found.name for found in pkgutil.iter_modules(path) if not found.name.startswith("_"))
        return sorted(name.replace("_", "-") for name in names)


def get(kind: str, name: str, known: Mapping[str, T]) -> T:
    """The entry of that name; `kind` says in the message what it would be.

    Raises:
        OptionError: there is none.

    """
    if name not in known:
        raise OptionError(f"unknown {kind} {name!r}; {suggest(name, known)}")
    return known[name]
