"""Masked-autoencoder pre-training of the surrogate's encoder, where no MAE weights are at hand."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.config.load import to_dict
from unseg.config.pretrain import NOT_METHOD, PretrainConfig
from unseg.data.annotations.tree import scan_images
from unseg.data.jitter import to_tensor
from unseg.engine.checkpoint import CheckpointFolder, check_fields, load_checkpoint, restoring
from unseg.engine.metric_log import MetricLog
from unseg.engine.players import set_rate
from unseg.engine.watch import FiniteWatch
from unseg.io.decode import image_size as image_size_of
from unseg.io.decode import read_rgb
from unseg.io.kinds import FORMATS
from unseg.models.autoencoder import Autoencoder
from unseg.models.build import SIZES, build_surrogate
from unseg.models.encoder import ImageEncoder
from unseg.models.weights import save_mae
from unseg.utils import distributed
from unseg.utils.errors import UserError
from unseg.utils.logging import setup_logging
from unseg.utils.seed import derive_seed, numpy_generator, torch_generator
from unseg.utils.signals import stop_signals

_log = logging.getLogger(__name__)
_KIND = "pretrain-mae"


class ImageFolder:
    """Every picture below a folder, cropped at random (scale 0.2 to 1, as in the paper).

    Args:
        root: searched recursively, through links too.
        image_size: side of the crops after resizing.
        seed: of the run.
    """

    def __init__(self, root: str | Path, *, image_size: int, seed: int) -> None:
        self.image_size, self.seed = image_size, seed
        folder = Path(root)
        if not folder.is_dir():
            raise UserError(f"root={root}: no such folder; give one with images")
        self.paths = sorted(folder / name for name in scan_images(folder))
        if not self.paths:
            raise UserError(f"root={root}: holds no images ({', '.join(FORMATS)})")
        faults = []
        for path in self.paths:
            try:
                image_size_of(path)
            except UserError as error:
                faults.append(str(error))
        if faults:
            raise UserError("\n".join(faults[:50]))

    def __len__(self) -> int:
        return len(self.paths)

    def crop(self, index: int, epoch: int) -> Tensor:
        """(3, s, s) float in [0, 1]: a random crop, mirrored half of the time."""
        rng = numpy_generator(self.seed, epoch, index, "mae crop")
        pixels = read_rgb(self.paths[index])
        height, width = pixels.shape[:2]
        side = max(1, round(min(height, width) * math.sqrt(rng.uniform(0.2, 1.0))))
        top, left = (int(rng.integers(0, n - side + 1)) for n in (height, width))
        cut = pixels[top : top + side, left : left + side]
        if rng.random() < 0.5:
            cut = cut[:, ::-1]
        size = (self.image_size, self.image_size)
        image = to_tensor(cut.copy())
        # Antialiased: there is no mask to keep in step with, and crops shrink a lot.
        image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        return image[0]


def pretrain(config: PretrainConfig) -> bool:
    """Pre-train an encoder and write `encoder.pth` into the run directory.

    A run that was stopped goes on from its last checkpoint, to the same weights.

    Returns:
        Whether it came to its end; a signal ends it early, with a checkpoint and the encoder of
        that moment.

    Raises:
        UserError: no images, or the run directory holds a run of another configuration.
    """
    run_dir = Path(config.output_dir) / config.name
    setup_logging(run_dir / "train.log", distributed.rank())
    device = distributed.pick_device(config.device)
    model = _build_autoencoder(config).to(device)
    folder = ImageFolder(config.root, image_size=config.image_size, seed=config.seed)
    parameters = [p for n, p in model.named_parameters() if _is_used(n)]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay
    )
    checkpoints = CheckpointFolder(run_dir / "checkpoints", keep_last=1)
    if distributed.is_main():
        checkpoints.remove_unfinished()
    first = _resume(checkpoints, config, model, optimizer)
    watch = FiniteWatch()
    is_complete = True
    with (
        MetricLog(run_dir, resume_step=first, enabled=distributed.is_main()) as metrics,
        stop_signals() as asked,
    ):
        for step, (epoch, indices) in enumerate(_batches(config, len(folder)), 1):
            if step <= first:
                continue
            set_rate(optimizer, config.lr * _warm_cosine(step, config.steps))
            loss = _step(model, folder, indices, epoch, config, device)
            watch.check(loss, f"pre-training, epoch {epoch}, step {step}")
            distributed.all_reduce_gradients(parameters)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step % config.log_every == 0 or step == config.steps:
                value = float(distributed.all_reduce_sum(loss))
                metrics.scalars(step, {"pretrain/loss": value})
                _log.info("epoch %d step %d/%d loss %.4f", epoch, step, config.steps, value)
            is_stopped = asked.is_set() and distributed.world_size() == 1
            if is_stopped or step % config.checkpoint_every == 0 or step == config.steps:
                watch.flush()
                if distributed.is_main():
                    _save(checkpoints, config, model, optimizer, step)
            if is_stopped:
                is_complete = step == config.steps
                break
    if distributed.is_main():
        path = run_dir / "encoder.pth"
        save_mae(model.trained_state(), path)
        _log.info("encoder: %s (surrogate.weights=%s uses it)", path, path)
    return is_complete


def _build_autoencoder(config: PretrainConfig) -> Autoencoder:
    torch.manual_seed(derive_seed(config.seed, "weights"))
    encoder = build_surrogate(config.size, config.image_size).image_encoder
    assert isinstance(encoder, ImageEncoder)
    return Autoencoder(
        encoder,
        decoder_dim=config.decoder_dim,
        decoder_depth=config.decoder_depth,
        num_heads=SIZES[config.size].decoder_heads,
    )


def _save(
    checkpoints: CheckpointFolder,
    config: PretrainConfig,
    model: Autoencoder,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    content = {
        "kind": _KIND,
        "config": to_dict(config),
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    checkpoints.save(content, step=step)


def _resume(
    checkpoints: CheckpointFolder,
    config: PretrainConfig,
    model: Autoencoder,
    optimizer: torch.optim.Optimizer,
) -> int:
    """Steps done before, with the state after them; 0 where there is no checkpoint."""
    path = checkpoints.latest()
    if path is None:
        return 0
    content = load_checkpoint(path)
    if content.get("kind") != _KIND:
        raise UserError(f"{path}: is no checkpoint of a pre-training; set another name")
    check_fields(content, {"config": dict, "step": int, "model": dict, "optimizer": dict}, path)
    stored, wanted = content["config"], to_dict(config)
    for key in sorted(wanted.keys() - set(NOT_METHOD)):
        if stored.get(key) != wanted[key]:
            raise UserError(
                f"{key}={wanted[key]}: {path} was made with {stored.get(key)}; "
                "set another name, or the old value to go on"
            )
    with restoring(path):
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
    _log.info("going on after step %d of %s", content["step"], path)
    return int(content["step"])


def _step(
    model: Autoencoder,
    folder: ImageFolder,
    indices: list[int],
    epoch: int,
    config: PretrainConfig,
    device: torch.device,
) -> Tensor:
    """Gradients of this rank's share of a batch; returns its part of the mean loss."""
    share = indices[distributed.rank() :: distributed.world_size()]
    if not share:
        return torch.zeros((), device=device)
    image = torch.stack([folder.crop(i, epoch) for i in share]).to(device)
    count = model.grid**2
    order = torch.stack(
        [
            torch.randperm(count, generator=torch_generator(config.seed, epoch, i, "mae mask"))
            for i in share
        ]
    ).to(device)
    visible = max(1, round(count * (1 - config.mask_ratio)))
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        errors = model(image, order, visible)
    loss = errors.sum() / len(indices)
    loss.backward()
    return loss.detach()


def _batches(config: PretrainConfig, num_images: int) -> Iterator[tuple[int, list[int]]]:
    """(epoch, indices) of each global batch, until all steps are done."""
    epoch, step = 0, 0
    while True:
        order = numpy_generator(config.seed, epoch, "mae order").permutation(num_images).tolist()
        for first in range(0, num_images, config.batch_size):
            if step == config.steps:
                return
            step += 1
            yield epoch, order[first : first + config.batch_size]
        epoch += 1


def _warm_cosine(step: int, steps: int) -> float:
    """Multiplier of the rate: linear over the first 5 %, then half a cosine to zero."""
    warm = max(1, steps // 20)
    if step < warm:
        return step / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _is_used(name: str) -> bool:
    return not name.startswith("encoder.neck.") and ".rel_pos_" not in name
