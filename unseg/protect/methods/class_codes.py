"""Noise that tells classes apart: the signs of each class's noise flipped in a pattern of its own.

DEVIATION: the paper's noise is one for all classes. Where every pixel is protected, as in street
scenes, it has nothing to mark a class with (configs/EXPERIMENTS.md); a code has. Without a
generator, a code for each class is close to SynPer's idea on a finer grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.noise import NoiseChannels, random_signs
from unseg.utils.seed import torch_generator


def class_code(label: int, *, tile: int, channels: NoiseChannels, seed: int) -> Tensor:
    """(1, 3, tile, tile) of -1 and 1, drawn for the class.

    Args:
        label: of the class.
        tile: side in noise cells.
        channels: which colours share their signs.
        seed: of the whole set.
    """
    rng = torch_generator(seed, "class code", label)
    return random_signs(tile, channels, rng)


def coded_by_class(
    noise: Tensor, classes: Tensor, *, grid: int, tile: int, channels: NoiseChannels, seed: int
) -> Tensor:
    """Noise times the code of each pixel's class, at the image's own size.

    Args:
        noise: (1, 3, n, n) in [-1, 1] on the square of side s = max(H, W); n is the grid or s.
        classes: (1, 1, H, W) integers; negative ones have no code.
        grid: cells of the noise along s; the code's tile repeats over them.
        tile: side of a code in cells.
        channels: which colours share their codes.
        seed: of the codes.

    Returns:
        (1, 3, s, s) in [-1, 1].
    """
    height, width = classes.shape[-2:]
    side = max(height, width)
    # Outside the picture there is nothing to protect; the frame is cut off later.
    frame = F.pad(classes, (0, side - width, 0, side - height), value=-1)
    result = _at(noise, side)
    for label in torch.unique(classes).tolist():
        if label < 0:
            continue
        code = class_code(label, tile=tile, channels=channels, seed=seed).to(noise)
        repeats = -(-grid // tile)
        field = code.repeat(1, 1, repeats, repeats)[..., :grid, :grid]
        if noise.shape[-1] != grid:
            field = F.interpolate(field, noise.shape[-2:], mode="nearest")
        result = torch.where(frame == label, _at(noise * field, side), result)
    return result


def _at(noise: Tensor, side: int) -> Tensor:
    if noise.shape[-1] == side:
        return noise
    return F.interpolate(noise, (side, side), mode="bilinear", align_corners=False)
