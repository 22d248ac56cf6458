"""Write the tables of the README that follow from the code, between two comments that mark where they belong.

    python docs/tables.py

What works together is what a recipe takes, and how it runs is what lowering decides for a convolution and a product.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir

from ptq import scheme
from ptq.errors import OptionError
from ptq.lowering import Execution, execution
from ptq.model.graph import Model
from ptq.recipe import ACTIVATIONS, METHODS, Recipe

README: Final = Path(__file__).parents[1] / "README.md"
BEGIN: Final = "<!-- begin: what works together; `make docs` writes it -->"
END: Final = "<!-- end: what works together -->"

INT8, BLOCKS, FLOAT, SIMULATED, NOTHING = "int8", "MatMulNBits", "float", "simulated", "-"
BUT_CONV: Final = "; Conv "
WORDS: Final = {
    Execution.STATIC: INT8,
    Execution.DYNAMIC: INT8,
    Execution.BLOCKS: BLOCKS,
    Execution.WEIGHTS: FLOAT,
    Execution.SIMULATED: SIMULATED,
}
LEGEND: Final = {
    INT8: "the int8 kernels of Conv, Gemm and MatMul",
    BLOCKS: "ONNX Runtime's kernel for weights of few bits; it rounds its inputs to int8 by itself",
    FLOAT: "float weights after loading: a smaller file at the speed of FP32",
    SIMULATED: "inputs are rounded to the format and computed with in float, slower than FP32",
    NOTHING: "refused, with a line that says why",
}

PROBE: Final = """
<ir_version: 10, opset_import: ["" : 21]>
probe (float[n, 32, 4, 4] image, float[n, 4, 32] rows) => (float[n, 32, 4, 4] a, float[n, 4, 32] b) {
    a = Conv (image, kernel)
    b = MatMul (rows, matrix)
}
"""
SHAPES: Final = {"kernel": (32, 32, 1, 1), "matrix": (32, 32)}

Cells = tuple[str, ...]
"""How it runs with each of the activations."""


@dataclass(frozen=True)
class Way:
    """Groups and methods with which weights run alike."""

    groups: tuple[str, ...]
    methods: tuple[str, ...]
    cells: Cells

    @property
    def count(self) -> int:
        """How many combinations there are that work."""
        return len(self.groups) * len(self.methods) * sum(each != NOTHING for each in self.cells)


def probe() -> onnx.ModelProto:
    """A network of one convolution and one product."""
    proto = onnx.parser.parse_model(PROBE)
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    return proto


@cache
def _model() -> Model:
    return Model.of(ir.from_proto(probe()))


def cell(weights: str, group: str | None, method: str, activations: str) -> str:
    """How it runs, or "-"."""
    model = _model()
    try:
        recipe = Recipe(method=method, weights=weights, group=group, activations=activations)
        plan = recipe.plan(model.sites, has_data=True)
    except OptionError:
        return NOTHING
    conv, product = (
        FLOAT if (made := plan.methods[site.name]) is None else WORDS[execution(model, site, made, plan.activations)]
        for site in model.sites
    )
    return product if conv == product else f"{product}{BUT_CONV}{conv}"


def ways() -> dict[tuple[Way, ...], list[str]]:
    """The formats that run alike, by how they do; those that run in most ways come first."""
    alike: dict[tuple[Way, ...], list[str]] = {}
    for weights in scheme.known():
        alike.setdefault(_ways(weights), []).append(weights)
    order = sorted(alike, key=lambda found: sum(way.count for way in found), reverse=True)
    return {found: alike[found] for found in order}


def _ways(weights: str) -> tuple[Way, ...]:
    groups = (None,) if weights in scheme.SCHEMES else scheme.SHARED
    found: dict[tuple[tuple[str, ...], Cells], list[str]] = {}
    for group in groups:
        methods: dict[Cells, list[str]] = {}
        for method in METHODS:
            cells = tuple(cell(weights, group, method, activations) for activations in ACTIVATIONS)
            if set(cells) != {NOTHING}:
                methods.setdefault(cells, []).append(method)
        for cells, names in methods.items():
            found.setdefault((tuple(names), cells), []).append(group or "its own")
    return tuple(Way(tuple(groups), methods, cells) for (methods, cells), groups in found.items())


def table() -> str:
    """The table with its legend."""
    found = ways()
    working = [way for each in found for way in each]
    columns: dict[Cells, list[str]] = {}
    for activations, *cells in zip(ACTIVATIONS, *(way.cells for way in working), strict=True):
        columns.setdefault(tuple(cells), []).append(activations)
    heads = [f"`{_together(names)}`" for names in columns.values()]
    lines = [_row(["`--weights`", "`--group`", "`--method`", *heads]), "|---" * (3 + len(heads)) + "|"]
    shown = iter(zip(*columns, strict=True))
    for each, names in found.items():
        for number, way in enumerate(each):
            first = " ".join(f"`{name}`" for name in names) if number == 0 else ""
            lines.append(_row([first, _range(way.groups), ", ".join(way.methods), *next(shown)]))
    used = {word for cells in columns for text in cells for word in text.split(BUT_CONV)}
    legend = [f"- `{word}`: {said}" for word, said in LEGEND.items() if word in used]
    scales = ", ".join(f"`{name}`" for name in found.get((), []))
    return "\n".join([*lines, "", *legend, *(["", f"For scales, not for weights: {scales}."] if scales else [])])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _together(names: Sequence[str]) -> str:
    """One name for several that begin alike."""
    prefix = os.path.commonprefix(names)  # noqa: RUF071  (characters are meant, not folders)
    return names[0] if len(names) == 1 else f"{prefix}*" if prefix else ", ".join(names)


def _range(groups: Sequence[str]) -> str:
    """Sizes of groups as a range where all are there."""
    sizes = list(map(str, scheme.GROUPS))
    if not set(sizes) <= set(groups):
        return ", ".join(groups)
    return ", ".join([*(group for group in groups if group not in sizes), f"{sizes[0]} to {sizes[-1]}"])


def updated(text: str) -> str:
    """The README with the table that is true now.

    Raises:
        ValueError: the comments that mark its place are gone.

    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the text has no {BEGIN} before {END}; put them back")
    return f"{head}{BEGIN}\n\n{table()}\n\n{END}{tail}"


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
