"""What a file is written for: which pairs of weights and activations it may hold, and what of it is checked here.

A file for this machine's processor is measured as it is run. One for another runtime is written in that runtime's own
form, of standard operators; here it is run without optimization, which gives its numbers and nothing else. What
TensorRT takes is that of its documentation ("Quantization Schemes") and of its ONNX parser: symmetric, scales above 0,
blocks that fill the rows, no quantized bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from ptq.errors import OptionError
from ptq.lowering.execution import Execution
from ptq.model.sites import CONV, PRODUCTS, Site
from ptq.scheme import ROW, TENSOR, Scheme

_COMPUTING: Final = (CONV, *PRODUCTS)


class Checks(Enum):
    """What is looked at in a written file, besides what always is: whether it is valid ONNX, and how accurate."""

    OPTIMIZED = "optimized"
    """As it is run: the kernels of its layers, what optimization does to the outputs, time and memory."""
    AS_WRITTEN = "as written"
    """That it loads and runs on a processor without optimization; nothing else says anything about its runtime."""


@dataclass(frozen=True)
class Pair:
    """Weights of a format with activations of one, for some operators; `groups` are values of `--group`."""

    weights: str
    activations: str
    groups: tuple[str, ...]
    ops: tuple[str, ...]
    execution: Execution

    def describe(self) -> str:
        """As a user writes it."""
        sizes = [group for group in self.groups if group.isdecimal()]
        group = f" --group {' or '.join(sizes)}" if sizes else ""
        return f"--weights {self.weights}{group} --activations {self.activations}"


@dataclass(frozen=True)
class Target:
    """A runtime: the pairs that it takes (none: whatever the lowering for processors knows), and the checks."""

    name: str
    pairs: tuple[Pair, ...]
    checks: Checks

    def partner(self, weights: str) -> str | None:
        """The activations that go with weights; None where none do."""
        return next((pair.activations for pair in self.pairs if pair.weights == weights), None)

    def pair(self, scheme: Scheme, activations: str) -> Pair | None:
        """The pair that weights and activations are; None for a target that has none.

        Raises:
            OptionError: the target does not take them.

        """
        if not self.pairs:
            return None
        weights = scheme.format.name
        shared = str(scheme.group) if scheme.group else TENSOR if scheme.per_tensor else ROW
        known = [pair for pair in self.pairs if (pair.weights, pair.activations) == (weights, activations)]
        if any(shared in pair.groups for pair in known):
            return known[0]
        if known:
            allowed = " or ".join(known[0].groups)
            raise OptionError(f"--target {self.name} takes {weights} with --group {allowed}, not {shared}; give one")
        why = _WHY_NOT.get(activations) if self.partner(weights) != activations else None
        takes = ", ".join(pair.describe() for pair in self.pairs)
        said = f"--target {self.name} does not take --weights {weights} with --activations {activations}"
        raise OptionError(f"{said}{f' ({why})' if why else ''}; use one of: {takes}")

    def check(self, method: str, idle: Mapping[str, object], *, mixing: bool) -> None:
        """Refuse a method that gives weights several formats, and options of CPUs.

        Raises:
            OptionError: the method is, or one of the options was given.

        """
        if mixing:
            raise OptionError(
                f"--target {self.name} takes weights of one format, --method {method} gives them several, which ONNX "
                f"Runtime folds on a CPU; use --method gptq or rtn"
            )
        for option, said in idle.items():
            if said:
                raise OptionError(f"--target {self.name} has no --{option}, which is for kernels of CPUs; leave it out")

    def why_float(self, pair: Pair, site: Site, group: int | None) -> str | None:
        """Why a site stays float; None where it does not."""
        if site.op not in pair.ops:
            return f"{site.op}, of which --target {self.name} takes no {pair.weights} weights"
        if any(use.lookup for use in site.uses):
            return f"an embedding table as well, which --target {self.name} leaves in float"
        if group and site.columns % group:
            return f"its {site.columns} inputs are not whole blocks of {group}, as --target {self.name} has them"
        return None


_WHY_NOT: Final = MappingProxyType({
    "uint8": "which has a zero point, where it is symmetric int8",
    "dynamic": "which is a form of ONNX Runtime's kernels for processors",
    "fp8_e5m2": "of FP8 it computes in fp8_e4m3fn",
    "fp8_e4m3fnuz": "of FP8 it computes in fp8_e4m3fn",
    "fp8_e5m2fnuz": "of FP8 it computes in fp8_e4m3fn",
})  # fmt: skip


def _pairs(*blocks: int) -> tuple[Pair, ...]:
    """The pairs of a runtime whose int4 weights come in blocks of these sizes."""
    rows = (ROW, TENSOR)
    return (
        Pair("fp8_e4m3fn", "fp8_e4m3fn", rows, _COMPUTING, Execution.QDQ),
        Pair("int8", "int8", rows, _COMPUTING, Execution.QDQ),
        Pair("int4", "none", tuple(map(str, blocks)), PRODUCTS, Execution.DEQUANTIZED),
    )


CPU: Final = Target("cpu", (), Checks.OPTIMIZED)
TARGETS: Final[Mapping[str, Target]] = MappingProxyType(
    {
        target.name: target
        for target in (
            CPU,
            Target("cuda", _pairs(16, 32, 64, 128, 256), Checks.AS_WRITTEN),
            Target("tensorrt", _pairs(64, 128), Checks.AS_WRITTEN),
        )
    }
)
