"""The truth about a written file: whether it loads, which kernels run it, how fast, in how much memory."""

from __future__ import annotations

from ptq.audit.audit import Audit, audit
from ptq.audit.costs import Cost, Latency
from ptq.audit.kernels import Kernel

__all__ = ["Audit", "Cost", "Kernel", "Latency", "audit"]
