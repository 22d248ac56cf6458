"""Compare quantized files, whoever made them, with the float model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibration.contract import fixed_batch
from calibration.dataset import Dataset, fit
from calibration.images import ImageOptions
from calibration.sources import open_data
from ptq.audit import Timing, census, file_bytes, float_numbers, load, peak_bytes, tensor_bits, timings
from ptq.disk import passing
from ptq.errors import ModelError, ModelFileError, OptionError
from ptq.evaluate import Accuracy, check_labels, check_metrics, evaluate_all
from ptq.model.capture import CaptureOptions, capture, onnx_file, read_proto
from ptq.model.graph import Model
from ptq.model.precision import computed_in
from ptq.model.save import write
from ptq.model.session import Session
from ptq.model.validity import check_bounded
from ptq.pipeline.describe import EVALUATION_BATCH
from ptq.pipeline.job import ACCEPTED_DROP, check_drop
from ptq.pipeline.manifest import digest, machine, versions
from ptq.pipeline.notes import precision_notes
from ptq.pipeline.portability import portability
from ptq.pipeline.stages import Stages
from ptq.report import ComparedFile, Comparison, Portability, comparison_warnings, short_names

_ONE: Final = (1,)

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Compared:
    """What is compared, and how: `threads` and `batches` are the settings of the timings, all with all."""

    model: Any
    files: Sequence[Path]
    evaluation: Any
    capture: CaptureOptions = field(default_factory=CaptureOptions)
    images: ImageOptions | None = None
    metrics: tuple[str, ...] = ()
    max_drop: float = ACCEPTED_DROP
    threads: tuple[int, ...] = _ONE
    batches: tuple[int, ...] = _ONE

    def __post_init__(self) -> None:
        """Check what can be checked without loading a model.

        Raises:
            OptionError: a number is out of its range, or there is no metric of a name.

        """
        check_metrics(self.metrics)
        check_drop(self.max_drop)
        for option, values in (("--threads", self.threads), ("--batch", self.batches)):
            if min(values, default=0) < 1:
                raise OptionError(f"{option} {min(values, default=0)} is no number from 1 up; give for example 1")


def compare(about: Compared, stages: Stages) -> Comparison:
    """Run all files on the data and in turns, and say what each comes to.

    A file that does not load, or not run as the float model does, is reported as that; the others are compared.

    Raises:
        PtqError: the float model or the data are at fault, or a file is not there.

    """
    missing = [path for path in about.files if not path.is_file()]
    if missing or not about.files:
        wrong = f"{missing[0]} does not exist" if missing else "there is no file to compare with the model"
        raise ModelError(f"{wrong}; give ONNX files")
    source = open_data(about.evaluation, about.images, "--eval")
    with passing() as folder:
        with stages.stage("capture"):
            model = Model(capture(about.model, about.capture, source.example()))
            reference = as_file(about.model, model, folder)
        data = fit(source, model.inputs)
        check_labels(data.labels, model.shape(model.outputs[0]), source.title)
        accuracies, failures = _evaluated(about, reference, data, stages)
        paths = list(dict.fromkeys([reference, *accuracies]))
        with stages.stage("audit", len(paths)) as advance:
            numbers = max(float_numbers(reference), 1)
            files = {path: _costs(path, numbers, data, advance) for path in paths}
        notes = _check_order(reference, list(accuracies), files)
        ported, unsimulated = _ported(reference, list(accuracies), data, stages)
        files |= {path: replace(files[path], portability=found) for path, found in ported.items()}
        times, untimed = _timed(about, paths, data, stages)
        files = {path: replace(file, timings=times[path]) for path, file in files.items()}
    of_float = files[reference]
    compared = {path: ComparedFile(str(path), failure=why) for path, why in failures.items()}
    for path, accuracy in accuracies.items():
        seen = replace(files[path], accuracy=accuracy)
        compared[path] = replace(seen, warnings=comparison_warnings(seen, of_float, about.max_drop))
    return Comparison(
        _as_came(about.model, of_float),
        tuple(compared[path] for path in dict.fromkeys(about.files)),
        data.describe(),
        about.max_drop,
        versions(),
        machine(),
        (*precision_notes(model), *notes, *unsimulated, *untimed),
    )


def _as_came(source: object, measured: ComparedFile) -> ComparedFile:
    """The float model under its own name, and with the size of its own file where that was measured in float32."""
    own = onnx_file(source)
    if own is None:
        return replace(measured, path=str(source) if isinstance(source, Path) else "in memory")
    return replace(measured, path=str(own), sha256=digest(own), bytes=file_bytes(own))


def as_file(source: object, model: Model, folder: Path) -> Path:
    """The float model as users run it, or in float32 where it computes in other floats."""
    own = onnx_file(source)
    if own is not None and computed_in(model.graph) is None:
        return own
    path = folder / "float.onnx"
    write(model, path)
    return path


def _evaluated(
    about: Compared, reference: Path, data: Dataset, stages: Stages
) -> tuple[dict[Path, Accuracy], dict[Path, str]]:
    """How accurate each file is, and why others cannot be compared."""
    first = Session(reference)
    size = fixed_batch(data.inputs)
    sessions, failures = dict[Path, Session](), dict[Path, str]()
    for path in dict.fromkeys(about.files):
        try:
            check_bounded(read_proto(path), path)
            session = Session(path)
            common = _common_size(session, first, size)
            batch = next(data.batches(common or 1))
            if batch.size < (common or 1):
                raise ModelError(
                    f"it is fixed to batches of {common}, and the data have {batch.size}; give more samples"
                )
            _check_output(session, first, batch.feeds)
        except (ModelError, ModelFileError) as error:
            failures[path] = str(error)
        else:
            sessions[path], size = session, common
    total = None if data.samples is None else -(-data.samples // (size or EVALUATION_BATCH))
    with stages.stage("evaluate", total) as advance:

        def batches() -> Iterator[Any]:
            for batch in data.batches(size or EVALUATION_BATCH):
                if size is None or batch.size == size:
                    yield batch
                advance()

        found = evaluate_all(first, list(sessions.values()), batches(), about.metrics)
    return dict(zip(sessions, found, strict=True)), failures


def _common_size(session: Session, first: Session, size: int | None) -> int | None:
    """The size that batches must have for this session too, where `size` is what they must for those before it.

    Raises:
        ModelError: it takes other inputs than the float model, or batches of another size.

    """
    if set(session.inputs) != set(first.inputs):
        theirs, ours = (", ".join(map(repr, each.inputs)) for each in (session, first))
        raise ModelError(f"its inputs are {theirs}, those of the float model {ours}; compare files of one network")
    if session.batch is not None and size is not None and session.batch != size:
        raise ModelError(f"it is fixed to batches of {session.batch}, others to {size}; compare it apart from these")
    return size or session.batch


def _check_output(session: Session, first: Session, feeds: Feeds) -> None:
    """Run both on a batch.

    Raises:
        ModelError: one does not run, or their first outputs differ in shape.

    """
    shapes = [each.run(feeds, each.outputs[:1])[0].shape for each in (session, first)]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"its output {session.outputs[0]!r} is {list(shapes[0])}, that of the float model {list(shapes[1])}; "
            f"compare files of one network"
        )


def _costs(path: Path, numbers: int, data: Dataset, advance: Any) -> ComparedFile:
    """What a file costs besides time; `numbers` are those of the float model."""
    kernels = census(path)
    session, seconds = load(path)
    found = ComparedFile(
        str(path),
        digest(path),
        file_bytes(path),
        tensor_bits(path) / numbers,
        seconds,
        peak_bytes(path, next(data.batches(session.batch or 1)).feeds),
        kernels.kernels,
        kernels.integer,
        kernels.decoded,
        kernels.others,
    )
    advance()
    return found


def _check_order(reference: Path, paths: Sequence[Path], files: Mapping[Path, ComparedFile]) -> list[str]:
    """A note where the model is quantized itself.

    Raises:
        ModelError: it is, and the files are not.

    """
    layers = files[reference].integer
    if not layers:
        return []
    if paths and not any(files[path].integer for path in paths):
        raise ModelError(
            f"the first file computes {layers} layers in int8, {paths[0]} none; are they swapped? give the float model "
            f"first"
        )
    return [f"the model computes {layers} layers in int8 itself; figures are in relation to that, not to a float model"]


def _ported(
    reference: Path, paths: Sequence[Path], data: Dataset, stages: Stages
) -> tuple[dict[Path, Portability | None], list[str]]:
    """What every file answers on processors without VNNI, and notes on files of which that is not known."""
    session = Session(reference)
    found, notes = dict[Path, Portability | None](), dict[str, list[str]]()
    names = short_names(list(map(str, paths)))
    with stages.stage("port", len(paths)) as advance:
        for name, path in zip(names, paths, strict=True):
            found[path], why = portability(session, path, data)
            for note in why:
                notes.setdefault(note, []).append(name)
            advance()
    return found, [f"{', '.join(of)}: {note}" for note, of in notes.items()]


def _timed(
    about: Compared, paths: Sequence[Path], data: Dataset, stages: Stages
) -> tuple[dict[Path, tuple[Timing, ...]], list[str]]:
    """The timings of every file in every setting, and notes on settings that cannot be."""
    fixed = next((size for path in paths if (size := Session(path).batch) is not None), None)
    sizes = dict.fromkeys(fixed or size for size in about.batches)
    notes = []
    if fixed and list(sizes) != list(about.batches):
        notes.append(f"batches are of {fixed}, to which a model is fixed")
    found: dict[Path, tuple[Timing, ...]] = dict.fromkeys(paths, ())
    settings = [(threads, size) for threads in dict.fromkeys(about.threads) for size in sizes]
    with stages.stage("time", len(settings)) as advance:
        for threads, size in settings:
            batch = next(data.batches(size))
            if batch.size < size:
                notes.append(f"not timed in batches of {size}: the data have no whole one")
            else:
                for path, timing in zip(paths, timings(paths, batch.feeds, threads), strict=True):
                    found[path] = (*found[path], timing)
            advance()
    return found, notes
