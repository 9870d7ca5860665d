"""A few pictures in memory, as 8-bit tensors of one size: a batch, or one picture of the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.victims.data.segments import Frame, Segments

IGNORED_LABEL = 255
"""Label of pixels that count neither in the loss nor in a score."""


@dataclass(frozen=True)
class TensorSet:
    """Pictures with their label maps, in the victim's square frame; in memory.

    Attributes:
        images: (N, 3, S, S) uint8 RGB, black where padded.
        labels: (N, S, S) uint8 classes, `IGNORED_LABEL` where padded or not to be counted.
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

    def select(self, rows: Sequence[int] | np.ndarray) -> TensorSet:
        """Some pictures of the set."""
        chosen = [int(row) for row in rows]

        def some(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
            return None if values is None else tuple(values[i] for i in chosen)

        return TensorSet(
            images=self.images[chosen],
            labels=self.labels[chosen],
            keys=tuple(self.keys[i] for i in chosen),
            extents=self.extents[chosen],
            native_labels=some(self.native_labels),
            segments=some(self.segments),
            native_segments=some(self.native_segments),
        )

    def load(self, rows: Sequence[int] | np.ndarray) -> TensorSet:
        """The same, as a set on the disk says it."""
        return self.select(rows)

    def batches(self, chunks: Sequence[Sequence[int] | np.ndarray]) -> Iterator[TensorSet]:
        """A batch for each list of rows, in order."""
        return (self.select(chunk) for chunk in chunks)

    def single(self) -> Iterator[TensorSet]:
        """Each picture as a set of its own, in memory of its own."""
        return (self.select([i]) for i in range(len(self)))

    @staticmethod
    def joined(parts: Sequence[TensorSet]) -> TensorSet:
        """The pictures of several sets of one kind, at least one, in order."""

        def chain(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else tuple(v for part in values for v in part)

        return TensorSet(
            images=torch.cat([part.images for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            keys=chain("keys"),
            extents=torch.cat([part.extents for part in parts]),
            native_labels=chain("native_labels"),
            segments=chain("segments"),
            native_segments=chain("native_segments"),
        )

    @property
    def num_bytes(self) -> int:
        """Memory of the pictures and their labels."""
        tensors = sum(t.numel() * t.element_size() for t in (self.images, self.labels))
        labels = sum(label.nbytes for label in self.native_labels or ())
        both = (*(self.segments or ()), *(self.native_segments or ()))
        return tensors + labels + sum(segments.num_bytes for segments in both)

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
            counts += torch.bincount(part[part != IGNORED_LABEL].long(), minlength=num_classes)
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
    return F.pad(levels, pad), F.pad(classes.to(torch.uint8), pad, value=IGNORED_LABEL), size


def as_input(images: Tensor) -> Tensor:
    """(B, 3, S, S) uint8 as float32 in [0, 1]."""
    return images.float() / 255


def unfit_logits(logits: Tensor, extent: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (1, C, S, S) of the frame at a picture's native size (1, C, H, W)."""
    height, width = (int(v) for v in extent)
    content = logits[..., :height, :width]
    return F.interpolate(content, size, mode="bilinear", align_corners=False)
