"""Which pairs were sound when they were last looked at, kept by size and time of their files."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np

from unseg.io.files import atomic_write_bytes, make_folder
from unseg.utils.errors import UserError

RULES = 1
"""Raised when the header check begins to refuse more than before."""

MIN_PAIRS = 1000
"""Smaller sets are read in a second, and not kept."""

Stamps = tuple[int, int, int, int]
"""Size in bytes and time of change in nanoseconds, of the image and of the mask."""


class KnownHeaders:
    """A row of stamps for each pair that was found sound; zeros for the others.

    It knows and learns nothing before `open` and after `close`.
    """

    def __init__(self) -> None:
        self._path = Path()
        self._rows: np.ndarray | None = None
        self._learned: list[int] = []

    def open(self, key: bytes, count: int) -> None:
        """Take up what earlier checks have found.

        Args:
            key: tells this list of pairs from every other.
            count: its length.
        """
        name = hashlib.sha256(key + bytes([RULES])).hexdigest()[:32]
        self._path = cache_folder() / "headers" / f"{name}.i64"
        self._rows, self._learned = np.zeros((count, 4), np.int64), []
        with contextlib.suppress(OSError):
            data = self._path.read_bytes() if count >= MIN_PAIRS else b""
            if len(data) == self._rows.nbytes:
                self._rows = np.frombuffer(data, np.int64).reshape(-1, 4).copy()

    def holds(self, index: int, stamps: Stamps) -> bool:
        """Whether a pair was sound and has not changed since."""
        return self._rows is not None and tuple(self._rows[index].tolist()) == stamps

    def learn(self, index: int, stamps: Stamps) -> None:
        """Remember that a pair is sound."""
        if self._rows is not None:
            self._rows[index] = stamps
            self._learned.append(index)

    def learned(self) -> tuple[list[int], np.ndarray]:
        """Pairs (N) learned since `open`, and their stamps (N, 4), for the other processes."""
        assert self._rows is not None
        return self._learned, self._rows[self._learned]

    def take(self, indices: list[int], stamps: np.ndarray) -> None:
        """Remember what another process has learned."""
        assert self._rows is not None
        self._rows[indices] = stamps
        self._learned = sorted({*self._learned, *indices})

    def close(self, *, save: bool) -> None:
        """Forget the rows; before that, `save` keeps what is new, where the disk lets it."""
        if save and self._learned and self._rows is not None and len(self._rows) >= MIN_PAIRS:
            with contextlib.suppress(UserError, OSError):
                make_folder(self._path.parent)
                atomic_write_bytes(self._path, self._rows.tobytes())
        self._rows, self._learned = None, []


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/unseg`, or `~/.cache/unseg`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unseg"


def stamps_of(image: Path, mask: Path) -> Stamps | None:
    """Stamps of two files, links followed; None where one cannot be looked at."""
    try:
        a, b = image.stat(), mask.stat()
    except (OSError, ValueError):
        return None
    return a.st_size, a.st_mtime_ns, b.st_size, b.st_mtime_ns
