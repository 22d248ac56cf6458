"""How long a run may take: a Loop may never end, and once ONNX Runtime is in it no signal reaches Python."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import onnxruntime as ort

from ptq.errors import ModelError

MOST_SECONDS: Final = 600.0
"""Of one batch through a model that has loops."""

_LOOP: Final = b"\x22\x04Loop"
"""How a file holds an operator of that name: its field, its length and itself."""


def has_loops(source: Path | bytes) -> bool:
    """Whether a model, in a file or as the bytes of one, has an operator that may run without end."""
    if isinstance(source, bytes):
        return _LOOP in source
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_LOOP) >= 0


@contextmanager
def limited() -> Iterator[ort.RunOptions]:
    """Options for a run that is ended after that time.

    Raises:
        ModelError: it was.

    """
    options = ort.RunOptions()
    options.log_severity_level = 4

    def end() -> None:
        options.terminate = True

    timer = threading.Timer(MOST_SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield options
    except Exception as error:
        if options.terminate:
            raise ModelError(f"a batch is in a loop of the model for {MOST_SECONDS:.0f} s, without an end") from error
        raise
    finally:
        timer.cancel()
