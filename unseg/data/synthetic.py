"""Embedded scenes whose objects are hard to tell from their background.

Noise wins over a segmenter only where the honest cue is hard to learn. Here object and background
share clouds of colour, contrast and the spectrum of their texture, and differ only in the
orientation of that texture; edges are soft, and shadows cross both alike.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

from unseg.types import Sample
from unseg.utils.seed import numpy_generator

_REFERENCE_SIDE = 128
"""Side, in pixels, at which the constants below were chosen; they scale with the image."""


class Synthetic:
    """A data set of generated scenes, each determined by (seed, split, index) alone.

    Args:
        num_samples: how many scenes there are.
        image_size: side of the square images, in pixels.
        seed: of the whole set.
        split: name of the part; parts of different names have no scene in common.
        contrast: smallest and largest amplitude of the texture in grey levels; at 16 to 30 objects
            are learnt sooner than any noise.
        grain: standard deviation of the grain in grey levels.
    """

    def __init__(
        self,
        num_samples: int,
        image_size: int = 256,
        seed: int = 0,
        split: str = "train",
        *,
        contrast: tuple[float, float] = (6, 12),
        grain: float = 2,
    ) -> None:
        if num_samples < 1 or image_size < 16:
            raise ValueError(
                f"num_samples must be >= 1 and image_size >= 16, not {num_samples}, {image_size}"
            )
        self.num_samples, self.image_size = num_samples, image_size
        self.seed, self.split = seed, split
        self.contrast, self.grain = contrast, grain
        self.name = f"synthetic-{split}"

    def __len__(self) -> int:
        return self.num_samples

    def sample_name(self, index: int) -> str:
        """For example `train-00007`."""
        return f"{self.split}-{index:05d}"

    def fault(self, index: int) -> str | None:
        """None: there is no file that could be faulty."""
        del index
        return None

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.num_samples:
            raise IndexError(index)
        rng = numpy_generator(self.seed, self.split, index, "synthetic scene")
        mask, alpha = _objects(rng, self.image_size)
        image = _paint(rng, alpha, self.image_size, contrast=self.contrast, grain=self.grain)
        return Sample(image, mask, self.sample_name(index))


def _objects(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(mask bool, alpha float32 in [0, 1]), both (side, side): one to three blobs, soft at edges.

    The mask is where alpha is above a half.
    """
    outline = np.zeros((side, side), np.uint8)
    for _ in range(int(rng.choice((1, 1, 1, 2, 2, 3)))):
        centre = rng.uniform(0.22, 0.78, 2) * side
        cv2.fillPoly(outline, [_blob(rng, centre, rng.uniform(0.14, 0.3) * side)], 255)
    softness = rng.uniform(0.8, 1.8) * side / _REFERENCE_SIDE
    alpha = cv2.GaussianBlur(outline, (0, 0), softness).astype(np.float32) / 255
    return alpha > 0.5, alpha


def _blob(rng: np.random.Generator, centre: np.ndarray, radius: float) -> np.ndarray:
    """A closed outline (N, 2) int32 whose radius is a random Fourier series of the angle."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    order = np.arange(1, 7)
    size = rng.normal(0, 0.22, 6) / order**0.8
    phase = rng.uniform(0, 2 * np.pi, 6)
    factor = 1 + (size[:, None] * np.cos(order[:, None] * angle + phase[:, None])).sum(0)
    stretch, turn = rng.uniform(0.65, 1.5), rng.uniform(0, np.pi)
    reach = radius * np.clip(factor, 0.35, 1.8)
    x, y = reach * np.cos(angle) * stretch, reach * np.sin(angle) / stretch
    points = np.stack((x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)), 1)
    return np.round(points + centre).astype(np.int32)


def _paint(
    rng: np.random.Generator,
    alpha: np.ndarray,
    side: int,
    *,
    contrast: tuple[float, float],
    grain: float,
) -> np.ndarray:
    """The (side, side, 3) uint8 picture of objects of this alpha."""
    # Ground textures lean to one side of all orientations and objects to the other, so that a model
    # without prompts can learn which of two textures is the object; at the borders they meet.
    angle = rng.uniform(-0.7, 0.7)
    turn = rng.uniform(np.pi / 4, np.pi / 2) * rng.choice((-1, 1))
    wavelength = rng.uniform(5, 9) * side / _REFERENCE_SIDE
    background = _texture(rng, side, angle, wavelength)
    texture = background + alpha * (_texture(rng, side, angle + turn, wavelength) - background)
    # A blend of two independent textures is flatter than either; without this the edge itself
    # would be a cue.
    texture /= np.sqrt(alpha**2 + (1 - alpha) ** 2)
    tint = rng.normal(1, 0.25, 3).astype(np.float32)
    amplitude = np.float32(rng.uniform(*contrast))
    picture = _clouds(rng, side) + amplitude * texture[..., None] * tint
    picture *= _shadows(rng, side)[..., None]
    picture += np.float32(grain) * rng.standard_normal((side, side), np.float32)[..., None]
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, side: int, angle: float, wavelength: float) -> np.ndarray:
    """Oriented band-pass noise (side, side) of unit variance."""
    radius, cosine, sine = _frequencies(side)
    # Orientation has period pi: the cosine of twice the angle between makes both half planes agree.
    alike = cosine * np.float32(np.cos(2 * angle)) + sine * np.float32(np.sin(2 * angle))
    band = (radius * np.float32(wavelength) - 1) / np.float32(0.3)
    gain = np.exp((alike - 1) / np.float32(0.18) - band * band)
    # White noise drawn as its spectrum, which saves the forward transform.
    spectrum = rng.standard_normal((*radius.shape, 2), np.float32).view(np.complex64)[..., 0]
    texture = np.fft.irfft2(spectrum * gain, s=(side, side)).astype(np.float32)
    return texture / texture.std()


@functools.lru_cache(maxsize=4)
def _frequencies(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each `rfft2` coefficient: cycles a pixel, cosine and sine of twice its direction.

    All (side, side // 2 + 1) float32.
    """
    across = np.fft.rfftfreq(side).astype(np.float32)[None]
    along = np.fft.fftfreq(side).astype(np.float32)[:, None]
    twice = 2 * np.arctan2(along, across)
    return np.hypot(across, along), np.cos(twice), np.sin(twice)


def _clouds(rng: np.random.Generator, side: int) -> np.ndarray:
    """Smooth colours (side, side, 3) float32 that know nothing of the objects."""
    coarse = rng.uniform(70, 185, (4, 4, 3)) + rng.uniform(-25, 25, 3)
    return cv2.resize(coarse.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)


def _shadows(rng: np.random.Generator, side: int) -> np.ndarray:
    """Clutter: soft-edged patches of other brightness (side, side), across objects and ground."""
    shade = np.full((side, side), 255, np.uint8)
    for _ in range(int(rng.integers(2, 5))):
        blob = _blob(rng, rng.uniform(0, 1, 2) * side, rng.uniform(0.1, 0.3) * side)
        cv2.fillPoly(shade, [blob], int(rng.integers(170, 235)))
    return cv2.GaussianBlur(shade, (0, 0), 1.2 * side / _REFERENCE_SIDE).astype(np.float32) / 255
