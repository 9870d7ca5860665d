"""The region that sets the budget, and the prompts that steer the noise.

The two are independent: with a label the region is the label's, whatever the prompt. See
docs/METHOD.md, "5. Generation".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from unseg.data.annotations.base import VOID, Annotation, Segment
from unseg.data.prompts import mask_prompt
from unseg.data.transforms import bilinear, rounded
from unseg.io.pictures import Picture, turn_upright
from unseg.protection.reading.point_mask import mask_from_points
from unseg.types import Prompts
from unseg.utils.errors import UserError

RegionMode = Literal["all", "classes", "single", "things"]

_THRESHOLD = 127
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
    raise UserError(
        f"label is {_shown(annotation.size)} but the image {_shown(picture.size)} (H x W); "
        "resize one of them or leave the image out"
    )


def fit_mask(mask: np.ndarray, picture: Picture) -> tuple[np.ndarray, str | None]:
    """The same for a bare (H, W) mask."""
    height, width = mask.shape
    bare = Annotation(height=height, width=width, class_map=mask)
    fitted, note = fit_annotation(bare, picture)
    return fitted.class_map, note


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
        (H, W) int32, `VOID` where there is no class.
    """
    is_labelled = annotation.has_region and not annotation.is_whole
    if not is_labelled:
        return region.astype(np.int32)
    classes = annotation.class_map.astype(np.int32)
    is_void = classes == VOID
    if has_open_background:
        in_crowd = np.zeros_like(is_void)
        for segment in annotation.segments:
            if segment.is_crowd:
                in_crowd |= segment.mask
        classes[is_void & ~in_crowd] = _OPEN_BACKGROUND
        is_void &= in_crowd
    if by_region:
        classes = region.astype(np.int32)
        classes[is_void & ~region] = VOID
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
        region: (H, W) bool or uint8 (above 127).
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
    height, width = mask.shape
    prompt = mask_prompt(_as_tensor(mask), image_size=image_size, mask_size=grid) / 255
    side = max(height, width)
    return rounded(bilinear(prompt, side))[0, 0, :height, :width].numpy() > 0


def model_prompts(
    size: tuple[int, int],
    *,
    image_size: int,
    mask_size: int,
    mask: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    point_coords: np.ndarray | None = None,
    point_labels: np.ndarray | None = None,
) -> Prompts:
    """Prompts of one image (batch of 1) in the model's frame; several boxes give several rows.

    The image is padded at bottom and right to a square of side max(H, W), which becomes S: a
    coordinate is multiplied by S / max(H, W), as in Segment Anything. Without any prompt the
    whole image is the prompt: a mask of ones.

    Args:
        size: (H, W) of the upright image.
        image_size: S.
        mask_size: side of the mask prompt, 4g.
        mask: (H, W) bool or uint8 soft.
        boxes: (4,) or (N, 4) XYXY inclusive, image frame. N boxes give N rows (one prompt each);
            mask and points are then repeated.
        point_coords: (N, 2) (X, Y), image frame.
        point_labels: (N,) 1 foreground, 0 background; None: all foreground.

    Raises:
        UserError: a mask of another size, or a coordinate outside of the image.
    """
    height, width = size
    scale = image_size / max(height, width)
    if mask is None and boxes is None and point_coords is None:
        mask = np.ones(size, bool)
    rows = 1
    box_rows = coords = labels = masks = None
    if boxes is not None:
        box_rows = torch.from_numpy(checked_boxes(boxes, height, width) * scale).float()
        rows = len(box_rows)
    if point_coords is not None:
        points, point_kinds = checked_points(point_coords, point_labels, height, width)
        coords = torch.from_numpy(points * scale).float().expand(rows, -1, -1)
        labels = torch.from_numpy(point_kinds).expand(rows, -1)
    if mask is not None:
        if mask.shape != tuple(size):
            raise UserError(f"mask is {_shown(mask.shape)} but the image {_shown(size)} (H x W)")
        prompt = mask_prompt(_as_tensor(mask), image_size=image_size, mask_size=mask_size)
        masks = prompt.expand(rows, -1, -1, -1)
    return Prompts(boxes=box_rows, point_coords=coords, point_labels=labels, mask_inputs=masks)


def checked_boxes(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N, 4) float64 boxes; raises UserError where one is malformed or outside of the image."""
    array = np.asarray(boxes, np.float64)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != 4 or not len(array):
        raise UserError(f"boxes have the shape {array.shape}; give x0,y0,x1,y1 for each")
    _check_inside(array.reshape(-1, 2), height, width, "box")
    if (array[:, :2] > array[:, 2:]).any():
        raise UserError(f"box {array.tolist()}: must be x0,y0,x1,y1 with x0 <= x1 and y0 <= y1")
    return array


def checked_points(
    coords: np.ndarray, labels: np.ndarray | None, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) float64 points and (N,) int64 labels; raises UserError where they are malformed."""
    array = np.asarray(coords, np.float64)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise UserError(f"points have the shape {array.shape}; give x,y for each")
    _check_inside(array, height, width, "point")
    kinds = np.ones(len(array), np.int64) if labels is None else np.asarray(labels, np.int64)
    kinds = kinds.reshape(-1)
    if len(kinds) != len(array) or not np.isin(kinds, (0, 1)).all():
        raise UserError(f"point labels {kinds.tolist()}: give one 0 or 1 for each point")
    if not (kinds == 1).any():
        raise UserError("points: at least one must be foreground (label 1)")
    return array, kinds


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
    if mask.shape != size:
        raise UserError(f"{name} is {_shown(mask.shape)} but the image {_shown(size)} (H x W)")
    return mask if mask.dtype == bool else mask > _THRESHOLD


def _as_tensor(mask: np.ndarray) -> torch.Tensor:
    """(1, 1, H, W) float32 in [0, 1] of a bool or soft uint8 mask."""
    values = mask.astype(np.float32)
    return torch.from_numpy(values if mask.dtype == bool else values / 255)[None, None]


def _filled_boxes(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Union of the boxes; both corners are pixel indices inside the box."""
    region = np.zeros((height, width), bool)
    for box in checked_boxes(boxes, height, width):
        x0, y0 = np.floor(box[:2]).astype(int)
        x1, y1 = np.ceil(box[2:]).astype(int)
        region[y0 : y1 + 1, x0 : x1 + 1] = True
    return region


def _check_inside(points: np.ndarray, height: int, width: int, name: str) -> None:
    """Coordinates may lie on the far edge (x = width): annotation tools write such boxes."""
    is_good = np.isfinite(points).all() and (points >= 0).all()
    if not is_good or (points > [width, height]).any():
        shown = points.tolist()
        raise UserError(f"{name} {shown}: lies outside of the image of {width} x {height} pixels")


def _shown(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
