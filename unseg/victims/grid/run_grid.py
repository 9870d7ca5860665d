"""The runner of a grid: protects each set once, runs each cell once, and survives being killed.

Any number of processes may share a run directory. Each takes the cells that nobody works on; the
operating system frees the lock of a process that dies, and the next one goes on from its state.
With `ranks_per_cell` a group of processes takes a cell together, led by its rank 0.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unseg.config.evaluate import CLEAN, FOLDER, EvaluateConfig
from unseg.config.load import to_yaml
from unseg.io.files import atomic_write_bytes, remove_temporary
from unseg.io.locks import locked
from unseg.utils import distributed
from unseg.utils.distributed import pick_device
from unseg.utils.errors import UserError
from unseg.victims.data.splits import make_pictures
from unseg.victims.grid.cells import Cell, GridFolders, expand
from unseg.victims.grid.preflight import check_grid
from unseg.victims.grid.protected_sets import make_protected
from unseg.victims.grid.run_cell import (
    RESULT,
    PictureSets,
    PreparedCell,
    prepare_cell,
    run_cell,
)
from unseg.victims.grid.saved_state import STATE

_log = logging.getLogger(__name__)
FAILURE = "failure.txt"
WORKERS_BESIDE_GPU = 4
_POLL_SECONDS = 2.0


@dataclass
class Outcome:
    """What became of a grid.

    Attributes:
        done: number of cells with a result, of this run and of earlier ones.
        failed: name of each failed cell, and the last line of its traceback.
    """

    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def run_grid(config: EvaluateConfig, *, origin: Mapping[str, Any] | None = None) -> Outcome:
    """Run every cell that has no result yet, and wait for those that other processes run.

    With `ranks_per_cell` every process of a group calls it, and gets the group's outcome.

    Args:
        config: of the grid.
        origin: recorded in each result: `command`, `commit`, `environment`.
    """
    check_grid(config)
    device = pick_device(config.device)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    folders = GridFolders(config)
    cells = expand(config)
    if distributed.is_main():
        folders.run_dir.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(folders.run_dir / "config.yaml", to_yaml(config).encode())
        folders.record(cells)
    runner = _Runner(config, folders, device, len(cells), origin or {})
    runner.run(cells)
    return distributed.from_main(lambda: runner.outcome)


class _Runner:
    def __init__(
        self,
        config: EvaluateConfig,
        folders: GridFolders,
        device: torch.device,
        total: int,
        origin: Mapping[str, Any],
    ) -> None:
        self.config, self.folders, self.device = config, folders, device
        workers = config.num_workers
        if workers is None:
            workers = 0 if device.type == "cpu" else WORKERS_BESIDE_GPU
        self.sets = PictureSets(config, folders, workers)
        self.outcome = Outcome()
        self.total, self.origin = total, origin
        self._started = time.time()
        self._ran = 0

    def run(self, cells: list[Cell]) -> None:
        """Take free cells until none is left that is neither done nor failed."""
        waiting = list(cells)
        if distributed.world_size() > 1:
            # A failed cell may end a group (see `_failed`): the others come first next time.
            failed = distributed.from_main(lambda: [self._has_failed(cell) for cell in cells])
            waiting = [cells[i] for i in sorted(range(len(cells)), key=failed.__getitem__)]
        while waiting:
            busy = [cell for cell in waiting if not self._settle(cell)]
            if len(busy) == len(waiting):
                time.sleep(_POLL_SECONDS)
            waiting = busy

    def _has_failed(self, cell: Cell) -> bool:
        return (self.folders.cell(cell) / FAILURE).is_file()

    def _settle(self, cell: Cell) -> bool:
        """Whether a cell is done or failed now; False where another process works on it."""
        folder = self.folders.cell(cell)
        with ExitStack() as lock:
            is_settled = distributed.from_main(lambda: self._take(cell, folder, lock))
            if is_settled is None:
                self._run(cell, folder)
        return is_settled is not False

    def _take(self, cell: Cell, folder: Path, lock: ExitStack) -> bool | None:
        """Whether a cell is done or failed; None where it is this process's to run now."""
        if self._is_done(folder):
            return True
        if not lock.enter_context(locked(folder, wait=False)):
            return False
        # Another process may have finished it between the look and the lock.
        if self._is_done(folder) or self._failed_elsewhere(cell, folder):
            return True
        remove_temporary(folder)
        return None

    def _is_done(self, folder: Path) -> bool:
        if not (folder / RESULT).is_file():
            return False
        # A process killed between writing the result and removing its state leaves both.
        (folder / STATE).unlink(missing_ok=True)
        self.outcome.done += 1
        return True

    def _failed_elsewhere(self, cell: Cell, folder: Path) -> bool:
        """Whether a process that runs beside this one has failed at it just now."""
        report = folder / FAILURE
        if not report.is_file() or report.stat().st_mtime < self._started:
            return False
        self.outcome.failed[cell.name] = report.read_text(encoding="utf-8").strip().split("\n")[-1]
        return True

    def _run(self, cell: Cell, folder: Path) -> None:
        try:
            ready, error = self._prepare(cell), None
        except Exception as raised:  # noqa: BLE001 - one bad cell must not stop the others
            ready, error = None, raised
        if any(distributed.any_rank(error is not None)):
            self._failed(cell, folder, error or UserError("another process cannot prepare it"))
            return
        assert ready is not None
        try:
            result = run_cell(ready, self.config, folder, origin=self.origin)
        except Exception as raised:  # noqa: BLE001
            self._failed(cell, folder, raised)
            if distributed.world_size() > 1 and not isinstance(raised, FloatingPointError):
                # The others wait for this process in the middle of a step: `torchrun` ends them.
                raise SystemExit(1) from raised
            return
        if distributed.is_main():
            (folder / FAILURE).unlink(missing_ok=True)
            self.outcome.done += 1
            self._ran += 1
            self._report(cell, result)

    def _failed(self, cell: Cell, folder: Path, error: Exception) -> None:
        text = "".join(traceback.format_exception(error))
        atomic_write_bytes(folder / FAILURE, text.encode())
        self.outcome.failed[cell.name] = f"{type(error).__name__}: {error}"
        _log.error("%s failed: %s: %s", cell.name, type(error).__name__, error)

    def _report(self, cell: Cell, result: dict[str, Any]) -> None:
        selected = result["scores"]["selected"]
        _log.info(
            "cell %d/%d %s: %s %.1f %% on clean test (epoch %d), %.0f s; %s left",
            self.outcome.done,
            self.total,
            cell.name,
            result["metric"],
            100 * selected["clean_test"]["score"],
            selected["epoch"],
            result["seconds"],
            self._time_left(),
        )

    def _time_left(self) -> str:
        settled = self.outcome.done + len(self.outcome.failed)
        left = (time.time() - self._started) / self._ran * (self.total - settled)
        return f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"

    def _prepare(self, cell: Cell) -> PreparedCell:
        section, pictures = self.config.data[cell.data], self.folders.pictures(cell.data)
        distributed.from_main(lambda: make_pictures(section, pictures))
        if cell.method != CLEAN and self.config.methods[cell.method].method != FOLDER:
            make_protected(self.config, self.folders, cell)
        return prepare_cell(cell, self.config, self.folders, self.sets, self.device)
