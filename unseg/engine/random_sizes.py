"""Random sizes between the two players: every real trainer scales and crops its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unseg.data.prompts import PROMPT_ABOVE, boxes_from_masks
from unseg.types import ABSENT_LABEL, Prompts


@dataclass(frozen=True)
class Placement:
    """Where the scaled picture of each image lies in the surrogate's frame of side s.

    Frame pixel (x, y) shows pixel (x + left, y + top) of the scaled picture, and black where that
    picture has none.

    Attributes:
        side: s, of the frame and of the pictures before they are scaled.
        sizes: (B,) int64 on the CPU, sides of the scaled pictures, at least 1.
        corners: (B, 2) int64 on the CPU, (left, top); negative where the picture is padded.
    """

    side: int
    sizes: Tensor
    corners: Tensor

    def move(self, image: Tensor) -> Tensor:
        """Images scaled bilinearly without antialiasing, then cropped and padded with zeros.

        Linear, so that gradients reach the noise.

        Args:
            image: (B, C, s, s) pictures or soft masks.

        Returns:
            (B, C, s, s).
        """
        columns, rows = (self._weights(axis).to(image)[:, None] for axis in (0, 1))
        return rows @ image @ columns.mT

    def move_prompts(self, prompts: Prompts, mask: Tensor) -> Prompts:
        """Prompts of the same kinds for the moved pictures.

        A box becomes that of what the frame shows of the object; points outside the frame become
        absent; mask prompts are moved by the nearest pixel, black where there is no picture.

        Args:
            prompts: in pixels of the frame, of the pictures before they were moved.
            mask: (B, 1, s, s) in [0, 1], moved.
        """
        is_moved = self.is_moved.to(mask.device)
        boxes, points, labels, masks = (
            prompts.boxes, prompts.point_coords, prompts.point_labels, prompts.mask_inputs,
        )  # fmt: skip
        if boxes is not None:
            moved = boxes_from_masks(mask).to(boxes)
            boxes = torch.where(is_moved[:, None] & ~boxes.isnan(), moved, boxes)
        if points is not None and labels is not None:
            sizes, corners = (x.to(points.device)[:, None] for x in (self.sizes, self.corners))
            # In float64 and in the order of `_corner`, which put one of them inside.
            place = (points.double() + 0.5) * sizes[..., None] / self.side - corners
            is_inside = ((place >= 0) & (place < self.side)).all(2)
            labels = labels.masked_fill(is_moved[:, None] & ~is_inside, ABSENT_LABEL)
            points = torch.where(is_moved[:, None, None], (place - 0.5).to(points), points)
        if masks is not None:
            changes = is_moved & ~masks.isnan().flatten(1).any(1)
            masks = torch.where(changes[:, None, None, None], self._nearest(masks), masks)
        return Prompts(boxes=boxes, point_coords=points, point_labels=labels, mask_inputs=masks)

    @property
    def is_moved(self) -> Tensor:
        """(B,) bool: False where a picture stays as it is."""
        return self.sizes != self.side

    def unmoved(self, rows: Tensor) -> Placement:
        """The same with the pictures of some rows, (B,) bool on the CPU, left as they are."""
        return replace(
            self,
            sizes=self.sizes.masked_fill(rows, self.side),
            corners=self.corners.masked_fill(rows[:, None], 0),
        )

    def _weights(self, axis: int) -> Tensor:
        """(B, s, s) float64: weight of each source pixel in each frame pixel along an axis."""
        place = torch.arange(self.side) + self.corners[:, axis, None]
        is_picture = (place >= 0) & (place < self.sizes[:, None])
        # As torch's `interpolate` with align_corners=False: pixel centres, clamped to the edges.
        source = (place.double() + 0.5) * (self.side / self.sizes[:, None]) - 0.5
        source = source.clamp(0, self.side - 1)
        first = source.floor().long()
        share = source - first
        shape = (len(first), self.side, self.side)
        weights = torch.zeros(shape, dtype=torch.float64)
        weights.scatter_add_(2, first[..., None], (1 - share)[..., None])
        weights.scatter_add_(2, (first + 1).clamp(max=self.side - 1)[..., None], share[..., None])
        return weights * is_picture[..., None]

    def _nearest(self, masks: Tensor) -> Tensor:
        """Mask prompts (B, 1, m, m) moved by the nearest pixel."""
        side = masks.shape[-1]
        centres = (torch.arange(side) + 0.5) * (self.side / side)
        pixels = []
        for axis in (0, 1):
            place = (centres + self.corners[:, axis, None]) / self.sizes[:, None]
            pixels.append(torch.where((place >= 0) & (place < 1), (place * side).long(), -1))
        columns, rows = (index.to(masks.device) for index in pixels)
        images = torch.arange(len(masks), device=masks.device)[:, None, None]
        moved = masks[images, 0, rows.clamp(min=0)[:, :, None], columns.clamp(min=0)[:, None]]
        is_picture = (rows >= 0)[:, :, None] & (columns >= 0)[:, None]
        return torch.where(is_picture, moved, 0)[:, None]


@dataclass(frozen=True)
class RandomSizes:
    """Draws a factor, log-uniform, and a place for each image, as a trainer's augmentation does.

    A reduced picture lies anywhere in the frame, on black. Of an enlarged one a crop is taken that
    shows a random pixel of the object, or one of the points where points are the prompt. An image
    whose object a reduction loses stays as it is, so that no target is empty.

    DEVIATION: the paper varies sizes before the noise is added (its jitter), so that its surrogate
    sees cells of one size; victims vary sizes afterwards.

    Attributes:
        low: smallest factor.
        high: largest factor.
    """

    low: float
    high: float

    @property
    def is_off(self) -> bool:
        """Whether nothing can ever happen."""
        return self.low == self.high == 1

    def __call__(
        self, mask: Tensor, prompts: Prompts, generators: Sequence[torch.Generator]
    ) -> Placement:
        """Sizes and places for a batch.

        Args:
            mask: (B, 1, s, s) in [0, 1], soft.
            prompts: of the surrogate, in the same frame.
            generators: one CPU generator an image decides for it.
        """
        side = mask.shape[-1]
        mask, prompts = mask.detach().cpu(), prompts.to("cpu")
        drawn = [
            self._draw(side, _anchors(mask[row, 0], prompts.select([row])), source)
            for row, source in zip(range(len(mask)), generators, strict=True)
        ]
        table = torch.tensor(drawn, dtype=torch.int64).reshape(len(drawn), 3)
        placement = Placement(side, table[:, 0], table[:, 1:])
        return placement.unmoved(placement.move(mask).flatten(1).amax(1) <= PROMPT_ABOVE)

    def _draw(self, side: int, anchors: Tensor, source: torch.Generator) -> tuple[int, int, int]:
        """(size, left, top) of one image; anchors (N, 2) are pixels (x, y), one of which shows."""
        draws = torch.rand(4, generator=source).tolist()
        size = max(1, round(side * self.low * (self.high / self.low) ** draws[0]))
        if not len(anchors) or size == side:
            return side, 0, 0
        anchor = anchors[int(draws[1] * len(anchors))].tolist()
        left, top = (
            _corner(side, size, pixel, draw) for pixel, draw in zip(anchor, draws[2:], strict=True)
        )
        return size, left, top


def _corner(side: int, size: int, pixel: float, draw: float) -> int:
    """Left end of the frame along one axis, uniform among those whose frame shows a pixel."""
    if size < side:
        return -int(draw * (side - size + 1))
    place = int((pixel + 0.5) * size / side)
    low, high = max(0, place - side + 1), min(size - side, place)
    return low + int(draw * (high - low + 1))


def _anchors(mask: Tensor, prompts: Prompts) -> Tensor:
    """Pixels (N, 2), (x, y), of which the frame must show one: points, else the object's own."""
    if prompts.point_coords is not None and prompts.point_labels is not None:
        points = prompts.point_coords[0, prompts.point_labels[0] != ABSENT_LABEL]
        if len(points):
            return points
    return (mask > PROMPT_ABOVE).nonzero().flip(1)
