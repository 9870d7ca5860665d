"""Sets of pictures that are decoded when they are asked for, by worker processes, batch by batch.

Memory is that of the cache and of a few batches on the way, whatever the set's size. What a batch
holds depends on neither the cache nor the number of workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from unseg.utils.errors import UserError
from unseg.victims.data.picture_cache import PictureCache
from unseg.victims.data.tensor_set import TensorSet

Rows = Sequence[int] | np.ndarray


class PictureSource(Protocol):
    """Where the pictures of a set come from, in one state (clean, or as a method left them)."""

    @property
    def name(self) -> Hashable:
        """Tells it from every other source of a process."""
        ...

    @property
    def keys(self) -> tuple[str, ...]:
        """The data set's own name of each picture."""
        ...

    def decode(self, row: int) -> TensorSet:
        """One picture, with its label, in the victim's frame.

        Raises:
            UserError: it is missing or damaged.
        """
        ...


class Pictures(Protocol):
    """A set as fitting and scoring know it: a `PictureSet`, or a `TensorSet` in memory."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The data set's own name of each picture."""
        ...

    def __len__(self) -> int: ...

    def load(self, rows: Rows) -> TensorSet:
        """A few pictures, decoded in this process."""
        ...

    def batches(self, chunks: Sequence[Rows]) -> Iterator[TensorSet]:
        """A batch for each list of rows, in order."""
        ...


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one or more sources, under one cache.

    Attributes:
        sources: of the pictures.
        which: (N,) int64 source of each picture.
        rows: (N,) int64 row of each picture in its source.
        cache: shared by all sets of a process.
        num_workers: processes that decode; 0 decodes in this one.
    """

    sources: tuple[PictureSource, ...]
    which: np.ndarray
    rows: np.ndarray
    cache: PictureCache
    num_workers: int = 0

    @staticmethod
    def of(source: PictureSource, cache: PictureCache, *, num_workers: int = 0) -> PictureSet:
        """All pictures of a source."""
        rows = np.arange(len(source.keys))
        return PictureSet((source,), np.zeros_like(rows), rows, cache, num_workers)

    @property
    def keys(self) -> tuple[str, ...]:
        """The data set's own name of each picture."""
        return tuple(self.sources[s].keys[r] for s, r in zip(self.which, self.rows, strict=True))

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Rows) -> PictureSet:
        """Some pictures of the set."""
        chosen = np.asarray(rows, np.int64)
        return PictureSet(
            self.sources, self.which[chosen], self.rows[chosen], self.cache, self.num_workers
        )

    def with_some_of(self, other: PictureSet, rows: Rows) -> PictureSet:
        """This set, but for some pictures, which are those of another set of the same rows."""
        which, own = self.which.copy(), self.rows.copy()
        chosen = np.asarray(rows, np.int64)
        which[chosen] = len(self.sources) + other.which[chosen]
        own[chosen] = other.rows[chosen]
        sources = (*self.sources, *other.sources)
        return PictureSet(sources, which, own, self.cache, self.num_workers)

    def load(self, rows: Rows) -> TensorSet:
        """A few pictures, decoded in this process."""
        return next(self._here([rows]))

    def batches(self, chunks: Sequence[Rows]) -> Iterator[TensorSet]:
        """A batch for each list of rows, in order; workers decode ahead what is not kept.

        Raises:
            UserError: a picture is missing or damaged.
        """
        wanted = (row for chunk in chunks for row in chunk)
        if self.num_workers == 0 or all(self._kept(row) is not None for row in wanted):
            return self._here(chunks)
        return self._ahead(chunks)

    def _kept(self, row: int) -> TensorSet | None:
        return self.cache.get(self.sources[self.which[row]].name, int(self.rows[row]))

    def _keep(self, row: int, picture: TensorSet) -> None:
        self.cache.put(self.sources[self.which[row]].name, int(self.rows[row]), picture)

    def _kept_or_decoded(self, row: int) -> TensorSet:
        picture = self._kept(row)
        if picture is None:
            picture = self.sources[self.which[row]].decode(int(self.rows[row]))
            self._keep(row, picture)
        return picture

    def _here(self, chunks: Sequence[Rows]) -> Iterator[TensorSet]:
        for chunk in chunks:
            yield TensorSet.joined([self._kept_or_decoded(row) for row in chunk])

    def _ahead(self, chunks: Sequence[Rows]) -> Iterator[TensorSet]:
        jobs = _Jobs(self, chunks)
        loader = DataLoader(
            _Decoding(self.sources, self.which, self.rows),
            batch_sampler=jobs,
            num_workers=self.num_workers,
            # A defence that was fitted is a function, which a new process could not be sent.
            multiprocessing_context="fork",
            collate_fn=_as_it_is,
            # The loader draws a seed for its workers; no draw of ours may depend on that.
            generator=torch.Generator().manual_seed(0),
        )
        decoded = iter(loader)
        job, batch = _next(decoded, jobs)
        for step, chunk in enumerate(chunks):
            fresh: dict[int, TensorSet] = {}
            if batch is not None and job is not None and job[0] == step:
                fresh = dict(zip(job[1], batch.single(), strict=True))
                for row, picture in fresh.items():
                    self._keep(row, picture)
                job, batch = _next(decoded, jobs)
            # What was kept when the job was given may have left the cache since.
            yield TensorSet.joined(
                [fresh[row] if row in fresh else self._kept_or_decoded(row) for row in chunk]
            )


def _next(
    decoded: Iterator[TensorSet | str], jobs: _Jobs
) -> tuple[tuple[int, list[int]] | None, TensorSet | None]:
    """The next job (step, rows) and what the workers made of it; None at the end."""
    batch = next(decoded, None)
    if isinstance(batch, str):
        raise UserError(batch)
    return (None, None) if batch is None else (jobs.given.popleft(), batch)


class _Jobs:
    """What of each step's rows is not kept: the jobs of the workers, and a list of those given."""

    def __init__(self, pictures: PictureSet, chunks: Sequence[Rows]) -> None:
        self.pictures, self.chunks = pictures, chunks
        self.given: deque[tuple[int, list[int]]] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        for step, chunk in enumerate(self.chunks):
            missing = [int(row) for row in chunk if self.pictures._kept(row) is None]
            missing = list(dict.fromkeys(missing))
            if missing:
                self.given.append((step, missing))
                yield missing


@dataclass(frozen=True)
class _Decoding(Dataset[TensorSet]):
    """What workers run; see `PictureSet`."""

    sources: tuple[PictureSource, ...]
    which: np.ndarray
    rows: np.ndarray

    def __getitems__(self, rows: Iterable[int]) -> TensorSet | str:
        """A batch, or what is wrong with a picture of it."""
        try:
            return TensorSet.joined(
                [self.sources[self.which[row]].decode(int(self.rows[row])) for row in rows]
            )
        except UserError as error:
            return str(error)


def _as_it_is(batch: Any) -> Any:
    return batch
