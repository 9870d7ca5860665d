"""Prompts made from masks, for training, validation and generation, and the resizes they need.

A prompt pixel is one with mask > 128 of 255 (docs/METHOD.md, "4. Training"). Masks are
(B, 1, H, W) float in [0, 1]; prompts are in the pixels of that same frame.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.data.mask_values import THRESHOLD
from unseg.types import Prompts

OBJECT_ABOVE = THRESHOLD / 255
"""An image pixel belongs to the object where its mask, in [0, 1], is above this (127 of 255)."""

PROMPT_ABOVE = 128 / 255
"""A pixel may carry a point or bound a box where its mask, in [0, 1], is above this."""

NUM_POINTS = 10
"""Points of a prompt; a mask with fewer pixels offers no points."""

KINDS = ("box", "points", "mask")


def bilinear(x: Tensor, size: int | tuple[int, int]) -> Tensor:
    """`x` (B, C, H, W) resized bilinearly to `size` (side or (H, W)), as float32."""
    size = (size, size) if isinstance(size, int) else size
    x = x.float()
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def nearest(x: Tensor, size: int | tuple[int, int]) -> Tensor:
    """`x` (B, C, H, W) resized with torch's `nearest` (floor) to `size`, as float32."""
    size = (size, size) if isinstance(size, int) else size
    return F.interpolate(x.float(), size, mode="nearest")


def rounded(x: Tensor) -> Tensor:
    """`torch.round`: exact halves, which a 4x reduction yields, become 0."""
    return torch.round(x)


def pad_to_square(x: Tensor) -> Tensor:
    """`x` (..., H, W) with zeros added at bottom and right up to side max(H, W)."""
    height, width = x.shape[-2:]
    side = max(height, width)
    return F.pad(x, (0, side - width, 0, side - height))


def boxes_from_masks(mask: Tensor, *, above: float = PROMPT_ABOVE) -> Tensor:
    """Tight boxes (B, 4) float32, XYXY inclusive pixel indices; NaN where a mask is empty.

    Args:
        mask: (B, 1, H, W) in [0, 1].
        above: mask value from which on (exclusive) a pixel counts.
    """
    # any(mask > above) along a line, without a boolean picture of the whole mask.
    columns, rows = (mask[:, 0].amax(dim) > above for dim in (1, 2))
    edges = []
    for line in (columns, rows):
        # argmax finds the first True; of the reversed line it finds the last.
        line = line.to(torch.uint8)
        edges.append((line.argmax(1), line.shape[1] - 1 - line.flip(1).argmax(1)))
    (left, right), (top, bottom) = edges
    boxes = torch.stack((left, top, right, bottom), 1).float()
    return boxes.masked_fill(~columns.any(1, keepdim=True), float("nan"))


