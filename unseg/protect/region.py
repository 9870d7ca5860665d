"""The region that sets the budget, and the prompts that steer the noise (SPEC section 5).

The two are independent: with a label the region is the label's, whatever the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from unseg.data.annotations.base import Annotation
from unseg.protect.picture import Picture
from unseg.types import Prompts

RegionMode = Literal["all", "classes", "single", "things"]


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

    Raises:
        UserError: it fits neither the upright nor the stored size.
    """
    raise NotImplementedError


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
    raise NotImplementedError


def instance_regions(
    annotation: Annotation, *, mode: RegionMode = "all", classes: Sequence[int] = ()
) -> list[np.ndarray]:
    """The same choice, object by object: a list of (H, W) bool, empty ones left out."""
    raise NotImplementedError


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
        boxes: (N, 4) XYXY inclusive, image frame.
        point_coords: (N, 2) (X, Y), image frame.
        point_labels: (N,) 1 foreground, 0 background; None: all foreground.
        weights_dir: where SAM's weights are looked for.

    Raises:
        UserError: a size or a coordinate that does not fit the image.
    """
    raise NotImplementedError


def official_region(mask: np.ndarray, *, image_size: int = 1024, grid: int = 256) -> np.ndarray:
    """The released program's region map: the mask seen through its 256-grid prompt.

    Args:
        mask: (H, W) bool, or uint8 soft mask in [0, 255] (`Annotation.soft_mask`).
        image_size: side S of the generator's input.
        grid: side of the mask prompt.

    Returns:
        (H, W) bool.
    """
    raise NotImplementedError


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

    Args:
        size: (H, W) of the upright image; its square has side max(H, W).
        image_size: S.
        mask_size: side of the mask prompt, 4g.
        mask: (H, W) bool or uint8 soft.
        boxes: (4,) or (N, 4) XYXY inclusive, image frame. N boxes give N rows (one prompt each).
        point_coords: (N, 2) (X, Y), image frame.
        point_labels: (N,).
    """
    raise NotImplementedError
