"""The loss of a training step: of the batch as it is, or under a defence at training time."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from unseg.config.evaluate import RecipeConfig
from unseg.degrade import colour_noise
from unseg.utils.errors import UserError
from unseg.victims.data.defences import training_defences
from unseg.victims.data.tensor_set import IGNORED_LABEL
from unseg.victims.networks.victim import ObjectVictim, Victim, autocast, channels_last
from unseg.victims.training.adversarial import as_tested, bim
from unseg.victims.training.class_map_task import Task, segmentation_loss
from unseg.victims.training.ddc_at import ExtraBranch
from unseg.victims.training.frozen import FrozenStages
from unseg.victims.training.ueraser import erase


class TrainingLoss:
    """The loss of one step, under the training-time part of a written defence.

    Args:
        victim: learns; it is attacked where the defence says so.
        task: gives the loss.
        recipe: says which loss, and the precision.
        defence: for example "none", "adversarial", "jpeg-75+ddc_at", "ueraser_like-5".
        seed: of the initial weights of an extra branch.

    Attributes:
        branch: the network that exists in training alone, or None.

    Raises:
        UserError: the victim cannot be trained so.
    """

    def __init__(
        self, victim: Victim, task: Task, recipe: RecipeConfig, defence: str, *, seed: int
    ) -> None:
        self.victim, self.task = victim, task
        self.precision = recipe.precision
        self.has_dice = recipe.loss == "ce_dice"
        chosen = training_defences(defence)
        self.finds_objects = isinstance(victim, ObjectVictim)
        self.epsilon = chosen.get("adversarial", chosen.get("ddc_at", 0.0))
        self.num_erasings = int(chosen.get("ueraser_like", 0))
        self.shift = chosen.get("shift", 0.0)
        self.frozen = FrozenStages(victim, int(chosen["frozen"])) if "frozen" in chosen else None
        self.branch: ExtraBranch | None = None
        if "ddc_at" in chosen:
            if self.finds_objects:
                raise UserError(
                    "defence ddc_at divides the pixels of a label map, but this victim finds "
                    "objects; use adversarial for it"
                )
            self.branch = ExtraBranch(victim, seed=seed)

    @property
    def modules(self) -> list[nn.Module]:
        """What is trained."""
        return [self.victim] if self.branch is None else [self.victim, self.branch]

    def close(self) -> None:
        """Leave the victim as it was found, but for what it has learnt."""
        for part in (self.branch, self.frozen):
            if part is not None:
                part.close()

    def __call__(self, picture: Tensor, target: Any, rng: torch.Generator) -> Tensor:
        """Scalar, with a gradient.

        Args:
            picture: (B, 3, H, W) float in [0, 1].
            target: (B, H, W) int64, `IGNORED_LABEL` where nothing counts; or a target a picture.
            rng: CPU random generator.
        """
        if self.num_erasings:
            picture = self.erased(picture, target, rng)
        if self.shift:
            picture = colour_noise(picture, self.shift, generator=rng)
        if not self.epsilon:
            return self._loss(picture, target, dice=self.has_dice)
        attacked = self.half_attacked(picture, target)
        if self.branch is None:
            return self._loss(attacked, target, dice=self.has_dice)
        return self._divided(picture, attacked, target)

    def erased(self, picture: Tensor, target: Any, rng: torch.Generator) -> Tensor:
        """Each picture after the augmentation; of several draws the one with the largest loss."""
        best = erase(picture, generator=rng)
        if self.num_erasings == 1:
            return best
        with self._undisturbed(), torch.no_grad():
            largest = self._each_loss(best, target)
            for _ in range(self.num_erasings - 1):
                other = erase(picture, generator=rng)
                losses = self._each_loss(other, target)
                best = torch.where((losses > largest)[:, None, None, None], other, best)
                largest = torch.maximum(losses, largest)
        return best

    def half_attacked(self, picture: Tensor, target: Any) -> Tensor:
        """The batch with its first half attacked (rounded down); the batch's order is random."""
        count = len(picture) // 2
        if count == 0:
            return picture
        with self._undisturbed():
            attacked = bim(
                picture[:count],
                lambda images: self._loss(images, target[:count], dice=False),
                epsilon=self.epsilon,
            )
        return torch.cat([attacked, picture[count:]])

    def changed_pixels(self, picture: Tensor, attacked: Tensor) -> Tensor:
        """(B, H, W) bool: where the victim's prediction differs between two pictures."""
        with self._undisturbed(), torch.no_grad():
            before, after = (self._logits(images).argmax(1) for images in (picture, attacked))
        return before != after

    def _divided(self, picture: Tensor, attacked: Tensor, target: Tensor) -> Tensor:
        """DDC-AT: pixels whose prediction the attack changes are the extra branch's to learn."""
        assert self.branch is not None
        count = len(picture) // 2
        is_changed = torch.zeros_like(target, dtype=torch.bool)
        is_changed[:count] = self.changed_pixels(picture[:count], attacked[:count])
        logits = self._logits(attacked)
        with autocast(picture.device, self.precision):
            branch_logits = self.branch((picture.shape[-2], picture.shape[-1])).float()
        total, pixels = logits.new_zeros(()), logits.new_zeros(())
        for found, foreign in ((logits, is_changed), (branch_logits, ~is_changed)):
            part = target.masked_fill(foreign, IGNORED_LABEL)
            count_of_part = (part != IGNORED_LABEL).sum()
            # Each pixel weighs the same, whichever branch learns it.
            total = total + count_of_part * segmentation_loss(found, part, dice=self.has_dice)
            pixels = pixels + count_of_part
        return total / pixels.clamp(min=1)

    def _undisturbed(self) -> Any:
        """The victim as it will be tested; those that find objects have no loss then."""
        if self.finds_objects:
            return nullcontext()
        return as_tested(self.victim)

    def _each_loss(self, picture: Tensor, target: Any) -> Tensor:
        """(B,) loss of each picture alone."""
        rows = range(len(picture))
        return torch.stack(
            [self._loss(picture[i : i + 1], target[i : i + 1], dice=False) for i in rows]
        )

    def _loss(self, picture: Tensor, target: Any, *, dice: bool) -> Tensor:
        return self.task.loss(self.victim, channels_last(picture), target, dice=dice)

    def _logits(self, picture: Tensor) -> Tensor:
        with autocast(picture.device, self.precision):
            return self.victim(channels_last(picture)).float()
