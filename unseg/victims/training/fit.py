"""Training one victim, and choosing its epoch without looking at the clean test.

Randomness is a function of (seed, epoch, step), so a stopped fit that goes on from its state makes
the same weights as one that was never stopped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unseg.config.evaluate import RecipeConfig
from unseg.metrics import ConfusionMatrix, boundary_iou, constant_prediction
from unseg.utils.seed import torch_generator
from unseg.victims.data.defences import NO_DEFENCE
from unseg.victims.data.segments import label_targets
from unseg.victims.data.tensor_set import VOID, TensorSet, as_input, unfit_logits
from unseg.victims.networks.object_victim import ObjectVictim
from unseg.victims.networks.victim import Victim
from unseg.victims.training.loss import autocast, channels_last, segmentation_loss
from unseg.victims.training.step import TrainingLoss


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
        branch: weights of a network that exists in training alone (defence `ddc_at`).
    """

    epoch: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    selected: dict[str, Tensor] = field(default_factory=dict)
    selected_epoch: int = 0
    victim: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    branch: dict[str, Tensor] = field(default_factory=dict)


class Task(Protocol):
    """What a victim learns and how it is scored; fitting and reports know no more of it."""

    @property
    def metric(self) -> str:
        """What tables call the score."""
        ...

    @property
    def num_classes(self) -> int:
        """C, of the victim."""
        ...

    def loss(self, victim: Any, images: Tensor, target: Any, *, dice: bool) -> Tensor:
        """Loss on a batch of `TensorSet.batch`."""
        ...

    def score(self, victim: Any, data: TensorSet) -> float:
        """The score of a whole set, in [0, 1]."""
        ...

    def details(self, victim: Any, data: TensorSet) -> dict[str, float]:
        """All scores of a whole set; `score` is among them."""
        ...

    def floor(self, test: TensorSet) -> float:
        """Score of the trivial predictor."""
        ...

    def label_maps(self, victim: Any, data: TensorSet) -> tuple[Tensor, Tensor]:
        """Labels and predictions of a few pictures for a figure, (N, S, S) uint8 both."""
        ...


