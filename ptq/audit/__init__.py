"""The truth about a written file: whether it loads, which kernels run it, how fast, in how much memory."""

from __future__ import annotations

from ptq.audit.audit import Audit, audit, check_runs
from ptq.audit.census import Census, census
from ptq.audit.costs import Cost, file_bytes, float_numbers, load, peak_bytes, session_bytes, tensor_bits
from ptq.audit.kernels import Kernel
from ptq.audit.saturation import Saturating
from ptq.audit.timing import Latency, Timing, latency, timings

__all__ = [
    "Audit",
    "Census",
    "Cost",
    "Kernel",
    "Latency",
    "Saturating",
    "Timing",
    "audit",
    "census",
    "check_runs",
    "file_bytes",
    "float_numbers",
    "latency",
    "load",
    "peak_bytes",
    "session_bytes",
    "tensor_bits",
    "timings",
]
