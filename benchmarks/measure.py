"""Two ways to the same result, run alternately in one process: time, memory and difference."""

from __future__ import annotations

import ctypes
import gc
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unseg.utils.processor import (
    BFLOAT16_INSTRUCTIONS,
    bfloat16_instructions,
    instruction_sets,
)

MIB = 2**20
NO_BF16 = "CPU without bf16 instructions"
MATMUL_SIDE = 8192


@dataclass(frozen=True)
class Settings:
    """What the command line says.

    Attributes:
        size: a key of `unseg.models.SIZES`.
        device: where models run.
        repeats: runs of either path.
        batch: images of one of our forward passes; the plain path always takes one.
        num_images: images of a `generate` or `train` run.
        profile: print the profiler's top rows of our path.
    """

    size: str = "tiny"
    device: torch.device = torch.device("cpu")
    repeats: int = 5
    batch: int = 1
    num_images: int = 32
    profile: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison.

    Attributes:
        benchmark: its name.
        case: what distinguishes it from the benchmark's other rows.
        ours: median seconds of our path: CPU time of the process, or wall time on CUDA.
        plain: the same of the plain path.
        difference: largest difference of the two results.
        bound: what it may be.
        unit: of difference and bound.
        memory_ours: peak memory in MiB above what was held before the run, or None.
        memory_plain: the same of the plain path.
        goal: ratio to reach, or None.
        memory_goal: largest memory_ours / memory_plain, or None.
        note: what the reader should know.
        extra: further figures.
    """

    benchmark: str
    case: str
    ours: float
    plain: float
    difference: float
    bound: float
    unit: str
    memory_ours: float | None = None
    memory_plain: float | None = None
    goal: float | None = None
    memory_goal: float | None = None
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times faster than the plain path."""
        return self.plain / self.ours

    @property
    def memory_ratio(self) -> float | None:
        """Our peak memory as a share of the plain path's."""
        if self.memory_ours is None or not self.memory_plain:
            return None
        return self.memory_ours / self.memory_plain


def compare(
    benchmark: str,
    case: str,
    *,
    settings: Settings,
    ours: Callable[[], Any],
    plain: Callable[[], Any],
    difference: Callable[[Any, Any], float],
    bound: float,
    unit: str,
    images: int = 1,
    number: int = 1,
    **more: Any,
) -> Row:
    """Run both paths alternately and compare.

    Args:
        benchmark: name of the benchmark.
        case: name of the row.
        settings: device and repeats.
        ours: our path; returns its result.
        plain: the plain path.
        difference: largest difference of two results.
        bound: what it may be.
        unit: of both.
        images: images in one call: seconds are an image's.
        number: calls in one timing, for what takes less than a few milliseconds.
        more: further fields of the row; `flops` (an image's) becomes TFLOP/s on CUDA.
    """
    flops = more.pop("flops", None)
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    peaks: dict[str, float | None] = {}
    results: dict[str, Any] = {}
    for repeat in range(settings.repeats):
        for name, path in (("plain", plain), ("ours", ours)):
            watch = None if repeat else PeakMemory(settings.device)
            start = now(settings.device)
            for _ in range(number):
                result = path()
            times[name].append((now(settings.device) - start) / number / images)
            if watch is not None:
                results[name] = result
                peaks[name] = watch.peak()
            del result
    medians = {name: statistics.median(values) for name, values in times.items()}
    extra = {"repeats": settings.repeats, "times": times, **more.pop("extra", {})}
    if settings.device.type == "cuda" and flops is not None:
        reached = flops() / medians["ours"] / 1e12
        extra |= {"tflops": reached, "share_of_peak": reached / matmul_peak(settings.device)}
    if settings.profile:
        extra["profile"] = top_rows(ours, settings.device)
    return Row(
        benchmark=benchmark,
        case=case,
        ours=medians["ours"],
        plain=medians["plain"],
        difference=float(difference(results["ours"], results["plain"])),
        bound=bound,
        unit=unit,
        memory_ours=peaks["ours"],
        memory_plain=peaks["plain"],
        extra=extra,
        **more,
    )


def now(device: torch.device) -> float:
    """Seconds: CPU time of this process and its threads; on CUDA wall time of finished work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


class PeakMemory:
    """Peak memory from now on, above what is held now."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self.start: float | None = torch.cuda.memory_allocated(device) / MIB
            return
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)  # what the allocator kept of earlier runs would hide a peak
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
            self.start = _status("VmRSS")
        except OSError:
            self.start = None

    def peak(self) -> float | None:
        """MiB, or None where the system does not tell."""
        if self.start is None:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / MIB - self.start
        return max(_status("VmHWM") - self.start, 0.0)


def _status(key: str) -> float:
    """A figure of /proc/self/status in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {key}")


_peaks: dict[torch.device, float] = {}


def matmul_peak(device: torch.device) -> float:
    """TFLOP/s of a large bfloat16 matrix product, measured once."""
    if device not in _peaks:
        a = torch.randn(MATMUL_SIDE, MATMUL_SIDE, device=device, dtype=torch.bfloat16)
        best = float("inf")
        for _ in range(20):
            start = now(device)
            _ = a @ a
            best = min(best, now(device) - start)
        _peaks[device] = 2 * MATMUL_SIDE**3 / best / 1e12
    return _peaks[device]


def top_rows(path: Callable[[], Any], device: torch.device) -> str:
    """The profiler's ten largest rows of one call."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    key = "self_cpu_time_total"
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        key = "self_cuda_time_total"
    with torch.profiler.profile(activities=activities) as profiler:
        path()
        now(device)
    return profiler.key_averages().table(sort_by=key, row_limit=10, max_name_column_width=60)


def largest(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference of two tensors."""
    return (found.double() - expected.double()).abs().max().item()


def bf16_note(device: torch.device) -> str:
    """Which instructions bfloat16 runs on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return " and ".join(bfloat16_instructions()) or NO_BF16


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    name = platform.processor() or platform.machine()
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.is_file() else ():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    shown: list[str] = [name for name in ("avx2", "avx512f") if name in instruction_sets()]
    shown.append(
        " ".join(bfloat16_instructions()) or f"no bf16 ({', '.join(BFLOAT16_INSTRUCTIONS)})"
    )
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": name,
        "instructions": " ".join(shown),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["matmul_tflops"] = round(matmul_peak(device), 1)
    return found
