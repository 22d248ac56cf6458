"""Turns the layers of a model into ones that train in low bits, and back.

A layer is given a subclass of its own class and stays the same object with the same parameters, hooks and names, so
that optimizers and state dicts do not notice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptq.errors import ModelError, OptionError
from ptq.training import encoders, recipes
from ptq.training.gradients import remembered
from ptq.training.grids import MEMORY, Grid
from ptq.training.products import Convolution, LowBitProduct, Matrix, Product
from ptq.training.recipes import TrainingRecipe

M = TypeVar("M", bound=nn.Module)

_MAXIMUM: Final = "low_bit_running_maximum"
"""The name of the buffer with the remembered maximum of the gradient; it is in no state dict."""

_STEP: Final = "low_bit_step"
"""The name of the buffer with the remembered step of the activation, which evaluation and export take."""

_UNKNOWN: Final = -1.0
"""What buffers hold before the first batch."""


class LowBit(nn.Module):
    """What converted layers have in common."""

    recipe: TrainingRecipe
    low_bit_running_maximum: Tensor
    low_bit_step: Tensor

    def follow(self, recipe: TrainingRecipe) -> None:
        """Compute by a recipe from now on, and remember what it needs."""
        self.recipe = recipe
        device = next(self.parameters()).device
        self.register_buffer(_MAXIMUM, torch.full((), _UNKNOWN, device=device), persistent=False)
        if not isinstance(recipe.activation, Grid):
            self._buffers.pop(_STEP, None)
        elif _STEP not in self._buffers:
            self.register_buffer(_STEP, torch.full((), _UNKNOWN, device=device))
        encoders.watch(self)

    def forget(self) -> None:
        """Leave nothing behind that the plain layer has not."""
        del self._buffers[_MAXIMUM], self.recipe
        self._buffers.pop(_STEP, None)
        self._non_persistent_buffers_set.discard(_MAXIMUM)
        encoders.unwatch(self)

    def extra_repr(self) -> str:
        """That of the plain layer, and the recipe."""
        return f"{super().extra_repr()}, recipe={self.recipe.name}"

    def low_bit(self, x: Tensor, weight: Tensor, bias: Tensor | None, product: Product) -> Tensor:
        """The product with the weight by the recipe, computed in float32 or more; the bias is added as it is.

        It comes in the type that it would have without a recipe.
        """
        if torch.compiler.is_exporting():
            return product(*self._written_out(x, weight), bias)
        kind = x.device.type
        casts = torch.is_autocast_enabled(kind) and x.dtype != torch.float64  # which autocast leaves alone
        result = torch.get_autocast_dtype(kind) if casts else x.dtype
        compute = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
        with torch.autocast(kind, enabled=False):
            x, weight = x.to(compute), weight.to(compute)
            out: Tensor = LowBitProduct.apply(  # type: ignore[no-untyped-call]
                x, weight, product, self.recipe, self.low_bit_running_maximum, self._step(x)
            )
        out = out.to(result)
        return out if bias is None else out + product.aligned(bias.to(result))

    @torch.no_grad()
    def _step(self, x: Tensor) -> Tensor | None:
        """That of the activation: in training of this batch, else the remembered one, where a batch was seen."""
        grid = self.recipe.activation
        if not isinstance(grid, Grid):
            return None
        step = grid.step(x)
        known = self.low_bit_step.to(step)
        if not self.training:
            return torch.where(known < 0, step, known)
        if x.numel():
            self.low_bit_step.copy_(remembered(known, step, MEMORY)[1])
        return step

    def _written_out(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """What `torch.export` sees of the rounding: that of evaluation, in plain operators."""
        rules = self.recipe
        if rules.output is not None or not all(isinstance(r, Grid | None) for r in (rules.weight, rules.activation)):
            raise ModelError(
                f"recipe {rules.name!r} finds its scales anew for every tensor, which no ONNX file does; call "
                f"ptq.training.restore before the export, and choose formats of ptq quantize"
            )
        if isinstance(rules.activation, Grid):
            x = rules.activation.written_out(x, self.low_bit_step.to(x.dtype))
        if isinstance(rules.weight, Grid):
            weight = rules.weight.written_out(weight, rules.weight.step(weight))
        return x, weight

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """A checkpoint of the plain model is one too: what it does not know stays as it is."""
        if _STEP in self._buffers:
            state_dict.setdefault(prefix + _STEP, self.low_bit_step)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class LowBitLinear(LowBit, nn.Linear):
    """`nn.Linear` by a recipe; the bias stays as it is."""

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        return self.low_bit(x, self.weight, self.bias, Matrix())


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
        product = Convolution(self.stride, padding, self.dilation, self.groups)
        out = self.low_bit(batched, self.weight, self.bias, product)
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


def convert(
    model: M,
    recipe: str | TrainingRecipe = "luq",
    layers: Mapping[str, str | TrainingRecipe | None] = MappingProxyType({}),
    *,
    pack: bool = False,
) -> M:
    """The same model, its linear and convolutional layers computing by the recipe from now on.

    All others are left alone. The first and the last layer are those that the model names first and last; unless the
    recipe is for all layers they stay as they are. A model that was converted before gets the new recipe.

    `layers` says otherwise for those whose name a regular expression is found in: a recipe, or None to leave them in
    high precision. Of several that match, the last decides. `pack` sets `TrainingRecipe.pack` of all of them.

    Raises:
        OptionError: there is no such recipe, it cannot be packed, or an expression matches no layer.
        ModelError: the model has no layer to convert.

    """
    found = {n: m for n, m in model.named_modules() if type(m) in LOW_BIT or isinstance(m, LowBit)}
    chosen = _chosen(found, _recipe(recipe), layers)
    if pack:
        chosen = {name: replace(own, pack=True) for name, own in chosen.items()}
    restore(model)
    for name, wanted in chosen.items():
        layer = found[name]
        layer.__class__ = LOW_BIT[type(layer)]
        layer.follow(wanted)
    encoders.keep_padding(model)
    return model


def restore(model: M) -> M:
    """The same model with plain layers, in the precision of its parameters."""
    for layer in low_bit_layers(model).values():
        layer.forget()
        layer.__class__ = _PLAIN[type(layer)]  # type: ignore[assignment]
    encoders.allow_nesting(model)
    return model


def low_bit_layers(model: nn.Module) -> dict[str, LowBit]:
    """The converted layers by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LowBit)}


