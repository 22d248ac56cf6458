"""FNT: after training in low bits, some steps in high precision but for the weights (arXiv:2112.10769)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ptq.errors import OptionError
from ptq.training.modules import low_bit_layers


def triangular(step: int, steps: int, start: float, peak: float) -> float:
    """The learning rate: from `start` up to `peak` over half of the steps, and down again as fast.

    Equation 17 as printed lacks the step; this is what the text around it says.
    """
    height = max(0.0, 1 - abs(2 * step / steps - 1))
    return start + (peak - start) * height


class Triangular(LRScheduler):
    """`triangular` from the learning rate that each group of the optimizer has, where it stays after `steps`."""

    def __init__(self, optimizer: Optimizer, *, steps: int, peak: float = 1e-3) -> None:
        if steps < 1:
            raise OptionError(f"steps must be 1 or more, got {steps}; leave the fine-tuning out instead")
        self.steps, self.peak = steps, peak
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]  # that of an earlier scheduler would be kept
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Of each group, at the present step."""
        return [triangular(self.last_epoch, self.steps, float(base), self.peak) for base in self.base_lrs]


def finetune(model: nn.Module, optimizer: Optimizer, *, steps: int, peak: float = 1e-3) -> Triangular:
    """Let the low-bit layers of a model round nothing but their weights, and return the schedule for what follows.

    It begins and ends with the learning rate that the optimizer has. The paper does not give its `peak`.

    Raises:
        OptionError: the model has no low-bit layers, or there are no steps.

    """
    layers = low_bit_layers(model)
    if not layers:
        raise OptionError("the model has no low-bit layers; call convert first")
    schedule = Triangular(optimizer, steps=steps, peak=peak)
    for layer in layers.values():
        name = f"{layer.recipe.name.removesuffix('-fnt')}-fnt"
        weights_only = replace(layer.recipe, name=name, activation=None, output=None, gradient=None, product=None)
        layer.follow(weights_only)
    return schedule
