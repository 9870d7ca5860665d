"""Locks on folders between processes; the system frees them when a process dies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool, name: str = "lock") -> Iterator[bool]:
    """Whether this process now works alone on a folder.

    A system or a network disk without locks keeps nobody out: there every caller has the lock.

    Args:
        folder: made where missing.
        wait: until it is free; else yields False at once where another process holds it.
        name: of the lock file.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass
        yield True
