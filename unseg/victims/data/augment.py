"""Augmentation of a batch: each picture flipped, scaled and cropped on its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.victims.data.segments import Target
from unseg.victims.data.share import WHOLE, Share
from unseg.victims.data.tensor_set import IGNORED_LABEL, TensorSet


def augment(
    data: TensorSet,
    *,
    crop: int,
    scale: tuple[float, float],
    flip: float,
    brightness: float = 0.0,
    contrast: float = 0.0,
    generator: torch.Generator,
    device: torch.device,
    share: Share = WHOLE,
) -> tuple[Tensor, Tensor | list[Target]]:
    """A batch, augmented, with what is to be learnt from it.

    The scaled picture is cropped at a uniform place; where it is smaller than the crop, it lies at
    a uniform place inside it, on black, void around it.

    Args:
        data: the batch, or this process's share of it.
        crop: side of the result.
        scale: range of the factor on the picture's size.
        flip: probability of a horizontal flip.
        brightness: largest shift of all values of a picture.
        contrast: largest change of the contrast about the picture's mean, as a share.
        generator: CPU random generator.
        device: of the result.
        share: what `data` is of the whole batch; draws are made for all of it.

    Returns:
        (B, 3, crop, crop) float32 in [0, 1], and (B, crop, crop) int64 classes, or a target a
        picture where the set has segments.
    """
    images = _moved(data.images, device)
    draw = torch.rand(share.ranks * len(data), 4, generator=generator)
    grid = crop_grid(share.of(draw).to(device), images.shape[-1], crop=crop, scale=scale, flip=flip)
    pictures = F.grid_sample(images.float() / 255, grid, mode="bilinear", align_corners=False)
    if brightness or contrast:
        draw = torch.rand(2, share.ranks * len(data), 1, 1, 1, generator=generator)
        draw = share.of(draw.transpose(0, 1)).transpose(0, 1)
        pictures = relit(pictures, brightness, contrast, draw.to(pictures))
    if data.segments is None:
        return pictures, sample_labels(_moved(data.labels, device), grid)
    targets = []
    for segments, place in zip(data.segments, grid, strict=True):
        kept = ~segments.is_crowd
        masks = torch.from_numpy(segments.masks()[kept]).to(device)
        moved = F.grid_sample(
            masks[None].float(), place[None], mode="nearest", align_corners=False
        )[0]
        categories = torch.from_numpy(segments.categories[kept]).to(device)
        targets.append(Target.of(moved > 0.5, categories))
    return pictures, targets


def _moved(pictures: Tensor, device: torch.device) -> Tensor:
    """Pictures on the device, which does not wait for them."""
    if device.type == "cuda":
        pictures = pictures.pin_memory()
    return pictures.to(device, non_blocking=True)


def crop_grid(
    draw: Tensor, side: int, *, crop: int, scale: tuple[float, float], flip: float
) -> Tensor:
    """Where each pixel of an augmented batch is read: (B, crop, crop, 2), see `augment`.

    Args:
        draw: (B, 4) uniform in [0, 1): size, flip and place of each picture's window.
        side: of the pictures.
        crop: side of the result.
        scale: range of the factor on the picture's size.
        flip: probability of a horizontal flip.
    """
    batch = len(draw)
    factor = scale[0] * (scale[1] / scale[0]) ** draw[:, 0]
    window = crop / (factor * side)  # share of the picture's side that the crop sees
    slack = 1 - window
    theta = torch.zeros(batch, 2, 3, device=draw.device)
    theta[:, 0, 0] = torch.where(draw[:, 1] < flip, -window, window)
    theta[:, 1, 1] = window
    theta[:, 0, 2] = slack * (2 * draw[:, 2] - 1)
    theta[:, 1, 2] = slack * (2 * draw[:, 3] - 1)
    return F.affine_grid(theta, [batch, 3, crop, crop], align_corners=False)


def relit(pictures: Tensor, brightness: float, contrast: float, draw: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) with another brightness and contrast each, clipped to [0, 1].

    Args:
        pictures: in [0, 1].
        brightness: largest shift.
        contrast: largest change, as a share.
        draw: (2, B, 1, 1, 1) uniform in [0, 1), for contrast and brightness.
    """
    draw = 2 * draw - 1
    means = pictures.mean((1, 2, 3), keepdim=True)
    changed = means + (1 + contrast * draw[0]) * (pictures - means) + brightness * draw[1]
    return changed.clamp(0, 1)


def sample_labels(labels: Tensor, grid: Tensor) -> Tensor:
    """Label maps (B, S, S) uint8 read at a grid, void outside: int64."""
    # Outside reads as zero: labels are shifted so that zero means void.
    shifted = labels[:, None].float()
    shifted = torch.where(shifted == IGNORED_LABEL, 0.0, shifted + 1)
    classes = F.grid_sample(shifted, grid, mode="nearest", align_corners=False)[:, 0].round().long()
    return torch.where(classes == 0, IGNORED_LABEL, classes - 1)
