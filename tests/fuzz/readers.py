"""Fuzz what reads files: `PYTHONPATH=tests python tests/fuzz/readers.py npz --rounds 20000`.

A reader takes any bytes, or refuses them with an error of ours in one line. Where atheris is installed, `--atheris 60`
lets it look for new paths through the readers for so many seconds; else seeds are damaged by chance, the same ones at
every time.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

_INSTRUMENTED = ("calibration", "ptq.model.files", "ptq.model.foreign", "ptq.model.pickles", "ptq.model.tensors")
_ALSO = ("zipfile", "pickletools", "json", "ast", "numpy.lib._format_impl")


def targets(folder: Path) -> dict[str, Callable[[bytes], object]]:
    """The readers by name, each as a function of the bytes of a file."""
    import onnx
    from google.protobuf.message import DecodeError

    from calibration.sources import open_data
    from calibration.spec import InputSpec
    from ptq.model import pickles, programs
    from ptq.model.files import detect
    from ptq.model.tensors import check_tensors

    path = folder / "file"

    def detecting(data: bytes) -> None:
        path.write_bytes(data)
        detect(path)

    def arrays(data: bytes) -> None:
        """What is no torch file is opened, and walked through."""
        path.write_bytes(data)
        if data.startswith(b"\x80") or (data.startswith(b"PK") and not _all_npy(data)):
            return
        table = open_data(path).table
        if table is not None:
            with table.open() as reader:
                for name, header in table.headers.items():
                    if header.sample_bytes < 1 << 24:
                        take = reader(name)
                        take(0, 1), take(1, 3)

    def weights(data: bytes) -> None:
        try:
            proto = onnx.ModelProto.FromString(data)
        except DecodeError:
            return
        check_tensors(proto, path)

    def text(data: bytes) -> None:
        InputSpec.parse(data.decode("utf-8", "replace"))

    def formula(data: bytes) -> None:
        programs._is_formula(data.decode("utf-8", "replace"))

    return {
        "model": detecting,
        "pickle": lambda data: pickles.imports(io.BytesIO(data), "the file"),
        "data": arrays,
        "onnx": weights,
        "input": text,
        "formula": formula,
    }


def _all_npy(data: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except Exception:  # noqa: BLE001  (then it is for the reader to say so)
        return True


def seed_files(name: str) -> list[bytes]:
    """What to begin with."""
    import pickle

    import seeds
    from model_files import model_files

    if name == "model":
        return [data for _, data in model_files().values()]
    if name == "pickle":
        return [pickle.dumps({"a": [1.5, "b", (Path("c"), {"d": b"e"})]}, protocol) for protocol in range(6)]
    if name == "onnx":
        return list(seeds.onnx_models().values())
    if name == "input":
        return [b"x:float32[1,3,224,224]", b"ids:int64[batch,?]", b"x"]
    if name == "formula":
        return [b"s0 + 2*Max(1, s1//3)", b"math.trunc(s0 / 2) == 4", b"L['x'].size()[0] >= 2"]
    return [data for kind, data in seeds.data_files().items() if "pt" not in kind.split() and kind != "tensor"]


def checked(read: Callable[[bytes], object], data: bytes) -> None:
    """Read, and let pass only what a caller is told."""
    from ptq.errors import PtqError

    try:
        read(data)
    except PtqError as error:
        if "\n" in str(error):
            raise AssertionError(str(error)) from error


def by_chance(read: Callable[[bytes], object], begin: list[bytes], rounds: int) -> None:
    """Damage seeds; what fails is told with the number of the round."""
    from byte_mutations import damaged
    from file_mutations import changed_archive, changed_npy, changed_safetensors

    for number in range(rounds):
        random = Random(number)
        data = random.choice(begin)
        change: Any = {b"PK": changed_archive, b"\x93N": changed_npy}.get(data[:2])
        change = changed_safetensors if data[8:9] == b"{" else change
        data = change(data, random) if change and random.random() < 0.5 else damaged(data, random, begin)
        try:
            checked(read, data)
        except BaseException as error:
            error.add_note(f"round {number}, {len(data)} bytes: {data[:200]!r}")
            raise


def by_atheris(name: str, folder: Path, seconds: int) -> None:
    """Let atheris look for paths; it ends the process."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=[*_INSTRUMENTED, *_ALSO]):
        for module in (*_ALSO, *_INSTRUMENTED):
            importlib.import_module(module)
        read = targets(folder)[name]
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(seed_files(name)):
        (corpus / str(number)).write_bytes(data)
    options = [
        f"-max_total_time={seconds}",
        "-max_len=65536",
        "-rss_limit_mb=4096",
        f"-artifact_prefix={folder}/",
        "-timeout=20",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: checked(read, data))
    atheris.Fuzz()


def main() -> None:
    """Fuzz one reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=("model", "pickle", "data", "onnx", "input", "formula"))
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--atheris", type=int, metavar="SECONDS", help="with atheris, for so long")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ptq-fuzz-") as scratch:
        if options.atheris:
            by_atheris(options.target, Path(scratch), options.atheris)
        by_chance(targets(Path(scratch))[options.target], seed_files(options.target), options.rounds)
    sys.stdout.write(f"{options.rounds} rounds passed\n")


if __name__ == "__main__":
    main()
