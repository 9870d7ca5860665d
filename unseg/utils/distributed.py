"""Several processes as one: everything works alike on one CPU, one GPU and under `torchrun`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from unseg.utils.errors import UserError

T = TypeVar("T")
BUCKET_ELEMENTS = 1 << 24
"""Most elements summed in one message: 64 MiB of float32."""


def init() -> None:
    """Join the other processes where `torchrun` started this one; otherwise do nothing."""
    if not dist.is_available() or dist.is_initialized() or "WORLD_SIZE" not in os.environ:
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend)


def init_group(size: int) -> None:
    """Join the `size - 1` neighbours that `torchrun` started beside this process.

    All processes that it started are divided into groups of `size`, which know nothing of each
    other. A group of one is no group. Nobody is timed out: a member may wait for hours while
    another writes, and `torchrun` ends them all where one dies.

    Raises:
        UserError: `torchrun` did not start a multiple of `size` processes.
    """
    if size == 1:
        return
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world % size or "MASTER_ADDR" not in os.environ:
        raise UserError(
            f"ranks_per_cell={size}: torchrun started {world} processes, which are no groups of "
            f"{size}; use NPROC={size} bash scripts/run_eval.sh (or a multiple)"
        )
    store, rank, _ = next(iter(rendezvous("env://")))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=PrefixStore(f"group {rank // size}", store),
        rank=rank % size,
        world_size=size,
        timeout=timedelta(days=7),
    )


def shutdown() -> None:
    """Leave the group of processes; harmless where there is none."""
    if _active():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, 0 where it is alone."""
    return dist.get_rank() if _active() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _active() else 1


def is_main() -> bool:
    """Whether this process is the one that writes and reports."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if _active():
        # A sum over a CPU tensor goes through gloo; `dist.barrier` would guess a CUDA device.
        dist.all_reduce(torch.zeros(1))


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum over all processes, as a new tensor."""
    total = tensor.clone()
    if _active():
        dist.all_reduce(total)
    return total


def all_gather_object(item: Any) -> list[Any]:
    """Every process's object, in the order of ranks. Only plain picklable values of our own."""
    if not _active():
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


def from_main(make: Callable[[], T]) -> T:
    """What rank 0 makes, on every rank; where it fails, every rank does.

    Only plain picklable values of our own.
    """
    if not _active():
        return make()
    box: list[Any] = [None, None]
    if not is_main():
        dist.broadcast_object_list(box)
        if box[1] is not None:
            raise UserError(box[1])
        return box[0]
    try:
        box[0] = make()
    except Exception as error:
        box[1] = f"{type(error).__name__}: {error}"
        raise
    finally:
        dist.broadcast_object_list(box)
    return box[0]


def in_turn(shares: list[tuple[int, T]]) -> list[T]:
    """The values of all processes, sorted by the number that stands before each."""
    everyone = [pair for share in all_gather_object(shares) for pair in share]
    return [value for _, value in sorted(everyone, key=lambda pair: pair[0])]


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """For each flag whether it is set on any process."""
    if not _active():
        return flags
    counts = torch.tensor([float(flag) for flag in flags])
    dist.all_reduce(counts)
    return tuple(count > 0 for count in counts.tolist())


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        del ctx
        return all_reduce_sum(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        del ctx
        return gradient


def sum_with_own_gradient(tensor: Tensor) -> Tensor:
    """Sum over all processes; its gradient reaches this process's own part alone.

    Added up over the processes, the gradients are those of one process that has all parts.
    """
    return _SumOverRanks.apply(tensor) if _active() else tensor


@torch.no_grad()
def all_reduce_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its sum over all processes.

    A gradient that one process lacks counts as zero there; one that all lack stays None, as in a
    single process. Gradients travel in a few flat buckets, which is exact and much faster than one
    message each.

    Args:
        parameters: the same tensors in the same order on every process.
    """
    if not _active():
        return
    wanted = [p for p in parameters if p.requires_grad]
    present = torch.tensor([float(p.grad is not None) for p in wanted])
    dist.all_reduce(present)
    used = [p for p, count in zip(wanted, present.tolist(), strict=True) if count > 0]
    for bucket in _buckets(used):
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        for parameter, part in zip(bucket, flat.split([g.numel() for g in grads]), strict=True):
            total = part.view_as(parameter)
            if parameter.grad is None:
                parameter.grad = total.clone()
            else:
                parameter.grad.copy_(total)


def pick_device(name: str = "auto") -> torch.device:
    """The device of this process.

    Args:
        name: "auto" (CUDA where there is any), "cpu", "cuda" (this process's own card) or
            "cuda:N".

    Raises:
        UserError: the device is unknown or not on this machine.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if available else "cpu"
    kind, _, index = name.partition(":")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (index and not index.isdecimal()) or name.endswith(":"):
        raise UserError(f"device={name}: must be auto, cpu, cuda or cuda:N")
    if not available:
        raise UserError(f"device={name}: no CUDA device on this machine; use device=cpu or auto")
    number = int(index) if index else int(os.environ.get("LOCAL_RANK", "0")) % available
    if number >= available:
        raise UserError(f"device={name}: this machine has cuda:0 to cuda:{available - 1}")
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def _buckets(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype and device, at most `BUCKET_ELEMENTS` together where possible."""
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        is_other = bool(bucket) and (parameter.dtype, parameter.device) != (
            bucket[0].dtype,
            bucket[0].device,
        )
        if bucket and (is_other or size + parameter.numel() > BUCKET_ELEMENTS):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket
