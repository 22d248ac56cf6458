"""The formats of the registry that ml_dtypes, torch and gfloat have too, or can be told of."""

from __future__ import annotations

from typing import Any, Final

import gfloat
import gfloat.formats
import ml_dtypes
import torch

ML_DTYPES: Final = {
    "fp8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "fp8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
    "e8m0": ml_dtypes.float8_e8m0fnu,
}

ML_DTYPES_INTEGERS: Final = {
    "int2": ml_dtypes.int2,
    "int4": ml_dtypes.int4,
    "uint2": ml_dtypes.uint2,
    "uint4": ml_dtypes.uint4,
}
"""Its casts to these cut off, so that they have values to compare with and no rounding."""

TORCH: Final = {
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e4m3fnuz": torch.float8_e4m3fnuz,
    "fp8_e5m2": torch.float8_e5m2,
    "fp8_e5m2fnuz": torch.float8_e5m2fnuz,
    "e8m0": torch.float8_e8m0fnu,
}

GFLOAT: Final = {
    "fp8_e4m3fn": gfloat.formats.format_info_ocp_e4m3,
    "fp8_e5m2": gfloat.formats.format_info_ocp_e5m2,
    "fp6_e2m3": gfloat.formats.format_info_ocp_e2m3,
    "fp6_e3m2": gfloat.formats.format_info_ocp_e3m2,
    "fp4_e2m1": gfloat.formats.format_info_ocp_e2m1,
    "e8m0": gfloat.formats.format_info_ocp_e8m0,
}
"""Those that gfloat has."""


def _told(name: str, bits: int, significand: int, bias: int, **other: Any) -> gfloat.FormatInfo:
    usual = {
        "is_signed": True,
        "has_nz": True,
        "num_high_nans": 0,
        "has_subnormals": True,
        "is_twos_complement": False,
        "domain": gfloat.Domain.Finite,
    }
    return gfloat.FormatInfo(name, bits, significand, bias=bias, **{**usual, **other})


GFLOAT_TOLD: Final = {
    "fp8_e4m3fnuz": _told("fp8_e4m3fnuz", 8, 4, 8, has_nz=False),
    "fp8_e5m2fnuz": _told("fp8_e5m2fnuz", 8, 3, 16, has_nz=False),
    "fp8_e3m4": _told("fp8_e3m4", 8, 5, 4),
    "fp8_e2m5": _told("fp8_e2m5", 8, 6, 2),
    "luq_fp4": _told("luq_fp4", 4, 1, 1),
    **{f"int{bits}": _told("int", bits, bits, 2 - bits, has_nz=False, is_twos_complement=True) for bits in range(2, 9)},
    **{f"uint{bits}": _told("uint", bits, bits, 2 - bits, has_nz=False, is_signed=False) for bits in (2, 4, 8)},
}
"""Those that are described to it: bits, those of the significand, the bias, and what is not usual."""
