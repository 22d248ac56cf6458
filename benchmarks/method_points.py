"""What is compared with what: every method at every number of bits where it has something to say.

A point is a name of a curve, bits as people call them, and options of `ptq quantize`. Bits are those of the numbers
without the scales of rows; 4.25 and 3.25 are 4 and 3 bits and a quarter more, spent as each method does: on factors of
groups of 32, on more points, wider layers or split columns. How many bits there are in the file is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from ptq.recipe import Recipe

BITS: Final = (8, 6, 4.25, 4, 3.25, 3, 2)
_AWQ, _SMOOTH, _CLE, _BIAS = "awq", "smoothquant", "cross-layer-equalization", "bias-correction"
_GROUP: Final = "32"


@dataclass(frozen=True)
class Point:
    """Options of a method for so many nominal bits; activations are up to the model."""

    method: str
    """The name of the curve, that of the method first."""
    bits: float
    options: Mapping[str, Any]

    def recipe(self, activations: str) -> Recipe:
        """What the options mean.

        Raises:
            OptionError: they mean nothing.

        """
        return Recipe.of({**self.options, "activations": activations})

    def arguments(self, activations: str) -> list[str]:
        """The options as the command takes them."""
        made = []
        for name, value in {**self.options, "activations": activations}.items():
            for each in value if isinstance(value, tuple) else (value,):
                made += [f"--{'step' if name == 'steps' else name}", f"{each}"]
        return made


_ROWS: Final = MappingProxyType({8: "int8", 6: "int6", 4: "int4", 3: "int3", 2: "int2"})
"""Formats with a scale a row."""

_GROUPS: Final = MappingProxyType({4.25: "int4", 3.25: "int3"})
"""Formats with factors of groups: of 8 bits, or where int8 kernels compute, whole ones of 4 bits."""

_ONE_TERM: Final = {bits: {"weights": name} for bits, name in _ROWS.items()} | {
    bits: {"weights": name, "group": _GROUP} for bits, name in _GROUPS.items()
}
_ZERO_POINTS: Final = {4.25: {"weights": "uint4", "group": "128"}}

_POINTS: Final = {
    8: {"weights": "int4", "points": 2},
    6: {"weights": "int4", "bits": 6.0},
    4.25: {"weights": "int4", "bits": 4.25},
    4: {"weights": "int4", "bits": 4.0},
    3.25: {"weights": "int3", "bits": 3.25},
    3: {"weights": "int3", "points": 1},
    2: {"weights": "int2", "points": 1},
}
_FEW_BITS: Final = {bits: _POINTS[bits] for bits in (4.25, 4, 3.25, 3)}
_POINTS_OF_INT2: Final = {bits: {"weights": "int2", "bits": float(bits)} for bits in (4, 3.25, 3)}


def _points_of(four: str, three: str, two: str) -> dict[float, Mapping[str, Any]]:
    """Points on formats of 4, 3 and 2 bits whose numbers are no integers in even steps."""
    return {
        6: {"weights": four, "bits": 6.0},
        4.25: {"weights": four, "bits": 4.25},
        4: {"weights": four, "bits": 4.0},
        3.25: {"weights": three, "bits": 3.25},
        3: {"weights": three, "points": 1},
        2: {"weights": two, "points": 1},
    }


_POINTS_OF_LLOYD: Final = _points_of("lloyd4", "lloyd3", "lloyd2")
_POINTS_OF_VECTORS: Final = _points_of("lloyd4x2", "lloyd3x2", "lloyd2x4")
_VECTORS: Final = {bits: {"weights": name} for bits, name in {4: "lloyd4x2", 3: "lloyd3x2", 2: "lloyd2x4"}.items()}
_POINTS_ON_BLOCKS: Final = {
    4.25: {"weights": "int4", "group": "128", "bits": 4.25},
    3.25: {"weights": "int3", "group": "128", "bits": 3.25},
}
"""Factors of groups of 128 are a sixteenth of a bit at most, which leaves the rest for points."""

_SPLIT: Final = {
    8: {"weights": "int7", "bits": 8.0},
    6: {"weights": "int5", "bits": 6.0},
    4.25: {"weights": "int4", "bits": 4.25},
    4: {"weights": "int3", "bits": 4.0},
    3.25: {"weights": "int3", "bits": 3.25},
    3: {"weights": "int2", "bits": 3.0},
}
"""Splitting columns makes a format of fewer bits larger."""

_MIXED: Final = {
    6: {"weights": "int6", "bits": 6.0},
    4.25: {"weights": "int4", "bits": 4.25},
    4: {"weights": "int4", "bits": 4.0},
    3.25: {"weights": "int3", "bits": 3.25},
    3: {"weights": "int3", "bits": 3.0},
}
"""Formats by layer, from int2 to int8; `weights` is what layers have when their effect is measured."""


def _mixed_of(four: str, three: str) -> dict[float, Mapping[str, Any]]:
    """The same of formats whose numbers are no integers in even steps; from six bits on they are."""
    return {bits: {"weights": four if bits >= 4 else three, "bits": bits} for bits in (4.25, 4.0, 3.25, 3.0)}


_CURVES: Final[Mapping[str, tuple[Mapping[str, Any], Mapping[float, Mapping[str, Any]]]]] = MappingProxyType(
    {
        "multipoint": ({"method": "multipoint"}, _POINTS),
        "multipoint int2": ({"method": "multipoint"}, _POINTS_OF_INT2),
        "multipoint lloyd": ({"method": "multipoint"}, _POINTS_OF_LLOYD),
        "multipoint vectors": ({"method": "multipoint"}, _POINTS_OF_VECTORS),
        "multipoint blocks": ({"method": "multipoint"}, _POINTS_ON_BLOCKS),
        f"multipoint vectors {_AWQ}": (
            {"method": "multipoint", "steps": (_AWQ,)},
            {bits: _POINTS_OF_VECTORS[bits] for bits in _FEW_BITS},
        ),
        "multipoint adaround": ({"method": "multipoint", "rounding": "adaround"}, _FEW_BITS),
        "multipoint gpfq": ({"method": "multipoint", "rounding": "gpfq"}, _FEW_BITS),
        "multipoint nearest": ({"method": "multipoint", "rounding": "nearest"}, _FEW_BITS),
        f"multipoint {_BIAS}": ({"method": "multipoint", "steps": (_BIAS,)}, _FEW_BITS),
        f"multipoint {_CLE}": ({"method": "multipoint", "steps": (_CLE,)}, _FEW_BITS),
        "rtn": ({"method": "rtn"}, _ONE_TERM),
        "gptq": ({"method": "gptq"}, _ONE_TERM),
        "gptq vectors": ({"method": "gptq"}, _VECTORS),
        "gptq uint4": ({"method": "gptq"}, _ZERO_POINTS),
        "gpfq": ({"method": "gpfq"}, _ONE_TERM),
        "adaround": ({"method": "adaround"}, _ONE_TERM),
        "hqq": ({"method": "hqq"}, _ONE_TERM),
        "hqq uint4": ({"method": "hqq"}, _ZERO_POINTS),
        "ocs": ({"method": "ocs"}, _SPLIT),
        "mixed sensitivity": ({"method": "mixed", "worth": "sensitivity"}, _MIXED),
        "mixed lloyd": ({"method": "mixed"}, _mixed_of("lloyd4", "lloyd3")),
        "mixed vectors": ({"method": "mixed"}, _mixed_of("lloyd4x2", "lloyd3x2")),
        "mixed ompq": ({"method": "mixed", "worth": "ompq"}, _MIXED),
        f"rtn {_AWQ}": ({"method": "rtn", "steps": (_AWQ,)}, _ONE_TERM),
        f"rtn {_SMOOTH}": ({"method": "rtn", "steps": (_SMOOTH,)}, _ONE_TERM),
        f"rtn {_CLE}": ({"method": "rtn", "steps": (_CLE,)}, _ONE_TERM),
        f"rtn {_BIAS}": ({"method": "rtn", "steps": (_BIAS,)}, _ONE_TERM),
        f"rtn {_CLE} {_BIAS}": ({"method": "rtn", "steps": (_CLE, _BIAS)}, _ONE_TERM),
        f"gptq {_BIAS}": ({"method": "gptq", "steps": (_BIAS,)}, _ONE_TERM),
        f"gptq {_AWQ}": ({"method": "gptq", "steps": (_AWQ,)}, _ONE_TERM),
    }
)

METHODS: Final = tuple(_CURVES)


def points() -> Iterator[Point]:
    """All of them, by method and from many bits to few."""
    for method, (common, by_bits) in _CURVES.items():
        for bits in sorted(by_bits, reverse=True):
            yield Point(method, bits, MappingProxyType({**common, **by_bits[bits]}))
