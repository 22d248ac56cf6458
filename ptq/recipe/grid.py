"""A grid of recipes, of several methods at several sizes, and the words that ask for each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from ptq.errors import OptionError
from ptq.recipe.options import METHODS, choice
from ptq.recipe.recipe import Recipe

_MOST_POINTS: Final = 1000
_FORM: Final = "give numbers with commas, or first:last:step, such as 3:5:0.25"


@dataclass(frozen=True)
class GridPoint:
    """One recipe of a grid by a name that a file may have."""

    name: str
    recipe: Recipe


def grid(
    methods: Sequence[str], bits: Sequence[float], options: Mapping[str, Any]
) -> tuple[list[GridPoint], dict[str, str]]:
    """Each method at each number of bits per weight, and those that cannot be, with the reason.

    A method that gives all layers one format has, of each whole number of bits, the integer that wide; with `weights`
    among the options, that alone.

    Raises:
        OptionError: there is no such method, or nothing is left.

    """
    for method in methods:
        choice("--methods", method, METHODS)
    found, refused = dict[str, GridPoint](), dict[str, str]()
    for method in dict.fromkeys(methods):
        for name, said in _sizes(method, dict.fromkeys(bits), options):
            try:
                found[name] = GridPoint(name, Recipe.of({**options, **said, "method": method}))
            except OptionError as error:
                refused[name] = str(error)
    if not found:
        why = next(iter(refused.values()), "these methods take whole numbers of bits alone")
        raise OptionError(f"no point of the grid is left: {why}")
    return list(found.values()), refused


def _sizes(method: str, bits: Mapping[float, None], options: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of points, and what each says of its size."""
    weights = options.get("weights")
    if "bits" in METHODS[method].METHOD.OPTIONS:
        yield from ((f"{method}-{weights + '-' if weights else ''}{each:g}", {"bits": each}) for each in bits)
    elif weights:
        yield f"{method}-{weights}", {}
    else:
        yield from ((f"{method}-int{each:g}", {"weights": f"int{each:g}"}) for each in bits if float(each).is_integer())


def parse_bits(text: str) -> tuple[float, ...]:
    """Numbers of bits: `3,4.25,8`, and `3:5:0.25` for those from 3 up to 5.

    Raises:
        OptionError: it is not written so.

    """
    return tuple(each for part in text.split(",") for each in _range(text, part))


def _range(text: str, part: str) -> list[float]:
    try:
        numbers = [float(each) for each in part.split(":")]
    except ValueError:
        raise OptionError(f"--bits {text!r} is not numbers; {_FORM}") from None
    if len(numbers) == 1 and math.isfinite(numbers[0]):
        return numbers
    first, last, step = numbers if len(numbers) == 3 else (0.0, 0.0, 0.0)
    count = (last - first) / step + 1 + 1e-9 if step else math.nan
    if not 1 <= count <= _MOST_POINTS:
        raise OptionError(f"--bits {text!r} is no range of up to {_MOST_POINTS} numbers; {_FORM}")
    return [first + step * each for each in range(int(count))]


def words(recipe: Recipe) -> list[str]:
    """The options of a command line that say a recipe without rules."""
    usual, found = Recipe(), list[str]()
    for each in fields(Recipe):
        value, name = getattr(recipe, each.name), f"--{each.name.replace('_', '-')}"
        if each.name == "layers" or value == getattr(usual, each.name):
            continue
        if value is True:
            found.append(name)
        elif each.name == "among":
            found += [name, ",".join(value)]
        else:
            found += [word for one in _each(value) for word in (name.replace("--steps", "--step"), one)]
    return found


def _each(value: Any) -> Iterator[str]:
    values = value if isinstance(value, tuple) else (value,)
    yield from (f"{each:g}" if isinstance(each, float) else str(each) for each in values)
