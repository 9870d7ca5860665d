"""Pixels of 16 bits, and netpbm files of any depth: what Pillow reads with 8 bits, or slowly."""

from __future__ import annotations

import re
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from unseg.io.tags import ORIENTATION_TAG
from unseg.utils.errors import UserError

_TIFF_PHOTOMETRIC_TAG = 262
_PNG_GREY_ALPHA = 4
_CLASSIC_TIFF = 42


def deep_pixels(image: Image.Image, data: bytes, name: str) -> tuple[np.ndarray, str]:
    """(H, W, C) uint16 of a 16-bit PNG or TIFF, and the name of its mode; tRNS becomes alpha.

    Args:
        image: the picture, loaded.
        data: its file.
        name: of the file, for messages.

    Raises:
        UserError: pixels of a kind that cannot be kept.
    """
    if image.format == "TIFF":
        kind = image.tag_v2.get(_TIFF_PHOTOMETRIC_TAG)  # type: ignore[attr-defined]
        if kind not in (1, 2):
            raise UserError(
                f"{name}: 16-bit TIFF with photometric interpretation {kind} is not supported; "
                "convert it to 16-bit RGB or grey"
            )
        data = _as_if_upright(data, name)
    is_grey = image.mode.startswith("I") and image.format != "TIFF"
    if is_grey:
        pixels = np.asarray(image).astype(np.uint16)[:, :, None]
    else:
        pixels = _opencv_pixels(image, data, name)
    clear = image.info.get("transparency")
    if image.format == "PNG" and clear is not None and pixels.shape[2] in (1, 3):
        alpha = np.where((pixels == clear).all(2), np.uint16(0), np.uint16(65535))
        pixels = np.dstack([pixels, alpha])
    return pixels, {1: "I;16", 2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[pixels.shape[2]]


def netpbm_pixels(data: bytes) -> np.ndarray:
    """(H, W, C) uint8 or uint16 pixels of a netpbm file (P1 to P6), scaled to the type's range.

    Raises:
        ValueError: the header is damaged, a value is out of range, or values are missing.
    """
    kind = int(data[1:2])
    width, height, limit, start = _netpbm_header(data, kind)
    channels = 3 if kind in (3, 6) else 1
    count = width * height * channels
    if kind in (1, 4):
        values = 1 - _bits(data[start:], kind, width, height)
    elif kind in (2, 3):
        text = re.sub(rb"#[^\n\r]*", b"", data[start:])
        if re.fullmatch(rb"[\d\s]*", text) is None:
            raise ValueError("values that are no numbers")
        values = np.fromstring(text, np.int64, sep=" ")[:count]
    else:
        stored = np.dtype(">u2" if limit > 255 else "u1")
        values = np.frombuffer(data, stored, count, start)
    if len(values) < count or values.min(initial=0) < 0 or values.max(initial=0) > limit:
        raise ValueError("values are missing, or larger than the header says")
    top, kept = (65535, np.uint16) if limit > 255 else (255, np.uint8)
    if limit != top:
        values = np.rint(values * (top / limit))
    return values.astype(kept).reshape(height, width, channels)


def _netpbm_header(data: bytes, kind: int) -> tuple[int, int, int, int]:
    """(width, height, largest value, position of the pixels)."""
    numbers: list[int] = []
    position, wanted = 2, 2 if kind in (1, 4) else 3
    token = re.compile(rb"(?:\s|#[^\n\r]*[\n\r])+(\d{1,9})")
    while len(numbers) < wanted:
        found = token.match(data, position)
        if found is None:
            raise ValueError("the header is damaged")
        numbers.append(int(found[1]))
        position = found.end()
    limit = numbers[2] if wanted == 3 else 1
    if not (numbers[0] and numbers[1] and 0 < limit < 65536):
        raise ValueError(f"a header of {numbers}")
    return numbers[0], numbers[1], limit, position + 1


def _bits(data: bytes, kind: int, width: int, height: int) -> np.ndarray:
    """The stored bits, 1 is black."""
    if kind == 1:
        text = re.sub(rb"#[^\n\r]*|\s+", b"", data)
        return np.frombuffer(text, np.uint8, min(len(text), width * height)) - np.uint8(48)
    rows = np.frombuffer(data, np.uint8, height * -(-width // 8)).reshape(height, -1)
    return np.unpackbits(rows, axis=1)[:, :width].ravel()


def _opencv_pixels(image: Image.Image, data: bytes, name: str) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise UserError(f"{name}: pixels of this 16-bit {image.format} file are not supported")
    if pixels.ndim == 2:
        return pixels[:, :, None]
    if pixels.shape[2] == 4:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)
        if image.format == "PNG" and data[25] == _PNG_GREY_ALPHA:
            return np.ascontiguousarray(pixels[:, :, [0, 3]])
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _as_if_upright(data: bytes, name: str) -> bytes:
    """The TIFF file with orientation 1: OpenCV undoes half of the turns, which differs by version.

    Walks the first directory of the file, entries of 12 bytes: tag, type, count, value.
    """
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    if int.from_bytes(data[2:4], order) != _CLASSIC_TIFF:
        raise UserError(f"{name}: 16-bit BigTIFF files are not supported; convert it to PNG")
    start = int.from_bytes(data[4:8], order)
    for entry in range(int.from_bytes(data[start : start + 2], order)):
        at = start + 2 + 12 * entry
        if int.from_bytes(data[at : at + 2], order) == ORIENTATION_TAG:
            return data[: at + 8] + (1).to_bytes(2, order) + data[at + 10 :]
    return data
