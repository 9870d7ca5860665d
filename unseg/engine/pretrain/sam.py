"""Training of a promptable segmenter on clean pairs: a frozen part where Meta's does not fit.

It is the game without its generator: the surrogate's step on clean pictures, in the same loop.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from unseg.config.pretrain import SAM_NOT_METHOD, PretrainSamConfig
from unseg.engine.bilevel import BilevelSchedule, Game, RateSchedule
from unseg.engine.datasets import build_loaders
from unseg.engine.metric_log import MetricLog
from unseg.engine.players import build_adam
from unseg.engine.run_dir import open_run_dir
from unseg.engine.trainer import Pace, Trainer
from unseg.engine.validate import Validator
from unseg.models import Surrogate, build_surrogate, weights
from unseg.types import Phase
from unseg.utils import distributed
from unseg.utils.seed import derive_seed

_log = logging.getLogger(__name__)
_VALIDATION_BATCH = 8


def pretrain_sam(config: PretrainSamConfig) -> bool:
    """Train, or continue to train, a segmenter, and write `sam.pth` into its run directory.

    Returns:
        Whether the run came to its end; False where a signal asked it to stop.

    Raises:
        UserError: data or weights are missing or do not fit, or the run directory holds a run of
            another configuration; nothing has been trained then.
    """
    device = distributed.pick_device(config.device)
    run = open_run_dir(
        config,
        Path(config.output_dir) / config.name,
        kind=weights.PRETRAINING,
        players=(Phase.SURROGATE,),
        free=SAM_NOT_METHOD,
    )
    segmenter = _build_segmenter(config, read_weights=run.content is None).to(device)
    loaders = build_loaders(
        config.data,
        None,
        segmenter,
        batch_size=config.batch_size,
        validation_batch_size=_VALIDATION_BATCH,
        validation_limit=config.validate_limit,
        seed=config.seed,
        device=device,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    game = Game(
        num_points=config.num_points, seed=config.seed, autocast=config.precision == "bfloat16"
    )

    def build(metrics: MetricLog, identity: dict[str, Any]) -> Trainer:
        validator = Validator(
            loaders=loaders.validation,
            budgets=(),
            run_dir=run.path,
            metrics=metrics,
            autocast=game.autocast,
        )
        return Trainer(
            generator=None,
            surrogate=segmenter,
            optimizers={Phase.SURROGATE: build_adam(segmenter.parameters(), lr=config.lr)},
            loader=loaders.train,
            game=game,
            schedule=BilevelSchedule(unit="steps", period=1, surrogate=1),
            rate=RateSchedule(unit="steps", drop_at=config.drop_at),
            pace=Pace(
                steps=config.steps,
                log_every=config.log_every,
                validate_steps=config.validate_every,
                validate_epochs=None,
            ),
            checkpoints=run.checkpoints,
            metrics=metrics,
            validate=lambda step: validator(None, segmenter, step),
            identity=identity,
        )

    _, is_complete = run.fit(build, loaders, device, tensorboard=False)
    if is_complete and distributed.is_main():
        path = run.path / "sam.pth"
        weights.save_sam(segmenter, path)
        _log.info("segmenter: %s (generator.weights=%s uses it)", path, path)
    return is_complete


def _build_segmenter(config: PretrainSamConfig, *, read_weights: bool) -> Surrogate:
    torch.manual_seed(derive_seed(config.seed, "weights"))
    segmenter = build_surrogate(config.size, config.image_size, sam_layout=True)
    if read_weights and config.weights is not None:
        _log.info("%s", weights.load_surrogate(segmenter, config.weights).lines()[0])
    return segmenter
