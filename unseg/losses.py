"""The one loss of both players: BCE and dice on point-sampled masks.

See docs/METHOD.md, "4. Training".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DICE_SMOOTHING = 1.0


@dataclass(frozen=True)
class MaskLosses:
    """Losses of each mask, before any mean.

    Attributes:
        bce: (B,) binary cross-entropy with logits, averaged over the mask's points.
        dice: (B,) soft dice loss over the mask's points.
    """

    bce: Tensor
    dice: Tensor

    def total(self, *, bce_weight: float = 1.0, dice_weight: float = 1.0) -> Tensor:
        """(B,) weighted sum of the two."""
        return bce_weight * self.bce + dice_weight * self.dice


def point_values(values: Tensor, points: Tensor) -> Tensor:
    """A map read at points: bilinear, pixel centres at half integers, zeros outside.

    Args:
        values: (B, 1, H, W).
        points: (B, P, 2) as (X, Y) in [0, 1], of the map's width and height.

    Returns:
        (B, P) of the map's dtype. Points closer to the border than half a pixel mix with the zeros
        outside, for targets of ones as well.
    """
    grid = 2 * points.unsqueeze(1) - 1
    read = F.grid_sample(
        values, grid.to(values.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return read[:, 0, 0]


@torch.no_grad()
def choose_points(
    logits: Tensor,
    *,
    num_points: int = 12_544,
    oversample: float = 3.0,
    uncertain_share: float = 0.75,
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Points where the loss looks: mostly where the logits are undecided.

    PointRend's rule (Kirillov et al., CVPR 2020, section 3.1): of `oversample * num_points` uniform
    candidates keep the share with the smallest |logit|, and draw the rest uniformly.

    Args:
        logits: (B, 1, h, w).
        num_points: points a mask; may exceed h * w.
        oversample: candidates per kept point.
        uncertain_share: share of the points chosen by uncertainty, in [0, 1].
        generators: one CPU generator a mask, so that a mask's points depend neither on its
            neighbours in the batch nor on the device; None draws from torch's global state.

    Returns:
        (B, num_points, 2) float32 as (X, Y) in [0, 1], on the device of the logits.
    """
    num_candidates = int(num_points * oversample)
    num_uncertain = int(num_points * uncertain_share)
    num_random = num_points - num_uncertain
    sources: Sequence[torch.Generator | None] = generators or [None] * len(logits)
    if len(sources) != len(logits):
        raise ValueError(f"{len(sources)} generators for {len(logits)} masks; give one a mask")
    drawn = [torch.rand(num_candidates + num_random, 2, generator=g) for g in sources]
    if not drawn:
        return torch.zeros(0, num_points, 2, device=logits.device)
    uniform = torch.stack(drawn).to(logits.device, non_blocking=True)
    candidates, random = uniform.split([num_candidates, num_random], dim=1)
    uncertainty = -point_values(logits.float(), candidates).abs()
    rows = uncertainty.topk(num_uncertain, dim=1).indices
    uncertain = candidates.gather(1, rows.unsqueeze(-1).expand(-1, -1, 2))
    return torch.cat([uncertain, random], dim=1)


def bce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy with logits, (B, P) and (B, P) in [0, 1] -> (B,)."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """1 - (2 sum(pt) + 1) / (sum(p) + sum(t) + 1), (B, P) and (B, P) in [0, 1] -> (B,)."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum(dim=1) + DICE_SMOOTHING
    size = probability.sum(dim=1) + target.sum(dim=1) + DICE_SMOOTHING
    return 1 - overlap / size


def mask_losses(logits: Tensor, target: Tensor, points: Tensor) -> MaskLosses:
    """Both losses of each mask, read at the given points.

    Args:
        logits: (B, 1, h, w).
        target: (B, 1, H, W) in [0, 1], soft; of any size, since points are relative.
        points: (B, P, 2) as (X, Y) in [0, 1], from `choose_points`.
    """
    at_points = point_values(logits, points)
    wanted = point_values(target, points)
    return MaskLosses(bce=bce_loss(at_points, wanted), dice=dice_loss(at_points, wanted))
