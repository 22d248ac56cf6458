"""Try several recipes on the calibration data, and go on with the best that meets the bounds.

Each is calibrated on every other sample and compared with the float model on those between; the data for evaluation
are for what comes out in the end. The recipe that is taken is run as if it had been given, on all of the data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from calibration.parts import halves
from calibration.sources import open_data
from ptq.errors import AuditError, ModelError, OptionError, PtqError, UnmetError, rounded_up
from ptq.pipeline import single
from ptq.pipeline.job import Job
from ptq.pipeline.result import Result
from ptq.pipeline.stages import Stages
from ptq.recipe import AUTO, Auto, Recipe
from ptq.report import EXACTNESS, NOISE, Report, Trial, Trials, drops

AS_SMALL: Final = 1.05
"""Files up to this part of the smallest count as that small, so that the faster is taken."""

_REFUSALS: Final = (OptionError, ModelError, AuditError)
"""What one recipe may raise where others work."""


def made(about: Job, auto: Auto, stages: Stages) -> Result:
    """Quantize a model by the best recipe and measure the result, as a file that is not yet where the job wants it.

    With a drop to keep to, the best is the smallest file, of such the fastest, of such the most exact; with nothing
    but a size, the most accurate.

    Raises:
        OptionError: there are no data to compare on.
        UnmetError: no recipe meets the bounds.

    """
    _check_data(about)
    _check_early(about, auto)
    trials = _tried(about, auto, stages)
    while (best := _best(trials)) is not None:
        result = single.made(about, auto.recipes[best.recipe], stages)
        size = result.written.bytes
        if trials.target_bytes is None or size <= trials.target_bytes:
            return Result(result.written, replace(result.report, trials=replace(trials, taken=best.recipe)))
        missed = replace(best, met=False, note=f"{size:,} bytes when calibrated on all of the data")
        trials = replace(trials, tried=tuple(missed if each is best else each for each in trials.tried))
    raise UnmetError(_unmet(trials), trials)


def preview(about: Job, auto: Auto, stages: Stages) -> Trials:
    """What `made` would try, without running the network; nothing is written."""
    _check_data(about)
    _check_early(about, auto)
    once = replace(single.exported(about), output=None)
    tried, _ = _each(auto, partial(_planned, once, stages=stages), lambda: None)
    return Trials(tuple(replace(trial, seconds=0.0) for trial in tried), _largest_drop(about), None)


def _planned(about: Job, name: str, recipe: Recipe, *, stages: Stages) -> Trial:
    outline = single.planned(about, recipe, stages)
    return Trial(name, outline.bits_per_weight, outline.bytes)


@dataclass
class _Comparison:
    """Runs recipes on the two parts of the data; remembers what all have in common."""

    about: Job
    report: Report | None = None

    def trial(self, name: str, recipe: Recipe) -> Trial:
        """What a recipe comes to."""
        self.report = report = single.made(self.about, recipe, Stages()).report
        accuracy, file = report.accuracy, report.file
        if accuracy is None:
            raise AssertionError
        lost = {} if accuracy.nonfinite else drops(accuracy)
        return Trial(
            name,
            report.bits_per_weight,
            file.bytes,
            max(lost.values(), default=None),
            accuracy.sqnr_db,
            file.latency_ratio,
            note=None if lost else "its outputs are NaN or Inf",
        )


def _tried(about: Job, auto: Auto, stages: Stages) -> Trials:
    """What each recipe comes to, and which meet the bounds.

    Raises:
        PtqError: all are refused, for one reason.

    """
    ones, others = halves(open_data(about.data, about.images))
    comparing = _Comparison(replace(single.exported(about), data=ones, evaluation=others, output=None))
    with stages.stage("try", len(auto.recipes)) as advance:
        tried, errors = _each(auto, comparing.trial, advance)
    report = comparing.report
    if report is None or report.accuracy is None:
        raise errors[0]
    target = None if about.target_size is None else about.target_size.bytes(report.file.float_bytes)
    measure = " and ".join(drops(report.accuracy)) or "outputs that are not finite"
    found = Trials(tried, _largest_drop(about), target, measure, report.accuracy.samples)
    return replace(found, tried=tuple(_judged(trial, found) for trial in tried))


def _each(
    auto: Auto, trial: Callable[[str, Recipe], Trial], advance: Callable[[], None]
) -> tuple[tuple[Trial, ...], list[PtqError]]:
    """A trial of each recipe, those that are refused with the reason, and the errors by which they are."""
    tried, errors = [], list[PtqError]()
    for name, recipe in auto.recipes.items():
        start = time.perf_counter()
        try:
            made = trial(name, recipe)
        except _REFUSALS as error:
            errors.append(error)
            made = Trial(name, note=str(error))
        tried.append(replace(made, seconds=time.perf_counter() - start))
        advance()
    tried += [Trial(name, note=why) for name, why in auto.refused.items()]
    return tuple(tried), errors


def _judged(trial: Trial, among: Trials) -> Trial:
    """A trial with whether it meets the bounds, and why not."""
    if trial.drop is None or trial.bytes is None:
        return trial
    missed = []
    if among.max_drop is not None and trial.drop > among.max_drop + EXACTNESS:
        missed.append("loses too much")
    if among.target_bytes is not None and trial.bytes > among.target_bytes:
        missed.append("too large")
    return replace(trial, met=not missed, note=", ".join(missed) or None)


def _best(trials: Trials) -> Trial | None:
    met = [trial for trial in trials.tried if trial.met]
    if not met:
        return None
    if trials.max_drop is None:
        return min(met, key=lambda trial: (max(_number(trial.drop), 0.0), -_number(trial.sqnr_db)))
    smallest = AS_SMALL * min(_number(trial.bytes) for trial in met)
    small = [trial for trial in met if _number(trial.bytes) <= smallest]
    fastest = NOISE * min(_number(trial.latency_ratio) for trial in small)
    fast = [trial for trial in small if _number(trial.latency_ratio) <= fastest]
    return max(fast, key=lambda trial: _number(trial.sqnr_db))


def _number(value: float | None) -> float:
    """What was not measured counts as without end: outputs that are equal, and a time of which nothing is known."""
    return math.inf if value is None else value


def _unmet(trials: Trials) -> str:
    measured = [trial for trial in trials.tried if trial.drop is not None]
    said = f"--method {AUTO}: none of {len(trials.tried)} recipes has {trials.bounds}"
    if not measured:
        return f"{said}, the outputs of all being NaN or Inf; check the calibration data"
    near = _nearest(measured, trials.target_bytes)
    drop = rounded_up(_number(near.drop), 4)
    return (
        f"{said}; nearest is {near.recipe} with a drop of {drop} ({trials.measure}) and {near.bytes:,} bytes: "
        f"allow as much, or give more calibration data"
    )


def _nearest(measured: Sequence[Trial], target: int | None) -> Trial:
    """That of the least drop among those that are small enough; else the smallest."""
    fitting = [trial for trial in measured if target is None or _number(trial.bytes) <= target]
    if fitting:
        return min(fitting, key=lambda trial: _number(trial.drop))
    return min(measured, key=lambda trial: _number(trial.bytes))


def _largest_drop(about: Job) -> float | None:
    """The drop to keep to: as said, else the usual one unless a size is what matters."""
    return about.max_drop if about.target_size is not None else about.accepted_drop


def _check_data(about: Job) -> None:
    if about.data is None:
        raise OptionError(f"--method {AUTO} compares recipes on calibration data, of which there are none; give --data")


def _check_early(about: Job, auto: Auto) -> None:
    """Find out before all the work whether the result could be evaluated and written.

    Raises:
        PtqError: it could not.

    """
    for recipe in auto.recipes.values():
        try:
            single.planned(about, recipe, Stages())
        except _REFUSALS:
            continue
        return
