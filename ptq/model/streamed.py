"""Weights that stay in their file until they are looked at, and are not kept then."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import onnx_ir as ir

from ptq import heap
from ptq.disk import writing
from ptq.errors import ModelFileError

PIECE = 1 << 22
_LEAST_SPOOLED = 1 << 16


class Streamed(ir.ExternalTensor):
    """A tensor in a file beside a model, read anew each time that its numbers are asked for.

    That of the library maps the whole file for each tensor and keeps it: of a model larger than memory all is in memory
    in the end.
    """

    @classmethod
    def of(cls, tensor: ir.ExternalTensor, folder: Path) -> Streamed:
        """The same tensor, in a file of this folder."""
        return cls(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=str(tensor.name),
            base_dir=folder,
        )

    def numpy(self) -> np.ndarray:
        """Its numbers.

        Raises:
            ModelFileError: the file no longer has them.

        """
        if self.dtype.bitwidth < 8:
            return np.array(ir.ExternalTensor.numpy(_mapped(self)))
        array = np.empty(self.shape.numpy(), self.dtype.numpy())
        flat = array.reshape(-1).view(np.uint8)
        with self._opened() as file:
            if file.readinto(flat) != flat.size:  # type: ignore[attr-defined]
                raise self._short()
        return array

    def loaded(self) -> ir.TensorProtocol:
        """The same in memory."""
        return ir.tensor(self.numpy(), dtype=self.dtype, name=self.name)

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> np.ndarray:
        """Its numbers, for NumPy."""
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def tobytes(self) -> bytes:
        """Its bytes as they lie in the file."""
        return b"".join(self.pieces())

    def tofile(self, file: BinaryIO) -> None:
        """Copy it, a piece at a time."""
        for piece in self.pieces():
            file.write(piece)

    def pieces(self) -> Iterator[bytes]:
        """Its bytes in order, a few at a time.

        Raises:
            ModelFileError: the file no longer has them.

        """
        left = self.nbytes
        with self._opened() as file:
            while left:
                piece = file.read(min(left, PIECE))
                if not piece:
                    raise self._short()
                left -= len(piece)
                yield piece

    def _opened(self) -> BinaryIO:
        try:
            file = Path(self.path).open("rb")  # noqa: SIM115  (closed by who asked for it)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ModelFileError(f"{self.path}, which has the weight {self.name!r}: {reason}; put it back") from error
        file.seek(self.offset or 0)
        return file

    def _short(self) -> ModelFileError:
        return ModelFileError(
            f"the weight {self.name!r} ends behind the end of {self.path}, which has changed; save or download it again"
        )


def _mapped(tensor: Streamed) -> ir.ExternalTensor:
    """The library's own, which knows how numbers of less than a byte are packed."""
    return ir.ExternalTensor(
        tensor.location,
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=str(tensor.name),
        base_dir=tensor.base_dir,
    )


def pieces(tensor: ir.TensorProtocol) -> Iterator[bytes]:
    """The bytes of a tensor in order: a few at a time of one that is in a file, else all."""
    if isinstance(tensor, Streamed):
        yield from tensor.pieces()
    else:
        yield tensor.tobytes()


class Spool:
    """A file that the large weights of a graph go to as they are made, and are read from while it is open."""

    def __init__(self, output: Path | None = None) -> None:
        """A file on the disk of an output, or where the system has those that pass.

        Raises:
            OutputError: the disk does not take it.

        """
        folder, name = (None, "ptq") if output is None else (output.parent, output.name)
        with writing(output):
            self._folder = tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder)
        self._output, self._path = output, Path(self._folder.name) / "weights"
        self._end = 0

    def __enter__(self) -> Self:
        """The file is there."""
        return self

    def __exit__(self, *_: object) -> None:
        """The file goes."""
        self._folder.cleanup()

    def take(self, graph: ir.Graph) -> None:
        """Let the file have the large weights that a graph has in memory.

        Raises:
            OutputError: the disk does not take them.

        """
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes >= _LEAST_SPOOLED and not isinstance(tensor, Streamed):
                value.const_value = self._put(tensor)
        heap.trim()

    def _put(self, tensor: ir.TensorProtocol) -> Streamed:
        with writing(self._output), self._path.open("ab") as file:
            file.write(tensor.tobytes())
        offset, self._end = self._end, self._end + tensor.nbytes
        return Streamed(
            self._path.name,
            offset,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=str(tensor.name),
            base_dir=self._path.parent,
        )
