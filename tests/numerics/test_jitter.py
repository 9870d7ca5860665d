"""Resizes and crops against the slow way: resize the whole image, then crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unseg.data.jitter import Crop, LargeScaleJitter, cut_window, pad_to, render, to_tensor
from unseg.data.prompts import OBJECT_ABOVE, bilinear, nearest, pad_to_square, rounded


def slow_crop(pixels: np.ndarray, crop: Crop) -> torch.Tensor:
    """Flip and resize the whole float32 image, cut the crop, pad it."""
    image = torch.from_numpy(pixels.copy()).float() / 255
    image = image.permute(2, 0, 1)[None] if image.ndim == 3 else image[None, None]
    if crop.flip:
        image = image.flip(3)
    image = F.interpolate(image, crop.scaled, mode="bilinear", align_corners=False)[0]
    (y, x), side = crop.offset, crop.image_size
    image = image[:, y : y + side, x : x + side]
    return F.pad(image, (0, side - image.shape[2], 0, side - image.shape[1]))


def fast_crop(pixels: np.ndarray, crop: Crop) -> torch.Tensor:
    return pad_to(render(cut_window(pixels, crop)), crop.image_size)


def assert_equal_crops(pixels: np.ndarray, crop: Crop) -> None:
    fast, slow = fast_crop(pixels, crop), slow_crop(pixels, crop)
    assert fast.shape == slow.shape == (fast.shape[0], crop.image_size, crop.image_size)
    difference = (fast - slow).abs()
    # Two units in the last place of 1.0: the kernels differ in where they fuse multiply and add.
    assert difference.max() <= 2.4e-7, (
        f"{crop}: max {difference.max():.2e}, mean {difference.mean():.2e}"
    )


def test_a_crop_equals_resizing_the_whole_image_and_cropping(rng: np.random.Generator) -> None:
    jitter = LargeScaleJitter(96)
    for _ in range(100):
        height, width = rng.integers(1, 240, 2)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        assert_equal_crops(pixels, jitter.draw((int(height), int(width)), rng))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("source", "scaled", "offset"),
    [
        ((7, 5), (200, 143), (72, 15)),
        ((1, 1), (128, 128), (0, 0)),
        ((300, 400), (96, 128), (0, 0)),
        ((900, 1200), (10, 13), (0, 0)),
        ((64, 64), (256, 256), (128, 128)),
        ((500, 333), (1, 1), (0, 0)),
    ],
)
def test_a_crop_is_right_at_extreme_sizes(
    source: tuple[int, int],
    scaled: tuple[int, int],
    offset: tuple[int, int],
    *,
    flip: bool,
    rng: np.random.Generator,
) -> None:
    pixels = rng.integers(0, 256, source, dtype=np.uint8)
    assert_equal_crops(pixels, Crop(flip, source, scaled, offset, 128))


def test_a_crop_at_the_size_of_the_paper_is_right_to_the_last_bits(
    rng: np.random.Generator,
) -> None:
    pixels = rng.integers(0, 256, (333, 777, 3), dtype=np.uint8)
    assert_equal_crops(pixels, Crop(True, (333, 777), (873, 2037), (0, 1013), 1024))


def test_a_window_holds_no_more_than_twice_the_rows_and_columns_of_its_crop(
    rng: np.random.Generator,
) -> None:
    pixels = rng.integers(0, 256, (900, 1300, 3), dtype=np.uint8)
    window = cut_window(pixels, Crop(False, (900, 1300), (50, 72), (0, 0), 128))
    assert window.pixels.shape[1] <= 2 * 72
    assert window.pixels.shape[2] <= 2 * 50
    assert window.pixels.dtype == torch.uint8


def test_a_crop_for_another_size_is_refused() -> None:
    crop = Crop(False, (10, 12), (20, 24), (0, 0), 16)
    with pytest.raises(ValueError, match=r"drawn for \(10, 12\)"):
        cut_window(np.zeros((12, 10), np.uint8), crop)


def test_jitter_keeps_the_ratio_and_reaches_every_offset() -> None:
    rng = np.random.default_rng(1)
    crops = [LargeScaleJitter(64).draw((300, 200), rng) for _ in range(4000)]
    longest = np.array([max(crop.scaled) for crop in crops])
    assert longest.min() >= round(64 * 0.1)
    assert longest.max() <= 128
    # Uniform scale: half of the draws lie below the middle of (0.1, 2.0).
    assert abs((longest < 64 * 1.05).mean() - 0.5) < 0.04
    assert all(abs(crop.scaled[1] - crop.scaled[0] * 2 / 3) <= 0.5 + 1e-9 for crop in crops)
    assert abs(np.mean([crop.flip for crop in crops]) - 0.5) < 0.04
    share = [crop.offset[0] / (crop.scaled[0] - 64) for crop in crops if crop.scaled[0] > 74]
    assert min(share) == 0
    assert max(share) == 1
    assert abs(np.mean(share) - 0.5) < 0.03


def test_crop_offsets_are_uniform_integers() -> None:
    rng = np.random.default_rng(2)
    jitter = LargeScaleJitter(8, scale=(1.5, 1.5))
    offsets = [jitter.draw((10, 10), rng).offset for _ in range(5000)]
    counts = np.bincount([y * 5 + x for y, x in offsets], minlength=25)
    assert len(counts) == 25
    assert counts.min() > 140
    assert counts.max() < 260


def test_nearest_takes_the_floor() -> None:
    ramp = torch.arange(5.0).view(1, 1, 1, 5)
    assert nearest(ramp, (1, 3)).flatten().tolist() == [0, 1, 3]


def test_a_fourfold_reduction_rounds_exact_halves_to_zero() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :2] = 1  # Columns 1 and 2 are what a fourfold bilinear reduction averages.
    reduced = bilinear(mask, 2)
    assert reduced[0, 0, 0, 0] == 0.5
    assert rounded(reduced).sum() == 0


def test_padding_adds_zeros_at_bottom_and_right() -> None:
    padded = pad_to_square(torch.ones(1, 1, 2, 3))
    assert padded.shape[-2:] == (3, 3)
    assert padded[0, 0].tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]


def test_the_surrogates_half_size_copy_is_the_average_of_two_by_two() -> None:
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(bilinear(x, 32), F.avg_pool2d(x, 2))


def test_squashing_is_interpolate_without_antialias() -> None:
    x = torch.rand(1, 3, 50, 70)
    expected = F.interpolate(x, (32, 32), mode="bilinear", align_corners=False)
    assert torch.equal(bilinear(x, 32), expected)


def test_thresholds_split_grey_levels_exactly() -> None:
    levels = to_tensor(np.arange(256, dtype=np.uint8)[None])
    assert (levels > OBJECT_ABOVE).flatten().tolist() == [level > 127 for level in range(256)]


def test_a_bool_mask_becomes_zero_and_one() -> None:
    assert to_tensor(np.array([[True, False]])).flatten().tolist() == [1, 0]
