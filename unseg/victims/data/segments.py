"""Segments of pictures: what object-aware victims learn from, find, and are scored on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.data.annotations.base import Annotation
from unseg.types import VOID_CLASS

AGNOSTIC = 0
"""The one class of tasks that know objects and no classes."""


@dataclass(frozen=True)
class Segments:
    """All segments of one picture at one size; masks are run-length coded and may overlap.

    Attributes:
        size: (height, width).
        categories: (K,) int64 in [0, C), the victim's classes.
        is_crowd: (K,) bool: groups, neither learnt nor scored.
        runs: for each mask the flat row-major positions where it turns on or off.
        void: the same of the pixels that do not count.
    """

    size: tuple[int, int]
    categories: np.ndarray
    is_crowd: np.ndarray
    runs: tuple[np.ndarray, ...]
    void: np.ndarray

    @staticmethod
    def pack(
        masks: np.ndarray, categories: np.ndarray, is_crowd: np.ndarray, void: np.ndarray
    ) -> Segments:
        """Of masks (K, H, W) bool and void (H, W) bool; empty masks are left out."""
        rows = [i for i in range(len(masks)) if masks[i].any()]
        height, width = void.shape
        return Segments(
            size=(height, width),
            categories=np.asarray(categories, np.int64)[rows],
            is_crowd=np.asarray(is_crowd, bool)[rows],
            runs=tuple(_runs(masks[i]) for i in rows),
            void=_runs(void),
        )

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays."""
        arrays = (*self.runs, self.void, self.categories, self.is_crowd)
        return sum(array.nbytes for array in arrays)

    def masks(self) -> np.ndarray:
        """(K, H, W) bool."""
        found = np.zeros((len(self), *self.size), bool)
        for mask, runs in zip(found, self.runs, strict=True):
            mask[:] = _unrun(runs, self.size)
        return found

    def void_mask(self) -> np.ndarray:
        """(H, W) bool."""
        return _unrun(self.void, self.size)

    def resized(self, size: tuple[int, int], *, side: int) -> Segments:
        """In a square frame: brought to `size`, then padded with void at the bottom and right."""
        stack = np.concatenate([self.masks(), self.void_mask()[None]])
        small = F.interpolate(torch.from_numpy(stack)[None].float(), size, mode="nearest-exact")[0]
        pad = (0, side - size[1], 0, side - size[0])
        masks = F.pad(small[:-1], pad).bool().numpy()
        void = F.pad(small[-1], pad, value=1.0).bool().numpy()
        return Segments.pack(masks, self.categories, self.is_crowd, void)


def _runs(mask: np.ndarray) -> np.ndarray:
    flat = mask.ravel()
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    start = [0] if len(flat) and flat[0] else []
    return np.concatenate([start, turns]).astype(np.int32)


def _unrun(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    edges = np.concatenate([[0], runs, [size[0] * size[1]]])
    values = np.arange(len(edges) - 1) % 2 == 1
    return np.repeat(values, np.diff(edges)).reshape(size)


def segments_of(
    annotation: Annotation, rank: Mapping[int, int] | None, *, open_background: bool
) -> Segments:
    """The segments of a label.

    Args:
        annotation: of one picture.
        rank: the victim's class of each class id; segments of other ids are left out. None: every
            segment is an object of the one class `AGNOSTIC`.
        open_background: pixels without a label count, as belonging to no segment.
    """
    kept = [s for s in annotation.segments if rank is None or s.category in rank]
    size = annotation.size
    void = np.zeros(size, bool)
    if not open_background:
        void = annotation.class_map == VOID_CLASS
        for segment in annotation.segments:
            if segment.is_crowd:  # a segment of its own, not a pixel without a label
                void = void & ~segment.mask
    masks = np.stack([s.mask for s in kept]) if kept else np.zeros((0, *size), bool)
    categories = [AGNOSTIC if rank is None else rank[s.category] for s in kept]
    return Segments.pack(
        masks, np.array(categories, np.int64), np.array([s.is_crowd for s in kept], bool), void
    )


@dataclass(frozen=True)
class Target:
    """What a victim learns from one augmented picture.

    Attributes:
        masks: (K, S, S) bool, none empty.
        categories: (K,) int64 in [0, C).
        boxes: (K, 4) float XYXY in pixels of the frame, the right and lower edges exclusive.
    """

    masks: Tensor
    categories: Tensor
    boxes: Tensor

    @staticmethod
    def of(masks: Tensor, categories: Tensor) -> Target:
        """Of masks, some of which may have become empty."""
        kept = masks.flatten(1).any(1)
        masks = masks[kept]
        return Target(masks, categories[kept], mask_boxes(masks))


def label_targets(labels: Tensor, num_classes: int) -> list[Target]:
    """Label maps (B, S, S) int64 as one segment a class; ids from `num_classes` on are void."""
    targets = []
    for label in labels:
        present = label.unique()
        present = present[present < num_classes]
        targets.append(Target.of(label[None] == present[:, None, None], present))
    return targets


@dataclass(frozen=True)
class Found:
    """What a victim found in one picture, at the size at which it is scored.

    Attributes:
        categories: (K,) int64 in [0, C).
        scores: (K,) float, larger where the victim is surer.
        masks: (K, H, W) bool; None where it finds boxes alone.
        boxes: (K, 4) float XYXY in pixels, right and lower edges exclusive.
    """

    categories: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True)
class Frame:
    """Where a picture lies in the victim's square, and the size at which it is scored.

    Attributes:
        extent: (height, width) of the picture inside the square; it begins at the upper left.
        size: (height, width) at which it is scored.
    """

    extent: tuple[int, int]
    size: tuple[int, int]

    def scale_boxes(self, boxes: Tensor) -> Tensor:
        """Boxes (K, 4) of the square in pixels of the scored size, clipped to it."""
        height, width = self.size
        ratio = boxes.new_tensor([width / self.extent[1], height / self.extent[0]] * 2)
        limit = boxes.new_tensor([width, height] * 2)
        return torch.minimum((boxes * ratio).clamp(min=0), limit)

    def unscale_boxes(self, boxes: Tensor) -> Tensor:
        """Boxes (K, 4) of the scored size in pixels of the square."""
        height, width = self.size
        return boxes * boxes.new_tensor([self.extent[1] / width, self.extent[0] / height] * 2)

    def resize(self, maps: Tensor) -> Tensor:
        """Maps (K, S, S) of the square at the scored size, bilinearly: (K, H, W)."""
        content = maps[None, :, : self.extent[0], : self.extent[1]]
        if content.shape[-2:] == self.size:
            return content[0]
        return F.interpolate(content, self.size, mode="bilinear", align_corners=False)[0]


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes (K, 4) float XYXY of masks (K, H, W), right and lower edges exclusive.

    Zeros where a mask is empty.
    """
    sides = []
    for dim in (1, 2):  # columns, then rows
        is_hit = masks.any(dim)
        length = is_hit.shape[1]
        first = is_hit.int().argmax(1)
        last = length - is_hit.flip(1).int().argmax(1)
        sides.append((first, torch.where(is_hit.any(1), last, 0)))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], 1).float()


def paint(masks: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """(H, W) int32 of the value of each pixel's mask, -1 where there is none.

    Of overlapping masks the smaller lies on top, as in a label's class map.
    """
    painted = np.full(masks.shape[1:], -1, np.int32)
    for i in sorted(range(len(masks)), key=lambda k: -int(masks[k].sum())):
        painted[masks[i]] = values[i]
    return painted
