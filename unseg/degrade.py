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


def dct_low_pass(image: Tensor, share: float) -> Tensor:
    """The lowest rows and columns of each picture's discrete cosine transform. Differentiable.

    Source: frequency filtering of D. Kim, P. Sandoval-Segura, "Learning from Convolution-based
    Unlearnable Datasets", 2024 (arXiv 2411.01742).

    Args:
        image: (B, C, H, W) float.
        share: of rows and of columns that stay.
    """
    height, width = image.shape[-2:]
    rows = _cosines(height, share).to(image)
    columns = _cosines(width, share).to(image)
    return (rows.T @ (rows @ image @ columns.T) @ columns).clamp(0, 1)


def _cosines(length: int, share: float) -> Tensor:
    """(kept, length): the first vectors of the orthonormal DCT-II."""
    kept = max(1, round(share * length))
    places = torch.arange(length, dtype=torch.float64) + 0.5
    waves = torch.arange(kept, dtype=torch.float64)
    matrix = torch.cos(math.pi / length * waves[:, None] * places) * math.sqrt(2 / length)
    matrix[0] /= math.sqrt(2)
    return matrix


def sharpened(
    image: Tensor, centre: float, *, spread: float = 0.1, generator: torch.Generator
) -> Tensor:
    """Each picture filtered by its own random sharpening cross of 3 x 3. Differentiable.

    The centre is drawn about `centre`, the four neighbours about what makes the sum 1. Source:
    random sharpening kernels of Kim and Sandoval-Segura, 2024 (arXiv 2411.01742).

    Args:
        image: (B, C, H, W) float.
        centre: mean of the centre's weight; 1 changes little.
        spread: standard deviation of each weight.
        generator: CPU random generator.
    """
    batch, channels, height, width = image.shape
    draw = spread * torch.randn(batch, 5, generator=generator)
    middle = centre + draw[:, :1]
    kernel = torch.zeros(batch, 9)
    kernel[:, 1::2] = (1 - middle) / 4 + draw[:, 1:]
    kernel[:, 4] = middle[:, 0]
    kernels = kernel.to(image).view(batch, 1, 3, 3).repeat_interleave(channels, 0)
    padded = F.pad(image, (1, 1, 1, 1), mode="reflect")
    flat = padded.reshape(1, batch * channels, height + 2, width + 2)
    return F.conv2d(flat, kernels, groups=batch * channels).view_as(image).clamp(0, 1)


def displaced(image: Tensor, pixels: float, *, generator: torch.Generator) -> Tensor:
    """Each pixel read at a random place near its own, bilinearly, border repeated. Differentiable.

    Source: M. Li, X. Wang et al., "Detecting and Corrupting Convolution-based Unlearnable
    Examples" (COIN), AAAI 2025.

    Args:
        image: (B, C, H, W) float.
        pixels: largest displacement along each axis.
        generator: CPU random generator.
    """
    batch, _, height, width = image.shape
    same = torch.eye(2, 3).repeat(batch, 1, 1)
    grid = F.affine_grid(same, [batch, 1, height, width], align_corners=False)
    shift = pixels * (2 * torch.rand(batch, height, width, 2, generator=generator) - 1)
    grid = (grid + shift * torch.tensor([2 / width, 2 / height])).to(image)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False)


def standardised(image: Tensor, *, mean: float = 0.5, std: float = 0.2) -> Tensor:
    """Each colour of each picture brought to one mean and deviation, then clipped. Differentiable.

    Source: a pre-processing of the evaluation of DUNE, ICML 2026.

    Args:
        image: (B, C, H, W) float in [0, 1].
        mean: of the result.
        std: of the result; what lies more than `mean / std` deviations out is clipped.
    """
    middle = image.mean((2, 3), keepdim=True)
    spread = image.std((2, 3), keepdim=True).clamp(min=1 / 255)
    return (mean + std * (image - middle) / spread).clamp(0, 1)


def colour_noise(image: Tensor, levels: float, *, generator: torch.Generator) -> Tensor:
    """Each picture with its own shift of every colour, and noise of its own strength.

    The shifts are uniform within the levels, the noise is Gaussian with a deviation drawn between
    0 and as many. Source: a training augmentation of the evaluation of DUNE, ICML 2026.

    Args:
        image: (B, C, H, W) float in [0, 1].
        levels: in grey levels.
        generator: CPU random generator.
    """
    batch, channels = image.shape[:2]
    shift = 2 * torch.rand(batch, channels, 1, 1, generator=generator) - 1
    strength = torch.rand(batch, 1, 1, 1, generator=generator)
    noise = strength * torch.randn(image.shape, generator=generator)
    return (image + levels / 255 * (shift + noise).to(image)).clamp(0, 1)


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
