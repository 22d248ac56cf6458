"""The recipes that come with the package: one file of TOML each, of the options of `ptq.recipe.Recipe`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

from ptq import registry

_FILES: Final = dict(sorted((path.stem, path) for path in Path(__file__).parent.glob("*.toml")))
NAMES: Final = tuple(_FILES)


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
