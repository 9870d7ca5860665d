"""Training one victim, and choosing its epoch without looking at the clean test.

Randomness is a function of (seed, epoch, step), so a stopped fit that goes on from its state makes
the same weights as one that was never stopped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unseg.config.evaluate import RecipeConfig
from unseg.utils import distributed
from unseg.utils.seed import torch_generator
from unseg.victims.data.augment import augment
from unseg.victims.data.defences import NO_DEFENCE
from unseg.victims.data.picture_set import Pictures
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
        step: steps done of the next one.
        loss: their summed loss on each process.
        curve: a row for each scored epoch: `epoch`, `loss`, `validation`, `clean_test`.
        selected: weights of the epoch with the best validation score so far.
        selected_epoch: that epoch, counted from 1.
        victim: weights now.
        optimizer: state of the optimiser.
        branch: weights of a network that exists in training alone (defence `ddc_at`).
        draws: state of the epoch's own generator.
        noise: state of torch's generators on each process, which networks draw dropout from.
    """

    epoch: int = 0
    step: int = 0
    loss: list[float] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)
    selected: dict[str, Tensor] = field(default_factory=dict)
    selected_epoch: int = 0
    victim: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    branch: dict[str, Tensor] = field(default_factory=dict)
    draws: Tensor | None = None
    noise: list[dict[str, Tensor]] = field(default_factory=list)


class Keeper(Protocol):
    """What keeps the state of a fit; every process of a cell asks and answers alike."""

    def is_due(self) -> bool:
        """Asked after each step: whether the state is to be kept now."""
        ...

    def keep(self, state: FitState) -> None:
        """Keep it, and raise KeyboardInterrupt where the fit is to stop."""
        ...


def fit(
    victim: Victim,
    train: Pictures,
    *,
    recipe: RecipeConfig,
    task: Task,
    validation: Pictures | None,
    clean_test: Pictures,
    clean_part: Pictures | None = None,
    seed: int,
    epoch_size: int | None = None,
    defence: str = NO_DEFENCE,
    state: FitState | None = None,
    keeper: Keeper | None = None,
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
        keeper: of the state, after each step.

    Raises:
        FloatingPointError: the loss is not finite.
        UserError: the victim cannot be trained so.
    """
    state = state or FitState()
    victim.to(memory_format=torch.channels_last)
    training = TrainingLoss(victim, task, recipe, defence, seed=seed)
    steps = max(1, math.ceil((epoch_size or len(train)) / recipe.batch_size))
    run = _Run(training, recipe, state, seed=seed, steps=steps)
    epochs, eval_every = recipe.length(steps)
    last_layer = None
    if clean_part is not None:
        last_layer = CleanLastLayer(victim, clean_part, task, recipe, seed=seed)
    while state.epoch < epochs:
        loss = run.epoch(train, keeper)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} in epoch {state.epoch + 1}; lower recipe.lr"
            )
        state.epoch += 1
        if state.epoch % eval_every == 0 or state.epoch == epochs:
            with last_layer.retrained(state.epoch) if last_layer else nullcontext():
                _score_epoch(victim, state, loss, task, validation, clean_test)
        if keeper is not None and keeper.is_due():
            keeper.keep(run.filled())
    training.close()
    if last_layer is not None:
        last_layer.retrain(state.epoch)
    return state


class _Run:
    """The steps of a fit, which begins or goes on where its state says."""

    def __init__(
        self,
        training: TrainingLoss,
        recipe: RecipeConfig,
        state: FitState,
        *,
        seed: int,
        steps: int,
    ) -> None:
        self.training, self.recipe, self.state = training, recipe, state
        self.seed, self.steps = seed, steps
        self.epochs = recipe.length(steps)[0]
        self.device = next(training.victim.parameters()).device
        self.optimizer = _optimizer(training.modules, recipe)
        if state.optimizer:
            training.victim.load_state_dict(state.victim)
            if training.branch is not None:
                training.branch.load_state_dict(state.branch)
            self.optimizer.load_state_dict(state.optimizer)

    def filled(self) -> FitState:
        """The state, with the weights as they are now."""
        state, training = self.state, self.training
        state.victim, state.optimizer = training.victim.state_dict(), self.optimizer.state_dict()
        if training.branch is not None:
            state.branch = training.branch.state_dict()
        state.noise = distributed.all_gather_object(_noise_state(self.device))
        return state

    def epoch(self, train: Pictures, keeper: Keeper | None) -> float:
        """One pass, or the rest of it; returns the mean loss."""
        state, share = self.state, self.training.share
        self.training.train()
        rng = torch_generator(self.seed, state.epoch, "victim order and augmentation")
        # Networks draw dropout masks from torch's own generator, other ones on each process.
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)) + share.rank)
        order = self._order(len(train), rng)
        total = torch.zeros((), device=self.device)
        if state.step:
            total = self._go_on(rng)
        rows = [share.of(chunk).numpy() for chunk in order[state.step :]]
        for batch in train.batches(rows):
            total += self._step(batch, rng)
            state.step += 1
            if state.step < self.steps and keeper is not None and keeper.is_due():
                state.draws = rng.get_state()
                state.loss = distributed.all_gather_object(float(total))
                keeper.keep(self.filled())
        state.step = 0
        return float(distributed.all_reduce_sum(total) / self.steps)

    def _order(self, count: int, rng: torch.Generator) -> Tensor:
        """(steps, B) int64 rows of each step's batch."""
        needed = self.steps * self.recipe.batch_size
        rounds = math.ceil(needed / count)
        order = torch.cat([torch.randperm(count, generator=rng) for _ in range(rounds)])
        return order[:needed].view(self.steps, self.recipe.batch_size)

    def _go_on(self, rng: torch.Generator) -> Tensor:
        """Bring all generators to where the state left them; returns the loss until then."""
        state, share = self.state, self.training.share
        assert state.draws is not None
        rng.set_state(state.draws)
        total = torch.tensor(sum(state.loss) / share.ranks, device=self.device)
        if len(state.noise) == share.ranks:
            _set_noise(state.noise[share.rank], self.device)
            total = torch.tensor(state.loss[share.rank], device=self.device)
        return total

    def _step(self, batch: TensorSet, rng: torch.Generator) -> Tensor:
        state, recipe = self.state, self.recipe
        done = (state.epoch * self.steps + state.step) / (self.epochs * self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, done)
        picture, target = augment(
            batch,
            crop=recipe.crop or recipe.image_size,
            scale=recipe.scale,
            flip=recipe.flip,
            brightness=recipe.brightness,
            contrast=recipe.contrast,
            generator=rng,
            device=self.device,
            share=self.training.share,
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.training.step(picture, target, rng)
        self.optimizer.step()
        return loss


def _noise_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's own generators."""
    noise = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        noise["cuda"] = torch.cuda.get_rng_state(device)
    return noise


def _set_noise(noise: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(noise["cpu"])
    if device.type == "cuda" and "cuda" in noise:
        torch.cuda.set_rng_state(noise["cuda"], device)


def _score_epoch(
    victim: Victim,
    state: FitState,
    loss: float,
    task: Task,
    validation: Pictures | None,
    clean_test: Pictures,
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
