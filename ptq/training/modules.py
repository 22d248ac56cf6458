"""Turns the layers of a model into ones that train in low bits, and back.

A layer is given a subclass of its own class and stays the same object with the same parameters, hooks and names, so
that optimizers and state dicts do not notice.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptq.errors import ModelError
from ptq.training import recipes
from ptq.training.products import Convolution, LowBitProduct, Matrix, Product
from ptq.training.recipes import TrainingRecipe

M = TypeVar("M", bound=nn.Module)

_RUNNING: Final = "low_bit_running_maximum"
"""The name of the buffer with the remembered maximum of the gradient; it is in no state dict."""


class LowBit(nn.Module):
    """What converted layers have in common."""

    recipe: TrainingRecipe
    low_bit_running_maximum: Tensor

    def extra_repr(self) -> str:
        """That of the plain layer, and the recipe."""
        return f"{super().extra_repr()}, recipe={self.recipe.name}"

    def low_bit(self, x: Tensor, weight: Tensor, product: Product) -> Tensor:
        """The product by the recipe, computed in float32 or more, in the type that it would have without."""
        kind = x.device.type
        casts = torch.is_autocast_enabled(kind) and x.dtype != torch.float64  # which autocast leaves alone
        result = torch.get_autocast_dtype(kind) if casts else x.dtype
        compute = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
        with torch.autocast(kind, enabled=False):
            out: Tensor = LowBitProduct.apply(  # type: ignore[no-untyped-call]
                x.to(compute), weight.to(compute), product, self.recipe, self.low_bit_running_maximum
            )
        return out.to(result)


class LowBitLinear(LowBit, nn.Linear):
    """`nn.Linear` by a recipe; the bias stays as it is."""

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        out = self.low_bit(x, self.weight, Matrix())
        return out if self.bias is None else out + self.bias.to(out.dtype)


class _LowBitConv(LowBit, nn.modules.conv._ConvNd):
    """A convolution by a recipe; the bias stays as it is."""

    def forward(self, x: Tensor) -> Tensor:
        """`([batch,] in, ...)` to `([batch,] out, ...)`."""
        spatial = len(self.kernel_size)
        batched = x if x.dim() == spatial + 2 else x[None]
        padding = self.padding
        if self.padding_mode != "zeros" or isinstance(padding, str):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            batched = functional.pad(batched, self._reversed_padding_repeated_twice, mode)
            padding = (0,) * spatial
        out = self.low_bit(batched, self.weight, Convolution(self.stride, padding, self.dilation, self.groups))
        if self.bias is not None:
            out = out + self.bias.to(out.dtype).view(-1, *[1] * spatial)
        return out if x.dim() == spatial + 2 else out[0]


class LowBitConv1d(_LowBitConv, nn.Conv1d):
    """`nn.Conv1d` by a recipe."""


class LowBitConv2d(_LowBitConv, nn.Conv2d):
    """`nn.Conv2d` by a recipe."""


class LowBitConv3d(_LowBitConv, nn.Conv3d):
    """`nn.Conv3d` by a recipe."""


LOW_BIT: Final[Mapping[type[nn.Module], type[LowBit]]] = MappingProxyType(
    {nn.Linear: LowBitLinear, nn.Conv1d: LowBitConv1d, nn.Conv2d: LowBitConv2d, nn.Conv3d: LowBitConv3d}
)
"""What a layer becomes. Only of exactly these classes: the forward of a subclass may do something else."""

_PLAIN: Final = {low_bit: plain for plain, low_bit in LOW_BIT.items()}


def convert(model: M, recipe: str | TrainingRecipe = "luq") -> M:
    """The same model, its linear and convolutional layers computing by the recipe from now on.

    All others are left alone. The first and the last layer are those that the model names first and last; unless the
    recipe is for all layers they stay as they are. A model that was converted before gets the new recipe.

    Raises:
        OptionError: there is no such recipe.
        ModelError: the model has no layer to convert.

    """
    chosen = recipes.get(recipe) if isinstance(recipe, str) else recipe
    layers = [layer for layer in model.modules() if type(layer) in LOW_BIT or isinstance(layer, LowBit)]
    inner = layers if chosen.all_layers else layers[1:-1]
    if not inner:
        what = "" if chosen.all_layers else " between its first and its last"
        fix = "take another model" if chosen.all_layers else "set the recipe's all_layers"
        raise ModelError(
            f"recipe {chosen.name!r} needs a Linear or Conv layer{what}, the model has {len(layers)} in all; {fix}"
        )
    restore(model)
    for layer in inner:
        layer.__class__ = LOW_BIT[type(layer)]
        unknown = torch.full((), -1.0, device=next(layer.parameters()).device)
        layer.register_buffer(_RUNNING, unknown, persistent=False)
        layer.recipe = chosen  # type: ignore[assignment]
    return model


def restore(model: M) -> M:
    """The same model with plain layers, in the precision of its parameters."""
    for layer in low_bit_layers(model).values():
        delattr(layer, _RUNNING)
        delattr(layer, "recipe")
        layer.__class__ = _PLAIN[type(layer)]  # type: ignore[assignment]
    return model


def low_bit_layers(model: nn.Module) -> dict[str, LowBit]:
    """The converted layers by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LowBit)}
