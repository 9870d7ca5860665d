"""One writer for numbers and pictures of a run: `metrics.jsonl` and TensorBoard, same names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unseg.io.files import atomic_write


class MetricLog:
    """Writes scalars and pictures of a run; rank 0 alone should hold an enabled one.

    Args:
        run_dir: the run directory, made where missing.
        tensorboard: also write `tensorboard/` below it.
        resume_step: keep what was written up to this step and drop what is later, so that a run
            that is continued holds every step once. None starts or appends as is.
        enabled: False makes every call do nothing (the other ranks).
    """

    def __init__(
        self,
        run_dir: str | Path,
        *,
        tensorboard: bool = True,
        resume_step: int | None = None,
        enabled: bool = True,
    ) -> None:
        self._file: Any = None
        self._writer: Any = None
        if not enabled:
            return
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / "metrics.jsonl"
        if resume_step is not None and path.exists():
            _drop_later(path, resume_step)
        self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            purge = None if resume_step is None else resume_step + 1
            self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of one step; a value that is not finite is stored as null."""
        if self._file is None:
            return
        numbers = {name: float(value) for name, value in values.items()}
        shown = {name: v if math.isfinite(v) else None for name, v in numbers.items()}
        self._file.write(json.dumps({"step": int(step), **shown}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, int(step))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Show a picture in TensorBoard; (H, W, 3) uint8 RGB."""
        if self._writer is not None:
            self._writer.add_image(name, image, int(step), dataformats="HWC")

    def close(self) -> None:
        """Write out what is buffered; later calls do nothing."""
        if self._writer is not None:
            self._writer.close()
        if self._file is not None:
            self._file.close()
        self._file = self._writer = None

    def __enter__(self) -> MetricLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _drop_later(path: Path, last_step: int) -> None:
    """Rewrite `metrics.jsonl` without steps after `last_step` and without a half-written line."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        step = record.get("step", 0) if isinstance(record, dict) else None
        if isinstance(step, int) and step <= last_step:
            kept.append(line + "\n")
    with atomic_write(path, "w") as file:
        file.writelines(kept)
