"""Training in low-bit formats: LUQ (arXiv:2112.10769), S2FP8 (arXiv:2001.05674) and what they are compared with.

model = training.convert(model, recipe="luq")
...                                             # any loop, any optimizer
schedule = training.finetune(model, optimizer, steps=1000)
...
model = training.restore(model)
"""

from ptq.training.modules import convert, low_bit_layers, restore
from ptq.training.recipes import RECIPES, TrainingRecipe
from ptq.training.schedule import Triangular, finetune

__all__ = ["RECIPES", "TrainingRecipe", "Triangular", "convert", "finetune", "low_bit_layers", "restore"]
