"""Prompts against loops over pixels, and their random choices against their probabilities."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unseg.data.prompts import (
    PROMPT_ABOVE,
    bilinear,
    boxes_from_masks,
    corrupt_mask,
    generator_prompts,
    mask_prompt,
    nearest,
    pad_to_square,
    sample_points,
    squashed_box,
    surrogate_prompts,
)
from unseg.types import Prompts


def disc(side: int = 64, radius: float = 14.0, centre: tuple[float, float] = (30, 25)):
    y, x = np.mgrid[:side, :side]
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    return torch.from_numpy(inside.astype(np.float32))[None, None]


def slow_box(mask: np.ndarray) -> list[float]:
    found = [(x, y) for y in range(len(mask)) for x in range(len(mask[0])) if mask[y, x] > 128]
    xs, ys = zip(*found, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


def kinds(prompts: Prompts, index: int) -> frozenset[str]:
    return frozenset(prompts.select([index]).kinds)


def test_boxes_equal_a_loop_over_the_pixels(rng: np.random.Generator) -> None:
    levels = (rng.random((40, 1, 23, 31)) ** 30 * 256).astype(np.uint8)
    levels[:, 0, 5, 7] = 200
    boxes = boxes_from_masks(torch.from_numpy(levels).float() / 255)
    assert boxes.tolist() == [slow_box(mask[0]) for mask in levels]


def test_an_empty_mask_has_a_nan_box_and_leaves_its_neighbours_alone() -> None:
    boxes = boxes_from_masks(torch.cat((torch.zeros(1, 1, 64, 64), disc())))
    assert boxes[0].isnan().all()
    assert boxes[1].tolist() == [17, 12, 43, 38]


def test_prompt_pixels_begin_above_level_128() -> None:
    levels = torch.arange(256).float() / 255
    assert (levels > PROMPT_ABOVE).tolist() == [level > 128 for level in range(256)]


def test_points_are_distinct_object_pixels_drawn_uniformly() -> None:
    mask = torch.zeros(20, 30)
    mask[3:7, 4:9] = 1  # 20 pixels
    counts: Counter[tuple[float, ...]] = Counter()
    rng = np.random.default_rng(0)
    for _ in range(1000):
        points = sample_points(mask, 10, rng)
        assert points is not None
        found = {tuple(point) for point in points.tolist()}
        assert len(found) == 10
        counts.update(found)
    assert all(4 <= x < 9 and 3 <= y < 7 for x, y in counts)
    assert len(counts) == 20
    assert min(counts.values()) > 420
    assert max(counts.values()) < 580


def test_too_few_pixels_give_no_points(rng: np.random.Generator) -> None:
    mask = torch.zeros(8, 8)
    mask[0, :8] = 1
    mask[1, 0] = 1
    assert sample_points(mask, 10, rng) is None
    mask[1, 1] = 1
    points = sample_points(mask, 10, rng)
    assert points is not None
    assert len(points) == 10


def test_corruption_adds_noise_only_where_the_mask_is_finer_than_an_eighth(
    rng: np.random.Generator,
) -> None:
    mask = F.interpolate(disc(), (48, 48), mode="bilinear", align_corners=False)
    noise = torch.from_numpy(rng.standard_normal((1, 1, 48, 48), np.float32))
    coarse = F.interpolate(mask, (6, 6), mode="bilinear", align_corners=False)
    coarse = F.interpolate(coarse, (48, 48), mode="bilinear", align_corners=False)
    expected = torch.zeros(48, 48)
    for y in range(48):
        for x in range(48):
            value = mask[0, 0, y, x].clone()
            if abs(value - coarse[0, 0, y, x]) >= 0.01:
                value += noise[0, 0, y, x]
            expected[y, x] = 255 if value > 0.5 else 0
    corrupted = corrupt_mask(mask, noise)
    assert torch.equal(corrupted[0, 0], expected)
    changed = (corrupted[0, 0] / 255) != (mask[0, 0] > 0.5)
    assert changed.any()
    assert changed.float().mean() < 0.3


def test_the_generator_gets_a_uniform_count_and_then_a_uniform_subset() -> None:
    rng = np.random.default_rng(3)
    mask = disc().expand(60, 1, 64, 64)
    found: Counter[frozenset[str]] = Counter()
    for _ in range(12):
        prompts = generator_prompts(mask, mask_size=16, rng=rng)
        found.update(kinds(prompts, index) for index in range(60))
    assert len(found) == 7
    for subset, count in found.items():
        expected = 1 / 3 if len(subset) == 3 else 1 / 9
        assert count / 720 == pytest.approx(expected, abs=0.05), subset


def test_the_surrogate_gets_exactly_one_kind_uniformly() -> None:
    prompts = surrogate_prompts(
        disc().expand(600, 1, 64, 64), mask_size=16, rng=np.random.default_rng(4)
    )
    found = Counter(kinds(prompts, index) for index in range(600))
    assert {len(subset) for subset in found} == {1}
    assert len(found) == 3
    assert all(abs(count / 600 - 1 / 3) < 0.06 for count in found.values())


def test_a_small_object_offers_no_points_for_its_own_image_only() -> None:
    small = torch.zeros(1, 1, 64, 64)
    small[..., 10, 10:19] = 1
    rng = np.random.default_rng(5)
    mask = torch.cat((small, disc()))
    pairs = []
    for _ in range(40):
        prompts = generator_prompts(mask, mask_size=16, rng=rng)
        pairs.append((kinds(prompts, 0), kinds(prompts, 1)))
    assert {subset for subset, _ in pairs} == {
        frozenset({"box"}),
        frozenset({"mask"}),
        frozenset({"box", "mask"}),
    }
    assert any("points" in other for _, other in pairs)


def test_a_mask_without_prompt_pixels_still_offers_its_corrupted_mask() -> None:
    faint = torch.full((1, 1, 64, 64), 128 / 255)
    for seed in range(5):
        prompts = generator_prompts(faint, mask_size=16, rng=np.random.default_rng(seed))
        assert prompts.kinds == ("mask",)


def test_prompts_of_an_image_do_not_depend_on_its_batch() -> None:
    mask = torch.cat((disc(), disc(radius=8), disc(radius=20)))
    together = generator_prompts(
        mask, mask_size=16, rng=[np.random.default_rng(seed) for seed in (7, 8, 9)]
    )
    for index, seed in enumerate((7, 8, 9)):
        alone = generator_prompts(
            mask[index : index + 1], mask_size=16, rng=np.random.default_rng(seed)
        )
        assert kinds(together, index) == frozenset(alone.kinds)
        for name in ("boxes", "point_coords", "mask_inputs"):
            value = getattr(alone, name)
            if value is not None:
                assert torch.equal(getattr(together, name)[index], value[0]), name


def test_prompts_have_the_documented_shapes_and_values() -> None:
    prompts = generator_prompts(
        disc().expand(20, 1, 64, 64), mask_size=16, rng=np.random.default_rng(6)
    )
    assert prompts.boxes is not None
    assert prompts.point_coords is not None
    assert prompts.point_labels is not None
    assert prompts.mask_inputs is not None
    assert prompts.boxes.shape == (20, 4)
    assert prompts.point_coords.shape == (20, 10, 2)
    assert set(prompts.point_labels.flatten().tolist()) == {1, -2}
    values = prompts.mask_inputs[~prompts.mask_inputs.isnan()]
    assert prompts.mask_inputs.shape == (20, 1, 16, 16)
    assert set(values.tolist()) == {0, 255}


def test_the_mask_prompt_of_generation_follows_its_four_steps(rng: np.random.Generator) -> None:
    mask = (rng.random((1, 1, 37, 61)) < 0.5).astype(np.float32)
    square = np.zeros((61, 61), np.float32)
    square[:37] = mask[0, 0]
    positions = [int(np.floor(np.float32(i) * np.float32(61 / 128))) for i in range(128)]
    large = torch.from_numpy(square[np.ix_(positions, positions)].copy())[None, None]
    small = F.interpolate(large, (32, 32), mode="bilinear", align_corners=False)
    expected = torch.tensor([[[[255.0 if v > 0.5 else 0.0 for v in r] for r in small[0, 0]]]])
    prompt = mask_prompt(torch.from_numpy(mask), image_size=128, mask_size=32)
    assert torch.equal(prompt, expected)


@pytest.mark.parametrize("image_size", [32, 64, 96, 128, 256])
@pytest.mark.parametrize("size", [(1, 1), (1, 90), (70, 3), (37, 61), (128, 128), (300, 200)])
def test_the_mask_prompt_equals_that_of_the_whole_resized_square(
    size: tuple[int, int], image_size: int, rng: np.random.Generator
) -> None:
    hard = rng.random((2, 1, *size)) < 0.5
    soft = rng.integers(0, 256, (2, 1, *size)).astype(np.float32) / 255
    for mask in (torch.from_numpy(hard), torch.from_numpy(soft)):
        square = nearest(pad_to_square(mask.float()), image_size)
        expected = torch.round(bilinear(square, 32)) * 255
        assert torch.equal(mask_prompt(mask, image_size=image_size, mask_size=32), expected)


def test_an_object_lost_by_reduction_keeps_the_box_of_its_pixel() -> None:
    mask = torch.zeros(1, 1, 400, 200)
    mask[..., 301, 99] = 1
    square = F.interpolate(mask, (40, 40), mode="bilinear", align_corners=False)
    assert squashed_box(square, native=mask).tolist() == [[19, 30, 19, 30]]
