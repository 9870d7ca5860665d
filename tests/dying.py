"""Processes that end themselves at a counted event: `kill -9` without a clock.

    python tests/dying.py PATTERN MOMENT COUNT SIGNAL SCRIPT_OR_MODULE [arguments ...]

runs a script (`train.py`) or a module (`unseg.cli`) that sends itself SIGNAL at the COUNT-th file
that fits PATTERN, at the MOMENT named. Whether a test hits that event does not depend on the speed
of the machine.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

FileMoment = Literal["half", "whole", "named"]
"""A file takes its final name: half of it is written, all of it, or it has its name."""

LineMoment = Literal["line", "torn"]
"""A line is appended to a manifest: it is written, or a part of it."""


@dataclass(frozen=True)
class Death:
    """When a process ends.

    Attributes:
        pattern: of the file's final path, for the moments of a file.
        moment: what has just happened.
        count: how often, from 1.
        number: the signal.
    """

    pattern: str
    moment: FileMoment | LineMoment
    count: int = 1
    number: signal.Signals = signal.SIGKILL

    def words(self) -> list[str]:
        """As arguments of this script."""
        return [self.pattern, self.moment, str(self.count), self.number.name]

    @classmethod
    def parse(cls, pattern: str, moment: Any, count: str, number: str) -> Death:
        """From arguments of this script."""
        return cls(pattern, moment, int(count), signal.Signals[number])

    def command(self, *call: str) -> list[str]:
        """The command that runs `call` (a script or module, and its arguments) to this death."""
        return [sys.executable, str(Path(__file__).resolve()), *self.words(), *call]


def arm(death: Death) -> None:
    """Let this process, which must be a child of the test, end at that event."""
    if death.moment in get_args(FileMoment):
        _watch_names(death)
    else:
        _watch_lines(death)


class _Counter:
    """True at the n-th call, whichever thread calls."""

    def __init__(self, count: int) -> None:
        self._left, self._lock = count, threading.Lock()

    def __call__(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left == 0


def _watch_names(death: Death) -> None:
    """Every atomic write ends with `os.replace`."""
    is_time, replace = _Counter(death.count), os.replace

    def watched(source: Any, target: Any, **options: Any) -> None:
        dies = Path(target).match(death.pattern) and is_time()
        if dies and death.moment == "half":
            os.truncate(source, Path(source).stat().st_size // 2)
        if dies and death.moment != "named":
            os.kill(os.getpid(), death.number)
        replace(source, target, **options)
        if dies and death.moment == "named":
            os.kill(os.getpid(), death.number)

    os.replace = watched


def _watch_lines(death: Death) -> None:
    from unseg.protection.writing.manifest import PartWriter

    is_time, append = _Counter(death.count), PartWriter.append

    def watched(part: PartWriter, entry: Any) -> None:
        append(part, entry)
        if is_time():
            if death.moment == "torn":
                os.truncate(part.path, part.path.stat().st_size - 20)
            os.kill(os.getpid(), death.number)

    PartWriter.append = watched


def main() -> None:
    """Run `python tests/dying.py ...`."""
    death, call = Death.parse(*sys.argv[1:5]), sys.argv[5:]
    arm(death)
    sys.argv = call
    # As `python SCRIPT` and `python -m MODULE` do: the script's folder, or this one, comes first.
    sys.path[0] = str(Path(call[0]).resolve().parent) if call[0].endswith(".py") else ""
    if call[0].endswith(".py"):
        runpy.run_path(call[0], run_name="__main__")
    else:
        runpy.run_module(call[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
