"""CUDA: each class seen through a small random filter of its own.

Reference: V. S. Sadasivan, M. Soltanolkotabi, S. Feizi, "CUDA: Convolution-based Unlearnable
Datasets", CVPR 2023. Here for each class of a label map (docs/METHOD.md, "6. Evaluation").
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.protection.methods.base import ByClass, Canvas
from unseg.utils.seed import torch_generator

SIDE = 3
STRENGTH = 0.3
"""Entries are uniform in [0, STRENGTH] but for one, which is 1."""


class Convolutional(ByClass):
    """The image filtered by the class's kernel and divided by the result's maximum."""

    title = "each class seen through a small random filter of its own"
    may_exceed = False

    def of_class(self, canvas: Canvas, label: int) -> Tensor:
        """The whole image through the class's kernel, maximum 1."""
        filtered = filter_image(canvas.image, self.kernel(label))
        top = filtered.max()
        return filtered / torch.where(top > 0, top, 1)

    def kernel(self, label: int) -> Tensor:
        """(3, 3) of a class, for all colours."""
        rng = torch_generator(self.options.seed, "cuda", label)
        kernel = STRENGTH * torch.rand(SIDE * SIDE, generator=rng)
        kernel[int(torch.randint(SIDE * SIDE, (), generator=rng))] = 1
        return kernel.view(SIDE, SIDE)


def filter_image(image: Tensor, kernel: Tensor) -> Tensor:
    """Zero-padded convolution of each channel: sum of `kernel[i, j]` times the shifted image.

    As in deep learning the kernel is not turned over. The nine terms are added in a fixed order:
    a library's convolution may round differently on another number of threads.

    Args:
        image: (1, C, H, W) float.
        kernel: (3, 3).
    """
    height, width = image.shape[-2:]
    margin = SIDE // 2
    padded = F.pad(image, (margin, margin, margin, margin))
    result = torch.zeros_like(image)
    for i in range(SIDE):
        for j in range(SIDE):
            result += float(kernel[i, j]) * padded[..., i : i + height, j : j + width]
    return result
