"""EM: noise that a surrogate trained in alternation finds easiest, the optimised reference.

Reference: H. Huang, X. Ma, S. M. Erfani, J. Bailey, Y. Wang, "Unlearnable Examples: Making Personal
Data Unexploitable", ICLR 2021 (sample-wise noise). At small scale: all pictures are held in memory,
reduced, and the noise is learnt at that size; at a picture's own size it is enlarged bilinearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.models.unet import PlainUNet
from unseg.noise import noise_budget
from unseg.protect.methods.base import VOID, Canvas, MethodOptions, NoiseSource
from unseg.protect.methods.generated import UnSeg
from unseg.utils.seed import derive_seed, torch_generator

NOISE_STEP = 0.1
"""Of the bound: what one sign step moves the noise by."""
CHANNELS = (16, 32, 64)
_MEAN, _SCALE = 0.5, 4.0


@dataclass(frozen=True)
class Reduced:
    """One picture as the surrogate sees it, in a square padded at bottom and right.

    Attributes:
        key: the image's name.
        image: (3, S, S) float in [0, 1], black where padded.
        region: (1, S, S) float in [0, 1].
        classes: (S, S) int64, `VOID` where padded or without a class.
    """

    key: str
    image: Tensor
    region: Tensor
    classes: Tensor


class ErrorMinimising(UnSeg):
    """Noise that `learn_noise` has made for the image; UnSeg's budget and composition."""

    noise_from: NoiseSource = "none"
    needs_classes = True

    def __init__(self, options: MethodOptions) -> None:
        super().__init__(options)
        self.options = options
        self.noises: dict[str, Tensor] = {}

    def __call__(self, canvas: Canvas) -> Tensor:
        """`clip(image + budget * noise)`."""
        if canvas.key not in self.noises:
            raise ValueError("no noise was learnt for it; see run.restart")
        return self._compose(canvas, self.noises[canvas.key].to(canvas.image)[None])


def reduce_picture(
    key: str, image: Tensor, region: Tensor, classes: Tensor, *, side: int
) -> Reduced:
    """A picture (C, H, W) with its region and classes (H, W) in the surrogate's square."""
    height, width = image.shape[-2:]
    scale = side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    pad = (0, side - size[1], 0, side - size[0])
    small = F.interpolate(image[None].expand(1, 3, -1, -1), size, mode="bilinear", antialias=True)
    inside = F.interpolate(region[None, None].float(), size, mode="bilinear", antialias=True)
    labels = F.interpolate(classes[None, None].float(), size, mode="nearest-exact")
    return Reduced(
        key=key,
        image=F.pad(small[0], pad),
        region=F.pad(inside[0], pad),
        classes=F.pad(labels[0, 0], pad, value=VOID).long(),
    )


def learn_noise(
    pictures: Sequence[Reduced],
    *,
    options: MethodOptions,
    rounds: int,
    surrogate_steps: int,
    noise_steps: int,
    batch_size: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Noise of each picture by min-min: surrogate and noise both lower the surrogate's loss.

    Args:
        pictures: the whole set; the order is part of the result.
        options: give the budget and the seed.
        rounds: alternations.
        surrogate_steps: batches that the surrogate learns from in a round.
        noise_steps: sign-gradient steps on every picture's noise in a round.
        batch_size: pictures a step.
        device: of the arithmetic.

    Returns:
        By key: (3, S, S) float16 in [-1, 1].
    """
    if not pictures:
        return {}
    images = torch.stack([p.image for p in pictures]).to(device)
    region = torch.stack([p.region for p in pictures]).to(device)
    budget = noise_budget(region, epsilon=options.epsilon, epsilon_bg=options.epsilon_bg)
    classes = torch.stack([p.classes for p in pictures]).to(device)
    names = torch.unique(classes)
    names = names[names != VOID].contiguous()
    targets = torch.searchsorted(names, classes.clamp(min=names.min())).clamp(max=len(names) - 1)
    targets[classes == VOID] = VOID
    noise = torch.zeros_like(images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(options.seed, "em surrogate"))
        surrogate = PlainUNet(max(len(names), 2), CHANNELS).to(device)
    optimizer = torch.optim.Adam(surrogate.parameters(), lr=1e-3)
    rng = torch_generator(options.seed, "em batches")
    count = len(images)

    def loss(rows: Tensor, noise_of_rows: Tensor) -> Tensor:
        seen = (images[rows] + budget[rows] * noise_of_rows).clamp(0, 1)
        logits = surrogate(_SCALE * (seen - _MEAN))
        per_pixel = F.cross_entropy(logits, targets[rows], ignore_index=VOID, reduction="none")
        return per_pixel.sum() / (targets[rows] != VOID).sum().clamp(min=1)

    for _ in range(rounds):
        surrogate.train()
        for _ in range(surrogate_steps):
            rows = torch.randperm(count, generator=rng)[:batch_size].to(device)
            optimizer.zero_grad(set_to_none=True)
            loss(rows, noise[rows]).backward()
            optimizer.step()
        surrogate.eval()
        for start in range(0, count, batch_size):
            rows = torch.arange(start, min(start + batch_size, count), device=device)
            for _ in range(noise_steps):
                leaf = noise[rows].requires_grad_()
                (gradient,) = torch.autograd.grad(loss(rows, leaf), leaf)
                noise[rows] = (leaf.detach() - NOISE_STEP * gradient.sign()).clamp(-1, 1)
    halves = noise.half().cpu()
    return {picture.key: halves[i] for i, picture in enumerate(pictures)}
