"""How good a mask is, how far two pictures differ, and what a protection is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _check_masks(pred: Tensor, target: Tensor) -> None:
    if pred.shape != target.shape or pred.ndim != 4:
        raise ValueError(
            f"expected two masks of one shape (B, 1, H, W), found {tuple(pred.shape)} "
            f"and {tuple(target.shape)}"
        )
    if pred.dtype != torch.bool or target.dtype != torch.bool:
        raise ValueError(f"expected bool masks, found {pred.dtype} and {target.dtype}")


def iou(pred: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of each mask; 1 where both are empty.

    Args:
        pred: (B, 1, H, W) bool.
        target: (B, 1, H, W) bool.

    Returns:
        (B,) float32 in [0, 1].
    """
    _check_masks(pred, target)
    both = (pred & target).flatten(1).sum(1)
    either = (pred | target).flatten(1).sum(1)
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both).float())


def dice(pred: Tensor, target: Tensor) -> Tensor:
    """Dice coefficient of each mask, `2 |A and B| / (|A| + |B|)`; 1 where both are empty.

    Args:
        pred: (B, 1, H, W) bool.
        target: (B, 1, H, W) bool.

    Returns:
        (B,) float32 in [0, 1].
    """
    overlap = iou(pred, target)
    return 2 * overlap / (1 + overlap)


def boundary(mask: Tensor, *, dilation_ratio: float = 0.02) -> Tensor:
    """Inner border of each mask: the pixels that repeated 3x3 erosions remove.

    The number of erosions is `round(dilation_ratio * diagonal)`, at least one. What lies outside
    the image counts as background, so an object cut by the frame has a border there.

    Args:
        mask: (B, 1, H, W) bool.
        dilation_ratio: width of the border as a share of the image's diagonal.

    Returns:
        (B, 1, H, W) bool.
    """
    height, width = mask.shape[-2:]
    radius = max(1, round(dilation_ratio * math.hypot(height, width)))
    return mask & _near(_near(~mask, radius, dim=-1), radius, dim=-2)


def _near(background: Tensor, radius: int, *, dim: int) -> Tensor:
    """Pixels with background at most `radius` away along one axis, the outside included.

    One running sum serves any radius; `radius` 3x3 erosions cost more the wider the border.
    """
    size = background.shape[dim]
    shape = list(background.shape)
    shape[dim] = radius
    outside = torch.ones(shape, dtype=torch.bool, device=background.device)
    count = torch.cat([outside, background, outside], dim).cumsum(dim, dtype=torch.int32)
    shape[dim] = 1
    count = torch.cat([count.new_zeros(shape), count], dim)
    return (count.narrow(dim, 2 * radius + 1, size) - count.narrow(dim, 0, size)) > 0


def boundary_iou(pred: Tensor, target: Tensor, *, dilation_ratio: float = 0.02) -> Tensor:
    """IoU of the inner borders (Cheng et al., CVPR 2021); 1 where both are empty.

    Args:
        pred: (B, 1, H, W) bool.
        target: (B, 1, H, W) bool.
        dilation_ratio: width of the border as a share of the image's diagonal.

    Returns:
        (B,) float32 in [0, 1].
    """
    _check_masks(pred, target)
    return iou(
        boundary(pred, dilation_ratio=dilation_ratio),
        boundary(target, dilation_ratio=dilation_ratio),
    )


