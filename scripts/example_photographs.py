"""The pictures of docs/example_report: pieces of three photographs that anybody may pass on.

python scripts/example_photographs.py OUT      (needs scikit-image, extra `dev`)

Photographs, their masks and their credits: scripts/readme_picture.py. Each piece is a square of 70
to 100 % of the photograph's height, anywhere in it, half of them mirrored, reduced to 128 x 128.
Written are OUT/images, OUT/masks and the lists OUT/train.txt (120 pieces) and OUT/test.txt (48).
Pieces to learn from and pieces to test on are of the same photographs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from readme_picture import photographs

SIZE = 128
SPLITS = {"train": 40, "test": 16}
"""Pieces of each photograph."""
NAMES = ("chelsea", "coffee", "astronaut")


def piece(
    photo: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A square of a photograph and of its mask, (SIZE, SIZE, 3) and (SIZE, SIZE) uint8."""
    height, width = mask.shape
    side = int(height * rng.uniform(0.7, 1))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    flip = slice(None, None, -1 if rng.random() < 0.5 else 1)
    window = (slice(top, top + side), slice(left, left + side))
    return (
        cv2.resize(photo[window][:, flip], (SIZE, SIZE), interpolation=cv2.INTER_AREA),
        cv2.resize(mask[window][:, flip], (SIZE, SIZE), interpolation=cv2.INTER_NEAREST),
    )


def main(out: Path) -> int:
    """Write pictures, masks and lists; the same ones each time."""
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split, count in SPLITS.items():
        names = []
        for photo_name, (photo, mask) in zip(NAMES, photographs(), strict=True):
            for i in range(count):
                names.append(f"{photo_name}_{split}_{i:02}")
                image, label = piece(photo, mask, rng)
                cv2.imwrite(str(out / "images" / f"{names[-1]}.png"), image[..., ::-1])
                cv2.imwrite(str(out / "masks" / f"{names[-1]}.png"), label)
        (out / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    print(f"{out}: {', '.join(f'{len(NAMES) * n} pieces to {s}' for s, n in SPLITS.items())}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python scripts/example_photographs.py OUT", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(Path(sys.argv[1])))
