"""Training batches: decoded and drawn in worker processes, resized on the device.

A worker decodes a pair, draws its crop and its prompts, and hands over the uint8 source pixels
that the crop reads (`jitter.Window`), all samples of a batch in one buffer. The float32 resize
follows on the training device, or in the worker where that device is the CPU. Every draw comes
from (seed, epoch, sample index, purpose): neither workers nor ranks change a result.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from unseg.data.jitter import LargeScaleJitter, Window, cut_window, pad_to, render
from unseg.data.mask_values import NO_OBJECT, THRESHOLD
from unseg.data.pairs import DataError, Dataset, prepare
from unseg.data.prompts import OBJECT_ABOVE, bilinear, generator_prompts, surrogate_prompts
from unseg.types import Batch, Prompts, Sample
from unseg.utils.errors import UserError
from unseg.utils.seed import numpy_generator

_log = logging.getLogger(__name__)

NUM_CROPS = 8
"""Crops drawn of a sample until one shows its object; then another sample takes its place."""

NUM_REPLACEMENTS = 64
"""Samples tried in one place of a batch until the data set is given up as unusable."""


@dataclass(frozen=True)
class Frames:
    """Sides, in pixels, of the frames and prompt masks of both players."""

    image_size: int
    generator_mask_size: int
    surrogate_image_size: int
    surrogate_mask_size: int


@dataclass(frozen=True)
class PendingBatch:
    """A batch whose pictures are not there yet: the training device renders them.

    Attributes:
        windows: of image and mask together (4 channels), one a sample; their pixels are meta
            tensors that tell the shape alone.
        pixels: (N,) uint8, the pixels of all windows one after the other: one buffer between
            processes and one copy to the device.
        image_size: side S of the pictures to be.
        generator_prompts, surrogate_prompts, names, indices: as in `unseg.types.Batch`.
    """

    windows: list[Window]
    pixels: Tensor
    image_size: int
    generator_prompts: Prompts
    surrogate_prompts: Prompts
    names: tuple[str, ...]
    indices: Tensor

    def __len__(self) -> int:
        return len(self.windows)

    def pin_memory(self) -> PendingBatch:
        """Called by DataLoader: pinned pixels are copied to the device without waiting."""
        return replace(self, pixels=self.pixels.pin_memory())

    def render(self, device: torch.device | str) -> Batch:
        """The batch with its pixels, on the device."""
        pixels = self.pixels.to(device, non_blocking=True)
        parts = pixels.split([window.pixels.numel() for window in self.windows])
        side = self.image_size
        image = torch.zeros(len(self), 3, side, side, device=device)
        mask = torch.zeros(len(self), 1, side, side, device=device)
        for row, (window, part) in enumerate(zip(self.windows, parts, strict=True)):
            crop = render(replace(window, pixels=part.view(window.pixels.shape)), device)
            height, width = crop.shape[1:]
            image[row, :, :height, :width] = crop[:3]
            mask[row, :, :height, :width] = crop[3:]
        return Batch(
            image=image,
            mask=mask,
            generator_prompts=self.generator_prompts.to(device, non_blocking=True),
            surrogate_prompts=self.surrogate_prompts.to(device, non_blocking=True),
            names=self.names,
            indices=self.indices,
        )


Skipped = list[tuple[str, str]]
"""(name, reason) of samples that were passed over."""

Job = tuple[int, tuple[int, ...]]
"""An epoch and the positions of the samples that make one rank's part of a global batch."""


class _JitteredBatches(TorchDataset):
    """What workers run: a job in, a batch out, its pictures rendered or pending."""

    def __init__(
        self,
        dataset: Dataset,
        frames: Frames,
        jitter: LargeScaleJitter,
        seed: int,
        *,
        renders: bool,
    ) -> None:
        self.dataset, self.frames, self.jitter = dataset, frames, jitter
        self.seed, self.renders = seed, renders

    def __getitem__(self, job: Job) -> tuple[Batch | PendingBatch, Skipped]:
        epoch, indices = job
        skipped: Skipped = []
        drawn = [self._draw(epoch, index, skipped) for index in indices]
        windows = [window for _, _, window, _ in drawn]
        prompts = [
            self._prompts(epoch, index, mask)
            for index, (_, _, _, mask) in zip(indices, drawn, strict=True)
        ]
        ones = [1] * len(drawn)
        no_pixels = torch.empty(0, dtype=torch.uint8)
        pending = PendingBatch(
            windows=[replace(window, pixels=window.pixels.to("meta")) for window in windows],
            pixels=torch.cat([no_pixels, *(window.pixels.flatten() for window in windows)]),
            image_size=self.frames.image_size,
            generator_prompts=Prompts.cat([p for p, _ in prompts], ones),
            surrogate_prompts=Prompts.cat([p for _, p in prompts], ones),
            names=tuple(name for name, _, _, _ in drawn),
            indices=torch.tensor([actual for _, actual, _, _ in drawn], dtype=torch.int64),
        )
        return (pending.render("cpu") if self.renders else pending), skipped

    def _draw(self, epoch: int, index: int, skipped: Skipped) -> tuple[str, int, Window, Tensor]:
        """Name, position, window and rendered mask of the sample that fills a place.

        The place is `index`'s; where that sample is of no use, others are drawn by lot.
        """
        rng = numpy_generator(self.seed, epoch, index, "jitter")
        actual = index
        for _ in range(NUM_REPLACEMENTS):
            found = self._crop(actual, rng)
            if not isinstance(found, str):
                name, window, mask = found
                return name, actual, window, mask
            skipped.append((self.dataset.sample_name(actual), found))
            actual = int(rng.integers(len(self.dataset)))
        last = "; ".join(f"{name}: {reason}" for name, reason in skipped[-3:])
        raise DataError(
            [f"{self.dataset.name}: {NUM_REPLACEMENTS} samples in a row are unusable, as {last}"]
        )

    def _crop(self, index: int, rng: np.random.Generator) -> tuple[str, Window, Tensor] | str:
        """Name, window and mask of a sample, or the reason why there is none."""
        try:
            sample = self.dataset[index]
        except UserError as error:
            return str(error)
        mask = _as_uint8(sample)
        if mask.max(initial=0) <= THRESHOLD:
            return NO_OBJECT
        for _ in range(NUM_CROPS):
            crop = self.jitter.draw((mask.shape[0], mask.shape[1]), rng)
            mask_window = cut_window(mask, crop)
            rendered = render(mask_window)
            if rendered.max() > OBJECT_ABOVE:
                image_window = cut_window(sample.image, crop)
                pixels = torch.cat((image_window.pixels, mask_window.pixels))
                window = replace(image_window, pixels=pixels)
                return sample.name, window, pad_to(rendered, window.image_size)
        return f"its object is in none of {NUM_CROPS} crops"

    def _prompts(self, epoch: int, index: int, mask: Tensor) -> tuple[Prompts, Prompts]:
        frames = self.frames
        # At half size this is the mean of 2 x 2 exactly, and on CPUs faster than `avg_pool2d`.
        small = bilinear(mask[None], frames.surrogate_image_size)
        return (
            generator_prompts(
                mask[None],
                mask_size=frames.generator_mask_size,
                rng=numpy_generator(self.seed, epoch, index, "generator prompts"),
            ),
            surrogate_prompts(
                small,
                mask_size=frames.surrogate_mask_size,
                rng=numpy_generator(self.seed, epoch, index, "surrogate prompts"),
            ),
        )


