"""Signs that tell classes apart, where one noise for all classes marks none.

DEVIATION: the paper has no such method. Where every pixel is protected, as in street scenes, the
generator's noise is the same in all classes and protects little (docs/RESULTS.md). A code for
each class is close to SynPer's idea, but on the noise grid and within the budget.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from unseg.noise import NoiseChannels, upsample_noise
from unseg.protection.methods.base import Canvas
from unseg.protection.methods.signs import RandomSign
from unseg.types import VOID_CLASS

CODE_SIDE = 8
"""Side of a code in noise cells, a power of two; codes repeat over the picture."""

CONTRASTS: dict[NoiseChannels, list[tuple[int, int, int]]] = {
    "rgb": [(1, -1, 1), (1, 1, -1), (-1, 1, 1)],
    "luma": [(1, 1, 1)],
    "yellow_blue": [(1, 1, -1)],
}
"""Signs of red, green and blue. Each pattern is used once in each: nature varies less in colour
than in brightness, so bands of two colours are a better lure."""


class ClassSign(RandomSign):
    """A code of signs for each class, the same in all images; void pixels stay as they are."""

    title = "a code of signs for each class, the same in all images"
    needs_classes = True
    reads: ClassVar[tuple[str, ...]] = ("noise.classes", *RandomSign.reads)

    def __call__(self, canvas: Canvas) -> Tensor:
        """`clip(image + budget * code of the pixel's class)`."""
        assert canvas.classes is not None
        # The contrasts of colours cancel in a grey picture.
        channels = "luma" if canvas.image.shape[1] == 1 else self.options.channels
        return self._compose(canvas, self._codes(canvas.classes, channels).to(canvas.image))

    def _codes(self, classes: Tensor, channels: NoiseChannels) -> Tensor:
        """(1, 3, s, s) with s = max(H, W): each pixel's code, on the grid and upsampled."""
        height, width = classes.shape[-2:]
        side, grid = max(height, width), self.options.grid
        codes = torch.zeros(1, 3, side, side, device=classes.device)
        inside = codes[..., :height, :width]
        repeats = -(-grid // CODE_SIDE)
        for label in torch.unique(classes).tolist():
            if label == VOID_CLASS:
                continue
            tile = class_code(label, channels=channels)
            field = tile.repeat(1, 1, repeats, repeats)[..., :grid, :grid].to(codes)
            field = upsample_noise(field, (height, width))
            inside.copy_(torch.where(classes == label, field, inside))
        return codes


def class_code(label: int, *, channels: NoiseChannels) -> Tensor:
    """The code of a class: a two-dimensional Walsh function in one of the `CONTRASTS`.

    Codes of two classes are orthogonal in their pattern or differ in colour. After 63 patterns in
    each contrast their negatives follow (378 codes for `rgb`, 126 else), and then they repeat.

    Args:
        label: of the class, 0 or more.
        channels: which colours share their signs.

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
    """All two-dimensional Walsh functions but the constant: horizontal bands first, coarse to fine.

    Trainers mirror pictures left and right, and bands stay what they are.
    """
    rows = torch.ones(1, 1)
    while len(rows) < CODE_SIDE:  # Sylvester's construction
        rows = torch.cat([torch.cat([rows, rows], 1), torch.cat([rows, -rows], 1)])
    rows = rows[rows.diff(dim=1).ne(0).sum(1).argsort()]  # by their number of sign changes
    pairs = [(i, j) for j in range(CODE_SIDE) for i in range(CODE_SIDE) if i + j]
    return [torch.outer(rows[i], rows[j]) for i, j in pairs]
