"""A recipe and pictures that a tiny victim learns within seconds, and whole sets in memory."""

from __future__ import annotations

import copy
from typing import Any

import torch

from unseg.config.dataset import DatasetConfig
from unseg.config.evaluate import RecipeConfig
from unseg.victims.data.load import FramedPictures
from unseg.victims.data.picture_set import Pictures
from unseg.victims.data.tensor_set import TensorSet
from unseg.victims.networks.victim import Victim
from unseg.victims.training.class_map_task import ClassMapTask
from unseg.victims.training.fit import FitState, fit

RECIPE = RecipeConfig(image_size=16, epochs=4, batch_size=4, lr=3e-3)


def tensor_set(count: int, seed: int = 0) -> TensorSet:
    """Bright squares on a dark ground."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.zeros(count, 16, 16, dtype=torch.uint8)
    for i in range(count):
        y, x = torch.randint(0, 8, (2,), generator=rng).tolist()
        labels[i, y : y + 8, x : x + 8] = 1
    noise = torch.randint(0, 60, (count, 3, 16, 16), generator=rng)
    images = (labels[:, None] * 150 + noise).to(torch.uint8)
    keys = tuple(f"p{seed}-{i}" for i in range(count))
    return TensorSet(images, labels, keys, torch.tensor([[16, 16]] * count))


def load_tensors(dataset: DatasetConfig, **how: Any) -> TensorSet:
    """A whole split in memory; arguments of `FramedPictures`."""
    files = FramedPictures(dataset, **how)
    return TensorSet.joined([files.decode(row) for row in range(len(files.keys))])


class MemorySource:
    """A set in memory as a source that counts what is decoded."""

    def __init__(self, data: TensorSet, name: str = "memory") -> None:
        self.data, self.name, self.keys = data, name, data.keys
        self.num_decoded = 0

    def decode(self, row: int) -> TensorSet:
        self.num_decoded += 1
        return self.data.select([row])


class StateCopies:
    """Keeps a copy of the state every few steps, and may stop the fit.

    Attributes:
        states: the copies.
    """

    def __init__(self, stop: tuple[int, int] | None = None, *, every: int = 1) -> None:
        self.stop = stop  # (epochs done, steps done of the next one)
        self.every, self.count = every, 0
        self.states: list[FitState] = []

    def is_due(self) -> bool:
        self.count += 1
        return self.count % self.every == 0

    def keep(self, state: FitState) -> None:
        self.states.append(copy.deepcopy(state))
        if (state.epoch, state.step) == self.stop:
            raise KeyboardInterrupt


def fit_copying(
    victim: Victim,
    train: Pictures,
    *,
    stop: tuple[int, int] | None = None,
    every: int = 1,
    **how: Any,
) -> list[FitState]:
    """Fit a victim with seed 5, whole or to a stop; returns copies of its state.

    Args:
        victim: learns two classes.
        train: to learn from.
        stop: and
        every: see `StateCopies`.
        **how: further arguments of `fit`, or others than here.
    """
    keeper = StateCopies(stop, every=every)
    how = {"task": ClassMapTask(2), "validation": None, "seed": 5, **how}
    try:
        fit(victim, train, keeper=keeper, **how)
    except KeyboardInterrupt:
        torch.manual_seed(99)  # what another process would have drawn
    return keeper.states