def _as_uint8(sample: Sample) -> np.ndarray:
    mask = sample.mask
    return mask.astype(np.uint8) * np.uint8(255) if mask.dtype == bool else mask


class _Jobs(Sampler):
    """The jobs of one rank in one epoch; persistent workers see each new epoch through them."""

    def __init__(self, num_samples: int, batch_size: int, seed: int, rank: int, world: int) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.rank, self.world_size = rank, world
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size) - self.start

    def __iter__(self) -> Iterator[Job]:
        order = numpy_generator(self.seed, self.epoch, "order").permutation(self.num_samples)
        for first in range(self.start * self.batch_size, self.num_samples, self.batch_size):
            members = order[first : first + self.batch_size]
            low = len(members) * self.rank // self.world_size
            high = len(members) * (self.rank + 1) // self.world_size
            yield self.epoch, tuple(int(index) for index in members[low:high])


class TrainLoader:
    """Endless supply of jittered, prompted training batches, an epoch at a time.

    Args:
        dataset: checked samples (`header_check.check_dataset`).
        image_size: side S of the generator's frame, which images and masks come in.
        generator_mask_size: side of the generator's mask prompts (4g).
        surrogate_image_size: side of the surrogate's frame, which its prompts are in.
        surrogate_mask_size: side of the surrogate's mask prompts.
        batch_size: of the global batch, over all ranks.
        seed: of the run.
        num_workers: processes that decode; 0 decodes in this one. Changes no result.
        rank, world_size: which share of each global batch this process gets.
        device: where batches are wanted.
        jitter: the augmentation; the paper's by default.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        image_size: int,
        generator_mask_size: int,
        surrogate_image_size: int,
        surrogate_mask_size: int,
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        jitter: LargeScaleJitter | None = None,
    ) -> None:
        if not len(dataset):
            raise DataError([f"{dataset.name}: holds no samples"])
        prepare(dataset)
        self.dataset = dataset
        self.batch_size = batch_size
        self.device = torch.device(device)
        frames = Frames(image_size, generator_mask_size, surrogate_image_size, surrogate_mask_size)
        is_cpu = self.device.type == "cpu"
        self._jobs = _Jobs(len(dataset), batch_size, seed, rank, world_size)
        self._skipped: dict[tuple[str, str], None] = {}
        self._loader = DataLoader(
            _JitteredBatches(
                dataset, frames, jitter or LargeScaleJitter(image_size), seed, renders=is_cpu
            ),
            batch_size=None,
            sampler=self._jobs,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=self.device.type == "cuda",
            # The loader draws a base seed for workers; no draw of ours may depend on global state.
            generator=torch.Generator().manual_seed(0),
        )

    def __len__(self) -> int:
        """Global batches of an epoch, the same on every rank."""
        return -(-len(self.dataset) // self.batch_size)

    @property
    def skipped(self) -> Skipped:
        """(name, reason) of each sample that this rank passed over so far."""
        return list(self._skipped)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """This rank's shares of an epoch's global batches, on the device.

        Args:
            epoch: number of the epoch, from 0; each has its own order and draws.
            start: global batches to pass over, for a resumed run.

        Yields:
            Batches, sized as evenly as whole samples allow; of no sample where a small last batch
            leaves none for this rank.
        """
        for batch in self.hand_over(epoch, start=start):
            yield batch.to(self.device) if isinstance(batch, Batch) else batch.render(self.device)

    def hand_over(self, epoch: int, *, start: int = 0) -> Iterator[Batch | PendingBatch]:
        """What the workers make of an epoch, before the device has its part.

        Arguments as for `epoch`.
        """
        self._jobs.epoch, self._jobs.start = epoch, start
        for batch, skipped in self._loader:
            for name, reason in skipped:
                if (name, reason) not in self._skipped:
                    _log.warning("skipped %s: %s", name, reason)
                    self._skipped[name, reason] = None
            yield batch
