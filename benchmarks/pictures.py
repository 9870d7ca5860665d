"""Pictures and masks on the disk for the benchmarks: photographs' sizes, textures and edges."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

TRAINING_SIZES = (
    (300, 400), (300, 400), (224, 224), (400, 300), (300, 400), (224, 224), (266, 400), (300, 400),
    (400, 300), (224, 224), (300, 400), (300, 400), (900, 1200), (1200, 800), (300, 400),
    (1800, 2400),
)  # fmt: skip
"""(H, W) in about HQSeg-44K's proportions: MSRA, DUTS and ECSSD near 400 x 300 (60 %), FSS 224
(23 %), ThinObject (11 %) about a megapixel, DIS (7 %) several."""


def write_set(root: Path, sizes: tuple[tuple[int, int], ...], *, seed: int = 0) -> list[str]:
    """`root/images/NAME.jpg` and `root/masks/NAME.png`; returns the names."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = []
    for number, (height, width) in enumerate(sizes):
        rng = np.random.default_rng((seed, number))
        name = f"{number:05d}"
        image, mask = _picture(rng, height, width)
        options = [cv2.IMWRITE_JPEG_QUALITY, 92]
        cv2.imwrite(str(root / "images" / f"{name}.jpg"), image, options)
        cv2.imwrite(str(root / "masks" / f"{name}.png"), mask)
        names.append(name)
    return names


def _picture(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise of all scales (H, W, 3) uint8, and an ellipse (H, W) uint8 of 0 and 255."""
    picture = np.full((height, width, 3), 128, np.float32)
    for scale in (4, 16, 64):
        size = (max(width // scale, 2), max(height // scale, 2))
        field = rng.normal(0, 12 * scale**0.35, (size[1], size[0], 3)).astype(np.float32)
        picture += cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    mask = np.zeros((height, width), np.uint8)
    centre = tuple(int(v) for v in rng.uniform(0.35, 0.65, 2) * (width, height))
    axes = tuple(int(v) for v in rng.uniform(0.15, 0.3, 2) * (width, height))
    cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    picture[mask > 0] += rng.normal(0, 40, 3)
    return np.clip(picture, 0, 255).astype(np.uint8), mask