@dataclass(frozen=True)
class Scorer:
    """The tasks whose label is a map of classes.

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

    @property
    def metric(self) -> str:
        """What tables call the score."""
        return "IoU" if self.task == "foreground" else "mIoU"

    def loss(self, victim: Victim, images: Tensor, target: Any, *, dice: bool) -> Tensor:
        """Loss on pictures (B, 3, S, S) in [0, 1] with labels (B, S, S).

        A victim that learns segments takes each class of a label as one.
        """
        with autocast(images.device, self.precision):
            if isinstance(victim, ObjectVictim):
                return victim.loss(images, label_targets(target, self.num_classes))
            logits = victim(images)
        return segmentation_loss(logits.float(), target, dice=dice)

    def score(self, victim: Victim, data: TensorSet) -> float:
        """The score that tables show, of a whole set."""
        return self.main(self.count(victim, data))

    def floor(self, test: TensorSet) -> float:
        """Score of the predictor that has learnt nothing, the floor of protection.

        0 for foreground IoU; for the mean IoU what calling everything the most frequent class (the
        background, where there is one) scores.
        """
        if self.task == "foreground":
            return 0.0
        pixels = test.class_pixels(self.num_classes)
        return self.main(constant_prediction(pixels, int(pixels.argmax())))

    @torch.no_grad()
    def label_maps(self, victim: Victim, data: TensorSet) -> tuple[Tensor, Tensor]:
        """Labels and predictions of a few pictures for a figure, (N, S, S) uint8 both."""
        victim.eval()
        predicted = self.predict(victim, data.images).argmax(1).to(torch.uint8).cpu()
        return data.labels, predicted

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
        with autocast(device, self.precision):
            return victim(channels_last(as_input(images.to(device)))).float()

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
    scorer: Task,
    validation: TensorSet | None,
    clean_test: TensorSet,
    seed: int,
    epoch_size: int | None = None,
    defence: str = NO_DEFENCE,
    state: FitState | None = None,
    on_epoch: Callable[[FitState], None] | None = None,
) -> FitState:
    """Train a victim; its weights afterwards are those of the last epoch.

    Args:
        victim: on its device, with its initial weights.
        train: pictures to learn from.
        recipe: how.
        scorer: the task: what is learnt, and how sets are scored.
        validation: pictures in the state in which they were published, to choose the epoch with;
            None: the last epoch is the selected one.
        clean_test: scored for the curve alone, never for a choice.
        seed: of the order and the augmentation.
        epoch_size: pictures that make an epoch; None: all of `train`. A larger number repeats
            them, so that a smaller set gets as many steps.
        defence: written defence, of which the part that changes the training acts here.
        state: where to go on from.
        on_epoch: called with the state after each epoch.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    state = state or FitState()
    device = next(victim.parameters()).device
    victim.to(memory_format=torch.channels_last)
    training = TrainingLoss(victim, scorer, recipe, defence, seed=seed)
    optimizer = _optimizer(training.modules, recipe)
    if state.epoch:
        victim.load_state_dict(state.victim)
        if training.branch is not None:
            training.branch.load_state_dict(state.branch)
        optimizer.load_state_dict(state.optimizer)
    train = train.to(device)
    steps = max(1, math.ceil((epoch_size or len(train)) / recipe.batch_size))
    epochs, eval_every = recipe.length(steps)
    for epoch in range(state.epoch, epochs):
        loss = _epoch(
            training,
            optimizer,
            train,
            recipe,
            seed=seed,
            epoch=epoch,
            epochs=epochs,
            steps=steps,
        )
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} in epoch {epoch + 1}; lower recipe.lr")
        state.epoch = epoch + 1
        if state.epoch % eval_every == 0 or state.epoch == epochs:
            _score_epoch(victim, state, loss, scorer, validation, clean_test)
        if on_epoch is not None:
            state.victim, state.optimizer = victim.state_dict(), optimizer.state_dict()
            if training.branch is not None:
                state.branch = training.branch.state_dict()
            on_epoch(state)
    training.close()
    return state


def _score_epoch(
    victim: Victim,
    state: FitState,
    loss: float,
    scorer: Task,
    validation: TensorSet | None,
    clean_test: TensorSet,
) -> None:
    row = {"epoch": float(state.epoch), "loss": loss}
    row["clean_test"] = scorer.score(victim, clean_test)
    if validation is not None and len(validation):
        row["validation"] = scorer.score(victim, validation)
    before = [r.get("validation", -math.inf) for r in state.curve]
    state.curve.append(row)
    # Without a validation split every epoch replaces the last: the last one is selected.
    if "validation" not in row or row["validation"] > max(before, default=-math.inf):
        state.selected = copy.deepcopy(victim.state_dict())
        state.selected_epoch = state.epoch


def _epoch(
    training: TrainingLoss,
    optimizer: torch.optim.Optimizer,
    train: TensorSet,
    recipe: RecipeConfig,
    *,
    seed: int,
    epoch: int,
    epochs: int,
    steps: int,
) -> float:
    """One pass; returns the mean loss."""
    training.victim.train()
    rng = torch_generator(seed, epoch, "victim order and augmentation")
    # Networks draw dropout masks from torch's own generator.
    torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
    needed = steps * recipe.batch_size
    rounds = math.ceil(needed / len(train))
    order = torch.cat([torch.randperm(len(train), generator=rng) for _ in range(rounds)])[:needed]
    device = next(training.victim.parameters()).device
    total = torch.zeros((), device=device)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, (epoch * steps + step) / (epochs * steps))
        rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        picture, target = train.batch(
            rows,
            crop=recipe.crop or recipe.image_size,
            scale=recipe.scale,
            flip=recipe.flip,
            generator=rng,
            device=device,
        )
        loss = training(picture, target, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return float(total / steps)


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


def _optimizer(modules: Sequence[nn.Module], recipe: RecipeConfig) -> torch.optim.Optimizer:
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    lr, decay = recipe.lr, recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=decay)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr, weight_decay=decay)
