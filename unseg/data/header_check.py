"""The check of a data set before training: every header once, shared out over the processes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from unseg.data.pairs import DataError, Dataset, PairDataset, Subset, pair_sets, prepare
from unseg.utils import distributed
from unseg.utils.logging import Progress

_log = logging.getLogger(__name__)

_SLICE = 4096
"""Samples given to the threads at a time; the pool would make a future for each of a million."""


def check_dataset(
    dataset: Dataset,
    *,
    skip_faulty: bool = False,
    num_threads: int = 16,
    report: Callable[[str], None] | None = None,
) -> Dataset:
    """The data set once every header is checked; without its faulty samples if so asked.

    Every process calls it, and checks its share. Pairs that were sound before, and whose files
    have the size and time of then, are not opened again (see `KnownHeaders`).

    Args:
        dataset: to be checked, whole.
        skip_faulty: leave faulty samples out, each reported, instead of raising.
        num_threads: files opened at a time (opening waits, mostly).
        report: receives one line for each sample left out; a warning in the log by default.

    Raises:
        DataError: all faults at once, or a data set without samples.
    """
    known = list(pair_sets(dataset))
    for part in known:
        part.headers.open(part.key, len(part))
    found = _faults_of_share(dataset, num_threads)
    faults = dict(sorted(x for share in distributed.all_gather_object(found) for x in share))
    _share_headers(known)
    if faults and not skip_faulty:
        raise DataError(list(faults.values()))
    for fault in faults.values():
        (report or _warn)(fault)
    if len(faults) == len(dataset):
        raise DataError([f"{dataset.name}: has no usable pair"])
    prepare(dataset)
    if not faults:
        return dataset
    return Subset(dataset, np.setdiff1d(np.arange(len(dataset)), np.fromiter(faults, np.int64)))


def _faults_of_share(dataset: Dataset, num_threads: int) -> list[tuple[int, str]]:
    """(position, fault) of the faulty samples among those of this process."""
    share = range(distributed.rank(), len(dataset), distributed.world_size())
    faults: list[tuple[int, str]] = []
    with (
        ThreadPoolExecutor(num_threads) as pool,
        Progress(
            len(share), f"check {dataset.name}", unit="pairs", rank=distributed.rank()
        ) as progress,
    ):
        for start in range(0, len(share), _SLICE):
            indices = share[start : start + _SLICE]
            for index, fault in zip(indices, pool.map(dataset.fault, indices), strict=True):
                if fault:
                    faults.append((index, fault))
                progress.update()
    return faults


def _share_headers(parts: list[PairDataset]) -> None:
    """Keep on the disk what all processes have found sound; one of them writes it."""
    for part in parts:
        for indices, stamps in distributed.all_gather_object(part.headers.learned()):
            part.headers.take(indices, stamps)
        part.headers.close(save=distributed.is_main())


def _warn(fault: str) -> None:
    _log.warning("left out: %s", fault)
