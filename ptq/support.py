"""How a file stores the numbers of a format, and what ONNX Runtime computes with them in.

It follows from the table of the format and from its ONNX type. What is said of ONNX Runtime is true of the CPU provider
of version 1.32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ptq.formats import INT8_MAX, PORTABLE_MAX, Format

_UNUSED: Final = {
    "FLOAT4E2M1": "no kernel of ONNX Runtime 1.32 on the CPU reads FLOAT4E2M1",
    "FLOAT8E8M0": "FLOAT8E8M0 would take opset 24, and files are to load with less",
}
"""Types of ONNX that files do not hold, and why."""

_BYTES: Final = frozenset({"INT8", "UINT8"})
"""Types that the integer kernels take as they are, for weights and for activations."""

_BLOCKS: Final = frozenset({"INT2", "UINT2", "INT4", "UINT4", "INT8", "UINT8"})
"""Types whose DequantizeLinear by blocks becomes, with the MatMul that reads it, one MatMulNBits."""

_BLOCKS_OPSET: Final = 21
"""The first opset whose DequantizeLinear has blocks."""


@dataclass(frozen=True)
class Support:
    """From the file to the kernel.

    `stored_as` is a type of ONNX, or "codes": the places in a table, packed in bytes. `decoded_by` is what ONNX
    Runtime folds when it loads the file: "Cast", "table", or None where there is nothing to decode. `computed_in` is
    "int8" or "float32". `blocks_from` is the first opset in which weights by blocks run in MatMulNBits, None where
    they do not. `activations` says whether integer kernels take the format for those too.
    """

    stored_as: str
    decoded_by: str | None
    computed_in: str
    blocks_from: int | None
    activations: bool
    explained: tuple[tuple[str, str], ...]
    """The same as sentences, each after one word that says what about."""

    @property
    def short(self) -> str:
        """What it is computed in, then "blocks" where those have a kernel of their own, else how it is decoded."""
        how = "blocks" if self.blocks_from is not None else self.decoded_by
        return self.computed_in if how is None else f"{self.computed_in}, {how}"


def support(fmt: Format) -> Support:
    """How a format runs."""
    stored_as = _stored_as(fmt)
    read = stored_as in _BYTES and fmt.fits_int8
    decoded_by = "table" if stored_as == "codes" else None if read else "Cast"
    computed_in = "int8" if fmt.fits_int8 else "float32"
    blocks_from = max(_BLOCKS_OPSET, fmt.least_opset or 0) if stored_as in _BLOCKS else None
    activations = stored_as in _BYTES
    explained = [("computed", _computed(fmt, computed_in))]
    if blocks_from is not None:
        explained.append(
            ("blocks", f"weights of MatMul with a scale per block run in MatMulNBits, from opset {blocks_from} on")
        )
    if activations:
        explained.append(("activations", "the int8 kernels take it for these"))
    explained.append(("stored", _stored(fmt, stored_as, decoded_by, computed_in)))
    return Support(stored_as, decoded_by, computed_in, blocks_from, activations, tuple(explained))


def block_support(fmt: Format, scales: Format) -> Support:
    """How a format runs whose numbers share a scale in groups along a row, a number of `scales`."""
    numbers = support(fmt)
    blocks_from = _BLOCKS_OPSET if fits_blocks(fmt) else None
    blocks = f"weights of MatMul run in MatMulNBits, from opset {blocks_from} on"
    if blocks_from is None:
        blocks = f"MatMulNBits holds {INT8_MAX} steps, the largest number is {_reach(fmt)}"
    kept = (f"{what} as {_named(_stored_as(of))}" for what, of in (("numbers", fmt), ("scales", scales)))
    explained = (
        ("computed", "in float32; the int8 kernels have one scale a row"),
        ("blocks", blocks),
        ("stored", f"{', '.join(kept)}; what they stand for folds when the file is loaded"),
    )
    return Support(
        numbers.stored_as, numbers.decoded_by, "float32", blocks_from, activations=False, explained=explained
    )


def fits_blocks(fmt: Format) -> bool:
    """Whether MatMulNBits takes the numbers: integers of its own types, or small multiples of one step."""
    return fmt.fits_int8 or fmt.onnx in _BLOCKS


def _stored_as(fmt: Format) -> str:
    return "codes" if fmt.onnx is None or fmt.onnx in _UNUSED else fmt.onnx


def _named(stored_as: str) -> str:
    return "packed codes" if stored_as == "codes" else stored_as


def _reach(fmt: Format) -> str:
    return f"{fmt.reach:.12g} step{'s' * (fmt.reach != 1)} of {fmt.step!r}"


def _computed(fmt: Format, computed_in: str) -> str:
    if computed_in == "float32":
        return f"in float32; the largest number is {_reach(fmt)}, where int8 kernels hold {INT8_MAX}"
    exact = f"in int8: the kernels of Conv, Gemm and MatMul take every number exactly, as at most {_reach(fmt)}"
    if PORTABLE_MAX < fmt.reach <= INT8_MAX:  # unsigned weights have kernels of their own, which do not saturate
        return f"{exact}; on CPUs without VNNI, sums of weights above {PORTABLE_MAX} steps may saturate"
    return exact


def _stored(fmt: Format, stored_as: str, decoded_by: str | None, computed_in: str) -> str:
    if decoded_by is None:
        return f"as {stored_as}, which the kernels read"
    if decoded_by == "Cast":
        return f"as {stored_as}; a Cast to {computed_in} folds when the file is loaded"
    why = "" if fmt.onnx is None else f"; {_UNUSED[fmt.onnx]}"
    return f"as {_named(stored_as)}; a table lookup to {computed_in} folds when the file is loaded{why}"
