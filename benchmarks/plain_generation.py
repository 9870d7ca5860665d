"""A protected picture as a straightforward program makes it: PIL, float32, one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from unseg.types import Prompts

EPSILON, EPSILON_BG = 8, 2

Noise = Callable[[Tensor, Prompts], Tensor]


def protect(
    image_path: Path,
    mask_path: Path,
    output_path: Path,
    *,
    noise_of: Noise,
    image_size: int,
    mask_size: int,
    quality: int,
) -> None:
    """Read, pad, resize, make noise, compose, write; the format goes by the output's suffix."""
    image = np.array(Image.open(image_path).convert("RGB")).astype(np.float32) / 255
    mask = (np.array(Image.open(mask_path).convert("L")) > 127).astype(np.float32)
    height, width = mask.shape
    side = max(height, width)
    square = np.zeros((side, side, 3), np.float32)
    square[:height, :width] = image
    square_mask = np.zeros((side, side), np.float32)
    square_mask[:height, :width] = mask
    pixels = torch.from_numpy(square).permute(2, 0, 1)[None]
    pixels = F.interpolate(pixels, (image_size, image_size), mode="bilinear", align_corners=False)
    prompt = torch.from_numpy(square_mask)[None, None]
    prompt = F.interpolate(prompt, (image_size, image_size), mode="nearest")
    prompt = F.interpolate(prompt, (mask_size, mask_size), mode="bilinear", align_corners=False)
    noise = noise_of(pixels, Prompts(mask_inputs=torch.round(prompt) * 255))
    noise = F.interpolate(noise, (side, side), mode="bilinear", align_corners=False)
    change = noise[0, :, :height, :width].permute(1, 2, 0).numpy()
    region = mask[..., None]
    budget = (EPSILON * region + EPSILON_BG * (1 - region)) / 255
    protected = np.clip(image + budget * change, 0, 1)
    picture = Image.fromarray(np.round(protected * 255).astype(np.uint8))
    if output_path.suffix == ".jpg":
        picture.save(output_path, quality=quality, subsampling=0)
    else:
        picture.save(output_path)
