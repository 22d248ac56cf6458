"""What to do, as a user says it, and what that means for each site of a model."""

from __future__ import annotations

from ptq.recipe.auto import AUTO, Auto, asked
from ptq.recipe.files import chosen
from ptq.recipe.options import ACTIVATIONS, METHODS, MINMAX, NONE, STEPS, UINT8
from ptq.recipe.plan import Decision, Plan
from ptq.recipe.recipe import Recipe
from ptq.recipe.rules import Rule

__all__ = [
    "ACTIVATIONS",
    "AUTO",
    "METHODS",
    "MINMAX",
    "NONE",
    "STEPS",
    "UINT8",
    "Auto",
    "Decision",
    "Plan",
    "Recipe",
    "Rule",
    "asked",
    "chosen",
]
