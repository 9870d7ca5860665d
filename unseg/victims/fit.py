"""Training one victim, and choosing its epoch without looking at the clean test.

Randomness is a function of (seed, epoch, step), so a stopped fit that goes on from its state makes
the same weights as one that was never stopped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.config.evaluate import RecipeConfig
from unseg.metrics import ConfusionMatrix, boundary_iou
from unseg.utils.seed import torch_generator
from unseg.victims.networks import Victim
from unseg.victims.tensors import VOID, TensorSet, as_input, augment, unfit_logits


@dataclass
class FitState:
    """Where a fit stands, in plain containers and tensors.

    Attributes:
        epoch: epochs done.
        curve: a row for each scored epoch: `epoch`, `loss`, `validation`, `clean_test`.
        selected: weights of the epoch with the best validation score so far.
        selected_epoch: that epoch, counted from 1.
        victim: weights now.
        optimizer: state of the optimiser.
    """

    epoch: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    selected: dict[str, Tensor] = field(default_factory=dict)
    selected_epoch: int = 0
    victim: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scorer:
    """How a test set is scored.

    Attributes:
        num_classes: C.
        task: "foreground" (IoU of class 1) or "semantic" (mean IoU).
        score_classes: the mean runs over these; empty: over all.
        batch_size: pictures scored at once.
        precision: "float32" or "bfloat16".
    """

    num_classes: int
    task: str = "foreground"
    score_classes: tuple[int, ...] = ()
    batch_size: int = 32
    precision: str = "float32"

    def main(self, counts: ConfusionMatrix) -> float:
        """The score that tables show."""
        if self.task == "foreground":
            return counts.foreground_iou()
        return counts.mean_iou(self.score_classes or None)

    @torch.no_grad()
    def count(self, victim: Victim, data: TensorSet) -> ConfusionMatrix:
        """Confusion matrix over a whole set."""
        counts = ConfusionMatrix(self.num_classes, VOID)
        for predicted, labels in self._predictions(victim, data):
            counts.update(predicted, labels)
        return counts

    @torch.no_grad()
    def details(self, victim: Victim, data: TensorSet) -> dict[str, float]:
        """All scores of a set: `score`, `accuracy`, and Dice and boundary IoU of foreground."""
        counts = ConfusionMatrix(self.num_classes, VOID)
        borders = []
        for predicted, labels in self._predictions(victim, data):
            counts.update(predicted, labels)
            if self.task == "foreground":
                counted = labels != VOID
                found, true = (predicted == 1) & counted, (labels == 1) & counted
                borders.append(boundary_iou(found[:, None], true[:, None]))
        scores = {"score": self.main(counts), "accuracy": counts.accuracy()}
        if self.task == "foreground":
            scores["dice"] = counts.foreground_dice()
            scores["boundary_iou"] = float(torch.cat(borders).mean())
        return scores

    def predict(self, victim: Victim, images: Tensor) -> Tensor:
        """Logits (B, C, S, S) of pictures (B, 3, S, S) uint8; the victim must be in eval mode."""
        device = next(victim.parameters()).device
        with _autocast(device, self.precision):
            return victim(_channels_last(as_input(images.to(device)))).float()

    def _predictions(self, victim: Victim, data: TensorSet) -> Any:
        was_training = victim.training
        victim.eval()
        for start in range(0, len(data), self.batch_size):
            rows = slice(start, start + self.batch_size)
            logits = self.predict(victim, data.images[rows])
            if data.native_labels is None:
                yield logits.argmax(1).cpu(), data.labels[rows]
                continue
            for i, label in enumerate(data.native_labels[rows]):
                native = unfit_logits(logits[i : i + 1], data.extents[start + i], label.shape)
                yield native.argmax(1).cpu(), torch.from_numpy(label)[None]
        victim.train(was_training)


def fit(
    victim: Victim,
    train: TensorSet,
    *,
    recipe: RecipeConfig,
    scorer: Scorer,
    validation: TensorSet | None,
    clean_test: TensorSet,
    seed: int,
    epoch_size: int | None = None,
    state: FitState | None = None,
    on_epoch: Callable[[FitState], None] | None = None,
) -> FitState:
    """Train a victim; its weights afterwards are those of the last epoch.

    Args:
        victim: on its device, with its initial weights.
        train: pictures to learn from.
        recipe: how.
        scorer: how sets are scored.
        validation: pictures in the state in which they were published, to choose the epoch with;
            None: the last epoch is the selected one.
        clean_test: scored for the curve alone, never for a choice.
        seed: of the order and the augmentation.
        epoch_size: pictures that make an epoch; None: all of `train`. A larger number repeats
            them, so that a smaller set gets as many steps.
        state: where to go on from.
        on_epoch: called with the state after each epoch.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    state = state or FitState()
    device = next(victim.parameters()).device
    victim.to(memory_format=torch.channels_last)
    optimizer = _optimizer(victim, recipe)
    if state.epoch:
        victim.load_state_dict(state.victim)
        optimizer.load_state_dict(state.optimizer)
    images, labels = train.images.to(device), train.labels.to(device)
    steps = max(1, math.ceil((epoch_size or len(train)) / recipe.batch_size))
    epochs, eval_every = recipe.length(steps)
    for epoch in range(state.epoch, epochs):
        loss = _epoch(
            victim, optimizer, images, labels, recipe, seed=seed, epoch=epoch, epochs=epochs, steps=steps
        )
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} in epoch {epoch + 1}; lower recipe.lr")
        state.epoch = epoch + 1
        if state.epoch % eval_every == 0 or state.epoch == epochs:
            _score_epoch(victim, state, loss, scorer, validation, clean_test)
        if on_epoch is not None:
            state.victim, state.optimizer = victim.state_dict(), optimizer.state_dict()
            on_epoch(state)
    return state


