"""The README's picture: three photographs, protected, the noise, and what a victim sees of it.

python scripts/readme_picture.py docs/images/readme.jpg      (needs scikit-image, extra `dev`)

The photographs come with scikit-image: chelsea (CC0, Stefan van der Walt), coffee (CC0, Rachel
Michetti, courtesy of Pikolo Espresso Bar), astronaut (public domain, NASA). The masks are drawn
here by hand.
"""

from __future__ import annotations

import sys

import cv2
import numpy as np
from skimage import data

import unseg

WIDTH, HEIGHT = 720, 480
"""Frame of the hand-drawn masks; every photograph is cut to this ratio."""

CAT = (
    (55, 0), (50, 120), (58, 190), (0, 240), (0, 480), (590, 480), (570, 440), (500, 420),
    (520, 330), (560, 270), (580, 200), (570, 110), (600, 60), (635, 0),
)  # fmt: skip
SAUCER = ((333, 262), (242, 202))
CUP = ((346, 133), (138, 112))
WOMAN = (
    (300, 28), (340, 20), (390, 50), (415, 90), (424, 140), (400, 170), (385, 195), (370, 200),
    (362, 240), (400, 265), (425, 310), (425, 340), (470, 370), (500, 430), (505, 480), (40, 480),
    (60, 410), (90, 360), (155, 295), (165, 255), (185, 225), (215, 208), (258, 212), (256, 190),
    (225, 160), (215, 120), (225, 80), (255, 50),
)  # fmt: skip

GAIN = 12
"""Amplification of the shown noise: 8 levels become 96 of the 128 that grey has to either side."""
VICTIM_WIDTH = 64
"""Pixels to which the victims of docs/RESULTS.md reduce a picture."""
SHOWN = (300, 200)
HEADINGS = (
    "clean",
    "protected, 8/2",
    f"noise x {GAIN}",
    f"noise at a victim's {VICTIM_WIDTH} px, x {GAIN}",
)


def drawn(*, polygon: tuple = (), ellipses: tuple = ()) -> np.ndarray:
    """A mask (HEIGHT, WIDTH) uint8 in {0, 255} from corners or from (centre, half axes)."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    if polygon:
        cv2.fillPoly(mask, [np.array(polygon, np.int32)], 255)
    for centre, axes in ellipses:
        cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, -1)
    return mask


def photographs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of photograph (H, W, 3) uint8 RGB and mask (H, W) uint8 in {0, 255}."""
    pairs = (
        (data.chelsea(), drawn(polygon=CAT)),
        (data.coffee(), drawn(ellipses=(SAUCER, CUP))),
        (data.astronaut(), drawn(polygon=WOMAN)),
    )
    found = []
    for photo, mask in pairs:
        height = photo.shape[1] * HEIGHT // WIDTH
        photo = np.ascontiguousarray(photo[:height])
        size = photo.shape[1::-1]
        found.append((photo, cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)))
    return found


def amplified(change: np.ndarray) -> np.ndarray:
    """A signed change in grey levels as a picture around grey, uint8."""
    return np.clip(128 + GAIN * change, 0, 255).astype(np.uint8)


def row(photo: np.ndarray, mask: np.ndarray, generator: object) -> np.ndarray:
    """Four pictures of one photograph, side by side."""
    result = unseg.protect(photo, mask=mask, generator=generator)
    small = (VICTIM_WIDTH, VICTIM_WIDTH * HEIGHT // WIDTH)
    seen = [cv2.resize(x, small, interpolation=cv2.INTER_AREA) for x in (photo, result.image)]
    at_victim = amplified(seen[1].astype(np.float32) - seen[0].astype(np.float32))
    shown = [
        cv2.resize(x, SHOWN, interpolation=cv2.INTER_AREA)
        for x in (photo, result.image, amplified(result.noise.astype(np.float32)))
    ]
    shown.append(cv2.resize(at_victim, SHOWN, interpolation=cv2.INTER_NEAREST))
    return np.concatenate(shown, axis=1)


def headings() -> np.ndarray:
    """The line above the columns, (28, W, 3) uint8."""
    line = np.full((28, SHOWN[0] * len(HEADINGS), 3), 255, np.uint8)
    for i, text in enumerate(HEADINGS):
        place = (SHOWN[0] * i + 6, 19)
        cv2.putText(line, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return line


def main(out: str) -> int:
    """Write the picture."""
    generator = unseg.load_generator("default", device="cpu")
    rows = [row(photo, mask, generator) for photo, mask in photographs()]
    sheet = np.concatenate([headings(), *rows])
    if not cv2.imwrite(out, sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85]):
        print(f"{out}: could not be written", file=sys.stderr)
        return 1
    print(f"{out}: {' | '.join(HEADINGS)}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python scripts/readme_picture.py OUT.jpg", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1]))
