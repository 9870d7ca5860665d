"""A training sample as a straightforward program makes it.

PIL decodes; the whole image becomes float32 and is resized, whatever the crop keeps of it; prompts
of all kinds are made image by image, and then some are picked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unseg.data.jitter import Crop, LargeScaleJitter
from unseg.types import Prompts
from unseg.utils.seed import numpy_generator

THRESHOLD = 128


@dataclass(frozen=True)
class PlainSample:
    """One sample of either path, for comparison.

    Attributes:
        image: (3, S, S).
        mask: (1, S, S).
        small_image: (3, s, s).
        small_mask: (1, s, s).
        generator_prompts, surrogate_prompts: of a batch of one.
    """

    image: Tensor
    mask: Tensor
    small_image: Tensor
    small_mask: Tensor
    generator_prompts: Prompts
    surrogate_prompts: Prompts


def boxes(mask: Tensor) -> Tensor:
    """Boxes (B, 4) of masks (B, 1, H, W), image by image, from the positions of all pixels."""
    found = []
    for one in mask[:, 0].numpy():
        rows, columns = np.where(one * 255 > THRESHOLD)
        if len(rows):
            found.append([columns.min(), rows.min(), columns.max(), rows.max()])
        else:
            found.append([np.nan] * 4)
    return torch.tensor(np.array(found), dtype=torch.float32)


def points(mask: Tensor, rng: np.random.Generator, num: int = 10) -> Tensor | None:
    """`num` pixels of a mask (1, 1, H, W) as (1, num, 2)."""
    candidates = np.argwhere(mask[0, 0].numpy() * 255 > THRESHOLD)
    if len(candidates) < num:
        return None
    chosen = candidates[rng.choice(len(candidates), num, replace=False)]
    return torch.from_numpy(chosen[:, ::-1].astype(np.float32))[None]


def rough_mask(mask: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """A corrupted mask prompt (1, 1, size, size) in {0, 255}."""
    mask = F.interpolate(mask, (size, size), mode="bilinear")
    small = F.interpolate(mask, (size // 8, size // 8), mode="bilinear")
    smooth = F.interpolate(small, (size, size), mode="bilinear")
    noise = torch.from_numpy(rng.standard_normal((1, 1, size, size), np.float32))
    border = ((mask - smooth).abs() >= 0.01).float()
    return ((mask + noise * border) > 0.5).float() * 255


def prompts(mask: Tensor, size: int, rng: np.random.Generator, *, most: int) -> Prompts:
    """All kinds of prompts, of which a random subset is kept; the draws are those of ours."""
    box, point = boxes(mask), points(mask, rng)
    offered = ["box", "points", "mask"]
    if point is None:
        offered.remove("points")
    if box.isnan().any():
        offered.remove("box")
    count = int(rng.integers(1, min(most, len(offered)) + 1))
    chosen = {offered[i] for i in rng.choice(len(offered), count, replace=False)}
    rough = rough_mask(mask, size, rng)
    return Prompts(
        boxes=box if "box" in chosen else None,
        point_coords=point if "points" in chosen else None,
        mask_inputs=rough if "mask" in chosen else None,
    )


def sample(
    image_path: Path, mask_path: Path, *, position: int, seed: int, epoch: int, sides: Sides
) -> PlainSample:
    """One jittered and prompted sample, with the draws of `unseg.data.loader`."""
    image = np.array(Image.open(image_path).convert("RGB"))
    mask = np.array(Image.open(mask_path).convert("L"))
    rng = numpy_generator(seed, epoch, position, "jitter")
    while True:
        crop = LargeScaleJitter(sides.image).draw((mask.shape[0], mask.shape[1]), rng)
        picture, target = _cropped(image, crop), _cropped(mask[..., None], crop)
        if target.max() > 127 / 255:
            break
    small = [F.interpolate(x, (sides.surrogate,) * 2, mode="bilinear") for x in (picture, target)]
    return PlainSample(
        picture[0],
        target[0],
        small[0][0],
        small[1][0],
        prompts(
            target, sides.mask, numpy_generator(seed, epoch, position, "generator prompts"), most=3
        ),
        prompts(
            small[1],
            sides.surrogate_mask,
            numpy_generator(seed, epoch, position, "surrogate prompts"),
            most=1,
        ),
    )


@dataclass(frozen=True)
class Sides:
    """Sides of the frames and mask prompts of both players."""

    image: int
    mask: int
    surrogate: int
    surrogate_mask: int


def _cropped(pixels: np.ndarray, crop: Crop) -> Tensor:
    """(H, W, C) uint8 flipped, resized whole, cropped and padded: (1, C, S, S)."""
    x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
    if crop.flip:
        x = torch.flip(x, dims=[3])
    x = F.interpolate(x, crop.scaled, mode="bilinear", align_corners=False)
    (top, left), side = crop.offset, crop.image_size
    x = x[..., top : top + side, left : left + side]
    return F.pad(x, (0, side - x.shape[-1], 0, side - x.shape[-2]))
