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

from unseg.data.prompts import squashed_box
from unseg.data.records import Dataset, prepare
from unseg.data.transforms import OBJECT_ABOVE, squash, to_surrogate_frame, to_tensor
from unseg.utils.errors import UserError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationBatch:
    """Samples in the model's frame, and what their metrics are measured on.

    Attributes:
        image: (B, 3, S, S) float32 in [0, 1], squashed.
        mask: (B, 1, S, S) float32 in [0, 1], soft, squashed.
        boxes: (B, 4) of the object, in the generator's frame of side S.
        surrogate_boxes: (B, 4) in the surrogate's frame.
        masks: (H, W) bool, one a sample, at its native size.
        names: one a sample.
        indices: (B,) int64 positions in the data set.
    """

    image: Tensor
    mask: Tensor
    boxes: Tensor
    surrogate_boxes: Tensor
    masks: tuple[Tensor, ...]
    names: tuple[str, ...]
    indices: Tensor

    def __len__(self) -> int:
        return len(self.image)


_Unusable = tuple[str, str]


class _Squashed(TorchDataset):
    def __init__(self, dataset: Dataset, image_size: int, surrogate_image_size: int) -> None:
        self.dataset = dataset
        self.image_size, self.surrogate_image_size = image_size, surrogate_image_size

    def __getitem__(self, index: int) -> ValidationBatch | _Unusable:
        """A batch of one sample, or (name, reason) where it is unusable."""
        try:
            sample = self.dataset[index]
        except UserError as error:
            return self.dataset.sample_name(index), str(error)
        mask = to_tensor(sample.mask)
        native = mask[0, 0] > OBJECT_ABOVE
        if not native.any():
            return sample.name, "mask is all black (no pixel above 127)"
        square = squash(mask, self.image_size)
        # The surrogate sees the square made smaller; only where the object vanishes there is its
        # box scaled from the native mask.
        small = to_surrogate_frame(square, self.surrogate_image_size)
        return ValidationBatch(
            image=squash(to_tensor(sample.image), self.image_size),
            mask=square,
            boxes=squashed_box(square, native=mask),
            surrogate_boxes=squashed_box(small, native=mask),
            masks=(native,),
            names=(sample.name,),
            indices=torch.tensor([index]),
        )


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
            usable = []
            for row in rows:
                if isinstance(row, ValidationBatch):
                    usable.append(row)
                elif row[0] not in self._skipped:
                    self._skipped[row[0]] = row[1]
                    _log.warning("skipped %s: %s", *row)
            if usable:
                yield _join(usable)


def _join(rows: list[ValidationBatch]) -> ValidationBatch:
    return ValidationBatch(
        image=torch.cat([row.image for row in rows]),
        mask=torch.cat([row.mask for row in rows]),
        boxes=torch.cat([row.boxes for row in rows]),
        surrogate_boxes=torch.cat([row.surrogate_boxes for row in rows]),
        masks=tuple(mask for row in rows for mask in row.masks),
        names=tuple(name for row in rows for name in row.names),
        indices=torch.cat([row.indices for row in rows]),
    )
