"""Pictures at full fidelity: what a file holds, so that it can be written again without loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from unseg.utils.files import MAX_PIXELS

OutputFormat = Literal["PNG", "TIFF", "BMP", "WEBP", "JPEG"]


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright.

    Attributes:
        pixels: (H, W, 1) grey or (H, W, 3) RGB, uint8 or uint16 (full range of the type).
        alpha: (H, W) of the same type, or None. Colour under alpha 0 is kept as stored.
        icc: embedded colour profile, or None.
        mode: Pillow's name of the stored mode ("L", "P", "RGBA", "I;16", ...), "RGB;16" etc. for
            16-bit colour.
        file_format: Pillow's name of the input's format ("PNG", "JPEG", ...).
        lossless_format: the format that writes this picture without loss nearest to its own.
        orientation: EXIF orientation of the stored pixels, 1 to 8; already undone here.
        notes: what had to be converted, for the manifest.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    mode: str = "RGB"
    file_format: str = "PNG"
    lossless_format: OutputFormat = "PNG"
    orientation: int = 1
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), upright."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) of the pixels in the file, before turning."""
        height, width = self.size
        return (width, height) if self.orientation >= 5 else (height, width)

    @property
    def is_grey(self) -> bool:
        """Whether there is one channel."""
        return self.pixels.shape[2] == 1

    @property
    def max_value(self) -> int:
        """255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    def rgb(self) -> np.ndarray:
        """(H, W, 3) pixels of the same type, grey repeated."""
        return self.pixels if not self.is_grey else np.repeat(self.pixels, 3, axis=2)

    def with_pixels(self, pixels: np.ndarray) -> Picture:
        """The same picture with other pixels of the same shape and type."""
        if pixels.shape != self.pixels.shape or pixels.dtype != self.pixels.dtype:
            raise ValueError(
                f"pixels are {pixels.dtype} {pixels.shape}, "
                f"the picture's {self.pixels.dtype} {self.pixels.shape}"
            )
        return replace(self, pixels=pixels)


def read_picture(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a picture by content, upright, with its alpha and colour profile.

    Raises:
        UserError: naming the file and the fault: missing, empty, not a picture, truncated, too
            many pixels, several frames, a pixel type that cannot be kept.
    """
    raise NotImplementedError


def encode_picture(picture: Picture, format: OutputFormat = "PNG", *, quality: int = 95) -> bytes:
    """The bytes of a picture's file; lossless but for "JPEG"."""
    raise NotImplementedError


def write_picture(
    picture: Picture, path: str | Path, *, format: OutputFormat = "PNG", quality: int = 95
) -> None:
    """Write a picture atomically; the format does not depend on the suffix."""
    raise NotImplementedError


def turn_upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (1 to 8) on the first two axes."""
    raise NotImplementedError
