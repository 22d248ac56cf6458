"""A graph that is being drawn: its nodes, its weights, and the shapes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from onnx import NodeProto, helper

_MOST_NUMBERS = 20_000

Arrays = dict[str, np.ndarray]
Shape = tuple[int, ...]


@dataclass
class Draft:
    """A graph that grows: its nodes, what is stored, and the shape that each tensor has for one batch."""

    draw: DrawFn
    rng: np.random.Generator
    opset: int
    batch: int
    named: bool
    nodes: list[NodeProto] = field(default_factory=list)
    stored: Arrays = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def one_of(self, values: Sequence[Any]) -> Any:
        """One of some values; Hypothesis tries to come down to the first."""
        return self.draw(st.sampled_from(values))

    def often(self) -> bool:
        """Three times of four not."""
        return bool(self.one_of((False, False, False, True)))

    def coin(self) -> bool:
        """One time of two."""
        return bool(self.draw(st.booleans()))

    def call(self, op: str, *inputs: str, shape: Shape, more: Sequence[Shape] = (), **attributes: Any) -> str:
        """A node; its first output."""
        shapes = (shape, *more)
        need(all(0 < math.prod(each) <= _MOST_NUMBERS for each in shapes))
        names = [f"t{len(self.nodes)}{letter}" for letter in ("", "b")[: len(shapes)]]
        name = f"node{len(self.nodes)}" if self.named else ""
        self.nodes.append(helper.make_node(op, inputs, names, name=name, **attributes))
        self.shapes.update(zip(names, shapes, strict=True))
        return names[0]

    def store(self, array: np.ndarray, kind: str = "c") -> str:
        """An initializer."""
        name = f"m{len(self.stored)}.weight" if kind == "weight" else f"{kind}{len(self.stored)}"
        self.stored[name] = array
        return name

    def integers(self, *values: int) -> str:
        """A vector of integers, as shapes and axes are."""
        return self.store(np.array(values, np.int64), "i")

    def weight(self, shape: Shape, rows: int, fan: int) -> str:
        """A weight whose channels, axis `rows`, come of products with `fan` numbers; sometimes one that is there."""
        known = [name for name, array in self.stored.items() if array.shape == shape and name.endswith("weight")]
        if known and self.often():
            return str(self.one_of(known))
        numbers = self.rng.standard_normal(shape) / math.sqrt(fan)
        column = [-1 if axis == rows else 1 for axis in range(len(shape))]
        kind = self.one_of(("plain", "plain", "uneven", "some zeros", "whole", "faint", "equal"))
        if kind == "uneven":
            numbers *= 10.0 ** self.rng.uniform(-3, 0.5, shape[rows]).reshape(column)
        elif kind == "some zeros":
            numbers *= (self.rng.random(shape[rows]) < 0.6).reshape(column)
        elif kind == "whole":
            numbers = self.rng.integers(-7, 8, shape) / 8
        elif kind == "faint":
            numbers *= 1e-4
        elif kind == "equal":
            numbers = np.full(shape, 0.3 / math.sqrt(fan))
        return self.store(numbers.astype(np.float32), "weight")

    def vector(self, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        """Numbers for channels."""
        return self.store(self.rng.uniform(low, high, shape).astype(np.float32), "v")

    def shape(self, name: str) -> Shape:
        """Of a tensor."""
        return self.shapes[name]

    def alike(self, name: str, axis: int | None = None) -> list[str]:
        """The tensors of the same shape, but for an axis."""
        wanted = _without(self.shapes[name], axis)
        same = [other for other, shape in self.shapes.items() if _without(shape, axis) == wanted]
        return [other for other in same if len(self.shapes[other]) == len(self.shapes[name])]


def _without(shape: Shape, axis: int | None) -> Shape:
    return shape if axis is None else (*shape[:axis], *shape[axis + 1 :])


class UnfitError(Exception):
    """An operator does not go with a tensor after all."""


def need(condition: object) -> None:
    """Give an operator up where that does not hold."""
    if not condition:
        raise UnfitError


Write = Callable[[Draft, str], str]


class Operator(NamedTuple):
    """What writes nodes behind a tensor, and the ranks of the tensors and the opsets that it goes with."""

    write: Write
    ranks: range
    opset: int
    times: int


OPERATORS: dict[str, Operator] = {}
IMAGES, VECTORS, ANY = range(3, 6), range(2, 5), range(2, 6)


def operator(*, ranks: range = ANY, opset: int = 11, times: int = 1) -> Callable[[Write], Write]:
    """Let a function be one of the operators, which is drawn so many times as often as others."""

    def register(write: Write) -> Write:
        OPERATORS[write.__name__] = Operator(write, ranks, opset, times)
        return write

    return register


def grow(draft: Draft, x: str, among: Collection[str] = ()) -> str | None:
    """Write an operator behind a tensor, one of those named where any of them goes with it; what it makes."""
    rank = len(draft.shape(x))
    names = [name for name, each in OPERATORS.items() if rank in each.ranks and draft.opset >= each.opset]
    names = [name for name in names if name in among] or names
    write = OPERATORS[draft.one_of([name for name in names for _ in range(OPERATORS[name].times)])].write
    nodes, stored, shapes = list(draft.nodes), dict(draft.stored), dict(draft.shapes)
    try:
        return write(draft, x)
    except UnfitError:
        draft.nodes, draft.stored, draft.shapes = nodes, stored, shapes
        return None
