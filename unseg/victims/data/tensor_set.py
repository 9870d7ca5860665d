"""Whole sets of pictures as 8-bit tensors of one size, and their augmentation in batches.

Small victims learn faster than a CPU decodes: each picture is decoded and resized once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.victims.data.segments import Frame, Segments, Target

VOID = 255
"""Label of pixels that count neither in the loss nor in a score."""


@dataclass(frozen=True)
class TensorSet:
    """Pictures with their label maps, in the victim's square frame.

    Attributes:
        images: (N, 3, S, S) uint8 RGB, black where padded.
        labels: (N, S, S) uint8 classes, `VOID` where padded or not to be counted.
        keys: the data set's own name of each picture.
        extents: (N, 2) int64, height and width of the picture inside its square.
        native_labels: label maps at their own size, where scores are taken there.
        segments: in the frame, for tasks that know objects; `labels` then serve figures alone.
        native_segments: at the pictures' own size, where scores are taken there.
    """

    images: Tensor
    labels: Tensor
    keys: tuple[str, ...]
    extents: Tensor
    native_labels: tuple[np.ndarray, ...] | None = None
    segments: tuple[Segments, ...] | None = None
    native_segments: tuple[Segments, ...] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, rows: Sequence[int]) -> TensorSet:
        """Some pictures of the set."""

        def some(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
            return None if values is None else tuple(values[i] for i in rows)

        return TensorSet(
            images=self.images[list(rows)],
            labels=self.labels[list(rows)],
            keys=tuple(self.keys[i] for i in rows),
            extents=self.extents[list(rows)],
            native_labels=some(self.native_labels),
            segments=some(self.segments),
            native_segments=some(self.native_segments),
        )

    def with_images_of(self, other: TensorSet, rows: Sequence[int]) -> TensorSet:
        """This set with the pictures (not the labels) of `rows` taken from another."""
        if self.keys != other.keys:
            raise ValueError("the two sets hold different pictures")
        images = self.images.clone()
        images[list(rows)] = other.images[list(rows)]
        return replace(self, images=images)

    def to(self, device: torch.device) -> TensorSet:
        """The set with its label maps on a device; with segments, which stay, nothing moves."""
        if self.segments is not None:
            return self
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def batch(
        self,
        rows: Tensor,
        *,
        crop: int,
        scale: tuple[float, float],
        flip: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> tuple[Tensor, Tensor | list[Target]]:
        """Some pictures, augmented, with what is to be learnt from them (see `augment`).

        Returns:
            (B, 3, crop, crop) float32 in [0, 1], and (B, crop, crop) int64 classes, or a target a
            picture where the set has segments.
        """
        images = self.images[rows.to(self.images.device)].to(device)
        grid = crop_grid(
            len(images), self.images.shape[-1], crop=crop, scale=scale, flip=flip,
            generator=generator, device=device,
        )  # fmt: skip
        if self.segments is None:
            labels = self.labels[rows.to(self.labels.device)].to(device)
            return sample_pictures(images, grid), sample_labels(labels, grid)
        targets = []
        for row, place in zip(rows.tolist(), grid, strict=True):
            segments = self.segments[row]
            kept = ~segments.is_crowd
            masks = torch.from_numpy(segments.masks()[kept]).to(device)
            moved = F.grid_sample(
                masks[None].float(), place[None], mode="nearest", align_corners=False
            )[0]
            categories = torch.from_numpy(segments.categories[kept]).to(device)
            targets.append(Target.of(moved > 0.5, categories))
        return sample_pictures(images, grid), targets

    def scored(self, row: int) -> tuple[Segments, Frame]:
        """The segments of a picture as they are scored, and where they lie in the frame."""
        height, width = (int(v) for v in self.extents[row])
        if self.native_segments is not None:
            segments = self.native_segments[row]
            return segments, Frame((height, width), segments.size)
        assert self.segments is not None
        segments = self.segments[row]
        return segments, Frame(segments.size, segments.size)

    def class_pixels(self, num_classes: int) -> Tensor:
        """(C,) int64 pixels of each class, void left out, at the size where scores are taken."""
        parts = (
            [self.labels.flatten()]
            if self.native_labels is None
            else [torch.from_numpy(label).flatten() for label in self.native_labels]
        )
        counts = torch.zeros(num_classes, dtype=torch.int64)
        for part in parts:
            counts += torch.bincount(part[part != VOID].long(), minlength=num_classes)
        return counts


def fit_frame(
    image: Tensor, label: Tensor, *, side: int, keep_ratio: bool, antialias: bool = True
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """One picture and its label map in the square frame.

    Args:
        image: (3, H, W) float in [0, 1].
        label: (H, W) uint8.
        side: of the square.
        keep_ratio: long side to `side` and padding at the bottom and right; else squashed.
        antialias: smooth before reducing.

    Returns:
        (3, side, side) uint8, (side, side) uint8, (height, width) of the content.
    """
    height, width = image.shape[-2:]
    size = (side, side)
    if keep_ratio:
        scale = side / max(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = F.interpolate(
        image[None], size, mode="bilinear", align_corners=False, antialias=antialias
    )
    levels = torch.round(255 * small[0]).clamp(0, 255).to(torch.uint8)
    classes = F.interpolate(label[None, None].float(), size, mode="nearest-exact")[0, 0]
    pad = (0, side - size[1], 0, side - size[0])
    return F.pad(levels, pad), F.pad(classes.to(torch.uint8), pad, value=VOID), size


def augment(
    images: Tensor,
    labels: Tensor,
    *,
    crop: int,
    scale: tuple[float, float],
    flip: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """A batch flipped, scaled and cropped, each picture on its own.

    The scaled picture is cropped at a uniform place; where it is smaller than the crop, it lies at
    a uniform place inside it, on black, void around it.

    Args:
        images: (B, 3, S, S) uint8.
        labels: (B, S, S) uint8.
        crop: side of the result.
        scale: range of the factor on the picture's size.
        flip: probability of a horizontal flip.
        generator: CPU random generator.

    Returns:
        (B, 3, crop, crop) float32 in [0, 1] and (B, crop, crop) int64.
    """
    grid = crop_grid(
        len(images), images.shape[-1], crop=crop, scale=scale, flip=flip, generator=generator,
        device=images.device,
    )  # fmt: skip
    return sample_pictures(images, grid), sample_labels(labels, grid)


def crop_grid(
    batch: int,
    side: int,
    *,
    crop: int,
    scale: tuple[float, float],
    flip: float,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Where each pixel of an augmented batch is read: (B, crop, crop, 2), see `augment`."""
    draw = torch.rand(batch, 4, generator=generator).to(device)
    factor = scale[0] * (scale[1] / scale[0]) ** draw[:, 0]
    window = crop / (factor * side)  # share of the picture's side that the crop sees
    slack = 1 - window
    theta = torch.zeros(batch, 2, 3, device=device)
    theta[:, 0, 0] = torch.where(draw[:, 1] < flip, -window, window)
    theta[:, 1, 1] = window
    theta[:, 0, 2] = slack * (2 * draw[:, 2] - 1)
    theta[:, 1, 2] = slack * (2 * draw[:, 3] - 1)
    return F.affine_grid(theta, [batch, 3, crop, crop], align_corners=False)


