"""Both players of a run, the weights with which they begin, and an Adam for each."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from unseg.config.train import IMAGENET, TrainConfig
from unseg.models import Generator, Surrogate, build_generator, build_surrogate
from unseg.models.encoder import ImageEncoder
from unseg.utils.errors import UserError
from unseg.utils.seed import derive_seed

_log = logging.getLogger(__name__)


def missing_weights(config: TrainConfig) -> list[str]:
    """One sentence for each player whose initial weights are not there."""
    from unseg.models import weights

    files = {"generator": config.generator.weights}
    missing = []
    if config.surrogate.weights == IMAGENET:
        try:
            weights.efficientnet_lite0_path()
        except UserError as error:
            missing.append(f"surrogate.{error}")
    else:
        files["surrogate"] = config.surrogate.weights
    missing += [
        f"{player}.weights={path}: no such file; `unseg weights list` shows some"
        for player, path in files.items()
        if path is not None and not Path(path).is_file()
    ]
    return missing


def build_players(
    config: TrainConfig, device: torch.device, *, read_weights: bool
) -> tuple[Generator, Surrogate]:
    """Both players on their device, with the initial weights that the configuration names."""
    from unseg.models import weights

    torch.manual_seed(derive_seed(config.seed, "weights"))
    generator = build_generator(
        config.generator.size,
        config.generator.image_size,
        config.generator.noise_readout,
        noise_carrier=config.noise.carrier,
        noise_centred=config.noise.centred,
        train_encoder=config.generator.train_encoder,
    )
    surrogate = build_surrogate(config.surrogate.size, config.surrogate.image_size)
    if isinstance(surrogate.image_encoder, ImageEncoder):
        surrogate.image_encoder.checkpoint_blocks = config.surrogate.checkpoint_blocks
    if read_weights and config.generator.weights is not None:
        weights.load_sam(generator, config.generator.weights)
    if read_weights and config.surrogate.weights is not None:
        if config.surrogate.weights == IMAGENET:
            weights.load_efficientnet_lite0(surrogate.image_encoder.backbone)
        else:
            _log.info("%s", weights.load_surrogate(surrogate, config.surrogate.weights))
    return generator.to(device), surrogate.to(device)


def build_adam(parameters: Iterable[nn.Parameter], *, lr: float) -> torch.optim.Adam:
    """Adam as in the paper: betas (0.9, 0.999), eps 1e-8, no weight decay."""
    return torch.optim.Adam(list(parameters), lr=lr, betas=(0.9, 0.999), eps=1e-8)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use this learning rate from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
