"""Marks of the page: what is drawn becomes a mask at the picture's own size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unseg.io.pictures import Picture
from unseg.page.marks import (
    Marks,
    Stroke,
    describe_region,
    marked_region,
    paint,
    parse_marks,
    parse_message,
)
from unseg.protection.reading.region import region_from_prompt
from unseg.utils.errors import UserError


@pytest.fixture
def picture() -> Picture:
    pixels = np.full((60, 80, 3), 30, np.uint8)
    pixels[20:40, 30:60] = (220, 200, 60)
    return Picture(pixels=pixels)


def test_marks_survive_the_way_to_the_browser_and_back():
    marks = Marks(
        points=((3.5, 4.0, 1), (7.0, 8.0, 0)),
        boxes=((1.0, 2.0, 30.0, 40.0),),
        strokes=(Stroke(radius=3.0, is_eraser=True, path=((1.0, 1.0), (5.0, 6.0))),),
    )
    assert parse_marks(marks.as_dict(), (60, 80)) == marks


def test_marks_are_clipped_to_the_picture_and_boxes_sorted():
    marks = parse_marks({"points": [[-5, 99, 1]], "boxes": [[70, 50, 10, -3]]}, (60, 80))
    assert marks.points == ((0.0, 59.0, 1),)
    assert marks.boxes == ((10.0, 0.0, 70.0, 50.0),)


@pytest.mark.parametrize(
    "given",
    [
        {"points": [[1, 2]]},
        {"points": [[math.nan, 2, 1]]},
        {"points": 7},
        {"boxes": [[1, 2, 3]]},
        {"strokes": [{"radius": 3, "path": []}]},
        {"strokes": [{"radius": 1e9, "path": [[1, 1]]}]},
        {"strokes": ["x"]},
        {"points": [[1, 2, 0]]},
        {"points": [[1, 2, 1]] * 65},
    ],
)
def test_marks_that_make_no_sense_are_refused_with_a_remedy(given):
    with pytest.raises(UserError, match="clear|at least one point"):
        parse_marks(given, (60, 80))


@pytest.mark.parametrize("text", ["[1]", "{", "7", '{"picture": "a.png"}', '{"marks": 7}'])
def test_a_message_without_marks_is_refused(text):
    with pytest.raises(UserError, match="draw again"):
        parse_message(text)


def test_brush_strokes_cover_what_is_near_their_path(picture):
    stroke = Stroke(radius=6, is_eraser=False, path=((20.0, 30.0), (50.0, 30.0)))
    mask = paint(np.zeros((60, 80), bool), [stroke])
    for y in range(60):
        for x in range(80):
            distance = math.hypot(x - min(max(x, 20), 50), y - 30)
            if abs(distance - 6) > 1.5:  # the edge itself is drawn one way or the other
                assert mask[y, x] == (distance < 6), (x, y, distance)


def test_the_eraser_takes_away_from_a_box(picture):
    erase = Stroke(radius=5, is_eraser=True, path=((35.0, 30.0),))
    region = marked_region(picture, Marks(boxes=((30, 20, 59, 39),), strokes=(erase,)))
    assert region.source == "box+brush"
    assert not region.mask[30, 35]
    assert region.mask[30, 50]
    assert not region.mask[5, 5]


def test_points_and_boxes_become_what_the_command_makes_of_them(picture):
    points = marked_region(picture, Marks(points=((45.0, 30.0, 1), (5.0, 5.0, 0))))
    expected = region_from_prompt(
        picture.rgb8(), point_coords=np.array([[45, 30], [5, 5]]), point_labels=np.array([1, 0])
    )
    assert points.source == expected.source
    assert np.array_equal(points.mask, expected.mask)
    boxes = marked_region(picture, Marks(boxes=((30, 20, 59, 39),)))
    assert boxes.source == "box"
    assert np.array_equal(np.argwhere(boxes.mask).min(0), [20, 30])
    assert marked_region(picture, Marks()).mask.all()


def test_points_and_boxes_together_are_their_union(picture):
    point, box = Marks(points=((45.0, 30.0, 1),)), Marks(boxes=((0, 0, 9, 9),))
    both = marked_region(picture, Marks(points=point.points, boxes=box.boxes))
    union = marked_region(picture, point).mask | marked_region(picture, box).mask
    assert np.array_equal(both.mask, union)


def test_erasing_everything_is_a_mistake_of_the_user(picture):
    erase = Stroke(radius=60, is_eraser=True, path=((40.0, 30.0),))
    with pytest.raises(UserError, match="everything is erased"):
        marked_region(picture, Marks(boxes=((30, 20, 59, 39),), strokes=(erase,)))


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        (Marks(), "whole picture"),
        (Marks(points=((45.0, 30.0, 1),)), "made the mask from your points"),
        (Marks(boxes=((30, 20, 59, 39),)), "inside of your boxes"),
        (Marks(strokes=(Stroke(5, False, ((40.0, 30.0),)),)), "what you brushed"),
        (
            Marks(points=((45.0, 30.0, 1),), strokes=(Stroke(5, False, ((40.0, 30.0),)),)),
            "corrected by your brush",
        ),
    ],
)
def test_the_page_says_where_the_mask_comes_from(picture, marks, words):
    text = describe_region(marked_region(picture, marks))
    assert words in text
    if marks.points:
        assert "GrabCut" in text or "Segment Anything" in text


def test_the_widest_brush_covers_a_long_narrow_picture():
    path = ((0.0, 1.0), (150_000.0, 1.0))
    stroke = Stroke(radius=40_000, is_eraser=False, path=path)
    mask = paint(np.zeros((3, 300_000), bool), [stroke])
    assert mask[:, :189_990].all()
    assert not mask[:, 190_010:].any()
