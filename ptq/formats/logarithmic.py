"""Logarithmic formats: numbers about one ratio apart, for magnitudes that spread over many octaves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ptq.formats import Format


@dataclass(frozen=True)
class LogFormat(Format):
    """`2^(code / steps)`, unsigned, with significands rounded to `precision` bits so that products stay exact."""

    steps: int
    precision: int

    @cached_property
    def codes(self) -> tuple[int, ...]:
        """From zero up."""
        return tuple(range(2**self.bits))

    @cached_property
    def values(self) -> tuple[float, ...]:
        """From 1 up, `steps` in every octave."""
        ulp = 2.0 ** (1 - self.precision)
        octave = [round(2.0 ** (step / self.steps) / ulp) * ulp for step in range(self.steps)]
        return tuple(octave[code % self.steps] * 2.0 ** (code // self.steps) for code in self.codes)


FORMATS: Final = (LogFormat("ulog8", 8, steps=16, precision=8),)