def sample_points(mask: Tensor, num: int, rng: np.random.Generator) -> Tensor | None:
    """`num` distinct pixels of the mask of one image, uniform: (num, 2) float32 (x, y).

    Args:
        mask: (H, W) in [0, 1]; pixels above 128/255 are eligible.
        num: how many.
        rng: source of the draw.

    Returns:
        None where fewer than `num` pixels are eligible.
    """
    pixels = np.flatnonzero(mask.numpy() > np.float32(PROMPT_ABOVE))
    if len(pixels) < num:
        return None
    chosen = pixels[rng.choice(len(pixels), num, replace=False)]
    points = np.stack((chosen % mask.shape[1], chosen // mask.shape[1]), 1)
    return torch.from_numpy(points.astype(np.float32))


def corrupt_mask(mask: Tensor, noise: Tensor) -> Tensor:
    """A roughly drawn mask: its uncertain border replaced by noise.

    Args:
        mask: (B, 1, h, w) in [0, 1], at the prompt's own resolution.
        noise: same shape, N(0, 1).

    Returns:
        Same shape in {0, 255}.
    """
    height, width = mask.shape[-2:]
    small = bilinear(mask, (max(height // 8, 1), max(width // 8, 1)))
    is_uncertain = (mask - bilinear(small, (height, width))).abs() >= 0.01
    return ((mask + noise * is_uncertain) > 0.5).float() * 255


def generator_prompts(
    mask: Tensor, *, mask_size: int, rng: np.random.Generator | list[np.random.Generator]
) -> Prompts:
    """For each image a random subset of its prompt kinds: a count, uniform, then a subset.

    Args:
        mask: (B, 1, S, S) float in [0, 1], on the CPU.
        mask_size: side of `mask_inputs` (4g).
        rng: one for each image, or one for the whole batch.
    """
    return _draw(mask, mask_size, rng, most=len(KINDS))


def surrogate_prompts(
    mask: Tensor, *, mask_size: int, rng: np.random.Generator | list[np.random.Generator]
) -> Prompts:
    """For each image exactly one prompt kind, uniform among those its mask offers.

    Args:
        mask: (B, 1, s, s) float in [0, 1], in the surrogate's frame, on the CPU.
        mask_size: side of `mask_inputs` (4g).
        rng: one for each image, or one for the whole batch.
    """
    return _draw(mask, mask_size, rng, most=1)


def _draw(
    mask: Tensor,
    mask_size: int,
    rng: np.random.Generator | list[np.random.Generator],
    *,
    most: int,
) -> Prompts:
    rngs = rng if isinstance(rng, list) else [rng] * len(mask)
    boxes = boxes_from_masks(mask)
    rows = []
    for index, image_rng in enumerate(rngs):
        one = mask[index : index + 1]
        points = sample_points(one[0, 0], NUM_POINTS, image_rng)
        offered = list(KINDS)
        if points is None:
            offered.remove("points")
        if boxes[index].isnan().any():
            offered.remove("box")
        count = int(image_rng.integers(1, min(most, len(offered)) + 1))
        chosen = {offered[i] for i in image_rng.choice(len(offered), count, replace=False)}
        corrupted = None
        if "mask" in chosen:
            noise = image_rng.standard_normal((1, 1, mask_size, mask_size), np.float32)
            corrupted = corrupt_mask(bilinear(one, mask_size), torch.from_numpy(noise))
        rows.append(
            Prompts(
                boxes=boxes[index : index + 1] if "box" in chosen else None,
                point_coords=points[None] if points is not None and "points" in chosen else None,
                mask_inputs=corrupted,
            )
        )
    return rows[0] if len(rows) == 1 else Prompts.cat(rows, [1] * len(rows))


def mask_prompt(mask: Tensor, *, image_size: int, mask_size: int) -> Tensor:
    """The uncorrupted mask prompt of generation: (B, 1, 4g, 4g) in {0, 255}.

    See docs/METHOD.md, "5. Generation".

    Args:
        mask: (B, 1, H, W) in {0, 1} or bool, native size.
        image_size: side S of the model's input.
        mask_size: 4g.
    """
    step, rest = divmod(image_size, mask_size)
    chosen = np.arange(image_size)
    if not rest and step % 2 == 0:
        # A bilinear reduction by an even factor reads the middle 2 x 2 pixels of each block alone.
        chosen = (chosen[::step, None] + (step // 2 - 1, step // 2)).ravel()
    square = _nearest_pixels(mask, image_size, chosen)
    return rounded(bilinear(square, mask_size)) * 255


def _nearest_pixels(mask: Tensor, image_size: int, chosen: np.ndarray) -> Tensor:
    """Rows and columns `chosen` of `nearest(pad_to_square(mask), image_size)`, made directly."""
    height, width = mask.shape[-2:]
    line = torch.arange(max(height, width)).view(1, 1, -1, 1)
    source = nearest(line, (image_size, 1)).flatten().numpy().astype(np.intp)[chosen]
    rows, columns = source[source < height], source[source < width]
    square = np.zeros((*mask.shape[:2], len(chosen), len(chosen)), np.float32)
    # NumPy takes columns at a third of the time of torch's index_select.
    square[..., : len(rows), : len(columns)] = mask.numpy().take(rows, -2).take(columns, -1)
    return torch.from_numpy(square)


def squashed_box(mask: Tensor, *, native: Tensor) -> Tensor:
    """Boxes (B, 4) of masks squashed to a square side, for validation.

    Args:
        mask: (B, 1, S, S) in [0, 1], squashed.
        native: (B, 1, H, W) in [0, 1], before; its box, scaled, serves where `mask` has lost the
            object.
    """
    boxes = boxes_from_masks(mask)
    height, width = native.shape[-2:]
    side = mask.shape[-1]
    scale = boxes.new_tensor((side / width, side / height)).repeat(2)
    scaled = (boxes_from_masks(native, above=OBJECT_ABOVE) * scale).floor()
    return torch.where(boxes.isnan(), scaled.clamp(max=side - 1), boxes)
