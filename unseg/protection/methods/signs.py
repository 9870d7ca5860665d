"""Controls at the generator's grid and budget that no generator makes: random signs."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from unseg.protection.methods.base import Canvas, NoiseSource
from unseg.protection.methods.unseg import UnSeg
from unseg.utils.seed import torch_generator


class RandomSign(UnSeg):
    """Signs on the generator's grid, drawn anew for each image.

    A trained generator's noise is nearly saturated, so uniform noise would be too weak a control.
    """

    title = "random signs on the generator's grid, drawn anew for each image"
    noise_from: ClassVar[NoiseSource] = "none"
    reads: ClassVar[tuple[str, ...]] = ("noise.grid", "noise.carrier")

    def shared_noise(
        self, key: str, noise: Tensor | None, *, size: tuple[int, int], channels: int
    ) -> Tensor | None:
        """The signs, as `UnSeg` has its noise."""
        del noise
        return super().shared_noise(key, self.signs(key), size=size, channels=channels)

    def __call__(self, canvas: Canvas) -> Tensor:
        """`clip(image + budget * signs)`."""
        signs = canvas.noise if canvas.height is not None else None  # that of `shared_noise`
        signs = self._keyed(canvas.key, self.signs(canvas.key)) if signs is None else signs
        return self._compose(canvas, signs.to(canvas.image))

    def signs(self, key: str) -> Tensor:
        """(1, 3, n, n) in [-1, 1]: each band of the carrier with its own signs."""
        return self._draw(self.options.grid, "random_sign", key)

    def _draw(self, side: int, *purpose: str) -> Tensor:
        rng = torch_generator(self.options.seed, *purpose)
        return self.carrier.noise(self.carrier.draw_signs(side, rng))


class FixedSign(RandomSign):
    """One field of signs for all images."""

    title = "one field of random signs for all images"

    def signs(self, key: str) -> Tensor:
        """The same for every key."""
        del key
        return self._draw(self.options.grid, "fixed_sign")


class TiledSign(RandomSign):
    """One small tile of signs, repeated over the grid, for all images.

    The control of what upsampling alone does: a decoder that makes noise from coarse tokens by
    strided convolutions repeats itself every few cells before it has learnt anything, and a
    pattern that repeats is what a convolution learns first.
    """

    title = "one small tile of random signs, repeated over all images"
    reads: ClassVar[tuple[str, ...]] = ("noise.tile", *RandomSign.reads)

    def signs(self, key: str) -> Tensor:
        """The same for every key; the last tile of a row or column may be cut."""
        del key
        grid, tile = self.options.grid, self.options.tile
        repeats = -(-grid // tile)
        return self._draw(tile, "tiled_sign").repeat(1, 1, repeats, repeats)[..., :grid, :grid]


class Checks(RandomSign):
    """A chequerboard in each band of the carrier, the same in all images: the plainest pattern.

    One period instead of the many of a random tile: all of its energy lies where a network's first
    filters look for it.
    """

    title = "a chequerboard in each band of the carrier, the same in all images"

    def signs(self, key: str) -> Tensor:
        """The same for every key."""
        del key
        return self.carrier.noise(self.carrier.checks(self.options.grid))
