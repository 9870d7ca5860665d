"""Large-scale jitter, the training augmentation: flip, resize and crop of an image and its mask.

The jitter resizes to up to twice the model's side and keeps one crop of it; `Crop` computes that
crop alone, from the source pixels it touches, and equals resize-then-crop to the last bits of a
float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LargeScaleJitter:
    """Draws flip, scale and crop (docs/METHOD.md, "4. Training").

    Attributes:
        image_size: side S of the result.
        scale: (smallest, largest) long side, in units of S.
        flip: probability of a mirror image.
    """

    image_size: int
    scale: tuple[float, float] = (0.1, 2.0)
    flip: float = 0.5

    def draw(self, size: tuple[int, int], rng: np.random.Generator) -> Crop:
        """A crop for an image of `size` (H, W); crop offsets are uniform integers."""
        is_flipped = bool(rng.random() < self.flip)
        long_side = max(1, round(self.image_size * rng.uniform(*self.scale)))
        factor = long_side / max(size)
        height, width = (max(1, round(side * factor)) for side in size)
        room = (max(height - self.image_size, 0), max(width - self.image_size, 0))
        offset = (int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1)))
        return Crop(is_flipped, size, (height, width), offset, self.image_size)


@dataclass(frozen=True)
class Taps:
    """Where each output pixel of one axis reads: two source positions and two weights.

    Attributes:
        first, second: (N,) int64 source positions.
        weight_first, weight_second: (N,) float32, adding up to 1.
    """

    first: np.ndarray
    second: np.ndarray
    weight_first: np.ndarray
    weight_second: np.ndarray


def bilinear_taps(source: int, target: int, start: int, stop: int) -> Taps:
    """Taps of the output positions `start` to `stop` when `source` pixels become `target`.

    The coordinate is rounded to float32 once, as the fused multiply-add of torch's kernels does;
    rounding each operation would move weights by up to 1e-4.
    """
    scale = np.float64(np.float32(source) / np.float32(target))
    position = (scale * (np.arange(start, stop) + 0.5) - 0.5).astype(np.float32)
    position = np.maximum(position, np.float32(0))
    first = np.minimum(position.astype(np.int64), source - 1)
    second = np.minimum(first + 1, source - 1)
    weight = np.clip(position - first.astype(np.float32), 0, 1).astype(np.float32)
    return Taps(first, second, np.float32(1) - weight, weight)


@dataclass(frozen=True)
class Crop:
    """One draw of large-scale jitter for an image of a given size.

    Attributes:
        flip: mirror left and right, before the resize.
        source: (H, W) of the image.
        scaled: (H, W) that it is resized to.
        offset: (y, x) of the crop in the resized image.
        image_size: side S of the square result; the crop is min(scaled, S), the rest zero.
    """

    flip: bool
    source: tuple[int, int]
    scaled: tuple[int, int]
    offset: tuple[int, int]
    image_size: int

    def taps(self, axis: int) -> Taps:
        """Taps of the crop's rows (axis 0) or columns (axis 1), the mirror included."""
        start, source = self.offset[axis], self.source[axis]
        stop = start + min(self.scaled[axis], self.image_size)
        taps = bilinear_taps(source, self.scaled[axis], start, stop)
        if axis == 1 and self.flip:
            last = source - 1
            taps = Taps(
                last - taps.first, last - taps.second, taps.weight_first, taps.weight_second
            )
        return taps


@dataclass(frozen=True)
class Window:
    """The source pixels a crop reads, still uint8, and how to make the crop of them.

    A window is what workers hand over: at most twice as many rows and columns as the result has,
    far fewer where the image is enlarged. `render` does the arithmetic, on any device.

    Attributes:
        pixels: (C, w, h) uint8: columns first, as picking whole lines is many times faster than
            picking single pixels of each line, and columns are picked first.
        rows, columns: taps into the window.
        image_size: side S of the square result.
    """

    pixels: Tensor
    rows: Taps
    columns: Taps
    image_size: int


def cut_window(pixels: np.ndarray, crop: Crop) -> Window:
    """The window of `crop` in (H, W, 3) or (H, W) uint8 pixels.

    Raises:
        ValueError: the crop was drawn for an image of another size.
    """
    if pixels.shape[:2] != crop.source:
        raise ValueError(f"crop was drawn for {crop.source} (H, W), image is {pixels.shape[:2]}")
    row_choice, rows = _compact(crop.taps(0))
    column_choice, columns = _compact(crop.taps(1))
    turned = cv2.transpose(pixels[row_choice][:, column_choice])
    planes = np.stack(cv2.split(turned)) if pixels.ndim == 3 else turned[None]
    return Window(torch.from_numpy(planes), rows, columns, crop.image_size)


def _compact(taps: Taps) -> tuple[slice | np.ndarray, Taps]:
    """Source positions that hold all that is read, at most two a tap, and taps into them."""
    count = len(taps.first)
    low = int(min(taps.first[0], taps.first[-1], taps.second[0], taps.second[-1]))
    high = int(max(taps.first[0], taps.first[-1], taps.second[0], taps.second[-1]))
    if high - low < 2 * count:
        moved = Taps(taps.first - low, taps.second - low, taps.weight_first, taps.weight_second)
        return slice(low, high + 1), moved
    used, numbers = np.unique(np.concatenate((taps.first, taps.second)), return_inverse=True)
    return used, Taps(numbers[:count], numbers[count:], taps.weight_first, taps.weight_second)


def render(window: Window, device: torch.device | str = "cpu") -> Tensor:
    """The crop: (C, h, w) float32 in [0, 1], h and w at most S; not yet padded."""
    pixels = window.pixels.to(device, non_blocking=True)
    columns, rows = window.columns, window.rows

    def column_lines(positions: np.ndarray) -> Tensor:
        lines = pixels.index_select(1, _put(positions, device))
        return lines.transpose(1, 2).contiguous().float().div_(255)

    x = column_lines(columns.first).mul_(_put(columns.weight_first, device))
    x.addcmul_(column_lines(columns.second), _put(columns.weight_second, device))
    second = x.index_select(1, _put(rows.second, device))
    first = x.index_select(1, _put(rows.first, device))
    first.mul_(_put(rows.weight_first, device)[:, None])
    return first.addcmul_(second, _put(rows.weight_second, device)[:, None])


def _put(values: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(values).to(device, non_blocking=True)


def pad_to(crop: Tensor, image_size: int) -> Tensor:
    """`crop` (..., h, w) with zeros added at bottom and right up to side `image_size`."""
    return F.pad(crop, (0, image_size - crop.shape[-1], 0, image_size - crop.shape[-2]))


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(1, C, H, W) float32 in [0, 1] of (H, W, C) or (H, W) uint8, or of a bool mask."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))
    planes = tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor[None]
    return planes[None].float().div_(255)
