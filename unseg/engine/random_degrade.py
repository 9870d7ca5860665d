"""Degradations between the two players, so that the noise learns to survive a picture's travels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unseg.degrade import down_up, gaussian_blur, greyscale, jpeg, straight_through, tinted


@dataclass(frozen=True)
class RandomDegrade:
    """Each image through a random subset of degradations, in the order in which a web site works.

    DEVIATION: the paper trains without degradations; every probability is 0 in its recipe.

    Attributes:
        greyscale: probability of losing the colours.
        down_up: probability of being resized down and up.
        down_up_scale: smallest and largest factor.
        blur: probability of a Gaussian blur.
        blur_sigma: smallest and largest standard deviation in pixels.
        jpeg: probability of a JPEG round trip; its gradient is passed straight through.
        jpeg_quality: lowest and highest quality.
        tint: probability of a shift of each colour, the same at every pixel. Pictures differ in
            colour, surrogates that see few of them take a tint of the noise for a good lure, and
            the generator then spends its budget on one; this takes that way out from both.
        tint_levels: largest shift in grey levels.
    """

    greyscale: float = 0.0
    down_up: float = 0.0
    down_up_scale: tuple[float, float] = (0.5, 0.9)
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.3, 1.0)
    jpeg: float = 0.0
    jpeg_quality: tuple[int, int] = (50, 95)
    tint: float = 0.0
    tint_levels: float = 32.0

    @property
    def is_off(self) -> bool:
        """Whether nothing can ever happen."""
        return not (self.greyscale or self.down_up or self.blur or self.jpeg or self.tint)

    def __call__(self, image: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> the same; one CPU generator an image decides for it."""
        if not len(image):
            return image
        rows = [
            self._degrade(row, source)
            for row, source in zip(torch.split(image, 1), generators, strict=True)
        ]
        return torch.cat(rows)

    def _degrade(self, image: Tensor, source: torch.Generator) -> Tensor:
        # Every number is drawn whether used or not, so that switching one degradation on leaves
        # the draws of the others as they were.
        draws = torch.rand(11, generator=source).tolist()
        steps: list[tuple[float, Callable[[Tensor], Tensor]]] = [
            (self.greyscale, greyscale),
            (self.down_up, lambda x: down_up(x, _between(self.down_up_scale, draws[4]))),
            (self.blur, lambda x: gaussian_blur(x, _between(self.blur_sigma, draws[5]))),
            (self.jpeg, lambda x: straight_through(jpeg, x, self._quality(draws[6]))),
        ]
        for draw, (probability, step) in zip(draws, steps, strict=False):
            if draw < probability:
                image = step(image)
        if draws[7] < self.tint:
            image = tinted(image, [self.tint_levels * (2 * draw - 1) for draw in draws[8:]])
        return image

    def _quality(self, draw: float) -> int:
        return round(_between(self.jpeg_quality, draw))


def _between(limits: tuple[float, float], draw: float) -> float:
    low, high = limits
    return low + (high - low) * draw
