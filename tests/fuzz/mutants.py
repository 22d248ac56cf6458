"""The files that are tried: number k of a kind is the same at every time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import onnx
import seeds
from byte_mutations import damaged
from file_mutations import bomb, changed_archive, changed_arrays, changed_npy, changed_safetensors
from graph_mutations import mutated
from tiny_models import matmul_onnx

_MOST_FED = 1 << 22
"""Numbers; what claims to want more is fed as the model before it was changed."""

_WAYS = (("--method", "rtn", "--weights", "int8"), ("--method", "rtn"), (), ("--method", "gptq", "--weights", "int4"))


@dataclass(frozen=True)
class Trial:
    """A command line, and the file that it is to write."""

    arguments: tuple[object, ...]
    written: Path | None
    reports: bool = False
    """Whether a file that does not run is a line of its report, and no error."""


def model_trial(number: int, folder: Path) -> Trial:
    """Write a damaged model and what it is fed; the command line for both."""
    random = Random(f"model {number}")
    path, data, out = folder / "model", folder / "x.npz", folder / "out.onnx"
    if random.random() < 0.8:
        made, feeds, options = _onnx(random)
    else:
        seed = random.choice(list(_torch().values()))
        made, feeds, options = _damaged_file(seed.data, random), seed.feeds, seed.options
    path.write_bytes(made)
    data.write_bytes(seeds.npz(feeds))
    kind = random.choices(("data", "none", "inspect", "dry", "compare"), (60, 15, 12, 8, 5))[0]
    way = random.choices(_WAYS, (60, 20, 12, 8))[0]
    if kind == "inspect":
        return Trial(("inspect", path, *options), None)
    if kind == "dry":
        return Trial(("quantize", path, "--dry-run", "--data", data, *way, *options), None)
    if kind == "compare":
        good = folder / "good.onnx"
        good.write_bytes(matmul_onnx().SerializeToString())
        data.write_bytes(seeds.npz(seeds.data_arrays()))
        return Trial(("compare", good, path, "--eval", data), None, reports=True)
    fed = ("--data", data) if kind == "data" else ()
    return Trial(("quantize", path, *fed, *way, *options, "-o", out), out)


def data_trial(number: int, folder: Path) -> Trial:
    """Write damaged data; the command line that reads them for a model that is whole."""
    random = Random(f"data {number}")
    path, out, model = folder / "x", folder / "out.onnx", folder / "model.onnx"
    options: tuple[object, ...] = ()
    if random.random() < 0.2:
        model.write_bytes(seeds.image_model())
        _write_images(path, random)
        options = seeds.IMAGE_OPTIONS
    else:
        model.write_bytes(matmul_onnx().SerializeToString())
        path.write_bytes(_data(random))
    given: tuple[object, ...] = (random.choice(("--data", "--data", "--eval")), path)
    if given[0] == "--eval" and random.random() < 0.5 and not options:
        good = folder / "good.npz"
        good.write_bytes(seeds.npz(seeds.data_arrays()))
        given = (*given, "--data", good)
    return Trial(("quantize", model, *given, *options, *random.choice(_WAYS[:2]), "-o", out), out)


TRIALS: Mapping[str, Callable[[int, Path], Trial]] = {"models": model_trial, "data": data_trial}


@cache
def _onnx_seeds() -> dict[str, bytes]:
    return seeds.onnx_models()


@cache
def _torch() -> dict[str, seeds.Model]:
    return seeds.torch_models()


def _onnx(random: Random) -> tuple[bytes, Mapping[str, np.ndarray], tuple[str, ...]]:
    known = list(_onnx_seeds().values())
    whole = random.choice(known)
    made = mutated(whole, random) if random.random() < 0.75 else damaged(whole, random, known)
    feeds = _feeds(made, random)
    return made, _feeds(whole, random) or {} if feeds is None else feeds, ()


def _feeds(data: bytes, random: Random) -> dict[str, np.ndarray] | None:
    """Numbers for the inputs of a model, None where it says nothing of them that could be made."""
    rng = np.random.default_rng(random.randrange(1 << 32))
    try:
        graph = onnx.ModelProto.FromString(data).graph
        stored = {tensor.name for tensor in graph.initializer}
        wanted = {each.name: each.type.tensor_type for each in graph.input if each.name not in stored}
        found = {}
        for name, kind in wanted.items():
            shape = [size.dim_value or seeds.SAMPLES for size in kind.shape.dim] or [seeds.SAMPLES, 4]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if np.prod(shape, dtype=object) > _MOST_FED or min(shape) < 0:
                return None
            floats = np.dtype(dtype).kind == "f"
            found[name] = (rng.standard_normal(shape) if floats else np.ones(shape)).astype(dtype)
        seeds.npz(found)
    except Exception:  # noqa: BLE001  (a damaged model has no numbers, whatever protobuf, NumPy and ONNX say of it)
        return None
    return found


def _damaged_file(data: bytes, random: Random) -> bytes:
    """Damage to a file by what it is."""
    if random.random() < 0.4:
        return damaged(data, random)
    if data.startswith(b"PK"):
        return changed_archive(data, random)
    if data.startswith(b"\x93NUMPY"):
        return changed_npy(data, random)
    return changed_safetensors(data, random) if data[8:9] == b"{" else damaged(data, random)


def _data(random: Random) -> bytes:
    kind = random.random()
    if kind < 0.02:
        return bomb(random)
    if kind < 0.4:
        return changed_arrays(seeds.data_arrays(), random)
    return _damaged_file(random.choice(list(_data_seeds().values())), random)


@cache
def _data_seeds() -> dict[str, bytes]:
    return seeds.data_files()


def _write_images(folder: Path, random: Random) -> None:
    """A folder of some images, one of which is damaged."""
    inside = folder / "class" if random.random() < 0.5 else folder
    inside.mkdir(parents=True)
    kinds = seeds.images()
    for count, (suffix, data) in enumerate(random.sample(list(kinds.items()), 3)):
        other = random.choice(list(kinds)) if random.random() < 0.1 else suffix
        (inside / f"{count}.{other}").write_bytes(data if count else damaged(data, random))
