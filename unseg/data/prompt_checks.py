"""Boxes, points and masks that a user gives, checked against the image that they lie in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from unseg.utils.errors import UserError


def checked_boxes(boxes: ArrayLike, height: int, width: int) -> np.ndarray:
    """Boxes of an image of that size as (N, 4) float64.

    Args:
        boxes: (4,) or (N, 4) XYXY inclusive, in pixels; the far edge (x = width) is allowed.
        height: rows of the image.
        width: columns of the image.

    Raises:
        UserError: one is malformed or outside of the image.
    """
    array = np.asarray(boxes, np.float64)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != 4 or not len(array):
        raise UserError(f"boxes must be lists of 4 numbers x0,y0,x1,y1, not of shape {array.shape}")
    _check_inside(array.reshape(-1, 2), height, width, "box")
    if (array[:, :2] > array[:, 2:]).any():
        raise UserError(f"box {array.tolist()}: must be x0,y0,x1,y1 with x0 <= x1 and y0 <= y1")
    return array


def checked_points(
    coords: ArrayLike, labels: ArrayLike | None, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points of an image of that size as (N, 2) float64, and their labels as (N,) int64.

    Args:
        coords: (2,) or (N, 2) (X, Y), in pixels; the far edge (x = width) is allowed.
        labels: (N,) 1 foreground, 0 background; None: all foreground.
        height: rows of the image.
        width: columns of the image.

    Raises:
        UserError: one is malformed or outside of the image, or none is foreground.
    """
    array = np.asarray(coords, np.float64)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise UserError(f"points must be lists of 2 numbers x,y, not of shape {array.shape}")
    _check_inside(array, height, width, "point")
    kinds = np.ones(len(array), np.int64) if labels is None else np.asarray(labels, np.int64)
    kinds = kinds.reshape(-1)
    if len(kinds) != len(array) or not np.isin(kinds, (0, 1)).all():
        raise UserError(f"point labels {kinds.tolist()}: give one 0 or 1 for each point")
    if not (kinds == 1).any():
        raise UserError("points: at least one must be foreground (label 1)")
    return array, kinds


def check_mask_size(mask: np.ndarray, size: Sequence[int], name: str) -> None:
    """Raise UserError where a (H, W) mask is not of the image's size; `name` says which mask."""
    if mask.shape != tuple(size):
        found, wanted = shown_size(mask.shape), shown_size(size)
        raise UserError(f"{name} is {found} but the image {wanted} (H x W)")


def shown_size(size: Sequence[int]) -> str:
    """`height x width`, for messages."""
    return " x ".join(map(str, size))


def _check_inside(points: np.ndarray, height: int, width: int, name: str) -> None:
    """Coordinates may lie on the far edge (x = width): annotation tools write such boxes."""
    is_good = np.isfinite(points).all() and (points >= 0).all()
    if not is_good or (points > [width, height]).any():
        shown = points.tolist()
        raise UserError(f"{name} {shown}: lies outside of the image of {width} x {height} pixels")
