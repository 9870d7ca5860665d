"""What a user drew on a picture, and the label that it stands for.

Marks are coordinates of the picture at its own size, not pixels of a canvas: the original bytes
are never drawn on, and a mask is as sharp as the picture. Points become an object mask and boxes
are filled as in `protect.region`; brush and eraser then correct that mask.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from unseg.data.annotations.base import Annotation, Item
from unseg.data.annotations.label_pictures import mask_annotation
from unseg.io.pictures import Picture, read_picture
from unseg.protection.reading.region import Region, region_from_prompt
from unseg.types import VOID_CLASS
from unseg.utils.errors import UserError

_MOST = {"points": 64, "boxes": 64, "strokes": 2000}
_MOST_VERTICES = 20000

_WIDEST_LINE = 32767
"""Pixels across, OpenCV's bound. It is met on pictures longer than 80,000 pixels alone, which are
so narrow that a wider line would cover nothing more between its ends."""

_FOUND_BY = {
    "points:sam": "Segment Anything made the mask from your points",
    "points:grabcut": (
        "GrabCut made the mask from your points (Segment Anything's weights are not in "
        "pretrained_checkpoint/)"
    ),
    "box": "the mask is the inside of your boxes",
    "whole": "nothing is marked: the whole picture is protected",
}


@dataclass(frozen=True)
class Stroke:
    """One stroke of the brush or the eraser.

    Attributes:
        radius: in pixels of the picture.
        is_eraser: takes away instead of adding.
        path: (X, Y) vertices.
    """

    radius: float
    is_eraser: bool
    path: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Marks:
    """All that is drawn on one picture, image frame.

    Attributes:
        points: (X, Y, label); label 1 on the object, 0 beside it.
        boxes: (X0, Y0, X1, Y1) inclusive.
        strokes: in the order in which they were drawn.
    """

    points: tuple[tuple[float, float, int], ...] = ()
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    strokes: tuple[Stroke, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the whole picture is meant."""
        return not (self.points or self.boxes or self.strokes)

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, as `parse_marks` takes them."""
        return {
            "points": [list(point) for point in self.points],
            "boxes": [list(box) for box in self.boxes],
            "strokes": [
                {"radius": s.radius, "erase": s.is_eraser, "path": [list(p) for p in s.path]}
                for s in self.strokes
            ],
        }


def parse_marks(given: Mapping[str, Any], size: tuple[int, int]) -> Marks:
    """Marks from a browser's plain lists, clipped to the picture.

    Args:
        given: lists under "points" [x, y, label], "boxes" [x0, y0, x1, y1] in any corner order,
            and "strokes" {"radius", "erase", "path": [[x, y], ...]}; missing ones are empty.
        size: (H, W) of the upright picture.

    Raises:
        UserError: something else, or too many of them.
    """
    height, width = size
    try:
        lists = {name: list(given.get(name) or ()) for name in _MOST}
        for name, most in _MOST.items():
            if len(lists[name]) > most:
                raise UserError(f"more than {most} {name} are marked; clear some of them")
        points = tuple(
            (_within(x, width), _within(y, height), int(bool(label)))
            for x, y, label in lists["points"]
        )
        boxes = tuple(_box(box, width, height) for box in lists["boxes"])
        strokes = tuple(_stroke(stroke, width, height) for stroke in lists["strokes"])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"marks cannot be read ({error}); clear them and draw again") from None
    if points and not any(label for *_, label in points):
        raise UserError("add at least one point on the object to those beside it")
    return Marks(points=points, boxes=boxes, strokes=strokes)


def parse_message(text: str | None) -> dict[str, Any]:
    """A browser's JSON object with "marks" in it; raises UserError for anything else."""
    try:
        message = json.loads(text or "{}")
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or not isinstance(message.get("marks"), dict):
        raise UserError("marks cannot be read; clear them and draw again")
    return message


