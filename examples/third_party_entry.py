"""A leaderboard entry without UnSeg: python third_party_entry.py IMAGES MASKS OUT."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

images, masks, out = map(Path, sys.argv[1:4])
out.mkdir(parents=True, exist_ok=True)
for mask_path in sorted(masks.iterdir()):
    path = next(images.glob(f"{mask_path.stem}.*"))
    mask = np.asarray(Image.open(mask_path).convert("L"))[..., None] > 127
    cells = np.indices(mask.shape[:2]) // (max(mask.shape) / 32)
    checks = 1 - 2 * (cells.sum(0) % 2)[..., None]
    noise = np.where(mask, 8, 2) * checks * [1, -1, 1]  # green against magenta
    pixels = np.asarray(Image.open(path).convert("RGB")) + noise
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(out / f"{path.stem}.png")
card = {
    "schema": 1,
    "title": "checks by hand",
    "authors": "A. N. Other",
    "epsilon": 8,
    "epsilon_bg": 2,
}
(out / "entry.json").write_text(json.dumps(card))
