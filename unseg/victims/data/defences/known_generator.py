"""Defences of a trainer who has the public generator: `regenerate` and `same-generator`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unseg.utils.seed import derive_seed, torch_generator
from unseg.victims.data.defences.base import Defend, Known, PublishedPicture

CROP = 64
CROPS_A_PAIR = 8
NUM_PAIRS = 250
"""The first so many pairs; their crops take 115 MB."""
STEPS = 300
BATCH_SIZE = 8
LEARNING_RATE = 3e-3
NOISE_UNIT = 8 / 255
"""The remover's answer counts in this unit, the usual budget."""
_WAVES = (1, 2, 4, 8, 16, 32)
"""Cycles a side of the padded square that tell the remover where it is: noise may lie on a grid."""


def fit_remover(known: Known, _: float) -> Defend:
    """`regenerate`: a small U-Net learns from pairs what the public generator adds; subtracted.

    After LightShed (Foerster et al., USENIX Security 2025), which trains a remover on pairs of
    clean and protected pictures. It sees the picture, the trainer's mask and the place.

    Args:
        known: pairs of the trainer's own pictures; the seed draws crops, order and weights.
    """
    crops = _crops(known)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(known.seed, "remover") % 2**32)
        remover = Remover()
    _train(remover, crops, seed=known.seed)

    def defend(picture: PublishedPicture) -> Tensor:
        side = max(picture.image.shape[-2:])
        with torch.inference_mode():
            seen = _seen(picture.image, picture.inside, (0, 0, side))
            noise = remover(seen[None])[0] * NOISE_UNIT
        return (picture.image - noise).clamp(0, 1)

    return defend


def fit_same_generator(known: Known, _: float) -> Defend:
    """`same-generator`: what the public generator adds to the published picture, subtracted.

    Own. The upper bound of what a trainer can do with the generator: the picture is close to the
    clean one and the mask is the right one, so the noise is nearly the same once more.

    Args:
        known: gives the noise.
    """
    noise_again = known.noise_again
    assert noise_again is not None

    def defend(picture: PublishedPicture) -> Tensor:
        return (picture.image - noise_again(picture)).clamp(0, 1)

    return defend


class Remover(nn.Module):
    """A U-Net of two levels: what the trainer sees (B, C, H, W) -> noise (B, 3, H, W) in units.

    Args:
        width: channels at full size; twice as many at half of it.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.fine = _two(4 + 4 * len(_WAVES), width)
        self.coarse = _two(width, 2 * width)
        self.joined = _two(3 * width, width)
        self.head = nn.Conv2d(width, 3, 1)

    def forward(self, seen: Tensor) -> Tensor:
        """Any size; an odd side is padded."""
        height, width = seen.shape[-2:]
        seen = F.pad(seen, (0, width % 2, 0, height % 2), mode="replicate")
        fine = self.fine(seen)
        coarse = self.coarse(F.max_pool2d(fine, 2))
        raised = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.head(self.joined(torch.cat([fine, raised], 1)))[..., :height, :width]


def _two(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
        nn.GELU(),
    )


def _train(remover: Remover, crops: Sequence[_Crop], *, seed: int) -> None:
    """Least squares on crops; the remover learns in place."""
    optimizer = torch.optim.AdamW(remover.parameters(), LEARNING_RATE)
    rng = torch_generator(seed, "remover order")
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / STEPS)
        rows = torch.randint(len(crops), (BATCH_SIZE,), generator=rng).tolist()
        found = remover(torch.stack([crops[row].seen() for row in rows]))
        loss = F.mse_loss(found, torch.stack([crops[row].noise for row in rows]).float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


@dataclass(frozen=True)
class _Crop:
    """Part of a protected picture (3, h, w), its mask (1, h, w) and noise (3, h, w); its place."""

    image: Tensor
    inside: Tensor
    noise: Tensor
    place: tuple[int, int, int]

    def seen(self) -> Tensor:
        return _seen(self.image.float(), self.inside, self.place)


def _crops(known: Known) -> list[_Crop]:
    """Crops of the protected pictures, and the noise there."""
    assert known.pairs is not None
    found = []
    for clean, protected in islice(known.pairs, NUM_PAIRS):
        rng = torch_generator(known.seed, "remover crops", clean.key)
        layers = torch.cat([protected, clean.inside, (protected - clean.image) / NOISE_UNIT])
        height, width = layers.shape[-2:]
        # A smaller picture is repeated at its border.
        pad = (0, max(0, CROP - width), 0, max(0, CROP - height))
        layers = F.pad(layers[None], pad, mode="replicate")[0].half()
        for _ in range(CROPS_A_PAIR):
            y, x = (
                int(torch.randint(length - CROP + 1, (), generator=rng))
                for length in layers.shape[-2:]
            )
            part = layers[:, y : y + CROP, x : x + CROP].clone()
            place = (y, x, max(height, width))
            found.append(_Crop(part[:3], part[3:4], part[4:], place))
    return found


def _seen(image: Tensor, inside: Tensor, place: tuple[int, int, int]) -> Tensor:
    """Picture, mask and place of each pixel: (4 + 4 * waves, h, w) float.

    Args:
        image: (3, h, w) float in [0, 1].
        inside: (1, h, w).
        place: row and column of the first pixel, and the side of the padded square.
    """
    height, width = image.shape[-2:]
    layers = [image - 0.5, inside.float()]
    for start, length, shape in ((place[0], height, (-1, 1)), (place[1], width, (1, -1))):
        turn = 2 * math.pi * (start + torch.arange(length) + 0.5).view(shape) / place[2]
        for wave in _WAVES:
            layers += [f(wave * turn).expand(1, height, width) for f in (torch.sin, torch.cos)]
    return torch.cat(layers)
