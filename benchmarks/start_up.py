"""What a command costs from its start, beside what importing torch alone costs."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import Row, Settings
from benchmarks.pictures import write_set

ROOT = Path(__file__).resolve().parents[1]
NUM_PICTURES = 50
CALLS = {
    "import torch": ["-c", "import torch"],
    "weights list": ["-m", "unseg.cli", "weights", "list"],
    "one picture": ["-m", "unseg.cli", "protect", "images/00000.jpg", "--output", "one"],
    "fifty pictures": ["-m", "unseg.cli", "protect", "images", "--output", "fifty", "--restart"],
}
"""The first is what the others are compared with."""


class _Cost(NamedTuple):
    wall: float
    cpu: float


def start_up(settings: Settings) -> Iterator[Row]:
    """A table: wall time and CPU time of whole processes; 500 x 375 pictures, `default`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_set(folder, ((375, 500),) * NUM_PICTURES)
        found: dict[str, list[_Cost]] = {case: [] for case in CALLS}
        for _ in range(settings.repeats):
            for case, call in CALLS.items():
                found[case].append(_cost(call, folder))
    print(f"{'process':<16} {'wall s':>7} {'CPU s':>7} {'CPU / first':>12}")
    first = None
    for case, costs in found.items():
        cost = _Cost(*map(statistics.median, zip(*costs, strict=True)))
        first = first or cost
        print(
            f"{case:<16} {cost.wall:>7.2f} {cost.cpu:>7.2f} {cost.cpu / first.cpu:>12.2f}",
            flush=True,
        )
    yield from ()


def _cost(call: list[str], folder: Path) -> _Cost:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *call], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, call
    return _Cost(wall, usage.ru_utime + usage.ru_stime)
