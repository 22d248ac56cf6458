"""Steps of a recipe: names are modules, options that only they read, and data that they need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import ptq.steps
from ptq.errors import OptionError
from ptq.model.graph import Model
from ptq.recipe import STEPS, Recipe
from ptq.recipe.options import readers

STEP = """
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class TwoWords:
    OPTIONS: ClassVar = frozenset({"rounding"})
    when: ClassVar = "before"
    needs_data: ClassVar = True
    rounding: str | None

    @classmethod
    def of(cls, options):
        return cls(**options)

STEP = TwoWords
"""


@pytest.fixture(autouse=True)
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A step that was not there, `two-words`, which reads an option of multipoint's too."""
    (tmp_path / "two_words.py").write_text(STEP)
    monkeypatch.setattr(ptq.steps, "__path__", [*ptq.steps.__path__, str(tmp_path)])
    readers.cache_clear()
    yield
    readers.cache_clear()


def test_a_name_is_a_module_with_other_hyphens() -> None:
    assert "two-words" in STEPS
    assert "two_words" not in STEPS
    assert Recipe.of({"steps": "two-words"}) == Recipe.of({"steps": ["two-words"]})
    with pytest.raises(OptionError, match="unknown --step 'two_words'; did you mean 'two-words'"):
        Recipe(steps=("two_words",))
    with pytest.raises(OptionError, match="names one twice"):
        Recipe(steps=("two-words", "two-words"))


def test_an_option_has_to_be_read_by_what_was_chosen() -> None:
    with pytest.raises(
        OptionError, match=r"--rounding is read by --method .*multipoint.* and --step two-words, not by --method rtn"
    ):
        Recipe(method="rtn", rounding="nearest")
    made = Recipe(method="rtn", rounding="nearest", steps=("two-words",)).made_steps
    assert [(name, step.rounding) for name, step in made] == [("two-words", "nearest")]


def test_a_method_of_a_rule_reads_options_too() -> None:
    rule = {"match": ".", "method": "multipoint"}
    made = Recipe.of({"method": "rtn", "bits": 4.4, "layers": [rule]})
    assert made.at(made.layers[0], has_data=True).bits == 4.4
    with pytest.raises(OptionError, match=r"rule 1 .*: steps is nothing that a rule has"):
        Recipe.of({"layers": [{"match": ".", "steps": ["two-words"]}]})


def test_a_step_that_needs_data_is_refused_without(digits_model: Model) -> None:
    recipe = Recipe(steps=("two-words",))
    with pytest.raises(OptionError, match="--step two-words needs calibration data; give --data"):
        recipe.plan(digits_model.sites, has_data=False)
    assert [name for name, _ in recipe.plan(digits_model.sites, has_data=True).steps] == ["two-words"]
