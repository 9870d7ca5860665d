"""The pass through the networks that gives the gradients of a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unseg.config.evaluate import RecipeConfig
from unseg.utils.errors import UserError
from unseg.victims.data.tensor_set import IGNORED_LABEL
from unseg.victims.networks.victim import Victim, autocast, batch_norms, channels_last
from unseg.victims.training.class_map_task import Task, dice_sums, segmentation_loss
from unseg.victims.training.ddc_at import ExtraBranch
from unseg.victims.training.portion import Portion


class ForwardPass(nn.Module):
    """All networks that learn in a step, as one module: pictures in, loss out.

    Args:
        victim: learns.
        branch: learns the pixels that an attack changes, where there is one.
        task: gives the loss.
        recipe: says which loss, and the precision.
    """

    def __init__(
        self, victim: Victim, branch: ExtraBranch | None, task: Task, recipe: RecipeConfig
    ) -> None:
        super().__init__()
        self.victim, self.branch, self.task = victim, branch, task
        self.precision = recipe.precision
        self.has_dice = recipe.loss == "ce_dice"

    def forward(
        self, picture: Tensor, target: Any, is_changed: Tensor | None, portion: Portion | None
    ) -> Tensor:
        """Scalar, the loss or what a portion contributes to it.

        Args:
            picture: (B, 3, H, W) float in [0, 1], attacked where a defence says so.
            target: (B, H, W) int64, or a target a picture.
            is_changed: (B, H, W) bool, pixels that the extra branch learns.
            portion: where these are a part of a batch.
        """
        picture = channels_last(picture)
        if is_changed is None:
            return self.task.loss(self.victim, picture, target, dice=self.has_dice, portion=portion)
        assert self.branch is not None
        with autocast(picture.device, self.precision):
            logits = self.victim(picture).float()
            branch_logits = self.branch((picture.shape[-2], picture.shape[-1])).float()
        both = [
            (logits, target.masked_fill(is_changed, IGNORED_LABEL)),
            (branch_logits, target.masked_fill(~is_changed, IGNORED_LABEL)),
        ]
        if portion is None:
            return _divided(both, dice=self.has_dice)
        return _divided_portion(both, portion, dice=self.has_dice)


def _divided(both: list[tuple[Tensor, Tensor]], *, dice: bool) -> Tensor:
    """DDC-AT: each pixel weighs the same, whichever branch learns it."""
    total, pixels = both[0][0].new_zeros(()), both[0][0].new_zeros(())
    for logits, target in both:
        count = (target != IGNORED_LABEL).sum()
        total = total + count * segmentation_loss(logits, target, dice=dice)
        pixels = pixels + count
    return total / pixels.clamp(min=1)


def _divided_portion(both: list[tuple[Tensor, Tensor]], portion: Portion, *, dice: bool) -> Tensor:
    """What a portion contributes to `_divided` of the whole batch."""
    total = both[0][0].new_zeros(())
    counts = portion.whole(torch.stack([(t != IGNORED_LABEL).sum() for _, t in both]).float())
    for (logits, target), count in zip(both, counts, strict=True):
        total = total + segmentation_loss(logits, target, portion=portion)
        if dice:
            overlap, sizes = map(portion.whole, dice_sums(logits, target))
            soft = 1 - ((2 * overlap + 1) / (sizes + 1)).mean()
            total = total + portion.of_joint(soft * count / counts.sum().clamp(min=1))
    return total


def join_norms(network: nn.Module) -> None:
    """Let batch norm take its statistics over all processes of a cell.

    Raises:
        UserError: torch has no such layer on this device.
    """
    if not batch_norms(network):
        return
    if next(network.parameters()).device.type == "cpu":
        raise UserError(
            "ranks_per_cell: torch cannot take the statistics of batch norm over several "
            "processes on a CPU; set recipe.batch_norm=frozen, or ranks_per_cell=1"
        )
    from timm.layers import convert_sync_batchnorm  # unlike torch's it knows norms with a function

    for name, child in list(network.named_children()):
        setattr(network, name, convert_sync_batchnorm(child))


def in_step(forward: ForwardPass) -> DistributedDataParallel:
    """The pass with gradients that are averaged over all processes of a cell."""
    # Detectors do not use every weight in every step.
    return DistributedDataParallel(forward, find_unused_parameters=True)
