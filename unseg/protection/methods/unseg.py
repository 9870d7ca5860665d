"""UnSeg itself, and two controls that need its generator."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from unseg.noise import Carrier, Enlarge, compose, upsample_noise
from unseg.protection.methods.base import Canvas, Method, MethodOptions, NoiseSource


class UnSeg(Method):
    """The generator's noise, loud inside the region (paper, section 3.3)."""

    title = "the generator's noise, loud inside the region"
    noise_from: ClassVar[NoiseSource] = "own"

    def __init__(self, options: MethodOptions) -> None:
        super().__init__(options)
        self.carrier = Carrier.parse(options.carrier)

    def __call__(self, canvas: Canvas) -> Tensor:
        """`clip(image + budget * noise)`."""
        assert canvas.noise is not None
        return self._compose(canvas, canvas.noise)

    def _compose(self, canvas: Canvas, noise: Tensor) -> Tensor:
        assert self.bounds is not None
        if canvas.image.shape[1] == 1:
            noise = self.carrier.grey(noise)
        epsilon, epsilon_bg = self.bounds
        return compose(
            canvas.image,
            noise,
            region=canvas.region,
            epsilon=epsilon,
            epsilon_bg=epsilon_bg,
            enlarge=self.carrier.enlarge,
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
        (1, 3, s, s) with s = max(H, W), which needs no further upsampling.
    """
    side = max(size)

    def upsampled(row: int) -> Tensor:
        return upsample_noise(noises[row : row + 1], (side, side), enlarge=enlarge)

    canvas = upsampled(0)
    order = sorted(range(len(masks)), key=lambda i: -int(masks[i].sum()))
    for i in order:
        inside = torch.zeros(side, side, dtype=torch.bool, device=canvas.device)
        inside[: size[0], : size[1]] = masks[i]
        canvas = torch.where(inside, upsampled(i + 1), canvas)
    return canvas
