"""UEraser-like augmentation: strong changes of brightness, contrast and colour against noise.

Reference: T. Qin, X. Gao, J. Zhao, K. Ye, C.-Z. Xu, "Learning the Unlearnable: Adversarial
Augmentations Suppress Unlearnable Example Attacks", 2023. Own code and own ranges: what
a picture goes through is a plasma brightness, a plasma contrast and a channel shuffle, each with
probability 1/2, then one of the colour operations of TrivialAugment (S. Mueller, F. Hutter, ICCV
2021). Its geometric operations are left out: the recipe flips, scales and crops already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.victims.data.share import WHOLE, Share

PROBABILITY = 0.5
ROUGHNESS = (0.3, 0.7)
INTENSITY = (0.25, 0.75)


def erase(images: Tensor, *, generator: torch.Generator, share: Share = WHOLE) -> Tensor:
    """Each picture of a batch through a random composition of its own.

    Args:
        images: (B, 3, H, W) float in [0, 1].
        generator: CPU random generator.
        share: what the pictures are of the whole batch; draws are made for all of it.

    Returns:
        (B, 3, H, W) float in [0, 1].
    """
    erased = []
    for image in images:
        for rank in range(share.ranks):
            if rank == share.rank:
                erased.append(_erase_one(image, generator))
            else:
                _pass_over(image.shape[-2:], generator)
    return torch.stack(erased)


def _pass_over(size: Sequence[int], rng: torch.Generator) -> None:
    """Draw what another process draws for one of its pictures of (H, W)."""
    draw = torch.rand(6, generator=rng).tolist()
    for _ in range((draw[0] < PROBABILITY) + (draw[3] < PROBABILITY)):
        for side in _cloud_sides(size[0], size[1]):
            torch.rand(side, side, generator=rng)
    if draw[5] < PROBABILITY:
        torch.randperm(3, generator=rng)
    torch.randint(len(_operations()), (), generator=rng)
    torch.rand((), generator=rng)
    torch.rand((), generator=rng)


def plasma(height: int, width: int, *, roughness: float, generator: torch.Generator) -> Tensor:
    """(H, W) cloud in [0, 1]: ever finer random grids, each `roughness` times the last."""
    total = torch.zeros(height, width)
    weight = 1.0
    for side in _cloud_sides(height, width):
        grid = torch.rand(1, 1, side, side, generator=generator)
        fine = F.interpolate(grid, (height, width), mode="bilinear", align_corners=True)
        total += weight * fine[0, 0]
        weight *= roughness
    low, high = total.min(), total.max()
    return (total - low) / (high - low).clamp(min=1e-6)


def _cloud_sides(height: int, width: int) -> list[int]:
    """Sides of the grids that a cloud of (height, width) is made of."""
    levels = max(2, math.ceil(math.log2(max(height, width))))
    return [2**level + 1 for level in range(1, levels + 1)]


def _erase_one(image: Tensor, rng: torch.Generator) -> Tensor:
    draw = torch.rand(6, generator=rng).tolist()
    height, width = image.shape[-2:]

    def cloud(share: float) -> Tensor:
        rough = ROUGHNESS[0] + share * (ROUGHNESS[1] - ROUGHNESS[0])
        return plasma(height, width, roughness=rough, generator=rng).to(image)

    if draw[0] < PROBABILITY:
        intensity = INTENSITY[0] + draw[1] * (INTENSITY[1] - INTENSITY[0])
        image = (image + intensity * (2 * cloud(draw[2]) - 1)).clamp(0, 1)
    if draw[3] < PROBABILITY:
        image = ((image - 0.5) * 4 * cloud(draw[4]) + 0.5).clamp(0, 1)
    if draw[5] < PROBABILITY:
        image = image[torch.randperm(3, generator=rng).to(image.device)]
    return _trivial_augment(image, rng)


def _trivial_augment(image: Tensor, rng: torch.Generator) -> Tensor:
    """One operation, drawn uniformly, at a strength drawn uniformly."""
    operations = _operations()
    operation = operations[int(torch.randint(len(operations), (), generator=rng))]
    strength = float(torch.rand((), generator=rng))
    sign = 1 if float(torch.rand((), generator=rng)) < 0.5 else -1
    return operation(image, 0.99 * sign * strength, strength).clamp(0, 1)


def _operations() -> list[Callable[[Tensor, float, float], Tensor]]:
    """Functions of picture, signed strength in (-1, 1), and strength in [0, 1)."""
    from torchvision.transforms.v2 import functional as tv

    def posterize(image: Tensor, signed: float, strength: float) -> Tensor:
        del signed
        levels = torch.round(255 * image).to(torch.uint8)
        return tv.posterize(levels, 8 - round(6 * strength)).to(image) / 255

    def equalize(image: Tensor, signed: float, strength: float) -> Tensor:
        del signed, strength
        levels = torch.round(255 * image).to(torch.uint8)
        return tv.equalize(levels).to(image) / 255

    return [
        lambda image, signed, strength: image,
        lambda image, signed, strength: tv.adjust_brightness(image, 1 + signed),
        lambda image, signed, strength: tv.adjust_saturation(image, 1 + signed),
        lambda image, signed, strength: tv.adjust_contrast(image, 1 + signed),
        lambda image, signed, strength: tv.adjust_sharpness(image, 1 + signed),
        lambda image, signed, strength: tv.solarize(image, 1 - strength),
        lambda image, signed, strength: tv.autocontrast(image),
        posterize,
        equalize,
    ]
