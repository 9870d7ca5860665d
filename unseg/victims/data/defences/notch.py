"""`notch`: frequencies at which all pictures together are louder than pictures are, set to zero.

Own. Noise that repeats has a line spectrum, and the mean of the logarithms of many spectra shows
the lines: pictures fall off smoothly from low to high frequencies. No mask is needed.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from unseg.victims.data.defences.base import Defend, Known, PublishedPicture

FRAME = 128
"""Spectra are compared in cycles a side of the picture padded to a square, up to half of this."""
LOWEST = 6
"""Cycles a side below which nothing is a peak: there the pictures themselves are."""
_EMPTY = 1e-4


def fit_notch(known: Known, deviations: float) -> Defend:
    """The filter that empties the peaks of the pictures' mean log spectrum.

    Six deviations are calibrated on training pictures of Kvasir-SEG at 128 pixels: they find 0.6 %
    of the bins in clean ones, and 1.7 % in those under a tile of 8/2 levels, five of six at its
    lines; eight find 0.1 % and 1.0 %.

    Args:
        known: published pictures.
        deviations: how many median absolute deviations above the median of its ring a peak lies.
    """
    peaks = spectral_peaks(mean_log_spectrum(known), deviations)

    def defend(picture: PublishedPicture) -> Tensor:
        return emptied(picture.image, peaks)

    return defend


def mean_log_spectrum(known: Known) -> Tensor:
    """(3, FRAME, FRAME) mean over pictures of the log amplitude of brightness and two colours."""
    total = torch.zeros(3, FRAME, FRAME)
    count = 0
    for picture in known.some_pictures():
        height, width = picture.image.shape[-2:]
        scale = FRAME / max(height, width)
        size = (max(2, round(height * scale)), max(2, round(width * scale)))
        bands = _to_bands(picture.image)[None]
        small = F.interpolate(bands, size, mode="area")[0]
        small = small - small.mean((1, 2), keepdim=True)
        # Borders that do not meet would be lines in the spectrum.
        window = torch.hann_window(size[0])[:, None] * torch.hann_window(size[1])
        total += torch.log(torch.fft.fft2(small * window, s=(FRAME, FRAME)).abs() + _EMPTY)
        count += 1
    return total / max(1, count)


def spectral_peaks(spectrum: Tensor, deviations: float) -> Tensor:
    """(3, FRAME, FRAME) bool: bins far above the median of their ring.

    Args:
        spectrum: of `mean_log_spectrum`, lowest frequency first as in `torch.fft`.
        deviations: in median absolute deviations of the ring.
    """
    cycles = torch.fft.fftfreq(FRAME, 1 / FRAME)
    radius = torch.hypot(cycles[:, None], cycles[None]).round().long()
    peaks = torch.zeros_like(spectrum, dtype=torch.bool)
    for ring in range(LOWEST, int(radius.max()) + 1):
        is_ring = radius == ring
        values = spectrum[:, is_ring]
        middle = values.median(1, keepdim=True).values
        deviation = (values - middle).abs().median(1, keepdim=True).values
        peaks[:, is_ring] = values > middle + deviations * deviation
    return peaks


def emptied(image: Tensor, peaks: Tensor) -> Tensor:
    """A picture (3, H, W) whose bins at the peaks are zero.

    Args:
        image: float in [0, 1].
        peaks: of `spectral_peaks`; its frequencies are cycles a side of the padded square.
    """
    height, width = image.shape[-2:]
    side = max(height, width)
    spectrum = torch.fft.fft2(_to_bands(image))
    rows, columns = (
        torch.round(torch.fft.fftfreq(length, 1 / side)).long() for length in (height, width)
    )
    is_known = (rows.abs() < FRAME // 2)[:, None] & (columns.abs() < FRAME // 2)
    is_peak = peaks[:, rows % FRAME][:, :, columns % FRAME] & is_known
    bands = torch.fft.ifft2(spectrum.masked_fill(is_peak, 0)).real
    return _from_bands(bands).clamp(0, 1)


_BANDS = torch.tensor(
    [
        [1 / math.sqrt(3)] * 3,
        [1 / math.sqrt(2), 0, -1 / math.sqrt(2)],
        [1 / math.sqrt(6), -2 / math.sqrt(6), 1 / math.sqrt(6)],
    ]
)
"""Brightness, red against blue, green against magenta: orthonormal."""


def _to_bands(image: Tensor) -> Tensor:
    return torch.einsum("bc,chw->bhw", _BANDS, image)


def _from_bands(bands: Tensor) -> Tensor:
    return torch.einsum("bc,bhw->chw", _BANDS, bands)
