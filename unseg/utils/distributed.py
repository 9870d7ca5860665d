"""Several processes as one: everything works alike on one CPU, one GPU and under `torchrun`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unseg.utils.errors import UserError

BUCKET_ELEMENTS = 1 << 24
"""Most elements summed in one message: 64 MiB of float32."""


def init() -> None:
    """Join the other processes where `torchrun` started this one; otherwise do nothing."""
    if not dist.is_available() or dist.is_initialized() or "WORLD_SIZE" not in os.environ:
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend)


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
