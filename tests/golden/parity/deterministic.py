"""Deterministic weights, image and mask behind the golden arrays of this folder.

`fill(state_dict)` replaces every tensor of a state dict by a value that depends only on its name
and shape, so two implementations with the same names hold the same weights. `image` and `mask` draw
the inputs. See README.md.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Value of the parameter `name`: float32 array of `shape`."""
    seed = zlib.crc32(name.encode()) & 0x7FFFFFFF
    random = np.random.RandomState(seed)  # noqa: NPY002 (the stored numbers hang on this stream)
    draw = random.standard_normal(tuple(shape)).astype(np.float32)
    if len(shape) < 2:
        return 1 + 0.1 * draw if name.endswith("weight") else 0.1 * draw
    if "gaussian_matrix" in name:
        return draw
    if "pos_embed" in name:
        return draw * 0.02
    return draw / np.sqrt(np.prod(shape[1:]))


def fill(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State dict with the same names and shapes and deterministic float32 values."""
    return {
        name: torch.from_numpy(tensor(name, tuple(value.shape))).float()
        for name, value in state_dict.items()
    }


def image(height: int, width: int, phase: float) -> np.ndarray:
    """RGB image, (height, width, 3) uint8."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    channels = [
        127.5
        + 60 * np.sin(2 * np.pi * (x * (3 + c) / width + phase))
        + 50 * np.cos(2 * np.pi * (y * (2 + c) / height) + phase * c)
        + 15 * np.sin(x * y / (97.0 + 13 * c))
        for c in range(3)
    ]
    return np.clip(np.round(np.stack(channels, -1)), 0, 255).astype(np.uint8)


def mask(height: int, width: int) -> np.ndarray:
    """Object mask, (height, width) bool: one ellipse."""
    y, x = np.mgrid[:height, :width]
    return ((x - width * 0.45) / (width * 0.25)) ** 2 + (
        (y - height * 0.55) / (height * 0.3)
    ) ** 2 <= 1
