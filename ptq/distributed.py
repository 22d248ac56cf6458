"""What ranks exchange while they work on a run together, over gloo, and NCCL for what lies on a GPU.

All make the same calls in the same order, and what comes back is the same on all; where there is only one, nothing
happens. Values go in the forms of `ptq.cache.encoding`, never as pickles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

from ptq.cache.encoding import Encoder, decoded
from ptq.errors import DistributedError, UnlikeError
from ptq.heartbeat import beating
from ptq.ranks import Ranks, present, ranks

_JOINING: Final = timedelta(minutes=10)
_PATIENCE: Final = timedelta(days=7)
"""How long a rank waits for another one that is alive: a share may take longer than the others."""

_TREE: Final = "ptq.tree"

T = TypeVar("T")


@contextmanager
def joined(lost: Callable[[str], None]) -> Iterator[Ranks]:
    """Work together with the other ranks that the environment names, while this lasts.

    Another thread calls `lost` where one of them is silent for too long (`ptq.heartbeat`).

    Raises:
        DistributedError: they are not there.

    """
    try:
        store, rank, size = next(rendezvous("env://", timeout=_JOINING))
    except (RuntimeError, ValueError) as error:
        raise _unreachable(error) from error
    with present(store, rank, size) as here:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise _unreachable(error) from error
        try:
            with beating(here, lost):
                yield here
        finally:
            with suppress(RuntimeError):  # of a group that is broken
                distributed.destroy_process_group()


def add_up(values: Tensor) -> None:
    """Make a tensor the sum of those of all ranks, in place."""
    if ranks().size > 1:
        with _together():
            distributed.all_reduce(values)


def gathered(value: T) -> list[T]:
    """What each rank gives, in their order."""
    here = ranks()
    if here.size == 1:
        return [value]
    contents = [_packed(value) if rank == here.rank else b"" for rank in range(here.size)]
    return [_unpacked(spread(content, rank)) for rank, content in enumerate(contents)]


def spread(content: bytes, owner: int) -> bytes:
    """The bytes that one rank, the owner, gives, on all."""
    here = ranks()
    if here.size == 1:
        return content
    with _together():
        size = torch.tensor([len(content)])
        distributed.broadcast(size, owner)
        values = torch.empty(int(size), dtype=torch.uint8)
        if owner == here.rank:
            values.numpy()[:] = memoryview(content)
        distributed.broadcast(values, owner)
    return content if owner == here.rank else values.numpy().tobytes()


def check_alike(what: str, value: str) -> None:
    """Refuse ranks that do not work on the same thing.

    Raises:
        UnlikeError: one of them has another; the same on all.

    """
    here = ranks()
    first, *others = gathered(value)
    for rank, found in enumerate(others, 1):
        if found != first:
            raise UnlikeError(
                f"{here.name(rank)} has {what} unlike {here.name(0)}; give all the same files, options and versions"
            )


@contextmanager
def _together() -> Iterator[None]:
    """Turn a rank that is gone into one line."""
    try:
        yield
    except RuntimeError as error:
        raise _unreachable(error) from error


def _unreachable(error: Exception) -> DistributedError:
    line = " ".join(str(error).split())[:200]
    return DistributedError(ranks().ended() or f"the other ranks are out of reach ({line}); start all of them again")


def _packed(value: Any) -> bytes:
    encoder = Encoder()
    tree = json.dumps(encoder.tree(value)).encode()
    found: bytes = save(encoder.tensors | {_TREE: torch.frombuffer(bytearray(tree), dtype=torch.uint8)})
    return found


def _unpacked(content: bytes) -> Any:
    tensors = load(content)
    return decoded(json.loads(tensors[_TREE].numpy().tobytes()), tensors)
