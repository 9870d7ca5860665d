"""What happens to pictures on their way: codecs, blur, colour and size loss, as tensor functions.

The same functions serve as defences of an evaluation and as the channel that robust training sends
its pictures through. All take and return (B, 3, H, W) float RGB in [0, 1]. Those called
differentiable pass gradients; for the others there is `straight_through`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""ITU-R BT.601, as JPEG and Pillow use them."""


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Each picture encoded as JPEG and decoded again, at 8 bits, 4:2:0. No gradient.

    Args:
        image: (B, 3, H, W) float in [0, 1].
        quality: 1 to 100.
    """
    from torchvision.io import decode_jpeg, encode_jpeg

    levels = _to_uint8(image.detach()).cpu()
    coded = [decode_jpeg(encode_jpeg(picture, quality=int(quality))) for picture in levels]
    return torch.stack(coded).to(image.device, image.dtype) / 255


def gaussian_blur(image: Tensor, sigma: float, *, kernel_size: int | None = None) -> Tensor:
    """Gaussian blur with reflected borders. Differentiable.

    Args:
        image: (B, C, H, W) float.
        sigma: standard deviation in pixels.
        kernel_size: odd; by default wide enough for three standard deviations to each side. A 3x3
            kernel at sigma 0.1 is nearly the identity.
    """
    radius = max(1, math.ceil(3 * sigma)) if kernel_size is None else kernel_size // 2
    radius = min(radius, min(image.shape[-2:]) - 1)
    if radius == 0:
        return image
    offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).repeat(image.shape[1], 1)
    channels = image.shape[1]
    padded = F.pad(image, (radius, radius, radius, radius), mode="reflect")
    rows = F.conv2d(padded, kernel[:, None, None, :], groups=channels)
    return F.conv2d(rows, kernel[:, None, :, None], groups=channels)


def greyscale(image: Tensor) -> Tensor:
    """Luminance in all three channels. Differentiable."""
    weights = image.new_tensor(LUMA_WEIGHTS).view(1, 3, 1, 1)
    return (image * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)


def bit_depth(image: Tensor, bits: int) -> Tensor:
    """Colours rounded to `2 ** bits` evenly spaced levels. No gradient."""
    top = 2**bits - 1
    return torch.round(image * top) / top


def median(image: Tensor, size: int = 3) -> Tensor:
    """Median of each `size` x `size` window and channel, borders reflected. Differentiable.

    Args:
        image: (B, C, H, W) float.
        size: odd side of the window.
    """
    radius = size // 2
    height, width = image.shape[-2:]
    padded = F.pad(image, (radius, radius, radius, radius), mode="reflect")
    shifted = [padded[..., y : y + height, x : x + width] for y in range(size) for x in range(size)]
    return torch.stack(shifted).median(dim=0).values


def down_up(image: Tensor, scale: float = 0.5) -> Tensor:
    """Resized to `scale` of its size and back, bilinearly without antialias. Differentiable."""
    height, width = image.shape[-2:]
    small = (max(1, round(height * scale)), max(1, round(width * scale)))
    reduced = F.interpolate(image, small, mode="bilinear", align_corners=False)
    return F.interpolate(reduced, (height, width), mode="bilinear", align_corners=False)


def tinted(image: Tensor, levels: Sequence[float]) -> Tensor:
    """Each colour shifted by so many grey levels, without clipping. Differentiable."""
    return image + image.new_tensor(levels).view(1, -1, 1, 1) / 255


def straight_through(function: Callable[..., Tensor], image: Tensor, *args: Any) -> Tensor:
    """`function(image, *args)` going forward, the identity going back.

    The gradient of a codec is zero almost everywhere; the identity is what its output would follow
    on average (Bengio et al., 2013).
    """
    with torch.no_grad():
        changed: Tensor = function(image, *args)
    return image + (changed - image).detach()


def _to_uint8(image: Tensor) -> Tensor:
    return torch.round(image * 255).clamp(0, 255).to(torch.uint8)
