"""Multipoint quantization: a weight row as a sum of few low-bit vectors (arXiv:2002.09049)."""

from __future__ import annotations

from ptq.methods.multipoint.method import Multipoint

METHOD = Multipoint

__all__ = ["METHOD", "Multipoint"]
