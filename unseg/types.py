"""The few values that pass between data, models and engine.

Torch is imported where a tensor is made: who reads files alone needs none.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ABSENT_LABEL = -2
"""Label of a point slot that holds nothing at all: its token is masked out of every attention."""

NOT_A_POINT_LABEL = -1
"""Segment Anything's own padding label: the token exists and carries `not_a_point_embed`."""


VOID_CLASS = -1
"""Class of a pixel without one: never protected, never counted in a metric."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Statistics of ImageNet's RGB values in [0, 1], by which encoders and victims normalise."""


class Phase(enum.StrEnum):
    """Which of the two players learns in this step of the bilevel game."""

    GENERATOR = "generator"
    SURROGATE = "surrogate"


@dataclass(frozen=True)
class Prompts:
    """Prompts of a batch, in pixels of the model's square input frame.

    A prompt kind may be absent for the whole batch (`None`) or for single images of it: a NaN box
    row, points labelled -2 (`ABSENT_LABEL`), a NaN mask. Absent tokens take part in no attention,
    and an image with a NaN mask gets Segment Anything's no-mask embedding, so a mixed batch equals
    its images run one at a time.

    Attributes:
        boxes: (B, 4) float, XYXY inclusive pixel indices.
        point_coords: (B, N, 2) float, (X, Y).
        point_labels: (B, N) int, 1 foreground, 0 background, -1 "not a point", -2 absent. Missing
            labels mean that every point is foreground.
        mask_inputs: (B, 1, 4g, 4g) float in {0, 255}, g = tokens per side.
    """

    boxes: Tensor | None = None
    point_coords: Tensor | None = None
    point_labels: Tensor | None = None
    mask_inputs: Tensor | None = None

    def __post_init__(self) -> None:
        sizes = {f.name: len(v) for f in fields(self) if (v := getattr(self, f.name)) is not None}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"prompts disagree on the batch size: {sizes}")
        if self.point_coords is not None and self.point_labels is None:
            import torch

            shape = self.point_coords.shape[:2]
            labels = torch.ones(shape, dtype=torch.int64, device=self.point_coords.device)
            object.__setattr__(self, "point_labels", labels)
        if self.point_labels is not None and self.point_coords is None:
            raise ValueError("point_labels were given without point_coords")

    @property
    def batch_size(self) -> int | None:
        """Number of images, or None where no prompt of any kind is given."""
        for value in self._tensors().values():
            return len(value)
        return None

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds present for at least one image, of "box", "points", "mask"."""
        present = (
            self.boxes is not None and bool((~self.boxes.isnan()).any()),
            self.point_labels is not None and bool((self.point_labels != ABSENT_LABEL).any()),
            self.mask_inputs is not None and bool((~self.mask_inputs.isnan()).any()),
        )
        return tuple(
            kind for kind, here in zip(("box", "points", "mask"), present, strict=True) if here
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Prompts:
        """The same prompts on another device."""
        moved = {k: v.to(device, non_blocking=non_blocking) for k, v in self._tensors().items()}
        return Prompts(**moved)

    def select(self, rows: slice | Sequence[int] | Tensor) -> Prompts:
        """The prompts of some images of the batch."""
        return Prompts(**{k: v[rows] for k, v in self._tensors().items()})

    @staticmethod
    def cat(parts: Sequence[Prompts], sizes: Sequence[int]) -> Prompts:
        """Join prompts of several batches into one, marking as absent what an image has not.

        Args:
            parts: prompts, each of a whole batch; kinds and point counts may differ.
            sizes: number of images of each part (a part without any prompt does not know its own).
        """
        import torch

        joined: dict[str, Tensor] = {}
        num_points = max(
            (p.point_coords.shape[1] for p in parts if p.point_coords is not None), default=0
        )
        for name, absent in (
            ("boxes", float("nan")),
            ("point_coords", 0.0),
            ("point_labels", ABSENT_LABEL),
            ("mask_inputs", float("nan")),
        ):
            known = [v for p in parts if (v := getattr(p, name)) is not None]
            if not known:
                continue
            shape = list(known[0].shape[1:])
            if name.startswith("point_"):
                shape[0] = num_points
            rows = []
            for part, size in zip(parts, sizes, strict=True):
                row = known[0].new_full((size, *shape), absent)
                value = getattr(part, name)
                if value is not None:
                    row[tuple(slice(0, n) for n in value.shape)] = value
                rows.append(row)
            joined[name] = torch.cat(rows)
        return Prompts(**joined)


@dataclass(frozen=True)
class Sample:
    """One image with its object mask, as it lies on disk.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright.
        mask: (H, W) bool, or uint8 in [0, 255] where the source is soft.
        name: what messages call it; unique within its data set.
    """

    image: np.ndarray
    mask: np.ndarray
    name: str


@dataclass(frozen=True)
class Batch:
    """Training samples in the generator's square frame of side S.

    Attributes:
        image: (B, 3, S, S) float32 in [0, 1], zero where padded.
        mask: (B, 1, S, S) float32 in [0, 1], soft.
        generator_prompts: in the frame of side S.
        surrogate_prompts: in the surrogate's own frame (side S/2 in the paper's recipe).
        names: one a sample, for messages.
        indices: (B,) int64 position of each sample in its data set; seeds derive from it.
    """

    image: Tensor
    mask: Tensor
    generator_prompts: Prompts
    surrogate_prompts: Prompts
    names: tuple[str, ...]
    indices: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; pinned memory is copied without waiting."""
        return Batch(
            image=self.image.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
            generator_prompts=self.generator_prompts.to(device, non_blocking=True),
            surrogate_prompts=self.surrogate_prompts.to(device, non_blocking=True),
            names=self.names,
            indices=self.indices,
        )
