"""The budget check of written files: what a picture changed, and whether that keeps the budget."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import cv2
import numpy as np

from unseg.io.decode import PixelRows

_TOLERANCE = 1e-6
"""Of a measured 16-bit change in 8-bit levels (n / 257 is no exact number)."""

_STRIP = 1 << 20
"""Pixels that are measured at a time."""


@dataclass(frozen=True)
class Measurement:
    """What a written file changed, against its input.

    Attributes:
        linf_inside: largest change inside the region in 8-bit levels; 0 where it is empty.
        linf_outside: the same outside.
        psnr: in dB over all pixels and channels, or None where nothing changed.
        region_share: part of the image's pixels inside the region.
        rms: root mean square of the change in 8-bit levels.
        l2: Euclidean norm of the change of values in [0, 1].
    """

    linf_inside: float
    linf_outside: float
    psnr: float | None
    region_share: float
    rms: float
    l2: float

    def as_dict(self) -> dict[str, float | None]:
        """For the manifest."""
        return asdict(self)


def level_scale(max_value: int) -> int:
    """Stored levels in one 8-bit grey level: 1, or 257 at 16 bits."""
    return max_value // 255


def limits(bounds: tuple[float, float], max_value: int) -> tuple[int, int]:
    """Largest whole change of stored levels (inside, outside): a fractional budget rounds down."""
    inside, outside = (math.floor(b * level_scale(max_value) + _TOLERANCE) for b in bounds)
    return inside, outside


def fraction_note(bounds: tuple[float, float] | None) -> str | None:
    """What a fractional budget becomes in 8-bit files; None where it is whole."""
    if bounds is None or all(float(b).is_integer() for b in bounds):
        return None
    inside, outside = limits(bounds, 255)
    return (
        f"the budget {bounds[0]:g} / {bounds[1]:g} is not whole: no pixel of an 8-bit file changes "
        f"by more than {inside} levels inside and {outside} outside of the region"
    )


def measure(
    clean: np.ndarray, protected: np.ndarray | PixelRows, region: np.ndarray
) -> Measurement:
    """What changed between two pictures of one shape and type.

    Args:
        clean: (H, W, C) uint8 or uint16.
        protected: the same; each row is asked for once.
        region: (H, W) bool.
    """
    scale = level_scale(int(np.iinfo(clean.dtype).max))
    step = max(_STRIP // region.shape[1], 1)
    sum_of_squares, largest = 0, {True: 0.0, False: 0.0}
    # OpenCV's norms of a difference make no picture of it: a twentieth of NumPy's time. A sum of
    # whole numbers is whole; some builds square a root and leave a fraction.
    for first in range(0, len(region), step):
        rows = slice(first, first + step)
        pair = clean[rows], protected[rows]
        sum_of_squares += round(cv2.norm(*pair, cv2.NORM_L2SQR))
        for is_inside, mask in ((True, region[rows]), (False, ~region[rows])):
            found = cv2.norm(*pair, cv2.NORM_INF, mask.view(np.uint8))
            largest[is_inside] = max(largest[is_inside], found)
    rms = math.sqrt(sum_of_squares / clean.size) / scale
    return Measurement(
        linf_inside=_rounded(largest[True] / scale),
        linf_outside=_rounded(largest[False] / scale),
        psnr=round(20 * math.log10(255 / rms), 4) if rms else None,
        region_share=round(float(np.count_nonzero(region)) / region.size, 6),
        rms=round(rms, 5),
        l2=round(math.sqrt(sum_of_squares) / (255 * scale), 5),
    )


def keeps_budget(measured: Measurement, bounds: tuple[float, float]) -> bool:
    """Whether a measured change lies within the budget."""
    return (
        measured.linf_inside <= bounds[0] + _TOLERANCE
        and measured.linf_outside <= bounds[1] + _TOLERANCE
    )


def _rounded(value: float) -> float:
    return round(value, 7)
