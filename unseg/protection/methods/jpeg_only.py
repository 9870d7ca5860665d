"""The control that adds nothing: what compression alone does."""

from __future__ import annotations

from torch import Tensor

from unseg.degrade import jpeg
from unseg.protection.methods.base import Canvas, MethodOptions, NoiseSource


class JpegOnly:
    """The image through a JPEG codec and nothing else."""

    noise_from: NoiseSource = "none"
    needs_classes = False
    bounds: tuple[float, float] | None = None

    def __init__(self, options: MethodOptions) -> None:
        self.quality = options.quality

    def __call__(self, canvas: Canvas) -> Tensor:
        """The decoded JPEG, at 8 bits."""
        image = canvas.image.expand(-1, 3, -1, -1)
        return jpeg(image, self.quality)[:, : canvas.image.shape[1]]