def _chosen(
    found: Mapping[str, nn.Module], recipe: TrainingRecipe, layers: Mapping[str, str | TrainingRecipe | None]
) -> dict[str, TrainingRecipe]:
    """The recipes of the layers that are converted, by name."""
    names = list(found)
    chosen: dict[str, TrainingRecipe | None] = dict.fromkeys(names if recipe.all_layers else names[1:-1], recipe)
    for pattern, own in layers.items():
        matched = [name for name in names if re.search(pattern, name)]
        if not matched:
            raise OptionError(f"{pattern!r} in layers matches none; the layers are {', '.join(names[:8])}")
        chosen |= dict.fromkeys(matched, None if own is None else _recipe(own))
    wanted = {name: own for name, own in chosen.items() if own is not None}
    if not wanted:
        inner = not (recipe.all_layers or layers)
        what = " between its first and its last" if inner else ""
        fix = "set the recipe's all_layers" if inner else "leave layers out" if layers else "take another model"
        raise ModelError(
            f"recipe {recipe.name!r} needs a Linear or Conv layer{what}, the model has {len(names)} in all; {fix}"
        )
    return wanted


def _recipe(recipe: str | TrainingRecipe) -> TrainingRecipe:
    return recipes.get(recipe) if isinstance(recipe, str) else recipe
