"""The steps joined."""

from __future__ import annotations

from ptq.pipeline.job import Job, quantize, run
from ptq.pipeline.result import Result
from ptq.pipeline.stages import Stages

__all__ = ["Job", "Result", "Stages", "quantize", "run"]
