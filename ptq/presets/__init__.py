"""The recipes that come with the package: one file of TOML each, of the options of `ptq.recipe.Recipe`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ptq import registry

_FILES: Final = dict(sorted((path.stem, path) for path in Path(__file__).parent.glob("*.toml")))
NAMES: Final = tuple(_FILES)

_OF_GPUS: Final = ("int8", "fp8")
CANDIDATES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({
    "cpu": ("int8", "int8-weights", "int4-gptq", "w4a8", "int4-lm", "int4-awq", "w4a8-multipoint", "w4a8-mixed"),
    "cuda": (*_OF_GPUS, "int4-gptq", "int4-awq"),
    "tensorrt": _OF_GPUS,
})  # fmt: skip
"""What `--method auto` tries for a target, those that take the least time first."""


def text(name: str) -> str:
    """The file of that name.

    Raises:
        OptionError: there is none.

    """
    return registry.get("--recipe", name, _FILES).read_text(encoding="utf-8")


def options(name: str) -> dict[str, Any]:
    """What the file says, its description among it.

    Raises:
        OptionError: there is none of that name.

    """
    return tomllib.loads(text(name))
