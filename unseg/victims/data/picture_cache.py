"""Decoded pictures in memory, up to a number of bytes, for all sets of a process together."""

from __future__ import annotations

from collections.abc import Hashable

from unseg.victims.data.tensor_set import TensorSet


class PictureCache:
    """Keeps the first pictures that it is given, and gives them back as they were.

    Every picture of a training set is as likely to be asked for next as any other, so what is in
    the cache stays: to exchange pictures would cost work and serve no more of them. Sets that the
    present cell does not use make room.

    Args:
        limit: in bytes; 0 keeps nothing.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.num_bytes = 0
        self._sets: dict[Hashable, dict[int, TensorSet]] = {}
        self._current: set[Hashable] = set()

    def begin_cell(self, limit: int) -> None:
        """From now on other sets are in use, under another limit."""
        self.limit = limit
        self._current = set()
        self._make_room(0)

    def use(self, name: Hashable) -> None:
        """The present cell uses this set; of the others, those used longest ago go first."""
        self._current.add(name)
        self._sets[name] = self._sets.pop(name, {})

    def get(self, name: Hashable, row: int) -> TensorSet | None:
        """A picture of a set, or None where it is not kept."""
        return self._sets.get(name, {}).get(row)

    def put(self, name: Hashable, row: int, picture: TensorSet) -> None:
        """Keep a picture where there is room for it."""
        pictures = self._sets.setdefault(name, {})
        size = picture.num_bytes
        if row not in pictures and self._make_room(size):
            pictures[row] = picture
            self.num_bytes += size

    def _make_room(self, size: int) -> bool:
        """Drop sets that are not in use until `size` more bytes fit; whether they do."""
        for name in [n for n in self._sets if n not in self._current]:
            if self.num_bytes + size <= self.limit:
                break
            self.num_bytes -= sum(p.num_bytes for p in self._sets.pop(name).values())
        return self.num_bytes + size <= self.limit