class ConfusionMatrix:
    """Pixel counts of (true class, predicted class) over a whole test set.

    Scores are taken from the summed counts: a mean of per-image scores is another quantity.

    Attributes:
        matrix: (C, C) int64, rows are true classes.
    """

    def __init__(self, num_classes: int, ignore_index: int | None = None) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Count the pixels of a batch.

        Args:
            pred: (...) integer classes in [0, C).
            target: (...) integer classes in [0, C), or `ignore_index`: those pixels do not count.

        Raises:
            ValueError: shapes differ, or a class lies outside [0, C).
        """
        if pred.shape != target.shape:
            raise ValueError(
                f"prediction is {tuple(pred.shape)} but target is {tuple(target.shape)}"
            )
        pred, target = pred.flatten().long(), target.flatten().long()
        if self.ignore_index is not None:
            keep = target != self.ignore_index
            pred, target = pred[keep], target[keep]
        for name, values in (("prediction", pred), ("target", target)):
            if len(values) and not (0 <= int(values.min()) <= int(values.max()) < self.num_classes):
                raise ValueError(
                    f"{name} has classes {int(values.min())}..{int(values.max())}, accepted are "
                    f"0..{self.num_classes - 1} and ignore_index={self.ignore_index}"
                )
        counts = torch.bincount(
            target * self.num_classes + pred, minlength=self.num_classes**2
        ).reshape(self.num_classes, self.num_classes)
        self.matrix += counts.cpu()

    def class_iou(self) -> Tensor:
        """(C,) float64 IoU of each class; NaN for classes neither present nor predicted."""
        hit = self.matrix.diag().double()
        union = self.matrix.sum(0) + self.matrix.sum(1) - self.matrix.diag()
        return torch.where(union > 0, hit / union, torch.nan)

    def mean_iou(self, classes: Sequence[int] | None = None) -> float:
        """Mean IoU over the classes that are present or predicted.

        Args:
            classes: the mean runs over these alone; all by default.
        """
        values = self.class_iou()
        if classes is not None:
            values = values[list(classes)]
        return float(values.nanmean())

    def foreground_iou(self) -> float:
        """IoU of class 1 over the whole set; 1 where it is neither present nor predicted."""
        value = float(self.class_iou()[1])
        return 1.0 if math.isnan(value) else value

    def foreground_dice(self) -> float:
        """Dice coefficient of class 1 over the whole set."""
        overlap = self.foreground_iou()
        return 2 * overlap / (1 + overlap)

    def accuracy(self) -> float:
        """Share of counted pixels with the right class."""
        return float(self.matrix.diag().sum() / self.matrix.sum().clamp(min=1))


def constant_prediction(class_pixels: Tensor, predicted: int) -> ConfusionMatrix:
    """Confusion matrix of the trivial predictor that calls every pixel `predicted`.

    Args:
        class_pixels: (C,) int64, pixels of each class in the test set, void left out.
        predicted: the class it always answers; background, or the most frequent one.
    """
    counts = ConfusionMatrix(len(class_pixels))
    counts.matrix[:, predicted] = class_pixels
    return counts


def protection(clean: float, protected: float, *, floor: float = 0.0) -> float:
    """What a protection took away: `(clean - protected) / (clean - floor)`, not clipped.

    Args:
        clean: score on clean test images after training on clean data.
        protected: the same after training on protected data.
        floor: score of the trivial predictor.

    Returns:
        1 where the victim learnt nothing, 0 where it learnt all; NaN where `clean` itself is not
        above the floor, since there was nothing to protect.
    """
    if clean <= floor:
        return math.nan
    return (clean - protected) / (clean - floor)


def marginal_value(mixed: float, clean_part: float) -> float:
    """What the protected part added to a mixture: score with it minus score without it."""
    return mixed - clean_part


def rms(image: Tensor, other: Tensor) -> Tensor:
    """Root mean square difference of each picture pair, in grey levels.

    Args:
        image: (B, ...) float in [0, 1].
        other: the same shape.

    Returns:
        (B,) in [0, 255].
    """
    return 255 * (image - other).flatten(1).square().mean(1).sqrt()


def linf(image: Tensor, other: Tensor) -> Tensor:
    """Largest difference of each picture pair, in grey levels: (B,) in [0, 255]."""
    return 255 * (image - other).flatten(1).abs().amax(1)


def psnr(image: Tensor, other: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture pair in dB, infinite where they are equal."""
    return 20 * torch.log10(255 / rms(image, other))