def _score_epoch(
    victim: Victim,
    state: FitState,
    loss: float,
    scorer: Scorer,
    validation: TensorSet | None,
    clean_test: TensorSet,
) -> None:
    row = {"epoch": float(state.epoch), "loss": loss}
    row["clean_test"] = scorer.main(scorer.count(victim, clean_test))
    if validation is not None and len(validation):
        row["validation"] = scorer.main(scorer.count(victim, validation))
    before = [r.get("validation", -math.inf) for r in state.curve]
    state.curve.append(row)
    # Without a validation split every epoch replaces the last: the last one is selected.
    if "validation" not in row or row["validation"] > max(before, default=-math.inf):
        state.selected = copy.deepcopy(victim.state_dict())
        state.selected_epoch = state.epoch


def _epoch(
    victim: Victim,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    recipe: RecipeConfig,
    *,
    seed: int,
    epoch: int,
    epochs: int,
    steps: int,
) -> float:
    """One pass; returns the mean loss."""
    victim.train()
    rng = torch_generator(seed, epoch, "victim order and augmentation")
    # Networks draw dropout masks from torch's own generator.
    torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
    needed = steps * recipe.batch_size
    rounds = math.ceil(needed / len(images))
    order = torch.cat([torch.randperm(len(images), generator=rng) for _ in range(rounds)])[:needed]
    total = torch.zeros((), device=images.device)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, (epoch * steps + step) / (epochs * steps))
        rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size].to(images.device)
        picture, target = augment(
            images[rows],
            labels[rows],
            crop=recipe.crop or recipe.image_size,
            scale=recipe.scale,
            flip=recipe.flip,
            generator=rng,
        )
        with _autocast(images.device, recipe.precision):
            logits = victim(_channels_last(picture))
        loss = segmentation_loss(logits.float(), target, dice=recipe.loss == "ce_dice")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return float(total / steps)


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


def learning_rate(recipe: RecipeConfig, progress: float) -> float:
    """Learning rate at a share of the training in [0, 1)."""
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "poly":
        return recipe.lr * (1 - progress) ** 0.9
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))
    warm = 0.25
    if progress < warm:
        return recipe.lr * (0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / warm)))
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))


def _optimizer(victim: Victim, recipe: RecipeConfig) -> torch.optim.Optimizer:
    parameters = [p for p in victim.parameters() if p.requires_grad]
    lr, decay = recipe.lr, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=decay)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr, weight_decay=decay)


def _channels_last(images: Tensor) -> Tensor:
    # A quarter to a third faster than the default layout, on CPU too.
    return images.contiguous(memory_format=torch.channels_last)


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
