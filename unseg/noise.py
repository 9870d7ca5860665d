"""From unit noise to a protected image: the one composition of training and generation."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

GREY_LEVELS = 255
"""Budgets are given in 8-bit grey levels (`epsilon=8` means 8/255) and converted here alone."""

NoiseChannels = Literal["rgb", "luma", "yellow_blue"]
"""What noise the three colours carry: see `FIELD_OF_COLOUR`."""

FIELD_OF_COLOUR: dict[NoiseChannels, tuple[int, int, int]] = {
    "rgb": (0, 1, 2),
    "luma": (0, 0, 0),
    "yellow_blue": (0, 0, 1),
}
"""Which field of noise red, green and blue carry: one each; one for all, which greyscale leaves
whole; or one for red and green, which holds 0.89 of the brightness, and another for blue, which
holds a contrast of colours beside it at no cost to the budget. DEVIATION: the paper has `rgb`."""


def shared_by_colours(noise: Tensor, channels: NoiseChannels) -> Tensor:
    """Noise in which colours of one field carry the mean of what they had.

    Args:
        noise: (B, 3, H, W), any range.
        channels: key of `FIELD_OF_COLOUR`.

    Returns:
        (B, 3, H, W).
    """
    fields = FIELD_OF_COLOUR[channels]
    shared = [noise[:, [c for c in range(3) if fields[c] == field]].mean(1) for field in fields]
    return torch.stack(shared, 1)


def without_means(noise: Tensor, cells: int) -> Tensor:
    """Noise of mean 0 in each colour of each square of `cells` x `cells`: texture alone.

    A shift of brightness or colour is the first thing that a generator finds, a poor lure (pictures
    differ by more) and a waste of the budget. DEVIATION: not in the paper.

    Args:
        noise: (B, C, H, W) in [-1, 1], both sides multiples of `cells`.
        cells: side of the squares.

    Returns:
        (B, C, H, W) in [-1, 1]: what of a square deviates from its mean m, over 1 + |m|, so that
        only noise of balanced signs reaches the bounds in every cell.
    """
    means = F.avg_pool2d(noise, cells).repeat_interleave(cells, -1).repeat_interleave(cells, -2)
    return (noise - means) / (1 + means.abs())


def random_signs(side: int, channels: NoiseChannels, rng: torch.Generator) -> Tensor:
    """(1, 3, side, side) of -1 and 1, drawn anew for each field of `channels`."""
    fields = FIELD_OF_COLOUR[channels]
    signs = torch.randint(0, 2, (1, max(fields) + 1, side, side), generator=rng) * 2.0 - 1
    return signs[:, list(fields)]


def upsample_noise(noise: Tensor, size: tuple[int, int]) -> Tensor:
    """Noise at an image's own size.

    The generator sees the image padded at bottom and right to a square, so its noise grid spans
    that square: it is upsampled to the side max(H, W) and cropped.

    Args:
        noise: (B, C, n, n) in [-1, 1], the generator's grid.
        size: (H, W) of the image.

    Returns:
        (B, C, H, W), same range.
    """
    height, width = size
    side = max(height, width)
    if noise.shape[-2:] != (side, side):
        noise = F.interpolate(noise, (side, side), mode="bilinear", align_corners=False)
    return noise[..., :height, :width]


def noise_budget(region: Tensor, *, epsilon: float, epsilon_bg: float) -> Tensor:
    """Per-pixel bound on the perturbation (paper, section 3.3; docs/METHOD.md, "4. Training").

    Epsilon generalization (EG) is the choice of two budgets: training bounds the noise by
    `noise.epsilon` (1) and `noise.epsilon_bg` (0.25) of its configuration, generation by 8 and 2.
    The generator's noise is the same unit noise; only this bound differs.

    Args:
        region: (B, 1, H, W) in [0, 1], 1 inside the protected object.
        epsilon: bound inside, in 8-bit grey levels.
        epsilon_bg: bound outside, in 8-bit grey levels.

    Returns:
        (B, 1, H, W) in units of an image in [0, 1].
    """
    return (epsilon * region + epsilon_bg * (1 - region)) / GREY_LEVELS


def compose(
    image: Tensor,
    noise: Tensor,
    *,
    region: Tensor,
    epsilon: float = 8,
    epsilon_bg: float = 2,
) -> Tensor:
    """Protected image: `clip(image + budget * noise, 0, 1)`, unquantised.

    Args:
        image: (B, C, H, W) float in [0, 1].
        noise: (B, C, n, n) in [-1, 1], on the grid of the square of side max(H, W).
        region: (B, 1, H, W) in [0, 1], 1 inside the protected object.
        epsilon: bound inside the region, in 8-bit grey levels (8 means 8/255).
        epsilon_bg: bound outside, in 8-bit grey levels.

    Returns:
        (B, C, H, W) float in [0, 1]. The last step before a file is `torch.round(255 * protected)`.

    Raises:
        ValueError: the region has another height or width than the image.
    """
    if region.shape[-2:] != image.shape[-2:]:
        raise ValueError(
            f"region is {tuple(region.shape[-2:])} (H, W) but the image is "
            f"{tuple(image.shape[-2:])}; bring both to one frame"
        )
    budget = noise_budget(region, epsilon=epsilon, epsilon_bg=epsilon_bg)
    height, width = image.shape[-2:]
    perturbation = budget * upsample_noise(noise, (height, width))
    return torch.clamp(image + perturbation, 0, 1)