def sample_pictures(images: Tensor, grid: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) uint8 read at a grid, black outside: float32 in [0, 1]."""
    return F.grid_sample(images.float() / 255, grid, mode="bilinear", align_corners=False)


def sample_labels(labels: Tensor, grid: Tensor) -> Tensor:
    """Label maps (B, S, S) uint8 read at a grid, void outside: int64."""
    # Outside reads as zero: labels are shifted so that zero means void.
    shifted = labels[:, None].float()
    shifted = torch.where(shifted == VOID, 0.0, shifted + 1)
    classes = F.grid_sample(shifted, grid, mode="nearest", align_corners=False)[:, 0].round().long()
    return torch.where(classes == 0, VOID, classes - 1)


def as_input(images: Tensor) -> Tensor:
    """(B, 3, S, S) uint8 as float32 in [0, 1]."""
    return images.float() / 255


def unfit_logits(logits: Tensor, extent: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (1, C, S, S) of the frame at a picture's native size (1, C, H, W)."""
    height, width = (int(v) for v in extent)
    content = logits[..., :height, :width]
    return F.interpolate(content, size, mode="bilinear", align_corners=False)


def frame_of(height: int, width: int, *, long_side: int | None) -> tuple[int, int]:
    """Size of a picture whose long side is reduced to `long_side`, never enlarged."""
    if long_side is None or max(height, width) <= long_side:
        return height, width
    scale = long_side / max(height, width)
    return max(1, math.floor(height * scale + 0.5)), max(1, math.floor(width * scale + 0.5))
