"""Look at the noise: embedded scenes, protected by the shipped generators, and what changed.

python scripts/contact_sheet.py OUT.png [generator ...]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

import unseg
from unseg.commands._run import user_errors
from unseg.data import Synthetic
from unseg.utils.errors import UserError

SCENES = 3
SIDE = 160
GAIN = 12
"""Shown amplification of the noise: 8 levels become 96 of the 128 that grey has to either side."""


def sheet(names: list[str]) -> np.ndarray:
    """One row a scene: the picture, then protected picture and noise of each generator."""
    scenes = Synthetic(SCENES, image_size=SIDE, seed=11)
    generators = [unseg.load_generator(name, device="cpu") for name in names]
    rows = []
    for scene in (scenes[i] for i in range(SCENES)):
        row = [scene.image]
        for generator in generators:
            result = unseg.protect(scene.image, mask=scene.mask, generator=generator)
            noise = np.clip(128 + GAIN * result.noise.astype(np.int32), 0, 255).astype(np.uint8)
            row += [result.image, noise]
        rows.append(np.concatenate(row, axis=1))
    return np.concatenate(rows)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the sheet."""
    out, *names = [*(sys.argv[1:] if argv is None else argv)] or [""]
    if Path(out).suffix not in (".png", ".jpg"):
        raise UserError("usage: python scripts/contact_sheet.py OUT.png [generator ...]")
    names = names or ["default", "robust"]
    if not cv2.imwrite(out, sheet(names)[..., ::-1]):
        raise UserError(f"{out}: could not be written")
    columns = [text for name in names for text in (f"protected by {name}", f"noise x {GAIN}")]
    print(f"{out}: {' | '.join(['picture', *columns])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
