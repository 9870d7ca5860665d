"""The training loop of the bilevel game."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from unseg.engine import watch
from unseg.engine.bilevel import BilevelSchedule, Game, RateSchedule, accumulate_gradients
from unseg.engine.checkpoint import CheckpointFolder, restore_rng, rng_state
from unseg.engine.metric_log import MetricLog
from unseg.engine.players import set_rate
from unseg.models import Generator, Surrogate
from unseg.models.weights import BILEVEL, PRETRAINING
from unseg.types import Batch, Phase
from unseg.utils import distributed
from unseg.utils.signals import stop_signals

_log = logging.getLogger(__name__)


class EpochLoader(Protocol):
    """Batches that are a pure function of the epoch: what makes resuming exact."""

    def __len__(self) -> int:
        """Global batches of one epoch."""

    def epoch(self, epoch: int, *, start: int = 0) -> Iterable[Batch]:
        """This rank's share of each global batch, from batch `start` on."""


@dataclass
class TrainingPosition:
    """Where a run is: the next thing to do is batch `batch` of epoch `epoch`.

    Attributes:
        epoch: epochs done.
        batch: global batches done of the epoch under way.
        step: optimiser steps done of the whole run, whoever learnt.
        best_gap: largest validation gap so far, or None.
        best_step: when that was.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_gap: float | None = None
    best_step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long a run is and when it is looked at.

    Attributes:
        steps: optimiser steps of the whole run.
        log_every: steps between log lines.
        validate_steps: steps between validations, or None to go by epochs.
        validate_epochs: epochs between validations, or None to go by steps.
        checkpoint_steps: steps between checkpoints beside those after each validation and at the
            end, or None.
        micro_batch_size: images of one forward pass, or None for the rank's whole share.
    """

    steps: int
    log_every: int = 20
    validate_steps: int | None = None
    validate_epochs: int | None = 1
    checkpoint_steps: int | None = None
    micro_batch_size: int | None = None


Validate = Callable[[int], dict[str, float]]
"""Step -> metrics by name; `gap` among them decides what is best. All ranks call it."""


