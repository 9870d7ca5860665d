"""What the loop looks at while it runs: finite losses, running means, memory."""

from __future__ import annotations

import math
import resource
import time

import torch
from torch import Tensor

from unseg.utils.distributed import all_reduce_sum


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; the message names phase, epoch, step and samples."""


class FiniteWatch:
    """Stops the run at a loss that is not finite, without making a GPU wait.

    On the CPU the check comes before the weights change. On CUDA the value travels to the host
    while the next step is queued and is checked one step later; `flush` checks what is under way
    and must come before anything is saved.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event, str] | None = None

    def check(self, loss: Tensor, where: str) -> None:
        """Check, or begin to check, a scalar loss; `where` describes the step."""
        self.flush()
        if loss.device.type != "cuda":
            _require_finite(float(loss.detach()), where)
            return
        host = torch.empty((), dtype=loss.dtype, pin_memory=True)
        host.copy_(loss.detach(), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending = (host, event, where)

    def flush(self) -> None:
        """Finish the check under way.

        Raises:
            NonFiniteLossError: it failed.
        """
        if self._pending is None:
            return
        (value, event, where), self._pending = self._pending, None
        event.synchronize()
        _require_finite(float(value), where)


def _require_finite(value: float, where: str) -> None:
    if not math.isfinite(value):
        raise NonFiniteLossError(f"loss is {value} in {where}; the last checkpoint is intact")


class RunningLosses:
    """Mean losses per mask since the last report, over all ranks, with one transfer a report."""

    NAMES = ("loss", "loss_bce", "loss_dice")

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(self.NAMES) + 1, device=device)

    def add(self, *, total: Tensor, bce: Tensor, dice: Tensor) -> None:
        """Add the (B,) losses of some masks."""
        values = [total.sum(), bce.sum(), dice.sum(), torch.full_like(total, 1).sum()]
        self._sums += torch.stack([v.detach() for v in values])

    def report(self) -> dict[str, float]:
        """Means by name, then start anew. Every rank must call it."""
        *sums, count = all_reduce_sum(self._sums).tolist()
        self._sums.zero_()
        return {name: value / max(count, 1) for name, value in zip(self.NAMES, sums, strict=True)}


class Stopwatch:
    """Mean seconds a step, and how much of them was waiting for data."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything; the clock starts now."""
        self._steps = 0
        self._data = 0.0
        self._start = self._mark = time.perf_counter()

    def data_is_here(self) -> None:
        """A batch has arrived."""
        self._data += time.perf_counter() - self._mark

    def step_is_done(self) -> None:
        """A step has been queued; waiting for data begins."""
        self._steps += 1
        self._mark = time.perf_counter()

    def means(self) -> tuple[float, float]:
        """(seconds waiting for data, seconds in all) of a step."""
        steps = max(self._steps, 1)
        return self._data / steps, (time.perf_counter() - self._start) / steps


def memory_gib(device: torch.device) -> float:
    """Peak memory so far: of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
