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

from unseg.noise import Band, Carrier, upsample_noise
from unseg.protection.methods.base import Canvas
from unseg.protection.methods.signs import RandomSign
from unseg.types import VOID_CLASS

CODE_SIDE = 8
"""Side of a code in noise cells, a power of two; codes repeat over the picture."""

CONTRASTS: dict[tuple[str, ...], list[tuple[int, ...]]] = {
    ("red", "green", "blue"): [(1, -1, 1), (1, 1, -1), (-1, 1, 1)],
    ("yellow", "blue"): [(1, -1)],
}
"""Colours of a carrier's bands -> signs of its bands. Each pattern is used once in each: nature
varies less in colour than in brightness, so bands of two colours are a better lure. Carriers that
are not listed have all their bands alike."""


class ClassSign(RandomSign):
    """A code of signs for each class, the same in all images; void pixels stay as they are."""

    title = "a code of signs for each class, the same in all images"
    needs_classes = True
    takes_key = False  # a code that differs from picture to picture is none
    reads: ClassVar[tuple[str, ...]] = ("noise.classes", *RandomSign.reads)

    def shared_noise(
        self, key: str, noise: Tensor | None, *, size: tuple[int, int], channels: int
    ) -> Tensor | None:
        """None: which code a pixel carries goes by its class."""
        del key, noise, size, channels
        return None

    def __call__(self, canvas: Canvas) -> Tensor:
        """`clip(image + budget * code of the pixel's class)`."""
        assert canvas.classes is not None
        carrier = self.carrier
        if canvas.image.shape[1] == 1:  # the contrasts of colours would cancel
            carrier = Carrier((Band("luma", cells=carrier.bands[0].cells),), carrier.enlarge)
        codes = self._codes(canvas, canvas.classes, carrier).to(canvas.image)
        return self._add(canvas, self.carrier.grey(codes) if canvas.image.shape[1] == 1 else codes)

    def _codes(self, canvas: Canvas, classes: Tensor, carrier: Carrier) -> Tensor:
        """(1, 3, H, W): each pixel's code, on the grid and enlarged; of a strip its rows alone."""
        codes = torch.zeros(1, 3, *classes.shape[-2:], device=classes.device)
        for label in torch.unique(classes).tolist():
            if label == VOID_CLASS:
                continue
            field = class_code(label, carrier=carrier, side=self.options.grid).to(codes)
            field = upsample_noise(field, canvas.size, enlarge=carrier.enlarge, rows=canvas.rows)
            codes = torch.where(classes == label, field, codes)
        return codes


def class_code(label: int, *, carrier: Carrier, side: int = CODE_SIDE) -> Tensor:
    """The code of a class: a two-dimensional Walsh function in one of the `CONTRASTS`, repeated.

    Codes of two classes are orthogonal in their pattern or differ in colour. After 63 patterns in
    each contrast their negatives follow (378 codes for `rgb`, 126 else), and then they repeat.

    Args:
        label: of the class, 0 or more.
        carrier: of the code's bands; a pattern spans `CODE_SIDE` cells of its band.
        side: of the result, in cells of the grid.

    Returns:
        (1, 3, side, side) in [-1, 1].
    """
    patterns = _walsh_patterns()
    colours = tuple(band.colour for band in carrier.bands)
    contrasts = CONTRASTS.get(colours, [(1,) * len(colours)])
    turn, colour = divmod(label, len(contrasts))
    sign = 1 - 2 * (turn // len(patterns) % 2)
    fields = []
    for band, contrast in zip(carrier.bands, contrasts[colour], strict=True):
        pattern = sign * contrast * patterns[turn % len(patterns)]
        pattern = pattern.repeat_interleave(band.cells, 0).repeat_interleave(band.cells, 1)
        repeats = -(-side // len(pattern))
        fields.append(pattern.repeat(repeats, repeats)[:side, :side])
    return carrier.noise(torch.stack(fields)[None])


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
