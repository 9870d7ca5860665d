"""Each metric against an independent slow implementation."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from unseg.metrics import (
    ConfusionMatrix,
    boundary_iou,
    constant_prediction,
    dice,
    iou,
    linf,
    marginal_value,
    protection,
    psnr,
    rms,
)


def blobs(seed: int, count: int = 3, height: int = 37, width: int = 53) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, height, width), np.uint8)
    for mask in masks:
        for _ in range(3):
            centre = (int(rng.integers(width)), int(rng.integers(height)))
            cv2.circle(mask, centre, int(rng.integers(2, 12)), 1, -1)
    return torch.from_numpy(masks).bool()[:, None]


def slow_border(mask: np.ndarray, ratio: float) -> np.ndarray:
    """3x3 erosions one after the other on a frame of background."""
    times = max(1, round(ratio * math.hypot(*mask.shape)))
    padded = np.pad(mask, 1)
    for _ in range(times):
        eroded = np.zeros_like(padded)
        for y in range(1, padded.shape[0] - 1):
            for x in range(1, padded.shape[1] - 1):
                eroded[y, x] = padded[y - 1 : y + 2, x - 1 : x + 2].all()
        padded = eroded
    return mask & ~padded[1:-1, 1:-1]


def slow_iou(a: np.ndarray, b: np.ndarray) -> float:
    pairs = list(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    either = sum(x or y for x, y in pairs)
    return sum(x and y for x, y in pairs) / either if either else 1.0


def test_iou_and_dice_equal_counting_pixels() -> None:
    pred, target = blobs(0), blobs(1)
    for i in range(len(pred)):
        a, b = pred[i, 0].numpy(), target[i, 0].numpy()
        assert iou(pred, target)[i] == pytest.approx(slow_iou(a, b))
        expected = 2 * (a & b).sum() / (a.sum() + b.sum())
        assert dice(pred, target)[i] == pytest.approx(expected)


@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.07])
def test_boundary_iou_equals_repeated_erosions(ratio: float) -> None:
    pred, target = blobs(2), blobs(3)
    found = boundary_iou(pred, target, dilation_ratio=ratio)
    for i in range(len(pred)):
        a, b = (slow_border(m[i, 0].numpy(), ratio) for m in (pred, target))
        assert found[i] == pytest.approx(slow_iou(a, b))


def test_two_empty_masks_agree_and_an_empty_one_misses_everything() -> None:
    empty = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    full = ~empty
    assert iou(empty, empty) == dice(empty, empty) == boundary_iou(empty, empty) == 1
    assert iou(empty, full) == dice(full, empty) == boundary_iou(empty, full) == 0


def test_masks_of_another_shape_or_type_are_refused() -> None:
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    with pytest.raises(ValueError, match="one shape"):
        iou(mask, mask[..., :4])
    with pytest.raises(ValueError, match="bool"):
        iou(mask.float(), mask)


def test_mean_iou_equals_class_by_class_counting_without_void() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 4, (5, 20, 20))
    pred = np.where(rng.random(target.shape) < 0.6, target, rng.integers(0, 4, target.shape))
    target[rng.random(target.shape) < 0.1] = 255
    counts = ConfusionMatrix(5, ignore_index=255)
    for p, t in zip(pred, target, strict=True):
        counts.update(torch.from_numpy(p), torch.from_numpy(t))
    valid = target != 255
    expected = [
        ((pred == c) & (target == c) & valid).sum() / (((pred == c) | (target == c)) & valid).sum()
        for c in range(4)
    ]
    assert counts.class_iou()[:4].tolist() == pytest.approx(expected)
    assert math.isnan(counts.class_iou()[4])  # neither there nor predicted: not in the mean
    assert counts.mean_iou() == pytest.approx(np.mean(expected))
    assert counts.mean_iou([1, 3]) == pytest.approx((expected[1] + expected[3]) / 2)
    assert counts.accuracy() == pytest.approx((pred == target)[valid].mean())


def test_a_set_score_is_not_the_mean_of_picture_scores() -> None:
    counts = ConfusionMatrix(2)
    target = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    pred = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])
    for p, t in zip(pred, target, strict=True):
        counts.update(p, t)
    assert counts.foreground_iou() == pytest.approx(4 / 5)
    assert counts.foreground_dice() == pytest.approx(8 / 9)


def test_classes_out_of_range_are_refused() -> None:
    counts = ConfusionMatrix(2, ignore_index=255)
    with pytest.raises(ValueError, match="0..1"):
        counts.update(torch.tensor([0]), torch.tensor([2]))


def test_the_constant_prediction_scores_what_running_it_would() -> None:
    target = torch.tensor([0, 0, 0, 1, 2, 2])
    ran = ConfusionMatrix(3)
    ran.update(torch.zeros_like(target), target)
    found = constant_prediction(torch.bincount(target), 0)
    assert torch.equal(found.matrix, ran.matrix)
    assert found.mean_iou() == pytest.approx(0.5 / 3)


def test_protection_runs_from_nothing_lost_to_all_lost() -> None:
    assert protection(0.7, 0.7, floor=0.1) == 0
    assert protection(0.7, 0.1, floor=0.1) == pytest.approx(1)
    assert protection(0.5, 0.6) == pytest.approx(-0.2)
    assert math.isnan(protection(0.1, 0.0, floor=0.1))
    assert marginal_value(0.6, 0.7) == pytest.approx(-0.1)


def test_picture_distances_equal_numpy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 256, (2, 3, 3, 9, 7))
    x, y = (torch.from_numpy(v).float() / 255 for v in (a, b))
    for i in range(3):
        mse = ((a[i] - b[i]) ** 2).mean()
        assert rms(x, y)[i] == pytest.approx(math.sqrt(mse), rel=1e-5)
        assert linf(x, y)[i] == pytest.approx(np.abs(a[i] - b[i]).max(), rel=1e-5)
        assert psnr(x, y)[i] == pytest.approx(10 * math.log10(255**2 / mse), rel=1e-5)
    assert torch.isinf(psnr(x, x)).all()
