"""The prompts that steer the noise, in the frame of the model."""

from __future__ import annotations

import numpy as np
import torch

from unseg.data.prompt_checks import check_mask_size, checked_boxes, checked_points
from unseg.data.prompts import mask_prompt
from unseg.types import Prompts


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
        check_mask_size(mask, size, "mask")
        prompt = mask_prompt(mask_tensor(mask), image_size=image_size, mask_size=mask_size)
        masks = prompt.expand(rows, -1, -1, -1)
    return Prompts(boxes=box_rows, point_coords=coords, point_labels=labels, mask_inputs=masks)


def union_box(boxes: np.ndarray) -> np.ndarray:
    """The (4,) XYXY box around all of (N, 4) boxes."""
    return np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])


def mask_tensor(mask: np.ndarray) -> torch.Tensor:
    """(1, 1, H, W) of a mask: bool of a bool one, float32 in [0, 1] of a soft uint8 one."""
    values = np.array(mask) if mask.dtype == bool else mask.astype(np.float32) / 255
    return torch.from_numpy(values)[None, None]
