"""How far a person sees the change of a picture: colour differences after the eye's blur, SSIM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from unseg.io.decode import read_rgb
from unseg.utils.errors import UserError

PIXELS_PER_DEGREE = 40.0
"""A screen of 96 dots an inch seen from 60 cm."""

PICTURES = 8
"""Of a set that are compared; one of 0.2 megapixels takes 0.3 s."""

_SSIM_WINDOW = 7
_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)  # linear sRGB, white D65 (IEC 61966-2-1)

_TO_OPPONENT = np.array(
    [[0.279, 0.720, -0.107], [-0.449, 0.290, -0.077], [0.086, -0.590, 0.501]]
)  # XYZ to light-dark, red-green and blue-yellow (Poirson and Wandell, Vision Research 1993)

_EYE = (
    ((0.921, 0.0283), (0.105, 0.133), (-0.108, 4.336)),
    ((0.531, 0.0392), (0.330, 0.494)),
    ((0.488, 0.0536), (0.371, 0.386)),
)
"""(weight, spread in degrees) of the Gaussians by which the eye blurs each opponent colour:
S-CIELAB, Zhang and Wandell, SID 1996. Weights are brought to a sum of 1."""


@dataclass(frozen=True)
class Visibility:
    """What a person sees of a change.

    Attributes:
        delta_e: mean CIEDE2000 over the pixels; about 1 is just seen on large plain fields.
        delta_e_99: 99th percentile over the pixels.
        ssim: structural similarity, 1 where nothing changed (Wang et al., TIP 2004).
    """

    delta_e: float
    delta_e_99: float
    ssim: float


def visibility(
    clean: np.ndarray, changed: np.ndarray, *, pixels_per_degree: float = PIXELS_PER_DEGREE
) -> Visibility:
    """Compare two pictures as a person would at the stated distance.

    Args:
        clean: (H, W, 3) uint8 sRGB, both sides at least 7.
        changed: the same with a change.
        pixels_per_degree: of the viewer's field of view.

    Raises:
        ValueError: sizes differ or a side is too short.
    """
    if clean.shape != changed.shape or min(clean.shape[:2]) < _SSIM_WINDOW:
        raise ValueError(f"pictures of {clean.shape} and {changed.shape}: must agree, sides >= 7")
    from skimage.color import deltaE_ciede2000
    from skimage.metrics import structural_similarity

    seen, seen_changed = (_as_seen(picture, pixels_per_degree) for picture in (clean, changed))
    difference = deltaE_ciede2000(seen, seen_changed)
    return Visibility(
        delta_e=float(difference.mean()),
        delta_e_99=float(np.percentile(difference, 99)),
        ssim=float(structural_similarity(clean, changed, channel_axis=2)),
    )


def seen_change(pairs: Sequence[tuple[Path, Path]]) -> dict[str, float | None]:
    """How a set's change is seen: means over at most `PICTURES` of its pictures, evenly spaced.

    Args:
        pairs: (clean, changed) files.

    Returns:
        The attributes of `Visibility` by name; None for all where no picture is large enough, or
        scikit-image (extra `eval`) is not installed.

    Raises:
        UserError: a picture cannot be read, or has another size than its clean one.
    """
    names = [field.name for field in fields(Visibility)]
    if find_spec("skimage") is None:
        return dict.fromkeys(names)
    chosen = [
        pairs[i] for i in np.linspace(0, len(pairs) - 1, min(len(pairs), PICTURES), dtype=int)
    ]
    found = []
    for clean, changed in chosen:
        before, after = read_rgb(clean), read_rgb(changed)
        if before.shape != after.shape:
            raise UserError(f"{changed}: is {after.shape[:2]} (H, W), not {before.shape[:2]}")
        if min(before.shape[:2]) >= _SSIM_WINDOW:
            found.append(visibility(before, after))
    return {
        name: float(np.mean([getattr(one, name) for one in found])) if found else None
        for name in names
    }


def _as_seen(picture: np.ndarray, pixels_per_degree: float) -> np.ndarray:
    """(H, W, 3) CIELAB of an sRGB picture after the eye's blur of each opponent colour."""
    from skimage.color import xyz2lab

    values = picture.astype(np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    opponent = linear @ (_TO_OPPONENT @ _TO_XYZ).T
    for channel, gaussians in enumerate(_EYE):
        plane = opponent[..., channel]
        total = sum(weight for weight, _ in gaussians)
        opponent[..., channel] = sum(
            weight / total * gaussian_filter(plane, spread * pixels_per_degree, mode="nearest")
            for weight, spread in gaussians
        )
    return xyz2lab(opponent @ np.linalg.inv(_TO_OPPONENT).T)
