"""What a run is about besides its recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from calibration.images import ImageOptions
from ptq.devices import CPU, device
from ptq.errors import OptionError
from ptq.evaluate import check_metrics
from ptq.model.capture import CaptureOptions
from ptq.pipeline.size import Size

ACCEPTED_DROP: Final = 0.02
"""The drop of accuracy, a fraction, from which on there is a warning when no option says otherwise."""


def check_drop(max_drop: float) -> None:
    """Check an accepted drop.

    Raises:
        OptionError: it is not a fraction.

    """
    if not 0 <= max_drop <= 1:
        raise OptionError(f"--max-drop {max_drop:g} is not a fraction from 0 to 1; give for example 0.02")


@dataclass(frozen=True)
class Job:
    """What a run is about besides its recipe."""

    model: Any
    data: Any = None
    evaluation: Any = None
    output: Path | None = None
    overwrite: bool = False
    capture: CaptureOptions = field(default_factory=CaptureOptions)
    images: ImageOptions | None = None
    metrics: tuple[str, ...] = ()
    """Scores by name, or `module:callable`; those that go with the labels if left out."""
    max_drop: float | None = None
    target_size: Size | None = None
    """For a recipe that is searched for."""
    device: str = CPU
    """Where layers are solved."""

    def __post_init__(self) -> None:
        """Check what can be checked without looking at the files.

        Raises:
            OptionError: the accepted drop is not a fraction, or there is no metric or device of a name.

        """
        check_metrics(self.metrics)
        if self.max_drop is not None:
            check_drop(self.max_drop)
        object.__setattr__(self, "device", device(self.device))

    @property
    def about(self) -> str:
        """What a user calls it by."""
        return str(self.model) if isinstance(self.model, Path) else "in memory"

    @property
    def accepted_drop(self) -> float:
        """The largest drop that is not warned of."""
        return ACCEPTED_DROP if self.max_drop is None else self.max_drop
