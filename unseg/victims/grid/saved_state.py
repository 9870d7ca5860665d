"""The state of a cell in training as a file, so that a stopped one goes on."""

from __future__ import annotations

import io
import logging
import threading
import time
from pathlib import Path

import torch

from unseg.io.files import atomic_write_bytes
from unseg.io.weight_files.read import read_weight_file
from unseg.utils import distributed
from unseg.victims.training.fit import FitState

_log = logging.getLogger(__name__)
STATE = "state.pt"


class StateSaver:
    """Writes a fit's state now and then, and finds it again; the same moments on every process.

    Args:
        path: the file.
        seconds: of training between two writes.
        steps: between two writes, however long they took; None: time alone counts.
        asked: set where the fit is to write its state and stop.
    """

    def __init__(
        self,
        path: Path,
        *,
        seconds: float,
        steps: int | None = None,
        asked: threading.Event | None = None,
    ) -> None:
        self.path, self.seconds, self.steps = path, seconds, steps
        self.asked = asked or threading.Event()
        self._last, self._count, self._stops = time.monotonic(), 0, False

    def is_due(self) -> bool:
        """Whether any process finds that it is time."""
        self._count += 1
        is_late = time.monotonic() - self._last >= self.seconds
        is_full = self.steps is not None and self._count >= self.steps
        is_due, self._stops = distributed.any_rank(is_late or is_full, self.asked.is_set())
        return is_due or self._stops

    def keep(self, state: FitState) -> None:
        """Write the state; raises KeyboardInterrupt where the fit was asked to stop."""
        if distributed.is_main():
            buffer = io.BytesIO()
            torch.save({**vars(state)}, buffer)
            atomic_write_bytes(self.path, buffer.getvalue())
        self._last, self._count = time.monotonic(), 0
        if self._stops:
            raise KeyboardInterrupt

    def load(self) -> FitState | None:
        """The last state on the CPU, or None.

        Raises:
            UserError: the file is damaged.
        """
        if not self.path.is_file():
            return None
        values = read_weight_file(self.path, remedy="delete it and the cell begins again").content
        state = FitState(**values)
        _log.info(
            "%s: goes on after epoch %d, step %d", self.path.parent.name, state.epoch, state.step
        )
        return state
