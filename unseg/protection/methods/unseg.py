"""UnSeg itself, and two controls that need its generator."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unseg.noise import Carrier, Enlarge, add_noise, upsample_noise
from unseg.protection.methods.base import Canvas, Method, MethodOptions, NoiseSource, strips

_ENLARGED_AT_ONCE = 1 << 22
"""Pixels of the largest image whose noise is enlarged as a whole: 12 bytes a pixel."""
_LONG_ROW = 1024


class UnSeg(Method):
    """The generator's noise, loud inside the region (paper, section 3.3)."""

    title = "the generator's noise, loud inside the region"
    noise_from: ClassVar[NoiseSource] = "own"
    by_rows: ClassVar[bool] = True
    takes_key: ClassVar[bool] = True

    def __init__(self, options: MethodOptions) -> None:
        super().__init__(options)
        self.carrier = Carrier.parse(options.carrier)

    def shared_noise(
        self, key: str, noise: Tensor | None, *, size: tuple[int, int], channels: int
    ) -> Tensor | None:
        """Of the image's own size where that is small, or its rows too short to be made singly."""
        if noise is None:
            return None
        noise = self._keyed(key, noise)
        noise = self.carrier.grey(noise) if channels == 1 else noise
        if size[0] * size[1] > _ENLARGED_AT_ONCE and size[1] >= _LONG_ROW:
            return noise
        return upsample_noise(noise, size, enlarge=self.carrier.enlarge)

    def __call__(self, canvas: Canvas) -> Tensor:
        """`clip(image + budget * noise)`."""
        assert canvas.noise is not None
        # A strip's noise is that of `shared_noise` already.
        is_whole = canvas.height is None
        noise = self._keyed(canvas.key, canvas.noise) if is_whole else canvas.noise
        return self._compose(canvas, noise)

    def _keyed(self, picture: str, noise: Tensor) -> Tensor:
        """Noise (1, C, n, n) with the picture's sign for each cell, where there is a key."""
        if self.options.key is None:
            return noise
        cells = max(band.cells for band in self.carrier.bands)
        return noise * self.options.key.signs(picture, noise.shape[-1], cells=cells).to(noise)

    def _compose(self, canvas: Canvas, noise: Tensor) -> Tensor:
        """With noise on the grid of the square, or of the whole image's size."""
        if canvas.image.shape[1] == 1:
            noise = self.carrier.grey(noise)
        noise = upsample_noise(noise, canvas.size, enlarge=self.carrier.enlarge, rows=canvas.rows)
        return self._add(canvas, noise)

    def _add(self, canvas: Canvas, noise: Tensor) -> Tensor:
        """With noise of the canvas's own size."""
        assert self.bounds is not None
        epsilon, epsilon_bg = self.bounds
        return add_noise(
            canvas.image, noise, region=canvas.region, epsilon=epsilon, epsilon_bg=epsilon_bg
        )


class Flat(UnSeg):
    """UnSeg noise at the inner budget everywhere: is it the louder object that fools?"""

    title = "the generator's noise, equally loud everywhere"

    @property
    def bounds(self) -> tuple[float, float]:
        """The inner budget, twice."""
        return (self.options.epsilon, self.options.epsilon)


class Shuffled(UnSeg):
    """UnSeg noise made for another image of the list, at this image's budget."""

    title = "the generator's noise for another image of the list"
    noise_from: ClassVar[NoiseSource] = "partner"


def full_size_noise(
    noises: Tensor, masks: list[Tensor], *, size: tuple[int, int], enlarge: Enlarge = "bilinear"
) -> Tensor:
    """Noises of several prompts as one: each object carries its own, the rest the union's.

    Args:
        noises: (1 + K, 3, n, n); row 0 is the union prompt's.
        masks: K tensors (H, W) bool; where objects overlap the smaller one lies on top.
        size: (H, W).
        enlarge: how the carrier's cells become pixels.

    Returns:
        (1, 3, H, W), which needs no further upsampling.
    """
    result = noises.new_empty((1, noises.shape[1], *size))
    order = sorted(range(len(masks)), key=lambda i: -int(masks[i].sum()))
    for first, last in strips(*size, device=noises.device):
        rows = result[..., first:last, :]

        def upsampled(number: int, place: tuple[int, int] = (first, last)) -> Tensor:
            noise = noises[number : number + 1]
            return upsample_noise(noise, size, enlarge=enlarge, rows=place)

        rows.copy_(upsampled(0))
        for i in order:
            inside = masks[i][first:last]
            if bool(inside.any()):
                rows.copy_(torch.where(inside, upsampled(i + 1), rows))
    return result
