"""What a file answers on processors without VNNI, on as many samples as there is time for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from calibration.batch import Batch
from calibration.dataset import Dataset
from ptq.audit import Saturating
from ptq.errors import ModelError
from ptq.evaluate import evaluate_all
from ptq.model.session import Session
from ptq.report import Portability

_MOST_SAMPLES: Final = 64


def portability(
    reference: Session, path: Path, data: Dataset, most_seconds: float = 5.0
) -> tuple[Portability | None, tuple[str, ...]]:
    """Run a file as it would run without VNNI, and as it runs here; of the first sample all, whatever it takes.

    None where it has no product that differs, and, with a note that says why, where it cannot be simulated: the file is
    worth more than this figure of it.
    """
    try:
        simulated = Saturating.of(path)
        if simulated is None:
            return None, ()
        here = Session(path)
        there, found = evaluate_all(reference, [simulated, here], _in_time(data, here.batch, most_seconds))
    except ModelError as error:
        return None, (f"what processors without VNNI answer was not simulated: {error}",)
    stopped = simulated.stopped / max(simulated.pairs, 1)
    agreements = there.agreement, found.agreement
    return Portability(there.samples, there.sqnr_db, found.sqnr_db, *agreements, there.nonfinite, stopped), ()


def _in_time(data: Dataset, size: int | None, most_seconds: float) -> Iterator[Batch]:
    """Batches for as long as there is time; one in any case."""
    start = time.perf_counter()
    for batch in data.take(_MOST_SAMPLES).batches(size or 1):
        if size is not None and batch.size < size:
            return
        yield batch
        if time.perf_counter() - start > most_seconds:
            return
