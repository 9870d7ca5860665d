"""Augmentation of a batch: each picture flipped, scaled and cropped on its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.victims.data.segments import Target
from unseg.victims.data.tensor_set import IGNORED_LABEL, TensorSet


def augment(
    data: TensorSet,
    rows: Tensor,
    *,
    crop: int,
    scale: tuple[float, float],
    flip: float,
    brightness: float = 0.0,
    contrast: float = 0.0,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[Tensor, Tensor | list[Target]]:
    """Some pictures of a set, augmented, with what is to be learnt from them.

    The scaled picture is cropped at a uniform place; where it is smaller than the crop, it lies at
    a uniform place inside it, on black, void around it.

    Args:
        data: the set.
        rows: (B,) int64.
        crop: side of the result.
        scale: range of the factor on the picture's size.
        flip: probability of a horizontal flip.
        brightness: largest shift of all values of a picture.
        contrast: largest change of the contrast about the picture's mean, as a share.
        generator: CPU random generator.
        device: of the result.

    Returns:
        (B, 3, crop, crop) float32 in [0, 1], and (B, crop, crop) int64 classes, or a target a
        picture where the set has segments.
    """
    images = data.images[rows.to(data.images.device)].to(device)
    grid = _crop_grid(
        len(images), images.shape[-1], crop=crop, scale=scale, flip=flip,
        generator=generator, device=device,
    )  # fmt: skip
    pictures = F.grid_sample(images.float() / 255, grid, mode="bilinear", align_corners=False)
    if brightness or contrast:
        pictures = _relit(pictures, brightness, contrast, generator)
    if data.segments is None:
        labels = data.labels[rows.to(data.labels.device)].to(device)
        return pictures, _sample_labels(labels, grid)
    targets = []
    for row, place in zip(rows.tolist(), grid, strict=True):
        segments = data.segments[row]
        kept = ~segments.is_crowd
        masks = torch.from_numpy(segments.masks()[kept]).to(device)
        moved = F.grid_sample(
            masks[None].float(), place[None], mode="nearest", align_corners=False
        )[0]
        categories = torch.from_numpy(segments.categories[kept]).to(device)
        targets.append(Target.of(moved > 0.5, categories))
    return pictures, targets


def _crop_grid(
    batch: int,
    side: int,
    *,
    crop: int,
    scale: tuple[float, float],
    flip: float,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Where each pixel of an augmented batch is read: (B, crop, crop, 2), see `augment`."""
    draw = torch.rand(batch, 4, generator=generator).to(device)
    factor = scale[0] * (scale[1] / scale[0]) ** draw[:, 0]
    window = crop / (factor * side)  # share of the picture's side that the crop sees
    slack = 1 - window
    theta = torch.zeros(batch, 2, 3, device=device)
    theta[:, 0, 0] = torch.where(draw[:, 1] < flip, -window, window)
    theta[:, 1, 1] = window
    theta[:, 0, 2] = slack * (2 * draw[:, 2] - 1)
    theta[:, 1, 2] = slack * (2 * draw[:, 3] - 1)
    return F.affine_grid(theta, [batch, 3, crop, crop], align_corners=False)


def _relit(
    pictures: Tensor, brightness: float, contrast: float, generator: torch.Generator
) -> Tensor:
    """Pictures (B, 3, H, W) with another brightness and contrast each, clipped to [0, 1]."""
    draw = 2 * torch.rand(2, len(pictures), 1, 1, 1, generator=generator).to(pictures) - 1
    means = pictures.mean((1, 2, 3), keepdim=True)
    changed = means + (1 + contrast * draw[0]) * (pictures - means) + brightness * draw[1]
    return changed.clamp(0, 1)


def _sample_labels(labels: Tensor, grid: Tensor) -> Tensor:
    """Label maps (B, S, S) uint8 read at a grid, void outside: int64."""
    # Outside reads as zero: labels are shifted so that zero means void.
    shifted = labels[:, None].float()
    shifted = torch.where(shifted == IGNORED_LABEL, 0.0, shifted + 1)
    classes = F.grid_sample(shifted, grid, mode="nearest", align_corners=False)[:, 0].round().long()
    return torch.where(classes == 0, IGNORED_LABEL, classes - 1)
