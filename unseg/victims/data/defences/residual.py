"""`mean-residual`: the noise that all pictures share, found as their mean and subtracted.

Own. Pictures differ and their mean residual tends to zero; noise that is the same for all of them
stays. What a trainer must know is the grid on which the noise lies, and the masks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.victims.data.defences.base import Defend, Known, PublishedPicture

LOCAL = 4
"""A cell's residual is what it differs by from the mean of so many times so many cells about it."""
LARGEST = 16 / 255
"""What lies further out is picture: twice the usual budget. On training pictures of Kvasir-SEG
under 8/2 levels this limit takes what is left of the noise inside from 3.6-4.3 levels (RMS) to
2.8-3.7, and outside, where all pictures share a frame, from 4.7 to 2.3."""
_WHOLE = 0.9
"""Share of a cell that must lie in a region for the cell to count there."""
_LARGEST_GAIN = 2.0


def fit_mean_residual(known: Known, grid: float) -> Defend:
    """The subtraction of the mean residual on a grid.

    Args:
        known: published pictures and masks.
        grid: cells of the noise a side of the picture, padded to a square.
    """
    fields = mean_residuals(known, int(grid))

    def defend(picture: PublishedPicture) -> Tensor:
        residual, shares = _on_grid(picture, int(grid))
        # The noise may be weaker in a picture than on average (clipped, recoded): least squares.
        weighted = (shares * fields).flatten(1)
        gains = (weighted @ residual.flatten()) / (weighted * fields.flatten(1)).sum(1).clamp(1e-9)
        gains = gains.clamp(0, _LARGEST_GAIN).view(2, 1, 1, 1)
        height, width = picture.image.shape[-2:]
        side = max(height, width)
        noise = F.interpolate(gains * fields, (side, side), mode="bilinear", align_corners=False)
        noise = noise[..., :height, :width]
        noise = torch.where(picture.inside, noise[0], noise[1])
        return (picture.image - noise).clamp(0, 1)

    return defend


def mean_residuals(known: Known, grid: int) -> Tensor:
    """(2, 3, grid, grid) mean residual inside and outside of the masks.

    Cells whose mean is no larger than its own error are shrunk towards zero: where a region holds
    few pictures, the mean is made of their texture.
    """
    total = torch.zeros(2, 3, grid, grid)
    squares = torch.zeros(2, 3, grid, grid)
    count = torch.zeros(2, 1, grid, grid)
    for picture in known.some_pictures():
        residual, shares = _on_grid(picture, grid)
        is_noise = (residual.abs() < LARGEST).all(0)
        is_whole = ((shares > _WHOLE) & is_noise).float()
        total += is_whole * residual
        squares += is_whole * residual.square()
        count += is_whole
    mean = total / count.clamp(min=1)
    error = (squares / count.clamp(min=1) - mean.square()) / (count - 1).clamp(min=1)
    shrunk = mean * mean.square() / (mean.square() + error).clamp(min=1e-12)
    return torch.where(count > 1, shrunk, 0.0)


def _on_grid(picture: PublishedPicture, grid: int) -> tuple[Tensor, Tensor]:
    """Residual (3, g, g) of a picture on the grid, and shares (2, 1, g, g) inside and outside."""
    height, width = picture.image.shape[-2:]
    side = max(height, width)
    inside = picture.inside.float()
    layers = torch.cat([picture.image, inside, 1 - inside])
    padded = F.pad(layers, (0, side - width, 0, side - height))[None]
    cells = F.interpolate(padded, (grid, grid), mode="area")[0]
    shares = cells[3:, None]
    share = shares.sum(0)
    # Black padding belongs to no mean: cells and their surroundings weigh by what the picture has.
    before, after = (LOCAL - 1) // 2, LOCAL // 2
    sums = F.pad(torch.cat([cells[:3], share])[None], (before, after, before, after))
    near = F.avg_pool2d(sums, LOCAL, stride=1)[0]
    means, around = cells[:3] / share.clamp(min=1e-6), near[:3] / near[3:].clamp(min=1e-6)
    return torch.where(share > _WHOLE, means - around, 0.0), shares
