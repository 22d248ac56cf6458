"""The products of a layer, forward and backward, and what is rounded around them while it trains.

    forward   y  = Q(x) Q(w)           backward   dx = Q(dy) Q(w),   dw = Q(dy) Q(x)

with the rounded tensors of the forward pass once more in the backward pass (arXiv:2112.10769).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ptq.training.gradients import Aligned, largest_magnitude, remembered
from ptq.training.grids import Grid
from ptq.training.packing import Layout, Packed, packing
from ptq.training.recipes import Rule, TrainingRecipe


class Product(Protocol):
    """A bilinear map of an input and a weight, and its two derivatives."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The output, with a bias `(out,)` for every channel."""

    def aligned(self, bias: Tensor) -> Tensor:
        """A bias `(out,)` as it is added to an output."""

    def input_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """In the shape of `x`, for the gradient of the output."""

    def weight_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """In the shape of `weight`."""


@dataclass(frozen=True)
class Matrix:
    """`x (..., in)` times the transpose of `weight (out, in)`."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`(..., out)`."""
        return functional.linear(x, weight, bias)

    def aligned(self, bias: Tensor) -> Tensor:
        """Channels are last."""
        return bias

    def input_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:  # noqa: ARG002
        """`(..., in)`."""
        return gradient @ weight

    def weight_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """`(out, in)`, summed over all leading dimensions."""
        out, width = weight.shape
        return gradient.reshape(-1, out).t() @ x.reshape(-1, width)


@dataclass(frozen=True)
class Convolution:
    """`x (batch, in, ...)` with `weight (out, in / groups, ...)`, in as many dimensions as there are strides."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def _geometry(self) -> tuple[Any, ...]:
        transposed, no_padding = False, [0] * len(self.stride)
        return self.stride, self.padding, self.dilation, transposed, no_padding, self.groups

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`(batch, out, ...)`."""
        return torch.convolution(x, weight, bias, *self._geometry)

    def aligned(self, bias: Tensor) -> Tensor:
        """All other dimensions come behind channels."""
        return bias.view(-1, *[1] * len(self.stride))

    def input_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """`(batch, in, ...)`."""
        return self._backward(gradient, x, weight, [True, False, False])[0]

    def weight_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """`(out, in / groups, ...)`."""
        return self._backward(gradient, x, weight, [False, True, False])[1]

    def _backward(self, gradient: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, ...]:
        backward = torch.ops.aten.convolution_backward  # one for all dimensions and groups
        found: tuple[Tensor, ...] = backward(gradient, x, weight, None, *self._geometry, wanted)
        return found


class LowBitProduct(torch.autograd.Function):
    """A product by a recipe, of float32 or float64; it can be differentiated once."""

    @staticmethod
    def forward(  # noqa: PLR0917  (autograd passes arguments by position)
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        product: Product,
        recipe: TrainingRecipe,
        running: Tensor,
        step: Tensor | None,
    ) -> Tensor:
        """`running` is the remembered maximum of the output's gradient, without dimensions; it is written to.

        `step` is that of the activation, where its rule is a `Grid`.
        """
        x, kept, ctx.x_layout = _kept(recipe, recipe.activation, x, step)
        weight, kept_weight, ctx.weight_layout = _kept(recipe, recipe.weight, weight, None)
        ctx.save_for_backward(*kept, *kept_weight)
        ctx.product, ctx.recipe, ctx.running, ctx.kept = product, recipe, running, len(kept)
        return rounded(recipe.output, product(x, weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of the input and the weight, as far as they are wanted."""
        of_input, of_weight, *_ = ctx.needs_input_grad
        with torch.autocast(gradient.device.type, enabled=False):
            return _gradients(ctx, gradient, of_input, of_weight)


def _gradients(ctx: Any, gradient: Tensor, of_input: bool, of_weight: bool) -> tuple[Tensor | None, ...]:  # noqa: FBT001
    product, recipe = ctx.product, ctx.recipe
    saved = ctx.saved_tensors  # asked for once: checkpoints allow no more
    x = _returned(recipe, recipe.activation, saved[: ctx.kept], ctx.x_layout)
    weight = _returned(recipe, recipe.weight, saved[ctx.kept :], ctx.weight_layout)
    draws = _draws(recipe.gradient, gradient, ctx.running)
    first = next(draws)
    found_input = found_weight = None
    if of_input:
        found_input = rounded(recipe.product, product.input_gradient(first, x, weight))
    if of_weight:
        more = recipe.samples - 1
        mean = sum(islice(draws, more), first) / recipe.samples if more else first
        found_weight = rounded(recipe.product, product.weight_gradient(mean, x, weight))
    return found_input, found_weight, None, None, None, None


def _kept(recipe: TrainingRecipe, rule: Rule | None, x: Tensor, step: Tensor | None) -> Packed:
    """A tensor of the forward pass as the rule of the recipe says, and what the backward pass needs to have it."""
    if recipe.pack and (way := packing(rule)) is not None:
        return way.pack(x, step)
    x = rule(x, step) if isinstance(rule, Grid) else rounded(rule, x)
    return Packed(x, (x,), Layout(x.shape, x.stride(), x.dtype))


def _returned(recipe: TrainingRecipe, rule: Rule | None, kept: tuple[Tensor, ...], layout: Layout) -> Tensor:
    if recipe.pack and (way := packing(rule)) is not None:
        return way.unpack(kept, layout)
    return kept[0]


def rounded(rule: Rule | None, x: Tensor) -> Tensor:
    """As the rule says, and as it is without one."""
    return x if rule is None else rule(x)


def _draws(rule: Rule | None, gradient: Tensor, running: Tensor) -> Iterator[Tensor]:
    """One gradient, rounded again and again; `running` goes one step on."""
    if isinstance(rule, Aligned) and rule.hindsight is not None and gradient.numel():
        estimate, following = remembered(running.to(gradient), largest_magnitude(gradient), rule.hindsight)
        running.copy_(following)
        while True:
            yield rule(gradient, estimate)
    while True:
        yield rounded(rule, gradient)
