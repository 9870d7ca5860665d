"""Look at the noise: embedded scenes, protected by the shipped generators, and what changed.

python scripts/contact_sheet.py OUT.png [generator ...]
"""

import sys

import cv2
import numpy as np

import unseg
from unseg.data import Synthetic

SCENES = 3
SIDE = 160
GAIN = 12
"""Shown amplification of the noise: 8 levels become 96 of the 128 that grey has to either side."""


def main(out: str, names: list[str]) -> int:
    """Write one row a scene: the picture, then protected picture and noise of each generator."""
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
    sheet = np.concatenate(rows)
    if not cv2.imwrite(out, sheet[..., ::-1]):
        print(f"{out}: could not be written", file=sys.stderr)
        return 1
    columns = [text for name in names for text in (f"protected by {name}", f"noise x {GAIN}")]
    print(f"{out}: {' | '.join(['picture', *columns])}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:] or ["default", "robust"]))
