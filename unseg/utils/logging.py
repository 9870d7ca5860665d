"""Logging as entry points set it up, and progress for whoever waits."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

_FORMAT = "%(asctime)s %(levelname).1s %(name)s: %(message)s"
_log = logging.getLogger(__name__)


def setup_logging(log_file: str | Path | None = None, rank: int = 0) -> None:
    """Send the package's messages to standard error and, on rank 0, also to a file.

    Rank 0 reports from INFO, the others from WARNING with their rank. Calling it again replaces
    what an earlier call set up.

    Args:
        log_file: appended to; its folder is made where missing.
        rank: number of this process.
    """
    logger = logging.getLogger("unseg")
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_file is not None and rank == 0:
        Path(log_file).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
    text = _FORMAT if rank == 0 else f"[rank {rank}] {_FORMAT}"
    for handler in handlers:
        handler.setFormatter(logging.Formatter(text, datefmt="%H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    logger.propagate = False


def setup_messages() -> None:
    """Send the package's warnings to standard error, as commands for people print them.

    One line each without time or module, for example `warning: the disk is probably too small`.
    Calling it again, or after `setup_logging`, replaces what was set up.
    """
    setup_logging()
    logger = logging.getLogger("unseg")
    for handler in logger.handlers:
        handler.setFormatter(_Plain())
    logger.setLevel(logging.WARNING)


class _Plain(logging.Formatter):
    """`warning: text`, with the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class Progress:
    """Speed and remaining time of a long job: a bar in a terminal, else a line now and then.

    Args:
        total: number of items, or None where unknown.
        what: what is being done, for the line ("protect").
        unit: what is counted.
        rank: only rank 0 shows anything.
        every: seconds between lines where there is no terminal.
        is_shown: False where the caller shows how far the job is.
    """

    def __init__(
        self,
        total: int | None,
        what: str,
        *,
        unit: str = "images",
        rank: int = 0,
        every: float = 30.0,
        is_shown: bool = True,
    ) -> None:
        self.done = 0
        self._total, self._what, self._unit, self._every = total, what, unit, every
        self._is_shown = is_shown and rank == 0
        self._start = self._last = time.monotonic()
        self._bar: Any = None
        if self._is_shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=what, unit=" " + unit, dynamic_ncols=True)

    def update(self, count: int = 1) -> None:
        """Count finished items."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._is_shown and time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            _log.info("%s", self.line())

    @property
    def part(self) -> float:
        """Of the items that are finished, in [0, 1]; 0 where their number is unknown."""
        return self.done / self._total if self._total else 0.0

    @property
    def left(self) -> str:
        """Time that is left at the speed so far, for example `2:03` or `1:02:03`; "" if unknown."""
        if not (self._total and self.done):
            return ""
        left = round(max(self._total - self.done, 0) / self._speed)
        hours, minutes, seconds = left // 3600, left // 60 % 60, left % 60
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

    @property
    def _speed(self) -> float:
        return self.done / max(time.monotonic() - self._start, 1e-9)

    def line(self) -> str:
        """For example `protect 120/500 (24 %), 3.10 images/s, 2:03 left`."""
        text = f"{self._what} {self.done}"
        if self._total:
            text += f"/{self._total} ({100 * self.done // self._total} %)"
        text += f", {self._speed:.2f} {self._unit}/s"
        return f"{text}, {self.left} left" if self.left else text

    def close(self) -> None:
        """End the bar, or report the whole job in one line."""
        if self._bar is not None:
            self._bar.close()
        elif self._is_shown:
            _log.info("%s", self.line())
        self._is_shown, self._bar = False, None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
