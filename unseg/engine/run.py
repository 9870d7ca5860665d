"""A training run from its configuration: build both players, continue or begin, train, release."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from unseg.config.load import to_dict
from unseg.config.train import TrainConfig
from unseg.engine.bilevel import BilevelSchedule, Game, RateSchedule
from unseg.engine.checkpoint import CheckpointFolder
from unseg.engine.datasets import Loaders, build_loaders, open_training, open_validation
from unseg.engine.metric_log import MetricLog
from unseg.engine.players import build_adam, build_players, missing_weights
from unseg.engine.random_degrade import RandomDegrade
from unseg.engine.random_sizes import RandomSizes
from unseg.engine.run_dir import open_run_dir
from unseg.engine.trainer import Pace, Trainer
from unseg.engine.validate import MeasuredBudget, Validator
from unseg.models import Generator, Surrogate
from unseg.models.weights import BILEVEL
from unseg.types import Phase
from unseg.utils import distributed
from unseg.utils.errors import UserError

_log = logging.getLogger(__name__)


def train(config: TrainConfig) -> bool:
    """Train, or continue to train, the generator that a configuration describes.

    The weights come from the first of: the newest checkpoint of the run directory,
    `resume_from`, the files in `generator.weights` and `surrogate.weights`, random numbers.

    Returns:
        Whether the run came to its end; False where a signal asked it to stop.

    Raises:
        UserError: something is missing or does not fit; nothing has been trained then.
    """
    device = distributed.pick_device(config.device)
    run = open_run_dir(
        config,
        _run_dir(config),
        kind=BILEVEL,
        players=tuple(Phase),
        keep_last=config.output.keep_last,
        resume_from=config.resume_from,
        must_resume=config.resume,
    )
    generator, surrogate = build_players(config, device, read_weights=run.content is None)
    loaders = build_loaders(
        config.data,
        generator,
        surrogate,
        batch_size=config.optim.batch_size,
        validation_batch_size=config.validate.batch_size,
        validation_limit=config.validate.limit,
        seed=config.seed,
        device=device,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )

    def build(metrics: MetricLog, identity: dict[str, Any]) -> Trainer:
        return build_trainer(
            config,
            generator=generator,
            surrogate=surrogate,
            loaders=loaders,
            checkpoints=run.checkpoints,
            metrics=metrics,
            identity=identity,
        )

    trainer, is_complete = run.fit(build, loaders, device, tensorboard=config.output.tensorboard)
    if is_complete and distributed.is_main():
        release(config, generator, run.path, trainer)
    return is_complete


def check_inputs(config: TrainConfig) -> None:
    """Look for the data and the initial weights of a run, without reading a picture.

    Raises:
        UserError: one line that names what is missing.
    """
    missing: list[str] = []
    has_checkpoint = CheckpointFolder(_run_dir(config) / "checkpoints").latest()
    if has_checkpoint is None and config.resume_from is None:
        missing += missing_weights(config)
    try:
        open_training(config.data)
        open_validation(config.data, config.validate.limit)
    except UserError as error:
        first, *more = str(error).splitlines()
        missing.append(first + f" (and {len(more)} more)" * bool(more))
    if missing:
        raise UserError("; ".join(missing))


def build_trainer(
    config: TrainConfig,
    *,
    generator: Generator,
    surrogate: Surrogate,
    loaders: Loaders,
    checkpoints: CheckpointFolder,
    metrics: MetricLog,
    identity: dict[str, Any],
) -> Trainer:
    """The loop with everything it needs."""
    game = build_game(config)
    validator = Validator(
        loaders=loaders.validation,
        budgets=validation_budgets(config),
        run_dir=checkpoints.folder.parent,
        metrics=metrics,
        num_images=config.validate.num_images,
        autocast=game.autocast,
    )
    schedule, optim, output = config.schedule, config.optim, config.output
    by_steps = config.validate.unit == "steps"
    steps = schedule.steps or (schedule.epochs or 0) * len(loaders.train)
    return Trainer(
        generator=generator,
        surrogate=surrogate,
        optimizers={
            Phase.GENERATOR: build_adam(
                generator.trainable_parameters().values(), lr=optim.generator.lr
            ),
            Phase.SURROGATE: build_adam(surrogate.parameters(), lr=optim.surrogate.lr),
        },
        loader=loaders.train,
        game=game,
        schedule=BilevelSchedule(
            unit=schedule.unit, period=schedule.period, surrogate=schedule.surrogate
        ),
        rate=RateSchedule(
            unit=optim.drop_unit, drop_at=optim.drop_at, drop_factor=optim.drop_factor
        ),
        pace=Pace(
            steps=steps,
            log_every=output.log_every,
            validate_steps=config.validate.every if by_steps else None,
            validate_epochs=None if by_steps else config.validate.every,
            checkpoint_steps=output.checkpoint_every,
            micro_batch_size=optim.micro_batch_size,
        ),
        checkpoints=checkpoints,
        metrics=metrics,
        validate=lambda step: validator(generator, surrogate, step),
        identity=identity,
    )


def build_game(config: TrainConfig) -> Game:
    """Budget, losses and degradations of the two steps."""
    settings = dict(vars(config.robust))
    sizes = RandomSizes(*settings.pop("sizes"))
    robust = RandomDegrade(**settings)
    return Game(
        epsilon=config.noise.epsilon,
        epsilon_bg=config.noise.epsilon_bg,
        seed=config.seed,
        degrade=None if robust.is_off else robust,
        sizes=None if sizes.is_off else sizes,
        autocast=config.optim.precision == "bfloat16",
        **vars(config.loss),
    )


def validation_budgets(config: TrainConfig) -> tuple[MeasuredBudget, ...]:
    """The training budget and, last, the one of generation; one where they are the same."""
    training = MeasuredBudget(config.noise.epsilon, config.noise.epsilon_bg)
    generation = MeasuredBudget(config.validate.epsilon, config.validate.epsilon_bg)
    return (training,) if training == generation else (training, generation)


def release(config: TrainConfig, generator: Generator, run_dir: Path, trainer: Trainer) -> None:
    """Write the trained generator for others: safetensors, and the released layout on request.

    Who has Segment Anything's file needs the trained tensors alone. A small size has no published
    file, so its frozen part travels with it.
    """
    from unseg.models import weights

    path = run_dir / f"generator_{config.name}.safetensors"
    progress = trainer.progress
    weights.save_release(
        generator,
        path,
        metadata={
            "name": config.name,
            "config": to_dict(config),
            "step": progress.step,
            "best_gap": progress.best_gap,
        },
        parent_path=config.generator.weights if generator.size.startswith("vit") else None,
    )
    _log.info("generator: %s", path)
    if config.output.export_official:
        official = Path(config.output.weight_dir) / f"Generator_{config.name}_final.pth"
        official.parent.mkdir(parents=True, exist_ok=True)
        weights.export_official(generator, official)
        _log.info("generator in the released layout: %s", official)


def _run_dir(config: TrainConfig) -> Path:
    return Path(config.output.dir) / config.name