def marked_region(picture: Picture, marks: Marks) -> Region:
    """The protected region; its source is that of `region_from_prompt`, "+brush" where corrected.

    Raises:
        UserError: everything was erased.
    """
    prompts = _prompts(marks)
    if not marks.strokes and len(prompts) <= 2 and not (marks.points and marks.boxes):
        return region_from_prompt(picture.rgb8(), **prompts)
    mask = np.zeros(picture.size, bool)
    sources = []
    if marks.boxes:
        found = region_from_prompt(picture.rgb8(), boxes=prompts["boxes"])
        mask |= found.mask
        sources.append(found.source)
    if marks.points:
        chosen = {name: value for name, value in prompts.items() if name != "boxes"}
        found = region_from_prompt(picture.rgb8(), **chosen)
        mask |= found.mask
        sources.append(found.source)
    if marks.strokes:
        mask = paint(mask, marks.strokes)
        sources.append("brush")
    if not mask.any():
        raise UserError("everything is erased: brush the object, or clear all marks")
    return Region(mask, "+".join(sources))


def paint(mask: np.ndarray, strokes: Sequence[Stroke]) -> np.ndarray:
    """The (H, W) bool mask after brush and eraser; a new array."""
    canvas = mask.astype(np.uint8)
    for stroke in strokes:
        value = 0 if stroke.is_eraser else 1
        path = np.round(np.array(stroke.path)).astype(np.int32)
        radius = max(round(stroke.radius), 1)
        if len(path) > 1:
            width = min(2 * radius, _WIDEST_LINE)
            cv2.polylines(canvas, [path], False, value, thickness=width)
        for x, y in (path[0].tolist(), path[-1].tolist()):
            cv2.circle(canvas, (x, y), radius, value, -1)
    return canvas.astype(bool)


def describe_region(region: Region) -> str:
    """One sentence: where the mask comes from and how large it is."""
    parts = [_FOUND_BY[s] for s in region.source.split("+") if s in _FOUND_BY]
    if region.source.endswith("brush"):
        parts.append("corrected by your brush" if parts else "the mask is what you brushed")
    text = ", ".join(parts)
    if region.source == "whole":
        return f"{text[0].upper()}{text[1:]}."
    return f"{text[0].upper()}{text[1:]}: {100 * float(region.mask.mean()):.1f} % of the picture."


class MarkedPictures:
    """Pictures with marks; an `AnnotationSource`.

    Points alone and boxes alone stay prompts of their own kind; a brushed or mixed region is a
    mask, as if a mask file had been given.

    Args:
        pictures: items, whose label is their upright (H, W), and the marks on them.
    """

    class_names = {0: "background", 1: "object"}
    num_classes = 2
    thing_ids = frozenset({1})

    def __init__(self, pictures: Sequence[tuple[Item, Marks]]) -> None:
        self._items = [item for item, _ in pictures]
        self._marks = {item.key: marks for item, marks in pictures}

    def items(self) -> Sequence[Item]:
        """The pictures in their order on the page."""
        return self._items

    def read(self, item: Item) -> Annotation:
        """The marks of a picture as its label."""
        marks = self._marks[item.key]
        is_prompt = not marks.strokes and not (marks.points and marks.boxes)
        if is_prompt:
            height, width = item.label
            return Annotation(
                height=height,
                width=width,
                class_map=np.full((height, width), VOID_CLASS, np.int32),
                is_whole=marks.is_empty,
                **_prompts(marks),
            )
        mask = marked_region(read_picture(item.image_path), marks).mask
        return mask_annotation(mask.astype(np.uint8) * np.uint8(255))


def _prompts(marks: Marks) -> dict[str, Any]:
    """Keyword arguments of `region_from_prompt`."""
    found: dict[str, Any] = {}
    if marks.boxes:
        found["boxes"] = np.array(marks.boxes, np.float64)
    if marks.points:
        found["point_coords"] = np.array([p[:2] for p in marks.points], np.float64)
        found["point_labels"] = np.array([p[2] for p in marks.points], np.int64)
    return found


def _within(value: Any, length: int) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is no coordinate")
    return min(max(number, 0.0), length - 1.0)


def _box(corners: Any, width: int, height: int) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = corners
    xs = sorted((_within(x0, width), _within(x1, width)))
    ys = sorted((_within(y0, height), _within(y1, height)))
    return xs[0], ys[0], xs[1], ys[1]


def _stroke(given: Any, width: int, height: int) -> Stroke:
    path = tuple((_within(x, width), _within(y, height)) for x, y in given["path"])
    if not path or len(path) > _MOST_VERTICES:
        raise ValueError(f"a stroke of {len(path)} vertices")
    radius = float(given["radius"])
    if not 0 < radius <= max(width, height):
        raise ValueError(f"a brush of radius {radius:g}")
    return Stroke(radius=radius, is_eraser=bool(given.get("erase")), path=path)
