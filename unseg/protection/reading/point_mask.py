"""An object mask from clicks: by Segment Anything where its weights are present, else GrabCut."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unseg.io.weight_files.read import read_weight_file, state_dict_of

SAM_WEIGHTS = {
    "vit_b": "sam_vit_b_01ec64.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_h": "sam_vit_h_4b8939.pth",
}
"""Published names of Meta's files, in the order in which they are looked for."""

_GRABCUT_SIDE = 400
_GRABCUT_ROUNDS = 5
_SEED_SHARE = 0.03
"""Radius, of the longer side, of the disc around a click that is certain."""


def mask_from_points(
    image: np.ndarray, coords: np.ndarray, labels: np.ndarray, *, weights_dir: Path
) -> tuple[np.ndarray, str]:
    """The mask of the clicked objects, and "sam" or "grabcut".

    Args:
        image: (H, W, 3) uint8 RGB.
        coords: (N, 2) (X, Y) in the image.
        labels: (N,) 1 foreground, 0 background; at least one 1.
        weights_dir: folder that may hold a file of `SAM_WEIGHTS`.

    Returns:
        (H, W) bool with at least one pixel.
    """
    for size, name in SAM_WEIGHTS.items():
        path = weights_dir / name
        if path.is_file():
            return _sam_mask(_load_sam(size, str(path.resolve())), image, coords, labels), "sam"
    return grabcut_mask(image, coords, labels), "grabcut"


def grabcut_mask(image: np.ndarray, coords: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """GrabCut (Rother et al., 2004) from clicks: the parts of its mask that hold a click.

    The picture is reduced to 400 pixels: the cost grows faster than the pixels, and colour models
    need no more. Arguments and result as for `mask_from_points`.
    """
    height, width = image.shape[:2]
    scale = min(1.0, _GRABCUT_SIDE / max(height, width))
    small_size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
    limits = np.array(small_size) - 1
    at = np.clip(np.round((coords + 0.5) * scale - 0.5), 0, limits).astype(int)

    trimap = np.full(small.shape[:2], cv2.GC_PR_BGD, np.uint8)
    radius = max(1, round(_SEED_SHARE * max(small_size)))
    for (x, y), label in zip(at.tolist(), labels.tolist(), strict=True):
        # Around a foreground click the object is likely, not certain, beyond the certain disc.
        if label:
            likely = np.zeros_like(trimap)
            cv2.circle(likely, (x, y), 4 * radius, 1, -1)
            trimap[(likely == 1) & (trimap == cv2.GC_PR_BGD)] = cv2.GC_PR_FGD
    for (x, y), label in zip(at.tolist(), labels.tolist(), strict=True):
        certain = cv2.GC_FGD if label else cv2.GC_BGD
        cv2.circle(trimap, (x, y), radius, certain, -1)

    clicked = trimap == cv2.GC_FGD
    is_open = (trimap == cv2.GC_PR_BGD) | (trimap == cv2.GC_BGD)
    if is_open.any() and clicked.any() and min(small_size) > 1:
        cv2.setRNGSeed(0)  # its k-means draws from OpenCV's global generator
        bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        unused = (0, 0, 0, 0)  # a rectangle, read in another mode
        outer, inner = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(bgr, trimap, unused, outer, inner, _GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))
    _, parts = cv2.connectedComponents(found.astype(np.uint8))
    touched = np.unique(parts[clicked & found])
    kept = (np.isin(parts, touched[touched > 0]) | clicked).astype(np.float32)
    mask = cv2.resize(kept, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    for x, y in np.clip(np.floor(coords[labels == 1]), 0, [width - 1, height - 1]).astype(int):
        mask[y, x] = True
    return mask


@lru_cache(maxsize=1)
def _load_sam(size: str, path: str) -> Any:
    import torch
    from segment_anything import SamPredictor, sam_model_registry

    model = sam_model_registry[size](checkpoint=None)
    # The library's own loading would run code that a forged file brings along.
    model.load_state_dict(state_dict_of(read_weight_file(path)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return SamPredictor(model.eval().to(device))


def _sam_mask(
    predictor: Any, image: np.ndarray, coords: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """The best of SAM's masks; with one click it offers three, of which its score chooses."""
    predictor.set_image(np.ascontiguousarray(image))
    masks, scores, _ = predictor.predict(coords, labels, multimask_output=len(coords) == 1)
    mask = np.asarray(masks[int(np.argmax(scores))], bool)
    if not mask.any():
        return grabcut_mask(image, coords, labels)
    return mask
