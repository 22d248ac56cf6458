"""A process that runs commands of the package one after the other: from the standard input, and to the output, JSON."""

from __future__ import annotations

import contextlib
import io
import json
import sys

from sparing import spare_latency, spare_memory, spare_portability, spare_prediction

from cli import main


def run(words: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as stop:
            return int(stop.code or 0), out.getvalue(), err.getvalue()
    raise AssertionError


if __name__ == "__main__":
    for spare in (spare_memory, spare_latency, spare_portability, spare_prediction):
        spare(setattr)
    json.dump([run(words) for words in json.load(sys.stdin)], sys.stdout)
