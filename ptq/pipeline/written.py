"""A quantized model as files: written where nobody looks, then brought to its place whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ptq.disk import writing
from ptq.errors import OutputError
from ptq.model.graph import Model
from ptq.model.save import LARGEST, beside, refer_to, refers_to, write
from ptq.pipeline.output import check_free, publish

_UNNAMED = "quantized.onnx"


@dataclass(eq=False)
class Written:
    """An ONNX model as a file, and another one where one does not hold it; those of `of` go when this does."""

    path: Path
    data: Path | None
    _drop: Callable[[], object] = field(default=lambda: None, init=False, repr=False)
    """Removes the folder, where `of` made one."""

    @classmethod
    def of(cls, model: Model, output: Path | None = None, most_bytes: int = LARGEST) -> Written:
        """Write a model: on the disk of its output, where that is known, so that it need not be copied to get there.

        Raises:
            OutputError: the disk does not take it.

        """
        path = Path(_UNNAMED) if output is None else output
        with writing(output):
            folder = tempfile.mkdtemp(prefix=f".{path.name}.", dir=None if output is None else path.parent)
            found = cls(Path(folder) / path.name, None)
            found._drop = weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
            try:
                found.data = write(model, found.path, most_bytes)
            except BaseException:
                found._drop()
                raise
        return found

    @property
    def bytes(self) -> int:
        """How many there are, in both files."""
        return sum(path.stat().st_size for path in (self.path, self.data) if path is not None)

    def copy(self, path: Path, *, overwrite: bool) -> None:
        """Copy it to a path.

        Raises:
            OutputError: the file exists and may not be overwritten, or cannot be written.

        """
        self._place(path, overwrite=overwrite, bring=shutil.copyfile)

    def move(self, path: Path, *, overwrite: bool) -> None:
        """Move it to a path, where it is from then on.

        Raises:
            OutputError: the file exists and may not be overwritten, or cannot be written.

        """
        data = self._place(path, overwrite=overwrite, bring=shutil.move)
        self._drop()
        self.path, self.data = path, data

    def _place(self, path: Path, *, overwrite: bool, bring: Callable[[Path, Path], object]) -> Path | None:
        """Bring the files to a path and beside it: the weights first, as a model must not be seen without its own."""
        check_free(path, overwrite=overwrite)
        data = beside(path)
        if self.data is not None and data.exists() and not overwrite:
            raise OutputError(f"{data}, where the weights of the output go, exists; give another -o, or --overwrite")
        with writing(path):
            idle = self.data is None and path.exists() and refers_to(path, data.name)
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
                ready = Path(folder) / path.name
                bring(self.path, ready)
                if self.data is not None:
                    refer_to(ready, data.name)
                    bring(self.data, beside(ready))
                    path.unlink(missing_ok=True)
                    publish(beside(ready), data, overwrite=True)
                publish(ready, path, overwrite=overwrite)
            if idle:
                data.unlink(missing_ok=True)
        return None if self.data is None else data
