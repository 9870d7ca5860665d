"""Regions and prompts: precedence, frames, the official region map."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unseg.data.annotations import Annotation, Segment
from unseg.io.pictures import Picture
from unseg.protection.reading.prompts import model_prompts
from unseg.protection.reading.region import (
    fit_annotation,
    instance_regions,
    official_region,
    region_from_annotation,
    region_from_prompt,
)
from unseg.utils.errors import UserError

IMAGE = np.full((20, 30, 3), 100, np.uint8)


def segment(rows, category, *, is_crowd=False, is_thing=True, instance_id=1):
    mask = np.zeros((8, 10), bool)
    mask[rows] = True
    return Segment(mask, category, is_crowd, is_thing, instance_id)


ANNOTATION = Annotation(
    height=8,
    width=10,
    class_map=np.zeros((8, 10), np.int32),
    segments=(
        segment(slice(0, 2), 1, instance_id=1),
        segment(slice(2, 3), 6, instance_id=2),
        segment(slice(3, 5), 2, is_thing=False, instance_id=3),
        segment(slice(5, 8), 1, is_crowd=True, instance_id=4),
    ),
)


@pytest.mark.parametrize(
    ("mode", "classes", "rows"),
    [
        ("all", (), [0, 1, 2, 3, 4]),
        ("classes", (1, 2), [0, 1, 3, 4]),
        ("single", (6,), [2]),
        ("things", (), [0, 1, 2]),
        ("classes", (99,), []),
    ],
)
def test_modes_choose_objects_and_never_crowds(mode, classes, rows):
    region = region_from_annotation(ANNOTATION, mode=mode, classes=classes)
    assert np.flatnonzero(region.all(1)).tolist() == rows
    assert region.any(1).sum() == len(rows)
    parts = instance_regions(ANNOTATION, mode=mode, classes=classes)
    assert np.array_equal(np.any([*parts, np.zeros((8, 10), bool)], axis=0), region)


@pytest.mark.parametrize(("mode", "classes"), [("single", ()), ("single", (1, 2)), ("classes", ())])
def test_a_mode_without_its_classes_is_refused(mode, classes):
    with pytest.raises(UserError, match="region.classes"):
        region_from_annotation(ANNOTATION, mode=mode, classes=classes)


def test_the_first_given_prompt_sets_the_region():
    region = np.zeros((20, 30), bool)
    region[0] = True
    mask = np.zeros((20, 30), np.uint8)
    mask[1], mask[2] = 128, 127
    prompts = {
        "region": region, "mask": mask, "boxes": np.array([[2, 3, 4, 6]]),
        "point_coords": np.array([[5, 5]]),
    }  # fmt: skip
    sources = []
    while True:
        found = region_from_prompt(IMAGE, **prompts)
        sources.append((found.source, int(found.mask.sum())))
        if not prompts:
            break
        prompts.pop(next(iter(prompts)))
    assert sources[:3] == [("region", 30), ("mask", 30), ("box", 12)]
    assert sources[3][0] == "points:grabcut"
    assert sources[4] == ("whole", 600)


def test_several_boxes_are_joined():
    found = region_from_prompt(IMAGE, boxes=np.array([[0, 0, 1, 1], [1, 1, 2.5, 2]]))
    assert found.mask.sum() == 4 + 6 - 1


def test_points_find_the_object_they_lie_on():
    rng = np.random.default_rng(0)
    image = rng.integers(90, 130, (120, 160, 3)).astype(np.uint8)
    truth = np.zeros((120, 160), bool)
    truth[30:80, 50:100] = True
    image[truth] = rng.integers(0, 40, (truth.sum(), 3)) + np.array([200, 0, 0], np.uint8)
    found = region_from_prompt(
        image, point_coords=np.array([[75, 55], [10, 10]]), point_labels=np.array([1, 0])
    )
    overlap = (found.mask & truth).sum() / (found.mask | truth).sum()
    assert overlap > 0.9
    again = region_from_prompt(
        image, point_coords=np.array([[75, 55], [10, 10]]), point_labels=np.array([1, 0])
    )
    assert np.array_equal(found.mask, again.mask)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (500, 7)])
def test_points_give_a_region_that_holds_them_in_pictures_of_any_size(size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    point = np.array([[size[1] - 1, size[0] - 1]])
    found = region_from_prompt(image, point_coords=point)
    assert found.mask.shape == size
    assert found.mask[-1, -1]


@pytest.mark.parametrize(
    "bad",
    [
        {"region": np.ones((5, 5), bool)},
        {"mask": np.ones((30, 20), bool)},
        {"boxes": np.array([[5, 5, 1, 1]])},
        {"boxes": np.array([[0, 0, 99, 5]])},
        {"boxes": np.array([[0, 0, np.nan, 5]])},
        {"boxes": np.zeros((0, 4))},
        {"point_coords": np.array([[-1, 2]])},
        {"point_coords": np.array([[1, 2]]), "point_labels": np.array([0])},
        {"point_coords": np.array([[1, 2]]), "point_labels": np.array([1, 1])},
    ],
)
def test_prompts_that_do_not_fit_the_image_are_refused(bad):
    with pytest.raises(UserError):
        region_from_prompt(IMAGE, **bad)


def test_boxes_and_points_are_scaled_by_the_padded_square():
    prompts = model_prompts(
        (300, 600), image_size=128, mask_size=32,
        boxes=np.array([[60, 30, 300, 150], [0, 0, 6, 6]]), point_coords=np.array([[600, 0]]),
    )  # fmt: skip
    scale = 128 / 600
    expected = torch.tensor([[60, 30, 300, 150], [0, 0, 6, 6]]) * scale
    assert torch.allclose(prompts.boxes, expected)
    assert torch.allclose(prompts.point_coords, torch.tensor([[[128.0, 0.0]]]).expand(2, 1, 2))
    assert prompts.batch_size == 2
    assert prompts.kinds == ("box", "points")


def test_no_prompt_is_a_mask_of_ones_over_the_image_alone():
    prompts = model_prompts((64, 128), image_size=128, mask_size=32)
    expected = torch.zeros(1, 1, 32, 32)
    expected[..., :16, :] = 255
    assert torch.equal(prompts.mask_inputs, expected)


def official_reference(values, image_size, grid):
    """The recipe of docs/METHOD.md, "5. Generation", written out with torch's own functions."""
    height, width = values.shape
    side = max(height, width)
    square = torch.zeros(1, 1, side, side)
    square[0, 0, :height, :width] = torch.from_numpy(values.astype(np.float32))
    big = F.interpolate(square, (image_size, image_size), mode="nearest")
    small = F.interpolate(big, (grid, grid), mode="bilinear", align_corners=False).round()
    native = F.interpolate(small, (side, side), mode="bilinear", align_corners=False).round()
    return native[0, 0, :height, :width].numpy() > 0


