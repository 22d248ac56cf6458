"""Two formats of my own: a small float of five bits, and eight numbers that I chose."""

from __future__ import annotations

from typing import Final

from ptq.formats.codebook import CodebookFormat
from ptq.formats.minifloat import FloatFormat

FORMATS: Final = (
    FloatFormat.of("fp5_e2m2", exponent=2, mantissa=2),
    CodebookFormat("eight", 3, (-1.0, -0.6, -0.35, -0.15, 0.0, 0.2, 0.45, 0.8)),
)
