"""The loss of victims whose label is a map of classes; the layout and precision of all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.victims.data.tensor_set import VOID


def segmentation_loss(logits: Tensor, target: Tensor, *, dice: bool = False) -> Tensor:
    """Cross-entropy over the pixels that count, optionally with the soft Dice loss.

    Args:
        logits: (B, C, H, W).
        target: (B, H, W) int64, `VOID` where nothing counts.
        dice: add `1 - mean Dice` over the classes but the first, sums running over the batch.

    Returns:
        Scalar; 0 (with a gradient of 0) where nothing counts at all.
    """
    counted = (target != VOID).float()
    per_pixel = F.cross_entropy(logits, target, ignore_index=VOID, reduction="none")
    loss = per_pixel.sum() / counted.sum().clamp(min=1)
    if not dice:
        return loss
    probabilities = logits.softmax(1) * counted[:, None]
    classes = torch.where(target == VOID, 0, target)
    truth = F.one_hot(classes, logits.shape[1]).permute(0, 3, 1, 2) * counted[:, None]
    overlap = (probabilities * truth).sum((0, 2, 3))[1:]
    sizes = (probabilities.sum((0, 2, 3)) + truth.sum((0, 2, 3)))[1:]
    return loss + 1 - ((2 * overlap + 1) / (sizes + 1)).mean()


def channels_last(images: Tensor) -> Tensor:
    """A layout a quarter to a third faster than the default one, on CPU too."""
    return images.contiguous(memory_format=torch.channels_last)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The precision that a recipe names."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