@pytest.mark.parametrize("size", [(375, 500), (61, 40), (300, 300)])
def test_the_official_region_is_the_mask_seen_through_the_grid(size):
    rng = np.random.default_rng(3)
    y, x = np.mgrid[: size[0], : size[1]]
    mask = (np.sin(y / 9) + np.cos(x / 13) + rng.normal(0, 0.2, size)) > 0
    soft = np.clip(128 + 150 * np.sin(y / 7 + x / 11), 0, 255).astype(np.uint8)
    found = official_region(mask, image_size=256, grid=64)
    assert np.array_equal(found, official_reference(mask, 256, 64))
    found = official_region(soft, image_size=256, grid=64)
    assert np.array_equal(found, official_reference(soft / np.float32(255), 256, 64))


def test_a_label_of_the_stored_size_is_turned_with_its_picture():
    picture = Picture(pixels=np.zeros((10, 8, 3), np.uint8), orientation=6)
    fitted, note = fit_annotation(ANNOTATION, picture)
    assert fitted.size == (10, 8)
    assert "turned" in note
    # Orientation 6: the stored top row is the upright right column.
    assert fitted.segments[0].mask[:, -2:].all()
    assert not fitted.segments[0].mask[:, :-2].any()


def test_a_label_of_the_upright_size_is_left_alone_and_any_other_refused():
    upright = Picture(pixels=np.zeros((8, 10, 3), np.uint8), orientation=6)
    assert fit_annotation(ANNOTATION, upright) == (ANNOTATION, None)
    other = Picture(pixels=np.zeros((9, 10, 3), np.uint8))
    with pytest.raises(UserError, match="label is 8 x 10 but the image 9 x 10"):
        fit_annotation(ANNOTATION, other)
