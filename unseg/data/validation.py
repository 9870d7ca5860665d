"""Validation batches: squashed to the model's square, with box prompts and native masks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from unseg.data.jitter import to_tensor
from unseg.data.mask_values import NO_OBJECT
from unseg.data.pairs import Dataset, prepare
from unseg.data.prompts import OBJECT_ABOVE, bilinear, squashed_box
from unseg.types import Batch, Prompts
from unseg.utils.errors import UserError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationBatch:
    """Samples in the model's frame, and what their metrics are measured on.

    Attributes:
        batch: squashed images and soft masks, box prompts of both players.
        native_masks: one (H, W) bool tensor a sample, on the CPU.
    """

    batch: Batch
    native_masks: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.batch)

    def to(self, device: torch.device | str) -> ValidationBatch:
        """The batch on another device; native masks stay."""
        return ValidationBatch(self.batch.to(device), self.native_masks)


_Row = tuple[Batch, Tensor] | tuple[str, str]


class _Squashed(TorchDataset):
    def __init__(self, dataset: Dataset, image_size: int, surrogate_image_size: int) -> None:
        self.dataset = dataset
        self.image_size, self.surrogate_image_size = image_size, surrogate_image_size

    def __getitem__(self, index: int) -> _Row:
        """One sample as a batch of one with its native mask, or (name, reason) where unusable."""
        try:
            sample = self.dataset[index]
        except UserError as error:
            return self.dataset.sample_name(index), str(error)
        mask = to_tensor(sample.mask)
        native = mask[0, 0] > OBJECT_ABOVE
        if not native.any():
            return sample.name, NO_OBJECT
        square = bilinear(mask, self.image_size)
        # The surrogate sees the square made smaller; only where the object vanishes there is its
        # box scaled from the native mask.
        small = bilinear(square, self.surrogate_image_size)
        batch = Batch(
            image=bilinear(to_tensor(sample.image), self.image_size),
            mask=square,
            generator_prompts=Prompts(boxes=squashed_box(square, native=mask)),
            surrogate_prompts=Prompts(boxes=squashed_box(small, native=mask)),
            names=(sample.name,),
            indices=torch.tensor([index]),
        )
        return batch, native


class ValidationLoader:
    """Each sample of a data set once over all ranks, in batches, in order.

    Args:
        dataset: checked samples.
        image_size: side S of the generator's frame.
        surrogate_image_size: side of the surrogate's frame.
        batch_size: images of one batch on one rank.
        num_workers: processes that decode.
        rank, world_size: which samples this process gets (every `world_size`-th).
        limit: at most so many samples, spread evenly over the set; None: all.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        image_size: int,
        surrogate_image_size: int,
        batch_size: int = 8,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        limit: int | None = None,
    ) -> None:
        prepare(dataset)
        self.dataset, self.batch_size = dataset, batch_size
        count = len(dataset) if limit is None else min(limit, len(dataset))
        chosen = np.arange(count) * len(dataset) // max(count, 1)
        self._indices = [int(index) for index in chosen[rank::world_size]]
        self._skipped: dict[str, str] = {}
        self._loader = DataLoader(
            _Squashed(dataset, image_size, surrogate_image_size),
            batch_size=batch_size,
            sampler=self._indices,
            num_workers=num_workers,
            collate_fn=list,
            generator=torch.Generator().manual_seed(0),
        )

    def __len__(self) -> int:
        """Batches of this rank."""
        return -(-len(self._indices) // self.batch_size)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of the samples of this rank that could not be used."""
        return list(self._skipped.items())

    def __iter__(self) -> Iterator[ValidationBatch]:
        for rows in self._loader:
            usable: list[tuple[Batch, Tensor]] = []
            for first, second in rows:
                if isinstance(first, Batch):
                    usable.append((first, second))
                elif first not in self._skipped:
                    self._skipped[first] = second
                    _log.warning("skipped %s: %s", first, second)
            if usable:
                yield _join(usable)


def _join(rows: list[tuple[Batch, Tensor]]) -> ValidationBatch:
    batches = [batch for batch, _ in rows]
    ones = [1] * len(batches)
    joined = Batch(
        image=torch.cat([batch.image for batch in batches]),
        mask=torch.cat([batch.mask for batch in batches]),
        generator_prompts=Prompts.cat([batch.generator_prompts for batch in batches], ones),
        surrogate_prompts=Prompts.cat([batch.surrogate_prompts for batch in batches], ones),
        names=tuple(name for batch in batches for name in batch.names),
        indices=torch.cat([batch.indices for batch in batches]),
    )
    return ValidationBatch(joined, tuple(native for _, native in rows))
