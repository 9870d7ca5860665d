"""Geometry of training, validation and generation: every resize the method makes, exactly.

All resizing is `F.interpolate` on float32 without antialias.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

OBJECT_ABOVE = 127 / 255
"""An image pixel belongs to the object where its mask, in [0, 1], is above this (127 of 255)."""


def bilinear(x: Tensor, size: int | tuple[int, int]) -> Tensor:
    """`x` (B, C, H, W) resized bilinearly to `size` (side or (H, W)), as float32."""
    size = (size, size) if isinstance(size, int) else size
    x = x.float()
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def nearest(x: Tensor, size: int | tuple[int, int]) -> Tensor:
    """`x` (B, C, H, W) resized with torch's `nearest` (floor) to `size`, as float32."""
    size = (size, size) if isinstance(size, int) else size
    return F.interpolate(x.float(), size, mode="nearest")


def rounded(x: Tensor) -> Tensor:
    """`torch.round`: exact halves, which a 4x reduction yields, become 0."""
    return torch.round(x)


def pad_to(crop: Tensor, image_size: int) -> Tensor:
    """`crop` (..., h, w) with zeros added at bottom and right up to side `image_size`."""
    return F.pad(crop, (0, image_size - crop.shape[-1], 0, image_size - crop.shape[-2]))


def pad_to_square(x: Tensor) -> Tensor:
    """`x` (..., H, W) with zeros added at bottom and right up to side max(H, W)."""
    return pad_to(x, max(x.shape[-2:]))


def squash(x: Tensor, image_size: int) -> Tensor:
    """`x` (B, C, H, W) resized bilinearly to the square side `image_size`, ratio not kept."""
    return bilinear(x, image_size)


def to_surrogate_frame(x: Tensor, image_size: int) -> Tensor:
    """The surrogate's copy of `x` (B, C, S, S): (B, C, s, s).

    At half size bilinear reduction is the 2x2 average exactly, and on CPUs a faster one than
    `avg_pool2d`.
    """
    return bilinear(x, image_size)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(1, C, H, W) float32 in [0, 1] of (H, W, C) or (H, W) uint8, or of a bool mask."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))
    planes = tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor[None]
    return planes[None].float().div_(255)
