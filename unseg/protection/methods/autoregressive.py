"""AR: noise in which every pixel follows from its neighbours by the class's own rule.

Reference: P. Sandoval-Segura, V. Singla, J. Geiping, M. Goldblum, T. Goldstein, D. W. Jacobs,
"Autoregressive Perturbations for Data Poisoning", NeurIPS 2022. Here for each class of a label map
(docs/METHOD.md, "6. Evaluation").
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from unseg.protection.methods.base import ByClass, Canvas, MethodOptions, scaled_to
from unseg.utils.seed import numpy_generator

WINDOW = 3
LEAD = 4
"""Rows and columns made before the image's own and cropped: two are random, two more follow."""
RMS = 255 / np.sqrt(3072)
"""In 8-bit grey levels: an L2 norm of sqrt(3 H W / 3072), 1 for a CIFAR picture."""

_ANGLES = 512
_GROWTH = 1e-6  # a step; (1 + 1e-6) ** 4096 is nothing
_TRIES = 10_000
_BLOCK = 64


class Autoregressive(ByClass):
    """Fields that the class's three filters (one a colour) leave no surprise in."""

    title = "autoregressive noise of each class"
    reads: ClassVar[tuple[str, ...]] = (*ByClass.reads, "noise.patch")

    def __init__(self, options: MethodOptions) -> None:
        super().__init__(options)
        self._filters: dict[int, np.ndarray] = {}

    def of_class(self, canvas: Canvas, label: int) -> Tensor:
        """The image plus the class's field."""
        channels, height, width = canvas.image.shape[1:]
        field = torch.from_numpy(self.field(canvas.key, label, channels, (height, width)))
        return canvas.image + scaled_to(field, RMS).to(canvas.image)[None]

    def field(self, key: str, label: int, channels: int, size: tuple[int, int]) -> np.ndarray:
        """(C, H, W) float32, not scaled.

        A grey picture carries the first colour's field: a mean of three would follow no filter.
        """
        filters = self.filters(label)[:channels]
        rng = numpy_generator(self.options.seed, "ar", label, key)
        height, width = size
        side = self.options.patch
        if side is None:
            return fill(filters[None], size, rng)[0]
        rows, columns = -(-height // side), -(-width // side)
        pieces = fill(np.repeat(filters[None], rows * columns, axis=0), (side, side), rng)
        tiled = pieces.reshape(rows, columns, channels, side, side).transpose(2, 0, 3, 1, 4)
        return np.ascontiguousarray(
            tiled.reshape(channels, rows * side, columns * side)[:, :height, :width]
        )

    def filters(self, label: int) -> np.ndarray:
        """(3, 3, 3) float64: for each colour the first filter drawn whose field does not grow."""
        if label not in self._filters:
            rng = numpy_generator(self.options.seed, "ar", label)
            self._filters[label] = np.stack([draw_filter(rng) for _ in range(3)])
        return self._filters[label]


def draw_filter(rng: np.random.Generator) -> np.ndarray:
    """A (3, 3) float64 filter whose field stays bounded; about one of six drawn ones is so."""
    for _ in range(_TRIES):
        values = rng.standard_normal(WINDOW * WINDOW)
        values[-1] = 0  # the place of the pixel that is filled
        weights = (values / values.sum()).reshape(WINDOW, WINDOW)
        if np.isfinite(weights).all() and is_bounded(weights):
            return weights
    raise AssertionError("no stable filter in ten thousand draws")


def is_bounded(weights: np.ndarray) -> bool:
    """Whether the field of a filter never grows, at any size.

    x[m, n] = sum g[a, b] x[m - a, n - b] does not grow if 1 - sum g[a, b] z^a w^b has no zero
    inside the bidisc (J. L. Shanks et al., 1972; T. S. Huang, 1972), which is seen from the
    recursion along a row, and from that over rows for waves along a row. Weights sum to 1, so
    constant fields neither grow nor fade and the edge itself is allowed.
    """
    lags = weights[::-1, ::-1]  # lags[a, b] weighs the pixel a rows up and b columns left
    along_row = np.roots([1, -lags[0, 1], -lags[0, 2]])
    if np.abs(along_row).max() >= 1:
        return False
    wave = np.exp(-1j * np.pi * np.arange(1, _ANGLES + 1) / _ANGLES)
    row = [lags[a, 0] + lags[a, 1] * wave + lags[a, 2] * wave**2 for a in range(WINDOW)]
    first, second = row[1] / (1 - row[0]), row[2] / (1 - row[0])
    root = np.sqrt(first**2 + 4 * second)
    growth = np.maximum(np.abs(first + root), np.abs(first - root)) / 2
    return bool(growth.max() <= 1 + _GROWTH)


def fill(filters: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Fields that follow filters in raster order from a random lead, which is cropped.

    A pixel depends on the two rows above and the two columns before, so all pixels of an
    anti-diagonal are independent of each other and are filled at once.

    Args:
        filters: (N, C, 3, 3) float64.
        size: (H, W).
        rng: draws the lead from N(0, 1).

    Returns:
        (N, C, H, W) float32.
    """
    count, channels = filters.shape[:2]
    height, width = size[0] + LEAD, size[1] + LEAD
    fields = count * channels
    lags = filters.reshape(fields, WINDOW, WINDOW)[:, ::-1, ::-1]
    top = rng.standard_normal((fields, WINDOW - 1, width))
    left = rng.standard_normal((fields, height, WINDOW - 1))
    # diagonals[t][:, i] is pixel (i, t - i): each is contiguous, which the picture's are not.
    diagonals = np.zeros((height + width - 1, fields, height), np.float32)
    recent = [np.zeros((fields, height)) for _ in range(2 * (WINDOW - 1))]
    for t in range(height + width - 1):
        current = np.zeros((fields, height))
        for k in range(WINDOW - 1):
            if t - k in range(width) and k < height:
                current[:, k] = top[:, k, t - k]
            if WINDOW - 1 <= t - k < height:
                current[:, t - k] = left[:, t - k, k]
        low, high = max(WINDOW - 1, t - width + 1), min(height, t - WINDOW + 2)
        for a in range(WINDOW):
            for b in range(WINDOW):
                if low < high and a + b > 0:
                    before = recent[a + b - 1][:, low - a : high - a]
                    current[:, low:high] += lags[:, a, b, None] * before
        diagonals[t] = current
        recent = [current, *recent[:-1]]
    result = _upright(diagonals, height, width)[:, LEAD:, LEAD:]
    return np.ascontiguousarray(result).reshape(count, channels, *size)


def _upright(diagonals: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N, H, W) from its anti-diagonals (H + W - 1, N, H), in blocks that fit the cache."""
    result = np.empty((diagonals.shape[1], height, width), np.float32)
    for n in range(len(result)):
        for start in range(0, height, _BLOCK):
            stop = min(start + _BLOCK, height)
            block = diagonals[start : stop + width - 1, n, start:stop].T.copy()
            for i in range(stop - start):
                result[n, start + i] = block[i, i : i + width]
    return result
