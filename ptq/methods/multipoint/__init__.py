"""Multipoint quantization: a weight row as a sum of few low-bit vectors (arXiv:2002.09049)."""