class Trainer:
    """Plays the game: the same loop on one CPU, one GPU and many of them.

    Args:
        generator: the player that is kept, or None: the surrogate learns alone, from clean
            pictures, and every phase of the schedule is its own.
        surrogate: the player that is attacked.
        optimizers: one a player, over its trainable parameters.
        loader: training batches.
        game: losses and budget.
        schedule: who learns when.
        rate: shape of the learning rates.
        pace: length and rhythm.
        checkpoints: where they go.
        metrics: where numbers go.
        validate: measures the gap.
        identity: `config`, `provenance` and the like, stored in every checkpoint.
    """

    def __init__(
        self,
        *,
        generator: Generator | None,
        surrogate: Surrogate,
        optimizers: dict[Phase, torch.optim.Optimizer],
        loader: EpochLoader,
        game: Game,
        schedule: BilevelSchedule,
        rate: RateSchedule,
        pace: Pace,
        checkpoints: CheckpointFolder,
        metrics: MetricLog,
        validate: Validate,
        identity: dict[str, Any],
    ) -> None:
        self.players: dict[Phase, Generator | Surrogate] = {Phase.SURROGATE: surrogate}
        if generator is not None:
            self.players = {Phase.GENERATOR: generator, **self.players}
        self.kind = PRETRAINING if generator is None else BILEVEL
        self.generator, self.surrogate = generator, surrogate
        self.optimizers = optimizers
        self.loader, self.game, self.schedule = loader, game, schedule
        self.rate, self.pace = rate, pace
        self.checkpoints, self.metrics, self.validate = checkpoints, metrics, validate
        self.identity = identity
        self.progress = TrainingPosition()
        self.device = next(surrogate.parameters()).device
        self._base_rates = {p: o.param_groups[0]["lr"] for p, o in optimizers.items()}
        self._finite = watch.FiniteWatch()
        self._losses = watch.RunningLosses(self.device)
        self._clock = watch.Stopwatch()
        self._logged_step = 0
        self._last_saved: int | None = None

    @property
    def is_finished(self) -> bool:
        """Whether every step is done."""
        return self.progress.step >= self.pace.steps

    def fit(self) -> bool:
        """Train to the end.

        Returns:
            False where a signal asked to stop; everything is saved then as well.
        """
        with stop_signals() as asked:
            while not self.is_finished:
                if not self._train_epoch(asked):
                    self._save()
                    _log.info("stopped at step %d; the same command continues", self.progress.step)
                    return False
        self._save()
        return True

    def _train_epoch(self, asked: threading.Event) -> bool:
        """One epoch, or what is left of it; False where a signal ended it early."""
        progress, pace = self.progress, self.pace
        self._clock.reset()
        for batch in self.loader.epoch(progress.epoch, start=progress.batch):
            self._clock.data_is_here()
            phase = self.schedule.phase(epoch=progress.epoch, step=progress.step)
            rate = self.rate.factor(epoch=progress.epoch, step=progress.step)
            set_rate(self.optimizers[phase], rate * self._base_rates[phase])
            self.train_step(phase, batch)
            progress.batch += 1
            progress.step += 1
            self._clock.step_is_done()
            is_epoch_end = progress.batch == len(self.loader)
            following = self.schedule.phase(epoch=progress.epoch + is_epoch_end, step=progress.step)
            is_due = progress.step % pace.log_every == 0
            if is_due or following != phase or self.is_finished:
                self._report(phase, rate)
            if is_epoch_end:
                progress.epoch, progress.batch = progress.epoch + 1, 0
            self._look(is_epoch_end=is_epoch_end)
            if self.is_finished:
                return True
            if self._must_stop(asked, is_agreed_now=is_due):
                return False
        return True

    def train_step(self, phase: Phase, batch: Batch) -> None:
        """One optimiser step of the player of this phase, on this rank's share of the batch."""
        for player, module in self.players.items():
            module.train(player is phase)
        optimizer = self.optimizers[phase]
        optimizer.zero_grad(set_to_none=True)
        count = distributed.all_reduce_sum(torch.full((), float(len(batch)), device=self.device))
        where = self._where(phase, batch)
        for loss, total, losses in accumulate_gradients(
            phase,
            self.generator,
            self.surrogate,
            batch,
            game=self.game,
            epoch=self.progress.epoch,
            num_masks=count,
            micro_batch_size=self.pace.micro_batch_size,
        ):
            self._finite.check(loss, where)
            self._losses.add(total=total, bce=losses.bce, dice=losses.dice)
        distributed.all_reduce_gradients(optimizer.param_groups[0]["params"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if phase is Phase.SURROGATE:
            average_statistics(self.surrogate)

    def _where(self, phase: Phase, batch: Batch) -> str:
        return (
            f"phase {phase.value}, epoch {self.progress.epoch}, step {self.progress.step}, "
            f"samples {', '.join(batch.names)}"
        )

    def _report(self, phase: Phase, rate: float) -> None:
        """One log line and one record of means since the last one."""
        losses = self._losses.report()
        data_time, step_time = self._clock.means()
        self._clock.reset()
        memory = watch.memory_gib(self.device)
        lr = rate * self._base_rates[phase]
        left = step_time * (self.pace.steps - self.progress.step)
        prefix = f"train/{phase.value}/"
        self.metrics.scalars(
            self.progress.step,
            {
                **{prefix + name: value for name, value in losses.items()},
                prefix + "lr": lr,
                "train/epoch": self.progress.epoch,
                "train/data_time": data_time,
                "train/step_time": step_time,
                "train/memory_gib": memory,
            },
        )
        _log.info(
            "epoch %d %s step %d/%d loss %.4f (bce %.4f dice %.4f) lr %.1e "
            "data %.3f s step %.3f s mem %.2f GiB eta %s",
            self.progress.epoch,
            phase.value,
            self.progress.step,
            self.pace.steps,
            *losses.values(),
            lr,
            data_time,
            step_time,
            memory,
            _clock_text(left),
        )

    def _look(self, *, is_epoch_end: bool) -> None:
        """Validate and save where it is time."""
        step, epoch, pace = self.progress.step, self.progress.epoch, self.pace
        by_steps = pace.validate_steps is not None and step % pace.validate_steps == 0
        by_epochs = (
            pace.validate_epochs is not None and is_epoch_end and epoch % pace.validate_epochs == 0
        )
        if by_steps or by_epochs or self.is_finished:
            self._validate_and_save()
        elif pace.checkpoint_steps is not None and step % pace.checkpoint_steps == 0:
            self._save()

    def _validate_and_save(self) -> None:
        self._finite.flush()
        values = self.validate(self.progress.step)
        self.metrics.scalars(self.progress.step, values)
        gap = values.get("gap")
        is_best = gap is not None and (
            self.progress.best_gap is None or gap > self.progress.best_gap
        )
        if is_best:
            self.progress.best_gap, self.progress.best_step = gap, self.progress.step
        self._save(is_best=is_best)
        self._clock.reset()

    def _must_stop(self, asked: threading.Event, *, is_agreed_now: bool) -> bool:
        """Whether any rank was asked to stop; several ranks agree on it at log steps alone."""
        if distributed.world_size() == 1:
            return asked.is_set()
        if not is_agreed_now:
            return False
        votes = torch.full((), float(asked.is_set()), device=self.device)
        return bool(distributed.all_reduce_sum(votes) > 0)

    def _save(self, *, is_best: bool = False) -> None:
        """Write a checkpoint of this moment, once."""
        self._finite.flush()
        if self._last_saved == self.progress.step:
            return
        if distributed.is_main():
            path = self.checkpoints.save(self.state(), step=self.progress.step, is_best=is_best)
            _log.info("checkpoint %s%s", path.name, " (best gap)" if is_best else "")
        distributed.barrier()
        self._last_saved = self.progress.step

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, as plain containers and tensors."""
        progress = dataclasses.asdict(self.progress)
        return {
            "kind": self.kind,
            **self.identity,
            "progress": progress,
            "models": {p.value: player.build_arguments for p, player in self.players.items()},
            **{p.value: player.state_dict() for p, player in self.players.items()},
            "optimizers": {p.value: o.state_dict() for p, o in self.optimizers.items()},
            "schedulers": {
                "phase": dataclasses.asdict(self.schedule),
                "rate": {**dataclasses.asdict(self.rate), "drop_at": list(self.rate.drop_at)},
            },
            "rng": rng_state(),
            "best": {"gap": progress["best_gap"], "step": progress["best_step"]},
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Continue from a checkpoint's `state`."""
        self.progress = TrainingPosition(**content["progress"])
        for phase, player in self.players.items():
            player.load_state_dict(content[phase.value])
        for phase, optimizer in self.optimizers.items():
            optimizer.load_state_dict(content["optimizers"][phase.value])
        restore_rng(content["rng"])
        self._last_saved = self.progress.step


@torch.no_grad()
def average_statistics(module: nn.Module) -> None:
    """Give all ranks the mean of their batch-norm statistics (the ResNet ablation alone has any).

    Everything else is equal on all ranks by construction.
    """
    if distributed.world_size() == 1:
        return
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(distributed.all_reduce_sum(buffer) / distributed.world_size())


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
