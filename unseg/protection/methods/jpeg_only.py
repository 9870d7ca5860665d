"""The control that adds nothing: what compression alone does."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from unseg.degrade import jpeg
from unseg.protection.methods.base import Canvas, Method


class JpegOnly(Method):
    """The image through a JPEG codec and nothing else."""

    title = "JPEG compression and no noise"
    has_budget = False
    reads: ClassVar[tuple[str, ...]] = ("output.quality",)

    def __call__(self, canvas: Canvas) -> Tensor:
        """The decoded JPEG, at 8 bits."""
        image = canvas.image.expand(-1, 3, -1, -1)
        return jpeg(image, self.options.quality)[:, : canvas.image.shape[1]]
