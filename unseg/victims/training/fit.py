"""Training one victim, and choosing its epoch without looking at the clean test.

Randomness is a function of (seed, epoch, step), so a stopped fit that goes on from its state makes
the same weights as one that was never stopped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unseg.config.evaluate import RecipeConfig
from unseg.utils.seed import torch_generator
from unseg.victims.data.augment import augment
from unseg.victims.data.defences import NO_DEFENCE
from unseg.victims.data.tensor_set import TensorSet
from unseg.victims.networks.victim import Victim
from unseg.victims.training.class_map_task import Task
from unseg.victims.training.last_layer import CleanLastLayer
from unseg.victims.training.training_loss import TrainingLoss


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


def fit(
    victim: Victim,
    train: TensorSet,
    *,
    recipe: RecipeConfig,
    task: Task,
    validation: TensorSet | None,
    clean_test: TensorSet,
    clean_part: TensorSet | None = None,
    seed: int,
    epoch_size: int | None = None,
    defence: str = NO_DEFENCE,
    state: FitState | None = None,
    on_epoch: Callable[[FitState], None] | None = None,
) -> FitState:
    """Train a victim; its weights afterwards are those of the last epoch, as it was scored.

    Args:
        victim: on its device, with its initial weights.
        train: pictures to learn from.
        recipe: how.
        task: what is learnt, and how sets are scored.
        validation: pictures in the state in which they were published, to choose the epoch with;
            None: the last epoch is the selected one.
        clean_test: scored for the curve alone, never for a choice.
        clean_part: the clean pictures that the trainer has, for defences that need some.
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
    training = TrainingLoss(victim, task, recipe, defence, seed=seed)
    optimizer = _optimizer(training.modules, recipe)
    last_layer = None
    if clean_part is not None:
        last_layer = CleanLastLayer(victim, clean_part, task, recipe, seed=seed)
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
            with last_layer.retrained(state.epoch) if last_layer else nullcontext():
                _score_epoch(victim, state, loss, task, validation, clean_test)
        if on_epoch is not None:
            state.victim, state.optimizer = victim.state_dict(), optimizer.state_dict()
            if training.branch is not None:
                state.branch = training.branch.state_dict()
            on_epoch(state)
    training.close()
    if last_layer is not None:
        last_layer.retrain(state.epoch)
    return state


def _score_epoch(
    victim: Victim,
    state: FitState,
    loss: float,
    task: Task,
    validation: TensorSet | None,
    clean_test: TensorSet,
) -> None:
    row = {"epoch": float(state.epoch), "loss": loss}
    row["clean_test"] = task.score(victim, clean_test)
    if validation is not None and len(validation):
        row["validation"] = task.score(victim, validation)
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
        picture, target = augment(
            train,
            rows,
            crop=recipe.crop or recipe.image_size,
            scale=recipe.scale,
            flip=recipe.flip,
            brightness=recipe.brightness,
            contrast=recipe.contrast,
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
