"""The command line: parse, one library call, show. Heavy imports wait until a command runs."""

from __future__ import annotations

from cli.main import main

__all__ = ["main"]
