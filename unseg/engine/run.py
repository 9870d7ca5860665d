"""A training run from its configuration: build both players, continue or begin, train, release."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import sys
from pathlib import Path
from typing import Any

import torch

import unseg
from unseg.config.load import to_dict, to_yaml
from unseg.config.method import method_differences
from unseg.config.train import TrainConfig
from unseg.engine.bilevel import BilevelSchedule, Game, RateSchedule
from unseg.engine.checkpoint import CheckpointFolder, check_fields, load_checkpoint, restoring
from unseg.engine.datasets import Loaders, build_loaders, open_training, open_validation
from unseg.engine.metric_log import MetricLog
from unseg.engine.players import build_adam, build_players, missing_weights
from unseg.engine.random_degrade import RandomDegrade
from unseg.engine.random_sizes import RandomSizes
from unseg.engine.trainer import Pace, Trainer
from unseg.engine.validate import MeasuredBudget, Validator
from unseg.io.files import atomic_write
from unseg.models import Generator, Surrogate
from unseg.types import Phase
from unseg.utils import distributed
from unseg.utils.errors import UserError
from unseg.utils.logging import setup_logging
from unseg.utils.provenance import package_versions

_log = logging.getLogger(__name__)

_NEEDED: dict[str, type] = {
    "config": dict,
    "progress.step": int,
    "provenance.samples_sha256": str,
    "provenance.num_samples": int,
    "generator": dict,
    "surrogate": dict,
    "optimizers": dict,
    "rng.cpu": torch.Tensor,
}
"""What a run continues from, by dotted key of its checkpoint."""


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
    run_dir = _run_dir(config)
    checkpoints = CheckpointFolder(run_dir / "checkpoints", keep_last=config.output.keep_last)
    content = find_checkpoint(config, checkpoints)
    setup_logging(run_dir / "train.log", distributed.rank())
    if distributed.is_main():
        checkpoints.remove_unfinished()
    generator, surrogate = build_players(config, device, read_weights=content is None)
    loaders = build_loaders(
        config,
        generator,
        surrogate,
        device=device,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    identity = {
        "config": to_dict(config),
        "provenance": provenance(loaders, distributed.world_size()),
    }
    if content is not None:
        _check_same_data(content, identity["provenance"])
    if distributed.is_main():
        _describe_run(config, run_dir, identity["provenance"], device)
    with MetricLog(
        run_dir,
        tensorboard=config.output.tensorboard,
        resume_step=content["progress"]["step"] if content else 0,
        enabled=distributed.is_main(),
    ) as metrics:
        trainer = build_trainer(
            config,
            generator=generator,
            surrogate=surrogate,
            loaders=loaders,
            checkpoints=checkpoints,
            metrics=metrics,
            identity=identity,
        )
        if content is not None:
            with restoring(_checkpoint_path(config, checkpoints)):
                trainer.restore(content)
            _log.info("continues at step %d of %d", trainer.progress.step, trainer.pace.steps)
        is_complete = trainer.fit()
    loaders.report_skipped(run_dir)
    if is_complete and distributed.is_main():
        release(config, generator, run_dir, trainer)
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


def find_checkpoint(config: TrainConfig, checkpoints: CheckpointFolder) -> dict[str, Any] | None:
    """Content of the checkpoint to continue from, or None to begin.

    Raises:
        UserError: it belongs to another method, or there is none although one was asked for.
    """
    path = _checkpoint_path(config, checkpoints)
    if not path:
        if config.resume:
            raise UserError(
                f"{checkpoints.folder}: holds no checkpoint to continue from; leave --resume away "
                "to begin, or name one with resume_from"
            )
        return None
    content = load_checkpoint(path)
    check_fields(content, _NEEDED, path)
    differences = method_differences(content["config"], to_dict(config))
    if differences:
        raise UserError(
            f"{path}: was trained under another method: {'; '.join(differences)}. "
            "Give the run another name, or restore these keys"
        )
    return content


def _checkpoint_path(config: TrainConfig, checkpoints: CheckpointFolder) -> str | Path:
    """The checkpoint to continue from; empty where there is none."""
    return checkpoints.latest() or config.resume_from or ""


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


def provenance(loaders: Loaders, world_size: int) -> dict[str, Any]:
    """Where a checkpoint comes from."""
    names = "\n".join(loaders.train_names)
    return {
        "unseg": unseg.__version__,
        "torch": str(torch.__version__),  # a plain text, or the checkpoint would not load safely
        "world_size": world_size,
        "num_samples": len(loaders.train_names),
        "samples_sha256": hashlib.sha256(names.encode()).hexdigest(),
    }


def release(config: TrainConfig, generator: Generator, run_dir: Path, trainer: Trainer) -> None:
    """Write the trained generator for others: safetensors, and the released layout on request."""
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
        parent_path=config.generator.weights,
    )
    _log.info("generator: %s", path)
    if config.output.export_official:
        official = Path(config.output.weight_dir) / f"Generator_{config.name}_final.pth"
        official.parent.mkdir(parents=True, exist_ok=True)
        weights.export_official(generator, official)
        _log.info("generator in the released layout: %s", official)


def _run_dir(config: TrainConfig) -> Path:
    return Path(config.output.dir) / config.name


def _check_same_data(content: dict[str, Any], now: dict[str, Any]) -> None:
    then = content["provenance"]
    if then["samples_sha256"] != now["samples_sha256"]:
        raise UserError(
            f"data: the checkpoint was trained on {then['num_samples']} samples and there are "
            f"{now['num_samples']} now, or their names differ; restore the data or give the run "
            "another name"
        )


def _describe_run(
    config: TrainConfig, run_dir: Path, origin: dict[str, Any], device: torch.device
) -> None:
    """Write config.yaml and environment.json."""
    with atomic_write(run_dir / "config.yaml", "w") as file:
        file.write(to_yaml(config))
    environment = {
        **origin,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "command": sys.argv,
    }
    with atomic_write(run_dir / "environment.json", "w") as file:
        json.dump(environment, file, indent=2)
