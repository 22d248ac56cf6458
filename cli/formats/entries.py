"""What is said of a format: of one that is a table, of one that is fitted to a tensor, of one in blocks with scales."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ptq import formats, registry
from ptq.fitted import FITTED, Fitted
from ptq.formats import Format
from ptq.scheme import SCHEMES, Scheme
from ptq.support import Support, block_support, support
from ptq.vectors import VECTORS, VectorFormat

VECTOR_KIND: Final = "vectors"
FITTED_KIND: Final = "fitted"
BLOCK_KIND: Final = "block"

LISTED_BITS: Final = 8
"""Formats up to this width have few enough numbers to show them all."""


@dataclass(frozen=True)
class Entry:
    """A format as it is listed and shown."""

    cells: Mapping[str, str]
    """Its line in the list, by the title of the column; the first is its name."""
    lines: tuple[tuple[str, str], ...]
    """What `ptq formats show` says, each after one word that says what about."""
    facts: dict[str, Any]
    """The same for a program that reads the list."""
    more: dict[str, Any] = field(default_factory=dict)
    """What a program gets besides that asks for this one."""
    coded: tuple[tuple[int, float], ...] = ()
    """Bit patterns and their numbers, ascending by number, where there are not too many."""
    bits: int = LISTED_BITS
    """The width of the patterns."""

    @property
    def name(self) -> str:
        """What a user calls it."""
        return str(self.facts["name"])


def families() -> dict[str, list[Entry]]:
    """Every format that is a table, by family; the families of which ONNX has most come first."""
    known = {family: (sum(fmt.onnx is not None for fmt in of), len(of)) for family, of in formats.FAMILIES.items()}
    order = sorted(formats.FAMILIES, key=lambda family: known[family], reverse=True)
    return {family: [_table_entry(fmt, family) for fmt in formats.FAMILIES[family]] for family in order}


def vectors() -> list[Entry]:
    """Every format whose codes stand for several numbers."""
    return [_vector_entry(each) for each in VECTORS.values()]


def fitted() -> list[Entry]:
    """Every format that is fitted to a tensor."""
    return [_fitted_entry(each) for each in FITTED.values()]


def blocks() -> list[Entry]:
    """Every block format."""
    return [_block_entry(name, scheme) for name, scheme in SCHEMES.items()]


def find(name: str) -> Entry:
    """The format of that name; those that fitted ones choose from have one too.

    Raises:
        OptionError: there is none.

    """
    members = (_table_entry(fmt, FITTED_KIND) for each in FITTED.values() for fmt in each.members)
    listed: Iterable[Entry] = (
        *members,
        *vectors(),
        *fitted(),
        *blocks(),
        *(each for of in families().values() for each in of),
    )
    return registry.get("format", name, {entry.name: entry for entry in listed})


def _cells(fmt: Format | VectorFormat, values: str, onnx: str, runs: Support) -> dict[str, str]:
    """What the tables say of a format with numbers that are known."""
    return {
        "name": fmt.name,
        "bits": f"{fmt.bits}",
        "values": values,
        "range": f"{_short(fmt.min)}..{_short(fmt.max)}",
        "least": _short(_numbers(fmt)["smallest_positive"]),
        "ONNX": onnx,
        "runs in": runs.short,
    }


def _table_entry(fmt: Format, family: str) -> Entry:
    runs, numbers = support(fmt), _numbers(fmt)
    many = fmt.bits > LISTED_BITS
    return Entry(
        cells=_cells(fmt, f"{len(fmt.values)}", "-" if fmt.onnx is None else f"{fmt.onnx} {fmt.least_opset}", runs),
        lines=(
            ("format", f"{fmt.name}, {family}"),
            ("bits", f"{fmt.bits}, with {len(fmt.values)} numbers{', which are too many to list' if many else ''}"),
            ("range", f"{fmt.min!r} .. {fmt.max!r}"),
            ("least", f"{numbers['smallest_positive']!r} above 0"),
            ("step", f"{numbers['smallest_step']!r} between the nearest two; all are multiples of {fmt.step!r}"),
            ("ONNX", "no type" if fmt.onnx is None else f"{fmt.onnx}, from opset {fmt.least_opset} on"),
            *runs.explained,
        ),
        facts={
            "name": fmt.name,
            "family": family,
            "bits": fmt.bits,
            **numbers,
            "onnx": None if fmt.onnx is None else {"type": fmt.onnx, "opset": fmt.least_opset},
            **_facts(runs),
        },
        more=_more(runs, fmt),
        coded=() if many else _coded(fmt),
        bits=fmt.bits,
    )


def _block_entry(name: str, scheme: Scheme) -> Entry:
    fmt, scales = scheme.format, scheme.factors
    if scales is None or scheme.group is None:
        raise AssertionError
    runs, numbers = block_support(fmt, scales), _numbers(fmt)
    span = f"{_short(min(value for value in scales.values if value > 0))}..{_short(scales.max)}"
    tensor = "float32" if scheme.per_tensor else None
    each = f"one for every {scheme.group} weights along a row{', times one float32 for the tensor' if tensor else ''}"
    return Entry(
        cells={
            "name": name,
            "bits": f"{scheme.bits:g}",
            "numbers": fmt.name,
            "group": f"{scheme.group}",
            "scales": scales.name if tensor is None else f"{scales.name}, {tensor}",
            "runs in": runs.short,
        },
        lines=(
            ("format", f"{name}, {BLOCK_KIND}"),
            ("bits", f"{scheme.bits:g}: {fmt.bits} of a number, {scales.bits} of a scale over {scheme.group}"),
            ("numbers", f"{fmt.name}, {len(fmt.values)} of them"),
            ("scales", f"{scales.name}, {span}, {each}; `ptq formats show {scales.name}` lists them"),
            ("range", f"{fmt.min!r} .. {fmt.max!r}, times the scale"),
            ("least", f"{numbers['smallest_positive']!r} above 0, times the scale"),
            ("step", f"{numbers['smallest_step']!r} between the nearest two, times the scale"),
            ("ONNX", "no type"),
            *runs.explained,
        ),
        facts={
            "name": name,
            "family": BLOCK_KIND,
            "bits": scheme.bits,
            "numbers": fmt.name,
            "group": scheme.group,
            "scales": scales.name,
            "tensor_scale": tensor,
            **numbers,
            "onnx": None,
            **_facts(runs),
        },
        more=_more(runs, fmt),
        coded=_coded(fmt),
        bits=fmt.bits,
    )


def _vector_entry(each: VectorFormat) -> Entry:
    runs, numbers, count = support(each), _numbers(each), len(each.book)
    return Entry(
        cells=_cells(each, f"{count}x{each.span}", "-", runs),
        lines=(
            ("format", f"{each.name}, {VECTOR_KIND}"),
            ("bits", f"{each.bits} of a number, {each.bits * each.span} of a code"),
            (
                "numbers",
                f"{count} vectors of {each.span} along a row, of least squared error for what weights look like",
            ),
            ("range", f"{each.min!r} .. {each.max!r}, all whole"),
            ("ONNX", "no type"),
            *runs.explained,
        ),
        facts={
            "name": each.name,
            "family": VECTOR_KIND,
            "bits": each.bits,
            "span": each.span,
            **numbers,
            "count": count,
            "onnx": None,
            **_facts(runs),
        },
        more={"explained": dict(runs.explained), "vectors": [list(vector) for vector in each.book]},
    )


def _fitted_entry(each: Fitted) -> Entry:
    names = [fmt.name for fmt in each.members]
    searched = "a channel, or what --group says; searched"
    made = "made for the tensor, whose table is stored with it"
    return Entry(
        cells={
            "name": each.name,
            "bits": f"{each.bits}",
            **dict.fromkeys(("values", "range", "least", "ONNX"), "-"),
            "runs in": "float32, table",
        },
        lines=(
            ("format", f"{each.name}, {FITTED_KIND} to each tensor"),
            ("bits", f"{each.bits}"),
            ("numbers", each.about),
            ("formats", ", ".join(names) or made),
            ("scale", "one a tensor, that of its largest number" if each.whole else searched),
            ("computed", "in float32; integer kernels do not take it, and it is for weights and embeddings only"),
            ("stored", "as bytes of codes; a table lookup to float32 folds when the file is loaded"),
        ),
        facts={
            "name": each.name,
            "bits": each.bits,
            "about": each.about,
            "scale": "largest" if each.whole else "searched",
            "members": names or None,
        },
    )


def _numbers(fmt: Format) -> dict[str, Any]:
    """What the numbers of a format are."""
    return {
        "count": len(fmt.values),
        "min": fmt.min,
        "max": fmt.max,
        "smallest_positive": min(value for value in fmt.values if value > 0),
        "smallest_step": min(above - below for below, above in zip(fmt.values, fmt.values[1:], strict=False)),
        "multiples_of": fmt.step,
    }


def _facts(runs: Support) -> dict[str, Any]:
    """How a format runs."""
    return {
        "stored_as": runs.stored_as,
        "decoded_by": runs.decoded_by,
        "computed_in": runs.computed_in,
        "block_weights": None if runs.blocks_from is None else {"op": "MatMulNBits", "opset": runs.blocks_from},
        "activations": runs.activations,
    }


def _more(runs: Support, fmt: Format) -> dict[str, Any]:
    """How it runs in sentences, and the numbers where they can be listed."""
    listed = [{"code": code, "value": value} for code, value in _coded(fmt)] if fmt.bits <= LISTED_BITS else None
    return {"explained": dict(runs.explained), "values": listed}


def _coded(fmt: Format) -> tuple[tuple[int, float], ...]:
    return tuple((code % 2**fmt.bits, value) for code, value in zip(fmt.codes, fmt.values, strict=True))


def _short(value: float) -> str:
    """A number in few characters: as it is, as a power of two where that is shorter, else rounded."""
    plain = f"{value:g}"
    if float(plain) == value and len(plain.lstrip("-")) <= 5:
        return plain
    fraction, exponent = math.frexp(abs(value))
    if fraction == 0.5:
        return f"{'-' * (value < 0)}2^{exponent - 1}"
    return f"{value:.3g}"
