"""Several recipes, of which the best is to be found: what `--method auto` stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ptq import presets
from ptq.errors import OptionError
from ptq.lowering.target import CPU, TARGETS
from ptq.recipe.files import chosen, read
from ptq.recipe.options import METHODS, choice, typed
from ptq.recipe.recipe import Recipe

AUTO: Final = "auto"


@dataclass(frozen=True)
class Auto:
    """Recipes by name, those that cost least to try first, and why others are none that could be tried."""

    recipes: Mapping[str, Recipe]
    refused: Mapping[str, str]

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Auto:
        """The presets that are tried for a target, all with the options besides.

        Raises:
            OptionError: no preset goes with them.

        """
        target = options.get("target", CPU.name)
        choice("--target", target, TARGETS)
        recipes: dict[str, Recipe] = {}
        refused: dict[str, str] = {}
        for name in presets.CANDIDATES[target]:
            try:
                made = chosen(name, options)
            except OptionError as error:
                refused[name] = str(error).removeprefix(f"{name} with the options given: ")
                continue
            same = next((other for other, recipe in recipes.items() if recipe == made), None)
            if same is None:
                recipes[name] = made
            else:
                refused[name] = f"the same as {same} with the options given"
        if not recipes:
            name, why = next(iter(refused.items()))
            raise OptionError(f"--method {AUTO}: no recipe goes with the options given, {name} as {why}")
        return cls(recipes, refused)


def asked(recipe: str | Path | Mapping[str, Any] | Recipe | None, options: Mapping[str, Any]) -> Recipe | Auto:
    """The recipe of a preset, a file or a mapping with `options` over it, or those that `auto` chooses from.

    Where a file says `method = "auto"`, what it says besides holds for all of them.

    Raises:
        OptionError: there is no such preset or file, or it or an option is wrong.

    """
    said: dict[str, Any] = {}
    if recipe is not None and not isinstance(recipe, Recipe):
        place, said = read(recipe)
        typed(f"{place}: description", said.pop("description", None), "str | None")
    common = {name: value for name, value in said.items() if name != "method"}
    automatic = said.get("method") == AUTO
    if "method" in options:
        choice("--method", options["method"], (*METHODS, AUTO))
    if options.get("method", said.get("method")) != AUTO:
        return chosen(common if automatic else recipe, options)
    if recipe is not None and not automatic:
        raise OptionError(f"--method {AUTO} chooses among recipes, and --recipe names one; leave out one of them")
    return Auto.of({**common, **{name: value for name, value in options.items() if name != "method"}})
