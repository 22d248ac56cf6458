"""The names that options take, and who reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Final

from ptq import formats, registry, scheme
from ptq.errors import OptionError, suggest
from ptq.formats.minifloat import FloatFormat

METHODS: Final = registry.Modules("ptq.methods")
STEPS: Final = registry.Modules("ptq.steps")
UINT8, DYNAMIC, NONE = "uint8", "dynamic", "none"
INTEGER: Final = (UINT8, DYNAMIC)
"""Activations that int8 kernels compute with: with ranges from calibration, and with those of every input."""

SIMULATED: Final = tuple(
    fmt.name for fmt in formats.FORMATS.values() if isinstance(fmt, FloatFormat) and fmt.onnx and fmt.bits == 8
)
"""Activations that are rounded to a format and computed with in float: what a runtime that has it would give."""

ACTIVATIONS: Final = (*INTEGER, *SIMULATED, NONE)
INT8: Final = "int8"
"""Activations that only some targets take."""

MINMAX: Final = "minmax"
PER: Final = ("channel", "layer")
ABOVE_BASE: Final = 0.4
"""Bits per weight above the base format that are spent when no option says otherwise."""

EMBEDDINGS: Final = "int8"
"""The format of embedding tables when no option says otherwise: a row of it is as good as one of float32."""


@cache
def readers() -> Mapping[str, tuple[str, ...]]:
    """The methods and steps that read each of the options that only some read."""
    chosen = {f"--method {name}": METHODS[name].METHOD for name in METHODS}
    chosen |= {f"--step {name}": STEPS[name].STEP for name in STEPS}
    names = sorted(set().union(*(each.OPTIONS for each in chosen.values())))
    return {name: tuple(said for said, each in chosen.items() if name in each.OPTIONS) for name in names}


def listed(names: Iterable[str]) -> str:
    """Names in a sentence."""
    *first, last = sorted(names)
    return f"{', '.join(first)} and {last}" if first else last


def choice(option: str, value: str | None, known: Iterable[str | None], why: Callable[[str], str] = str) -> None:
    """Refuse a value that is none of those known; `why` says more of one than that.

    Raises:
        OptionError: it is not known.

    """
    if value in known:
        return
    names = [name for name in known if name]
    said = why(str(value))
    raise OptionError(said if said != value else f"unknown {option} {value!r}; {suggest(str(value), names)}")


def why_no_activations(activations: str) -> str:
    """Why a format is none for activations; the name itself where it is no format."""
    if activations not in scheme.known():
        return activations
    if activations == "int8":
        return (
            "--activations int8: ONNX Runtime's int8 kernels for CPUs fuse uint8 activations reliably, int8 not; "
            "use uint8, or --target cuda or tensorrt"
        )
    shown = ", ".join(ACTIVATIONS)
    return f"--activations {activations}: no kernel of ONNX Runtime takes them, nor do ONNX's casts; use {shown}"


_KINDS: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "str": ((str,), 'text, such as "int4"'),
    "float": ((int, float), "a number, such as 4.25"),
    "int": ((int,), "a whole number, such as 2"),
    "bool": ((bool,), "true or false"),
    "tuple[str, ...]": ((list, tuple), 'texts, such as ["stem", "head"]'),
}


def typed(name: str, value: Any, kind: str) -> Any:
    """A value as a field takes it whose annotation is `kind`; a `group` may be a number.

    Raises:
        OptionError: it is of another type.

    """
    plain = kind.removesuffix(" | None")
    if value is None and plain != kind:
        return None
    taken = str(value) if name == "group" and isinstance(value, int) and not isinstance(value, bool) else value
    texts = plain.startswith("tuple")
    if texts and isinstance(taken, str):
        taken = (taken,)
    types, words = _KINDS[plain]
    fits = isinstance(taken, types) and isinstance(taken, bool) is (plain == "bool")
    if not fits or (texts and not all(isinstance(each, str) for each in taken)):
        raise OptionError(f"{name} = {value!r} has the wrong type; give {words}")
    return tuple(taken) if texts else taken


def unread(name: str, reading: Iterable[str], chosen: Iterable[str]) -> str:
    """Why an option does nothing: what would read it, what was chosen, and what to do instead."""
    instead = "leave it out, or name a format by --weights, such as int4" if name == "bits" else "leave it out"
    return f"--{name.replace('_', '-')} is read by {listed(reading)}, not by {listed(chosen)}; {instead}"
