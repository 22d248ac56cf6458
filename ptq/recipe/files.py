"""Recipes in TOML: presets by name, files of the user, and options that override what they say."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptq import presets
from ptq.errors import OptionError
from ptq.recipe.options import typed
from ptq.recipe.recipe import Recipe

_SUFFIX = ".toml"


def chosen(recipe: str | Path | Mapping[str, Any] | Recipe | None, options: Mapping[str, Any]) -> Recipe:
    """The recipe of a preset, a file or a mapping; `options` go over its own, whole values over whole values.

    Raises:
        OptionError: there is no such preset or file, or it or an option is wrong.

    """
    if recipe is None:
        return Recipe.of(options)
    if isinstance(recipe, Recipe):
        return Recipe.of({**recipe.as_options(), **options})
    place, said = read(recipe)
    typed(f"{place}: description", said.pop("description", None), "str | None")
    made = Recipe.of(said, f"{place}: ")
    if "layers" in options:  # rules are counted in what they stand in
        made = Recipe.of({**said, "layers": options["layers"]})
    try:
        return made.but({name: value for name, value in options.items() if name != "layers"})
    except OptionError as error:
        where = "" if str(error).startswith(place) else f"{place} with the options given: "
        raise OptionError(f"{where}{error}") from None


def read(recipe: str | Path | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a recipe is called, and what it says.

    Raises:
        OptionError: there is no such preset or file, or it is no TOML.

    """
    if isinstance(recipe, Mapping):
        return "recipe", dict(recipe)
    if isinstance(recipe, str) and not recipe.endswith(_SUFFIX) and Path(recipe).name == recipe:
        return recipe, presets.options(recipe)
    path = Path(recipe)
    try:
        return path.name, tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = error.strerror or str(error)
        raise OptionError(f"--recipe {path}: {why}; give a file of TOML, or a name of `ptq recipes`") from None
    except UnicodeDecodeError:
        raise OptionError(f"--recipe {path} is no text in UTF-8; give a file of TOML") from None
    except (ValueError, RecursionError) as error:  # some of Python itself, of numbers too long and lists too deep
        raise OptionError(f'--recipe {path} is no TOML: {error}; write for example weights = "int4"') from None
