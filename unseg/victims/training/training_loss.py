"""The loss of a training step: of the batch as it is, or under a defence at training time."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unseg.config.evaluate import RecipeConfig
from unseg.degrade import colour_noise
from unseg.utils import distributed
from unseg.utils.errors import UserError
from unseg.victims.data.defences import training_defences
from unseg.victims.data.share import Share
from unseg.victims.data.tensor_set import IGNORED_LABEL
from unseg.victims.networks.victim import (
    ObjectVictim,
    Victim,
    autocast,
    channels_last,
    freeze_norms,
)
from unseg.victims.training.adversarial import as_tested, bim
from unseg.victims.training.class_map_task import Task
from unseg.victims.training.ddc_at import ExtraBranch
from unseg.victims.training.forward_pass import ForwardPass, in_step, join_norms
from unseg.victims.training.frozen import FrozenStages
from unseg.victims.training.portion import Portion
from unseg.victims.training.ueraser import erase


class TrainingLoss:
    """The loss of one step, under the training-time part of a written defence.

    Processes that train one victim together each see a share of the batch; `DistributedData-
    Parallel` adds up their gradients.

    Args:
        victim: learns; it is attacked where the defence says so.
        task: gives the loss.
        recipe: says which loss, and the precision.
        defence: for example "none", "adversarial", "jpeg-75+ddc_at", "ueraser_like-5".
        seed: of the initial weights of an extra branch.

    Attributes:
        branch: the network that exists in training alone, or None.
        share: what this process sees of a batch.

    Raises:
        UserError: the victim cannot be trained so.
    """

    def __init__(
        self, victim: Victim, task: Task, recipe: RecipeConfig, defence: str, *, seed: int
    ) -> None:
        self.victim, self.task = victim, task
        self.precision = recipe.precision
        self.parts = recipe.accumulate
        self.share = Share(distributed.rank(), distributed.world_size())
        chosen = training_defences(defence)
        self.finds_objects = isinstance(victim, ObjectVictim)
        self.epsilon = chosen.get("adversarial", chosen.get("ddc_at", 0.0))
        self.num_erasings = int(chosen.get("ueraser_like", 0))
        self.shift = chosen.get("shift", 0.0)
        self.has_frozen_norms = recipe.batch_norm == "frozen"
        is_joined = self.share.ranks > 1 and not self.has_frozen_norms
        if self.has_frozen_norms:
            victim.freeze_norms()
        elif is_joined:
            join_norms(victim)
        self.frozen = FrozenStages(victim, int(chosen["frozen"])) if "frozen" in chosen else None
        self.branch: ExtraBranch | None = None
        if "ddc_at" in chosen:
            if self.finds_objects:
                raise UserError(
                    "defence ddc_at divides the pixels of a label map, but this victim finds "
                    "objects; use adversarial for it"
                )
            self.branch = ExtraBranch(victim, seed=seed)
            if is_joined:
                join_norms(self.branch)
        self.train()
        forward = ForwardPass(victim, self.branch, task, recipe)
        self._forward = forward if self.share.ranks == 1 else in_step(forward)

    @property
    def modules(self) -> list[nn.Module]:
        """What is trained."""
        return [self.victim] if self.branch is None else [self.victim, self.branch]

    def train(self) -> None:
        """Make the networks learn again after they were tested."""
        for module in self.modules:
            module.train()
        if self.has_frozen_norms and self.branch is not None:
            freeze_norms(self.branch)

    def close(self) -> None:
        """Leave the victim as it was found, but for what it has learnt."""
        for part in (self.branch, self.frozen):
            if part is not None:
                part.close()

    def step(self, picture: Tensor, target: Any, rng: torch.Generator) -> Tensor:
        """Add the gradients of a step to the weights'.

        Args:
            picture: (B, 3, H, W) float in [0, 1], this process's share of the batch.
            target: (B, H, W) int64, `IGNORED_LABEL` where nothing counts; or a target a picture.
            rng: CPU random generator, in one state on all processes.

        Returns:
            Scalar without a gradient: the loss, or what this process contributes to it.
        """
        if self.num_erasings:
            picture = self.erased(picture, target, rng)
        if self.shift:
            picture = self.shifted(picture, rng)
        portion = self._portion(target)
        # Share and parts take pictures in turn: the first half of the batch is everybody's first.
        half = self.share.ranks * len(picture) // 2
        total = picture.new_zeros(())
        for part in range(self.parts):
            rows = slice(part, None, self.parts)
            places = range(self.share.rank, self.share.ranks * len(picture), self.share.ranks)[rows]
            with self._gathering(is_last=part == self.parts - 1):
                loss = self._part(
                    picture[rows], target[rows], sum(p < half for p in places), portion
                )
                # The gradients of all processes are averaged, but the losses add up.
                (loss if self.share.ranks == 1 else self.share.ranks * loss).backward()
            total = total + loss.detach()
        return total

    def _gathering(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Gradients travel between processes once, with the last part of a step."""
        if is_last or not isinstance(self._forward, DistributedDataParallel):
            return nullcontext()
        return self._forward.no_sync()

    def _portion(self, target: Any) -> Portion | None:
        if self.share.ranks * self.parts == 1:
            return None
        counted = None
        if isinstance(target, Tensor):
            counted = distributed.all_reduce_sum((target != IGNORED_LABEL).sum().float())
        return Portion(self.share.ranks, self.parts, counted)

    def _part(
        self, picture: Tensor, target: Any, num_attacked: int, portion: Portion | None
    ) -> Tensor:
        is_changed = None
        if self.epsilon:
            attacked = self.attacked(picture, target, num_attacked)
            if self.branch is not None:
                is_changed = torch.zeros_like(target, dtype=torch.bool)
                is_changed[:num_attacked] = self.changed_pixels(
                    picture[:num_attacked], attacked[:num_attacked]
                )
            picture = attacked
        return self._forward(picture, target, is_changed, portion)

    def erased(self, picture: Tensor, target: Any, rng: torch.Generator) -> Tensor:
        """Each picture after the augmentation; of several draws the one with the largest loss."""
        best = erase(picture, generator=rng, share=self.share)
        if self.num_erasings == 1:
            return best
        with self._undisturbed(), torch.no_grad():
            largest = self._each_loss(best, target)
            for _ in range(self.num_erasings - 1):
                other = erase(picture, generator=rng, share=self.share)
                losses = self._each_loss(other, target)
                best = torch.where((losses > largest)[:, None, None, None], other, best)
                largest = torch.maximum(losses, largest)
        return best

    def shifted(self, picture: Tensor, rng: torch.Generator) -> Tensor:
        """Each picture with its own shift of colour and noise, drawn for the whole batch."""
        share = self.share
        whole = picture.new_zeros(share.ranks * len(picture), *picture.shape[1:])
        whole[share.rank :: share.ranks] = picture
        return share.of(colour_noise(whole, self.shift, generator=rng))

    def attacked(self, picture: Tensor, target: Any, count: int) -> Tensor:
        """The pictures with the first `count` attacked: the batch's order is random."""
        if count == 0:
            return picture
        with self._undisturbed():
            attacked = bim(
                picture[:count],
                lambda images: self._loss(images, target[:count]),
                epsilon=self.epsilon,
            )
        return torch.cat([attacked, picture[count:]])

    def changed_pixels(self, picture: Tensor, attacked: Tensor) -> Tensor:
        """(B, H, W) bool: where the victim's prediction differs between two pictures."""
        with self._undisturbed(), torch.no_grad():
            before, after = (self._logits(images).argmax(1) for images in (picture, attacked))
        return before != after

    def _undisturbed(self) -> Any:
        """The victim as it will be tested; those that find objects have no loss then."""
        if self.finds_objects:
            return nullcontext()
        return as_tested(self.victim)

    def _each_loss(self, picture: Tensor, target: Any) -> Tensor:
        """(B,) loss of each picture alone."""
        rows = range(len(picture))
        return torch.stack([self._loss(picture[i : i + 1], target[i : i + 1]) for i in rows])

    def _loss(self, picture: Tensor, target: Any) -> Tensor:
        return self.task.loss(self.victim, channels_last(picture), target, dice=False)

    def _logits(self, picture: Tensor) -> Tensor:
        with autocast(picture.device, self.precision):
            return self.victim(channels_last(picture)).float()
