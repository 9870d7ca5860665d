"""Masked-autoencoder pre-training of the surrogate's encoder, where no MAE weights are at hand.

The idea is He et al., CVPR 2022: hide most patches, let the encoder see the rest alone, and let a
small decoder paint what is hidden. Written afresh from the paper. While pre-training, attention is
global over the visible tokens and has no relative positions; the blocks' other weights bear Segment
Anything's names, so the encoder loads into the surrogate as MAE's own weights do.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn

from unseg.config.load import to_dict
from unseg.config.pretrain import NOT_METHOD, PretrainConfig
from unseg.data.jitter import to_tensor
from unseg.engine.checkpoint import CheckpointFolder, check_fields, load_checkpoint, restoring
from unseg.engine.metric_log import MetricLog
from unseg.engine.optim import set_rate
from unseg.engine.watch import FiniteWatch, stop_signals
from unseg.io.decode import FORMATS, read_rgb
from unseg.io.decode import image_size as image_size_of
from unseg.io.suffixes import PICTURE_SUFFIXES
from unseg.models.build import SIZES, build_surrogate
from unseg.models.encoder import ImageEncoder, ImageNetNormalise
from unseg.models.weights import save_mae
from unseg.utils import distributed
from unseg.utils.errors import UserError
from unseg.utils.logging import setup_logging
from unseg.utils.seed import derive_seed, numpy_generator, torch_generator

_log = logging.getLogger(__name__)
_KIND = "pretrain-mae"


class Autoencoder(nn.Module):
    """A surrogate's encoder on visible patches, and a decoder for the hidden ones.

    Args:
        encoder: its patch embedding, positions and blocks are trained; its neck and relative
            positions take no part.
        decoder_dim: width of the decoder's tokens.
        decoder_depth: number of decoder blocks.
        num_heads: attention heads of a decoder block.
    """

    def __init__(
        self, encoder: ImageEncoder, *, decoder_dim: int, decoder_depth: int, num_heads: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.normalise = ImageNetNormalise()
        self.patch = int(encoder.patch_embed.proj.kernel_size[0])
        positions = encoder.pos_embed
        assert positions is not None
        self.grid, dim = positions.shape[1], positions.shape[-1]
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.reduce = nn.Linear(dim, decoder_dim)
        self.hidden_token = nn.Parameter(torch.zeros(decoder_dim))
        self.decoder_positions = nn.Parameter(torch.zeros(self.grid**2, decoder_dim))
        self.decoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                decoder_dim,
                num_heads,
                dim_feedforward=4 * decoder_dim,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            ),
            decoder_depth,
            norm=nn.LayerNorm(decoder_dim),
            enable_nested_tensor=False,
        )
        self.paint = nn.Linear(decoder_dim, 3 * self.patch**2)
        for parameter in (self.hidden_token, self.decoder_positions):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, image: Tensor, order: Tensor, num_visible: int) -> Tensor:
        """Mean squared error of the hidden patches, each normalised by its own mean and deviation.

        Args:
            image: (B, 3, s, s) in [0, 1].
            order: (B, N) a permutation of the patches of each image; the first are visible.
            num_visible: how many.

        Returns:
            (B,).
        """
        pixels = self.normalise(image)
        visible = order[:, :num_visible]
        encoded = self.encode(pixels, visible)
        tokens = self.hidden_token.expand(*order.shape, -1)
        index = visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        tokens = tokens.scatter(1, index, self.reduce(self.norm(encoded)).to(tokens.dtype))
        painted = self.paint(self.decoder(tokens + self.decoder_positions))
        error = (painted.float() - self.targets(pixels)).square().mean(dim=-1)
        return error.gather(1, order[:, num_visible:]).mean(dim=1)

    def encode(self, pixels: Tensor, visible: Tensor) -> Tensor:
        """(B, V, C) tokens of the visible patches after the last block."""
        embedded = self.encoder.patch_embed(pixels) + self.encoder.pos_embed
        tokens = embedded.flatten(1, 2)
        tokens = tokens.gather(1, visible.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
        for block in self.encoder.blocks:
            tokens = tokens + _global_attention(block.attn, block.norm1(tokens))
            tokens = tokens + block.mlp(block.norm2(tokens))
        return tokens

    def targets(self, pixels: Tensor) -> Tensor:
        """(B, N, 3 p p): each patch's pixels, without their mean, at unit deviation."""
        patches = F.unfold(pixels, self.patch, stride=self.patch).transpose(1, 2)
        mean = patches.mean(dim=-1, keepdim=True)
        variance = patches.var(dim=-1, keepdim=True)
        return (patches - mean) / torch.sqrt(variance + 1e-6)

    def trained_state(self) -> dict[str, Tensor]:
        """The encoder's tensors that pre-training changed, by Segment Anything's names."""
        return {
            name: value
            for name, value in self.encoder.state_dict().items()
            if not name.startswith("neck.") and ".rel_pos_" not in name
        }


def _global_attention(layer: Attention, tokens: Tensor) -> Tensor:
    """Self-attention over (B, V, C) with the weights of a Segment Anything attention layer."""
    batch, count, dim = tokens.shape
    qkv = layer.qkv(tokens).view(batch, count, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
    return layer.proj(mixed.transpose(1, 2).reshape(batch, count, dim))


class ImageFolder:
    """Every picture below a folder, cropped at random (scale 0.2 to 1, as in the paper).

    Args:
        root: searched recursively.
        image_size: side of the crops after resizing.
        seed: of the run.
    """

    def __init__(self, root: str | Path, *, image_size: int, seed: int) -> None:
        self.image_size, self.seed = image_size, seed
        folder = Path(root)
        if not folder.is_dir():
            raise UserError(f"root={root}: no such folder; give one with images")
        self.paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
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
