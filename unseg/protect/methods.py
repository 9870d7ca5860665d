"""What is added to an image: UnSeg's noise and the controls without which no claim counts.

A method is one class here and one line in `METHODS`. Everything else (regions, budgets, files,
resuming, sharding) is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from unseg.degrade import jpeg
from unseg.noise import compose
from unseg.utils.seed import torch_generator

NoiseSource = Literal["own", "partner", "none"]


@dataclass(frozen=True)
class Canvas:
    """One image, ready to be protected.

    Attributes:
        key: the image's name in its data set; randomness derives from it.
        image: (1, C, H, W) float in [0, 1], C = 1 for grey pictures, else 3.
        region: (1, 1, H, W) float, 1 inside the protected region.
        noise: (1, 3, n, n) in [-1, 1] on the grid of the square of side max(H, W), or None for
            methods whose `noise_from` is "none".
    """

    key: str
    image: Tensor
    region: Tensor
    noise: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """What methods may depend on.

    Attributes:
        epsilon: bound inside the region, in 8-bit grey levels.
        epsilon_bg: bound outside.
        seed: of all randomness.
        grid: side of the noise grid of the sign methods.
        channels: colour or grey signs.
        quality: JPEG quality of `jpeg_only`.
    """

    epsilon: float = 8
    epsilon_bg: float = 2
    seed: int = 42
    grid: int = 256
    channels: Literal["rgb", "luma"] = "rgb"
    quality: int = 95


class Method(Protocol):
    """The interface of a method.

    Attributes:
        noise_from: whose forward pass it needs: the image's own, another image's, or none.
        bounds: largest change (inside, outside) in 8-bit levels, or None where it has no bound.
    """

    noise_from: NoiseSource
    bounds: tuple[float, float] | None

    def __call__(self, canvas: Canvas) -> Tensor:
        """The protected image before rounding, (1, C, H, W) float in [0, 1]."""
        ...


class UnSeg:
    """The generator's noise, loud inside the region (paper, section 3.3)."""

    noise_from: NoiseSource = "own"

    def __init__(self, options: MethodOptions) -> None:
        self.bounds: tuple[float, float] | None = (options.epsilon, options.epsilon_bg)

    def __call__(self, canvas: Canvas) -> Tensor:
        """`clip(image + budget * noise)`."""
        assert canvas.noise is not None
        return self._compose(canvas, canvas.noise)

    def _compose(self, canvas: Canvas, noise: Tensor) -> Tensor:
        assert self.bounds is not None
        channels = canvas.image.shape[1]
        if channels == 1:
            # A grey picture stays grey: it carries the mean of the three colours' noise.
            noise = noise.mean(1, keepdim=True)
        epsilon, epsilon_bg = self.bounds
        return compose(
            canvas.image, noise, region=canvas.region, epsilon=epsilon, epsilon_bg=epsilon_bg
        )


class Flat(UnSeg):
    """UnSeg noise at the inner budget everywhere: is it the louder object that fools?"""

    def __init__(self, options: MethodOptions) -> None:
        self.bounds = (options.epsilon, options.epsilon)


class Shuffled(UnSeg):
    """UnSeg noise made for another image of the list, at this image's budget."""

    noise_from: NoiseSource = "partner"


class RandomSign(UnSeg):
    """Signs on the generator's grid, drawn anew for each image.

    A trained generator's noise is nearly saturated, so uniform noise would be too weak a control.
    """

    noise_from: NoiseSource = "none"

    def __init__(self, options: MethodOptions) -> None:
        super().__init__(options)
        self.options = options

    def __call__(self, canvas: Canvas) -> Tensor:
        """`clip(image + budget * signs)`."""
        return self._compose(canvas, self.signs(canvas.key).to(canvas.image))

    def signs(self, key: str) -> Tensor:
        """(1, 3, n, n) of -1 and 1."""
        return self._draw("random_sign", key)

    def _draw(self, *purpose: str) -> Tensor:
        count = 1 if self.options.channels == "luma" else 3
        shape = (1, count, self.options.grid, self.options.grid)
        rng = torch_generator(self.options.seed, *purpose)
        signs = torch.randint(0, 2, shape, generator=rng) * 2.0 - 1
        return signs.expand(1, 3, -1, -1)


class FixedSign(RandomSign):
    """One field of signs for all images."""

    def signs(self, key: str) -> Tensor:
        """The same for every key."""
        del key
        return self._draw("fixed_sign")


class JpegOnly:
    """The image through a JPEG codec and nothing else: what compression alone does."""

    noise_from: NoiseSource = "none"
    bounds: tuple[float, float] | None = None

    def __init__(self, options: MethodOptions) -> None:
        self.quality = options.quality

    def __call__(self, canvas: Canvas) -> Tensor:
        """The decoded JPEG, at 8 bits."""
        image = canvas.image.expand(-1, 3, -1, -1)
        return jpeg(image, self.quality)[:, : canvas.image.shape[1]]


METHODS: dict[str, Callable[[MethodOptions], Method]] = {
    "unseg": UnSeg,
    "random_sign": RandomSign,
    "fixed_sign": FixedSign,
    "flat": Flat,
    "shuffled": Shuffled,
    "jpeg_only": JpegOnly,
}


def build_method(name: str, options: MethodOptions) -> Method:
    """The method of that name."""
    return METHODS[name](options)


def full_size_noise(noises: Tensor, masks: list[Tensor], *, size: tuple[int, int]) -> Tensor:
    """Noises of several prompts as one: each object carries its own, the rest the union's.

    Args:
        noises: (1 + K, 3, n, n); row 0 is the union prompt's.
        masks: K tensors (H, W) bool; where objects overlap the smaller one lies on top.
        size: (H, W).

    Returns:
        (1, 3, s, s) with s = max(H, W), which needs no further upsampling.
    """
    side = max(size)

    def upsampled(row: int) -> Tensor:
        return torch.nn.functional.interpolate(
            noises[row : row + 1], (side, side), mode="bilinear", align_corners=False
        )

    canvas = upsampled(0)
    order = sorted(range(len(masks)), key=lambda i: -int(masks[i].sum()))
    for i in order:
        inside = torch.zeros(side, side, dtype=torch.bool, device=canvas.device)
        inside[: size[0], : size[1]] = masks[i]
        canvas = torch.where(inside, upsampled(i + 1), canvas)
    return canvas
