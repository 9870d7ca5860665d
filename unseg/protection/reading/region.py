"""The region map: which pixels get the larger budget.

It is independent of the prompts: with a label the region is the label's, whatever the prompt. See
docs/METHOD.md, "5. Generation".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from unseg.data.annotations.base import Annotation, Segment
from unseg.data.mask_values import object_of
from unseg.data.prompt_checks import check_mask_size, checked_boxes, checked_points, shown_size
from unseg.data.prompts import mask_prompt, rounded
from unseg.io.decode import turn_upright
from unseg.io.pictures import Picture
from unseg.noise import upsample_noise
from unseg.protection.reading.point_mask import mask_from_points
from unseg.protection.reading.prompts import mask_tensor
from unseg.types import VOID_CLASS
from unseg.utils.errors import UserError

RegionMode = Literal["all", "classes", "single", "things"]

_STRIP = 1 << 20
"""Pixels of the official map that are made at a time."""

_OPEN_BACKGROUND = -2
"""Class of the pixels of no object, in sets that label objects alone."""


@dataclass(frozen=True)
class Region:
    """A protected region and where it came from.

    Attributes:
        mask: (H, W) bool, image frame.
        source: "region", "mask", "box", "points:sam", "points:grabcut" or "whole".
    """

    mask: np.ndarray
    source: str


def fit_annotation(annotation: Annotation, picture: Picture) -> tuple[Annotation, str | None]:
    """The label in the upright frame of its picture, and a note where it had to be turned.

    A label of the upright size is taken as it is. One that fits only the pixels as stored was
    drawn by a program that ignored the orientation tag, and is turned with the image.

    Raises:
        UserError: it fits neither the upright nor the stored size.
    """
    if annotation.size == picture.size:
        return annotation, None
    if annotation.size == picture.stored_size:
        turn = partial(turn_upright, orientation=picture.orientation)
        return annotation.turned(turn), "label fitted the stored size only: turned with the image"
    file = annotation.label_file
    name = f"{file.path}: " if file is not None else ""
    found, wanted = shown_size(annotation.size), shown_size(picture.size)
    raise UserError(
        f"{name}label is {found} but the image {wanted} (H x W); "
        "resize one of them or leave the image out"
    )


def region_from_annotation(
    annotation: Annotation, *, mode: RegionMode = "all", classes: Sequence[int] = ()
) -> np.ndarray:
    """Pixels to protect, (H, W) bool; crowds and void are never among them.

    Args:
        annotation: with labelled pixels (`annotation.has_region`).
        mode: "all" objects, those of `classes`, of the one class in `classes` ("single"), or all
            "things".
        classes: class ids of the data set.
    """
    region = np.zeros(annotation.size, bool)
    for segment in _chosen(annotation, mode, classes):
        region |= segment.mask
    return region


def class_map_of(
    annotation: Annotation, region: np.ndarray, *, by_region: bool, has_open_background: bool
) -> np.ndarray:
    """Class of every pixel for methods that go by classes; background is one, void is not.

    Args:
        annotation: in the image's frame.
        region: (H, W) bool, the protected region.
        by_region: two classes, 1 in the region and 0 outside, instead of the label's.
        has_open_background: pixels of no object are background rather than void.

    Returns:
        (H, W) int32, `VOID_CLASS` where there is no class.
    """
    is_labelled = annotation.has_region and not annotation.is_whole
    if not is_labelled:
        return region.astype(np.int32)
    classes = annotation.class_map.astype(np.int32)
    is_void = classes == VOID_CLASS
    if has_open_background:
        in_crowd = np.zeros_like(is_void)
        for segment in annotation.segments:
            if segment.is_crowd:
                in_crowd |= segment.mask
        classes[is_void & ~in_crowd] = _OPEN_BACKGROUND
        is_void &= in_crowd
    if by_region:
        classes = region.astype(np.int32)
        classes[is_void & ~region] = VOID_CLASS
    return classes


def instance_regions(
    annotation: Annotation, *, mode: RegionMode = "all", classes: Sequence[int] = ()
) -> list[np.ndarray]:
    """The same choice, object by object: a list of (H, W) bool, empty ones left out."""
    return [s.mask for s in _chosen(annotation, mode, classes) if s.mask.any()]


def region_from_prompt(
    image: np.ndarray,
    *,
    region: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    point_coords: np.ndarray | None = None,
    point_labels: np.ndarray | None = None,
    weights_dir: str | Path = "pretrained_checkpoint",
) -> Region:
    """The region of an image without a label, from the first of these that is given.

    Explicit region, mask, filled boxes, an object mask from points (SAM where its weights lie in
    `weights_dir`, else GrabCut), the whole image.

    Args:
        image: (H, W, 3) uint8 RGB, upright; looked at for points only.
        region: (H, W) bool, or numbers where 1 or above 127 is the region.
        mask: the same.
        boxes: (4,) or (N, 4) XYXY inclusive, image frame.
        point_coords: (N, 2) (X, Y), image frame.
        point_labels: (N,) 1 foreground, 0 background; None: all foreground.
        weights_dir: where SAM's weights are looked for.

    Raises:
        UserError: a size or a coordinate that does not fit the image.
    """
    height, width = image.shape[:2]
    if region is not None:
        return Region(_as_bool(region, (height, width), "region"), "region")
    if mask is not None:
        return Region(_as_bool(mask, (height, width), "mask"), "mask")
    if boxes is not None:
        return Region(_filled_boxes(boxes, height, width), "box")
    if point_coords is not None:
        coords, labels = checked_points(point_coords, point_labels, height, width)
        found, how = mask_from_points(image, coords, labels, weights_dir=Path(weights_dir))
        return Region(found, f"points:{how}")
    return Region(np.ones((height, width), bool), "whole")


def official_region(mask: np.ndarray, *, image_size: int = 1024, grid: int = 256) -> np.ndarray:
    """The released program's region map: the mask seen through its 256-grid prompt.

    The prompt's grid spans the padded square; it is upsampled bilinearly to that square's native
    side, rounded and cropped.

    Args:
        mask: (H, W) bool, or uint8 soft mask in [0, 255] (`Annotation.soft_mask`), of which the
            grid cells hold the average before they are rounded.
        image_size: side S of the generator's input.
        grid: side of the mask prompt.

    Returns:
        (H, W) bool.
    """
    prompt = mask_prompt(mask_tensor(mask), image_size=image_size, mask_size=grid) / 255
    height, width = mask.shape
    region = np.empty((height, width), bool)
    step = max(_STRIP // width, 1)
    for first in range(0, height, step):
        last = min(first + step, height)
        rows = upsample_noise(prompt, (height, width), rows=(first, last))
        region[first:last] = rounded(rows)[0, 0].numpy() > 0
    return region


def _chosen(annotation: Annotation, mode: str, classes: Sequence[int]) -> list[Segment]:
    if not annotation.has_region:
        raise ValueError("annotation has boxes or points only; use region_from_prompt")
    if mode == "single" and len(classes) != 1:
        raise UserError(f"region.mode=single needs one class in region.classes, not {len(classes)}")
    if mode == "classes" and not classes:
        raise UserError("region.mode=classes needs class ids in region.classes")
    wanted = set(classes)
    return [
        s
        for s in annotation.segments
        if not s.is_crowd
        and (mode == "all" or (s.is_thing if mode == "things" else s.category in wanted))
    ]


def _as_bool(mask: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    check_mask_size(mask, size, name)
    return object_of(mask)


def _filled_boxes(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Union of the boxes; both corners are pixel indices inside the box."""
    region = np.zeros((height, width), bool)
    for box in checked_boxes(boxes, height, width):
        x0, y0 = np.floor(box[:2]).astype(int)
        x1, y1 = np.ceil(box[2:]).astype(int)
        region[y0 : y1 + 1, x0 : x1 + 1] = True
    return region
