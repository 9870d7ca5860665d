"""One picture that shows a protection: clean, protected, amplified noise, both predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from unseg.io.files import atomic_write_bytes

OUTLINE = (255, 196, 0)
"""Colour of a predicted mask's border, RGB; the true mask's is white."""


def to_uint8(image: Tensor) -> np.ndarray:
    """(3, H, W) float in [0, 1] -> (H, W, 3) uint8."""
    return torch.round(image.detach().float().cpu() * 255).byte().permute(1, 2, 0).numpy()


def noise_picture(noise: Tensor) -> np.ndarray:
    """(3, H, W) noise in [-1, 1] -> (H, W, 3) uint8, zero is middle grey."""
    return to_uint8((noise + 1) / 2)


def with_masks(image: np.ndarray, *, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The image with the predicted mask tinted and both borders drawn.

    Args:
        image: (H, W, 3) uint8.
        predicted: (H, W) bool.
        true: (H, W) bool.
    """
    shown = image.copy()
    tint = 0.6 * shown[predicted] + 0.4 * np.array(OUTLINE)
    shown[predicted] = np.round(tint).astype(np.uint8)
    for mask, colour in ((true, (255, 255, 255)), (predicted, OUTLINE)):
        # findContours and drawContours do not care about the order of channels.
        found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, found, -1, colour, 1)
    return shown


def panel(
    *,
    image: Tensor,
    protected: Tensor,
    noise: Tensor,
    clean_logits: Tensor,
    protected_logits: Tensor,
    mask: Tensor,
) -> np.ndarray:
    """Clean | protected | noise | prediction on clean | prediction on protected, as one row.

    Args:
        image: (3, H, W) in [0, 1].
        protected: the same after composition.
        noise: (3, H, W) in [-1, 1], before the budget: full contrast shows it amplified.
        clean_logits: (1, H, W) of the surrogate.
        protected_logits: the same for the protected image.
        mask: (1, H, W), true where > 0.5.

    Returns:
        (H, 5 W, 3) uint8.
    """
    true = (mask[0] > 0.5).cpu().numpy()
    clean, shielded = to_uint8(image), to_uint8(protected)
    predictions = [
        with_masks(picture, predicted=(logits[0] > 0).cpu().numpy(), true=true)
        for picture, logits in ((clean, clean_logits), (shielded, protected_logits))
    ]
    return np.concatenate([clean, shielded, noise_picture(noise), *predictions], axis=1)


def stack(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of equal width above one another."""
    return np.concatenate(list(panels), axis=0)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as PNG; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    atomic_write_bytes(path, data.tobytes())
