"""Noise that tells classes apart: the signs of each class's noise flipped in a pattern of its own.

DEVIATION: the paper's noise is one for all classes. Where every pixel is protected, as in street
scenes, it has nothing to mark a class with (configs/EXPERIMENTS.md); a code has. Without a
generator, a code for each class is close to SynPer's idea on a finer grid.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.noise import NoiseChannels

CODE_SIDE = 8
"""Side of a code in noise cells, a power of two; codes repeat over the picture."""

CONTRASTS: dict[NoiseChannels, list[tuple[int, int, int]]] = {
    "rgb": [(1, -1, 1), (1, 1, -1), (-1, 1, 1)],
    "luma": [(1, 1, 1)],
    "yellow_blue": [(1, 1, -1)],
}
"""Signs of red, green and blue: nature varies less in colour than in brightness, so a stripe of
two colours is a better lure. One by one they are repeated for each pattern."""


def class_code(label: int, *, channels: NoiseChannels) -> Tensor:
    """The code of a class: a two-dimensional Walsh function in one of the `CONTRASTS`.

    Codes of two classes are orthogonal in their pattern or differ in colour; low labels have the
    coarsest patterns. After 63 patterns in each contrast their negatives follow (378 codes for
    `rgb`, 126 else), and then they repeat.

    Args:
        label: of the class, 0 or more.
        channels: which colours share their noise.

    Returns:
        (1, 3, CODE_SIDE, CODE_SIDE) of -1 and 1.
    """
    contrasts, patterns = CONTRASTS[channels], _walsh_patterns()
    turn, colour = divmod(label, len(contrasts))
    sign = 1 - 2 * (turn // len(patterns) % 2)
    pattern = patterns[turn % len(patterns)]
    return sign * pattern * torch.tensor(contrasts[colour]).view(1, 3, 1, 1)


@cache
def _walsh_patterns() -> list[Tensor]:
    """All two-dimensional Walsh functions but the constant, by their number of sign changes."""
    rows = torch.ones(1, 1)
    while len(rows) < CODE_SIDE:  # Sylvester's construction
        rows = torch.cat([torch.cat([rows, rows], 1), torch.cat([rows, -rows], 1)])
    rows = rows[rows.diff(dim=1).ne(0).sum(1).argsort()]
    pairs = [(i, j) for i in range(CODE_SIDE) for j in range(CODE_SIDE) if i + j]
    pairs.sort(key=lambda pair: (sum(pair), -max(pair)))
    return [torch.outer(rows[i], rows[j]) for i, j in pairs]


def coded_by_class(noise: Tensor, classes: Tensor, *, grid: int, channels: NoiseChannels) -> Tensor:
    """Noise times the code of each pixel's class, at the image's own size.

    Args:
        noise: (1, 3, n, n) in [-1, 1] on the square of side s = max(H, W); n is the grid or s.
        classes: (1, 1, H, W) integers; negative ones have no code.
        grid: cells of the noise along s; a code repeats over them.
        channels: which colours share their noise.

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
        repeats = -(-grid // CODE_SIDE)
        code = class_code(label, channels=channels).to(noise)
        field = code.repeat(1, 1, repeats, repeats)[..., :grid, :grid]
        if noise.shape[-1] != grid:
            field = F.interpolate(field, noise.shape[-2:], mode="nearest")
        result = torch.where(frame == label, _at(noise * field, side), result)
    return result


def _at(noise: Tensor, side: int) -> Tensor:
    if noise.shape[-1] == side:
        return noise
    return F.interpolate(noise, (side, side), mode="bilinear", align_corners=False)
