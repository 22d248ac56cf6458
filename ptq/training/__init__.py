"""Training in low-bit formats: LUQ (arXiv:2112.10769), S2FP8 (arXiv:2001.05674) and what they are compared with."""
